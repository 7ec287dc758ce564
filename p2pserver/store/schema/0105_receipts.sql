-- How far somebody has read. `kind`: m.read, m.read.private. `thread_id`: '' for the whole room, 'main', or a thread's root.
CREATE TABLE receipts (
    room_id   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    kind      TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    event_id  TEXT NOT NULL,                     -- may not be held yet
    ts        INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id, kind, thread_id)
) WITHOUT ROWID;
CREATE INDEX receipts_by_position ON receipts (position);
CREATE INDEX receipts_by_room ON receipts (room_id, position);
CREATE INDEX receipts_by_user ON receipts (user_id, position);
CREATE INDEX local_memberships_by_position ON local_memberships (user_id, position);
