"""The pictures of docs/event-graph.md, drawn by `room graph` from what real nodes held in the simulator.

    python -m benchmarks.pictures           writes docs/pictures/*.svg; the same each time

Every story is played by whole nodes on simulated links (docs/simulation.md), the liar's by the malicious peer of the
tests. The drawings are those of the command, with three changes that keep them readable and the same as long as the
nodes do the same: servers are called by their user, events by a number, and the beginning of the room is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from p2pserver.graph_view.model import GraphEvent, RoomGraph
from p2pserver.graph_view.svg import as_svg
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.store.room_graph import room_graph
from tests.byzantine.liar import Arsenal, Liar
from transports.sim import LinkConditions, run_virtual

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
CONDITIONS = LinkConditions(delay_ms_mean=20, datagram_octets_max=1_200)
Pictures = dict[str, str]


class Town:
    """A room of a few nodes, one user each, and what its pictures show."""

    def __init__(self, *names: str) -> None:
        self.mesh = SimulatedMesh(names, seed=7, conditions=CONDITIONS)
        self.names = names
        self.rooms: dict[str, RoomActions] = {}
        self.captions: dict[str, str] = {}
        self.pictures: Pictures = {}
        self.first_depth = 1

    async def begin(self, *, levels: Mapping[str, int] | None = None, members: tuple[str, ...] = ()) -> None:
        """The first makes the room, the others (of `members`, if given) join, and all agree."""
        await self.mesh.start()
        await asyncio.sleep(2)
        clients = {name: await self.mesh.user(name, name) for name in self.names}
        first, *others = self.names
        room = await RoomActions.create(clients[first], name="harbor", preset="public_chat", room_version="12")
        self.rooms[first] = room
        for name in members or others:
            via = self.mesh.nodes[first].server_name
            self.rooms[name] = await RoomActions.join(clients[name], room.room_id, via=via)
        for name, level in (levels or {}).items():
            await room.set_level(clients[name].user_id, level)
        await self.together()
        await self.say(first, "all here?")
        await self.together()
        self.first_depth = max(event.depth for event in (await self.graph(first)).events)

    async def together(self) -> None:
        found = await self.mesh.until_equal(self.rooms[self.names[0]].room_id, within_s=600, names=list(self.rooms))
        if found is None:
            raise RuntimeError("the nodes did not agree")
        await asyncio.sleep(1)

    async def say(self, name: str, caption: str) -> str:
        return self.note(await self.rooms[name].send(caption), caption)

    async def names_of_the_room(self) -> dict[str, str]:
        """What the user of each node is shown as the name of the room."""
        return {name: (await room.read_state("m.room.name"))["name"] for name, room in self.rooms.items()}

    async def verdicts_of(self, author: str, name: str) -> set[str]:
        """What the story's messages of one user earned at a node."""
        events = (await self.graph(name)).events
        return {
            event.verdict
            for event in events
            if event.event_id in self.captions and event.sender[1:].startswith(f"{author}:")
        }

    async def ban(self, name: str, other: str) -> None:
        await self.rooms[name].membership("ban", self.rooms[other].client.user_id)
        newest = max((await self.graph(name)).events, key=lambda event: event.position)
        self.note(newest.event_id, f"bans {other}")

    def note(self, event_id: str, caption: str) -> str:
        self.captions[event_id] = caption
        return event_id

    async def graph(self, name: str) -> RoomGraph:
        database = self.mesh.nodes[name].database
        assert database is not None
        room_id = self.rooms[self.names[0]].room_id
        return await database.read(lambda tx: room_graph(tx, room_id))

    async def draw(self, picture: str, name: str, title: str, *, whole: bool = False) -> RoomGraph:
        graph = await self.graph(name)
        made = self.simplified(graph, title, 0 if whole else self.first_depth)
        captions = {
            self.called(graph)[event_id]: caption
            for event_id, caption in self.captions.items()
            if event_id in self.called(graph)
        }
        self.pictures[picture] = as_svg(made, captions=captions)
        return graph

    def called(self, graph: RoomGraph) -> dict[str, str]:
        """A name for each event that does not change with its hash, nor with what else is in the graph."""
        numbers: dict[str, int] = {}
        called = {}
        for event in sorted(graph.events, key=lambda each: (each.depth, each.origin_server_ts, each.position)):
            user = event.sender[1:].partition(":")[0]
            numbers[user] = numbers.get(user, 0) + 1
            called[event.event_id] = f"${user}-{numbers[user]}"
        for number, gap in enumerate(graph.gaps):
            called[gap.missing_event_id] = f"$missing-{number + 1}"
        return called

    def simplified(self, graph: RoomGraph, title: str, first_depth: int) -> RoomGraph:
        called = self.called(graph)
        servers = {self.mesh.nodes[name].server_name: name for name in self.names}

        def plain(text: str) -> str:
            for server, name in servers.items():
                text = text.replace(server, f"{name}.example")
            for event_id, short in called.items():
                text = text.replace(event_id, short)
            return text

        def simple(event: GraphEvent) -> GraphEvent:
            return replace(
                event,
                event_id=called[event.event_id],
                sender=plain(event.sender),
                state_key=None if event.state_key is None else plain(event.state_key),
                reason=None if event.reason is None else plain(event.reason),
                redacted_by=None if event.redacted_by is None else plain(event.redacted_by),
                prev_events=tuple(sorted(called.get(each, each) for each in event.prev_events)),
                origin_server_ts=0,
                position=0,
            )

        kept = [simple(event) for event in graph.events if event.outlier or event.depth >= first_depth]
        kept.sort(key=lambda event: (event.depth, event.event_id))
        gaps = [
            replace(gap, missing_event_id=called[gap.missing_event_id], claimed_by=plain(gap.claimed_by or ""))
            for gap in graph.gaps
        ]
        return replace(graph, room_id="", name=title, events=tuple(kept), gaps=tuple(gaps))


