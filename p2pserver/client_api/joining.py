"""Joining a room: here if this node is in it, else through a server that is; and later, if none can be asked now.

A knock on a room that is not here goes the same way (`knocking.py`): it is a pending join with another membership.

    POST /join -> resident? one member event
               -> else: pending row -> ask the servers that may know the room, the likeliest first
                                       -> an offer: join event and partial room in one unit, row deleted
                                       -> none reachable: the client is told so, the row stays and is tried again
                                          whenever one of them is connected; the room then appears in /sync

Source: server-server API, "Joining Rooms" (one round trip instead of two); DESIGN "Requests"; docs/sync.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pserver.client_api.join_progress import JoinProgress, Meter
from p2pserver.client_api.member_events import is_resident, profile_content, send_member_event
from p2pserver.errors import Forbidden, InvalidParam, MatrixError, NotFound, PeerUnreachable, UnableToGrantJoin
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.identifiers import is_room_id, is_server_name, server_of
from p2pserver.store import memberships
from p2pserver.store.pending_joins import (
    TOPIC,
    PendingJoin,
    drop_pending_join,
    drop_pending_joins_before,
    note_progress,
    pending_join,
    pending_joins,
    put_pending_join,
)
from p2pserver.store.tx import Tx

if TYPE_CHECKING:
    from p2pserver.client_api.app import ClientApi

ANSWER_S = 30.0
"""A client that asks to join is answered within this time."""
ASK_S = 20.0
VIA_MAX = 50
PENDING_MS_MAX = 7 * 24 * 3600 * 1000
LOOK_S = 2.0
"""How often the connected servers are looked at while joins are pending."""
AGAIN_S = 60.0
"""How soon a join is tried again while nobody new is connected."""

_CONCLUSIVE = ("M_FORBIDDEN", "M_INCOMPATIBLE_ROOM_VERSION", "M_UNSUPPORTED_ROOM_VERSION")


class Joins:
    """The joins under way; one per node."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str], asyncio.Task[str]] = {}
        self.progress: dict[tuple[str, str], JoinProgress] = {}
        """How far the answers of those have come of which a part has arrived."""

    async def attempt(self, api: ClientApi, user_id: str, room_id: str) -> str:
        """Tries a pending join once; a second call while the first runs waits for the same result.

        Raises: as `_enter_through_others`.
        """
        key = (user_id, room_id)
        task = self.running.get(key)
        if task is None:
            task = asyncio.create_task(_enter_through_others(api, user_id, room_id), name="join")
            self.running[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: tuple[str, str], task: asyncio.Task[str]) -> None:
        del self.running[key]
        self.progress.pop(key, None)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        tasks = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def join_room(api: ClientApi, *, user_id: str, room_id: str, via: Iterable[str], reason: str | None) -> str:
    """Joins a local user to a room and returns its ID.

    Raises: InvalidParam; Forbidden; NotFound, if no server is known that could know the room; PeerUnreachable, if none
    of them can be asked now: the join is then tried again in the background.
    """
    if not is_room_id(room_id):
        raise InvalidParam("that is not a room ID")
    alone = not api.remote.connected()

    def locally(tx: Tx) -> bool:
        content = {"membership": "join", **profile_content(api, tx, user_id)}
        if reason is not None:
            content["reason"] = reason
        if api.rooms.membership(tx, room_id, user_id) == "join" and is_resident(api, tx, room_id):
            return True
        if is_resident(api, tx, room_id):
            try:
                send_member_event(api, tx, room_id=room_id, sender=user_id, target=user_id, content=content)
            except UnableToGrantJoin:
                if not api.rooms.member_servers(tx, room_id) - {api.server_name}:
                    raise
            else:
                drop_pending_join(tx, user_id, room_id)
                return True
        api.rooms.check_is_not_blocked(tx, room_id, user_id)
        servers = candidates(api, tx, user_id, room_id, via)
        if not servers and alone:
            raise NotFound("no server is known that could know this room")
        put_pending_join(tx, user_id=user_id, room_id=room_id, via=servers, content=content, requested_ms=api.wall_ms())
        return False

    if await api.database.write(locally):
        return room_id
    return await answered_in_time(api, user_id, room_id, what="join")


