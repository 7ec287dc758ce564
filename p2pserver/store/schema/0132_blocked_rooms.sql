-- Rooms that nobody here may join, nor be invited to.
CREATE TABLE blocked_rooms (
    room_id    TEXT PRIMARY KEY,
    blocked_by TEXT NOT NULL,
    blocked_ms INTEGER NOT NULL
) WITHOUT ROWID;