Story = Callable[[Town], Awaitable[None]]


async def fork_and_merge(town: Town) -> None:
    await town.begin(levels={"carla": 50})
    town.mesh.partition({"anna", "boris"}, {"carla"})
    await asyncio.sleep(60)
    await town.say("anna", "no carla")
    await asyncio.sleep(5)
    await town.say("boris", "look for her")
    await town.say("carla", "found it!")
    await asyncio.sleep(5)
    town.note(await town.rooms["carla"].state("m.room.topic", {"topic": "the boat"}), "topic")
    await town.draw("fork-anna", "anna", "What anna's node holds while carla is away")
    await town.draw("fork-carla", "carla", "What carla's node holds meanwhile")
    town.mesh.heal()
    await town.together()
    await town.say("boris", "together again")
    await town.together()
    await town.draw("merge", "anna", "What all three hold after they have met")


async def equivocation(town: Town) -> None:
    await town.begin()
    liar = Liar(town.mesh, "mallory", Arsenal())
    liar.room = town.rooms["mallory"]
    liar.client = liar.room.client
    town.mesh.network.set_link("anna", "boris", up=False)
    await asyncio.sleep(30)
    liar.mute()
    yes, no = await liar.make(body="I pay"), await liar.make(body="you pay")
    town.note(yes.event_id, "“I pay”")
    town.note(no.event_id, "“you pay”")
    liar.push("anna", yes)
    liar.push("boris", no)
    await asyncio.sleep(5)
    await town.say("anna", "thanks")
    await town.say("boris", "why me?")
    await town.draw("liar-anna", "anna", "mallory tells anna one thing …")
    await town.draw("liar-boris", "boris", "… and boris another, in the same place of the history")
    town.mesh.network.set_link("anna", "boris", up=True)
    await asyncio.sleep(60)
    await town.say("boris", "you said both!")
    await asyncio.sleep(30)
    await town.draw("liar-both", "anna", "Once anna and boris have met: one more fork, seen by both")


async def too_late(town: Town) -> None:
    await town.begin()
    town.mesh.partition({"anna", "boris"}, {"carla"})
    await asyncio.sleep(60)
    await town.ban("anna", "carla")
    await asyncio.sleep(5)
    await town.say("anna", "carla is banned")
    await town.say("carla", "not heard yet")
    await asyncio.sleep(60)
    await town.say("carla", "still writing")
    town.mesh.heal()
    await asyncio.sleep(120)
    await town.say("boris", "quiet now")
    await asyncio.sleep(60)
    verdicts = {name: await town.verdicts_of("carla", name) for name in ("anna", "boris", "carla")}
    if verdicts != {"anna": {"soft_failed"}, "boris": {"soft_failed"}, "carla": {"accepted"}}:
        raise RuntimeError(f"the page says who soft-fails carla's messages: {verdicts}")
    await town.draw("banned", "anna", "carla writes on a branch from before her ban")


