"""The `events` table and the graph around it: edges, leaves, forward extremities."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.redaction import redact
from p2pserver.events.versions import rules_of
from p2pserver.identifiers import server_of
from p2pserver.meg.auth_content import READ, redaction_takes_permissions
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx, chunks, marks

PURGED: Final = "purged"
"""In the place of the redaction that took an event's content: an operator did, and nobody is shown the event."""
HEALING_TYPE: Final = "org.matrix.dummy_event"
"""Events that only join branches; clients are shown none of them. Source: Synapse, `EventTypes.Dummy`."""

CACHED_STATE_OCTETS_MAX = 8_000_000
"""JSON of the parsed state events that are kept, `PDU_OCTETS_MORE` added for each; parsed it takes some times that."""
CACHED_MESSAGE_OCTETS_MAX = 2_000_000
"""The same of other events: the auth rules and state resolution never look at them."""
PDU_OCTETS_MORE = 1000
RESOLUTION_NOTES = "resolution_notes"
"""In the caches of a connection: what resolutions concluded from verdicts, to be forgotten when one changes."""
_VERDICTS = {verdict.value: verdict for verdict in Verdict}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as it is held.

    `position` is negative for history that came by backfill; `depth` is computed here. An outlier has no place in the
    graph and no state groups. `grounded` says that its whole ancestry is held. Where `redacted_by` is set, the event
    of the Pdu is the redacted form.
    """

    pdu: Pdu
    position: int
    depth: int
    verdict: Verdict
    reason: str | None
    outlier: bool
    grounded: bool
    redacted_by: str | None
    state_before: int | None
    state_after: int | None


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What judging another event needs to know of one that is held."""

    room_id: str
    outlier: bool
    grounded: bool
    rejected: bool
    depth: int
    position: int
    state_after: int | None


def pdu(tx: Tx, event_id: str) -> Pdu | None:
    if tx.told:
        states, messages = _caches(tx)
        known = states.get(event_id) or messages.get(event_id)
        if known is not None:
            return known[1]
    row = tx.one("SELECT redacted_copy, redacted_by FROM events WHERE event_id = ?", (event_id,))
    return None if row is None else _held(tx, event_id, row)


def _held(tx: Tx, event_id: str, row: tuple[Any, ...]) -> Pdu | None:
    """The event whose row says (redacted_copy, redacted_by)."""
    states, messages = _caches(tx)
    known = states.get(event_id) or messages.get(event_id)
    if known is not None and known[0] == row:
        return known[1]
    held = tx.one(
        "SELECT e.raw, r.version FROM events AS e JOIN rooms AS r ON r.room_id = e.room_id WHERE e.event_id = ?",
        (event_id,),
    )
    if held is None:
        return None
    found = _load(event_id, held[0], held[1], redacted_copy=bool(row[0]))
    _keep(tx, row, found, len(held[0]))
    return found


def shown(tx: Tx, event_id: str) -> Pdu | None:
    """An event as clients and other servers get it: the redacted form once it is redacted.

    `pdu` differs for events that the auth rules still read in full (`redaction_takes_permissions`).
    """
    found = pdu(tx, event_id)
    if found is None or not redaction_takes_permissions(found):
        return found
    row = tx.one("SELECT 1 FROM events WHERE event_id = ? AND redacted_by IS NOT NULL", (event_id,))
    return found if row is None else _redacted(found)


def _redacted(event: Pdu) -> Pdu:
    return load_pdu(redact(event.raw, event.rules), event.rules, event_id=event.event_id)


def stored(tx: Tx, event_id: str) -> StoredEvent | None:
    row = tx.one(
        "SELECT redacted_copy, redacted_by, position, depth, verdict, reason, outlier, grounded, state_before,"
        " state_after FROM events WHERE event_id = ?",
        (event_id,),
    )
    if row is None:
        return None
    found = _held(tx, event_id, row[:2])
    if found is None:
        return None
    _, redacted_by, position, depth, verdict, reason, outlier, grounded, state_before, state_after = row
    if redacted_by is not None and redaction_takes_permissions(found):
        found = _redacted(found)
    return StoredEvent(
        pdu=found,
        position=position,
        depth=depth,
        verdict=_VERDICTS[verdict],
        reason=reason,
        outlier=bool(outlier),
        grounded=bool(grounded),
        redacted_by=redacted_by,
        state_before=state_before,
        state_after=state_after,
    )


