"""B19, B21 to B23, B34: what comes late, backdated, in the wrong order, or while the power goes."""

from __future__ import annotations

import asyncio
import random
from itertools import permutations
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.store import healings
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx
from tests.byzantine.forgery import Forged
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case
from tests.rooms.machine import HEALING_ROUNDS, RoomMachine, end, founded
from tests.rooms.replicas import Replica
from tests.rooms.servers import leaves, reconcile
from tests.rooms.test_receipt import event_of, shared_room
from transports.sim import VirtualTimeLoop

DAY_S = 24 * 3600.0


async def branch_of(liar: Liar, length: int) -> list[Forged]:
    """A branch of state events and messages that cite each other, with forks and a merge."""
    made: list[Forged] = []
    tips = await liar.leaves()
    for number in range(length):
        prev = tips if number % 3 else [*tips, *(each.event_id for each in made[-2:-1])]
        if number % 2:
            made.append(await liar.make(body=f"held back {number}", prev=prev))
        else:
            content = {"topic": f"held back {number}"}
            made.append(await liar.make("m.room.topic", content, state_key="", prev=prev))
        tips = [made[-1].event_id]
    return made


# B19


@case
@pytest.mark.parametrize("deed", ["levels", "ban", "join_rules"])
async def test_b19_backdated_by_a_former_admin(scene: Scenario, deed: str) -> None:
    """Whose rights were taken acts on a fork from before that: the room keeps what was decided, everywhere."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 99)
    when_admin = await liar.leaves()
    await scene.creator.state("m.room.topic", {"topic": "decided"})
    demoted = await scene.creator.set_level(liar.user_id, 0)
    await scene.until_held(demoted)
    await scene.creator.state("m.room.join_rules", {"join_rule": "invite"})
    levels = await scene.creator.read_state("m.room.power_levels")
    slot, content = {
        "levels": (("m.room.power_levels", ""), {**levels, "users": {**levels["users"], liar.user_id: 99}}),
        "ban": (("m.room.member", scene.rooms["b"].client.user_id), {"membership": "ban"}),
        "join_rules": (("m.room.join_rules", ""), {"join_rule": "public"}),
    }[deed]
    await scene.until_same_events(names=list(scene.mesh.nodes))
    before = await scene.state("a")
    for each in scene.liars:
        backdated = await liar.make(slot[0], content, state_key=slot[1], prev=when_admin, ts=1 + len(each.name))
        topic = await liar.make(
            "m.room.topic", {"topic": "reset"}, state_key="", prev=[backdated.event_id], ts=2**53 - 1
        )
        await liar.make("m.room.topic", {"topic": "again"}, state_key="", prev=[topic.event_id, *await liar.leaves()])
    for each in scene.liars:
        each.push_all(scene.honest, list(scene.arsenal.events.values()))
    await scene.until_held(*scene.arsenal.events)
    for name in scene.honest:
        await scene.rooms[name].send("goes on")
        await scene.until_same_events()
    for name in scene.honest:
        alarms = await scene.read(name, lambda tx: tx.all("SELECT kind, about FROM alarms"))
        assert alarms == [], "the state did not go back"
        state = await scene.state(name)
        assert state["m.room.power_levels", ""] == before["m.room.power_levels", ""]
        assert state["m.room.join_rules", ""] == before["m.room.join_rules", ""]
        assert state["m.room.topic", ""] == before["m.room.topic", ""]
        assert (
            state["m.room.member", scene.rooms["b"].client.user_id]
            == before["m.room.member", scene.rooms["b"].client.user_id]
        )


@case(version="11")
async def test_b19_creator_backdates(scene: Scenario) -> None:
    """Before version 12 a creator who gave his power away can act on a fork from before that: the same for all."""
    liar = scene.liar
    room = await liar.room.create(liar.client, preset="public_chat", room_version="11")
    via = liar.server_name
    alice = scene.rooms["a"].client
    for name in scene.honest:
        await room.join(scene.rooms[name].client, room.room_id, via=via)
    when_admin = await liar.leaves(room.room_id)
    await room.set_level(alice.user_id, 100)
    await room.set_level(liar.user_id, 0)
    await scene.until_same_events(names=[*scene.honest, liar.name], room_id=room.room_id)
    levels = await room.read_state("m.room.power_levels")
    users = {alice.user_id: 0, liar.user_id: 100}
    backdated = await liar.make(
        "m.room.power_levels",
        {**levels, "users": users},
        state_key="",
        room_id=room.room_id,
        prev=when_admin,
        ts=1,
    )
    ban = await liar.make(
        "m.room.member",
        {"membership": "ban"},
        state_key=alice.user_id,
        room_id=room.room_id,
        prev=[backdated.event_id],
    )
    for number, name in enumerate(scene.honest):
        for forged in (backdated, ban)[:: 1 if number % 2 else -1]:
            liar.push(name, forged, room_id=room.room_id)
            await scene.pass_time(3)
    await scene.until_same_events(room_id=room.room_id)
    digests = {(await scene.digest(name, room.room_id)).sec for name in scene.honest}
    assert len(digests) == 1
    for name in scene.honest:
        alarms = await scene.read(name, lambda tx: tx.all("SELECT kind, about FROM alarms"))
        assert alarms == [], "the state did not go back"
    for name in scene.honest:
        assert {await scene.verdict(name, each.event_id) for each in (backdated, ban)} <= {
            Verdict.ACCEPTED,
            Verdict.SOFT_FAILED,
        }


# B21


@case(rejoin=True)
@pytest.mark.parametrize("late_s", [60.0, pytest.param(DAY_S, marks=pytest.mark.long)], ids=["minute", "day"])
async def test_b21_released_late_and_in_reverse(scene: Scenario, late_s: float) -> None:
    """A branch that only one correct node saw in order reaches the others backwards, long after."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 50)
    for each in scene.liars:
        each.mute()
    scene.split_all()
    branch = await branch_of(liar, 12)
    liar.push_all([scene.honest[0]], branch)
    await scene.until_held(*(each.event_id for each in branch), names=[scene.honest[0]])
    for name in scene.honest:
        await scene.rooms[name].send(f"{name} goes on without it")
    await scene.pass_time(late_s)
    for each in reversed(branch):
        for name in scene.honest[1:]:
            liar.push(name, each)
        await scene.pass_time(0.5)
    await scene.until_held(*(each.event_id for each in branch))
    verdicts = [await scene.verdicts(each.event_id) for each in branch]
    assert verdicts == [{Verdict.ACCEPTED}] * len(branch)


