"""B26, B29, B32, B33: liars who repeat, who play with keys, who carry what others said, and who hide it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.signing import Signer
from p2pserver.identifiers import KEY_ID
from p2pserver.node.identity import identity_of
from p2pserver.node.simulation import RoomActions, SimulatedNode
from p2pserver.store.inline import SimulatedDisk
from p2pserver.wire import messages as m
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case
from transports.sim import LinkConditions

GENUINE_S = 1_500
"""For genuine copies of what came altered: who has none yet is asked again after ten minutes."""
SLOW = LinkConditions(loss=0.2, delay_ms_mean=400, jitter_ms=200, bit_rate=9_600, datagram_octets_max=200)


TAPE_MAX = 120
"""Messages that are played again; of more, some."""

# B26


async def some_traffic(scene: Scenario) -> None:
    """Messages of everybody, state, an invite and its refusal, a redaction."""
    for number in range(3):
        for name in (*scene.honest, *scene.crowd.liars):
            await scene.rooms[name].send(f"{name} says {number}")
        await scene.pass_time(0.5)
    gone = await scene.creator.send("to be redacted")
    await scene.creator.state("m.room.topic", {"topic": "traffic"})
    await scene.creator.redact(gone)
    other = await RoomActions.create(scene.liar.client, preset="private_chat", name="elsewhere")
    await other.membership("invite", scene.rooms["b"].client.user_id)
    await scene.pass_time(5)
    await scene.rooms["b"].client.request("POST", f"/rooms/{other.room_id}/leave", {})
    await scene.until_same_events(names=list(scene.mesh.nodes))
    await scene.pass_time(5)


def recorded(scene: Scenario) -> list[m.Message]:
    """Starts to record what the liars say; what they hear is recorded anyway."""
    said: list[m.Message] = []

    def record(victim: str, message: m.Message) -> Sequence[m.Message]:
        said.append(message)
        return (message,)

    for each in scene.liars:
        each.tongue = record
    return said


@case
@pytest.mark.parametrize("order", ["as they were", "shuffled"])
async def test_b26_everything_three_times(scene: Scenario, order: str) -> None:
    """What was said to the liars, by whomever, and what they said, three times more to everybody."""
    said = recorded(scene)
    await some_traffic(scene)
    events_before = {name: await scene.read(name, count_of_events) for name in scene.honest}
    since = {name: (await scene._sync(name))["next_batch"] for name in scene.honest}
    tape = [message for each in scene.liars for _, message in each.heard if not isinstance(message, m.Hello)] + said
    assert {type(message) for message in tape} >= {m.Beacons, m.Pdus, m.Stored, m.Item}
    rng = random.Random("B26")
    kept = sorted(rng.sample(range(len(tape)), min(TAPE_MAX, len(tape))))
    tape = [tape[number] for number in kept] * 3
    if order == "shuffled":
        rng.shuffle(tape)
    for number, message in enumerate(tape):
        for name in scene.honest:
            scene.liars[number % len(scene.liars)].say(name, message)
        if number % 20 == 19:
            await scene.pass_time(1)
    await scene.pass_time(90)
    for name in scene.honest:
        texts = await scene.texts(name)
        assert len(texts) == len(set(texts))
        assert "to be redacted" not in texts
        synced = (await scene._sync(name, since[name])).get("rooms", {})
        assert not synced.get("join", {}).get(scene.room_id, {}).get("timeline", {}).get("events")
        assert not synced.get("invite")
        assert await scene.read(name, count_of_events) == events_before[name]


def count_of_events(tx: Any) -> tuple[Any, ...]:
    found: tuple[Any, ...] = tx.one("SELECT count(*) FROM events WHERE outlier = 0")
    return found


@case
async def test_b26_greeting_twice(scene: Scenario) -> None:
    """A second Hello ends the conversation of who says it, and no other."""
    for each in scene.liars:
        [hello] = [message for whom, message in each.heard if isinstance(message, m.Hello) and whom == "a"][-1:] or [
            None
        ]
        each.say("a", hello or m.Hello(each.server_name, "liar", b"saltsalt", 0))
    said = [await scene.creator.send("meanwhile")]
    await scene.until_held(*said, within_s=10)
    await scene.pass_time(200)


# B29


@case
async def test_b29_other_keys_for_other_nodes(scene: Scenario) -> None:
    """Events signed with another key for each node: a name is its key, so nobody takes either, whoever vouches."""
    liar, made = scene.liar, []
    for number, name in enumerate(scene.honest):
        key = Signer(liar.server_name, KEY_ID, bytes([number + 1]) * 32)
        made.append(await liar.make(body=f"by a key for {name}", signers=[key], hide=False))
        made.append(
            await liar.make(
                body=f"by an old key for {name}",
                hide=False,
                signers=[Signer(liar.server_name, f"ed25519:{number}x", bytes([number + 9]) * 32), liar.signer],
            )
        )
        liar.push(name, *made[-2:])
    await scene.pass_time(90)
    assert all([await scene.is_nowhere(each.event_id) for each in made[::2]])
    for each in made[1::2]:
        assert await scene.verdicts(each.event_id) == {Verdict.ACCEPTED}


async def twin_of(scene: Scenario, liar: Liar, *, domain: str | None) -> str:
    """A second process with the liar's key, under the same name or with a domain."""
    identity = identity_of(scene.mesh.nodes[liar.name].identity.seed, domain=domain)
    scene.mesh.nodes["twin"] = SimulatedNode("twin", identity, SimulatedDisk(), 99)
    await scene.mesh.boot("twin")
    await scene.pass_time(5)
    return identity.server_name


