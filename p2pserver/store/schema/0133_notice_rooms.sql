-- Where the node tells a user what its operator has to say.
CREATE TABLE notice_rooms (
    user_id TEXT PRIMARY KEY,
    room_id TEXT NOT NULL
) WITHOUT ROWID;
