-- How far each application service has come, by the ID in its registration, and the transaction that is under way.
CREATE TABLE app_services (
    service_id TEXT PRIMARY KEY,
    position   INTEGER NOT NULL,                 -- everything up to here has been delivered, or need not be
    txn_id     TEXT,                             -- of the transaction that is not acknowledged yet; NULL: there is none
    reached    INTEGER,                          -- the position that it leads to
    body       BLOB                              -- JSON, as it is sent until it is acknowledged
) WITHOUT ROWID;

-- The rooms that services list in the directories of their networks.
CREATE TABLE app_service_rooms (
    service_id TEXT NOT NULL,
    network_id TEXT NOT NULL,
    room_id    TEXT NOT NULL,
    PRIMARY KEY (service_id, network_id, room_id)
) WITHOUT ROWID;

ALTER TABLE users ADD COLUMN app_service TEXT;   -- the service that registered the user; NULL: he did it himself
CREATE INDEX to_device_by_position ON to_device (position);
