"""Events that wait for others, and the gaps below a join of ours, where a claim stands in for the history."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.store.events import encode_raw
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedPdu:
    pdu: Pdu
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An event that is cited and not held. `claimed_group` is the state after it, as `claimed_by` says."""

    missing_event_id: str
    claimed_group: int | None
    claimed_by: str | None
    depth: int
    history: bool
    recorded_at: int


def park(tx: Tx, event: Pdu, *, source: str, missing: Collection[str], now_ms: int) -> None:
    """Keeps an event until what it misses is here. A genuine copy takes the place of a redacted one."""
    raw = encode_raw(event.raw)
    tx.execute(
        "INSERT INTO parked_pdus (event_id, room_id, source, parked_ms, redacted_copy, octets, raw)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO UPDATE SET raw = excluded.raw,"
        " octets = excluded.octets, redacted_copy = excluded.redacted_copy"
        " WHERE excluded.redacted_copy < parked_pdus.redacted_copy",
        (event.event_id, event.room_id, source, now_ms, int(event.redacted_copy), len(raw), raw),
    )
    tx.execute("DELETE FROM parked_waits WHERE event_id = ?", (event.event_id,))
    tx.many(
        "INSERT INTO parked_waits (missing_event_id, event_id) VALUES (?, ?)",
        [(missing_id, event.event_id) for missing_id in missing],
    )


def parked(tx: Tx, event_id: str, rules: RoomVersionRules) -> ParkedPdu | None:
    row = tx.one("SELECT source, redacted_copy, raw FROM parked_pdus WHERE event_id = ?", (event_id,))
    if row is None:
        return None
    source, redacted_copy, raw = row
    return ParkedPdu(
        pdu=load_pdu(json.loads(raw), rules, redacted_copy=bool(redacted_copy), event_id=event_id), source=source
    )


def is_parked(tx: Tx, event_id: str) -> bool:
    return tx.one("SELECT 1 FROM parked_pdus WHERE event_id = ?", (event_id,)) is not None


def unpark(tx: Tx, event_id: str) -> None:
    tx.execute("DELETE FROM parked_pdus WHERE event_id = ?", (event_id,))
    tx.execute("DELETE FROM parked_waits WHERE event_id = ?", (event_id,))


def settle(tx: Tx, missing_event_id: str) -> list[str]:
    """What was missing is here (or stood in for): returns the parked events that now wait for nothing."""
    waiting = [
        event_id
        for (event_id,) in tx.all("SELECT event_id FROM parked_waits WHERE missing_event_id = ?", (missing_event_id,))
    ]
    if not waiting:
        return []
    tx.execute("DELETE FROM parked_waits WHERE missing_event_id = ?", (missing_event_id,))
    return [
        event_id
        for event_id in sorted(waiting)
        if tx.one("SELECT 1 FROM parked_waits WHERE event_id = ? LIMIT 1", (event_id,)) is None
    ]


_STRANGERS_FIRST = (
    "EXISTS (SELECT 1 FROM member_servers AS m"
    " WHERE m.room_id = p.room_id AND m.server = p.source AND m.joined > 0), number"
)


def shrink(tx: Tx, room_id: str, source: str, *, per_source: int, per_room: int, octets: int) -> list[str]:
    """Drops the oldest parked events beyond the bounds, those that came from outside the room first; returns which."""
    dropped: list[str] = []

    def drop(condition: str, parameters: tuple[str, ...], order: str, excess: int) -> None:
        rows = tx.all(
            f"SELECT event_id FROM parked_pdus AS p WHERE {condition} ORDER BY {order} LIMIT ?", (*parameters, excess)
        )
        for (event_id,) in rows:
            unpark(tx, event_id)
            dropped.append(event_id)

    by_source = tx.one("SELECT count(*) FROM parked_pdus WHERE room_id = ? AND source = ?", (room_id, source))
    if by_source is not None and by_source[0] > per_source:
        drop("room_id = ? AND source = ?", (room_id, source), "number", by_source[0] - per_source)
    while True:
        row = tx.one("SELECT count(*), coalesce(sum(octets), 0) FROM parked_pdus WHERE room_id = ?", (room_id,))
        if row is None or (row[0] <= per_room and row[1] <= octets):
            break
        drop("room_id = ?", (room_id,), _STRANGERS_FIRST, max(1, row[0] - per_room))
    return dropped


