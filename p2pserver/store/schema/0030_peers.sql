-- Nodes that were met, for the operator and to hold each key to its first name.
CREATE TABLE peers (
    key          BLOB PRIMARY KEY,              -- Ed25519, 32 octets
    server_name  TEXT NOT NULL,
    agent        TEXT NOT NULL,                 -- its software, as it says
    link         TEXT NOT NULL,                 -- over what it was met last, for people: `lan 192.168.1.7:4001`
    connected    INTEGER NOT NULL,              -- 1 while a conversation goes on
    met_ms       INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX peers_by_name ON peers (server_name);
CREATE INDEX peers_by_time ON peers (connected, last_seen_ms);

-- Nodes that may not talk to this one, under whatever name their key has.
CREATE TABLE blocked_servers (
    key BLOB PRIMARY KEY
) WITHOUT ROWID;
