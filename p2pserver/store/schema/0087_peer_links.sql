-- The links to the nodes that are connected now, side by side, and what goes over each from here.
CREATE TABLE peer_links (
    key     BLOB NOT NULL,
    place   INTEGER NOT NULL,              -- the one that most goes over is 0
    link    TEXT NOT NULL,
    carries TEXT NOT NULL,                 -- classes of messages, separated by spaces
    PRIMARY KEY (key, place)
) WITHOUT ROWID;
