"""B17, B18, B24, B25: answers that lie, answers without end, and questions that ask for too much."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from p2pserver.errors import Forbidden, MatrixError, NotFound
from p2pserver.federation.limits import PeeringLimits
from p2pserver.node.simulation import RequestFailed, RoomActions
from p2pserver.rooms.values import RoomLimits
from p2pserver.wire import messages as m
from tests.byzantine.forgery import Forged
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case

NOWHERE = "$" + "A" * 43


async def newcomer_at(scene: Scenario, name: str, *reached: str) -> RoomActions:
    """A new correct node that can hear only `reached`, and whose user has joined the room through the first of them."""
    await scene.mesh.add(name)
    alone = {name, *reached}
    for one in scene.mesh.nodes:
        if one != name:
            scene.mesh.network.set_link(name, one, one in alone)
    client = await scene.mesh.user(name, "newcomer")
    await scene.pass_time(5)
    return await RoomActions.join(client, scene.room_id, via=scene.mesh.nodes[reached[0]].server_name)


def meet_everybody(scene: Scenario, name: str) -> None:
    for one in scene.mesh.nodes:
        if one != name:
            scene.mesh.network.set_link(name, one, True)


async def agrees(scene: Scenario, name: str) -> None:
    """The newcomer comes to what the correct nodes have, without a restart."""
    await scene.until_same_events(names=[*scene.honest, name], within_s=600)
    await scene.pass_time(2)
    assert (await scene.digest(name)).sec == (await scene.digest("a")).sec
    assert await scene.read(name, lambda tx: tx.one("SELECT count(*) FROM gaps")) == (0,)
    assert await scene.read(name, lambda tx: tx.one("SELECT complete FROM rooms")) == (1,)


# B17


@case
async def test_b17_backfill_poison(scene: Scenario) -> None:
    """Who joins through a liar is given, beside some of the history, events that are no ancestors, another room's,
    forged ones, a second beginning, and a history with holes."""
    liar = scene.liar
    for number in range(12):
        await scene.rooms[scene.honest[number % len(scene.honest)]].send(f"history {number}")
        await scene.pass_time(0.5)
    await scene.until_same_events(names=list(scene.mesh.nodes))
    other = await RoomActions.create(liar.client, preset="public_chat")
    elsewhere = await liar.read(lambda tx: liar.mesh.nodes[liar.name].running.rooms.leaves(tx, other.room_id))
    raw_elsewhere = await liar.read(
        lambda tx: dict(liar.mesh.nodes[liar.name].running.rooms.event(tx, elsewhere[0]).raw)
    )
    beside = await liar.make(body="no ancestor", prev=[scene.sent_first], hide=False)
    create = await liar.make(
        "m.room.create", {"room_version": "12"}, state_key="", prev=[], auth=[], without=["room_id"], hide=False
    )
    beginning = await liar.make(
        "m.room.member", {"membership": "join"}, state_key=liar.user_id, prev=[], auth=[], hide=False
    )
    on_rejected = await liar.make(body="on a false beginning", prev=[beginning.event_id], hide=False)
    poison = [beside.raw, raw_elsewhere, create.raw, beginning.raw, on_rejected.raw, {**beside.raw, "signatures": {}}]
    served = 0

    def poisoned(victim: str, want: m.Want) -> Sequence[m.Message] | None:
        nonlocal served
        if victim != "late":
            return None
        served += 1
        raws = [*poison, *history[served % 3 :: 3]] if served < 6 else poison
        return [m.Pdus(want.room_id, tuple(raws), more=served < 6, in_answer=True)]

    history = await liar.read(
        lambda tx: [
            dict(raw)
            for raw in scene.mesh.nodes[liar.name].running.rooms.missing_for(
                tx,
                room_id=scene.room_id,
                want=scene.mesh.nodes[liar.name].running.rooms.leaves(tx, scene.room_id),
                have=[],
                octets_max=10**6,
                origin=scene.mesh.nodes["a"].server_name,
            )[0]
        ]
    )
    for each in scene.liars:
        each.scripts[m.Want] = poisoned
    before = {name: await scene.state(name) for name in scene.honest}
    await newcomer_at(scene, "late", liar.name)
    await scene.pass_time(60)
    assert served > 0
    meet_everybody(scene, "late")
    await agrees(scene, "late")
    assert await scene.read("late", lambda tx: tx.one("SELECT count(*) FROM rooms")) == (1,)
    for name in scene.honest:
        after = await scene.state(name)
        assert {slot: after[slot] for slot in before[name]} == before[name]


# B18


@case
@pytest.mark.parametrize("lie", ["older power levels", "ban left out", "members left out", "older topic"])
async def test_b18_join_through_a_liar(scene: Scenario, lie: str) -> None:
    """The state that a liar claims counts only until an honest member brings what it stands in for."""
    liar, victim = scene.liar, "@mischief:" + scene.mesh.nodes["b"].server_name
    old_levels = (await scene.state("a"))["m.room.power_levels", ""]
    await scene.give_power(liar.user_id, 50)
    old_topic = await scene.creator.state("m.room.topic", {"topic": "old"})
    guest = await scene.mesh.user("b", "mischief")
    await RoomActions.join(guest, scene.room_id)
    joined = (await scene.state("b"))["m.room.member", victim]
    await scene.until_same_events(names=list(scene.mesh.nodes))
    await scene.creator.membership("ban", victim)
    await scene.creator.state("m.room.topic", {"topic": "new"})
    await scene.until_same_events(names=list(scene.mesh.nodes))
    truth = await scene.state("a")
    raw_of = {
        event_id: await liar.read(
            lambda tx, event_id=event_id: dict(liar.mesh.nodes[liar.name].running.rooms.event(tx, event_id).raw)
        )
        for event_id in (old_levels, old_topic, joined, *truth.values())
    }
    claimed = dict(truth)
    if lie == "older power levels":
        claimed["m.room.power_levels", ""] = old_levels
    elif lie == "ban left out":
        claimed["m.room.member", victim] = joined
    elif lie == "members left out":
        claimed = {slot: each for slot, each in truth.items() if scene.mesh.nodes["b"].server_name not in slot[1]}
    else:
        claimed["m.room.topic", ""] = old_topic

    def alter(asker: str, answer: dict[str, Any]) -> dict[str, Any]:
        if not answer:
            return answer
        state = [raw_of[event_id] for event_id in sorted(claimed.values())]
        left_out = [raw_of[event_id] for event_id in sorted(set(raw_of) - set(claimed.values()))]
        return {**answer, "state": state, "auth_chain": [*answer["auth_chain"], *left_out]}

    for each in scene.liars:
        each.falsify_answers("join", alter)
        each.scripts[m.Want] = lambda asker, want: [m.Lacking(want.room_id, want.want)] if asker == "late" else None
    late = await newcomer_at(scene, "late", *(each.name for each in scene.liars))
    await late.send("said on the ground of a lie")
    await scene.pass_time(60)
    held = await scene.state("late")
    assert {slot: held.get(slot) for slot in truth if held.get(slot) != truth[slot]}, "the lie was not even believed"
    meet_everybody(scene, "late")
    await agrees(scene, "late")
    await late.send("said afterwards")
    await agrees(scene, "late")
    now = await scene.state("late")
    for slot, event_id in truth.items():
        assert now[slot] == event_id, slot


@case
async def test_b18_invented_state_makes_no_room(scene: Scenario) -> None:
    """Events of others cannot be invented: an offer with one of them is refused, and another member is as good."""
    liar = scene.liar
    invented = await liar.make(
        "m.room.power_levels", {"users": {liar.user_id: 100}}, state_key="", sender=scene.creator_id, hide=False
    )

    def alter(asker: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "state": [*answer["state"], dict(invented.raw)]} if answer else answer

    for each in scene.liars:
        each.falsify_answers("join", alter)
    with pytest.raises(RequestFailed):
        await newcomer_at(scene, "late", liar.name)
    assert await scene.read("late", lambda tx: tx.one("SELECT count(*) FROM rooms")) == (0,)
    meet_everybody(scene, "late")
    await scene.pass_time(5)
    [client] = scene.mesh.nodes["late"].clients.values()
    await RoomActions.join(client, scene.room_id, via=scene.mesh.nodes["a"].server_name)
    await agrees(scene, "late")


# B24


class Endless:
    """Answers each want with an event that wants another one: a chain that was made backwards as far as it is asked."""

    def __init__(self, liar: Liar, chain: list[Forged], *, drip_s: float = 0.0) -> None:
        self.liar, self.drip_s = liar, drip_s
        self.by_id = {each.event_id: each for each in chain}
        self.asked = self.sent = 0

    def __call__(self, victim: str, want: m.Want) -> Sequence[m.Message] | None:
        found = [self.by_id[each] for each in want.want if each in self.by_id]
        self.asked += 1
        if not found:
            return None
        self.sent += len(found)
        answer = m.Pdus(want.room_id, tuple(each.raw for each in found), more=True, in_answer=True)
        if not self.drip_s:
            return [answer]
        asyncio.get_running_loop().call_later(self.drip_s, self.liar.say, victim, answer)
        return []


@case(may_be_partial=True)
@pytest.mark.parametrize("way", ["endless", "drip", "repeats", "another room", "too many"])
async def test_b24_answers_without_end(scene: Scenario, way: str) -> None:
    """Every answer names further missing parents; or brings the same again, or what was not asked for. It ends within
    the bounds, and others are served meanwhile."""
    liar = scene.liar
    length = {"endless": 60, "drip": 8}.get(way, 20)
    most = 20
    for name in scene.honest:
        for session in scene.mesh.nodes[name].running.mesh._sessions.values():
            session.peering._channel.limits = replace(session.peering._channel.limits, parked_max=most)
    chain = [
        await liar.make(body="the ground", prev=[NOWHERE], hide=False, state=await liar.state_after(scene.sent_first))
    ]
    state = await liar.state_after(scene.sent_first)
    for number in range(length):
        chain.append(await liar.make(body=f"{number}", prev=[chain[-1].event_id], state=state, hide=False, depth=9))
    endless = Endless(liar, chain, drip_s=20.0 if way == "drip" else 0.0)
    room_id, asked = scene.room_id, 0
    other = await RoomActions.create(liar.client, preset="public_chat")

    def repeats(victim: str, want: m.Want) -> Sequence[m.Message] | None:
        nonlocal asked
        asked += 1
        return [m.Pdus(room_id, (chain[-1].raw,), more=True, in_answer=True)]

    def another_room(victim: str, want: m.Want) -> Sequence[m.Message] | None:
        nonlocal asked
        asked += 1
        return [m.Pdus(other.room_id, tuple(each.raw for each in chain[:20]), more=True, in_answer=True)]

    def too_many(victim: str, want: m.Want) -> Sequence[m.Message] | None:
        nonlocal asked
        asked += 1
        return [m.Pdus(room_id, tuple(each.raw for each in chain), more=True, in_answer=True)] * 3

    scripts = {"repeats": repeats, "another room": another_room, "too many": too_many}
    for each in scene.liars:
        each.scripts[m.Want] = scripts.get(way, endless)
        each.mute(m.Beacons, m.Leaves, m.Lacking, to=["a"])
    liar.push("a", chain[-1])
    said = []
    for number in range(3):
        said.append(await scene.rooms["b"].send(f"meanwhile {number}"))
        await scene.pass_time(20)
    await scene.until_held(*said, within_s=5)
    await scene.pass_time(150)
    asked_now = asked + endless.asked
    nodes = len(scene.honest) * len(scene.liars)
    assert 0 < asked_now <= (most + 60) * nodes
    await scene.pass_time(150)
    assert asked + endless.asked - asked_now <= 20 * nodes, "the questions do not end"
    parked = await scene.read("a", lambda tx: tx.one("SELECT count(*) FROM parked_pdus"))
    assert parked[0] <= RoomLimits().parked_per_source


# B25


@case
async def test_b25_greedy_questions(scene: Scenario) -> None:
    """Huge limits, unknown events, thousands at once, rooms the asker is not in: bounded answers, to members only."""
    liar, victim = scene.liar, "a"
    private = await scene.make_room(name="private")
    await scene.creator.client.request(
        "PUT", f"/rooms/{private.room_id}/send/m.room.message/p1", {"msgtype": "m.text", "body": "the-secret"}
    )
    secret = (await scene.read("a", lambda tx: scene.mesh.nodes["a"].running.rooms.leaves(tx, private.room_id)))[0]
    for number in range(30):
        await scene.creator.send(f"{number} " + "x" * 20_000)
    await scene.until_same_events(names=list(scene.mesh.nodes))
    leaf = (await liar.leaves())[0]
    unknown = tuple("$" + f"{number:042d}A" for number in range(m.WANT_MAX))
    for each in scene.liars:
        each.heard.clear()
        for _ in range(40):
            each.say(victim, m.Want(scene.room_id, (leaf,), (), 2**53 - 1))
            each.say(victim, m.Want(scene.room_id, unknown, unknown[: m.HAVE_MAX], 0))
            each.say(victim, m.Want(private.room_id, (secret,), (), 2**53 - 1))
            each.say(victim, m.Leaves(private.room_id, (secret,), answer=False))
        for number in range(200):
            each.say(victim, m.Request(100_000 + number, "public_rooms", b'{"limit": 1000000}'))
    questions: list[tuple[str, dict[str, Any]]] = [
        ("state_claim", {"room_id": private.room_id, "event_id": secret}),
        ("state_claim", {"room_id": scene.room_id, "event_id": NOWHERE}),
        ("join", {"room_id": scene.room_id, "user_id": scene.creator_id, "versions": ["12"]}),
        ("state_claim", {"room_id": 7, "event_id": None}),
        ("no such question", {}),
    ]
    said = [await scene.rooms["b"].send("meanwhile")]
    await scene.until_held(*said, within_s=30)
    await scene.pass_time(120)
    for name, body in questions:
        with pytest.raises((Forbidden, NotFound, MatrixError)):
            await liar.ask(victim, name.replace(" ", "_"), body)
    for each in scene.liars:
        heard = each.heard_of(m.Pdus, victim)
        assert heard, "a member is answered"
        assert all(message.room_id == scene.room_id for message in heard)
        assert not any("the-secret" in str(message.pdus) for message in heard)
        octets = [len(m.encode_message(message)) for message in heard]
        assert max(octets) <= PeeringLimits().answer_octets + 70_000
        lacking = {event_id for message in each.heard_of(m.Lacking, victim) for event_id in message.event_ids}
        assert secret in lacking


@case
async def test_b25_hidden_history(scene: Scenario) -> None:
    """What was said before the asker's server joined a room with history for joined members only comes redacted."""
    room = await scene.make_room(name="quiet")
    await room.state("m.room.history_visibility", {"history_visibility": "joined"})
    hidden = await room.send("the-secret")
    liar = scene.liar
    await RoomActions.join(liar.client, room.room_id, via=scene.mesh.nodes["a"].server_name)
    await scene.until_same_events(names=["a", liar.name], room_id=room.room_id)
    for each in scene.liars:
        each.say("a", m.Want(room.room_id, (hidden,), (), 2**53 - 1))
    await scene.pass_time(30)
    for each in scene.liars:
        texts = str([message.pdus for message in each.heard_of(m.Pdus, "a") if message.room_id == room.room_id])
        assert "the-secret" not in texts
    [copy] = [
        pdu
        for message in liar.heard_of(m.Pdus, "a")
        for pdu in message.pdus
        if pdu["type"] == "m.room.message" and message.room_id == room.room_id
    ][:1]
    assert copy["content"] == {}
