-- What a user of this node shows of himself besides display name and avatar.
CREATE TABLE profile_fields (
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,                       -- JSON of any type
    PRIMARY KEY (user_id, name)
) WITHOUT ROWID;

-- What other nodes answered about their users, to be shown while they are away.
CREATE TABLE profile_cache (
    user_id TEXT PRIMARY KEY,
    profile TEXT NOT NULL,                       -- JSON object
    fetched INTEGER NOT NULL                     -- counts up with each answer stored; the lowest is forgotten first
) WITHOUT ROWID;
CREATE INDEX profile_cache_by_age ON profile_cache (fetched);
