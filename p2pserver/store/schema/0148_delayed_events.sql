-- Events that users of this node want to be sent later, and for a while what became of them.
CREATE TABLE delayed_events (
    delay_id       TEXT PRIMARY KEY,
    user_id        TEXT NOT NULL,
    device_id      TEXT NOT NULL,
    room_id        TEXT NOT NULL,
    type           TEXT NOT NULL,
    state_key      TEXT,
    content        TEXT NOT NULL,                -- JSON object
    delay_ms       INTEGER NOT NULL,
    since_ms       INTEGER NOT NULL,             -- when it was scheduled, or last restarted
    since_position INTEGER NOT NULL,             -- the stream position when it was scheduled
    txn_path       TEXT,                         -- of the request, in client_transactions
    finalised_ms   INTEGER,                      -- when it was sent, given up or cancelled; NULL: it waits
    event_id       TEXT,                         -- what was sent
    error          TEXT                          -- JSON object: why it could not be sent
) WITHOUT ROWID;
CREATE INDEX delayed_events_due ON delayed_events (since_ms + delay_ms) WHERE finalised_ms IS NULL;
CREATE INDEX delayed_events_by_user ON delayed_events (user_id, since_ms);
