-- Keys of networks of shared media. A row stays for ever, without its key when that is not used any more: its counters must
-- never be given out again.
CREATE TABLE network_keys (
    network_id BLOB NOT NULL,
    epoch      INTEGER NOT NULL,
    key_id     BLOB NOT NULL,              -- 8 octets of BLAKE2b of the key
    name       TEXT NOT NULL,
    key        BLOB,                       -- NULL: not used any more, or that of the open network
    used_for   TEXT NOT NULL CHECK (used_for IN ('sending', 'reading', 'nothing')),
    counters   INTEGER NOT NULL DEFAULT 0, -- reserved so far: the next block begins here
    PRIMARY KEY (network_id, epoch, key_id)
) WITHOUT ROWID;
