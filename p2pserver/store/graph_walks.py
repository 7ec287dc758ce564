"""Walks over prev_events: ancestors, what one server has and another lacks, samples of what is held."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

_IDS_AT_ONCE = 400
PARENTS_KEPT = 10_000
"""Parents whose places a connection remembers for the next walk, about 300 octets each."""
_WANTED, _HELD_THERE = 1, 2


def ancestors(tx: Tx, event_ids: Iterable[str]) -> set[str]:
    """The events and everything that they cite, directly or not, as far as edges are known."""
    seen = set(event_ids)
    waiting = list(seen)
    while waiting:
        some, waiting = waiting[-_IDS_AT_ONCE:], waiting[:-_IDS_AT_ONCE]
        marks = ",".join("?" * len(some))
        for (parent,) in tx.execute(
            f"SELECT DISTINCT prev_event_id FROM event_edges WHERE event_id IN ({marks})", some
        ):
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return seen


def ungrounded(tx: Tx, room_id: str) -> list[str]:
    """The events of the graph that stand on a claim."""
    rows = tx.all("SELECT event_id FROM events WHERE room_id = ? AND grounded = 0 AND outlier = 0", (room_id,))
    return [event_id for (event_id,) in rows]


def has_ungrounded(tx: Tx, room_id: str) -> bool:
    return (
        tx.one("SELECT 1 FROM events WHERE room_id = ? AND grounded = 0 AND outlier = 0 LIMIT 1", (room_id,))
        is not None
    )


def parents(tx: Tx, event_id: str) -> list[str]:
    rows = tx.all("SELECT prev_event_id FROM event_edges WHERE event_id = ?", (event_id,))
    return [parent for (parent,) in rows]


def is_ancestor(tx: Tx, older: str, newer: str, *, most: int) -> bool:
    """Whether `newer` leads back to `older` over prev_events. False also where that takes more than `most` events."""
    row = tx.one("SELECT depth FROM events WHERE event_id = ?", (older,))
    if row is None:
        return False
    seen, waiting = {newer}, [newer]
    while waiting and len(seen) <= most:
        event_id = waiting.pop()
        for parent, depth in tx.execute(
            "SELECT x.prev_event_id, e.depth FROM event_edges AS x JOIN events AS e ON e.event_id = x.prev_event_id"
            " WHERE x.event_id = ? AND e.depth >= ?",
            (event_id, row[0]),
        ):
            if parent == older:
                return True
            if depth > row[0] and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return False


def without_sec_in_order(tx: Tx, room_id: str) -> list[str]:
    """The events with all their ancestry here that lack their part of the digest, each after those that it cites."""
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND sec IS NULL AND grounded = 1 AND outlier = 0"
        " ORDER BY position",
        (room_id,),
    )
    return cited_first({event_id: parents(tx, event_id) for (event_id,) in rows})


def cited_first(citations: Mapping[str, Collection[str]]) -> list[str]:
    """Some events, each after those of them that it cites; among others in the order given."""
    waits_for = dict.fromkeys(citations, 0)
    cited_by: dict[str, list[str]] = {event_id: [] for event_id in citations}
    for event_id, cited in citations.items():
        for each in set(cited):
            if each in cited_by:
                cited_by[each].append(event_id)
                waits_for[event_id] += 1
    free = deque(event_id for event_id in citations if waits_for[event_id] == 0)
    order: list[str] = []
    while free:
        event_id = free.popleft()
        order.append(event_id)
        for child in cited_by[event_id]:
            waits_for[child] -= 1
            if waits_for[child] == 0:
                free.append(child)
    return order


def lacking(tx: Tx, room_id: str, *, want: Collection[str], have: Collection[str], most: int) -> list[str]:
    """The wanted events and their ancestors, less the ancestors of what is held there; parents first.

    A wanted event that is an ancestor of one held there is named all the same: it was asked for, so there is a hole.
    The walk goes from the greatest depth down, so that each event is met after all its descendants, and ends where
    everything left is held there. It meets at most `most` events.
    """
    marks: dict[str, int] = {}
    depths: dict[str, tuple[int, int]] = {}
    heap: list[tuple[int, int, str]] = []
    done: set[str] = set()

    def meet(rows: Iterable[tuple[str, int, int]], mark: int) -> int:
        added = 0
        for event_id, depth, position in rows:
            if event_id in done:
                continue
            known = marks.get(event_id)
            if known is None:
                depths[event_id] = depth, position
                heapq.heappush(heap, (-depth, -position, event_id))
                known = 0
            if mark == _WANTED and known == 0:
                added += 1
            if mark & _HELD_THERE and known == _WANTED:
                added -= 1
            marks[event_id] = known | mark
        return added

    open_wants = 0
    open_wants += meet(_places(tx, room_id, want), _WANTED)
    open_wants += meet(_places(tx, room_id, have), _HELD_THERE)
    found: list[str] = []
    while heap and open_wants > 0 and len(marks) < most:
        _, _, event_id = heapq.heappop(heap)
        mark = marks[event_id]
        done.add(event_id)
        if mark == _WANTED:
            open_wants -= 1
            found.append(event_id)
        open_wants += meet(_places_of_parents(tx, room_id, event_id), mark)
    asked = set(want)
    holes = [each for each in asked.difference(found, have) if each in depths]
    return sorted({*found, *holes}, key=lambda each: (*depths[each], each))


def _places(tx: Tx, room_id: str, event_ids: Iterable[str]) -> list[tuple[str, int, int]]:
    """(event, depth, position) of those that have a place in the graph."""
    sql = "SELECT event_id, depth, position FROM events WHERE event_id = ? AND +room_id = ? AND outlier = 0"
    rows = (tx.one(sql, (event_id, room_id)) for event_id in event_ids)
    return [(row[0], row[1], row[2]) for row in rows if row is not None]


def _places_of_parents(tx: Tx, room_id: str, event_id: str) -> tuple[tuple[str, int, int], ...]:
    """Of the parents, remembered where it is final: the whole ancestry is held. (Positions may change; they only order
    what has the same depth.)"""
    cache: Lru[str, tuple[tuple[str, int, int], ...]] | None = tx.caches.get("places_of_parents")
    if cache is None:
        cache = tx.caches["places_of_parents"] = Lru(PARENTS_KEPT, lambda kept: len(kept) + 1)
    known = cache.get(event_id)
    if known is not None:
        return known
    rows = tx.all(
        "SELECT e.event_id, e.depth, e.position, c.grounded FROM events AS c"
        " JOIN event_edges AS x ON x.event_id = c.event_id JOIN events AS e ON e.event_id = x.prev_event_id"
        " WHERE c.event_id = ? AND +e.room_id = ? AND e.outlier = 0",
        (event_id, room_id),
    )
    found = tuple((each, depth, position) for each, depth, position, _ in rows)
    if rows and rows[0][3]:
        cache.put(event_id, found)
    return found


def held_sample(tx: Tx, room_id: str, *, most: int, history_only: bool) -> list[str]:
    """Events at exponentially growing distance below the newest: enough to find what two servers have in common.

    `history_only` leaves out what stands on the claim with which we joined.
    """
    condition = "room_id = ? AND outlier = 0" + (" AND (grounded = 1 OR position < 0)" if history_only else "")
    top = tx.one(f"SELECT max(depth) FROM events WHERE {condition}", (room_id,))
    if top is None or top[0] is None:
        return []
    found: dict[str, None] = {}
    distance = 0
    while len(found) < most and distance <= top[0]:
        row = tx.one(
            f"SELECT event_id FROM events WHERE {condition} AND depth <= ? ORDER BY depth DESC, position DESC LIMIT 1",
            (room_id, top[0] - distance),
        )
        if row is None:
            break
        found[row[0]] = None
        distance = max(1, distance * 2)
    return list(found)
