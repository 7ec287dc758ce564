CREATE TABLE rooms (
    room_id         TEXT PRIMARY KEY,
    version         TEXT NOT NULL,
    create_event_id TEXT NOT NULL,
    complete        INTEGER NOT NULL,           -- 1: every ancestor of every event is held, back to create
    published       INTEGER NOT NULL DEFAULT 0, -- listed in this node's public rooms
    current_group   INTEGER,                    -- state group that equals current_state
    history_next    INTEGER NOT NULL DEFAULT 0  -- the next (negative) position for history that comes by backfill
) WITHOUT ROWID;

-- Every event held: those with a place in the graph, and outliers (known only as auth events or as claimed state).
CREATE TABLE events (
    event_id         TEXT PRIMARY KEY,
    room_id          TEXT NOT NULL,
    position         INTEGER NOT NULL,          -- order of arrival, from the stream; negative: history that came by backfill
    depth            INTEGER NOT NULL,          -- computed here, 1 + the greatest of the parents; never the claimed one
    type             TEXT NOT NULL,
    state_key        TEXT,
    sender           TEXT NOT NULL,
    origin_server_ts INTEGER NOT NULL,
    verdict          TEXT NOT NULL CHECK (verdict IN ('accepted', 'soft_failed', 'rejected')),
    reason           TEXT,                      -- why it was rejected or soft-failed
    outlier          INTEGER NOT NULL,          -- 1: no place in the graph (yet), verdict is by its auth events alone
    grounded         INTEGER NOT NULL,          -- 1: its whole ancestry is held, so nothing that was claimed decided on it
    redacted_copy    INTEGER NOT NULL,          -- 1: the content hash did not match; only the redacted form is held
    redacted_by      TEXT,                      -- the redaction that was applied; raw is then the redacted form
    state_before     INTEGER,                   -- state groups; NULL for outliers
    state_after      INTEGER,
    raw              BLOB NOT NULL              -- federation form, JSON
);
CREATE UNIQUE INDEX events_by_position ON events (room_id, position);
CREATE INDEX events_by_depth ON events (room_id, depth, position) WHERE outlier = 0;
CREATE INDEX events_ungrounded ON events (room_id) WHERE grounded = 0;
CREATE INDEX events_by_member ON events (room_id, state_key) WHERE type = 'm.room.member' AND outlier = 0;
CREATE INDEX events_in_stream ON events (position) WHERE outlier = 0 AND verdict = 'accepted';

CREATE TABLE event_edges (
    event_id      TEXT NOT NULL,
    prev_event_id TEXT NOT NULL,
    PRIMARY KEY (event_id, prev_event_id)
) WITHOUT ROWID;
CREATE INDEX event_edges_by_prev ON event_edges (prev_event_id);

-- What the next event of ours cites: accepted events that no accepted event cites. Soft-failed ones are never here.
CREATE TABLE forward_extremities (
    room_id  TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id)
) WITHOUT ROWID;

-- All leaves of the graph, soft-failed and rejected included: what two nodes compare.
CREATE TABLE leaves (
    room_id  TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, event_id)
) WITHOUT ROWID;

CREATE TABLE state_groups (
    group_id   INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: caches go by it
    room_id    TEXT NOT NULL,
    prev_group INTEGER,                         -- entries are a delta on this one; NULL: a full map
    hops       INTEGER NOT NULL                 -- length of the chain of deltas
);
CREATE TABLE state_group_entries (
    group_id  INTEGER NOT NULL,
    type      TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_id  TEXT,                             -- NULL: the delta removes the slot
    PRIMARY KEY (group_id, type, state_key)
) WITHOUT ROWID;

-- Operational current state: the resolution over the forward extremities.
CREATE TABLE current_state (
    room_id    TEXT NOT NULL,
    type       TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    membership TEXT,                            -- of m.room.member events
    PRIMARY KEY (room_id, type, state_key)
) WITHOUT ROWID;
CREATE INDEX current_members ON current_state (state_key, membership) WHERE type = 'm.room.member';
CREATE TABLE current_state_deltas (
    position          INTEGER NOT NULL,
    room_id           TEXT NOT NULL,
    type              TEXT NOT NULL,
    state_key         TEXT NOT NULL,
    event_id          TEXT,                     -- NULL: the slot is gone
    previous_event_id TEXT
);
CREATE INDEX current_state_deltas_by_room ON current_state_deltas (room_id, position);
CREATE INDEX current_state_deltas_by_position ON current_state_deltas (position);

-- Servers by their members in the current state. A server that was in the room at some time keeps its row.
CREATE TABLE member_servers (
    room_id TEXT NOT NULL,
    server  TEXT NOT NULL,
    joined  INTEGER NOT NULL,                   -- how many of its users are joined
    invited INTEGER NOT NULL,
    was_in  INTEGER NOT NULL,                   -- 1: a user of it is or was joined
    PRIMARY KEY (room_id, server)
) WITHOUT ROWID;
CREATE INDEX member_servers_by_server ON member_servers (server);

