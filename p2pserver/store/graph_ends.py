"""The ends of the event graph of a room: leaves, accepted leaves and forward extremities.

Each set is kept as rows and extended with every event, at a cost that does not depend on the size of the room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.store.events import RESOLUTION_NOTES
from p2pserver.store.tx import Tx, chunks, marks


def leaves(tx: Tx, room_id: str) -> list[str]:
    rows = tx.all("SELECT event_id FROM leaves WHERE room_id = ? ORDER BY event_id", (room_id,))
    return [event_id for (event_id,) in rows]


class Surroundings(NamedTuple):
    """Around an event in the graph: the verdicts of those that cite it, and whether all that it cites are accepted."""

    cited_by: frozenset[Verdict] = frozenset()
    parents_accepted: bool = True


JUST_BUILT: Final = Surroundings()
"""Of an event on the forward extremities that nobody else can have seen."""


def surroundings(tx: Tx, event: Pdu) -> Surroundings:
    citing = tx.all(
        "SELECT DISTINCT e.verdict FROM event_edges AS x JOIN events AS e ON e.event_id = x.event_id"
        " WHERE x.prev_event_id = ? AND e.room_id = ?",
        (event.event_id, event.room_id),
    )
    others = any(
        tx.one(
            f"SELECT 1 FROM events WHERE event_id IN ({marks(some)}) AND +room_id = ? AND outlier = 0"
            " AND verdict != 'accepted' LIMIT 1",
            (*some, event.room_id),
        )
        for some in chunks(event.prev_events)
    )
    return Surroundings(frozenset(Verdict(verdict) for (verdict,) in citing), not others)


def extend_leaves(tx: Tx, event: Pdu, around: Surroundings) -> None:
    """The event's parents are no leaves any more; it is one, unless something cites it already."""
    _cover(tx, "leaves", event, by=tuple(Verdict), around=around)


def accepted_leaves(tx: Tx, room_id: str) -> list[str]:
    """The events that are not rejected and to which no such event leads back: soft-failed ones included."""
    rows = tx.all("SELECT event_id FROM accepted_leaves WHERE room_id = ? ORDER BY event_id", (room_id,))
    return [event_id for (event_id,) in rows]


def extend_accepted_leaves(tx: Tx, event: Pdu, around: Surroundings) -> None:
    """An event that is not rejected covers those before it, and is such a leaf unless one like it cites it already."""
    _cover(tx, "accepted_leaves", event, by=(Verdict.ACCEPTED, Verdict.SOFT_FAILED), around=around)


def extremities(tx: Tx, room_id: str) -> list[str]:
    """The forward extremities: what the next event cites."""
    rows = tx.all("SELECT event_id FROM forward_extremities WHERE room_id = ? ORDER BY event_id", (room_id,))
    return [event_id for (event_id,) in rows]


def extend_extremities(tx: Tx, event: Pdu, around: Surroundings) -> None:
    """An accepted event covers those before it, and is an extremity unless an accepted event cites it already."""
    _cover(tx, "forward_extremities", event, by=(Verdict.ACCEPTED,), around=around)


def set_extremities(tx: Tx, room_id: str, event_ids: Iterable[str]) -> None:
    _replace(tx, "forward_extremities", room_id, event_ids)


def set_accepted_leaves(tx: Tx, room_id: str, event_ids: Iterable[str]) -> None:
    _replace(tx, "accepted_leaves", room_id, event_ids)


_UNCOVERED = """
    WITH RECURSIVE others (event_id) AS MATERIALIZED (
        SELECT event_id FROM events WHERE room_id = :room AND outlier = 0 AND verdict NOT IN ({verdicts})
    ), passed_over (event_id) AS (
        SELECT o.event_id FROM others AS o JOIN event_edges AS x ON x.prev_event_id = o.event_id
        JOIN events AS c ON c.event_id = x.event_id WHERE c.room_id = :room AND c.verdict IN ({verdicts})
        UNION
        SELECT o.event_id FROM passed_over AS p JOIN event_edges AS x ON x.event_id = p.event_id
        JOIN others AS o ON o.event_id = x.prev_event_id
    )
    SELECT event_id FROM events AS e WHERE room_id = :room AND outlier = 0 AND verdict IN ({verdicts}) {more}
    AND NOT EXISTS (SELECT 1 FROM event_edges AS x JOIN events AS c ON c.event_id = x.event_id
                    WHERE x.prev_event_id = e.event_id AND c.room_id = :room
                    AND (c.verdict IN ({verdicts}) OR c.event_id IN passed_over))
    ORDER BY event_id
"""


