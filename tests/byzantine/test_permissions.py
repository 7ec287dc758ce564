"""B13 and B14: what an event cites as its permission; B31: what a redaction may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.node.simulation import RoomActions
from tests.byzantine.forgery import Forged
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case

Citing = Callable[[Scenario, Liar, list[str]], Awaitable[Sequence[str]]]


async def state_ids(liar: Liar) -> dict[tuple[str, str], str]:
    return await liar.state_after((await liar.leaves())[0])


async def one_twice(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    return [*needed, needed[0]]


async def needless(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    return [*needed, (await state_ids(liar))["m.room.history_visibility", ""]]


async def member_of_another(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    return [*needed, (await state_ids(liar))["m.room.member", scene.creator_id]]


async def two_of_one_slot(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    """The present power levels and those before them."""
    old = (await state_ids(liar))["m.room.power_levels", ""]
    await scene.give_power(liar.user_id, 50)
    return [*needed, (await state_ids(liar))["m.room.power_levels", ""], old]


async def none_at_all(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    return []


async def a_message(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    return [*needed, scene.sent_first]


async def a_rejected_event(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    levels = {"users": {liar.user_id: 100}}
    rejected = await liar.make("m.room.power_levels", levels, state_key="")
    liar.push_all(scene.honest, [rejected])
    await scene.until_held(rejected.event_id)
    assert await scene.verdicts(rejected.event_id) == {Verdict.REJECTED}
    old = (await state_ids(liar))["m.room.power_levels", ""]
    return [rejected.event_id if each == old else each for each in needed]


async def create(scene: Scenario, liar: Liar, needed: list[str]) -> Sequence[str]:
    """Which nobody cites in version 12, and everybody before."""
    made = (await state_ids(liar))["m.room.create", ""]
    return [made, *needed] if scene.version == "12" else [each for each in needed if each != made]


CITINGS = [
    one_twice,
    needless,
    member_of_another,
    two_of_one_slot,
    none_at_all,
    a_message,
    a_rejected_event,
    create,
]


async def cites_wrongly(scene: Scenario) -> None:
    """All of it is rejected, the same everywhere, and kept, since others may cite it."""
    liar = scene.liar
    made = []
    for citing in CITINGS:
        needed = list((await liar.make(hide=False)).raw["auth_events"])
        made.append(await liar.make(body=citing.__name__, auth=await citing(scene, liar, needed)))
        liar.push_all(scene.honest, [made[-1]])
    needed = list((await liar.make(hide=False)).raw["auth_events"])
    levels = (await state_ids(liar))["m.room.power_levels", ""]
    without = [each for each in needed if each != levels]
    made.append(await liar.make("m.room.topic", {"topic": "no levels, no level needed"}, state_key="", auth=without))
    liar.push_all(scene.honest, [made[-1]])
    await scene.until_held(*(each.event_id for each in made))
    for each in made:
        assert await scene.verdicts(each.event_id) == {Verdict.REJECTED}, each.raw["content"]
    for name in scene.honest:
        assert not {citing.__name__ for citing in CITINGS} & set(await scene.texts(name))


test_b13_auth_events = case(cites_wrongly, name="test_b13_auth_events")
test_b13_auth_events_before_version_12 = case(
    cites_wrongly, name="test_b13_auth_events_before_version_12", version="11"
)


@case
async def test_b13_auth_events_of_another_room(scene: Scenario) -> None:
    """The liar's own rights in a room that only it and one correct node hold: it has no place anywhere."""
    liar = scene.liar
    mine = await RoomActions.create(liar.client, preset="public_chat")
    await RoomActions.join(scene.creator.client, mine.room_id, via=liar.server_name)
    await scene.pass_time(5)
    rights = await liar.read(lambda tx: dict(scene.mesh.nodes[liar.name].running.rooms.current_state(tx, mine.room_id)))
    coup = await liar.make("m.room.power_levels", {"users": {liar.user_id: 100}}, state_key="", state=rights)
    liar.push_all(scene.honest, [coup])
    await scene.pass_time(100)
    assert await scene.verdicts(coup.event_id) == {None}


@case
async def test_b13_auth_events_that_nobody_has(scene: Scenario) -> None:
    """They are asked for; until they come the event is not accepted, and then it is judged by them."""
    liar = scene.liar
    member = await liar.make(
        "m.room.member", {"membership": "join", "displayname": "in secret"}, state_key=liar.user_id
    )
    said = await liar.make(body="by a hidden membership", prev=[member.event_id])
    assert member.event_id in said.raw["auth_events"]
    beside = await liar.make(
        body="not above it", prev=await liar.leaves(), auth=said.raw["auth_events"], state={}, hide=False
    )
    for each in scene.liars:
        each.withheld.add(member.event_id)
    liar.push_all(scene.honest, [said, beside])
    await scene.pass_time(100)
    assert await scene.verdicts(said.event_id) == {None}
    assert await scene.verdicts(beside.event_id) == {None}
    liar.push("b", member)
    await scene.until_held(member.event_id, said.event_id, beside.event_id)
    assert await scene.verdicts(said.event_id) == {Verdict.ACCEPTED}


