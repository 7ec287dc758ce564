"""What the admin API asks of the edge for apps, answered by it: the two do not import each other."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_event
from p2pserver.client_api.joining import join_room
from p2pserver.client_api.profiles import spread_profiles
from p2pserver.events.pdu import Pdu


class AppEdgeOf:
    """The `AppEdge` of a node."""

    def __init__(self, api: ClientApi) -> None:
        self._api = api

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self._api.spawn(work, name=name)

    def spread_profiles(self) -> None:
        self._api.spawn(spread_profiles(self._api), name="spread-profiles")

    def shown(self, event: Pdu) -> dict[str, Any]:
        return client_event(event, wall_ms=self._api.wall_ms())

    async def join(self, *, user_id: str, room_id: str, via: Iterable[str]) -> str:
        return await join_room(self._api, user_id=user_id, room_id=room_id, via=via, reason=None)
