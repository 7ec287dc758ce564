-- Users (bots, above all) with request rates of their own.
CREATE TABLE rate_overrides (
    user_id    TEXT PRIMARY KEY,
    per_second REAL NOT NULL,                   -- 0: as many as they like
    burst      INTEGER NOT NULL
) WITHOUT ROWID;
