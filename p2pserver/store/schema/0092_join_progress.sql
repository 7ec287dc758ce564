-- How far the answer to a pending join has come, for whoever waits for it. NULL: nothing has arrived yet.
ALTER TABLE pending_joins ADD COLUMN source TEXT;          -- the server that answers
ALTER TABLE pending_joins ADD COLUMN octets INTEGER;       -- of its answer that are here
ALTER TABLE pending_joins ADD COLUMN octets_all INTEGER;   -- that it has, as that server says
ALTER TABLE pending_joins ADD COLUMN seconds_left INTEGER; -- at the rate measured so far