@case
async def test_b29_a_second_name_for_a_key(scene: Scenario) -> None:
    """The key that is known by one name says another one: not talked to; and its events make no difference between
    nodes, whether they come by others or not."""
    liar = scene.liar
    other_name = await twin_of(scene, liar, domain="mesh.example.org")
    assert other_name != liar.server_name
    await scene.pass_time(60)
    for name in scene.honest:
        assert other_name not in scene.mesh.nodes[name].running.mesh.connected()
    await scene.mesh.crash("twin")
    del scene.mesh.nodes["twin"]
    await scene.pass_time(200)
    alias = Signer(other_name, KEY_ID, scene.mesh.nodes[liar.name].identity.seed)
    user, state = f"@alias:{other_name}", await liar.state_after(scene.sent_first)
    content = {"membership": "join"}
    join = await liar.make("m.room.member", content, sender=user, state_key=user, signers=[alias], state=state)
    said = await liar.make(body="by another name", sender=user, prev=[join.event_id], signers=[alias])
    liar.push("b", said, join)
    liar.push("a", join)
    await scene.pass_time(90)
    for each in (join, said):
        assert len(await scene.verdicts(each.event_id)) == 1


@case
async def test_b29_the_same_key_twice(scene: Scenario) -> None:
    """Two processes with one key and one name, of which one knows nothing of what the other said and heard."""
    liar = scene.liar
    await twin_of(scene, liar, domain=None)
    for number in range(8):
        await scene.rooms[scene.honest[number % len(scene.honest)]].send(f"while there are two, {number}")
        liar_says = scene.rooms[liar.name].send(f"one of two, {number}")
        await liar_says
        await scene.pass_time(15)
    await scene.mesh.crash("twin")
    del scene.mesh.nodes["twin"]
    await scene.pass_time(120)


@case
async def test_b29_new_process_again_and_again(scene: Scenario) -> None:
    """The liar's process ends and starts in the middle of everything, each time with another epoch and other salts."""
    liar = scene.liar
    for number in range(10):
        await scene.creator.send(f"while it restarts, {number}")
        await scene.pass_time((0.0, 0.01, 0.5, 3.0)[number % 4])
        await scene.mesh.crash(liar.name)
        await scene.pass_time((0.0, 2.0)[number % 2])
        await scene.mesh.boot(liar.name)
    await scene.pass_time(60)


# B32


