"""How far the members of a room have read it. Source: client-server API, "Receipts"; MSC2285, MSC3771."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from p2pserver.store.tx import Tx

READ: Final = "m.read"
READ_PRIVATE: Final = "m.read.private"
MAIN: Final = "main"
THREADS_MAX: Final = 200
"""Threads of one room of which a user's receipts are kept; the oldest give way."""

_COLUMNS = "room_id, user_id, kind, thread_id, event_id, ts, position"


ReceiptContent = dict[str, dict[str, dict[str, dict[str, object]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`thread_id` is None for a receipt of the whole room, `main` or the ID of a thread's root for others."""

    room_id: str
    user_id: str
    kind: str
    thread_id: str | None
    event_id: str
    ts: int
    position: int = 0


def put_receipt(tx: Tx, receipt: Receipt) -> bool:
    """Keeps a receipt and wakes who may see it; False, if one of the same kind is at this event or a later one."""
    key = (receipt.room_id, receipt.user_id, receipt.kind, receipt.thread_id or "")
    held = tx.one(
        "SELECT r.event_id, e.position FROM receipts AS r LEFT JOIN events AS e ON e.event_id = r.event_id"
        " WHERE r.room_id = ? AND r.user_id = ? AND r.kind = ? AND r.thread_id = ?",
        key,
    )
    if held is not None:
        new = tx.one("SELECT position FROM events WHERE event_id = ?", (receipt.event_id,))
        if held[0] == receipt.event_id or (new is not None and held[1] is not None and new[0] <= held[1]):
            return False
    tx.execute(
        f"INSERT OR REPLACE INTO receipts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*key, receipt.event_id, receipt.ts, tx.next_position()),
    )
    if held is None and receipt.thread_id is not None:
        _forget_oldest(tx, receipt)
    tx.notify(f"user:{receipt.user_id}" if receipt.kind == READ_PRIVATE else f"room:{receipt.room_id}")
    tx.notify("receipts")
    return True


def _forget_oldest(tx: Tx, receipt: Receipt) -> None:
    tx.execute(
        "DELETE FROM receipts WHERE room_id = ?1 AND user_id = ?2 AND kind = ?3 AND thread_id IN (SELECT thread_id FROM"
        " receipts WHERE room_id = ?1 AND user_id = ?2 AND kind = ?3 AND thread_id NOT IN ('', 'main')"
        " ORDER BY position DESC LIMIT -1 OFFSET ?4)",
        (receipt.room_id, receipt.user_id, receipt.kind, THREADS_MAX),
    )


def receipts_of_room(tx: Tx, room_id: str, viewer: str, *, above: int, upto: int) -> list[Receipt]:
    """What `viewer` may see of the receipts at `above` < position <= `upto`, oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM receipts WHERE room_id = ? AND position > ? AND position <= ?"
        f" AND (kind != '{READ_PRIVATE}' OR user_id = ?) ORDER BY position",
        (room_id, above, upto, viewer),
    )
    return [_receipt(row) for row in rows]


def own_receipts(tx: Tx, room_id: str, user_id: str) -> list[tuple[Receipt, int | None]]:
    """The user's own receipts in a room, each with the position of its event, if that is held."""
    columns = ", ".join(f"r.{column}" for column in _COLUMNS.split(", "))
    rows = tx.all(
        f"SELECT {columns}, e.position FROM receipts AS r LEFT JOIN events AS e ON e.event_id = r.event_id"
        " WHERE r.room_id = ? AND r.user_id = ? ORDER BY r.kind, r.thread_id",
        (room_id, user_id),
    )
    return [(_receipt(row[:-1]), row[-1]) for row in rows]


def rooms_with_receipts(tx: Tx, viewer: str, *, above: int, upto: int) -> set[str]:
    """The rooms in which there are receipts in the range that `viewer` might see. One step per receipt of the range."""
    rows = tx.all(
        f"SELECT DISTINCT room_id FROM receipts WHERE position > ? AND position <= ?"
        f" AND (kind != '{READ_PRIVATE}' OR user_id = ?)",
        (above, upto, viewer),
    )
    return {room_id for (room_id,) in rows}


def rooms_read_by(tx: Tx, user_id: str, *, above: int) -> set[str]:
    """The rooms in which the user has set a receipt of any kind after `above`."""
    rows = tx.all("SELECT DISTINCT room_id FROM receipts WHERE user_id = ? AND position > ?", (user_id, above))
    return {room_id for (room_id,) in rows}


def newest_receipt(tx: Tx, room_id: str, user_id: str) -> int:
    """The position of the user's newest receipt in a room; 0, if there is none."""
    row = tx.one("SELECT MAX(position) FROM receipts WHERE room_id = ? AND user_id = ?", (room_id, user_id))
    return 0 if row is None or row[0] is None else int(row[0])


def newest_receipt_of(tx: Tx, user_id: str) -> int:
    """The position of the user's newest receipt anywhere; 0, if there is none."""
    row = tx.one("SELECT MAX(position) FROM receipts WHERE user_id = ?", (user_id,))
    return 0 if row is None or row[0] is None else int(row[0])


def receipts_since(tx: Tx, *, above: int, upto: int, most: int) -> list[Receipt]:
    """The public receipts of anybody in the range, oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM receipts WHERE position > ? AND position <= ? AND kind = ? ORDER BY position LIMIT ?",
        (above, upto, READ, most),
    )
    return [_receipt(row) for row in rows]


def receipt_contents(receipts: Collection[Receipt]) -> list[ReceiptContent]:
    """Contents of `m.receipt` events: `{event_id: {kind: {user_id: {ts, thread_id?}}}}`.

    One has room for a single receipt of a user at an event; those of the whole room come first, others of the same
    user at the same event in another content.
    """
    contents: list[ReceiptContent] = []
    for receipt in sorted(receipts, key=lambda each: each.thread_id is not None):
        data: dict[str, object] = {"ts": receipt.ts}
        if receipt.thread_id is not None:
            data["thread_id"] = receipt.thread_id
        for content in contents:
            of_kind = content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})
            if receipt.user_id not in of_kind:
                of_kind[receipt.user_id] = data
                break
        else:
            contents.append({receipt.event_id: {receipt.kind: {receipt.user_id: data}}})
    return contents


def _receipt(row: tuple[object, ...]) -> Receipt:
    room_id, user_id, kind, thread_id, event_id, ts, position = row
    return Receipt(
        room_id=str(room_id),
        user_id=str(user_id),
        kind=str(kind),
        thread_id=str(thread_id) or None,
        event_id=str(event_id),
        ts=int(str(ts)),
        position=int(str(position)),
    )


def receipts_told(tx: Tx, server: str) -> int:
    """Up to which position another server was told of receipts; 0, if never."""
    row = tx.one("SELECT position FROM receipts_told WHERE server = ?", (server,))
    return 0 if row is None else int(row[0])


def note_receipts_told(tx: Tx, server: str, position: int) -> None:
    tx.execute("INSERT OR REPLACE INTO receipts_told (server, position) VALUES (?, ?)", (server, position))


def forget_receipts_told(tx: Tx, server: str) -> None:
    """Another server may have forgotten what it was told."""
    tx.execute("DELETE FROM receipts_told WHERE server = ?", (server,))
