"""All that an operator may want to know of one room, from the tables."""

from __future__ import annotations

from typing import Any

from p2pserver.store import alarms, parked
from p2pserver.store.room_list import list_rooms
from p2pserver.store.tx import Tx


def room_report(tx: Tx, room_id: str) -> dict[str, Any]:
    """What `list_rooms` says of the room, and: creator, aliases, verdicts, leaves, servers, what is missing, alarms.

    Raises: KeyError, if the room is not held.
    """
    row = next((row for row in list_rooms(tx) if row["room_id"] == room_id), None)
    if row is None:
        raise KeyError(room_id)
    creator = tx.one(
        "SELECT e.sender FROM rooms AS r JOIN events AS e ON e.event_id = r.create_event_id WHERE r.room_id = ?",
        (room_id,),
    )
    verdicts = dict(
        tx.all(
            "SELECT verdict, count(*) FROM events WHERE room_id = ? AND outlier = 0 GROUP BY verdict ORDER BY verdict",
            (room_id,),
        )
    )
    depth, redacted, outliers = tx.all(
        "SELECT max(depth), count(redacted_by), sum(outlier) FROM events WHERE room_id = ?", (room_id,)
    )[0]
    servers = tx.all(
        "SELECT server, joined, invited FROM member_servers WHERE room_id = ? AND joined + invited > 0"
        " ORDER BY joined DESC, invited DESC, server",
        (room_id,),
    )
    waiting = tx.all(
        "SELECT source, count(*) FROM parked_pdus WHERE room_id = ? GROUP BY source ORDER BY 1", (room_id,)
    )
    leaves = tx.one("SELECT count(*) FROM leaves WHERE room_id = ?", (room_id,))
    return {
        **row,
        "creator": None if creator is None else creator[0],
        "aliases": [alias for (alias,) in tx.all("SELECT alias FROM aliases WHERE room_id = ? ORDER BY 1", (room_id,))],
        "verdicts": verdicts,
        "depth": depth,
        "leaves": 0 if leaves is None else leaves[0],
        "redacted": redacted,
        "outliers": outliers or 0,
        "servers": [{"server": server, "joined": joined, "invited": invited} for server, joined, invited in servers],
        "missing": [
            {"event_id": gap.missing_event_id, "claimed_by": gap.claimed_by, "before_join": gap.history}
            for gap in parked.gaps(tx, room_id).values()
        ],
        "parked": [{"from": source, "events": count} for source, count in waiting],
        "alarms": alarms.as_json(tx, room_id),
    }
