-- The people (and bots) of this node.
CREATE TABLE users (
    user_id       TEXT PRIMARY KEY,
    password_hash TEXT,                         -- argon2id in the PHC string format; NULL: cannot log in by password
    admin         INTEGER NOT NULL DEFAULT 0,
    displayname   TEXT,
    avatar_url    TEXT
) WITHOUT ROWID;

-- Rooms where a member event still shows the old profile of a local user.
CREATE TABLE profile_spreads (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;

CREATE TABLE devices (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT,
    last_seen_ms INTEGER NOT NULL,
    last_seen_ip TEXT NOT NULL,
    keys         TEXT,                          -- the device's identity keys as uploaded, JSON; NULL: none yet
    keys_counted INTEGER NOT NULL DEFAULT 0,    -- position of the last change of its one-time or fallback keys
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

CREATE TABLE access_tokens (
    token_id  INTEGER PRIMARY KEY,
    hash      BLOB NOT NULL UNIQUE,             -- SHA-256 of the token
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL
);
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);

CREATE TABLE account_data (
    user_id  TEXT NOT NULL,
    room_id  TEXT NOT NULL,                     -- '': global
    type     TEXT NOT NULL,
    content  TEXT NOT NULL,                     -- JSON object
    position INTEGER NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
) WITHOUT ROWID;
CREATE INDEX account_data_by_position ON account_data (user_id, position);

CREATE TABLE filters (
    user_id    TEXT NOT NULL,
    filter_id  INTEGER NOT NULL,
    definition TEXT NOT NULL,                   -- JSON object
    PRIMARY KEY (user_id, filter_id)
) WITHOUT ROWID;
