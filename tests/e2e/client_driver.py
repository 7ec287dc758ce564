"""A matrix-nio client in a process of its own, so that it can live in another network namespace.

Reads one JSON command a line on standard input, answers each with one JSON line on standard output:
`{"do": "send_many", "room": "!…", "bodies": ["…"]}` -> `{"ok": ["$…"]}` or `{"error": "…"}`.
What it tells of a room is what the client came to believe from `/sync` and `/messages`, not what the server says.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
from nio import (
    AsyncClient,
    AsyncClientConfig,
    ErrorResponse,
    MessageDirection,
    RoomMessagesResponse,
    RoomMessageText,
    SyncResponse,
)

R = TypeVar("R")
SECONDS_TO_RETRY = 90.0


class Driver:
    def __init__(self, url: str) -> None:
        self.client = AsyncClient(
            url, config=AsyncClientConfig(request_timeout=20, max_timeouts=1, max_limit_exceeded=0)
        )
        self.messages: dict[str, dict[str, str]] = {}
        self.changed = asyncio.Event()
        self.syncing: asyncio.Task[None] | None = None
        self.next_txn = 0

    async def persist(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """Repeats a call while the server is away or does not answer; each call carries its own transaction ID."""
        deadline = time.monotonic() + SECONDS_TO_RETRY
        while True:
            try:
                response = await attempt()
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
                continue
            status = getattr(getattr(response, "transport_response", None), "status", 200)
            if isinstance(response, ErrorResponse) and status >= 500 and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
                continue
            if isinstance(response, ErrorResponse):
                raise RuntimeError(f"{type(response).__name__} {response.status_code}: {response.message}")
            return response

    async def register(self, name: str, password: str) -> str:
        await self.persist(lambda: self.client.register(name, password, device_name="test"))
        self.syncing = asyncio.create_task(self.sync_for_ever())
        return self.client.user_id

    async def login(self, user: str, password: str) -> str:
        self.client.user = user
        await self.persist(lambda: self.client.login(password, device_name="test"))
        self.syncing = asyncio.create_task(self.sync_for_ever())
        return self.client.user_id

    async def sync_for_ever(self) -> None:
        while True:
            try:
                response = await self.client.sync(timeout=10_000, since=self.client.next_batch or None)
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                await asyncio.sleep(0.2)
                continue
            if not isinstance(response, SyncResponse):
                await asyncio.sleep(0.2)
                continue
            for room_id, joined in response.rooms.join.items():
                if joined.timeline.limited:
                    await self.page_back(room_id, joined.timeline.prev_batch)
                self.keep(room_id, joined.timeline.events)
            self.changed.set()

    async def page_back(self, room_id: str, start: str | None) -> None:
        """Fills the gap that a limited timeline leaves, until something known or the start of the room."""
        for _ in range(100):
            here = start
            response = await self.persist(
                lambda here=here: self.client.room_messages(room_id, here, direction=MessageDirection.back, limit=50)
            )
            assert isinstance(response, RoomMessagesResponse)
            known = any(event.event_id in self.messages.get(room_id, {}) for event in response.chunk)
            self.keep(room_id, response.chunk)
            start = response.end
            if known or not start:
                return

    def keep(self, room_id: str, events: list[Any]) -> None:
        room = self.messages.setdefault(room_id, {})
        for event in events:
            if isinstance(event, RoomMessageText):
                room[event.event_id] = event.body

    async def create(self, **options: Any) -> str:
        return (await self.persist(lambda: self.client.room_create(**options))).room_id

    async def invite(self, room: str, user: str) -> None:
        await self.persist(lambda: self.client.room_invite(room, user))

    async def wait_invite(self, room: str, seconds: float = 60) -> str:
        await self.until(lambda: room in self.client.invited_rooms, seconds, "the invite did not arrive")
        return room

    async def join(self, room: str) -> str:
        return (await self.persist(lambda: self.client.join(room))).room_id

    async def send_many(self, room: str, bodies: list[str], pause: float = 0.0) -> list[str]:
        sent = []
        for body in bodies:
            sent.append(await self.send(room, body))
            await asyncio.sleep(pause)
        return sent

    async def send_concurrently(self, room: str, lists: list[list[str]]) -> list[str]:
        """Several senders at once, each in its own order."""
        sent = await asyncio.gather(*(self.send_many(room, bodies) for bodies in lists))
        return [event_id for part in sent for event_id in part]

    async def send(self, room: str, body: str) -> str:
        self.next_txn += 1
        txn = f"m{self.next_txn}"
        content = {"msgtype": "m.text", "body": body}
        response = await self.persist(
            lambda: self.client.room_send(room, "m.room.message", content, tx_id=txn, ignore_unverified_devices=True)
        )
        return response.event_id

    async def state(self, room: str, event_type: str, content: dict[str, Any], state_key: str = "") -> str:
        return (await self.persist(lambda: self.client.room_put_state(room, event_type, content, state_key))).event_id

    async def server_state(self, room: str) -> list[list[str]]:
        response = await self.persist(lambda: self.client.room_get_state(room))
        return sorted([e["type"], e["state_key"], e["event_id"]] for e in response.events)

    async def level(self, room: str, user: str, level: int) -> str:
        response = await self.persist(lambda: self.client.room_get_state_event(room, "m.room.power_levels"))
        content = response.content
        content.setdefault("users", {})[user] = level
        return await self.state(room, "m.room.power_levels", content)

    async def ban(self, room: str, user: str) -> None:
        await self.persist(lambda: self.client.room_ban(room, user))

    async def wait_messages(self, room: str, count: int, seconds: float = 60) -> int:
        await self.until(
            lambda: len(self.messages.get(room, {})) >= count,
            seconds,
            lambda: f"{len(self.messages.get(room, {}))} of {count} messages arrived",
        )
        return len(self.messages[room])

    async def wait_name(self, room: str, name: str, seconds: float = 30) -> str:
        await self.until(lambda: room in self.client.rooms and self.client.rooms[room].name == name, seconds, "no name")
        return name

    async def until(self, condition: Callable[[], bool], seconds: float, message: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(message if isinstance(message, str) else message())
            self.changed.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self.changed.wait()
            except TimeoutError:
                continue

    async def view(self, room: str) -> dict[str, Any]:
        seen = self.client.rooms[room]
        return {
            "name": seen.name,
            "members": sorted(seen.users),
            "levels": dict(sorted(seen.power_levels.users.items())),
            "messages": sorted(self.messages.get(room, {}).values()),
            "event_ids": sorted(self.messages.get(room, {})),
        }

    async def search_users(self, term: str) -> list[str]:
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        url = f"{self.client.homeserver}/_matrix/client/v3/user_directory/search"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"search_term": term}, headers=headers) as response,
        ):
            return [one["user_id"] for one in (await response.json())["results"]]


async def main(url: str) -> None:
    driver = Driver(url)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(driver, command.pop("do"))(**command)}
        except Exception as error:  # noqa: BLE001  # the test that sent the command is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    if driver.syncing is not None:
        driver.syncing.cancel()
    await driver.client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