async def duel(town: Town) -> None:
    await town.begin(levels={"boris": 100, "carla": 100})
    town.mesh.partition({"anna", "boris"}, {"carla"})
    await asyncio.sleep(60)
    rules = {"boris": "invite", "carla": "knock"}
    sent: dict[str, str] = {}
    for name, rule in rules.items():
        sent[name] = await town.rooms[name].state("m.room.join_rules", {"join_rule": rule})
        await asyncio.sleep(600)
    town.mesh.heal()
    await asyncio.sleep(120)
    await town.say("anna", "what holds?")
    await asyncio.sleep(60)
    found = [await room.read_state("m.room.join_rules") for room in town.rooms.values()]
    holds = found[0]
    if found != [holds] * len(found):
        raise RuntimeError("the page says that one join rule holds everywhere")
    for name, rule in rules.items():
        town.note(sent[name], f"{rule}: {'holds' if rule == holds['join_rule'] else 'yields'}")
    await town.draw("duel", "anna", "Two admins, cut off from each other, set the join rule")


async def healing(town: Town) -> None:
    """dora's name for the room is soft-failed where boris' levels hold when it comes, and accepted where carla's do."""
    await town.begin(levels={"boris": 100, "carla": 100, "dora": 50})
    town.mesh.partition({"anna", "boris"}, {"carla"}, {"dora"})
    await asyncio.sleep(60)
    levels = await town.rooms["anna"].read_state("m.room.power_levels")
    town.note(await town.rooms["dora"].state("m.room.name", {"name": "ours"}), "name: ours")
    for name, kind in (("boris", "m.room.name"), ("carla", "m.room.topic")):
        changed = {**levels, "events": {**levels["events"], kind: 100}}
        event_id = await town.rooms[name].state("m.room.power_levels", changed)
        town.note(event_id, f"{name}' levels" if name.endswith("s") else f"{name}'s levels")
        await asyncio.sleep(600)
    town.mesh.partition({"anna", "boris", "dora"}, {"carla"})
    await asyncio.sleep(120)
    await town.draw("torn", "anna", "Where boris' levels hold, dora may not name the room")
    town.mesh.heal()
    await town.mesh.until_equal(town.rooms["anna"].room_id, within_s=600)
    before = {"anna": "harbor", "boris": "harbor", "carla": "ours", "dora": "ours"}
    if await town.names_of_the_room() != before:
        raise RuntimeError("the page says that the nodes show different names")
    await asyncio.sleep(60)
    if set((await town.names_of_the_room()).values()) != {"ours"}:
        raise RuntimeError("the page says that all nodes show one name")
    await town.draw("healed", "anna", "All have met, and two nodes have posted a healing event")


async def partial(town: Town) -> None:
    await town.begin(members=("boris",))
    for number in range(3):
        await town.say("boris", f"story {number + 1}")
    await town.together()
    client = town.mesh.nodes["carla"].clients[f"@carla:{town.mesh.nodes['carla'].server_name}"]
    via = town.mesh.nodes["anna"].server_name
    town.rooms["carla"] = await RoomActions.join(client, town.rooms["anna"].room_id, via=via)
    town.mesh.partition({"anna", "boris"}, {"carla"})
    await town.say("carla", "I am new")
    await town.draw("partial", "carla", "What carla's node holds right after she has joined", whole=True)


STORIES: dict[str, tuple[Story, tuple[str, ...]]] = {
    "fork_and_merge": (fork_and_merge, ("anna", "boris", "carla")),
    "equivocation": (equivocation, ("anna", "boris", "mallory")),
    "too_late": (too_late, ("anna", "boris", "carla")),
    "duel": (duel, ("anna", "boris", "carla")),
    "healing": (healing, ("anna", "boris", "carla", "dora")),
    "partial": (partial, ("anna", "boris", "carla")),
}


def pictures_of(story: str) -> Pictures:
    """The pictures of one story by name, as SVG."""
    play, names = STORIES[story]

    async def live() -> Pictures:
        town = Town(*names)
        try:
            await play(town)
        finally:
            await town.mesh.stop()
        return town.pictures

    found: Pictures = run_virtual(live())
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for story in STORIES:
        for name, svg in pictures_of(story).items():
            (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
            print(f"docs/pictures/{name}.svg: {len(svg):,} octets")


if __name__ == "__main__":
    main()
