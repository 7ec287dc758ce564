"""What is owed to other servers, written in the same commit as what it tells of.

A row stays until its destination says that it holds the thing durably, so nothing is lost while it is away, and
nothing is resent once it has answered. Numbers grow for ever: a page starts after the last number that was sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from p2pserver.store.tx import Tx

EVENTS_MAX = 200_000
"""Events of rooms that are owed to all servers together. The oldest give way: comparing shows who lacks them."""
_LOOK_EVERY = 1_000
"""Rows between two counts."""

Kind = Literal["pdu", "edu", "invite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """One thing owed. `payload` is the PDU, the EDU as `{"edu_type", "content"}`, or the invite."""

    number: int
    destination: str
    kind: Kind
    room_id: str | None
    event_id: str | None
    payload: dict[str, Any]
    octets: int


def queue_pdu(tx: Tx, destination: str, room_id: str, event_id: str, *, raw: Mapping[str, Any] | None = None) -> None:
    """Owes an event to a server, once. `raw` is for an event that is in no table of ours (a refused invite)."""
    if tx.one("SELECT 1 FROM outbox WHERE event_id = ? AND destination = ?", (event_id, destination)) is not None:
        return
    _insert(tx, destination, "pdu", room_id=room_id, event_id=event_id, payload=raw)


def queue_edu(tx: Tx, destination: str, edu_type: str, content: Mapping[str, Any]) -> None:
    """Owes an ephemeral data unit that must not be lost (to-device messages, device lists)."""
    _insert(tx, destination, "edu", payload={"edu_type": edu_type, "content": content})


def queue_invite(tx: Tx, destination: str, room_id: str, payload: Mapping[str, Any]) -> None:
    """Owes an invite: what `Rooms.invite_payload` returns."""
    _insert(tx, destination, "invite", room_id=room_id, payload=payload)


def is_invite_owed(tx: Tx, destination: str, room_id: str) -> bool:
    row = tx.one(
        "SELECT 1 FROM outbox WHERE destination = ? AND room_id = ? AND kind = 'invite' LIMIT 1", (destination, room_id)
    )
    return row is not None


def _insert(
    tx: Tx,
    destination: str,
    kind: Kind,
    *,
    room_id: str | None = None,
    event_id: str | None = None,
    payload: Mapping[str, Any] | None = None,
) -> None:
    text = None if payload is None else json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    added = tx.execute(
        "INSERT INTO outbox (destination, kind, room_id, event_id, payload, queued_at) VALUES (?, ?, ?, ?, ?, ?)",
        (destination, kind, room_id, event_id, None if text is None else text.encode(), tx.position()),
    )
    if added.lastrowid is not None and added.lastrowid % _LOOK_EVERY == 0:
        tx.execute(
            "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE kind = 'pdu' AND payload IS NULL"
            " ORDER BY number DESC LIMIT -1 OFFSET ?)",
            (EVENTS_MAX,),
        )
    tx.notify(f"peer:{destination}")


def page(tx: Tx, destination: str, *, after: int = 0, most: int = 50, octets_max: int = 200_000) -> list[OutboxItem]:
    """What is owed to `destination` beyond number `after`, oldest first: at least one item if there is any."""
    items: list[OutboxItem] = []
    total = 0
    for number, kind, room_id, event_id, payload in tx.execute(
        "SELECT o.number, o.kind, o.room_id, o.event_id, coalesce(o.payload, e.raw) FROM outbox AS o"
        " LEFT JOIN events AS e ON e.event_id = o.event_id"
        " WHERE o.destination = ? AND o.number > ? ORDER BY o.number LIMIT ?",
        (destination, after, most),
    ):
        if payload is None:
            continue
        total += len(payload)
        if items and total > octets_max:
            break
        items.append(
            OutboxItem(
                number=number,
                destination=destination,
                kind=kind,
                room_id=room_id,
                event_id=event_id,
                payload=json.loads(payload),
                octets=len(payload),
            )
        )
    return items


def is_owed_beyond(tx: Tx, destination: str, number: int) -> bool:
    """Whether something is owed beyond that number."""
    row = tx.one("SELECT 1 FROM outbox WHERE destination = ? AND number > ? LIMIT 1", (destination, number))
    return row is not None


def forget_numbers(tx: Tx, destination: str, numbers: Sequence[int]) -> None:
    """The destination holds these items durably."""
    tx.many("DELETE FROM outbox WHERE number = ? AND destination = ?", [(number, destination) for number in numbers])


def forget_pdus(tx: Tx, destination: str, event_ids: Sequence[str]) -> None:
    """The destination holds these events durably, whoever brought them."""
    tx.many(
        "DELETE FROM outbox WHERE event_id = ? AND destination = ?",
        [(event_id, destination) for event_id in event_ids],
    )


def forget_room_pdus(tx: Tx, destination: str, room_id: str) -> None:
    """The destination's beacon of the room equals ours: it holds every event of it."""
    tx.execute("DELETE FROM outbox WHERE destination = ? AND room_id = ? AND kind = 'pdu'", (destination, room_id))


def destinations(tx: Tx) -> list[str]:
    """All servers that something is owed to."""
    return [server for (server,) in tx.all("SELECT DISTINCT destination FROM outbox ORDER BY destination")]


def count(tx: Tx, destination: str) -> int:
    row = tx.one("SELECT count(*) FROM outbox WHERE destination = ?", (destination,))
    return 0 if row is None else int(row[0])
