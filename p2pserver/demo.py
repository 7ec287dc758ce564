"""`p2pserver demo`: three nodes chat, are cut in two, act against each other, and agree again when they meet.

Everything but the network, the clocks and the disks is the real thing: see node/simulation.py.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from rich.align import Align
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from p2pserver.node.sabotage import skip_power_level_rule
from p2pserver.node.simulation import RequestFailed, RoomActions, SimulatedMesh
from p2pserver.rooms.values import RoomDigest
from transports.sim import LinkConditions, run_virtual

NAMES = ("anna", "boris", "carla")
COLORS = {"anna": "cyan", "boris": "yellow", "carla": "magenta"}
TOGETHER = "anna ────── boris\n   ╲       ╱\n    ╲     ╱\n     carla"
APART = "anna ────── boris\n\n- - - - - - - - -\n\n     carla"
COLUMNS = 80
"""Of what is printed: no wider than a plain terminal, and the same everywhere, so that a run repeats to the letter."""
AGREEMENT_WITHIN_S = 600.0
CONDITIONS = LinkConditions(
    loss=0.1, duplication=0.05, delay_ms_mean=60, jitter_ms=50, bit_rate=250_000, datagram_octets_max=1_200
)


@dataclass(slots=True)
class Belief:
    """What one node holds of the room, and what its user would read."""

    name: str
    room_name: str
    members: list[str]
    levels: dict[str, int]
    messages: list[str]
    digest: RoomDigest | None


@dataclass(slots=True)
class Demo:
    """One telling of the story. `agreed_after_s` stays None if the nodes never agreed."""

    seed: int
    sabotage: bool
    console: Console
    mesh: SimulatedMesh = field(init=False)
    rooms: dict[str, RoomActions] = field(default_factory=dict)
    agreed_after_s: float | None = None

    def __post_init__(self) -> None:
        self.mesh = SimulatedMesh(NAMES, seed=self.seed, conditions=CONDITIONS)

    # Telling

    def clock(self) -> str:
        seconds = int(asyncio.get_running_loop().time())
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def tell(self, text: str | Text) -> None:
        line = Text(f"{self.clock()}  ", style="dim")
        line.append_text(Text(text) if isinstance(text, str) else text)
        self.console.print(line, soft_wrap=True)

    def chapter(self, title: str, picture: str) -> None:
        self.console.print()
        self.console.print(Panel(Align.center(Text(picture)), title=title, border_style="blue", width=60))

    async def say(self, name: str, body: str) -> None:
        await self.rooms[name].send(body)
        line = Text(f"{name:>6}: ", style=COLORS[name])
        line.append(body, style="default")
        self.tell(line)

    async def act(self, name: str, what: str, action: Any) -> None:
        """Something that a room may forbid."""
        line = Text(f"{name:>6} ", style=COLORS[name])
        line.append(what, style="bold")
        try:
            await action
        except RequestFailed as failed:
            line.append(f"\n{'':>10}refused: {reason_of(failed)}", style="red")
        self.tell(line)

    # The story

    async def run(self) -> bool:
        """Returns whether the nodes agree at the end."""
        if self.sabotage:
            self.mesh.nodes["carla"].sabotage = skip_power_level_rule
        await self.mesh.start()
        await self.meet()
        await self.fall_apart()
        return await self.meet_again()

    async def meet(self) -> None:
        self.chapter("Three phones in one place", TOGETHER)
        clients = {name: await self.mesh.user(name, name) for name in NAMES}
        for name in NAMES:
            self.tell(f"{name}'s node is {self.mesh.nodes[name].server_name[:12]}…")
        await asyncio.sleep(5)
        others = [clients[name].user_id for name in NAMES[1:]]
        room = await RoomActions.create(
            clients["anna"], name="harbor", preset="private_chat", invite=others, room_version="12"
        )
        self.rooms["anna"] = room
        self.tell("anna makes the room “harbor” and invites the others")
        await asyncio.sleep(5)
        for name in NAMES[1:]:
            self.rooms[name] = await RoomActions.join(
                clients[name], room.room_id, via=self.mesh.nodes["anna"].server_name
            )
            self.tell(f"{name} joins")
        await room.set_level(clients["carla"].user_id, 100)
        self.tell("anna, the creator, makes carla an administrator (100)")
        if await self.mesh.until_equal(room.room_id, within_s=120) is None:
            raise RuntimeError("the nodes did not agree on a room in peace")
        for name, body in (("anna", "Who has seen the boat?"), ("boris", "Not since noon."), ("carla", "I'll look.")):
            await self.say(name, body)
            await asyncio.sleep(2)
        await self.mesh.until_equal(room.room_id, within_s=60)

    async def fall_apart(self) -> None:
        self.chapter("carla is out of reach", APART)
        self.mesh.partition({"anna", "boris"}, {"carla"})
        anna, boris, carla = (self.rooms[name] for name in NAMES)
        await asyncio.sleep(60)
        await self.say("anna", "carla does not answer.")
        await self.say("carla", "Found it, behind the island!")
        await self.act("anna", "names the room “search party”", anna.state("m.room.name", {"name": "search party"}))
        await self.act("carla", "names the room “boat is found”", carla.state("m.room.name", {"name": "boat is found"}))
        await asyncio.sleep(600)
        carla_id, boris_id = carla.client.user_id, boris.client.user_id
        await self.act("anna", "takes carla's level away (0)", anna.set_level(carla_id, 0))
        await self.act("carla", "makes boris a moderator (50)", carla.set_level(boris_id, 50))
        await self.act("carla", "wants to be above everybody (1000)", carla.set_level(carla_id, 1000))
        await asyncio.sleep(60)
        await self.say("boris", "I take the second boat.")
        await self.say("carla", "Radio is dead, coming back.")
        await asyncio.sleep(1800)
        self.console.print()
        self.show("What each node believes, cut in two", await self.beliefs())

    async def meet_again(self) -> bool:
        self.chapter("carla comes home", TOGETHER)
        room_id = self.rooms["anna"].room_id
        widest = 0
        loop = asyncio.get_running_loop()
        self.mesh.heal()
        began = loop.time()
        while loop.time() - began < AGREEMENT_WITHIN_S:
            found = [digest for digest in (await self.mesh.digests(room_id)).values() if digest is not None]
            widest = max([widest, *(digest.width for digest in found)])
            if len(found) == len(NAMES) and len({digest.sec for digest in found}) == 1:
                self.agreed_after_s = loop.time() - began
                break
            await asyncio.sleep(0.25)
        if self.agreed_after_s is not None:
            self.tell(f"the histories are merged {self.agreed_after_s:.1f} s after the first could be heard again")
        await self.settle()
        beliefs = await self.beliefs()
        self.console.print()
        self.show("What each node believes, together again", beliefs)
        counts = self.mesh.network.counts
        self.console.print(
            f"The graph was {widest} events wide where it was widest. "
            f"{counts.sent} datagrams, {counts.sent_octets / 1000:.0f} kB, {counts.lost} lost on the way.",
            style="dim",
        )
        return self.verdict(beliefs)

    async def settle(self) -> None:
        """Each user who still may posts once: that ends what arrival order can sway (docs/event-graph.md)."""
        for name in NAMES:
            try:
                await self.say(name, "Here I am.")
            except RequestFailed as failed:
                self.tell(f"{name:>6} may not write any more: {reason_of(failed)}")
            await self.mesh.until_equal(self.rooms["anna"].room_id, within_s=60)

    def verdict(self, beliefs: list[Belief]) -> bool:
        digests = [belief.digest for belief in beliefs]
        agree = (
            self.agreed_after_s is not None
            and None not in digests
            and len({(digest.sec, digest.operational) for digest in digests if digest is not None}) == 1
        )
        if agree:
            self.console.print("All three nodes agree.", style="bold green")
        else:
            self.console.print("The nodes disagree.", style="bold red")
        return agree

    # Looking

    async def beliefs(self) -> list[Belief]:
        return [await self.belief(name) for name in NAMES]

    async def belief(self, name: str) -> Belief:
        room = self.rooms[name]
        node = self.mesh.nodes[name].running
        database = self.mesh.nodes[name].database
        assert database is not None

        def read(tx: Any) -> tuple[str, list[str], dict[str, int]]:
            title = node.rooms.current_event(tx, room.room_id, "m.room.name")
            levels = node.rooms.current_event(tx, room.room_id, "m.room.power_levels")
            members = [
                f"{user_id[1:].partition(':')[0]} {membership}"
                for user_id, membership in tx.all(
                    "SELECT state_key, membership FROM current_state"
                    " WHERE room_id = ? AND type = 'm.room.member' ORDER BY state_key",
                    (room.room_id,),
                )
            ]
            users = {} if levels is None else levels.content.get("users", {})
            return (
                "" if title is None else str(title.content.get("name", "")),
                sorted(members),
                {user_id[1:].partition(":")[0]: level for user_id, level in sorted(users.items())},
            )

        title, members, levels = await database.read(read)
        return Belief(name, title, members, levels, await room.messages(), await self.mesh.digest(name, room.room_id))

    def show(self, title: str, beliefs: list[Belief]) -> None:
        table = Table(title=title, title_style="bold", width=COLUMNS)
        table.add_column("")
        for belief in beliefs:
            table.add_column(f"{belief.name}'s node", style=COLORS[belief.name], overflow="fold")
        rows = (
            ("room name", [belief.room_name for belief in beliefs]),
            ("members", ["\n".join(belief.members) for belief in beliefs]),
            (
                "levels",
                [
                    "\n".join(["anna creator", *(f"{user} {level}" for user, level in belief.levels.items())])
                    for belief in beliefs
                ],
            ),
            ("messages", [f"{len(belief.messages)}, last:\n“{belief.messages[-1]}”" for belief in beliefs]),
            ("events", [str(belief.digest.events) if belief.digest else "?" for belief in beliefs]),
            ("width", [str(belief.digest.width) if belief.digest else "?" for belief in beliefs]),
            ("graph", [belief.digest.sec.hex()[:12] if belief.digest else "?" for belief in beliefs]),
            ("current state", [belief.digest.operational.hex()[:12] if belief.digest else "?" for belief in beliefs]),
        )
        for label, cells in rows:
            table.add_row(label, *cells, end_section=True)
        self.console.print(table)


def reason_of(failed: RequestFailed) -> str:
    """The node's reason, with names as short as people say them."""
    return re.sub(r"@(\w+):[a-z2-7]{52}", r"\1", str(failed.body.get("error", failed.errcode)))


def show(*, seed: int, sabotage: bool, console: Console | None = None) -> int:
    """Runs the demo; the exit status: 0 if the nodes agree, 1 if not."""
    chosen = console or Console(width=COLUMNS, highlight=False)
    demo = Demo(seed, sabotage, chosen)

    async def main() -> bool:
        try:
            return await demo.run()
        finally:
            await demo.mesh.stop()

    return 0 if run_virtual(main()) else 1
