"""Which redaction names which event, and whether it took effect."""

from __future__ import annotations

from p2pserver.store.tx import Tx


def remember(tx: Tx, room_id: str, *, target: str, redaction: str) -> None:
    tx.execute(
        "INSERT OR IGNORE INTO redactions (target_event_id, redaction_event_id, room_id, applied) VALUES (?, ?, ?, 0)",
        (target, redaction, room_id),
    )


def of_target(tx: Tx, target: str) -> list[tuple[str, bool]]:
    """(redaction event, whether it is applied) of each redaction that names this event."""
    rows = tx.all(
        "SELECT redaction_event_id, applied FROM redactions WHERE target_event_id = ? ORDER BY redaction_event_id",
        (target,),
    )
    return [(redaction, bool(applied)) for redaction, applied in rows]


def target_of(tx: Tx, redaction: str) -> tuple[str, bool] | None:
    """(target, whether it is applied) of a redaction event."""
    row = tx.one("SELECT target_event_id, applied FROM redactions WHERE redaction_event_id = ?", (redaction,))
    return None if row is None else (row[0], bool(row[1]))


def set_applied(tx: Tx, *, target: str, redaction: str, applied: bool) -> None:
    tx.execute(
        "UPDATE redactions SET applied = ? WHERE target_event_id = ? AND redaction_event_id = ?",
        (int(applied), target, redaction),
    )