def uncovered_events(
    tx: Tx, room_id: str, *, of: Collection[Verdict] = (Verdict.ACCEPTED,), on_claim_only: bool = False
) -> list[str]:
    """The events of the graph with such a verdict to which none like them leads back, found from the whole graph.

    `on_claim_only`: of those that stand on the claim with which we joined.
    """
    verdicts = ",".join(f"'{verdict.value}'" for verdict in of)
    more = "AND grounded = 0 AND position > 0" if on_claim_only else ""
    rows = tx.execute(_UNCOVERED.format(verdicts=verdicts, more=more), {"room": room_id})
    return [event_id for (event_id,) in rows]


def accepted_leaf_groups(tx: Tx, room_id: str) -> list[int]:
    """The distinct state groups after the accepted leaves."""
    rows = tx.all(
        "SELECT DISTINCT e.state_after FROM accepted_leaves AS l JOIN events AS e ON e.event_id = l.event_id"
        " WHERE l.room_id = ? ORDER BY e.state_after",
        (room_id,),
    )
    return [group_id for (group_id,) in rows]


def extremity_groups(tx: Tx, room_id: str) -> list[int]:
    """The distinct state groups after the forward extremities."""
    rows = tx.all(
        "SELECT DISTINCT e.state_after FROM forward_extremities AS f JOIN events AS e ON e.event_id = f.event_id"
        " WHERE f.room_id = ? ORDER BY e.state_after",
        (room_id,),
    )
    return [group_id for (group_id,) in rows]


def _cover(tx: Tx, table: str, event: Pdu, *, by: Collection[Verdict], around: Surroundings) -> None:
    """The event is an end of the graph now, and none of the others `by` which it can be that it leads back to.

    Those are its parents and, where such an event is not among them, what is next below: whoever cites an event has
    all its ancestors in its own state. So each event of another verdict is passed over once.
    """
    parents: Collection[str] = event.prev_events
    while parents:
        _remove(tx, table, event.room_id, parents)
        if around.parents_accepted or len(by) == len(Verdict):
            break
        others = _not_passed_over(tx, table, event.room_id, parents, by)
        tx.many(
            "INSERT INTO passed_over (room_id, ends, event_id) VALUES (?, ?, ?)",
            [(event.room_id, table, each) for each in others],
        )
        parents = {parent for each in others for parent in _parents(tx, each)}
    if around.cited_by.isdisjoint(by):
        tx.execute(f"INSERT OR IGNORE INTO {table} (room_id, event_id) VALUES (?, ?)", (event.room_id, event.event_id))


def _not_passed_over(
    tx: Tx, table: str, room_id: str, event_ids: Collection[str], verdicts: Collection[Verdict]
) -> list[str]:
    """Those of the events of the graph that have another verdict, and were not passed over before."""
    found: list[str] = []
    for some in chunks(event_ids):
        rows = tx.execute(
            f"SELECT event_id FROM events AS e WHERE event_id IN ({marks(some)}) AND +room_id = ? AND outlier = 0"
            f" AND verdict NOT IN ({marks(tuple(verdicts))}) AND NOT EXISTS"
            " (SELECT 1 FROM passed_over AS p WHERE p.room_id = ? AND p.ends = ? AND p.event_id = e.event_id)",
            (*some, room_id, *(verdict.value for verdict in verdicts), room_id, table),
        )
        found += [event_id for (event_id,) in rows]
    return found


def _parents(tx: Tx, event_id: str) -> list[str]:
    return [parent for (parent,) in tx.execute("SELECT prev_event_id FROM event_edges WHERE event_id = ?", (event_id,))]


def _replace(tx: Tx, table: str, room_id: str, event_ids: Iterable[str]) -> None:
    """What was passed over is forgotten: verdicts may be others now."""
    tx.execute("DELETE FROM passed_over WHERE room_id = ? AND ends = ?", (room_id, table))
    tx.execute(f"DELETE FROM {table} WHERE room_id = ?", (room_id,))
    tx.many(f"INSERT INTO {table} (room_id, event_id) VALUES (?, ?)", [(room_id, event_id) for event_id in event_ids])


def _remove(tx: Tx, table: str, room_id: str, event_ids: Collection[str]) -> None:
    tx.many(f"DELETE FROM {table} WHERE room_id = ? AND event_id = ?", [(room_id, each) for each in event_ids])


def take_out(tx: Tx, room_id: str, event_ids: Collection[str]) -> None:
    """Events lose their place in the graph and are kept as outliers; leaves are those of the rest.

    Extremities and accepted leaves are the caller's.
    """
    tx.caches.pop(RESOLUTION_NOTES, None)
    for part in chunks(event_ids):
        some = marks(part)
        tx.execute(
            "UPDATE events SET outlier = 1, grounded = 0, state_before = NULL, state_after = NULL, sec = NULL"
            f" WHERE event_id IN ({some})",
            part,
        )
        tx.execute(f"DELETE FROM event_edges WHERE event_id IN ({some})", part)
    _replace(tx, "leaves", room_id, uncovered_events(tx, room_id, of=tuple(Verdict)))