def altering(rng: random.Random) -> Any:
    """Passes on what others said, but changed, in part, late, or not at all."""

    def tongue(victim: str, message: m.Message) -> Sequence[m.Message]:
        if isinstance(message, m.Pdus):
            kept = [dict(pdu) for pdu in message.pdus if rng.random() < 0.5]
            for pdu in kept:
                kind = rng.randrange(4)
                if kind == 0:
                    pdu["content"] = {"msgtype": "m.text", "body": "altered on the way"}
                elif kind == 1:
                    pdu["prev_events"] = pdu["prev_events"][:1] * 2
                elif kind == 2:
                    pdu["origin_server_ts"] = 1
            return [m.Pdus(message.room_id, tuple(kept), message.more, message.in_answer)] if kept else ()
        if isinstance(message, m.Leaves | m.Offer) and rng.random() < 0.5:
            return ()
        return (message,)

    return tongue


@case
@pytest.mark.parametrize("way", ["altered", "partial"])
async def test_b32_only_malicious_relays_and_a_slow_link(scene: Scenario, way: str) -> None:
    """Correct nodes hear each other through liars alone, who alter and leave out; and by one slow honest link."""
    rng = random.Random(f"B32 {way}")
    scene.split_all()
    for each in scene.liars:
        each.tongue = altering(rng) if way == "altered" else partial(rng)
    said = []
    for number in range(6):
        for name in scene.honest:
            said += [await scene.rooms[name].send(f"{name} says {number}")]
        await scene.pass_time(20)
    for name in scene.honest:
        assert "altered on the way" not in await scene.texts(name)
    first = scene.honest[0]
    for other in scene.honest[1:]:
        scene.mesh.network.set_conditions(first, other, SLOW)
        scene.mesh.network.set_link(first, other, True)
    await scene.until_held(*said, within_s=900)
    everything = {f"{name} says {number}" for name in scene.honest for number in range(6)}
    for _ in range(GENUINE_S // 60):
        texts = {name: set(await scene.texts(name)) for name in scene.honest}
        if all(everything <= shown for shown in texts.values()):
            break
        await scene.pass_time(60)
    for name, shown in texts.items():
        assert everything <= shown, name
        assert "altered on the way" not in shown


def partial(rng: random.Random) -> Any:
    """Passes on one event in three, and says that there is no more."""

    def tongue(victim: str, message: m.Message) -> Sequence[m.Message]:
        if isinstance(message, m.Pdus):
            kept = tuple(pdu for pdu in message.pdus if rng.random() < 0.34)
            return [m.Pdus(message.room_id, kept, False, message.in_answer)] if kept else ()
        return (message,)

    return tongue


# B33


@case
async def test_b33_eclipse_with_selective_healing(scene: Scenario) -> None:
    """One correct node hears only liars, who say that they hold exactly what it holds, whatever it says; the moment
    that it hears another correct node, the beacons show what was hidden."""
    eclipsed = scene.honest[-1]
    rest = set(scene.honest) - {eclipsed}
    scene.split(rest, {eclipsed})
    for each in scene.liars:
        hide_from(scene, each, eclipsed)
    hidden = []
    for number in range(5):
        hidden.append(await scene.creator.send(f"hidden {number}"))
        await scene.rooms[eclipsed].send(f"in the dark {number}")
        await scene.pass_time(30)
    for event_id in hidden:
        assert await scene.verdict(eclipsed, event_id) is None
    scene.mesh.network.set_link("a", eclipsed, True)
    await scene.until_held(*hidden, names=[eclipsed], within_s=30)


def hide_from(scene: Scenario, liar: Liar, eclipsed: str) -> None:
    """Everything that the liar says to this node of rooms is that it holds the same."""

    def echo(victim: str, message: m.Message) -> Sequence[m.Message] | None:
        return [message] if victim == eclipsed and isinstance(message, m.Leaves) else None

    def same(victim: str, message: m.Beacons) -> Sequence[m.Message] | None:
        return [message] if victim == eclipsed else None

    liar.mute(m.Pdus, m.Leaves, m.Beacons, m.Offer, to=[eclipsed])
    liar.scripts[m.Beacons] = same
    liar.scripts[m.Leaves] = echo
