"""B01 to B04: who signed it, what was hashed, and the same place twice."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.signing import Signer
from p2pserver.node.simulation import RequestFailed, RoomActions
from tests.byzantine.forgery import Forged, Raw, Tamper
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case

OTHER_KEY = bytes(range(32))


def another_key(server_name: str, key_id: str = "ed25519:1") -> Signer:
    return Signer(server_name, key_id, OTHER_KEY)


def bad_signatures(liar: Liar, victim_name: str) -> dict[str, Tamper]:
    """What makes a well signed event one without a valid signature; none of it changes the event ID."""

    def own(raw: Raw) -> dict[str, str]:
        found: dict[str, str] = raw["signatures"][liar.server_name]
        return found

    def flipped(raw: Raw) -> None:
        octets = bytearray(base64.b64decode(own(raw)["ed25519:1"] + "=="))
        octets[5] ^= 1
        own(raw)["ed25519:1"] = base64.b64encode(bytes(octets)).decode().rstrip("=")

    def by_another_key(raw: Raw) -> None:
        octets = another_key(liar.server_name).sign(b"something")
        own(raw)["ed25519:1"] = base64.b64encode(octets).decode().rstrip("=")

    def missing(raw: Raw) -> None:
        raw["signatures"] = {}

    def of_another_server(raw: Raw) -> None:
        raw["signatures"] = {victim_name: own(raw)}

    def unknown_key(raw: Raw) -> None:
        raw["signatures"] = {liar.server_name: {"ed25519:old": own(raw)["ed25519:1"]}}

    def unknown_algorithm(raw: Raw) -> None:
        raw["signatures"] = {liar.server_name: {"rsa:1": own(raw)["ed25519:1"]}}

    def empty(raw: Raw) -> None:
        raw["signatures"] = {liar.server_name: {"ed25519:1": ""}}

    changes = (flipped, by_another_key, missing, of_another_server, unknown_key, unknown_algorithm, empty)
    return {change.__name__: change for change in changes}


@case
async def test_b01_forged_signature(scene: Scenario) -> None:
    """Dropped, stored nowhere, passed on to nobody; the genuine event with the same ID is taken afterwards."""
    liar = scene.liar
    pairs: list[tuple[Forged, Raw]] = []
    for name, change in bad_signatures(liar, scene.mesh.nodes["b"].server_name).items():
        genuine = await liar.make(body=name, hide=False)
        forged = {**genuine.raw, "signatures": {liar.server_name: dict(genuine.raw["signatures"][liar.server_name])}}
        change(forged)
        pairs.append((genuine, forged))
    good = await liar.make(body="beside the forged ones")
    for victim in scene.honest:
        liar.push(victim, *(forged for _, forged in pairs), good)
    await scene.until_held(good.event_id)
    await scene.pass_time(5)
    for genuine, _ in pairs:
        assert await scene.is_nowhere(genuine.event_id), genuine.raw["content"]
    liar.push("b", *(genuine for genuine, _ in pairs))
    await scene.until_held(*(genuine.event_id for genuine, _ in pairs))


@case
async def test_b01_in_the_name_of_others(scene: Scenario) -> None:
    """Events of the room's creator, signed by the liar in every way that it can."""
    liar, alice = scene.liar, scene.creator.client.user_id
    victim = scene.mesh.nodes["a"].server_name
    real = await scene.read("a", lambda tx: scene.mesh.nodes["a"].running.rooms.event(tx, scene.sent_first).raw)
    forged = [
        await liar.make(body="as the liar", sender=alice, hide=False),
        await liar.make(body="as alice", sender=alice, signers=[another_key(victim)], hide=False),
        await liar.make(body="both", sender=alice, signers=[liar.signer, another_key(victim)], hide=False),
        await liar.make(
            body="with the signature of another event",
            sender=alice,
            after=lambda raw: raw.update(signatures=real["signatures"]),
            hide=False,
        ),
        await liar.make("m.room.power_levels", {"users": {liar.user_id: 100}}, state_key="", sender=alice, hide=False),
    ]
    for each in scene.liars:
        for name in scene.honest:
            each.push(name, *forged)
    await scene.pass_time(5)
    for each in forged:
        assert await scene.is_nowhere(each.event_id)
    assert (await scene.state("a"))["m.room.power_levels", ""] not in {each.event_id for each in forged}


@case
async def test_b01_in_answers(scene: Scenario) -> None:
    """A forged parent is as good as none, whoever serves it; who has the genuine one is asked."""
    liar = scene.liar
    parent = await liar.make(body="parent")
    child = await liar.make(body="child", prev=[parent.event_id])
    forged = Forged({**parent.raw, "signatures": {}}, parent.event_id)
    liar.arsenal.events[parent.event_id] = forged
    liar.push("a", child)
    await scene.pass_time(20)
    assert await scene.is_nowhere(parent.event_id)
    assert await scene.verdicts(child.event_id) == {None}
    liar.push("b", parent)
    await scene.until_held(parent.event_id, child.event_id, within_s=120)


