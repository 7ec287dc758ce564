"""What an operator should look at: a room that two nodes understand differently, a state that went back.

An alarm changes nothing of what the node does. Whatever raises one, the rows are bounded: one for each thing that an
alarm is about, and the oldest of a room give way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pserver.store.tx import Tx

DIVERGED: Final = "diverged"
"""A peer with the same events says that something else follows from them: a bug, a broken disk, or a liar."""
STATE_RESET_SUSPECTED: Final = "state_reset_suspected"
"""A slot of the current state went back to an older event, or lost its event, though nobody revoked anything."""

SET_BACK: Final = "set_back"
"""This node has told others more than its database knows: an earlier state of it was put back."""
KEY_USED_TWICE: Final = "key_used_twice"
"""Two processes run with one key, this node's own or that of a peer."""

THE_NODE: Final = ""
"""In place of a room ID: the alarm is about no room."""

KEPT_PER_ROOM = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """`about` is the peer that says so, or the slot as `type state_key`. Times are of the wall clock, since 1970."""

    number: int
    room_id: str
    kind: str
    about: str
    details: Mapping[str, Any]
    position: int
    first_ms: int
    last_ms: int
    times: int


def raise_alarm(tx: Tx, *, room_id: str, kind: str, about: str, details: Mapping[str, Any], now_ms: int) -> bool:
    """Keeps an alarm; whether nothing of the kind was there before, so that it is worth a line in the log."""
    text = json.dumps(details, ensure_ascii=False, separators=(",", ":"))
    known = tx.one("SELECT number FROM alarms WHERE room_id = ? AND kind = ? AND about = ?", (room_id, kind, about))
    if known is not None:
        tx.execute(
            "UPDATE alarms SET details = ?, position = ?, last_ms = ?, times = times + 1 WHERE number = ?",
            (text, tx.position(), now_ms, known[0]),
        )
    else:
        tx.execute(
            "INSERT INTO alarms (room_id, kind, about, details, position, first_ms, last_ms, times)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            (room_id, kind, about, text, tx.position(), now_ms, now_ms),
        )
        tx.execute(
            "DELETE FROM alarms WHERE room_id = ? AND number NOT IN"
            " (SELECT number FROM alarms WHERE room_id = ? ORDER BY number DESC LIMIT ?)",
            (room_id, room_id, KEPT_PER_ROOM),
        )
    tx.execute(
        "INSERT INTO alarm_counts (room_id, kind, times) VALUES (?, ?, 1)"
        " ON CONFLICT (room_id, kind) DO UPDATE SET times = times + 1",
        (room_id, kind),
    )
    return known is None


def alarms(tx: Tx, room_id: str | None = None) -> list[Alarm]:
    """Those that are kept, of one room or of all, the newest last."""
    rows = tx.all(
        "SELECT number, room_id, kind, about, details, position, first_ms, last_ms, times FROM alarms"
        + ("" if room_id is None else " WHERE room_id = ?")
        + " ORDER BY last_ms, number",
        () if room_id is None else (room_id,),
    )
    return [
        Alarm(
            number=number,
            room_id=room,
            kind=kind,
            about=about,
            details=json.loads(details),
            position=position,
            first_ms=first_ms,
            last_ms=last_ms,
            times=times,
        )
        for number, room, kind, about, details, position, first_ms, last_ms, times in rows
    ]


def as_json(tx: Tx, room_id: str) -> list[dict[str, Any]]:
    """Those of a room, as operators are shown them."""
    return [
        {
            "kind": alarm.kind,
            "about": alarm.about,
            "details": dict(alarm.details),
            "first_ms": alarm.first_ms,
            "last_ms": alarm.last_ms,
            "times": alarm.times,
        }
        for alarm in alarms(tx, room_id)
    ]


def counts(tx: Tx) -> dict[tuple[str, str], int]:
    """How often each kind of alarm was raised in each room, ever."""
    rows = tx.all("SELECT room_id, kind, times FROM alarm_counts ORDER BY room_id, kind")
    return {(room_id, kind): times for room_id, kind, times in rows}
