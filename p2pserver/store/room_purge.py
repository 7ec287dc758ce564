"""Deleting a room, or the content of its old messages, from this node's own copy.

Other nodes keep theirs. What is owed to them (that our users have left, above all) stays in the outbox, with the event
itself, and users find in `/sync` how it ended.
"""

from __future__ import annotations

from p2pserver.events.redaction import redact
from p2pserver.meg.auth_content import redaction_takes_permissions
from p2pserver.store import events
from p2pserver.store.events import HEALING_TYPE, PURGED
from p2pserver.store.search_index import forget
from p2pserver.store.tx import Tx

_KEPT = ("backed_up_keys", "blocked_rooms", "event_reports", "invites", "local_memberships", "outbox")
"""Tables with a `room_id` whose rows are not of this copy of the room, or are dealt with here."""
_BY_EVENT = ("event_edges", "auth_edges", "auth_nodes")


def purge_room(tx: Tx, room_id: str, *, via: str, now_ms: int) -> None:
    """Deletes everything that is held of a room, after its local users have left. `via` is this node's name."""
    _keep_what_is_owed(tx, room_id)
    _keep_ends(tx, room_id, via=via, now_ms=now_ms)
    for table in _BY_EVENT:
        tx.execute(f"DELETE FROM {table} WHERE event_id IN (SELECT event_id FROM events WHERE room_id = ?)", (room_id,))
    tx.execute(
        "DELETE FROM state_group_entries WHERE group_id IN (SELECT group_id FROM state_groups WHERE room_id = ?)",
        (room_id,),
    )
    tx.execute(
        "DELETE FROM parked_waits WHERE event_id IN (SELECT event_id FROM parked_pdus WHERE room_id = ?)", (room_id,)
    )
    for table in _tables_by_room(tx):
        tx.execute(f"DELETE FROM {table} WHERE room_id = ?", (room_id,))
    tx.caches.clear()


def _tables_by_room(tx: Tx) -> list[str]:
    rows = tx.all(
        "SELECT m.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND c.name = 'room_id' ORDER BY m.name"
    )
    return [name for (name,) in rows if name not in _KEPT]


def _keep_what_is_owed(tx: Tx, room_id: str) -> None:
    tx.execute(
        "UPDATE outbox SET payload = (SELECT raw FROM events WHERE events.event_id = outbox.event_id)"
        " WHERE room_id = ? AND kind = 'pdu' AND payload IS NULL",
        (room_id,),
    )
    tx.execute("DELETE FROM outbox WHERE room_id = ? AND kind = 'pdu' AND payload IS NULL", (room_id,))


def _keep_ends(tx: Tx, room_id: str, *, via: str, now_ms: int) -> None:
    """The event by which each local user is out of the room, where refused invites to rooms not held are kept.

    Who could not be made to leave is forgotten: there is no room any more that he could be in.
    """
    tx.execute("DELETE FROM invites WHERE room_id = ?", (room_id,))
    tx.execute(
        "DELETE FROM local_memberships WHERE room_id = ? AND NOT (membership IN ('leave', 'ban')"
        " AND event_id IN (SELECT event_id FROM events WHERE room_id = ?))",
        (room_id, room_id),
    )
    tx.execute(
        "INSERT INTO invites (room_id, user_id, inviter, version, raw, room_state, via, received_ms, leave_event_id,"
        " leave_raw) SELECT m.room_id, m.user_id, m.sender, r.version, e.raw, CAST('[]' AS BLOB), ?, ?, m.event_id,"
        " e.raw FROM local_memberships AS m JOIN rooms AS r ON r.room_id = m.room_id"
        " JOIN events AS e ON e.event_id = m.event_id WHERE m.room_id = ?",
        (via, now_ms, room_id),
    )


def purge_messages(
    tx: Tx,
    room_id: str,
    *,
    before_position: int | None,
    before_ts: int | None,
    keep_of_server: str | None,
    most: int,
) -> int:
    """Takes the content of the oldest messages that still have it, at most `most`; returns how many there were.

    Before a position of the stream, or by `origin_server_ts` (ms). State events, redactions and what auth rules read
    stay whole, and of every event its place in the graph, its hashes and its signatures: the room stays as complete as
    it was, with the same digest. `keep_of_server`: its messages stay too.
    """
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND state_key IS NULL AND outlier = 0 AND redacted_by IS NOT ?"
        f" AND type NOT IN ('m.room.redaction', '{HEALING_TYPE}') AND (? IS NULL OR position < ?)"
        " AND (? IS NULL OR origin_server_ts < ?) AND (? IS NULL OR sender NOT LIKE '%:' || ?)"
        " ORDER BY position LIMIT ?",
        (
            room_id,
            PURGED,
            before_position,
            before_position,
            before_ts,
            before_ts,
            keep_of_server,
            keep_of_server,
            most,
        ),
    )
    for (event_id,) in rows:
        event = events.pdu(tx, event_id)
        if event is not None:
            raw = None if redaction_takes_permissions(event) else redact(event.raw, event.rules)
            events.set_redacted(tx, event_id, PURGED, raw)
            forget(tx, event_id, event.type, event.content)
    return len(rows)
