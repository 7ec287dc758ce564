-- How much of a device's queue came from strangers, that is from servers that share no room with this one.
ALTER TABLE to_device ADD COLUMN octets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE to_device ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0;
CREATE INDEX to_device_sizes ON to_device (user_id, device_id, octets, stranger);