@case
async def test_b14_stale_auth_events(scene: Scenario) -> None:
    """Rights of yesterday, cited on top of the event that took them: rejected, and kept in the graph."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 100)
    before = await state_ids(liar)
    await scene.give_power(liar.user_id, 0)
    [place] = await liar.leaves()
    topic = await liar.make("m.room.topic", {"topic": "still mine"}, state_key="", state=before)
    levels = await scene.creator.read_state("m.room.power_levels")
    users = {**levels["users"], liar.user_id: 100}
    coup = await liar.make("m.room.power_levels", {**levels, "users": users}, state_key="", state=before)
    assert topic.raw["prev_events"] == [place]
    liar.push_all(scene.honest, [topic, coup])
    await scene.until_held(topic.event_id, coup.event_id)
    for event in (topic, coup):
        assert await scene.verdicts(event.event_id) == {Verdict.REJECTED}
    above = await liar.make(body="above both", prev=[topic.event_id, coup.event_id], state=await state_ids(liar))
    liar.push_all(scene.honest, [above])
    await scene.until_held(above.event_id)
    assert await scene.verdicts(above.event_id) == {Verdict.ACCEPTED}
    for name in scene.honest:
        state = await scene.state(name)
        assert ("m.room.topic", "") not in state
        assert (await scene.rooms[name].read_state("m.room.power_levels"))["users"].get(liar.user_id) == 0


@case
async def test_b14_banned_and_still_citing_its_membership(scene: Scenario) -> None:
    """The ban is in the past of the event: rejected, unlike a backdated one, whose past does not have it."""
    liar = scene.liar
    before = await state_ids(liar)
    await scene.creator.membership("ban", liar.user_id)
    await scene.until_same_events()
    [ban] = [each for slot, each in (await scene.state("a")).items() if slot == ("m.room.member", liar.user_id)]
    said = await liar.make(body="not gone", prev=[ban], state=before)
    liar.push_all(scene.honest, [said])
    await scene.until_held(said.event_id)
    assert await scene.verdicts(said.event_id) == {Verdict.REJECTED}
    for name in scene.honest:
        assert "not gone" not in await scene.texts(name)


async def redaction_of(liar: Liar, target: str, version: str, **options: Any) -> Forged:
    """A redaction of `target`, where the room version keeps it."""
    if version == "10":
        return await liar.make("m.room.redaction", {}, fields={"redacts": target}, **options)
    return await liar.make("m.room.redaction", {"redacts": target}, **options)


@case
@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_b31_redaction_of_state(scene: Scenario, version: str) -> None:
    """Even who may redact changes no state by it: the same create event, levels and members before and after."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 100)
    before = await scene.state("a")
    for slot in (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", scene.creator_id)):
        redaction = await redaction_of(liar, before[slot], version)
        liar.push_all(scene.honest, [redaction])
        await scene.until_held(redaction.event_id)
        assert await scene.verdicts(redaction.event_id) == {Verdict.ACCEPTED}
    for name in scene.honest:
        assert await scene.state(name) == before
        levels = await scene.rooms[name].read_state("m.room.power_levels")
        assert levels["users"][liar.user_id] == 100
        assert (await scene.rooms[name].read_state("m.room.member", scene.creator_id))["membership"] == "join"
    await scene.creator.state("m.room.topic", {"topic": "the creator still may"})


@case
async def test_b31_redaction_by_who_may_not(scene: Scenario) -> None:
    """Of others' messages, of messages of other rooms, of what does not exist: nothing is taken from anybody."""
    liar = scene.liar
    other = await scene.make_room()
    elsewhere = await other.send("elsewhere")
    for target in (scene.sent_first, elsewhere, "$" + "A" * 43):
        redaction = await redaction_of(liar, target, "12")
        liar.push_all(scene.honest, [redaction])
        await scene.until_held(redaction.event_id)
    for name in scene.honest:
        assert "before the attack" in await scene.texts(name)
    assert await other.messages() == ["elsewhere"]


@case
async def test_b31_redaction_before_its_target(scene: Scenario) -> None:
    """Whichever comes first, the content is gone where both are held, and comes back from nobody."""
    liar = scene.liar
    for each in scene.liars:
        each.mute()
    scene.split_all()
    target = await liar.make(body="regretted", prev=await liar.leaves())
    redaction = await redaction_of(liar, target.event_id, "12", prev=await liar.leaves())
    for number, name in enumerate(scene.honest):
        for event in (target, redaction) if number % 2 else (redaction, target):
            liar.push(name, event)
            await scene.pass_time(1)
    scene.heal()
    await scene.until_held(target.event_id, redaction.event_id)
    for each in scene.liars:
        each.push_all(scene.honest, [target])
    await scene.pass_time(5)
    for name in scene.honest:
        assert "regretted" not in await scene.texts(name)
        assert await scene.content(name, target.event_id) == {}
