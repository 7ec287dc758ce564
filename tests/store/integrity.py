"""What must hold of a database after any crash, as a function that lists what does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from p2pserver.store import state_groups
from p2pserver.store.tx import Tx


def inconsistencies(conn: sqlite3.Connection, *, server: str, destination: str) -> list[str]:
    """Contradictions between events, outbox, graph, states and the stream position.

    For a database of which `destination` has acknowledged nothing and was in the room from `server`'s first message.
    """
    tx = Tx(conn, {})
    found: list[str] = []
    events = {
        row[0]: row[1:] for row in tx.all("SELECT event_id, position, sender, type FROM events WHERE outlier = 0")
    }
    owed = {row[0] for row in tx.all("SELECT event_id FROM outbox WHERE destination = ?", (destination,))}
    ours = {
        event_id
        for event_id, (_, sender, event_type) in events.items()
        if sender.endswith(f":{server}") and event_type == "m.room.message"
    }
    found += [f"{event_id} is kept and not owed" for event_id in sorted(ours - owed)]
    found += [f"{event_id} is owed and not kept" for event_id in sorted(owed - events.keys())]
    newest = max((position for position, _, _ in events.values()), default=0)
    if tx.position() < newest:
        found.append(f"the stream is at {tx.position()}, an event at {newest}")
    cited = {row[0] for row in tx.all("SELECT DISTINCT prev_event_id FROM event_edges")}
    for table in ("leaves", "forward_extremities"):
        named = {row[0] for row in tx.all(f"SELECT event_id FROM {table}")}
        found += [f"{table} names {event_id}, which is not held" for event_id in sorted(named - events.keys())]
        found += [f"{table} names {event_id}, which is cited" for event_id in sorted(named & cited)]
    for room_id, group_id in tx.all("SELECT room_id, current_group FROM rooms"):
        rows = tx.all("SELECT type, state_key, event_id FROM current_state WHERE room_id = ?", (room_id,))
        if group_id is not None and dict(state_groups.state_map(tx, group_id)) != {row[:2]: row[2] for row in rows}:
            found.append(f"current_state of {room_id} is not its group")
    return found


def graph_contradictions(conn: sqlite3.Connection, room_id: str) -> list[str]:
    """Where what is kept of a complete room's graph is not what its events and edges give.

    Rejected and soft-failed events cover nothing that the next event cites; rejected ones cover nothing at all of the
    accepted graph. But whatever an accepted event leads back to is covered, over whichever events.
    """
    tx = Tx(conn, {})
    kinds = {
        "leaves": ("accepted", "soft_failed", "rejected"),
        "accepted_leaves": ("accepted", "soft_failed"),
        "forward_extremities": ("accepted",),
    }
    verdicts = dict(tx.all("SELECT event_id, verdict FROM events WHERE room_id = ? AND outlier = 0", (room_id,)))
    parents: dict[str, list[str]] = {}
    for child, parent in tx.all("SELECT event_id, prev_event_id FROM event_edges"):
        if child in verdicts:
            parents.setdefault(child, []).append(parent)
    found = []
    for table, wanted in kinds.items():
        these = {event_id for event_id, verdict in verdicts.items() if verdict in wanted}
        uncovered = these - ancestors_of(these, parents)
        kept = {event_id for (event_id,) in tx.all(f"SELECT event_id FROM {table} WHERE room_id = ?", (room_id,))}
        found += [f"{table} lacks {event_id}" for event_id in sorted(uncovered - kept)]
        found += [f"{table} names {event_id}" for event_id in sorted(kept - uncovered)]
    return found


def ancestors_of(event_ids: Collection[str], parents: Mapping[str, Sequence[str]]) -> set[str]:
    """Everything that some events lead back to."""
    found: set[str] = set()
    waiting = list(event_ids)
    while waiting:
        new = set(parents.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found
