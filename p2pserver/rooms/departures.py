"""Leaving rooms in the name of local users: those whose account is closed, and those of a room that is shut."""

from __future__ import annotations

import asyncio

from p2pserver.errors import MatrixError
from p2pserver.rooms.service import Rooms
from p2pserver.store import memberships, rooms
from p2pserver.store.account_status import drop_departure, next_departure
from p2pserver.store.database import Database
from p2pserver.store.pending_joins import drop_pending_join
from p2pserver.store.tx import Tx

PAUSE_S = 0.02
"""Between two rooms, so that the requests of other people get their turn."""


def leave(service: Rooms, tx: Tx, user_id: str, room_id: str, *, reason: str | None = None) -> bool:
    """Leaves a room, or refuses an invite to it; False, if neither is possible.

    Not possible is it where the room's rules, as they are known here, do not let the user go (a ban is such a case).
    """
    drop_pending_join(tx, user_id, room_id)
    own = memberships.local_membership(tx, user_id, room_id)
    if own is None or own.membership not in ("join", "invite", "knock"):
        return False
    content = {"membership": "leave"} if reason is None else {"membership": "leave", "reason": reason}
    try:
        if memberships.invite(tx, user_id, room_id) is not None and own.membership != "join":
            service.decline_invite(tx, user_id=user_id, room_id=room_id)
        elif rooms.room(tx, room_id) is not None:
            service.send(
                tx, room_id=room_id, sender=user_id, event_type="m.room.member", state_key=user_id, content=content
            )
        else:
            return False
    except MatrixError:
        return False
    return True


def depart_once(service: Rooms, tx: Tx) -> bool:
    """Lets one deactivated account leave one room that it is still in; False, if there is none."""
    found = next_departure(tx)
    if found is None:
        return False
    user_id, room_id = found
    drop_departure(tx, user_id, room_id)
    leave(service, tx, user_id, room_id)
    return True


async def depart(database: Database, service: Rooms) -> None:
    """Lets deactivated accounts leave their rooms, one unit of work for each, until none is left."""
    while await database.read(next_departure) is not None:
        await database.write(lambda tx: depart_once(service, tx))
        await asyncio.sleep(PAUSE_S)
