"""Somebody at a client of a real node: joins what he is invited to, and waits for what others write."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.client_api.harness import Client
from tests.client_api.talk import at

PATIENCE_S = 180
_numbers = itertools.count(1)


class Person:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.said: dict[str, list[tuple[str, str]]] = {}
        """By room, (sender, text) of what he saw."""
        self.names: dict[str, str] = {}
        self.members: dict[str, set[str]] = {}
        self._since: str | None = None

    @property
    def user_id(self) -> str:
        return self.client.user_id

    async def room_with(self, user_id: str) -> str:
        """A room to which somebody is invited, once he is there."""
        room_id: str = (await self.client.post("/createRoom", {"invite": [user_id], "is_direct": True}))["room_id"]
        await self.until(lambda: user_id in self.members.get(room_id, ()), f"{user_id} did not come")
        return room_id

    async def say(self, room_id: str, text: str) -> str:
        path = at(room_id, "send", "m.room.message", f"p{next(_numbers)}")
        event_id: str = (await self.client.put(path, {"msgtype": "m.text", "body": text}))["event_id"]
        return event_id

    async def hears(self, room_id: str, part: str, *, times: int = 1) -> str:
        """Who wrote something with these words, for the so-many-th time."""

        def found() -> list[str]:
            return [sender for sender, text in self.said.get(room_id, ()) if part in text]

        await self.until(lambda: len(found()) >= times, f"nobody said {part!r}")
        return found()[times - 1]

    async def room_named(self, part: str) -> str:
        """The room whose name has this part, once he is in it."""

        def found() -> list[str]:
            return [room_id for room_id, name in self.names.items() if part in name]

        await self.until(lambda: bool(found()), f"no room {part!r}")
        return found()[0]

    async def until(self, is_true: Callable[[], bool], missing: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_true():
                    await self._sync()
        except TimeoutError:
            raise AssertionError(f"{missing}; seen was {self.said} in {self.names}") from None

    async def _sync(self) -> None:
        query = {} if self._since is None else {"since": self._since}
        body = (await self.client.get("/sync", timeout=10_000, **query)).body
        self._since = body["next_batch"]
        for room_id in body["rooms"]["invite"]:
            await self.client.post(at(room_id, "join"))
        for room_id, room in body["rooms"]["join"].items():
            for event in [*room["state"]["events"], *room["timeline"]["events"]]:
                self._note(room_id, event)

    def _note(self, room_id: str, event: dict[str, Any]) -> None:
        content = event["content"]
        if event["type"] == "m.room.message":
            self.said.setdefault(room_id, []).append((event["sender"], content.get("body", "")))
        elif event["type"] == "m.room.name":
            self.names[room_id] = content.get("name", "")
        elif event["type"] == "m.room.member":
            members = self.members.setdefault(room_id, set())
            (members.add if content["membership"] == "join" else members.discard)(event["state_key"])


@asynccontextmanager
async def person_at(url: str, name: str, password: str = "secret") -> AsyncIterator[Person]:
    """A new account on a node."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        stranger = Client(http)
        auth = {"type": "m.login.dummy"}
        made = await stranger.post("/register", {"username": name, "password": password, "auth": auth})
        client = Client(http, made["access_token"])
        client.user_id = made["user_id"]
        yield Person(client)
