-- The auth graph the other way round: which state events cite an event. Kept for every state event that is held.
CREATE TABLE auth_edges (
    auth_event_id TEXT NOT NULL,
    event_id      TEXT NOT NULL,
    PRIMARY KEY (auth_event_id, event_id)
) WITHOUT ROWID;
INSERT OR IGNORE INTO auth_edges (auth_event_id, event_id)
    SELECT cited.value, e.event_id FROM events AS e, json_each(CAST(e.raw AS TEXT), '$.auth_events') AS cited
    WHERE e.state_key IS NOT NULL AND cited.type = 'text';

-- The place of a state event in the auth graph (meg/auth_index.py). Follows from the event's auth events alone; what is
-- missing here is computed when it is asked for.
CREATE TABLE auth_nodes (
    event_id TEXT PRIMARY KEY,
    level    INTEGER NOT NULL,
    spine    TEXT,
    depth    INTEGER NOT NULL,
    jump     TEXT
) WITHOUT ROWID;
