"""The whole run: worlds are made, then each figure is taken on both servers in turn, round by round."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from benchmarks.beside_synapse import measures
from benchmarks.beside_synapse.load import Connection, User
from benchmarks.beside_synapse.measures import Effort, p50, p99
from benchmarks.beside_synapse.report import Line
from benchmarks.beside_synapse.servers import PASSWORD, P2pServer, Server, Synapse, free_port
from benchmarks.beside_synapse.worlds import SENDERS, Size, World, joins, main_world, many_rooms, new_room, one_room

T = TypeVar("T")
Tell = Callable[[str], None]
MB = 1_000_000
REMOTE_P50_MS_SYNAPSE = 48.6
"""From one Synapse to another over TLS on loopback, as it was measured when this was begun: not measured here."""
BURST_WITHIN_S = 60.0


@dataclass(slots=True)
class Run:
    """Where figures are gathered. Without `synapse` only p2pserver is measured."""

    folder: Path
    size: Size
    effort: Effort
    synapse: bool
    tell: Tell
    lines: list[Line] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return ["p2pserver", "synapse"] if self.synapse else ["p2pserver"]

    async def server(self, kind: str, name: str, make: Callable[[Server, Size], Awaitable[World]]) -> Server:
        """A server for a world, not running yet.

        Synapse's world is made once and kept for later runs, each on a copy: it takes minutes.
        """
        folder = self.folder / f"{kind}-{name}"
        if kind == "p2pserver":
            return P2pServer(folder)
        kept = _kept_folder(self.size) / name
        if not (kept / "world.json").exists():
            self.tell(f"making the world {name!r} in {kept}")
            server = Synapse(kept)
            await server.start()
            try:
                await make(server, self.size)
            finally:
                await server.stop()
        if not folder.exists():
            shutil.copytree(kept, folder)
        return Synapse(folder)


def _kept_folder(size: Size) -> Path:
    key = hashlib.sha256(json.dumps(asdict(size)).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"beside-synapse-{version('matrix-synapse')}-{key}"


async def talking(run: Run) -> None:
    """Both servers run; each figure is taken on one, then on the other."""
    effort = run.effort
    servers = {kind: await run.server(kind, "main", main_world) for kind in run.kinds()}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            await server.start()
            stack.push_async_callback(server.stop)
        run.tell("making what is not there yet of the world 'main'")
        worlds = {kind: await main_world(server, run.size) for kind, server in servers.items()}

        async def rounds(name: str, measure: Callable[[Server, World], Awaitable[T]]) -> dict[str, list[T]]:
            taken: dict[str, list[T]] = {kind: [] for kind in servers}
            for number in range(effort.rounds):
                order = list(servers) if number % 2 == 0 else list(servers)[::-1]
                for kind in order:
                    taken[kind].append(await measure(servers[kind], worlds[kind]))
            run.tell(f"measured: {name}")
            return taken

        for what, room, times in (("16 senders", "talk", 5.0), (f"a room of {run.size.crowd}", "crowd", 20.0)):
            rates = await rounds(what, partial(_sending, room=room, seconds=effort.seconds))
            cpu = {kind: measures.middle([rate.cpu_ms_each for rate in found]) for kind, found in rates.items()}
            note = "CPU of the server for each: " + ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in cpu.items())
            run.lines.append(
                Line(
                    what=f"durable sends, {what}",
                    unit="a second",
                    ours=[rate.per_s for rate in rates["p2pserver"]],
                    theirs=[rate.per_s for rate in rates.get("synapse", ())],
                    more_is_better=True,
                    times=times,
                    bar=None if run.synapse else 0,
                    note=note,
                )
            )
        single = await rounds("one sender", lambda s, w: measures.one_sender(s, w, sends=effort.sends))
        run.lines.append(
            run_line(
                run,
                "one sender, our p99 beside Synapse's p50",
                [p99(each) for each in single["p2pserver"]],
                [p50(each) for each in single.get("synapse", ())],
                note=f"our p50 {measures.middle([p50(each) for each in single['p2pserver']]):.1f} ms",
            )
        )
        for name, measure, times in (
            ("first sync of the reader's rooms", lambda s, w: measures.initial_syncs(s, w, times=effort.syncs), 3.0),
            ("first sliding sync of them", lambda s, w: measures.sliding_syncs(s, w, times=effort.syncs), 3.0),
            ("`/messages`, a room read back", lambda s, w: measures.pages(s, w, rooms=effort.pages), 3.0),
            ("send to a waiting client", lambda s, w: measures.deliveries(s, w, sends=effort.sends), 2.0),
        ):
            taken = await rounds(name, measure)
            run.lines.append(
                run_line(
                    run,
                    f"{name}, p50",
                    [p50(each) for each in taken["p2pserver"]],
                    [p50(each) for each in taken.get("synapse", ())],
                    times=times,
                )
            )


async def _sending(server: Server, world: World, *, room: str, seconds: float) -> measures.Rate:
    return await measures.sending(server, world, world.crowd if room == "crowd" else world.talk, seconds=seconds)


def run_line(
    run: Run, what: str, ours: list[float], theirs: list[float], *, times: float = 1.0, note: str = ""
) -> Line:
    """Milliseconds beside Synapse's; without Synapse there is nothing to hold them to."""
    return Line(
        what=what,
        unit="ms",
        ours=ours,
        theirs=theirs,
        times=times,
        note=note,
        bar=None if run.synapse else float("inf"),
    )


