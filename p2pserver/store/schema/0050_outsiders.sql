-- Events of this hour that servers outside a room brought, and that were kept though they were not accepted.
CREATE TABLE outsider_events (
    room_id TEXT PRIMARY KEY,
    hour    INTEGER NOT NULL,                   -- since 1970
    events  INTEGER NOT NULL,
    octets  INTEGER NOT NULL
) WITHOUT ROWID;
