"""Which media the events of a room name, for operators."""

from __future__ import annotations

import re

from p2pserver.store.tx import Tx

_MXC = re.compile(r"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})")


def media_of_room(tx: Tx, room_id: str) -> list[tuple[str, str]]:
    """(origin, media ID) of each address anywhere in an event of the room, in the order in which they came.

    Reads every event of the room that holds `mxc://`.
    """
    found: dict[tuple[str, str], None] = {}
    for (raw,) in tx.execute(
        "SELECT CAST(raw AS TEXT) FROM events WHERE room_id = ? AND verdict = 'accepted'"
        " AND instr(raw, CAST('mxc://' AS BLOB)) ORDER BY position",
        (room_id,),
    ):
        found |= dict.fromkeys((match[1], match[2]) for match in _MXC.finditer(raw))
    return list(found)
