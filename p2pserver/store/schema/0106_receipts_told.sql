-- Up to which position another server was told of the receipts of this node's users.
CREATE TABLE receipts_told (
    server   TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
