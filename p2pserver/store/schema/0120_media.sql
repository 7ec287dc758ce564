-- What users uploaded here, and copies of what was uploaded elsewhere. The octets are in files, by their SHA-256.
CREATE TABLE media_blobs (
    sha256 BLOB PRIMARY KEY,
    size   INTEGER NOT NULL,
    chunks BLOB NOT NULL                   -- 16 octets of the SHA-256 of each chunk, where there are several
) WITHOUT ROWID;

CREATE TABLE media (
    number         INTEGER PRIMARY KEY,
    origin         TEXT NOT NULL,
    media_id       TEXT NOT NULL,
    user_id        TEXT,                   -- who uploaded it, if that was here
    sha256         BLOB,                   -- NULL: an ID was given out, and nothing was uploaded yet
    size           INTEGER NOT NULL DEFAULT 0,
    content_type   TEXT,
    filename       TEXT,
    manifest       TEXT,                   -- JSON, signed by the origin
    created_ms     INTEGER NOT NULL,
    expires_ms     INTEGER,                -- until when it may be uploaded
    read_ms        INTEGER NOT NULL,
    needs_token    INTEGER NOT NULL,       -- 0: the endpoints of old clients, which have no token, serve it as well
    quarantined_by TEXT,
    protected      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (origin, media_id)
);
CREATE INDEX media_by_content ON media (sha256);
CREATE INDEX media_by_user ON media (user_id, created_ms);
CREATE INDEX media_by_use ON media (origin, read_ms);
