"""What is measured, once per round and server. Seconds in, what the bars ask for out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from urllib.parse import quote

from benchmarks.beside_synapse.load import Connection, User, request_of
from benchmarks.beside_synapse.servers import Server
from benchmarks.beside_synapse.worlds import World

WAIT_MS = 30_000
STORM_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is done for one figure."""

    rounds: int = 5
    seconds: float = 8.0
    """Of sending as fast as it goes."""
    sends: int = 200
    """By one sender, or to one that waits."""
    syncs: int = 8
    pages: int = 20
    burst: int = 300
    logins: int = 500
    storms: int = 2
    idle_s: float = 5.0
    """After which a server that was started, or was busy, is called idle."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, and what the server spent on one."""

    per_s: float
    cpu_ms_each: float


async def sending(server: Server, world: World, room_id: str, *, seconds: float) -> Rate:
    """As many texts as all senders bring into a room, each one after the answer to the one before."""
    users = await world.users(server)
    cpu_s, started = server.cpu_s(), time.perf_counter()
    stop_at = started + seconds
    done = 0

    async def send(user: User) -> None:
        nonlocal done
        while time.perf_counter() < stop_at:
            await user.ask(user.text(room_id, done))
            done += 1

    await asyncio.gather(*(send(user) for user in users))
    took = time.perf_counter() - started
    for user in users:
        user.close()
    return Rate(done / took, (server.cpu_s() - cpu_s) * 1000 / max(1, done))


async def one_sender(server: Server, world: World, *, sends: int) -> list[float]:
    """Seconds of each send of one sender, one after the other."""
    user = (await world.users(server, 1))[0]
    requests = [user.text(world.talk, number) for number in range(sends)]
    took = [await user.timed(request) for request in requests]
    user.close()
    return took


async def initial_syncs(server: Server, world: World, *, times: int) -> list[float]:
    """First syncs of all rooms of the reader, each with another filter: Synapse keeps answers for a while."""
    user = (await world.users(server, 1))[0]
    took = []
    for number in range(times):
        room = {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}
        content = {"room": room, "account_data": {"not_types": [f"org.example.{time.time_ns()}.{number}"]}}
        query = f"/sync?timeout=0&filter={quote(json.dumps(content, separators=(',', ':')))}"
        took.append(await user.timed(user.request("GET", query)))
    user.close()
    return took


async def sliding_syncs(server: Server, world: World, *, times: int) -> list[float]:
    """First sliding syncs with a window over all rooms of the reader, each of another connection."""
    user = (await world.users(server, 1))[0]
    required = [["m.room.name", ""], ["m.room.avatar", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"]]
    window = {"ranges": [[0, len(world.rooms) + 1]], "timeline_limit": 20, "required_state": required}
    took = []
    for _ in range(times):
        body = {"conn_id": str(time.time_ns()), "lists": {"all": window}, "extensions": {}}
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
        took.append(await user.timed(request_of("POST", path, token=user.token, body=body)))
    user.close()
    return took


async def pages(server: Server, world: World, *, rooms: int) -> list[float]:
    """Seconds for each room that is read back to its beginning, ten events at a time."""
    user = (await world.users(server, 1))[0]
    took = []
    for room_id in world.rooms[:rooms]:
        started, token = time.perf_counter(), None
        while True:
            query = "dir=b&limit=10" + (f"&from={token}" if token else "")
            answer = await user.json("GET", f"/rooms/{quote(room_id)}/messages?{query}")
            token = answer.get("end")
            if token is None:
                break
        took.append(time.perf_counter() - started)
    user.close()
    return took


async def deliveries(server: Server, world: World, *, sends: int) -> list[float]:
    """Seconds from a send to the moment when another user's long poll has the event."""
    sender, receiver = await world.users(server, 2)
    took = await delivered(sender, receiver, world.talk, sends=sends)
    for user in (sender, receiver):
        user.close()
    return took


async def delivered(sender: User, receiver: User, room_id: str, *, sends: int) -> list[float]:
    """The same for any two users, on one server or two."""
    since = (await receiver.sync())["next_batch"]
    took = []
    for number in range(sends):
        polling = asyncio.create_task(receiver.sync(since=since, timeout_ms=WAIT_MS))
        await asyncio.sleep(0.01)
        started = time.perf_counter()
        sent = json.loads(await sender.ask(sender.text(room_id, number)))["event_id"]
        while True:
            answer = await polling
            since = answer["next_batch"]
            if sent in event_ids_of(answer, room_id):
                took.append(time.perf_counter() - started)
                break
            polling = asyncio.create_task(receiver.sync(since=since, timeout_ms=WAIT_MS))
    return took


def event_ids_of(answer: dict[str, object], room_id: str) -> list[str]:
    """The events of a room in an answer of `/sync`."""
    rooms = answer.get("rooms")
    joined = rooms.get("join", {}) if isinstance(rooms, dict) else {}
    return [event["event_id"] for event in joined.get(room_id, {}).get("timeline", {}).get("events", [])]


async def burst(senders: Sequence[User], receiver: User, room_id: str, *, number: int, within_s: float) -> int:
    """How many of `number` events, sent as fast as it goes, come to a receiver who only syncs."""
    since = (await receiver.sync())["next_batch"]
    left, sent, seen = number, set(), set[str]()

    async def send(user: User) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            sent.add(json.loads(await user.ask(user.text(room_id, left)))["event_id"])

    async def receive() -> None:
        nonlocal since
        more = {"filter": '{"room":{"timeline":{"limit":1000}}}'}
        while len(sent) < number or not sent <= seen:
            answer = await receiver.sync(since=since, timeout_ms=1_000, more=more)
            since = answer["next_batch"]
            seen.update(event_ids_of(answer, room_id))

    sending = asyncio.gather(*(send(user) for user in senders))
    try:
        async with asyncio.timeout(within_s):
            await asyncio.gather(sending, receive())
    except TimeoutError:
        pass
    return len(sent & seen)


@dataclass(frozen=True, slots=True)
class Storm:
    """How many logins were answered 200, and when the last answer came."""

    answered: int
    seconds: float


async def login_storm(server: Server, names: Sequence[str], password: str, *, logins: int) -> Storm:
    """Logins that are all asked for at once, each on a connection of its own."""
    started = time.perf_counter()

    async def log_in(index: int) -> bool:
        name = names[index % len(names)]
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        try:
            async with asyncio.timeout(STORM_TIMEOUT_S):
                connection = await Connection.open(server.url)
                status, _ = await connection.ask(request_of("POST", "/_matrix/client/v3/login", body=body))
                connection.close()
        except (OSError, TimeoutError):
            return False
        return status == 200

    answered = await asyncio.gather(*(log_in(index) for index in range(logins)))
    return Storm(sum(answered), time.perf_counter() - started)


def middle(values: Sequence[float]) -> float:
    return median(values)


def p50(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return median(seconds) * 1000


def p99(seconds: Sequence[float]) -> float:
    """In milliseconds; the slowest, of less than a hundred."""
    return (max(seconds) if len(seconds) < 100 else quantiles(seconds, n=100)[98]) * 1000
