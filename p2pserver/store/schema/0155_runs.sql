-- The runs of this node that its database knows of: one for each start. The newest is the present one.
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run    BLOB NOT NULL,                   -- 4 random octets
    began  INTEGER NOT NULL,                -- stream positions
    ended  INTEGER                          -- NULL: it is the present one; -1: it went on, nobody here knows how far
);

-- Runs under this node's key that its database knows nothing of, as marks tell that peers kept.
CREATE TABLE strange_runs (
    run      BLOB PRIMARY KEY,
    position INTEGER NOT NULL               -- the highest that was seen
) WITHOUT ROWID;

-- How often this node went on without knowing all that it had done: as `node`.`life`, and for each peer the life for which
-- it has told what it knows of our users.
ALTER TABLE peers ADD COLUMN told_life INTEGER NOT NULL DEFAULT 0;
-- The newest mark that the peer gave us to keep.
ALTER TABLE peers ADD COLUMN mark BLOB NOT NULL DEFAULT x'';

-- Rooms in which others know users under this node's name who have no account here (any more).
CREATE TABLE former_rooms (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    via     TEXT NOT NULL,                  -- the server that told it
    PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;

-- Alarms of more kinds, and of the node as a whole (room_id is empty).
ALTER TABLE alarms RENAME TO alarms_before;
CREATE TABLE alarms (
    number   INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order in which they were raised
    room_id  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    about    TEXT NOT NULL,                     -- the peer that says so, or the slot of the state
    details  TEXT NOT NULL,                     -- JSON object
    position INTEGER NOT NULL,                  -- of the stream, when it was last seen
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    times    INTEGER NOT NULL,
    UNIQUE (room_id, kind, about)
);
INSERT INTO alarms SELECT number, room_id, kind, about, details, position, first_ms, last_ms, times FROM alarms_before;
DROP TABLE alarms_before;
