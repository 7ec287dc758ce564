-- A knock of ours on the door of a room that is not held waits where invites are kept; an invite takes its place.
ALTER TABLE invites ADD COLUMN membership TEXT NOT NULL DEFAULT 'invite';