-- The rooms of this node's own users, invites included, whether or not the room itself is held.
CREATE TABLE local_memberships (
    user_id    TEXT NOT NULL,
    room_id    TEXT NOT NULL,
    membership TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    sender     TEXT NOT NULL,
    position   INTEGER NOT NULL,                -- when it became so
    forgotten  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
CREATE INDEX local_memberships_by_room ON local_memberships (room_id, membership);

-- Invites (and the leave events that refuse them) that arrived from another server for a room that is not held here.
CREATE TABLE invites (
    room_id      TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    inviter      TEXT NOT NULL,
    version      TEXT NOT NULL,
    raw          BLOB NOT NULL,                 -- the invite PDU
    room_state   BLOB NOT NULL,                 -- JSON list of the room-state PDUs that came with it
    via          TEXT NOT NULL,                 -- server that delivered it
    received_ms  INTEGER NOT NULL,
    leave_event_id TEXT,                        -- what ended it, while the room is not held: its own leave, or a kick
    leave_raw      BLOB,
    PRIMARY KEY (room_id, user_id)
) WITHOUT ROWID;
CREATE INDEX invites_by_leave ON invites (leave_event_id) WHERE leave_event_id IS NOT NULL;

-- Events with a parent that is not held. Bounded; they are applied when the parents are.
CREATE TABLE parked_pdus (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,   -- order of arrival
    event_id      TEXT NOT NULL UNIQUE,
    room_id       TEXT NOT NULL,
    source        TEXT NOT NULL,                -- the server that brought it
    parked_ms     INTEGER NOT NULL,
    redacted_copy INTEGER NOT NULL,
    octets        INTEGER NOT NULL,
    raw           BLOB NOT NULL
);
CREATE INDEX parked_pdus_by_room ON parked_pdus (room_id, source, number);
CREATE TABLE parked_waits (
    missing_event_id TEXT NOT NULL,
    event_id         TEXT NOT NULL,
    PRIMARY KEY (missing_event_id, event_id)
) WITHOUT ROWID;
CREATE INDEX parked_waits_by_event ON parked_waits (event_id);
-- Who was asked in vain for an event that is waited for.
CREATE TABLE missing_contacts (
    room_id          TEXT NOT NULL,
    missing_event_id TEXT NOT NULL,
    source           TEXT NOT NULL,
    PRIMARY KEY (room_id, missing_event_id, source)
) WITHOUT ROWID;

-- Backward extremities: events that are cited and not held. A claim stands in for the state after them. A row without
-- claimed_group is an event that is held as an outlier only, was used as an auth event, and is still to find its place.
CREATE TABLE gaps (
    room_id          TEXT NOT NULL,
    missing_event_id TEXT NOT NULL,
    claimed_group    INTEGER,                    -- state after the missing event, as claimed
    claimed_by       TEXT,
    depth            INTEGER NOT NULL,           -- of the missing event, as claimed
    history          INTEGER NOT NULL,           -- 1: what we did not see before we joined; 0: what should have come
    recorded_ms      INTEGER NOT NULL,
    recorded_at      INTEGER NOT NULL,           -- stream position
    PRIMARY KEY (room_id, missing_event_id)
) WITHOUT ROWID;

CREATE TABLE redactions (
    target_event_id    TEXT NOT NULL,
    redaction_event_id TEXT NOT NULL,
    room_id            TEXT NOT NULL,
    applied            INTEGER NOT NULL,        -- 0: held back from clients until the target is here and it is allowed
    PRIMARY KEY (target_event_id, redaction_event_id)
) WITHOUT ROWID;
CREATE INDEX redactions_by_redaction ON redactions (redaction_event_id);

CREATE TABLE aliases (
    alias   TEXT PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX aliases_by_room ON aliases (room_id);

-- What is owed to another server, in order. Written in the same commit as what it tells of; removed when that server
-- says that it holds it durably.
CREATE TABLE outbox (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('pdu', 'edu', 'invite')),
    room_id     TEXT,
    event_id    TEXT,                           -- of a pdu
    payload     BLOB,                           -- JSON of an edu {edu_type, content}, an invite, or a pdu that is not in events
    queued_at   INTEGER NOT NULL                -- stream position
);
CREATE INDEX outbox_by_destination ON outbox (destination, number);
CREATE INDEX outbox_by_event ON outbox (event_id, destination) WHERE event_id IS NOT NULL;

-- One number for each transaction of a client: the answer that a repeat gets.
CREATE TABLE client_transactions (
    user_id     TEXT NOT NULL,
    device_id   TEXT NOT NULL,
    path        TEXT NOT NULL,
    response    TEXT NOT NULL,                  -- JSON
    event_id    TEXT,
    done_ms     INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, path)
) WITHOUT ROWID;
CREATE INDEX client_transactions_by_event ON client_transactions (event_id) WHERE event_id IS NOT NULL;