@case
async def test_b01_in_a_join_offer(scene: Scenario) -> None:
    """No room is made of an offer that holds a forged event."""
    liar = scene.liar
    mine = await RoomActions.create(liar.client, preset="public_chat")

    def alter(victim: str, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("room_id") != mine.room_id:
            return answer
        state = [dict(raw) for raw in answer["state"]]
        state[-1] = {**state[-1], "signatures": {}}
        return {**answer, "state": state}

    liar.falsify_answers("join", alter)
    with pytest.raises(RequestFailed) as refused:
        await RoomActions.join(scene.rooms["b"].client, mine.room_id, via=liar.server_name)
    assert refused.value.status == 403
    rows = await scene.read("b", lambda tx: tx.all("SELECT 1 FROM rooms WHERE room_id = ?", (mine.room_id,)))
    assert rows == []


@case
async def test_b02_wrong_content_hash(scene: Scenario) -> None:
    """The redacted form is kept, with all that it does to the room; the lying content is shown to nobody."""
    liar = scene.liar
    user_id = liar.user_id

    def lying(**content: Any) -> Tamper:
        return lambda raw: raw["content"].update(content)

    message = await liar.make(body="one thing", after=lying(body="another thing"))
    name = {"membership": "join", "displayname": "one name"}
    member = await liar.make(
        "m.room.member", name, state_key=user_id, prev=[message.event_id], after=lying(displayname="another name")
    )
    for victim in scene.honest:
        liar.push(victim, message, member)
    await scene.until_held(message.event_id, member.event_id)
    for victim in scene.honest:
        assert await scene.content(victim, message.event_id) == {}
        assert await scene.content(victim, member.event_id) == {"membership": "join"}
        assert (await scene.state(victim))["m.room.member", user_id] == member.event_id
        assert "another thing" not in str(await scene.texts(victim))
        members = await scene.rooms[victim].read_state("m.room.member", user_id)
        assert members == {"membership": "join"}


def twins(genuine: Forged, lie: str) -> Raw:
    """The same event ID, with a content that its hash does not match."""
    return genuine.changed(content={**genuine.raw["content"], "body": lie})


@case
@pytest.mark.parametrize("order", ["twin first", "genuine first"])
async def test_b03_same_id_two_contents(scene: Scenario, order: str) -> None:
    """{twin to A, genuine to B}, apart, in both orders; together again, both hold the genuine content."""
    liar = scene.liar
    for each in scene.liars:
        each.mute()
    scene.split_all()
    genuine = await liar.make(body="genuine", hide=False)
    first, second = ("a", "b") if order == "twin first" else ("b", "a")
    for victim in (first, second):
        liar.push(victim, genuine if victim == "b" else twins(genuine, "twin"))
        await scene.pass_time(2)
    assert await scene.content("a", genuine.event_id) == {}
    assert await scene.content("b", genuine.event_id) == genuine.raw["content"]
    scene.heal()
    await scene.until_held(genuine.event_id)
    await scene.pass_time(90)
    for name in scene.honest:
        assert await scene.content(name, genuine.event_id) == genuine.raw["content"], name
        assert "genuine" in await scene.texts(name)
    for each in scene.liars:
        for name in scene.honest:
            each.push(name, twins(genuine, "another twin"))
    await scene.pass_time(2)
    for name in scene.honest:
        assert await scene.content(name, genuine.event_id) == genuine.raw["content"], name


@case(rejoin=True)
async def test_b04_equivocation(scene: Scenario) -> None:
    """Other events for each node at the same place, power levels among them; together again they are a fork."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 100)
    for each in scene.liars:
        each.mute()
    scene.split_all()
    levels = await scene.rooms["b"].read_state("m.room.power_levels")
    place = await liar.leaves()
    for number, name in enumerate(scene.honest):
        users = {**levels["users"], scene.rooms[name].client.user_id: 40 + number}
        content = {**levels, "users": {user: level for user, level in users.items() if user != scene.creator_id}}
        power = await liar.make("m.room.power_levels", content, state_key="", prev=place)
        topic = await liar.make("m.room.topic", {"topic": f"for {name}"}, state_key="", prev=[power.event_id])
        liar.push(name, power, topic, await liar.make(body=f"only for {name}", prev=[topic.event_id]))
    await scene.pass_time(5)
    for name in scene.honest:
        assert (await scene.rooms[name].read_state("m.room.topic"))["topic"] == f"for {name}"
        await scene.rooms[name].send(f"{name} goes on")
    scene.heal()
    await scene.until_held(*scene.arsenal.events)
    for event_id in scene.arsenal.events:
        assert await scene.verdicts(event_id) <= {Verdict.ACCEPTED, Verdict.SOFT_FAILED}
