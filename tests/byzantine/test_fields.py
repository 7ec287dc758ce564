"""B08 to B12: what the fields of an event say, how large they are, and what is no event at all."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest

from p2pserver.errors import MatrixError, Verdict
from p2pserver.events.canonical import encode_canonical
from p2pserver.events.event_format import EVENT_OCTETS_MAX, IDENTIFIER_OCTETS_MAX
from p2pserver.link import Priority
from p2pserver.node.simulation import RequestFailed, RoomActions
from p2pserver.wire.messages import REQUEST_OCTETS_MAX, Item, Request
from tests.byzantine.forgery import Forged
from tests.byzantine.liar import PDUS_NUMBER, Liar
from tests.byzantine.scenario import Scenario, case

DEPTH_MAX = 2**53 - 1
MINUTE_MS = 60_000
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "canonical_json.json").read_text())


async def push_to_all(scene: Scenario, *events: Forged) -> None:
    for name in scene.honest:
        scene.liar.push(name, *events)
    await scene.pass_time(3)


async def meet_again(scene: Scenario, liar: Liar) -> None:
    """Who said what is no message is not talked to for a minute; then it may come again."""
    for _ in range(200):
        names = set(scene.mesh.nodes[liar.name].running.mesh.connected())
        if names >= {scene.mesh.nodes[name].server_name for name in scene.honest}:
            return
        await scene.pass_time(1)
    raise AssertionError("the liar is not let in again")


@case
async def test_b08_depth(scene: Scenario) -> None:
    """Out of range: dropped. In range: taken, and never used; the room goes on after the greatest depth there is."""
    liar = scene.liar
    lies: list[Any] = [0, 1, DEPTH_MAX]
    taken = [await liar.make(body=f"depth {depth}", depth=depth) for depth in lies]
    dropped = [
        await liar.make(body=repr(depth), fields={"depth": depth}, hide=False)
        for depth in (-1, "7", None, True, [5], {})
    ]
    dropped.append(await liar.make(body="none", without=["depth"], hide=False))
    await push_to_all(scene, *dropped, *taken)
    await scene.until_held(*(each.event_id for each in taken))
    for each in dropped:
        assert each.event_id == "" or await scene.is_nowhere(each.event_id)
    for event_id in (each.event_id for each in taken):
        stored = await scene.stored("a", event_id)
        assert stored is not None
        assert stored.depth < 100
    sent = [await scene.rooms[name].send(f"{name} after the deepest event") for name in scene.honest]
    await scene.until_held(*sent)
    last = await scene.stored("b", sent[-1])
    assert last is not None
    assert last.pdu.depth < 100
    for name in scene.honest:
        shown = [text for text in await scene.texts(name) if "after the deepest" in text or "depth" in text]
        assert set(shown[: len(lies)]) == {f"depth {depth}" for depth in lies}, "the order is that of the graph"


@case
async def test_b08_depth_that_no_message_can_carry(scene: Scenario) -> None:
    """Numbers that no event of this version may hold are dropped; beyond 64 bits it is no message, and the conversation
    ends until the liar comes again."""
    for depth in (2**53, -(2**53), 1.5, 2**63, 2**70):
        event = await scene.liar.make(fields={"depth": depth}, hide=False)
        for name in scene.honest:
            scene.liar.push(name, event)
        await scene.pass_time(5)
        assert event.event_id == "" or await scene.is_nowhere(event.event_id)
        await meet_again(scene, scene.liar)
    good = await scene.liar.make(body="welcome back")
    await push_to_all(scene, good)
    assert await scene.verdicts(good.event_id) == {Verdict.ACCEPTED}


@case
async def test_b09_timestamps(scene: Scenario) -> None:
    """Any time is taken; none moves our clocks by more than a quarter of an hour, or the order of what is shown."""
    liar = scene.liar
    before = await scene.creator.send("first")
    await scene.until_held(before)
    times = [0, -1, -DEPTH_MAX, DEPTH_MAX, liar.now_ms() + 365 * 24 * 60 * MINUTE_MS]
    taken = [await liar.make(body=f"time {ts}", ts=ts) for ts in times]
    await push_to_all(scene, *taken)
    assert {verdict for each in taken for verdict in await scene.verdicts(each.event_id)} == {Verdict.ACCEPTED}
    for name in scene.honest:
        sent = await scene.rooms[name].send(f"{name} is later")
        stored = await scene.stored(name, sent)
        assert stored is not None
        assert abs(stored.pdu.origin_server_ts - liar.now_ms()) <= 16 * MINUTE_MS
        await scene.until_held(sent)
        texts = await scene.texts(name)
        assert texts.index("first") < texts.index("time 0") < texts.index(f"{name} is later")


@case
@pytest.mark.parametrize("ts", [0, DEPTH_MAX])
async def test_b09_time_wins_nothing_against_power(scene: Scenario, ts: int) -> None:
    """A moderator who is demoted keeps its rights by no date on its own change of the levels."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 100)
    place = await liar.leaves()
    levels = await scene.creator.read_state("m.room.power_levels")
    demotion = await scene.creator.set_level(liar.user_id, 0)
    users = {**levels["users"], "@accomplice:" + liar.server_name: 100}
    coup = await liar.make("m.room.power_levels", {**levels, "users": users}, state_key="", prev=place, ts=ts)
    await push_to_all(scene, coup)
    await scene.until_held(demotion, coup.event_id)
    for name in scene.honest:
        await scene.rooms[name].send("merges both")
    await scene.until_same_events()
    for name in scene.honest:
        levels = await scene.rooms[name].read_state("m.room.power_levels")
        assert levels["users"].get(liar.user_id) == 0
        assert "@accomplice:" + liar.server_name not in levels["users"]


