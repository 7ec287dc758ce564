-- The SEC digest of a room, kept event by event. Rows of before have NULL: computed when they are looked at.
ALTER TABLE events ADD COLUMN sec BLOB;                 -- 32 octets, of events whose whole ancestry is held
CREATE INDEX events_without_sec ON events (room_id) WHERE sec IS NULL AND grounded = 1 AND outlier = 0;

ALTER TABLE state_groups ADD COLUMN state_sum BLOB;     -- 256 octets: the sum over the slots of the state

-- Events that are not rejected and that no such event cites: accepted and soft-failed ones.
CREATE TABLE accepted_leaves (
    room_id  TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id)
) WITHOUT ROWID;
INSERT INTO accepted_leaves (room_id, event_id)
    SELECT room_id, event_id FROM events AS e WHERE e.outlier = 0 AND e.verdict != 'rejected'
    AND NOT EXISTS (SELECT 1 FROM event_edges AS x JOIN events AS c ON c.event_id = x.event_id
                    WHERE x.prev_event_id = e.event_id AND c.verdict != 'rejected' AND c.room_id = e.room_id);
