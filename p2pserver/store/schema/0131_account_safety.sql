-- What an account may do, besides what its password opens.
ALTER TABLE users ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;     -- 0: made before this was kept
ALTER TABLE users ADD COLUMN user_type TEXT;                            -- as operators' tools name it: 'bot', 'support', ...
ALTER TABLE users ADD COLUMN deactivated INTEGER NOT NULL DEFAULT 0;    -- 1: nobody can log in, and the name is used up
ALTER TABLE users ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;         -- 1: who was not there gets the messages redacted
ALTER TABLE users ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;         -- 1: tokens are refused until it is unlocked
ALTER TABLE users ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;      -- 1: may read and leave
ALTER TABLE users ADD COLUMN shadow_banned INTEGER NOT NULL DEFAULT 0;  -- 1: what it sends is answered and not sent
CREATE INDEX erased_users ON users (user_id) WHERE erased = 1;

-- One row is an access token and the refresh token that was given out with it.
ALTER TABLE access_tokens ADD COLUMN expires_ms INTEGER;                -- wall clock; NULL: never
ALTER TABLE access_tokens ADD COLUMN refresh_hash BLOB;                 -- SHA-256; NULL: it came without
ALTER TABLE access_tokens ADD COLUMN used INTEGER NOT NULL DEFAULT 1;   -- 0: a refresh gave it, and the older ones still hold
CREATE UNIQUE INDEX access_tokens_by_refresh ON access_tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;

-- Tokens for one purpose and a short time: to log in another device once, to prove to a third party who one is.
CREATE TABLE short_lived_tokens (
    hash       BLOB PRIMARY KEY,                -- SHA-256 of the token
    purpose    TEXT NOT NULL CHECK (purpose IN ('login', 'openid')),
    user_id    TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX short_lived_tokens_by_user ON short_lived_tokens (user_id, purpose, expires_ms);

-- Tokens with which strangers may register, besides the one of the settings.
CREATE TABLE registration_tokens (
    token        TEXT PRIMARY KEY,
    uses_allowed INTEGER,                       -- NULL: as many as there come
    completed    INTEGER NOT NULL DEFAULT 0,
    expires_ms   INTEGER                        -- NULL: never
) WITHOUT ROWID;

-- Rooms that the user of a deactivated account is still to leave.
CREATE TABLE departures (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
