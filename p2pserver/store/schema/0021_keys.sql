CREATE TABLE one_time_keys (
    number    INTEGER PRIMARY KEY AUTOINCREMENT, -- order of upload, in which keys are handed out
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,                     -- "algorithm:id"
    content   TEXT NOT NULL,                     -- JSON: a string or an object
    UNIQUE (user_id, device_id, key_id)
);
CREATE INDEX one_time_keys_in_order ON one_time_keys (user_id, device_id, algorithm, number);

-- What was handed out, so that a client that repeats an old upload cannot bring it back. The newest of each device.
CREATE TABLE claimed_keys (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    digest    BLOB NOT NULL,                     -- SHA-256 of the content
    UNIQUE (user_id, device_id, key_id)
);

CREATE TABLE fallback_keys (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    content   TEXT NOT NULL,
    used      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;

-- Cross-signing keys of local users.
CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage   TEXT NOT NULL CHECK (usage IN ('master', 'self_signing', 'user_signing')),
    content TEXT NOT NULL,                       -- JSON object with the signatures of its owner
    PRIMARY KEY (user_id, usage)
) WITHOUT ROWID;

-- What local users' user-signing keys say about other people's master keys; shown to the signer alone.
CREATE TABLE user_signatures (
    signer_user_id TEXT NOT NULL,
    target_user_id TEXT NOT NULL,
    target_key_id  TEXT NOT NULL,                -- "ed25519:<master key>"
    key_id         TEXT NOT NULL,                -- of the signer
    signature      TEXT NOT NULL,
    position       INTEGER NOT NULL,             -- tells the signer's other devices to look again
    PRIMARY KEY (signer_user_id, target_user_id, target_key_id, key_id)
) WITHOUT ROWID;

-- When the devices or cross-signing keys of a user, local or remote, last changed as far as is known here.
CREATE TABLE device_list_changes (
    user_id  TEXT PRIMARY KEY,
    position INTEGER NOT NULL                    -- of local users also the stream_id that other servers are told
) WITHOUT ROWID;
CREATE INDEX device_list_changes_by_position ON device_list_changes (position);

-- What other servers answered about their users' keys, to be served while they are away.
CREATE TABLE device_list_cache (
    user_id     TEXT PRIMARY KEY,
    device_keys TEXT NOT NULL,                   -- JSON: {device_id: keys}
    master_key  TEXT,                            -- JSON object
    self_signing_key TEXT,
    stale       INTEGER NOT NULL,                -- 1: the user has changed them since
    fetched     INTEGER NOT NULL                 -- counts up with each answer stored; the lowest is forgotten first
) WITHOUT ROWID;
CREATE INDEX device_list_cache_by_age ON device_list_cache (fetched);

-- Each local device's queue, until its client asks with a token that covers the message.
CREATE TABLE to_device (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position  INTEGER NOT NULL,
    message   TEXT NOT NULL,                     -- JSON: {type, sender, content}
    PRIMARY KEY (user_id, device_id, position)
) WITHOUT ROWID;

-- Message IDs of m.direct_to_device EDUs that have been received, the newest of each origin.
CREATE TABLE to_device_received (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    origin     TEXT NOT NULL,
    message_id TEXT NOT NULL,
    UNIQUE (origin, message_id)
);
