-- Encrypted copies of room keys, which clients keep here for their user's next device. Clients write to the newest.
CREATE TABLE key_backups (
    user_id   TEXT NOT NULL,
    version   INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,                     -- JSON object
    changes   INTEGER NOT NULL DEFAULT 0,        -- of its keys so far: the etag
    PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

-- The newest version that a user ever had: a version is never given twice, and may be deleted twice.
CREATE TABLE key_backup_numbers (
    user_id TEXT PRIMARY KEY,
    newest  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE backed_up_keys (
    user_id             TEXT NOT NULL,
    version             INTEGER NOT NULL,
    room_id             TEXT NOT NULL,
    session_id          TEXT NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count     INTEGER NOT NULL,
    is_verified         INTEGER NOT NULL,
    session_data        TEXT NOT NULL,           -- JSON object
    PRIMARY KEY (user_id, version, room_id, session_id)
) WITHOUT ROWID;
