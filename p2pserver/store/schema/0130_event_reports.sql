-- What users of this node reported to who runs it: an event, a room, or a user.
CREATE TABLE event_reports (
    report_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    reporter    TEXT NOT NULL,
    room_id     TEXT,                           -- of an event or a room that is reported
    event_id    TEXT,                           -- of an event that is reported
    user_id     TEXT,                           -- a user that is reported, or who sent the event
    reason      TEXT,
    score       INTEGER                         -- -100 (worst) to 0, from clients that still send one
);
CREATE INDEX event_reports_by_reporter ON event_reports (reporter);
