-- What can be found by its words: the texts of messages, room names and topics. An edited message is found by its newest
-- text. `number` is the rowid in search_texts.
CREATE TABLE search_entries (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id         TEXT NOT NULL UNIQUE,
    room_id          TEXT NOT NULL,
    key              TEXT NOT NULL,             -- content.body, content.name or content.topic
    origin_server_ts INTEGER NOT NULL
);
CREATE VIRTUAL TABLE search_texts USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');

-- Events whose words are still to be taken into the index, many at a time: each write to it costs as much as the event.
CREATE TABLE search_pending (
    number   INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL
);

-- An event that is deleted takes its words along.
CREATE TRIGGER search_entries_go AFTER DELETE ON events WHEN OLD.type IN ('m.room.message', 'm.room.name', 'm.room.topic')
BEGIN
    DELETE FROM search_texts WHERE rowid = (SELECT number FROM search_entries WHERE event_id = OLD.event_id);
    DELETE FROM search_entries WHERE event_id = OLD.event_id;
END;

INSERT INTO search_entries (event_id, room_id, key, origin_server_ts)
    SELECT event_id, room_id, CASE type WHEN 'm.room.message' THEN 'content.body' WHEN 'm.room.name' THEN 'content.name'
        ELSE 'content.topic' END, origin_server_ts FROM events
    WHERE outlier = 0 AND redacted_copy = 0 AND redacted_by IS NULL AND verdict != 'rejected'
    AND (type = 'm.room.message' AND state_key IS NULL OR type IN ('m.room.name', 'm.room.topic') AND state_key = '')
    AND json_type(CAST(raw AS TEXT), CASE type WHEN 'm.room.message' THEN '$.content.body' WHEN 'm.room.name'
        THEN '$.content.name' ELSE '$.content.topic' END) = 'text'
    AND json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".rel_type') IS NOT 'm.replace'
    ORDER BY position;
INSERT INTO search_texts (rowid, text)
    SELECT number, substr(json_extract(CAST(raw AS TEXT), '$.' || key), 1, 8000)
    FROM search_entries JOIN events USING (event_id);
