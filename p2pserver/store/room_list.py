"""The rooms held here, for the operator."""

from __future__ import annotations

from typing import Any

from p2pserver.store.tx import Tx


def list_rooms(tx: Tx) -> list[dict[str, Any]]:
    """One row per room: room_id, name, version, joined (all members), events, width, gaps, alarms and history.

    `width` is the number of forward extremities; `history` is "complete", or says what is still missing.
    """
    rows = tx.all(
        """
        SELECT r.room_id, r.version, r.complete,
               (SELECT count(*) FROM current_state AS s
                 WHERE s.room_id = r.room_id AND s.type = 'm.room.member' AND s.membership = 'join'),
               (SELECT count(*) FROM events AS e WHERE e.room_id = r.room_id AND e.outlier = 0),
               (SELECT count(*) FROM forward_extremities AS f WHERE f.room_id = r.room_id),
               (SELECT count(*) FROM gaps AS g WHERE g.room_id = r.room_id),
               (SELECT count(*) FROM alarms AS a WHERE a.room_id = r.room_id),
               (SELECT json_extract(CAST(e.raw AS TEXT), '$.content.name') FROM current_state AS s
                  JOIN events AS e ON e.event_id = s.event_id
                 WHERE s.room_id = r.room_id AND s.type = 'm.room.name' AND s.state_key = '')
          FROM rooms AS r ORDER BY r.room_id
        """
    )
    return [
        {
            "room_id": room_id,
            "name": name if isinstance(name, str) else None,
            "version": version,
            "joined": joined,
            "events": events,
            "width": width,
            "gaps": gaps,
            "alarms": alarms,
            "history": "complete" if complete else f"partial, {gaps} gaps" if gaps != 1 else "partial, 1 gap",
        }
        for room_id, version, complete, joined, events, width, gaps, alarms, name in rows
    ]
