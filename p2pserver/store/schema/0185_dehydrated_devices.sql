-- The device that stands in for a user while none of his is logged in; its row in `devices` has no token. One per user.
CREATE TABLE dehydrated_devices (
    user_id     TEXT PRIMARY KEY,
    device_id   TEXT NOT NULL,
    device_data TEXT NOT NULL                    -- JSON object, encrypted by the client
) WITHOUT ROWID;
