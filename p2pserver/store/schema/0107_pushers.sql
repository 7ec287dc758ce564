-- Where the notifications of a user are sent to.
CREATE TABLE pushers (
    user_id   TEXT NOT NULL,
    app_id    TEXT NOT NULL,
    pushkey   TEXT NOT NULL,
    device_id TEXT NOT NULL,                     -- of the session that made it; it ends with that
    content   TEXT NOT NULL,                     -- JSON object, as `GET /pushers` shows it
    set_ms    INTEGER NOT NULL,
    position  INTEGER NOT NULL,                  -- events up to here have been pushed, or need not be
    PRIMARY KEY (user_id, app_id, pushkey)
) WITHOUT ROWID;
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