async def starting(run: Run) -> None:
    """Starts on a database of many rooms, in turn; and how much memory that takes."""
    servers = {kind: await run.server(kind, "rooms", many_rooms) for kind in run.kinds()}
    run.tell("making what is not there yet of the world 'rooms'")
    for server in servers.values():
        await server.start()
        await many_rooms(server, run.size)
        await server.stop()
    took: dict[str, list[float]] = {kind: [] for kind in run.kinds()}
    resident: dict[str, list[float]] = {kind: [] for kind in run.kinds()}
    for _ in range(run.effort.rounds):
        for kind, server in servers.items():
            took[kind].append(await server.start())
            world = await many_rooms(server, run.size)
            (user,) = await world.users(server, 1)
            await user.sync()
            await asyncio.sleep(run.effort.idle_s)
            resident[kind].append(server.resident_octets() / MB)
            user.close()
            await server.stop()
    rooms = run.size.many_rooms
    run.tell("measured: start")
    run.lines.append(
        run_line(
            run,
            f"start with {rooms} rooms",
            [seconds * 1000 for seconds in took["p2pserver"]],
            [seconds * 1000 for seconds in took.get("synapse", ())],
            times=2.0,
        )
    )
    run.lines.append(
        Line(
            what=f"memory with {rooms} rooms, after a first sync of all",
            unit="MB",
            ours=resident["p2pserver"],
            bar=120,
            note=f"Synapse {measures.middle(resident['synapse']):.0f}" if run.synapse else "",
        )
    )


async def remembering(run: Run) -> None:
    """Resident memory with the LAN: of a new node, and of one with a large room that it has just taken in."""
    idle, large = [], []
    for number in range(run.effort.rounds):
        server = P2pServer(run.folder / f"idle-{number}", transport=f"lan:listen=127.0.0.1:{free_port()}")
        await server.start()
        await asyncio.sleep(run.effort.idle_s)
        idle.append(server.resident_octets() / MB)
        await server.stop()
    server = P2pServer(run.folder / "large", transport=f"lan:listen=127.0.0.1:{free_port()}")
    await server.start()
    world = await one_room(server, run.size)
    await asyncio.sleep(run.effort.idle_s)
    after_all = server.resident_octets() / MB
    await server.stop()
    for _ in range(run.effort.rounds):
        await server.start()
        users = await world.users(server)
        await users[0].sync()
        for number, user in enumerate(users):
            await user.ask(user.text(world.talk, number))
        await asyncio.sleep(run.effort.idle_s)
        large.append(server.resident_octets() / MB)
        for user in users:
            user.close()
        await server.stop()
    run.tell("measured: memory")
    run.lines.append(Line(what="memory of a new node with the LAN", unit="MB", ours=idle, bar=50))
    size = f"{run.size.room_members} members and {run.size.room_events:,} events"
    run.lines.append(
        Line(
            what=f"memory with a room of {size}, after a start, a first sync and {SENDERS} texts",
            unit="MB",
            ours=large,
            bar=65,
            note=f"{after_all:.0f} in the process that had just taken all of them in",
        )
    )