def is_rejected(tx: Tx, event_id: str) -> bool:
    return tx.one("SELECT 1 FROM events WHERE event_id = ? AND verdict = 'rejected'", (event_id,)) is not None


def facts(tx: Tx, event_ids: Collection[str]) -> dict[str, EventFacts]:
    """What is known of those of the events that are held."""
    found: dict[str, EventFacts] = {}
    for some in chunks(event_ids):
        for event_id, room_id, outlier, grounded, verdict, depth, position, state_after in tx.execute(
            "SELECT event_id, room_id, outlier, grounded, verdict, depth, position, state_after FROM events"
            f" WHERE event_id IN ({marks(some)})",
            some,
        ):
            found[event_id] = EventFacts(
                room_id, bool(outlier), bool(grounded), verdict == "rejected", depth, position, state_after
            )
    return found


def insert(
    tx: Tx,
    event: Pdu,
    *,
    position: int,
    depth: int,
    verdict: Verdict,
    reason: str | None,
    outlier: bool,
    grounded: bool,
    state_before: int | None,
    state_after: int | None,
    sec: bytes | None = None,
) -> None:
    """Keeps an event, or gives one that was held as an outlier its place in the graph."""
    if event.is_state and tx.one("SELECT 1 FROM events WHERE event_id = ?", (event.event_id,)) is not None:
        tx.caches.pop(RESOLUTION_NOTES, None)
    raw = encode_raw(event.raw)
    tx.execute(
        "INSERT INTO events (event_id, room_id, position, depth, type, state_key, sender, origin_server_ts, verdict,"
        " reason, outlier, grounded, redacted_copy, state_before, state_after, raw, sec)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (event_id) DO UPDATE SET position = excluded.position, depth = excluded.depth,"
        " verdict = excluded.verdict, reason = excluded.reason, outlier = excluded.outlier,"
        " grounded = excluded.grounded, redacted_copy = excluded.redacted_copy,"
        " state_before = excluded.state_before, state_after = excluded.state_after, raw = excluded.raw,"
        " sec = excluded.sec",
        (
            event.event_id,
            event.room_id,
            position,
            depth,
            event.type,
            event.state_key,
            event.sender,
            event.origin_server_ts,
            verdict.value,
            reason,
            int(outlier),
            int(grounded),
            int(event.redacted_copy),
            state_before,
            state_after,
            raw,
            sec,
        ),
    )
    _keep(tx, (int(event.redacted_copy), None), event, len(raw))


def rejudge(
    tx: Tx,
    event_id: str,
    *,
    depth: int,
    verdict: Verdict,
    reason: str | None,
    grounded: bool,
    state_before: int,
    state_after: int,
    sec: bytes | None,
) -> None:
    """Replaces what was decided on the ground of a claim."""
    tx.caches.pop(RESOLUTION_NOTES, None)
    tx.execute(
        "UPDATE events SET depth = ?, verdict = ?, reason = ?, grounded = ?, state_before = ?, state_after = ?,"
        " sec = ? WHERE event_id = ?",
        (depth, verdict.value, reason, int(grounded), state_before, state_after, sec, event_id),
    )


def replace_copy(tx: Tx, event: Pdu) -> None:
    """Puts another copy of the same event in the place of the one that is held."""
    tx.execute(
        "UPDATE events SET raw = ?, redacted_copy = ? WHERE event_id = ?",
        (encode_raw(event.raw), int(event.redacted_copy), event.event_id),
    )
    _forget(tx, event.event_id)


def redacted_by(tx: Tx, event_id: str) -> str | None:
    row = tx.one("SELECT redacted_by FROM events WHERE event_id = ?", (event_id,))
    return None if row is None else row[0]


