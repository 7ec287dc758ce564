-- Other nodes' media that somebody here, or a neighbor, wants: fetched when and where it can be had.
CREATE TABLE media_transfers (
    origin       TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    requested_ms INTEGER NOT NULL,         -- when it was asked for last
    asked        INTEGER NOT NULL,         -- 1: somebody wants it however long it takes
    hops         INTEGER NOT NULL,         -- over how many neighbors it may be looked for
    for_server   TEXT,                     -- the neighbor that wants it; NULL: a user of this node
    manifest     TEXT,                     -- JSON, signed by the origin
    chunks       BLOB,
    state        TEXT NOT NULL,
    source       TEXT,
    octets       INTEGER NOT NULL DEFAULT 0,
    size         INTEGER NOT NULL DEFAULT 0,
    seconds_left INTEGER,
    PRIMARY KEY (origin, media_id)
) WITHOUT ROWID;
