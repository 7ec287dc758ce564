"""What users reported: events, rooms and other users, for who runs the node.

Source: client-server API, "Reporting Content".
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.store.tx import Tx

REPORTS_MAX = 10_000
"""Of the whole node; the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReport:
    """One report. Of an event: room, event and sender; of a room: the room; of a user: the user."""

    report_id: int
    received_ms: int
    reporter: str
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str | None
    score: int | None


def add_report(
    tx: Tx,
    *,
    reporter: str,
    received_ms: int,
    room_id: str | None = None,
    event_id: str | None = None,
    user_id: str | None = None,
    reason: str | None = None,
    score: int | None = None,
) -> int:
    """Keeps a report and returns its ID."""
    cursor = tx.execute(
        "INSERT INTO event_reports (received_ms, reporter, room_id, event_id, user_id, reason, score)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (received_ms, reporter, room_id, event_id, user_id, reason, score),
    )
    report_id = cursor.lastrowid
    assert report_id is not None
    tx.execute("DELETE FROM event_reports WHERE report_id <= ?", (report_id - REPORTS_MAX,))
    return report_id


def report(tx: Tx, report_id: int) -> EventReport | None:
    """One report, if it is there."""
    row = tx.one(f"SELECT {_COLUMNS} FROM event_reports WHERE report_id = ?", (report_id,))
    return None if row is None else _report(row)


def reports(
    tx: Tx,
    *,
    start: int,
    limit: int,
    newest_first: bool = True,
    reporter: str | None = None,
    room_id: str | None = None,
) -> tuple[list[EventReport], int]:
    """A page of reports, and how many there are; `reporter` and `room_id` are substrings."""
    where, values = "1", list[str]()
    for column, part in (("reporter", reporter), ("room_id", room_id)):
        if part is not None:
            where += f" AND instr({column}, ?)"
            values.append(part)
    order = "DESC" if newest_first else "ASC"
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM event_reports WHERE {where} ORDER BY report_id {order} LIMIT ? OFFSET ?",
        (*values, limit, start),
    )
    total = tx.one(f"SELECT COUNT(*) FROM event_reports WHERE {where}", values)
    return [_report(row) for row in rows], 0 if total is None else total[0]


def delete_report(tx: Tx, report_id: int) -> bool:
    """False, if it is not there."""
    return tx.execute("DELETE FROM event_reports WHERE report_id = ?", (report_id,)).rowcount > 0


_COLUMNS = "report_id, received_ms, reporter, room_id, event_id, user_id, reason, score"


def _report(row: tuple[int, int, str, str | None, str | None, str | None, str | None, int | None]) -> EventReport:
    return EventReport(
        report_id=row[0],
        received_ms=row[1],
        reporter=row[2],
        room_id=row[3],
        event_id=row[4],
        user_id=row[5],
        reason=row[6],
        score=row[7],
    )
