"""Events to be sent later: scheduled, restarted, and what became of them.

Source: MSC4140 (cancellable delayed events).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx

TOPIC = "delayed-events"
FINALISED_KEPT_MAX = 100
"""Of one user: how many that are sent, given up or cancelled are remembered."""

_COLUMNS = (
    "delay_id, user_id, device_id, room_id, type, state_key, content, delay_ms, since_ms, since_position, txn_path,"
    " finalised_ms, event_id, error"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvent:
    delay_id: str
    user_id: str
    device_id: str
    room_id: str
    type: str
    state_key: str | None
    content: dict[str, Any]
    delay_ms: int
    since_ms: int
    since_position: int
    txn_path: str | None
    finalised_ms: int | None = None
    event_id: str | None = None
    error: dict[str, Any] | None = None

    @property
    def due_ms(self) -> int:
        return self.since_ms + self.delay_ms

    def to_json(self) -> dict[str, Any]:
        """In the words of the present text and, beside them, of the earlier one that clients still read."""
        shown: dict[str, Any] = {
            "delay_id": self.delay_id,
            "room_id": self.room_id,
            "type": self.type,
            "content": self.content,
            "delay_ms": self.delay_ms,
            "delayed_since_ts": self.since_ms,
            "delay": self.delay_ms,
            "running_since": self.since_ms,
        }
        if self.state_key is not None:
            shown["state_key"] = self.state_key
        if self.finalised_ms is not None:
            outcome = {"event_id": self.event_id, "error": self.error}
            shown["finalised"] = {
                "finalised_ts": self.finalised_ms,
                **{name: value for name, value in outcome.items() if value is not None},
            }
        return shown


def schedule(tx: Tx, event: DelayedEvent) -> None:
    tx.execute(
        f"INSERT INTO delayed_events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
        (
            event.delay_id,
            event.user_id,
            event.device_id,
            event.room_id,
            event.type,
            event.state_key,
            json.dumps(event.content, ensure_ascii=False),
            event.delay_ms,
            event.since_ms,
            event.since_position,
            event.txn_path,
        ),
    )
    _wake(tx)


def restart(tx: Tx, delay_id: str, since_ms: int) -> None:
    """The delay begins again."""
    tx.execute("UPDATE delayed_events SET since_ms = ? WHERE delay_id = ?", (since_ms, delay_id))
    _wake(tx)


def finalise(
    tx: Tx,
    event: DelayedEvent,
    finalised_ms: int,
    *,
    event_id: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> None:
    """It was sent as `event_id`, could not be sent because of `error`, or was cancelled."""
    tx.execute(
        "UPDATE delayed_events SET finalised_ms = ?, event_id = ?, error = ? WHERE delay_id = ?",
        (finalised_ms, event_id, None if error is None else json.dumps(error), event.delay_id),
    )
    tx.execute(
        "DELETE FROM delayed_events WHERE delay_id IN (SELECT delay_id FROM delayed_events WHERE user_id = ?"
        " AND finalised_ms IS NOT NULL ORDER BY finalised_ms DESC LIMIT -1 OFFSET ?)",
        (event.user_id, FINALISED_KEPT_MAX),
    )


def delayed_event(tx: Tx, delay_id: str) -> DelayedEvent | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM delayed_events WHERE delay_id = ?", (delay_id,))
    return None if row is None else _of(row)


def events_of(tx: Tx, user_id: str, *, finalised: bool) -> list[DelayedEvent]:
    """Those that wait, or those that do not any more; the oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM delayed_events WHERE user_id = ? AND finalised_ms IS {'NOT ' * finalised}NULL"
        " ORDER BY since_ms, delay_id",
        (user_id,),
    )
    return [_of(row) for row in rows]


def waiting(tx: Tx, user_id: str) -> int:
    """How many of a user's events wait."""
    row = tx.one("SELECT COUNT(*) FROM delayed_events WHERE user_id = ? AND finalised_ms IS NULL", (user_id,))
    return 0 if row is None else int(row[0])


def next_due(tx: Tx) -> DelayedEvent | None:
    """The event that is to be sent next."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM delayed_events WHERE finalised_ms IS NULL"
        " ORDER BY since_ms + delay_ms, delay_id LIMIT 1"
    )
    return None if row is None else _of(row)


def due_before(tx: Tx, now_ms: int) -> list[DelayedEvent]:
    """Those that wait and were due before that time."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM delayed_events WHERE finalised_ms IS NULL AND since_ms + delay_ms < ?"
        " ORDER BY since_ms + delay_ms, delay_id",
        (now_ms,),
    )
    return [_of(row) for row in rows]


def _wake(tx: Tx) -> None:
    tx.next_position()
    tx.notify(TOPIC)


def _of(row: tuple[Any, ...]) -> DelayedEvent:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["content"] = json.loads(values["content"])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return DelayedEvent(**values)
