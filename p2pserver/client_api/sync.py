"""`GET /sync`: long polling.

An answer is built from one snapshot. If it would tell the client nothing, the request waits for a commit that concerns
the user or one of his rooms, and looks again. Source: client-server API, "Syncing"; docs/sync.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.event_filter import SyncFilter, filter_text
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.sync_response import SyncAnswer, sync_answer
from p2pserver.client_api.sync_scope import LiveView, SyncScope
from p2pserver.errors import InvalidParam
from p2pserver.http_api.routing import ApiRequest, Requester, Routes
from p2pserver.store.filters import get_filter
from p2pserver.store.to_device import delete_to_device, to_device_since
from p2pserver.store.tx import Tx

TIMEOUT_MS_MAX = 600_000
PRESENCES = ("online", "offline", "unavailable")
STATE_AFTER = {
    "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after",
    "use_state_after": "state_after",
}
"""By query parameter, the name of what is sent in the place of `state`. Clients of the first do not read the second."""

routes = Routes()


@routes.route("GET", "/sync")
async def sync(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    requester = request.requester
    since_text = request.query.get("since") or None
    since = None if since_text is None else StreamToken.parse(since_text)
    if since is not None and since.position > api.database.position:
        since = None  # of a time that this database knows nothing of: the client is told all anew (docs/backup.md)
    full_state = request.query_boolean("full_state")
    state_after = next((name for query, name in STATE_AFTER.items() if request.query_boolean(query)), None)
    timeout_ms = request.query_integer("timeout", default=0, most=TIMEOUT_MS_MAX)
    set_presence = request.query.get("set_presence", "online")
    if set_presence not in PRESENCES:
        raise InvalidParam("set_presence is none of online, offline, unavailable")
    filter_query = request.query.get("filter")
    sync_filter = await api.database.read(lambda tx: _filter_of(tx, requester.user_id, filter_query))
    if since is not None:
        await _delete_delivered(api, requester, since)
    sent = api.lazy_members.sent(requester.user_id, requester.device_id, since_text)

    def build(tx: Tx, live: LiveView) -> SyncAnswer:
        position = tx.position()
        scope = SyncScope(
            tx=tx,
            rooms=api.rooms,
            requester=requester,
            since=since,
            upto=position,
            sync_filter=sync_filter,
            full_state=full_state,
            state_after=state_after,
            wall_ms=api.wall_ms(),
            sent_members=sent,
            live=live,
            unread=api.unread,
        )
        return sync_answer(scope)

    async def answer_now() -> SyncAnswer:
        live = live_view(api, None if since is None else since.live)
        return await api.database.read(lambda tx: build(tx, live))

    at_once = since is None or full_state
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    device = (requester.user_id, requester.device_id)
    api.presence.sync_begins(*device, set_presence)
    try:
        answer = await answer_now()
        while not (answer.eventful or at_once):
            left_s = deadline - loop.time()
            if left_s > 0 and api.live.serial != answer.next_batch.live:
                answer = await answer_now()
                continue
            woken = left_s > 0 and await api.database.wait(
                answer.topics, after=answer.next_batch.position, timeout_s=left_s
            )
            if not woken:
                break
            answer = await answer_now()
    finally:
        api.presence.sync_ends(*device, set_presence)
    api.lazy_members.remember(requester.user_id, requester.device_id, str(answer.next_batch), sent, answer.sent_members)
    return answer.body


def live_view(api: ClientApi, since: int | None) -> LiveView:
    """What is news to a client that knows what there was at the number `since`; None: it knows nothing."""
    now = {room_id: api.typing.users(room_id) for room_id in api.typing.rooms()}
    changed = now if since is None else {key: now.get(key, []) for key in api.live.since(since) if key.startswith("!")}
    users = api.presence.present() if since is None else [key for key in api.live.since(since) if key.startswith("@")]
    presence = {user_id: api.presence.of_user(user_id).content(api.wall_ms()) for user_id in users}
    return LiveView(serial=api.live.serial, typing=changed, typing_now=now, presence=presence)


def _filter_of(tx: Tx, user_id: str, query: str | None) -> SyncFilter:
    """The filter that the query parameter holds or names.

    Raises: InvalidParam, if it is not JSON or no filter of this user; BadJson, if a part of it has a wrong type.
    """
    if query is None:
        return SyncFilter()
    if query.startswith("{"):
        return SyncFilter.of(filter_text(query))
    definition = get_filter(tx, user_id, query)
    if definition is None:
        raise InvalidParam("there is no such filter")
    return SyncFilter.of(definition)


async def _delete_delivered(api: ClientApi, requester: Requester, since: StreamToken) -> None:
    """Drops the to-device messages that the client has, as its token proves."""
    upto = since.position if since.to_device is None else since.to_device
    who = (requester.user_id, requester.device_id)
    waiting = await api.database.read(lambda tx: to_device_since(tx, *who, -1, upto, limit=1))
    if waiting:
        await api.database.write(lambda tx: delete_to_device(tx, *who, upto))