def newest(tx: Tx, room_id: str, *, most: int) -> list[str]:
    """The parked events of a room that came last."""
    rows = tx.all("SELECT event_id FROM parked_pdus WHERE room_id = ? ORDER BY number DESC LIMIT ?", (room_id, most))
    return [event_id for (event_id,) in rows]


def awaited(tx: Tx, room_id: str, *, most: int, of: Collection[str] | None = None) -> list[str]:
    """The missing events that parked ones wait for and that are not parked themselves (of the parked ones in `of`)."""
    rows = tx.execute(
        "SELECT DISTINCT w.missing_event_id, w.event_id FROM parked_pdus AS p JOIN parked_waits AS w"
        " ON w.event_id = p.event_id WHERE p.room_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM parked_pdus AS q WHERE q.event_id = w.missing_event_id)"
        " ORDER BY p.number, w.missing_event_id",
        (room_id,),
    )
    found: dict[str, None] = {}
    for missing_event_id, event_id in rows:
        if of is None or event_id in of:
            found[missing_event_id] = None
            if len(found) >= most:
                break
    return list(found)


def is_awaited_by_members(tx: Tx, room_id: str, missing_event_id: str) -> bool:
    """Whether a parked event that a member server brought waits for this one."""
    return (
        tx.one(
            "SELECT 1 FROM parked_waits AS w JOIN parked_pdus AS p ON p.event_id = w.event_id"
            " JOIN member_servers AS m ON m.room_id = p.room_id AND m.server = p.source AND m.joined > 0"
            " WHERE w.missing_event_id = ? AND p.room_id = ? LIMIT 1",
            (missing_event_id, room_id),
        )
        is not None
    )


def missing_of(tx: Tx, event_id: str) -> list[str]:
    """What a parked event waits for."""
    rows = tx.all("SELECT missing_event_id FROM parked_waits WHERE event_id = ? ORDER BY 1", (event_id,))
    return [missing for (missing,) in rows]


# Gaps.


def record_gap(
    tx: Tx,
    room_id: str,
    missing_event_id: str,
    *,
    claimed_group: int | None,
    claimed_by: str | None,
    depth: int,
    history: bool,
    now_ms: int,
) -> None:
    tx.execute(
        "INSERT OR IGNORE INTO gaps (room_id, missing_event_id, claimed_group, claimed_by, depth, history, recorded_ms,"
        " recorded_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (room_id, missing_event_id, claimed_group, claimed_by, depth, int(history), now_ms, tx.position()),
    )


def gaps(tx: Tx, room_id: str) -> dict[str, Gap]:
    """The room's gaps by the missing event."""
    return {
        row[0]: Gap(
            missing_event_id=row[0],
            claimed_group=row[1],
            claimed_by=row[2],
            depth=row[3],
            history=bool(row[4]),
            recorded_at=row[5],
        )
        for row in tx.execute(
            "SELECT missing_event_id, claimed_group, claimed_by, depth, history, recorded_at FROM gaps"
            " WHERE room_id = ? ORDER BY missing_event_id",
            (room_id,),
        )
    }


def close_gap(tx: Tx, room_id: str, missing_event_id: str) -> None:
    tx.execute("DELETE FROM gaps WHERE room_id = ? AND missing_event_id = ?", (room_id, missing_event_id))


def has_history_gap(tx: Tx, room_id: str) -> bool:
    """Whether the history before a join of ours is still on its way."""
    return tx.one("SELECT 1 FROM gaps WHERE room_id = ? AND history = 1 LIMIT 1", (room_id,)) is not None
