-- Events of which only the redacted form is held because the content that came did not match its hash.
CREATE INDEX redacted_copies ON events (room_id, event_id)
    WHERE redacted_copy = 1 AND redacted_by IS NULL AND outlier = 0;
