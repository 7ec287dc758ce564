"""Events that are sent later: at their time, after a restart, at once, or never."""

import asyncio
from typing import Any

import pytest

from p2pserver.client_api import delayed_events
from p2pserver.store import delayed_events as stored
from p2pserver.store.inline import SimulatedDisk
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.talk import at, history, join, joined, new_room, say, set_state, sync, texts

PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
SOON = 10
LONG = 10_000_000


async def _later(client: Client, room_id: str, text: str, delay_ms: int, txn: str = "t") -> str:
    path = f"{at(room_id, 'send', 'm.room.message', txn)}?org.matrix.msc4140.delay={delay_ms}"
    answer = await client.put(path, {"msgtype": "m.text", "body": text})
    assert answer.body.keys() == {"delay_id"}
    delay_id: str = answer["delay_id"]
    return delay_id


async def _act(client: Client, delay_id: str, action: str) -> Any:
    return await client.post(f"{PREFIX}/delayed_events/{delay_id}/{action}")


async def _waiting(client: Client) -> list[str]:
    answer = await client.get(f"{PREFIX}/delayed_events")
    assert answer["delayed_events"] == answer["scheduled"]
    return [event["delay_id"] for event in answer["scheduled"]]


async def _make_due(node: Node) -> None:
    """The time of everything that waits has come."""
    await node.database.write(lambda tx: tx.execute("UPDATE delayed_events SET since_ms = since_ms - delay_ms"))
    while await node.database.read(stored.next_due) is not None:
        await node.database.write(lambda tx: delayed_events.send_next(node.api, tx))


async def test_an_event_is_sent_when_its_time_has_come() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        node.api.start()
        token = (await sync(alice))["next_batch"]
        later = await _later(alice, room_id, "tomorrow", LONG, "t0")
        delay_id = await _later(alice, room_id, "soon", SOON)
        assert await _later(alice, room_id, "soon", SOON) == delay_id, "the same transaction is the same event"
        room = None
        for _ in range(1000):
            answer = await sync(alice, token, wait_ms=20_000)
            room = answer["rooms"]["join"].get(room_id)
            if room is not None and room["timeline"]["events"]:
                break
            token = answer["next_batch"]
        assert room is not None
        (event,) = room["timeline"]["events"]
        assert (event["content"]["body"], event["unsigned"]["transaction_id"]) == ("soon", "t")
        assert "transaction_id" not in (await history(bob, room_id))[0]["unsigned"]
        assert await _waiting(alice) == [later]
        told = (await alice.get(f"{PREFIX}/delayed_events/{delay_id}")).body
        assert told["finalised"]["event_id"] == event["event_id"]
        assert (told["type"], told["content"]["body"], told["delay_ms"]) == ("m.room.message", "soon", SOON)
        assert (await bob.get(f"{PREFIX}/delayed_events/{delay_id}")).errcode == "M_NOT_FOUND"
        assert await _waiting(bob) == []


async def test_what_came_due_while_the_node_was_off_is_sent_at_the_next_start() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk) as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        await _later(alice, room_id, "soon", SOON)
        await node.database.write(lambda tx: tx.execute("UPDATE delayed_events SET since_ms = since_ms - 1000000"))
    async with running_node(disk=disk) as node:
        alice = await node.log_in("alice")
        assert texts(await history(alice, room_id)) == []
        token = (await sync(alice))["next_batch"]
        node.api.start()
        await asyncio.wait_for(sync(alice, token, wait_ms=60_000), 90)
        assert texts(await history(alice, room_id)) == ["soon"]
        assert await _waiting(alice) == []


async def test_restart_cancel_and_send() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        one, two, three = [await _later(alice, room_id, str(n), LONG, f"t{n}") for n in range(3)]
        before = (await alice.get(f"{PREFIX}/delayed_events/{one}"))["running_since"]
        assert (await _act(node.stranger(), one, "restart")).body == {}, "whoever knows the ID may"
        assert (await alice.get(f"{PREFIX}/delayed_events/{one}"))["running_since"] > before
        assert (await _act(alice, two, "cancel")).body == {}
        assert (await _act(alice, two, "cancel")).body == {}, "twice is no error"
        assert (await alice.post(f"{PREFIX}/delayed_events/{three}", {"action": "send"})).body == {}
        assert (await _act(alice, three, "send")).body == {}
        assert texts(await history(alice, room_id)) == ["2"]
        assert await _waiting(alice) == [one]
        for delay_id, action in ((two, "send"), (two, "restart"), (three, "cancel"), ("unknown", "send")):
            assert (await _act(alice, delay_id, action)).errcode == "M_NOT_FOUND"
        assert (await _act(alice, one, "explode")).errcode == "M_INVALID_PARAM"
        assert (await alice.post(f"{PREFIX}/delayed_events/{one}", {})).errcode == "M_MISSING_PARAM"
        await _make_due(node)
        assert texts(await history(alice, room_id)) == ["0", "2"]


