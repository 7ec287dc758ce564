-- Joins that a client asked for and that no reachable server could answer yet. Tried again when one is met.
CREATE TABLE pending_joins (
    user_id      TEXT NOT NULL,
    room_id      TEXT NOT NULL,
    via          TEXT NOT NULL,                 -- JSON list of servers that may know the room
    content      TEXT NOT NULL,                 -- JSON object: content of the member event
    requested_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
