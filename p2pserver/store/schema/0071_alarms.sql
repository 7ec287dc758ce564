-- What an operator should look at. Bounded for each room; one row for each thing that it is about.
CREATE TABLE alarms (
    number   INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order in which they were raised
    room_id  TEXT NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('diverged', 'state_reset_suspected')),
    about    TEXT NOT NULL,                     -- the peer that says so, or the slot of the state
    details  TEXT NOT NULL,                     -- JSON object
    position INTEGER NOT NULL,                  -- of the stream, when it was last seen
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    times    INTEGER NOT NULL,
    UNIQUE (room_id, kind, about)
);

-- How often an alarm was raised in a room, whether or not its row is still there.
CREATE TABLE alarm_counts (
    room_id TEXT NOT NULL,
    kind    TEXT NOT NULL,
    times   INTEGER NOT NULL,
    PRIMARY KEY (room_id, kind)
) WITHOUT ROWID;

CREATE INDEX events_healing ON events (room_id, position) WHERE type = 'org.matrix.dummy_event';