def small_room(most: int, loop: VirtualTimeLoop) -> tuple[str, Replica, list[Pdu]]:
    """A replica in a room, and a few events that it has not got: a ban, what the banned one backdates, merges."""
    room_id, alice, bob = shared_room()
    alice.set_state(room_id, "m.room.power_levels", "", {"users": {bob.user: 50}})
    carol = Replica("carol", loop, disk=SimulatedDisk())
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    tips = leaves(alice, room_id)
    made = [event_of(bob, room_id, tips, body="while he may")]
    alice.receive(room_id, [made[0].raw], bob.name)
    made.append(alice.set_state(room_id, "m.room.topic", "", {"topic": "first"}))
    made.append(alice.member(room_id, bob.user, "ban"))
    made.append(event_of(bob, room_id, tips, body="backdated"))
    made.append(event_of(bob, room_id, [made[0].event_id, made[3].event_id], body="on it"))
    made.append(alice.set_state(room_id, "m.room.name", "", {"name": "after"}))
    made.append(event_of(bob, room_id, [made[4].event_id, made[1].event_id], body="merges"))
    return room_id, carol, made[:most]


@pytest.mark.parametrize("events", [5, pytest.param(7, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_b21_every_order_of_a_few_events(events: int) -> None:
    """All permutations, each on a replica of its own, by the real receipt: one digest."""
    loop = VirtualTimeLoop()
    room_id, carol, made = small_room(events, loop)
    assert carol.complete(room_id)
    digests, held = set(), set()
    for order in permutations(made):
        disk = SimulatedDisk()
        carol.conn.backup(disk.conn)
        replica = Replica("carol", loop, disk=disk)
        for event in order:
            replica.receive(room_id, [event.raw], event.server)
        digests.add(replica.digest(room_id))
        held.add(frozenset(replica.graph(room_id)))
        replica.conn.close()
    assert len(held) == len(digests) == 1
    assert {each.event_id for each in made} <= next(iter(held))
    end(loop)


# B22


@case
@pytest.mark.parametrize("accomplice", [False, True], ids=["alone", "accomplice"])
async def test_b22_banned_and_backdated(scene: Scenario, accomplice: bool) -> None:
    """The specification's example: B bans who then sends C beside it; D, if there is one, cites both.

    C is soft-failed: no client sees it, nobody cites it, the state does not change. The D of who got C before B is
    accepted by all; in the state after it the ban holds.
    """
    liar = scene.liar
    await scene.give_power(liar.user_id, 50)
    await scene.creator.state("m.room.topic", {"topic": "before"})
    await scene.until_same_events(names=list(scene.mesh.nodes))
    a = await liar.leaves()
    c = await liar.make("m.room.topic", {"topic": "evaded"}, state_key="", prev=a)
    last = scene.honest[-1]
    if accomplice:
        scene.split(set(scene.honest) - {last}, {last})
        for each in scene.liars:
            each.mute(to=[last])
        liar.push(last, c)
        await scene.until_held(c.event_id, names=[last])
        assert await scene.verdict(last, c.event_id) is Verdict.ACCEPTED
    await scene.creator.membership("ban", liar.user_id)
    ban = (await scene.state("a"))["m.room.member", liar.user_id]
    first = [name for name in scene.honest if name != last or not accomplice]
    await scene.until_held(ban, names=first)
    for each in scene.liars:
        each.push_all(first, [c])
    await scene.until_held(c.event_id, names=first)
    for name in first:
        assert await scene.verdict(name, c.event_id) is Verdict.SOFT_FAILED
        assert (await scene.rooms[name].read_state("m.room.topic"))["topic"] == "before"
    after = await scene.creator.send("after the ban")
    event = await scene.stored("a", after)
    assert event is not None
    assert c.event_id not in event.pdu.prev_events
    if accomplice:
        await scene.rooms[last].send("on C")
        scene.heal()
        for each in scene.liars:
            each.unmute()
        await scene.until_held(ban)
        d = await scene.rooms[last].send("on B and C")
        await scene.until_held(d)
        assert await scene.verdicts(d) == {Verdict.ACCEPTED}
    for name in scene.honest:
        state = await scene.state(name)
        assert state["m.room.member", liar.user_id] == ban
        assert (await scene.rooms[name].read_state("m.room.topic"))["topic"] == "before"


# B23


class Shuffled(RoomMachine):
    """A random hostile room, made without a search, then delivered to fresh replicas in many orders."""

    def build(self, rng: random.Random, version: str) -> None:
        levels = tuple(rng.choice((0, 50, 99, 100)) for _ in range(4))
        self.found_room(version, levels)
        for _ in range(12):
            who = rng.choice(self.replicas)
            self.do_something(who, rng)
            if rng.random() < 0.6:
                event = self.hostile_event(rng)
                self.give(self.mallory, [event.event_id], {event.event_id: dict(event.raw)})
            if rng.random() < 0.3:
                one, other = rng.sample(self.replicas, 2)
                graph = one.graph(self.room_id)
                self.give(other, list(graph), graph, source=one.name)

    def timeline(self, rng: random.Random, graph: dict[str, dict[str, Any]]) -> list[Replica]:
        """The founders once more, each of whom gets everything in an order of its own."""
        room_id, templates = founded(self.rules_of_room.version)
        made = []
        for name in ("a", "b", "c"):
            disk = SimulatedDisk()
            templates[name].backup(disk.conn)
            replica = Replica(name, self.loop, disk=disk)
            raws = list(graph.values())
            rng.shuffle(raws)
            for start in range(0, len(raws), 8):
                replica.receive(room_id, raws[start : start + 8], self.mallory.name)
            made.append(replica)
        return made

    def agreed(self) -> bool:
        """Whether all that take each other for members have one current state."""
        return len({each.operational(self.room_id) for each in self.members()}) <= 1

    def heal(self, rounds: int = 6) -> None:
        """What the nodes do when they meet and notice that with the same events they differ."""
        for _ in range(rounds):
            for each in self.members():
                self.post_healing_event(each)
            self.exchange(self.replicas)
            if self.agreed():
                return

    def post_healing_event(self, replica: Replica) -> None:
        def post(tx: Tx) -> None:
            planned = replica.rooms.plan_healing(tx, self.room_id, differed_at=tx.position())
            if planned is not None:
                replica.rooms.heal(tx, self.room_id, planned, patient=False)

        replica.run(post)


def test_a_healing_event_is_posted_by_another_user_each_time() -> None:
    """In this room a server's first user is in it by that server's view only, its second one by everybody's."""
    rng, room = random.Random("B23 299"), Shuffled()
    room.build(rng, "10")
    founders = room.replicas
    room.replicas = room.timeline(rng, room.mallory.graph(room.room_id))
    for each in room.replicas:
        room.acknowledged.setdefault(each.name, set())
    for _ in range(2):
        for each in room.replicas:
            room.act(each, each.user, "m.room.message", {"msgtype": "m.text", "body": room.fresh()})
        room.exchange(room.replicas)
    assert not room.agreed()
    room.heal()
    assert room.agreed()
    assert len({each.digest(room.room_id) for each in room.replicas}) == 1
    for each in (*founders, *room.replicas, room.mallory):
        each.conn.close()
    end(room.loop)


@pytest.mark.parametrize("rooms", [4, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_b23_soft_failure_depends_on_the_order_and_heals(rooms: int) -> None:
    """Each room in 12 orders: one SEC digest at once; one current state once everybody has posted and, where that does
    not do, healing events were posted as the node does it. A server that another one takes for gone is not counted: it
    is owed nothing, and says nothing that is believed."""
    differed = healed_late = 0
    for seed in range(rooms):
        rng = random.Random(f"B23 {seed}")
        room = Shuffled()
        room.build(rng, ("12", "11", "10")[seed % 3])
        graph, sec, operational = room.mallory.graph(room.room_id), set(), set()
        founders = room.replicas
        for _ in range(4):
            replicas = room.timeline(rng, graph)
            sec |= {each.digest(room.room_id) for each in replicas}
            operational |= {each.operational(room.room_id) for each in replicas}
            for each in replicas:
                room.acknowledged.setdefault(each.name, set())
            room.replicas = replicas
            for _ in range(HEALING_ROUNDS):
                for each in replicas:
                    room.act(each, each.user, "m.room.message", {"msgtype": "m.text", "body": room.fresh()})
                room.exchange(replicas)
                if room.agreed():
                    break
            else:
                healed_late += 1
                room.heal()
            assert room.agreed(), f"room {seed} does not heal"
            for each in replicas:
                each.conn.close()
        assert len(sec) == 1, f"room {seed}: the order of delivery changes the digest"
        differed += len(operational) > 1
        for each in (*founders, room.mallory):
            each.conn.close()
        end(room.loop)
    print(f"{rooms} rooms: {differed} differed before, {healed_late} orders took healing events")
    if rooms > 100:
        assert differed > 0, "no room was hostile enough to show anything"


@case
async def test_b23_another_order_for_each_node_heals(scene: Scenario) -> None:
    """What comes too late at one node comes in time at the others: one SEC digest at once, and other current states.

    Nobody writes a word; the nodes notice it by themselves, and post the healing event that all then stand on.
    """
    liar, moderator = scene.liar, scene.rooms["b"]
    await scene.give_power(moderator.client.user_id, 100)
    await scene.give_power(liar.user_id, 50)
    name = await liar.make("m.room.name", {"name": "late"}, state_key="", prev=await liar.leaves())
    for each in scene.liars:
        each.mute()
    scene.split_all()
    levels = await moderator.read_state("m.room.power_levels")
    await scene.creator.set_level(liar.user_id, 0)
    await moderator.state("m.room.power_levels", {**levels, "invite": 1})
    for each in scene.liars:
        each.push_all(scene.honest, [name])
    await scene.until_held(name.event_id)
    assert await scene.verdict("a", name.event_id) is Verdict.SOFT_FAILED
    assert {await scene.verdict(each, name.event_id) for each in scene.honest[1:]} == {Verdict.ACCEPTED}
    scene.heal()
    await scene.until_same_events()
    digests = [await scene.digest(each) for each in scene.honest]
    assert len({digest.sec for digest in digests}) == 1
    assert len({digest.operational for digest in digests}) == 2
    for _ in range(60):
        await scene.pass_time(1)
        if len({(await scene.digest(each)).operational for each in scene.honest}) == 1:
            break
    for each in scene.honest:
        assert (await scene.state(each)).get(("m.room.name", "")) == name.event_id
        assert await scene.read(each, lambda tx: healings.newest(tx, scene.room_id)) > 0
    for each in scene.liars:
        each.unmute()


# B34


@case
@pytest.mark.parametrize("attack", ["equivocation", "late release"])
async def test_b34_power_cuts_during_an_attack(scene: Scenario, attack: str) -> None:
    """The power of correct nodes goes between what arrives and its commit, again and again."""
    liar, rng = scene.liar, random.Random(f"B34 {attack}")
    await scene.give_power(liar.user_id, 50)
    if attack == "equivocation":
        place = await liar.leaves()
        branch = [await liar.make(body=f"fork {number}", prev=place) for number in range(12)]
        shown = {name: branch[number :: len(scene.honest)] for number, name in enumerate(scene.honest)}
    else:
        branch = await branch_of(liar, 12)
        shown = dict.fromkeys(scene.honest, branch[::-1])
    acknowledged: list[str] = []
    for number in range(0, 12, 2):
        victim = scene.honest[(number // 2) % len(scene.honest)]
        for name in scene.honest:
            liar.push_all([name], shown[name][number : number + 4])
        said = scene.rooms[victim].send(f"perhaps {number}")
        acknowledged += await run_until_cut(scene, victim, said, rng.choice((0.0, 0.002, 0.004, 0.006, 0.011, 0.02)))
        await scene.pass_time(rng.choice((0.1, 3.0)))
        await scene.mesh.boot(victim)
        await until_met(scene)
    for each in scene.liars:
        each.push_all(scene.honest, branch)
    await scene.until_held(*(each.event_id for each in branch), within_s=200)
    await scene.until_held(*acknowledged, within_s=60)


async def run_until_cut(scene: Scenario, victim: str, said: Any, after_s: float) -> list[str]:
    """The node falls while it takes what the liar sent and what its own user says; what that user was told it has."""
    work = asyncio.ensure_future(said)
    await asyncio.sleep(after_s)
    told = [work.result()] if work.done() and work.exception() is None else []
    await scene.mesh.crash(victim)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return told


async def until_met(scene: Scenario) -> None:
    """Until the liar and the correct nodes talk to each other again."""
    names = [*scene.honest, scene.liar.name]
    for _ in range(200):
        met = {name: len(scene.mesh.nodes[name].running.mesh.connected()) for name in names}
        if all(count >= len(names) - 1 for count in met.values()):
            return
        await scene.pass_time(1)
    raise AssertionError(f"the nodes do not meet: {met}")
