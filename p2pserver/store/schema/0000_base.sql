-- The one stream position: every row that a client or a peer may learn of by a token carries a number from this
-- sequence, in commit order. So a sync token is one integer.
CREATE TABLE stream (position INTEGER NOT NULL);
INSERT INTO stream (position) VALUES (0);

-- What the node knows of itself: server_name, created_ts and the like. The secret key is not here but in its own file.
CREATE TABLE node (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