async def answered_in_time(api: ClientApi, user_id: str, room_id: str, *, what: str) -> str:
    """Tries a pending join or knock, for as long as a client waits. Raises: as `_enter_through_others`."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await api.joins.attempt(api, user_id, room_id)
    except TimeoutError as error:
        so_far = _so_far(api.joins.progress.get((user_id, room_id)))
        raise PeerUnreachable(f"the room's servers are slow; the {what} goes on in the background{so_far}") from error


def _so_far(progress: JoinProgress | None) -> str:
    """What a client that waits can be told."""
    if progress is None or progress.seconds_left is None:
        return ""
    return f": {progress.percent} % is here, about {progress.seconds_left:.0f} s left"


async def retry_pending_joins(api: ClientApi) -> None:
    """Tries the pending joins, of this run and earlier ones, whenever a server is connected that was not before."""
    tried_s: dict[tuple[str, str], float] = {}
    known: frozenset[str] = frozenset()
    loop = asyncio.get_running_loop()
    while True:
        position = api.database.position
        waiting = await api.database.read(pending_joins)
        if not waiting:
            tried_s.clear()
            known = frozenset()
            await api.database.wait([TOPIC], after=position, timeout_s=None)
            continue
        oldest_ms = api.wall_ms() - PENDING_MS_MAX
        if waiting[0].requested_ms < oldest_ms:
            await api.database.write(lambda tx, before=oldest_ms: drop_pending_joins_before(tx, before))  # type: ignore[misc]
            continue
        connected = frozenset(api.remote.connected())
        newly, known = connected - known, connected
        for join in waiting:
            key = (join.user_id, join.room_id)
            due = loop.time() - tried_s.get(key, -AGAIN_S) >= AGAIN_S
            if connected and key not in api.joins.running and (newly or due):
                tried_s[key] = loop.time()
                api.spawn(_try_quietly(api, join), name="retry-join")
        await asyncio.sleep(LOOK_S)


async def _try_quietly(api: ClientApi, join: PendingJoin) -> None:
    try:
        await api.joins.attempt(api, join.user_id, join.room_id)
    except MatrixError:
        return  # the row stays or is gone, as the error deserves; nobody waits for the answer any more


async def _enter_through_others(api: ClientApi, user_id: str, room_id: str) -> str:
    """Asks the servers of a pending join or knock one after another; what is concluded, is deleted.

    Raises: PeerUnreachable, with the row kept, if a server that may know the room cannot be asked (a knock that one
    server has refused is not tried with another); else the error of the servers that could.
    """
    join = await api.database.read(lambda tx: pending_join(tx, user_id, room_id))
    if join is None:
        raise NotFound("this join was given up")
    connected = api.remote.connected()
    servers = list(dict.fromkeys((*join.via, *connected)))
    error: MatrixError = NotFound("no server that can be asked knows this room")
    unreachable = False
    is_knock = join.content["membership"] == "knock"
    for server in servers:
        if server not in connected:
            unreachable = True
            continue
        try:
            await (_knock_through if is_knock else _join_through)(api, join, server)
        except PeerUnreachable:
            unreachable = True
        except MatrixError as refused:
            if refused.errcode in _CONCLUSIVE or error.errcode == "M_NOT_FOUND":
                error = refused
        else:
            return room_id
    if unreachable and not (is_knock and error.errcode != "M_NOT_FOUND"):
        what = "knock" if is_knock else "join"
        raise PeerUnreachable(f"no server that knows the room can be asked now; the {what} goes on in the background")
    await api.database.write(lambda tx: drop_pending_join(tx, user_id, room_id))
    raise error


async def _join_through(api: ClientApi, join: PendingJoin, server: str) -> None:
    meter = Meter(asyncio.get_running_loop().time())
    offer = await api.remote.ask(
        server,
        "join",
        {"room_id": join.room_id, "user_id": join.user_id, "versions": list(ROOM_VERSIONS)},
        timeout_s=ASK_S,
        progress=partial(_follow, api, join, server, meter),
    )
    signed = await _vouched(api, join, offer)
    await api.database.write(partial(_accept, api, join=join, offer=offer, resident=server, signed=signed))
    if meter.has_told:
        api.tell_join(JoinProgress(join.user_id, join.room_id, server, 0, 0, None))


async def _knock_through(api: ClientApi, join: PendingJoin, server: str) -> None:
    room_id, user_id = join.room_id, join.user_id
    question = {"room_id": room_id, "user_id": user_id, "versions": list(ROOM_VERSIONS)}
    template = await api.remote.ask(server, "make_knock", question, timeout_s=ASK_S)
    event = api.rooms.make_knock(template, room_id=room_id, user_id=user_id, content=join.content)
    answer = await api.remote.ask(server, "send_knock", {"room_id": room_id, "event": dict(event.raw)}, timeout_s=ASK_S)

    def keep(tx: Tx) -> None:
        api.rooms.keep_knock(tx, knock=event, answer=answer, via=server)
        drop_pending_join(tx, user_id, room_id)

    await api.database.write(keep)


def _follow(api: ClientApi, join: PendingJoin, server: str, meter: Meter, octets: int, octets_all: int) -> None:
    """A part of the answer arrived: whoever waits may want to know how long it will take."""
    now_s = asyncio.get_running_loop().time()
    left_s = meter.seconds_left(octets, octets_all, now_s)
    progress = JoinProgress(join.user_id, join.room_id, server, octets, octets_all, left_s)
    api.joins.progress[join.user_id, join.room_id] = progress
    if meter.is_worth_telling(left_s, now_s):
        api.tell_join(progress)
        api.spawn(_note(api, progress), name="note-join-progress")


async def _note(api: ClientApi, progress: JoinProgress) -> None:
    await api.database.write(
        lambda tx: note_progress(
            tx,
            progress.user_id,
            progress.room_id,
            source=progress.server,
            octets=progress.octets,
            octets_all=progress.octets_all,
            seconds_left=round(progress.seconds_left or 0.0),
        )
    )


async def _vouched(api: ClientApi, join: PendingJoin, offer: dict[str, Any]) -> dict[str, Any] | None:
    """For a restricted room: the join event with the signature of the server of the member who lets the user in."""
    if offer.get("room_id") != join.room_id:
        return None
    draft = await api.database.write(
        lambda tx: api.rooms.draft_join(tx, user_id=join.user_id, offer=offer, content=join.content)
    )
    if draft is None:
        return None
    server, event = draft
    question = {"room_id": join.room_id, "event": dict(event.raw)}
    answer = await api.remote.ask(server, "sign_join", question, timeout_s=ASK_S)
    signed = answer.get("event")
    if not isinstance(signed, dict):
        raise Forbidden("the server of the member who lets you in has not signed")
    return signed


def _accept(
    api: ClientApi,
    tx: Tx,
    *,
    join: PendingJoin,
    offer: dict[str, Any],
    resident: str,
    signed: dict[str, Any] | None,
) -> None:
    """Joins with an offer, unless the user has changed his mind or is in the room already."""
    if offer.get("room_id") != join.room_id:
        raise Forbidden("the answer is about another room")
    if pending_join(tx, join.user_id, join.room_id) is None:
        raise Forbidden("this join was given up")
    drop_pending_join(tx, join.user_id, join.room_id)
    api.rooms.join_with(tx, user_id=join.user_id, offer=offer, resident=resident, content=join.content, signed=signed)


def candidates(api: ClientApi, tx: Tx, user_id: str, room_id: str, via: Iterable[str]) -> list[str]:
    """Servers that may know the room: named by the client, the inviter's, the room ID's, those of past members."""
    names = [server for server in via if is_server_name(server)]
    invite = memberships.invite(tx, user_id, room_id)
    if invite is not None:
        names += [server_of(invite.inviter), invite.via]
    if ":" in room_id:
        names.append(server_of(room_id))
    names += sorted(memberships.joined_servers(tx, room_id))
    return [server for server in dict.fromkeys(names) if server != api.server_name][:VIA_MAX]
