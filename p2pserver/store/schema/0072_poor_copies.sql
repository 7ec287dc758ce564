-- Redacted copies that another redaction has taken since are not in the index of those to ask for, but may be here.
CREATE INDEX poor_copies ON events (room_id, type, event_id) WHERE redacted_copy = 1 AND outlier = 0;
