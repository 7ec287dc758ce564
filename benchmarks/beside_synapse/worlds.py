"""What is in the databases before anything is measured: the same on each server, made through its client API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from benchmarks.beside_synapse.load import Connection, User, open_users
from benchmarks.beside_synapse.servers import Server

SENDERS = 16
MESSAGES_PER_ROOM = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything. The defaults are what the bars are about."""

    crowd: int = 1_000
    """Members of the large room."""
    rooms: int = 50
    """Rooms of the reader, with `MESSAGES_PER_ROOM` messages each."""
    many_rooms: int = 500
    room_members: int = 100
    room_events: int = 10_000


@dataclass(slots=True)
class World:
    """Accounts (user ID, token) and rooms."""

    accounts: list[tuple[str, str]] = field(default_factory=list)
    """The first `SENDERS` are in `talk`, and all are in `crowd`."""
    talk: str = ""
    crowd: str = ""
    rooms: list[str] = field(default_factory=list)
    """Of the first account, with history."""

    async def users(self, server: Server, most: int = SENDERS) -> list[User]:
        return await open_users(server.url, self.accounts[:most])


def kept(path: Path) -> World | None:
    """The world that was made before."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return World(**{**found, "accounts": [tuple(each) for each in found["accounts"]]})


def keep(path: Path, world: World) -> World:
    path.write_text(json.dumps(asdict(world)))
    return world


async def main_world(server: Server, size: Size) -> World:
    """Users, a room of `SENDERS`, a room of the whole crowd, and the reader's rooms."""
    path = server.folder / "world.json"
    if (world := kept(path)) is not None:
        return world
    world = World(accounts=await accounts(server, max(SENDERS, size.crowd)))
    users = await open_users(server.url, world.accounts)
    world.talk = await new_room(users[0], "talk")
    await joins(users[1:SENDERS], world.talk)
    world.crowd = await new_room(users[0], "crowd")
    await joins(users[1 : size.crowd], world.crowd)
    for number in range(size.rooms):
        world.rooms.append(await new_room(users[0], f"room {number}"))
    await joins(users[1:2], *world.rooms)

    async def fill(room_id: str) -> None:
        for number in range(MESSAGES_PER_ROOM):
            await users[1].ask(users[1].text(room_id, number))

    for room_id in world.rooms:
        await fill(room_id)
    for user in users:
        user.close()
    return keep(path, world)


async def many_rooms(server: Server, size: Size) -> World:
    """One user in many rooms."""
    path = server.folder / "world.json"
    if (world := kept(path)) is not None:
        return world
    world = World(accounts=await accounts(server, 1))
    (user,) = await world.users(server)
    for number in range(size.many_rooms):
        world.rooms.append(await new_room(user, f"room {number}"))
        await user.ask(user.text(world.rooms[-1], 0))
    user.close()
    return keep(path, world)


async def one_room(server: Server, size: Size) -> World:
    """One room with many members and a long history."""
    world = World(accounts=await accounts(server, size.room_members))
    users = await world.users(server, size.room_members)
    world.talk = await new_room(users[0], "large")
    await joins(users[1:], world.talk)
    left = max(0, size.room_events - size.room_members)

    async def send(user: User) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await user.ask(user.text(world.talk, left))

    await asyncio.gather(*(send(user) for user in users[:SENDERS]))
    for user in users:
        user.close()
    return world


async def accounts(server: Server, number: int) -> list[tuple[str, str]]:
    made: dict[int, tuple[str, str]] = {}

    async def make(index: int) -> None:
        connection = await Connection.open(server.url)
        made[index] = await server.register(connection, f"user{index}")
        connection.close()

    await few_at_once([lambda index=index: make(index) for index in range(number)])  # type: ignore[misc]
    return [made[index] for index in range(number)]


async def new_room(user: User, name: str) -> str:
    answer = await user.json("POST", "/createRoom", {"preset": "public_chat", "name": name})
    room_id: str = answer["room_id"]
    return room_id


async def joins(users: Sequence[User], *room_ids: str) -> None:
    async def join(user: User) -> None:
        for room_id in room_ids:
            await user.json("POST", f"/join/{quote(room_id)}")

    await few_at_once([lambda user=user: join(user) for user in users])  # type: ignore[misc]


async def few_at_once(work: Sequence[Callable[[], Awaitable[None]]], most: int = 4) -> None:
    """Runs all, `most` at once."""
    waiting = iter(work)

    async def worker() -> None:
        for each in waiting:
            await each()

    await asyncio.gather(*(worker() for _ in range(most)))
