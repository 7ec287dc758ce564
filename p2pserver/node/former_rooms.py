"""Finding rooms again at those who are in them, for a node that does not know all that it did: it was restored.

Each peer is asked once in a life of the node (`rooms.anew`) in which rooms it knows our users. Who has an account here
and is in a room that is not held joins it again, as `/join` would; of others the rooms are remembered until somebody
registers under that name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from p2pserver.errors import MatrixError
from p2pserver.node.peer_events import FormerUsers, PeerEvent
from p2pserver.rooms.anew import rooms_told
from p2pserver.rooms.service import Rooms
from p2pserver.store import runs as rows
from p2pserver.store.accounts import profile_of, user_exists
from p2pserver.store.database import Database
from p2pserver.store.peers import is_joined_room
from p2pserver.store.pending_joins import PENDING_PER_USER_MAX, joins_waiting, put_pending_join
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

ASK_S = 60.0
IDLE_S = 3600.0
PAGES_MAX = 50


class Askable(Protocol):
    """The mesh, as this sees it."""

    async def ask(self, server: str, name: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Raises: PeerUnreachable; whatever MatrixError the other side raised."""


class FormerRooms:
    """`ask` at a contact, `run` beside everything else."""

    def __init__(
        self,
        *,
        database: Database,
        mesh: Askable,
        rooms: Rooms,
        wall_ms: Callable[[], int],
        tell: Callable[[PeerEvent], None],
        look_s: float,
    ) -> None:
        """`look_s`: how often it is looked whether somebody has registered: another process may have done it."""
        self._database = database
        self._mesh = mesh
        self._rooms = rooms
        self._wall_ms = wall_ms
        self._tell = tell
        self._look_s = look_s
        self._told: list[str] = []

    async def ask(self, server: str, key: bytes) -> None:
        """Asks a peer for the rooms of our users. If it goes away, it is asked at the next contact."""
        body: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            try:
                answer = await self._mesh.ask(server, "rooms_of_origin", body, timeout_s=ASK_S)
            except MatrixError as error:
                log.info("a peer did not tell our users' rooms", extra={"peer": server, "reason": str(error)})
                return
            told = rooms_told(self._rooms.context, answer)
            await self._database.write(lambda tx, told=told: rows.add_former_rooms(tx, told, server))  # type: ignore[misc]
            if not isinstance(answer.get("after"), str):
                break
            body = {"after": answer["after"]}
        await self._database.write(lambda tx: rows.note_was_asked(tx, key))

    async def run(self) -> None:
        """Joins rooms again, now and whenever somebody has registered."""
        while True:
            position = self._database.position
            if await self._database.read(rows.rooms_of_returned):
                await self._database.write(self._join_again)
            users, is_any = await self._database.read(lambda tx: (rows.former_users(tx), rows.has_former_rooms(tx)))
            if new := tuple(user for user in users if user not in self._told):
                self._tell(FormerUsers(new))
            self._told = users
            if is_any:
                await asyncio.sleep(self._look_s)
            else:
                await self._database.wait([rows.FORMER_TOPIC], after=position, timeout_s=IDLE_S)

    def _join_again(self, tx: Tx) -> None:
        for user_id, room_id, via in rows.rooms_of_returned(tx):
            is_wanted = not is_joined_room(tx, room_id) and user_exists(tx, user_id)
            if is_wanted and joins_waiting(tx, user_id) >= PENDING_PER_USER_MAX // 2:
                continue  # until others of his are done
            rows.forget_former_room(tx, user_id, room_id)
            if is_wanted:
                profile = profile_of(tx, user_id)
                put_pending_join(
                    tx,
                    user_id=user_id,
                    room_id=room_id,
                    via=[via],
                    content={"membership": "join", **({} if profile is None else profile.to_json())},
                    requested_ms=self._wall_ms(),
                )
