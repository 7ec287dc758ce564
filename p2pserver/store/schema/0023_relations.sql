-- Which events relate to an event. A redacted event is held in its redacted form, which relates to nothing.
CREATE INDEX events_by_relation ON events (room_id, json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".event_id'))
    WHERE json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".event_id') IS NOT NULL;
