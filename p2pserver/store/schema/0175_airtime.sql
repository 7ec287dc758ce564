-- How much airtime each metered radio has used of late, as the node that runs last wrote it down.
CREATE TABLE airtime (
    radio TEXT PRIMARY KEY,        -- the kind of its transport; "serial 2" for the second one
    saved_ms INTEGER NOT NULL,     -- our wall clock then
    is_whole INTEGER NOT NULL,     -- 1: nothing was sent after it, for the node stopped
    used TEXT NOT NULL             -- JSON: [[age in ms of a minute's end, ms of airtime in it], ...]
) STRICT;
