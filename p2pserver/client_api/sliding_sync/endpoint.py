"""`POST /sync` in both dialects: reads, waits, answers. Source: MSC4186."""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.sliding_sync.answer import SlidingAnswer, sliding_answer
from p2pserver.client_api.sliding_sync.connections import Position
from p2pserver.client_api.sliding_sync.dialects import ACCEPTED, DEPLOYED, Dialect
from p2pserver.client_api.sliding_sync.scope import SlidingScope
from p2pserver.client_api.sync import live_view
from p2pserver.client_api.sync_scope import LiveView
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.account_data import get_account_data
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.to_device import delete_to_device, to_device_since
from p2pserver.store.tx import Tx

routes = Routes()

_NOTHING = Position(stream=-1, live=0)


@routes.route("POST", "/sync", versions=("unstable/org.matrix.simplified_msc3575",), cancelable=True)
async def sync_deployed(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /unstable/org.matrix.simplified_msc3575/sync`."""
    return await _sync(api, request, DEPLOYED)


@routes.route("POST", "/sync", versions=("v4",), cancelable=True)
async def sync_accepted(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /v4/sync`."""
    return await _sync(api, request, ACCEPTED)


async def _sync(api: ClientApi, request: ApiRequest, dialect: Dialect) -> dict[str, Any]:
    asked, requester = dialect.read(request), request.requester
    owner = (requester.user_id, requester.device_id, asked.conn_id)
    connections = api.sliding_syncs.connections
    before = _NOTHING if asked.pos is None else connections.position(*owner, asked.pos)
    if asked.extensions.to_device is not None and asked.extensions.to_device.since is not None:
        await _delete_delivered(api, request, asked.extensions.to_device.since)

    def build(tx: Tx, live: LiveView) -> SlidingAnswer:
        index = api.sliding_syncs.index(requester.user_id)
        index.update(tx)
        scope = SlidingScope(
            tx=tx,
            rooms=api.rooms,
            requester=requester,
            since=None if asked.pos is None else before.stream,
            upto=tx.position(),
            live=live,
            unread=api.unread,
            wall_ms=api.wall_ms(),
            ignored=ignored_users(tx, requester.user_id),
            dms=_direct_chats(tx, requester.user_id),
        )
        return sliding_answer(scope, asked, before, index)

    async def answer_now() -> SlidingAnswer:
        live = live_view(api, None if asked.pos is None else before.live)
        return await api.database.read(lambda tx: build(tx, live))

    loop = asyncio.get_running_loop()
    deadline = loop.time() + (0 if asked.pos is None else asked.timeout_ms / 1000)
    device = (requester.user_id, requester.device_id)
    api.presence.sync_begins(*device, asked.set_presence)
    try:
        answer = await answer_now()
        while not answer.eventful and (left_s := deadline - loop.time()) > 0:
            if api.live.serial == answer.position.live and not await api.database.wait(
                answer.topics, after=answer.position.stream, timeout_s=left_s
            ):
                break
            answer = await answer_now()
    finally:
        api.presence.sync_ends(*device, asked.set_presence)
    return dialect.write(connections.add(*owner, asked.pos, answer.position), answer)


def _direct_chats(tx: Tx, user_id: str) -> frozenset[str]:
    """Source: client-server API, "Direct Messaging"."""
    content = get_account_data(tx, user_id, None, "m.direct") or {}
    lists = [rooms for rooms in content.values() if isinstance(rooms, list)]
    return frozenset(room_id for rooms in lists for room_id in rooms if isinstance(room_id, str))


async def _delete_delivered(api: ClientApi, request: ApiRequest, since: int) -> None:
    """Drops the to-device messages that the client has, as its token proves."""
    who = (request.requester.user_id, request.requester.device_id)
    if since > api.database.position:
        return  # of another life of this node: what waits now was not delivered
    waiting = await api.database.read(lambda tx: to_device_since(tx, *who, -1, since, limit=1))
    if waiting:
        await api.database.write(lambda tx: delete_to_device(tx, *who, since))