async def between_nodes(run: Run) -> None:
    """From a client of one node to a client of another, joined by the LAN transport on loopback."""
    port = free_port()
    a = P2pServer(run.folder / "a", transport=f"lan:listen=127.0.0.1:{port}")
    b = P2pServer(run.folder / "b", transport=f"lan:listen=127.0.0.1:{free_port()},peer=127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        for server in (a, b):
            await server.start()
            stack.push_async_callback(server.stop)
        here = World(accounts=[await _account(a, f"here{number}") for number in range(8)])
        there = World(accounts=[await _account(b, "there")])
        senders, (receiver,) = await here.users(a, 8), await there.users(b, 1)
        room_id = await new_room(senders[0], "both")
        await joins(senders[1:], room_id)
        await _join_over(receiver, senders[0], room_id)
        took = [
            p50(await measures.delivered(senders[0], receiver, room_id, sends=run.effort.sends))
            for _ in range(run.effort.rounds)
        ]
        number = run.effort.burst
        whole = [
            await measures.burst(senders, receiver, room_id, number=number, within_s=BURST_WITHIN_S)
            for _ in range(run.effort.rounds)
        ]
        for user in (*senders, receiver):
            user.close()
    run.tell("measured: two nodes")
    run.lines.append(
        Line(
            what="send to a waiting client of another node, p50",
            unit="ms",
            ours=took,
            bar=REMOTE_P50_MS_SYNAPSE / 4,
            note=f"a quarter of {REMOTE_P50_MS_SYNAPSE} ms, two Synapses as documented",
        )
    )
    run.lines.append(
        Line(
            what=f"of a burst of {run.effort.burst} to another node, the client has",
            unit="events, fewest of all rounds",
            ours=[min(whole)],
            more_is_better=True,
            bar=run.effort.burst,
        )
    )


async def _account(server: Server, name: str) -> tuple[str, str]:
    connection = await Connection.open(server.url)
    made = await server.register(connection, name)
    connection.close()
    return made


async def _join_over(user: User, inviter: User, room_id: str) -> None:
    """Invites, waits for the invite to come over the link, and joins."""
    await inviter.json("POST", f"/rooms/{room_id}/invite", {"user_id": user.user_id})
    async with asyncio.timeout(60):
        since = None
        while True:
            answer = await user.sync(since=since, timeout_ms=1_000)
            since = answer["next_batch"]
            if room_id in answer.get("rooms", {}).get("invite", {}):
                break
        await user.json("POST", f"/join/{room_id}")
        while room_id not in answer.get("rooms", {}).get("join", {}):
            answer = await user.sync(since=since, timeout_ms=1_000)
            since = answer["next_batch"]


async def storming(run: Run) -> None:
    """Logins of all users of the world at once."""
    server = await run.server("p2pserver", "main", main_world)
    await server.start()
    world = await main_world(server, run.size)
    names = [user_id[1:].partition(":")[0] for user_id, _ in world.accounts]
    storms = []
    for _ in range(run.effort.storms):
        storms.append(await measures.login_storm(server, names, PASSWORD, logins=run.effort.logins))
        await asyncio.sleep(run.effort.idle_s)
    after = server.resident_octets() / MB
    await server.stop()
    run.tell("measured: logins")
    run.lines.append(
        Line(
            what=f"of a storm of {run.effort.logins} logins, answered 200",
            unit="the fewest",
            ours=[min(storm.answered for storm in storms)],
            more_is_better=True,
            bar=run.effort.logins,
            note=f"the last after {max(storm.seconds for storm in storms):.0f} s; then {after:.0f} MB resident",
        )
    )


PARTS: tuple[Callable[[Run], Awaitable[None]], ...] = (talking, starting, remembering, between_nodes, storming)


async def all_figures(run: Run, *, only: Collection[str] | None = None) -> list[Line]:
    for part in PARTS:
        if only is None or part.__name__ in only:
            await part(run)
    return run.lines
