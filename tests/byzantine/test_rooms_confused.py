"""B30 and B35: which room it is, and by which rules."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.errors import IncompatibleRoomVersion, Verdict
from p2pserver.events.versions import rules_of
from p2pserver.link import Priority
from p2pserver.node.in_process_client import segment
from p2pserver.node.simulation import RequestFailed, RoomActions
from p2pserver.wire import messages as m
from tests.byzantine.forgery import Forged, forge
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case


async def second_create(liar: Liar, version: str, room_id: str) -> Forged:
    content = {"room_version": version, "creator": liar.user_id, "predecessor": {"n": liar.now_ms()}}
    return await made_in(liar, version, room_id, "m.room.create", "", content, [], [])


@case
@pytest.mark.parametrize("version", ["11", "12"])
async def test_b30_a_second_create_event(scene: Scenario, version: str) -> None:
    """In a room that has one: before version 12 rejected, in version 12 no event at all, with or without a room ID."""
    liar = scene.liar
    before = await scene.state("a")
    create = await second_create(liar, version, scene.room_id)
    bare = await liar.make(
        "m.room.create", {"room_version": version}, state_key="", prev=[], auth=[], without=["room_id"], hide=False
    )
    on_top = await liar.make("m.room.create", {"room_version": version}, state_key="", hide=False)
    liar.push_all(scene.honest, [create, bare, on_top])
    await scene.pass_time(5)
    for event in (create, on_top):
        assert await scene.verdicts(event.event_id) <= {None, Verdict.REJECTED}
    if version == "12":
        assert await scene.is_nowhere(create.event_id)
    assert await scene.is_nowhere(bare.event_id)
    child = await liar.make(body="below the second", prev=[create.event_id], state=before)
    liar.push_all(scene.honest, [child])
    await scene.pass_time(5)
    for name in scene.honest:
        assert (await scene.state(name))["m.room.create", ""] == before["m.room.create", ""]
        assert "below the second" not in await scene.texts(name)


@case
async def test_b30_events_of_another_room(scene: Scenario) -> None:
    """Pushed under the name of this room, they are dropped, in a push and in an answer."""
    liar = scene.liar
    mine = await RoomActions.create(liar.client, preset="public_chat")
    foreign = await liar.make(body="of another room", room_id=mine.room_id)
    above = await liar.make(body="above it", prev=[foreign.event_id], state=await liar.state_after(scene.sent_first))
    for name in scene.honest:
        liar.push(name, foreign, above)
    await scene.pass_time(30)
    assert await scene.verdicts(foreign.event_id) == {None}
    assert await scene.verdicts(above.event_id) == {None}
    rows = await scene.read("a", lambda tx: tx.all("SELECT 1 FROM rooms WHERE room_id = ?", (mine.room_id,)))
    assert rows == []


async def room_of_forgeries(liar: Liar, version: str, room_id: str) -> dict[str, Any]:
    """A join offer of a room that exists only in it, with any ID that the version lets its maker choose."""
    rules = rules_of(version)
    create = await second_create(liar, version, room_id)
    if rules.room_id_is_create_hash:
        create = forge(
            {k: v for k, v in create.raw.items() if k not in ("room_id", "hashes", "signatures")},
            rules,
            [liar.signer],
            None,
        )
    auth = [] if rules.room_id_is_create_hash else [create.event_id]
    content = {"membership": "join"}
    user = liar.user_id
    member = await made_in(liar, version, room_id, "m.room.member", user, content, [create.event_id], auth)
    auth = [*auth, member.event_id]
    rule = await made_in(
        liar, version, room_id, "m.room.join_rules", "", {"join_rule": "public"}, [member.event_id], auth
    )
    return {
        "room_id": room_id,
        "room_version": version,
        "state": [create.raw, member.raw, rule.raw],
        "auth_chain": [],
        "prev_events": [rule.event_id],
        "depth": 4,
        "newest_ts": liar.now_ms(),
    }


async def made_in(
    liar: Liar,
    version: str,
    room_id: str,
    event_type: str,
    state_key: str,
    content: dict[str, Any],
    prev: list[str],
    auth: list[str],
) -> Forged:
    raw = {
        "type": event_type,
        "room_id": room_id,
        "sender": liar.user_id,
        "state_key": state_key,
        "content": content,
        "prev_events": prev,
        "auth_events": auth,
        "depth": 3,
        "origin_server_ts": liar.now_ms(),
    }
    return forge(raw, rules_of(version), [liar.signer], None)


@case
async def test_b30_two_rooms_of_one_id(scene: Scenario) -> None:
    """Before version 12 a maker can make two create events for one ID: each node keeps to the one that it met first."""
    liar = scene.liar
    room_id = "!two:" + liar.server_name
    offers = {}
    for name in scene.honest:
        offers[name] = await room_of_forgeries(liar, "11", room_id)
        await scene.pass_time(1)
    liar.falsify_answers("join", lambda victim, answer: offers[victim])
    creates = {}
    for name in scene.honest:
        joined = await RoomActions.join(scene.rooms[name].client, room_id, via=liar.server_name)
        await joined.send(f"{name} is here")
        creates[name] = (await scene.state(name, room_id))["m.room.create", ""]
    assert len(set(creates.values())) == len(scene.honest)
    await scene.pass_time(120)
    for name in scene.honest:
        assert (await scene.state(name, room_id))["m.room.create", ""] == creates[name]
        offers[name] = offers[scene.honest[0]]
    await scene.rooms["b"].client.request("POST", f"/rooms/{segment(room_id)}/leave", {})
    with pytest.raises(RequestFailed) as refused:
        await RoomActions.join(scene.rooms["b"].client, room_id, via=liar.server_name)
    assert refused.value.status == 403
    assert (await scene.state("b", room_id))["m.room.create", ""] == creates["b"]


@case
async def test_b30_an_offer_for_another_room(scene: Scenario) -> None:
    """In version 12 the ID is the hash of the create event: no other one can be offered for it."""
    liar = scene.liar
    wanted = "!" + "B" * 43
    forged = await room_of_forgeries(liar, "12", wanted)
    mine = await RoomActions.create(liar.client, preset="public_chat")
    for offer in (forged, {**forged, "room_id": mine.room_id}):
        liar.falsify_answers("join", lambda victim, answer, offer=offer: offer)
        with pytest.raises(RequestFailed) as refused:
            await RoomActions.join(scene.rooms["b"].client, wanted, via=liar.server_name)
        assert refused.value.status in (403, 502), refused.value
        rows = await scene.read("b", lambda tx: tx.all("SELECT 1 FROM rooms WHERE room_id = ?", (wanted,)))
        assert rows == []


@case
async def test_b35_room_version(scene: Scenario) -> None:
    """Unknown, custom or false: refused by name, and no rules are guessed."""
    liar = scene.liar
    body = {"room_id": scene.room_id, "user_id": "@new:" + liar.server_name, "versions": ["99", "org.example.1"]}
    with pytest.raises(IncompatibleRoomVersion):
        await liar.ask("a", "join", body)
    mine = await RoomActions.create(liar.client, preset="public_chat")
    for version, errcodes in [
        ("99", {"M_INCOMPATIBLE_ROOM_VERSION"}),
        ("org.example.1", {"M_INCOMPATIBLE_ROOM_VERSION"}),
        (12, {"M_INCOMPATIBLE_ROOM_VERSION"}),
        ("10", {"M_FORBIDDEN"}),
        ("11", {"M_FORBIDDEN"}),
    ]:
        liar.falsify_answers("join", lambda victim, answer, version=version: {**answer, "room_version": version})
        with pytest.raises(RequestFailed) as refused:
            await RoomActions.join(scene.rooms["b"].client, mine.room_id, via=liar.server_name)
        assert refused.value.errcode in errcodes, (version, refused.value)
        rows = await scene.read("b", lambda tx: tx.all("SELECT 1 FROM rooms WHERE room_id = ?", (mine.room_id,)))
        assert rows == []


@case
async def test_b35_invite_of_an_unknown_version(scene: Scenario) -> None:
    """Invites for rooms whose rules are not known here are kept nowhere."""
    liar = scene.liar
    mine = await RoomActions.create(liar.client, preset="private_chat")
    invited = scene.rooms["b"].client.user_id
    invite = await liar.make(
        "m.room.member", {"membership": "invite"}, state_key=invited, room_id=mine.room_id, hide=False
    )
    state = await liar.read(
        lambda tx: [
            dict(scene.mesh.nodes[liar.name].running.rooms.event(tx, each).raw)
            for each in scene.mesh.nodes[liar.name].running.rooms.current_state(tx, mine.room_id).values()
        ]
    )
    for number, version in enumerate(["99", "org.example.1", None, 12, "10", "12"]):
        payload = {"room_version": version, "event": invite.raw, "invite_room_state": state}
        item = m.Item(500 + number, "invite", m.encode_json(payload), more=False)
        liar.say_octets("b", m.encode_message(item), Priority.STATE)
        await scene.pass_time(2)
        rows = await scene.read("b", lambda tx: tx.all("SELECT room_id FROM invites"))
        assert rows == ([(mine.room_id,)] if version == "12" else []), version


@case
async def test_b18_joining_again_after_a_join_that_led_nowhere(scene: Scenario) -> None:
    """A liar's offer stands on an event that it invented: who leaves and joins by another server is in at last."""
    liar = scene.liar
    other = await scene.make_room()
    await RoomActions.join(liar.client, other.room_id, via=scene.mesh.nodes["a"].server_name)
    await scene.pass_time(5)
    lost = await liar.make(body="lost", room_id=other.room_id, hide=False)
    liar.falsify_answers("join", lambda victim, answer: {**answer, "prev_events": [lost.event_id], "depth": 50})
    lonely = await RoomActions.join(scene.rooms["b"].client, other.room_id, via=liar.server_name)
    await lonely.send("does anybody hear me")
    await scene.pass_time(100)
    assert await other.messages() == []
    await lonely.leave()
    member = await RoomActions.join(scene.rooms["b"].client, other.room_id, via=scene.mesh.nodes["a"].server_name)
    member.transactions = lonely.transactions
    await member.send("and now")
    await scene.pass_time(20)
    await other.send("yes")
    await scene.until_same_events(names=["a", "b"], room_id=other.room_id)
    assert await other.messages() == ["and now", "yes"]
    assert (await member.messages())[-2:] == ["and now", "yes"]
    digests = [await scene.digest(name, other.room_id) for name in ("a", "b")]
    assert digests[0].sec == digests[1].sec
    sql = "SELECT complete FROM rooms WHERE room_id = ?"
    assert await scene.read("b", lambda tx: tx.one(sql, (other.room_id,))) == (1,)