async def sized(liar: Liar, octets: int, filler: str = "x") -> Forged:
    """A message of exactly so many octets of canonical JSON."""
    least = len(encode_canonical((await liar.make(body="", hide=False)).raw))
    width = len(filler.encode())
    count, rest = divmod(octets - least, width)
    event = await liar.make(body=filler * count + "y" * rest, depth=5, ts=liar.now_ms(), hide=False)
    short = octets - len(encode_canonical(event.raw))
    if short:
        event = await liar.make(body=filler * count + "y" * (rest + short), depth=5, ts=liar.now_ms(), hide=False)
    assert len(encode_canonical(event.raw)) == octets
    return event


@case
async def test_b10_size_of_events(scene: Scenario) -> None:
    """65,536 octets of canonical JSON are taken, one more is not, however few characters they are."""
    liar = scene.liar
    for filler in ("x", "é", "🎈"):
        fits, exceeds = await sized(liar, EVENT_OCTETS_MAX, filler), await sized(liar, EVENT_OCTETS_MAX + 1, filler)
        for name in scene.honest:
            liar.push(name, exceeds, fits)
        await scene.until_held(fits.event_id)
        assert await scene.is_nowhere(exceeds.event_id)


@case
async def test_b10_size_of_fields(scene: Scenario) -> None:
    """255 octets, not 255 characters; also inside a join offer."""
    liar = scene.liar
    await scene.give_power(liar.user_id, 100)
    most = IDENTIFIER_OCTETS_MAX
    fit = [
        await liar.make("m.room.topic.test", {}, state_key="k" * most),
        await liar.make("m.room.topic.test", {}, state_key="é" * 127 + "k"),
        await liar.make("t" * most, {}, state_key=""),
    ]
    exceed = [
        await liar.make("m.room.topic.test", {}, state_key="k" * (most + 1), hide=False),
        await liar.make("m.room.topic.test", {}, state_key="é" * 128, hide=False),
        await liar.make("t" * (most + 1), {}, state_key="", hide=False),
        await liar.make("é" * 128, {}, state_key="", hide=False),
        await liar.make(sender="@" + "u" * (most - len(liar.server_name)) + ":" + liar.server_name, hide=False),
        await liar.make(fields={"room_id": "!" + "r" * most + ":" + liar.server_name}, hide=False),
    ]
    await push_to_all(scene, *exceed, *fit)
    await scene.until_held(*(each.event_id for each in fit))
    for each in exceed:
        assert await scene.is_nowhere(each.event_id)
    mine = await RoomActions.create(liar.client, preset="public_chat")
    large = await liar.make("m.room.topic", {}, state_key="k" * (most + 1), room_id=mine.room_id, hide=False)
    liar.falsify_answers("join", lambda victim, answer: {**answer, "state": [*answer["state"], large.raw]})
    with pytest.raises(RequestFailed) as refused:
        await RoomActions.join(scene.rooms["b"].client, mine.room_id, via=liar.server_name)
    assert refused.value.status == 403


