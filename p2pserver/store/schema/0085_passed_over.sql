-- Rejected (or soft-failed) events over which an event that is not has covered what they cite: never walked over again.
CREATE TABLE passed_over (
    room_id  TEXT NOT NULL,
    ends     TEXT NOT NULL,                             -- of which table: forward_extremities, accepted_leaves
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, ends, event_id)
) WITHOUT ROWID;

-- What earlier versions left behind as an end, though an event that counts leads back to it over others.
WITH RECURSIVE covered (event_id) AS (
    SELECT p.event_id FROM events AS p WHERE p.verdict != 'accepted' AND p.outlier = 0
    AND EXISTS (SELECT 1 FROM event_edges AS x JOIN events AS c ON c.event_id = x.event_id
                WHERE x.prev_event_id = p.event_id AND c.verdict = 'accepted' AND c.room_id = p.room_id)
    UNION
    SELECT p.event_id FROM covered JOIN event_edges AS x ON x.event_id = covered.event_id
    JOIN events AS p ON p.event_id = x.prev_event_id WHERE p.verdict != 'accepted' AND p.outlier = 0
)
DELETE FROM forward_extremities WHERE event_id IN
    (SELECT x.prev_event_id FROM covered JOIN event_edges AS x ON x.event_id = covered.event_id);

WITH RECURSIVE covered (event_id) AS (
    SELECT p.event_id FROM events AS p WHERE p.verdict = 'rejected' AND p.outlier = 0
    AND EXISTS (SELECT 1 FROM event_edges AS x JOIN events AS c ON c.event_id = x.event_id
                WHERE x.prev_event_id = p.event_id AND c.verdict != 'rejected' AND c.room_id = p.room_id)
    UNION
    SELECT p.event_id FROM covered JOIN event_edges AS x ON x.event_id = covered.event_id
    JOIN events AS p ON p.event_id = x.prev_event_id WHERE p.verdict = 'rejected' AND p.outlier = 0
)
DELETE FROM accepted_leaves WHERE event_id IN
    (SELECT x.prev_event_id FROM covered JOIN event_edges AS x ON x.event_id = covered.event_id);