def set_redacted(tx: Tx, event_id: str, redacted_by: str | None, redacted: Mapping[str, Any] | None) -> None:
    """Notes which redaction took an event's content, and keeps only the redacted form."""
    if redacted is None:
        tx.execute("UPDATE events SET redacted_by = ? WHERE event_id = ?", (redacted_by, event_id))
    else:
        tx.execute(
            "UPDATE events SET redacted_by = ?, raw = ? WHERE event_id = ?",
            (redacted_by, encode_raw(redacted), event_id),
        )
    _forget(tx, event_id)


def mark_redacted_copy(tx: Tx, event_id: str) -> None:
    """Only the redacted form is held, so that a genuine copy is welcome."""
    tx.execute("UPDATE events SET redacted_copy = 1 WHERE event_id = ?", (event_id,))
    _forget(tx, event_id)


def has_redacted_copies(tx: Tx, room_id: str) -> bool:
    """Whether there is an event of the graph of which a genuine copy never came.

    Without the name of the index SQLite takes one over all events of the room.
    """
    sql = "SELECT 1 FROM events INDEXED BY poor_copies WHERE room_id = ? AND redacted_copy = 1 AND outlier = 0 LIMIT 1"
    return tx.one(sql, (room_id,)) is not None


def redacted_copies(tx: Tx, room_id: str, *, start: str, most: int) -> list[str]:
    """Events of the graph of which a genuine copy never came, in the order of their IDs, from `start` on and around."""
    sql = (
        "SELECT event_id FROM events WHERE room_id = ? AND redacted_copy = 1 AND redacted_by IS NULL AND outlier = 0"
        " AND event_id {} ? ORDER BY event_id LIMIT ?"
    )
    found = [event_id for (event_id,) in tx.execute(sql.format(">="), (room_id, start, most))]
    if len(found) < most:
        found += [event_id for (event_id,) in tx.execute(sql.format("<"), (room_id, start, most - len(found)))]
    return found


_POOR_PERMISSIONS: Final = (
    "FROM events WHERE room_id = ? AND redacted_copy = 1 AND outlier = 0 AND type IN ("
    + ",".join(f"'{event_type}'" for event_type in (*READ, "m.room.redaction"))
    + ")"
)


def has_poor_permissions(tx: Tx, room_id: str) -> bool:
    """Whether a genuine copy of an event of a type that the auth rules read never came."""
    return tx.one(f"SELECT 1 {_POOR_PERMISSIONS} LIMIT 1", (room_id,)) is not None


def poor_permissions(tx: Tx, room_id: str, *, most: int) -> list[Pdu]:
    """Events of the graph of types that the auth rules read, of which a genuine copy never came, by their IDs."""
    rows = tx.all(f"SELECT event_id {_POOR_PERMISSIONS} ORDER BY event_id LIMIT ?", (room_id, most))
    found = (pdu(tx, event_id) for (event_id,) in rows)
    return [event for event in found if event is not None]


def unground(tx: Tx, event_ids: Iterable[str]) -> None:
    """These are to be judged again, as if a claim had had a part in their verdict."""
    tx.many("UPDATE events SET grounded = 0, sec = NULL WHERE event_id = ?", [(each,) for each in event_ids])


def set_position(tx: Tx, event_id: str, position: int) -> None:
    tx.execute("UPDATE events SET position = ? WHERE event_id = ?", (position, event_id))


def set_verdict(tx: Tx, event_id: str, verdict: Verdict, reason: str | None) -> None:
    tx.caches.pop(RESOLUTION_NOTES, None)
    tx.execute("UPDATE events SET verdict = ?, reason = ? WHERE event_id = ?", (verdict.value, reason, event_id))


def drop_outliers(tx: Tx, room_id: str) -> None:
    """The room is complete: what has found no place in its graph was claimed and never proved."""
    tx.caches.pop(RESOLUTION_NOTES, None)
    tx.caches.pop("pdus", None)
    tx.execute("DELETE FROM events WHERE room_id = ? AND outlier = 1", (room_id,))