def no_messages(room_id: str, event: dict[str, Any]) -> dict[str, bytes]:
    """Octets that are no message, or none with an event, each in another way."""

    def pdus(content: bytes) -> bytes:
        """`Pdus` with an event whose content is these octets of CBOR."""
        rest = cbor2.dumps({key: value for key, value in event.items() if key != "content"})
        count = len(event)
        head = bytes([0x80 | 5]) + cbor2.dumps(PDUS_NUMBER) + cbor2.dumps(room_id) + b"\x81"
        return head + bytes([0xA0 | count]) + rest[1:] + cbor2.dumps("content") + content + b"\xf4\xf4"

    return {
        "a float": pdus(cbor2.dumps({"x": 1.5})),
        "not a number": pdus(b"\xa1\x61x\xf9\x7e\x00"),
        "infinity": pdus(b"\xa1\x61x\xf9\x7c\x00"),
        "a large integer": pdus(cbor2.dumps({"x": 2**53})),
        "a double that is no number": pdus(b"\xa1\x61x\xfb\x7f\xf8" + bytes(6)),
        "an infinite double": pdus(b"\xa1\x61x\xfb\x7f\xf0" + bytes(6)),
        "5,000 digits": pdus(cbor2.dumps({"x": 10**5000})),
        "a key twice": pdus(b"\xa2\x61x\x01\x61x\x02"),
        "a key that is no text": pdus(b"\xa1\x01\x02"),
        "not UTF-8": pdus(b"\xa1\x61x\x62\xff\xfe"),
        "half of a surrogate pair": pdus(b"\xa1\x61x\x63\xed\xa0\x80"),
        "a text without end": pdus(b"\xa1\x61x\x7f\x61a\xff"),
        "undefined": pdus(b"\xa1\x61x\xf7"),
        "a tag": pdus(b"\xa1\x61x\xc1\x01"),
        "octets": pdus(b"\xa1\x61x\x41\x00"),
        "too deep": pdus(b"\xa1\x61x" + b"\x81" * 100_000 + b"\x01"),
        "cut off": pdus(b"\xa1\x61x")[:-2],
        "more behind it": pdus(b"\xa0") + b"\x00",
        "an unknown number": cbor2.dumps([99]),
    }


@case
async def test_b11_octets_that_are_no_message(scene: Scenario) -> None:
    """Each ends the conversation with who said it, and costs nobody else anything. (Doubles and integers of 64 bits may
    travel, for the sake of old room versions; in a room of this one such an event is dropped.)"""
    liar = scene.liar
    old = ("a float", "a large integer")
    before = await scene.read("a", lambda tx: tx.all("SELECT count(*) FROM events"))
    event = (await liar.make(hide=False)).raw
    for name, octets in no_messages(scene.room_id, event).items():
        victims = scene.honest if name in ("a tag", "too deep") else scene.honest[:1]
        for victim in victims:
            liar.say_octets(victim, octets, Priority.STATE)
        sent = await scene.rooms["b"].send(f"beside {name}")
        await scene.until_held(sent, within_s=10)
        await scene.pass_time(1)
        connected = scene.mesh.nodes["a"].running.mesh.connected()
        assert (liar.server_name in connected) == (name in old), name
        await meet_again(scene, liar)
    after = await scene.read("a", lambda tx: tx.all("SELECT count(*) FROM events"))
    assert after[0][0] == before[0][0] + len(no_messages(scene.room_id, event)), (
        "the messages beside them, and no other"
    )
    last = await liar.make(body="welcome back")
    await push_to_all(scene, last)
    assert await scene.verdicts(last.event_id) == {Verdict.ACCEPTED}