async def test_state_and_redactions_can_wait_and_are_overtaken_by_somebody_elses_state_alone() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat", power_level_content_override={"state_default": 0})
        await join(bob, room_id)
        target = await say(alice, room_id, "for a while")
        topic = f"{at(room_id, 'state', 'm.room.topic')}?org.matrix.msc4140.delay={LONG}"
        name = f"{at(room_id, 'state', 'm.room.name')}/?org.matrix.msc4140.delay={LONG}"
        overtaken = (await alice.put(topic, {"topic": "alice's"}))["delay_id"]
        sent = (await alice.put(name, {"name": "later"}))["delay_id"]
        content = {"delay_ms": LONG, "content": {"redacts": target}}
        redaction = f"{PREFIX}/rooms/{room_id}/delayed_event/m.room.redaction/r1"
        assert (await alice.put(redaction, content))["delay_id"] == (await alice.put(redaction, content))["delay_id"]
        in_body = {"delay_ms": LONG, "state_key": "k", "content": {"a": 1}}
        assert (await alice.put(f"{PREFIX}/rooms/{room_id}/delayed_event/org.example/s1", in_body)).status == 200
        await set_state(bob, room_id, "m.room.topic", {"topic": "bob's"})
        await set_state(alice, room_id, "m.room.name", {"name": "now"})
        await _make_due(node)
        assert (await alice.get(at(room_id, "state", "m.room.topic")))["topic"] == "bob's"
        assert (await alice.get(at(room_id, "state", "m.room.name")))["name"] == "later"
        assert (await alice.get(at(room_id, "state", "org.example", "k"))).body == {"a": 1}
        assert "redacted_because" in (await alice.get(at(room_id, "event", target)))["unsigned"]
        finalised = {
            event["delay_id"]: event["finalised"]
            for event in (await alice.get(f"{PREFIX}/delayed_events"))["finalised"]
        }
        assert finalised[overtaken].keys() == {"finalised_ts"}
        assert finalised[sent].keys() == {"finalised_ts", "event_id"}


async def test_what_is_not_allowed_when_its_time_has_come_is_not_sent() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        by_time, at_once = [await _later(bob, room_id, "x", LONG, f"t{number}") for number in range(2)]
        await alice.post(at(room_id, "ban"), {"user_id": bob.user_id})
        answer = await _act(bob, at_once, "send")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        await _make_due(node)
        assert texts(await history(alice, room_id)) == []
        told = (await bob.get(f"{PREFIX}/delayed_events/{by_time}"))["finalised"]
        assert told["error"]["errcode"] == "M_FORBIDDEN"
        suspended = await _later(alice, room_id, "suspended", LONG)
        await node.database.write(lambda tx: tx.execute("UPDATE users SET suspended = 1"))
        await _make_due(node)
        assert texts(await history(alice, room_id)) == []
        assert (await alice.get(f"{PREFIX}/delayed_events/{suspended}"))["finalised"]["error"][
            "errcode"
        ] == "M_FORBIDDEN"


async def test_delays_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayed_events, "WAITING_MAX", 2)
    monkeypatch.setattr(stored, "FINALISED_KEPT_MAX", 1)
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        path = at(room_id, "send", "m.room.message", "t")
        for delay in ("0", "-1", "x", "1.5"):
            assert (await alice.put(f"{path}?org.matrix.msc4140.delay={delay}", {})).errcode == "M_INVALID_PARAM"
        too_long = await alice.put(f"{path}?org.matrix.msc4140.delay={10**15}", {})
        assert too_long.status == 400
        assert too_long.body["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
        assert too_long.body["org.matrix.msc4140.max_delay"] == delayed_events.DELAY_MS_MAX
        assert (await bob.put(f"{path}?org.matrix.msc4140.delay=5", {})).errcode == "M_FORBIDDEN"
        for body in ({}, {"delay_ms": 5}, {"delay_ms": True, "content": {}}, {"delay_ms": 5, "content": []}):
            refused = await alice.put(f"{PREFIX}/rooms/{room_id}/delayed_event/m.x/1", body)
            assert refused.errcode in ("M_BAD_JSON", "M_MISSING_PARAM")
        kept = [await _later(alice, room_id, "x", LONG, f"t{number}") for number in range(2)]
        full = await alice.put(f"{path}?org.matrix.msc4140.delay=5", {})
        assert full.body["org.matrix.msc4140.errcode"] == "M_MAX_DELAYED_EVENTS_EXCEEDED"
        for delay_id in kept:
            await _act(alice, delay_id, "cancel")
        assert len((await alice.get(f"{PREFIX}/delayed_events"))["finalised"]) == 1
        assert joined(await sync(alice), room_id)["timeline"]["events"][-1]["type"] != "m.room.message"