def accepted_between(tx: Tx, room_id: str, start: int, end: int) -> list[str]:
    """The accepted events of the graph with start <= position < end, in that order."""
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND position >= ? AND position < ? AND outlier = 0"
        " AND verdict = 'accepted' ORDER BY position",
        (room_id, start, end),
    )
    return [event_id for (event_id,) in rows]


def newest(tx: Tx, room_id: str, *, most: int) -> list[str]:
    """The events of the graph that came last."""
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0 ORDER BY position DESC LIMIT ?", (room_id, most)
    )
    return [event_id for (event_id,) in rows]


def live_events(tx: Tx, room_id: str) -> list[str]:
    """The events of the graph that did not come as history of a join."""
    rows = tx.all("SELECT event_id FROM events WHERE room_id = ? AND position > 0 AND outlier = 0", (room_id,))
    return [event_id for (event_id,) in rows]


# What is kept of the SEC digest.


def secs(tx: Tx, room_id: str, event_ids: Collection[str]) -> dict[str, bytes | None]:
    """The `sec` of those of the events that have a place in the room's graph; None where it is not known (yet).

    The plus keeps SQLite from reading the whole room by an index over `room_id`, which it prefers from three events on.
    """
    found: dict[str, bytes | None] = {}
    for some in chunks(event_ids):
        rows = tx.all(
            f"SELECT event_id, sec FROM events WHERE event_id IN ({marks(some)}) AND +room_id = ? AND outlier = 0",
            (*some, room_id),
        )
        found.update(rows)
    return found


def set_secs(tx: Tx, by_event: Mapping[str, bytes]) -> None:
    tx.many("UPDATE events SET sec = ? WHERE event_id = ?", [(sec, event_id) for event_id, sec in by_event.items()])


def encode_raw(raw: Mapping[str, Any]) -> bytes:
    return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode()


# The graph.


def insert_edges(tx: Tx, event: Pdu) -> None:
    tx.many(
        "INSERT OR IGNORE INTO event_edges (event_id, prev_event_id) VALUES (?, ?)",
        [(event.event_id, prev) for prev in event.prev_events],
    )


def newest_of_server(tx: Tx, event_ids: Collection[str], server: str) -> str | None:
    """Of some events, the one of this server that came last."""
    newest: tuple[int, str] | None = None
    for some in chunks(event_ids):
        for event_id, position, sender in tx.execute(
            f"SELECT event_id, position, sender FROM events WHERE event_id IN ({marks(some)})", some
        ):
            if server_of(sender) == server and (newest is None or position > newest[0]):
                newest = (position, event_id)
    return None if newest is None else newest[1]


def _load(event_id: str, raw: bytes, version: str, *, redacted_copy: bool) -> Pdu:
    return load_pdu(json.loads(str(raw, "utf-8")), rules_of(version), redacted_copy=redacted_copy, event_id=event_id)


_Parsed = Lru[str, tuple[tuple[Any, ...], Pdu, int]]


def _caches(tx: Tx) -> tuple[_Parsed, _Parsed]:
    """Parsed events by ID, with (redacted_copy, redacted_by) at that time: a reader's cache is not told of changes.

    With each the octets of its JSON. The first holds state events, the second all others.
    """
    caches: tuple[_Parsed, _Parsed] | None = tx.caches.get("pdus")
    if caches is None:
        caches = tx.caches["pdus"] = (
            Lru(CACHED_STATE_OCTETS_MAX, _octets_kept),
            Lru(CACHED_MESSAGE_OCTETS_MAX, _octets_kept),
        )
    return caches


def _octets_kept(kept: tuple[tuple[Any, ...], Pdu, int]) -> int:
    return kept[2] + PDU_OCTETS_MORE


def _keep(tx: Tx, row: tuple[Any, ...], event: Pdu, octets: int) -> None:
    states, messages = _caches(tx)
    (states if event.is_state else messages).put(event.event_id, (row, event, octets))


def _forget(tx: Tx, event_id: str) -> None:
    for cache in _caches(tx):
        cache.drop(event_id)