@case
async def test_b11_json_that_is_none(scene: Scenario) -> None:
    """In questions and in invites, where JSON travels as text: an error for the asker, and nothing else happens."""
    liar = scene.liar
    texts = [
        base64.b64decode(next(v for k, v in each.items() if "base64" in k)) for each in VECTORS["reject_as_event_json"]
    ]
    texts += [b"\xef\xbb\xbf{}", b'{"a":NaN}', b'{"a":1,"a":2}', b'{"a":' + b"9" * 5000 + b"}", b"[" * 10_000]
    for number, text in enumerate(text for text in texts if len(text) < REQUEST_OCTETS_MAX // 2):
        question = text if number % 2 else b'{"room_id":' + text + b"}"
        liar.say("a", Request(1_000_000 + number, "join", question))
        liar.say("b", Item(1_000_000 + number, "invite", b'{"event":' + text + b"}", more=False))
    await scene.pass_time(20)
    good = await liar.make(body="and then a good one")
    await push_to_all(scene, good)
    assert await scene.verdicts(good.event_id) == {Verdict.ACCEPTED}
    assert liar.server_name in scene.mesh.nodes["a"].running.mesh.connected()
    with pytest.raises(MatrixError):
        await liar.ask("a", "join", {"room_id": {"a": 1}})


JSON_TYPES: list[Any] = [None, True, 0, -1, 2**53 - 1, "", "text", [], [[]], [1], {}, {"a": {"b": []}}]
ALLOWED: dict[str, list[Any]] = {
    "content": [{}, {"a": {"b": []}}],
    "depth": [0, 2**53 - 1],
    "origin_server_ts": [0, -1, 2**53 - 1],
    "prev_events": [[]],
    "auth_events": [[]],
    "state_key": ["", "text"],
    "type": ["", "text"],
    "unsigned": JSON_TYPES,
    "redacts": JSON_TYPES,
    "origin": JSON_TYPES,
    "__proto__": JSON_TYPES,
    "constructor": JSON_TYPES,
    "event_id": JSON_TYPES,
}
"""What a field of a message may be, of `JSON_TYPES`, so that the event is one at all."""
FIELDS = (*ALLOWED, "sender", "room_id", "hashes", "signatures")


@case
async def test_b12_wrong_types(scene: Scenario) -> None:
    """Each field as each type of JSON: dropped if the format says so, never an exception; nothing else is lost."""
    liar = scene.liar
    fuzzed: list[tuple[bool, Forged]] = []
    for field in FIELDS:
        for value in JSON_TYPES:
            allowed = any(type(value) is type(each) and value == each for each in ALLOWED.get(field, []))
            if field in ("hashes", "signatures", "unsigned"):

                def put(raw: dict[str, Any], field: str = field, value: Any = value) -> None:
                    raw[field] = value

                event = await liar.make(body=f"{field} {value}", after=put, hide=False)
            else:
                event = await liar.make(body=f"{field} {value}", fields={field: value}, hide=False)
            fuzzed.append((allowed, event))
    good = await liar.make(body="between them", hide=False)
    half = len(fuzzed) // 2
    await push_to_all(scene, *(event for _, event in fuzzed[:half]), good, *(event for _, event in fuzzed[half:]))
    await scene.pass_time(5)
    assert await scene.verdicts(good.event_id) == {Verdict.ACCEPTED}
    for allowed, event in fuzzed:
        if allowed:
            assert None not in await scene.verdicts(event.event_id), event.raw
        elif event.event_id:
            assert await scene.is_nowhere(event.event_id), event.raw


@case
async def test_b12_large_things_beside_the_event(scene: Scenario) -> None:
    """`unsigned` may hold anything and is not kept; thousands of signatures are not looked at one by one."""
    liar = scene.liar
    large = await liar.make(body="large", after=lambda raw: raw.update(unsigned={"x": ["y" * 1000] * 200}))

    def sign_often(raw: dict[str, Any]) -> None:
        own = raw["signatures"][liar.server_name]
        own.update({f"ed25519:{number}": "A" * 86 for number in range(2, 500)})

    often = await liar.make(body="often signed", after=sign_often)
    await push_to_all(scene, large)
    await push_to_all(scene, often)
    await scene.until_held(large.event_id, often.event_id)
    for name in scene.honest:
        stored = await scene.stored(name, large.event_id)
        assert stored is not None
        assert "unsigned" not in stored.pdu.raw
