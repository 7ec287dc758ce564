"""What nodes tell each other that may be lost: who types, who is present, how far their users have read.

None of it is in the outbox. Receipts are in a table with positions, and a peer is told of those above the one up to
which it was told: of several by one user only the newest, however long it was away. Typing and presence are told to
whoever is connected by a link that is fast enough for what runs by the clock. Private receipts never leave the node.
Source: server-server API, "Typing Notifications", "Presence", "Receipts".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from p2pserver.identifiers import is_user_id, server_of
from p2pserver.link.limits import Priority
from p2pserver.rooms.edus import receive_receipts
from p2pserver.rooms.live import LIVE_TOPIC, LiveChanges, Typing
from p2pserver.rooms.presence import Presence
from p2pserver.rooms.server_acl import is_denied
from p2pserver.store import memberships
from p2pserver.store.database import Database
from p2pserver.store.receipts import READ, Receipt, note_receipts_told, receipts_since, receipts_told
from p2pserver.store.room_stream import rooms_joined_by
from p2pserver.store.tx import Tx
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import decode_json_object, encode_json

log = logging.getLogger(__name__)

RECEIPTS_AT_ONCE: Final = 200
EDUS_MAX: Final = 300
"""EDUs in one message that are read."""
PRESENCE_MAX: Final = 100
"""Users in one presence EDU."""
TYPING_S: Final = 60.0
"""How long somebody elsewhere is taken to type, if nothing more is heard."""
TYPING_AGAIN_S: Final = 25.0
SLOW_S: Final = 60.0
"""On a slow link, the least time between two messages with receipts."""
NOTE_EVERY_S: Final = 30.0
FULL_S: Final = 1.0
"""When the way to the peer is full, how long until it is tried again."""

Edu = dict[str, Any]


class Peer(Protocol):
    """What is asked of a session with another server."""

    @property
    def talking(self) -> bool: ...

    @property
    def is_fast(self) -> bool:
        """Whether the link in use carries what runs by the clock."""

    def tell_ephemera(self, edus: bytes, priority: Priority) -> bool:
        """False, if it cannot be told now."""


def connected_topic(server: str) -> str:
    """Who waits for it is woken when a link to the server is up again."""
    return f"connected:{server}"


class Ephemera:
    """Tells other servers and hears them."""

    def __init__(
        self,
        *,
        database: Database,
        server_name: str,
        live: LiveChanges,
        typing: Typing,
        presence: Presence,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._server_name = server_name
        self._live = live
        self._typing = typing
        self._presence = presence
        self._clock = clock
        self._wall_ms = wall_ms

    # Telling

    async def tell(self, peer: Peer, server: str) -> None:
        """Keeps one peer up to date, as long as its conversation lives."""
        receipts = _ReceiptsTold(server, await self._database.read(lambda tx: receipts_told(tx, server)), self._clock())
        fleeting = _FleetingTold()
        while True:
            position, serial = self._database.position, self._live.serial
            is_fast, said = peer.is_fast, True
            edus, reached = await self._database.read(lambda tx: self._receipts(tx, server, receipts.told))
            if edus:
                said = _say(peer, edus, Priority.RECEIPT)
            if said:
                await receipts.reached(self._database, reached, self._clock(), were_some=bool(edus))
            if said and is_fast:
                said = await self._tell_fleeting(peer, server, fleeting)
            if not said or not is_fast:
                fleeting.forget()
            if not said and peer.talking:
                await asyncio.sleep(FULL_S)
                continue
            if edus and not is_fast:
                await asyncio.sleep(SLOW_S)  # what is read meanwhile goes together
                continue
            if said and (reached < position or (is_fast and self._live.serial != serial)):
                continue
            topics = ("receipts", connected_topic(server), *((LIVE_TOPIC,) if is_fast else ()))
            wait_s = TYPING_AGAIN_S if fleeting.typing else None
            if not await self._database.wait(topics, after=position, timeout_s=wait_s):
                fleeting.again = True

    def _receipts(self, tx: Tx, server: str, above: int) -> tuple[list[Edu], int]:
        """(what the peer has not been told, up to where that goes)."""
        upto = tx.position()
        found = receipts_since(tx, above=above, upto=upto, most=RECEIPTS_AT_ONCE)
        if len(found) == RECEIPTS_AT_ONCE:
            upto = found[-1].position
        own = [receipt for receipt in found if server_of(receipt.user_id) == self._server_name]
        shared = {room_id: memberships.is_joined(tx, room_id, server) for room_id in {each.room_id for each in own}}
        return [*_receipt_edus([receipt for receipt in own if shared[receipt.room_id]])], upto

    async def _tell_fleeting(self, peer: Peer, server: str, told: _FleetingTold) -> bool:
        """Tells typing and presence as far as that changed; False, if it could not be told."""
        changed = None if told.serial is None else self._live.since(told.serial)
        serial = self._live.serial
        rooms = self._typing.rooms() if changed is None else [key for key in changed if key.startswith("!")]
        if told.again:
            rooms = [*rooms, *(room_id for room_id in told.typing if room_id not in rooms)]
        users = self._presence.own_present() if changed is None else [key for key in changed if key.startswith("@")]
        typing = {room_id: self._own(self._typing.users(room_id)) for room_id in rooms}
        now_ms = self._wall_ms()
        presence = {
            user_id: {"user_id": user_id, **self._presence.of_user(user_id).content(now_ms)}
            for user_id in self._own(users)
        }

        def query(tx: Tx) -> tuple[set[str], list[Edu]]:
            shared = {room_id for room_id in typing if memberships.is_joined(tx, room_id, server)}
            return shared, [content for user_id, content in presence.items() if _meets(tx, user_id, server)]

        shared, pushed = await self._database.read(query)
        edus = [edu for room_id, typists in typing.items() if room_id in shared for edu in told.news(room_id, typists)]
        pushes = [pushed[start : start + PRESENCE_MAX] for start in range(0, len(pushed), PRESENCE_MAX)]
        edus += [{"edu_type": "m.presence", "content": {"push": push}} for push in pushes]
        if edus and not _say(peer, edus[:EDUS_MAX], Priority.PRESENCE):
            return False
        told.serial, told.again = serial, False
        return True

    def _own(self, user_ids: Sequence[str]) -> list[str]:
        return [user_id for user_id in user_ids if server_of(user_id) == self._server_name]

    # Hearing

    async def hear(self, server: str, text: bytes) -> None:
        """Takes what a peer tells of its own users; what it has no right to say is ignored."""
        try:
            edus = decode_json_object(text).get("edus")
        except WireError as error:
            log.debug("EDUs ignored", extra={"origin": server, "reason": str(error)})
            return
        for edu in edus[:EDUS_MAX] if isinstance(edus, list) else ():
            kind, content = (edu.get("edu_type"), edu.get("content")) if isinstance(edu, dict) else (None, None)
            if not isinstance(content, dict):
                continue
            if kind == "m.receipt":
                await self._database.write(lambda tx, content=content: receive_receipts(tx, server, content))  # type: ignore[misc]
            elif kind == "m.typing":
                await self._hear_typing(server, content)
            elif kind == "m.presence":
                await self._hear_presence(server, content)

    async def _hear_typing(self, server: str, content: Mapping[str, Any]) -> None:
        room_id, user_id, typing = content.get("room_id"), content.get("user_id"), content.get("typing")
        if not isinstance(room_id, str) or not isinstance(user_id, str) or server_of(user_id) != server:
            return

        def query(tx: Tx) -> bool:
            is_member = memberships.current_membership(tx, room_id, user_id) == "join"
            return is_member and not is_denied(tx, room_id, server)

        if typing is True and await self._database.read(query):
            self._typing.begin(room_id, user_id, for_s=TYPING_S)
        elif typing is False:
            self._typing.end(room_id, user_id)

    async def _hear_presence(self, server: str, content: Mapping[str, Any]) -> None:
        push = content.get("push")
        told = {
            entry["user_id"]: entry
            for entry in (push[:PRESENCE_MAX] if isinstance(push, list) else ())
            if isinstance(entry, dict) and is_user_id(entry.get("user_id")) and server_of(entry["user_id"]) == server
        }
        known = await self._database.read(
            lambda tx: [user_id for user_id in told if _meets(tx, user_id, self._server_name)]
        )
        for user_id in known:
            self._presence.told(user_id, told[user_id])

    def lost(self, server: str) -> None:
        """The link to a server is down: nobody knows what its users do now."""
        self._presence.lost(server)


class _ReceiptsTold:
    """Up to where one server was told of receipts. Written down now and then: what is told twice changes nothing."""

    def __init__(self, server: str, told: int, now: float) -> None:
        self.told = told
        self._server = server
        self._noted, self._noted_at = told, now

    async def reached(self, database: Database, position: int, now: float, *, were_some: bool) -> None:
        before, self.told = self.told, position
        if were_some and before > self._noted and now - self._noted_at >= NOTE_EVERY_S:
            # One message less than was told: it may not have arrived when the peer's process ends now.
            await database.write(lambda tx: note_receipts_told(tx, self._server, before))
            self._noted, self._noted_at = before, now


class _FleetingTold:
    """What one server knows of typing and presence here."""

    def __init__(self) -> None:
        self.serial: int | None = None
        """How far it knows the changes; None: it knows nothing."""
        self.typing: dict[str, list[str]] = {}
        self.again = False
        """Those who still type are to be told again, for it forgets them."""

    def forget(self) -> None:
        self.serial, self.typing, self.again = None, {}, False

    def news(self, room_id: str, typists: list[str]) -> Iterator[Edu]:
        """The EDUs about one room, after which the server knows who types there."""
        before = self.typing.pop(room_id, [])
        if typists:
            self.typing[room_id] = typists
        for user_id in typists:
            if user_id not in before or self.again:
                yield _typing_edu(room_id, user_id, typing=True)
        for user_id in before:
            if user_id not in typists:
                yield _typing_edu(room_id, user_id, typing=False)


def _typing_edu(room_id: str, user_id: str, *, typing: bool) -> Edu:
    return {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": user_id, "typing": typing}}


def _receipt_edus(receipts: Sequence[Receipt]) -> Iterator[Edu]:
    """One has room for a single receipt of a user in a room; those for other threads go into others."""
    contents: list[dict[str, dict[str, dict[str, Any]]]] = []
    for receipt in receipts:
        data: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id is not None:
            data["thread_id"] = receipt.thread_id
        entry = {"event_ids": [receipt.event_id], "data": data}
        for content in contents:
            by_user = content.setdefault(receipt.room_id, {}).setdefault(READ, {})
            if receipt.user_id not in by_user:
                by_user[receipt.user_id] = entry
                break
        else:
            contents.append({receipt.room_id: {READ: {receipt.user_id: entry}}})
    for content in contents:
        yield {"edu_type": "m.receipt", "content": content}


def _meets(tx: Tx, user_id: str, server: str) -> bool:
    """Whether the user is in a room with members of the server."""
    return any(memberships.is_joined(tx, room_id, server) for room_id in rooms_joined_by(tx, user_id))


def _say(peer: Peer, edus: Sequence[Edu], priority: Priority) -> bool:
    return peer.tell_ephemera(encode_json({"edus": list(edus)}), priority)
