"""`/sync` against a real node: what is in an answer, when it comes, and what its token is worth."""

import asyncio
import time
from typing import Any

import pytest

from p2pserver.http_api.routing import Requester
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.to_device import add_to_device
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import (
    Reader,
    at,
    ids,
    invite_and_join,
    join,
    joined,
    new_room,
    say,
    set_state,
    slots,
    sync,
    texts,
)


async def test_an_answer_has_every_section_and_both_names_of_the_fallback_keys() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        first = await sync(alice)
        assert first["rooms"] == {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        [presence] = first["presence"]["events"]
        assert (presence["type"], presence["sender"]) == ("m.presence", alice.user_id)
        assert first["to_device"] == {"events": []}
        assert first["device_one_time_keys_count"]["signed_curve25519"] == 0
        assert first["device_unused_fallback_key_types"] == []
        assert first["org.matrix.msc2732.device_unused_fallback_key_types"] == []
        assert "device_lists" not in first
        assert [event["type"] for event in first["account_data"]["events"]] == ["m.push_rules"]
        second = await sync(alice, first["next_batch"])
        assert second["device_lists"] == {"changed": [], "left": []}
        assert second["rooms"] == first["rooms"]
        assert second["presence"] == {"events": []}
        assert second["account_data"] == {"events": []}


async def test_the_first_answer_holds_the_whole_state_in_its_place() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice, name="Hut", preset="public_chat")
        await say(alice, room_id, "one")
        room = joined(await sync(alice, filter={"room": {"timeline": {"limit": 2}}}), room_id)
        assert [event["type"] for event in room["timeline"]["events"]] == ["m.room.name", "m.room.message"]
        state = slots(room["state"]["events"])
        assert ("m.room.create", "") in state
        assert ("m.room.name", "") not in state, "an event is in the state or in the timeline, not in both"
        assert room["timeline"]["limited"] is True
        assert room["summary"]["m.joined_member_count"] == 1
        assert room["unread_notifications"] == {"highlight_count": 0, "notification_count": 0}
        assert room["ephemeral"] == {"events": []}
        whole = joined(await sync(alice, filter={"room": {"timeline": {"limit": 100}}}), room_id)
        assert whole["state"]["events"] == []
        assert whole["timeline"]["limited"] is False
        assert whole["timeline"]["events"][0]["type"] == "m.room.create"


async def test_an_old_event_is_in_the_state_when_a_newer_one_of_its_slot_is_in_the_timeline() -> None:
    """`state` is the state at the start of the timeline."""
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        first = await set_state(alice, room_id, "m.room.name", {"name": "first"})
        await say(alice, room_id, "x")
        await set_state(alice, room_id, "m.room.name", {"name": "second"})
        room = joined(await sync(alice, filter={"room": {"timeline": {"limit": 2}}}), room_id)
        assert slots(room["state"]["events"])["m.room.name", ""]["event_id"] == first
        assert slots(room["timeline"]["events"])["m.room.name", ""]["content"] == {"name": "second"}
        assert slots(room["timeline"]["events"])["m.room.name", ""]["unsigned"]["prev_content"] == {"name": "first"}
        assert slots(room["timeline"]["events"])["m.room.name", ""]["unsigned"]["replaces_state"] == first


async def test_an_increment_has_what_is_new_and_a_repeat_of_the_token_gives_it_again() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        token = (await sync(bob))["next_batch"]
        await say(alice, room_id, "one")
        await set_state(alice, room_id, "m.room.topic", {"topic": "t"})
        for _ in range(2):
            answer = await sync(bob, token)
            room = joined(answer, room_id)
            assert [event["type"] for event in room["timeline"]["events"]] == ["m.room.message", "m.room.topic"]
            assert room["state"]["events"] == []
            assert room["timeline"]["limited"] is False
        assert (await sync(bob, answer["next_batch"]))["rooms"]["join"] == {}


async def test_a_limited_answer_says_so_and_paging_from_it_finds_exactly_the_rest() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        reader = Reader(bob, filter={"room": {"timeline": {"limit": 3}}})
        await reader.sync()
        sent = [await say(alice, room_id, str(number)) for number in range(20)]
        answer = await reader.sync()
        room = joined(answer, room_id)
        assert room["timeline"]["limited"] is True
        assert texts(room["timeline"]["events"]) == ["17", "18", "19"]
        assert reader.timeline[room_id][-20:] == sent
        assert reader.repeated == []


async def test_state_that_changed_before_a_limited_timeline_is_told() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        token = (await sync(bob))["next_batch"]
        await set_state(alice, room_id, "m.room.name", {"name": "n1"})
        await set_state(alice, room_id, "m.room.name", {"name": "n2"})
        await set_state(alice, room_id, "m.room.topic", {"topic": "t1"})
        for number in range(5):
            await say(alice, room_id, str(number))
        room = joined(await sync(bob, token, filter={"room": {"timeline": {"limit": 3}}}), room_id)
        assert {slot: event["content"] for slot, event in slots(room["state"]["events"]).items()} == {
            ("m.room.name", ""): {"name": "n2"},
            ("m.room.topic", ""): {"topic": "t1"},
        }


async def test_an_increments_state_is_that_at_the_start_of_the_timeline_too() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice, name="n0")
        token = (await sync(alice))["next_batch"]
        first = await set_state(alice, room_id, "m.room.name", {"name": "n1"})
        await say(alice, room_id, "x")
        await set_state(alice, room_id, "m.room.name", {"name": "n2"})
        room = joined(await sync(alice, token, filter={"room": {"timeline": {"limit": 2}}}), room_id)
        assert slots(room["state"]["events"])["m.room.name", ""]["event_id"] == first
        assert slots(room["timeline"]["events"])["m.room.name", ""]["content"] == {"name": "n2"}


async def test_now_waits_for_the_timeout_and_no_timeout_does_not_wait() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await new_room(alice)
        token = (await sync(alice))["next_batch"]
        began = time.monotonic()
        answer = await sync(alice, token, wait_ms=300)
        assert 0.25 < time.monotonic() - began < 3
        assert answer["rooms"]["join"] == {}
        began = time.monotonic()
        await sync(alice, token)
        full = await sync(alice, token, wait_ms=30_000, full_state="true")
        assert time.monotonic() - began < 3
        assert len(full["rooms"]["join"]) == 1


async def _wakes(client: Client, token: str, act: Any) -> dict[str, Any]:
    """The answer of a long poll during which `act` happens; it must come long before the timeout."""
    began = time.monotonic()
    waiting = asyncio.create_task(sync(client, token, wait_ms=30_000))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await act
    answer = await asyncio.wait_for(waiting, 5)
    assert time.monotonic() - began < 5
    return answer


async def test_a_long_poll_wakes_for_a_message_an_invite_account_data_and_to_device() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        token = (await sync(bob))["next_batch"]

        answer = await _wakes(bob, token, alice.post(at(room_id, "invite"), {"user_id": bob.user_id}))
        assert list(answer["rooms"]["invite"]) == [room_id]

        answer = await _wakes(bob, answer["next_batch"], bob.post(at(room_id, "join")))
        assert list(answer["rooms"]["join"]) == [room_id]

        answer = await _wakes(bob, answer["next_batch"], say(alice, room_id, "wake up"))
        assert texts(joined(answer, room_id)["timeline"]["events"]) == ["wake up"]

        path = f"/user/{bob.user_id}/account_data/org.example"
        answer = await _wakes(bob, answer["next_batch"], bob.put(path, {"a": 1}))
        assert answer["account_data"]["events"] == [{"type": "org.example", "content": {"a": 1}}]

        path = f"/user/{bob.user_id}/rooms/{room_id}/account_data/org.example"
        answer = await _wakes(bob, answer["next_batch"], bob.put(path, {"b": 1}))
        assert joined(answer, room_id)["account_data"]["events"] == [{"type": "org.example", "content": {"b": 1}}]

        body = {"messages": {bob.user_id: {bob.device_id: {"c": 1}}}}
        answer = await _wakes(bob, answer["next_batch"], alice.put("/sendToDevice/org.example/1", body))
        assert answer["to_device"]["events"] == [{"type": "org.example", "sender": alice.user_id, "content": {"c": 1}}]


async def test_a_message_elsewhere_does_not_wake_and_does_not_repeat() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await new_room(bob)
        own = await new_room(alice)
        token = (await sync(bob))["next_batch"]
        waiting = asyncio.create_task(sync(bob, token, wait_ms=400))
        await asyncio.sleep(0.05)
        await say(alice, own, "not for bob")
        answer = await waiting
        assert answer["rooms"]["join"] == {}


async def test_to_device_messages_stay_until_the_token_comes_back_and_come_in_portions() -> None:
    async with running_node() as node:
        bob = await node.register("bob")
        first = (await sync(bob))["next_batch"]

        def send(tx: Any) -> None:
            for number in range(250):
                message = {"type": "t", "sender": "@x:y", "content": {"n": number}}
                add_to_device(tx, bob.user_id, bob.device_id, message)

        await node.database.write(send)
        seen: list[int] = []
        token = first
        for expected in (100, 100, 50):
            lost = await sync(bob, token)
            answer = await sync(bob, token)
            assert lost["to_device"] == answer["to_device"], "a lost answer is given again"
            numbers = [event["content"]["n"] for event in answer["to_device"]["events"]]
            assert len(numbers) == expected
            seen += numbers
            token = answer["next_batch"]
        assert seen == list(range(250))
        assert (await sync(bob, token))["to_device"]["events"] == []
        assert (await sync(bob, first))["to_device"]["events"] == []


async def test_a_token_outlives_a_restart() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk) as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        token = (await sync(alice))["next_batch"]
        await say(alice, room_id, "before")
    async with running_node(disk=disk) as node:
        again = Client(node.http, alice.token)
        await say(again, room_id, "after")
        room = joined(await sync(again, token), room_id)
        assert texts(room["timeline"]["events"]) == ["before", "after"]


async def test_a_token_of_a_time_that_the_database_does_not_know_is_answered_with_everything() -> None:
    """It is put back from a backup: what the client knows is not known here, and nothing is taken for delivered."""
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        await say(alice, room_id, "hello")
        message = {"type": "m.dummy", "sender": alice.user_id, "content": {}}
        who = (alice.user_id, alice.device_id)
        await node.database.write(lambda tx: add_to_device(tx, *who, message))
        for _ in range(2):
            found = await sync(alice, "s999999999999")
            assert texts(joined(found, room_id)["timeline"]["events"]) == ["hello"]
            assert ("m.room.create", "") in slots(
                joined(found, room_id)["state"]["events"] + joined(found, room_id)["timeline"]["events"]
            )
            assert found["to_device"]["events"] == [message]
        again = await sync(alice, found["next_batch"])
        assert (again["rooms"]["join"], again["to_device"]["events"]) == ({}, [])


@pytest.mark.parametrize("since", ["x", "s", "17", "s1_2_3", "t4_5"])
async def test_a_token_of_nowhere_is_refused(since: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.get("/sync", since=since)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    "query",
    [
        {"timeout": "soon"},
        {"full_state": "maybe"},
        {"set_presence": "asleep"},
        {"filter": "{"},
        {"filter": '{"room": []}'},
        {"filter": "12345"},
        {"filter": "nonsense"},
    ],
)
async def test_a_bad_parameter_is_refused(query: dict[str, str]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.get("/sync", **query)
        assert answer.status == 400
        assert answer.errcode in ("M_INVALID_PARAM", "M_BAD_JSON", "M_NOT_JSON")


async def test_a_room_joined_in_between_comes_with_its_whole_state() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat", name="Hut")
        await say(alice, room_id, "before bob")
        token = (await sync(bob))["next_batch"]
        await join(bob, room_id)
        small = {"room": {"timeline": {"limit": 1}}}
        answer = await sync(bob, token, filter=small)
        room = joined(answer, room_id)
        assert ("m.room.create", "") in slots(room["state"]["events"])
        assert ("m.room.name", "") in slots(room["state"]["events"])
        assert room["timeline"]["limited"] is True
        older = await bob.get(at(room_id, "messages"), **{"from": room["timeline"]["prev_batch"], "dir": "b"})
        assert texts(older["chunk"]) == ["before bob"], "history was shared"

        await bob.post(at(room_id, "leave"))
        left = await sync(bob, answer["next_batch"], filter=small)
        await say(alice, room_id, "while bob was away")
        await join(bob, room_id)
        again = joined(await sync(bob, left["next_batch"], filter=small), room_id)
        assert ("m.room.create", "") in slots(again["state"]["events"]), "also after a rejoin"
        both = joined(await sync(bob, answer["next_batch"], filter=small), room_id)
        assert both["timeline"]["limited"] is True


async def test_a_profile_change_is_not_a_new_room() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        token = (await sync(alice))["next_batch"]
        await set_state(alice, room_id, "m.room.member", {"membership": "join", "displayname": "A"}, alice.user_id)
        room = joined(await sync(alice, token), room_id)
        assert room["state"]["events"] == []
        assert len(room["timeline"]["events"]) == 1


async def test_the_leave_section_tells_of_a_leave_a_kick_a_ban_and_a_refused_invite_once() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        for how in ("leave", "kick", "ban"):
            room_id = await new_room(alice, preset="public_chat")
            await join(bob, room_id)
            token = (await sync(bob))["next_batch"]
            await say(alice, room_id, "last words")
            if how == "leave":
                await bob.post(at(room_id, "leave"))
            else:
                await alice.post(at(room_id, how), {"user_id": bob.user_id})
            await say(alice, room_id, "not for bob")
            answer = await sync(bob, token)
            room = answer["rooms"]["leave"][room_id]
            assert room_id not in answer["rooms"]["join"]
            assert texts(room["timeline"]["events"]) == ["last words"]
            assert room["timeline"]["events"][-1]["type"] == "m.room.member"
            assert room["timeline"]["events"][-1]["content"]["membership"] == ("ban" if how == "ban" else "leave")
            assert room_id not in (await sync(bob, answer["next_batch"]))["rooms"]["leave"]
            assert room_id not in (await sync(bob))["rooms"]["leave"]
            with_left = await sync(bob, filter={"room": {"include_leave": True}})
            assert room_id in with_left["rooms"]["leave"]

        room_id = await new_room(alice, invite=[bob.user_id])
        answer = await sync(bob)
        assert room_id in answer["rooms"]["invite"]
        await bob.post(at(room_id, "leave"))
        refused = await sync(bob, answer["next_batch"])
        assert room_id not in refused["rooms"]["invite"]
        room = refused["rooms"]["leave"][room_id]
        events = [*room["state"]["events"], *room["timeline"]["events"]]
        assert [event["content"]["membership"] for event in events] == ["leave"]


async def test_leaving_and_forgetting_still_tells_the_other_devices() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        token = (await sync(alice))["next_batch"]
        await alice.post(at(room_id, "leave"))
        await alice.post(at(room_id, "forget"))
        assert room_id in (await sync(alice, token))["rooms"]["leave"]
        assert room_id not in (await sync(alice, filter={"room": {"include_leave": True}}))["rooms"]["leave"]


async def test_a_room_joined_and_left_between_two_answers() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        token = (await sync(bob))["next_batch"]
        await join(bob, room_id)
        await bob.post(at(room_id, "leave"))
        room = (await sync(bob, token))["rooms"]["leave"][room_id]
        events = [*room["state"]["events"], *room["timeline"]["events"]]
        assert ("m.room.create", "") in slots(events)
        assert slots(events)["m.room.member", bob.user_id]["content"]["membership"] == "leave"


async def test_an_invite_comes_with_stripped_state() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut", topic="secret?")
        await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
        events = (await sync(bob))["rooms"]["invite"][room_id]["invite_state"]["events"]
        assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in events)
        by_slot = slots(events)
        assert len(by_slot) == len(events)
        assert by_slot["m.room.create", ""]["sender"] == alice.user_id
        assert by_slot["m.room.name", ""]["content"] == {"name": "Hut"}
        own = by_slot["m.room.member", bob.user_id]
        assert (own["sender"], own["content"]["membership"]) == (alice.user_id, "invite")


async def test_the_transaction_id_comes_back_to_the_sending_device_only() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        tablet = await node.log_in("alice")
        bob = await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        event_id = await say(alice, room_id, "x", txn="my/txn id")
        for client, expected in ((alice, "my/txn id"), (tablet, None), (bob, None)):
            events = joined(await sync(client), room_id)["timeline"]["events"]
            (event,) = [each for each in events if each["event_id"] == event_id]
            assert event["unsigned"].get("transaction_id") == expected
            single = await client.get(at(room_id, "event", event_id))
            assert single["unsigned"].get("transaction_id") == expected
            paged = await client.get(at(room_id, "messages"), dir="b")
            (event,) = [each for each in paged["chunk"] if each["event_id"] == event_id]
            assert event["unsigned"].get("transaction_id") == expected


async def test_lazy_loading_sends_the_senders_and_only_once() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, preset="public_chat", name="Hut")
        await join(bob, room_id)
        await join(carol, room_id)
        await say(bob, room_id, "one")
        lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
        first = await sync(alice, filter=lazy)
        members = {key for kind, key in slots(joined(first, room_id)["state"]["events"]) if kind == "m.room.member"}
        assert members == {alice.user_id, bob.user_id}
        eager = joined(await sync(alice, filter={"room": {"timeline": {"limit": 1}}}), room_id)
        members = {key for kind, key in slots(eager["state"]["events"]) if kind == "m.room.member"}
        assert members == {alice.user_id, bob.user_id, carol.user_id}

        await say(bob, room_id, "two")
        first = await sync(alice, filter=lazy)
        await say(bob, room_id, "three")
        second = await sync(alice, first["next_batch"], filter=lazy)
        assert joined(second, room_id)["state"]["events"] == [], "bob's event is with the client already"
        await say(carol, room_id, "four")
        third = await sync(alice, second["next_batch"], filter=lazy)
        assert list(slots(joined(third, room_id)["state"]["events"])) == [("m.room.member", carol.user_id)]
        again = await sync(alice, second["next_batch"], filter=lazy)
        assert list(slots(joined(again, room_id)["state"]["events"])) == [("m.room.member", carol.user_id)]


async def test_lazy_loading_sends_every_member_that_changed_in_a_gap() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, preset="public_chat")
        lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
        token = (await sync(alice, filter=lazy))["next_batch"]
        await join(bob, room_id)
        await join(carol, room_id)
        for number in range(3):
            await say(alice, room_id, str(number))
        room = joined(await sync(alice, token, filter=lazy), room_id)
        members = {key for kind, key in slots(room["state"]["events"]) if kind == "m.room.member"}
        assert {bob.user_id, carol.user_id} <= members


async def test_heroes_are_named_only_where_the_room_has_no_name() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, invite=[bob.user_id])
        summary = joined(await sync(alice), room_id)["summary"]
        assert summary == {"m.heroes": [bob.user_id], "m.joined_member_count": 1, "m.invited_member_count": 1}
        token = (await sync(alice))["next_batch"]
        await join(bob, room_id)
        summary = joined(await sync(alice, token), room_id)["summary"]
        assert (summary["m.joined_member_count"], summary["m.invited_member_count"]) == (2, 0)
        named = await new_room(alice, name="Hut", invite=[bob.user_id])
        assert "m.heroes" not in joined(await sync(alice), named)["summary"]


async def test_filters_choose_rooms_types_and_senders() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        other = await new_room(alice)
        await join(bob, room_id)
        await say(alice, room_id, "from alice")
        await say(bob, room_id, "from bob")
        only = {"room": {"rooms": [room_id], "timeline": {"senders": [bob.user_id], "types": ["m.room.mess*"]}}}
        stored = (await alice.post(f"/user/{alice.user_id}/filter", only))["filter_id"]
        for each in (only, stored):
            answer = await sync(alice, filter=each)
            assert other not in answer["rooms"]["join"]
            assert texts(joined(answer, room_id)["timeline"]["events"]) == ["from bob"]
            assert len(joined(answer, room_id)["timeline"]["events"]) == 1
            assert ("m.room.member", bob.user_id) in slots(joined(answer, room_id)["state"]["events"])
        nobody = await sync(alice, filter={"room": {"not_rooms": [room_id, other]}})
        assert nobody["rooms"]["join"] == {}
        no_state = await sync(alice, filter={"room": {"state": {"types": []}, "timeline": {"limit": 1}}})
        assert joined(no_state, room_id)["state"]["events"] == []
        foreign = await bob.get("/sync", filter=stored)
        assert foreign.status == 400


async def test_state_that_the_timeline_leaves_out_is_in_the_state() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        only = {"room": {"timeline": {"types": ["m.room.message"]}}}
        token = (await sync(alice, filter=only))["next_batch"]
        await say(alice, room_id, "one")
        await set_state(alice, room_id, "m.room.name", {"name": "Hut"})
        await say(alice, room_id, "two")
        room = joined(await sync(alice, token, filter=only), room_id)
        assert texts(room["timeline"]["events"]) == ["one", "two"]
        assert slots(room["state"]["events"])["m.room.name", ""]["content"] == {"name": "Hut"}


async def test_ignored_users_are_not_heard_but_their_state_is() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        ignore = {"ignored_users": {bob.user_id: {}}}
        await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignore)
        token = (await sync(alice))["next_batch"]
        await say(bob, room_id, "hello?")
        await bob.post("/createRoom", {"invite": [alice.user_id]})
        await set_state(bob, room_id, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id)
        answer = await sync(alice, token)
        assert [event["type"] for event in joined(answer, room_id)["timeline"]["events"]] == ["m.room.member"]
        assert answer["rooms"]["invite"] == {}


async def test_a_redaction_empties_the_event_everywhere() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "oops")
        token = (await sync(alice))["next_batch"]
        redacted = await alice.put(at(room_id, "redact", event_id, "1"), {"reason": "typo"})
        room = joined(await sync(alice, token), room_id)
        (redaction,) = room["timeline"]["events"]
        assert redaction["event_id"] == redacted["event_id"]
        assert redaction["redacts"] == redaction["content"]["redacts"] == event_id
        assert redaction["content"]["reason"] == "typo"
        events = joined(await sync(alice), room_id)["timeline"]["events"]
        for shown in (
            *(event for event in events if event["event_id"] == event_id),
            (await alice.get(at(room_id, "event", event_id))).body,
            *(e for e in (await alice.get(at(room_id, "messages"), dir="b"))["chunk"] if e["event_id"] == event_id),
        ):
            assert shown["content"] == {}
            assert shown["unsigned"]["redacted_because"]["event_id"] == redacted["event_id"]


async def test_a_message_in_one_of_fifty_rooms_looks_at_that_room_only() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        rooms = [await new_room(alice) for _ in range(50)]
        token = (await sync(alice))["next_batch"]
        await say(alice, rooms[7], "here")
        asked: list[str] = []

        async def measured() -> dict[str, Any]:
            def watch(tx: Any) -> None:
                tx.conn.set_trace_callback(asked.append)

            await node.database.read(watch)
            try:
                return await sync(alice, token)
            finally:
                await node.database.read(lambda tx: tx.conn.set_trace_callback(None))

        answer = await measured()
        assert list(answer["rooms"]["join"]) == [rooms[7]]
        statements = [text for text in asked if text.startswith("SELECT")]
        assert len(statements) < 60, len(statements)
        assert not any(room_id in text for text in statements for room_id in rooms if room_id != rooms[7])


async def test_r0_is_v3() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        answer = await alice.ask("GET", "/sync", version="r0")
        assert room_id in answer["rooms"]["join"]
        sent = await alice.ask("PUT", at(room_id, "send", "m.room.message", "1"), {"body": "x"}, version="r0")
        again = await alice.put(at(room_id, "send", "m.room.message", "1"), {"body": "x"})
        assert sent["event_id"] == again["event_id"], "one path under both versions"


async def test_somebody_else_joining_needs_no_full_state_and_is_counted() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        reader = Reader(alice)
        await reader.sync()
        await invite_and_join(alice, room_id, bob)
        room = joined(await reader.sync(), room_id)
        assert room["state"]["events"] == []
        assert room["summary"]["m.joined_member_count"] == 2
        assert len(ids(room["timeline"]["events"])) == 2


async def test_what_lazy_loading_remembers_is_bounded() -> None:
    async with running_node() as node:
        memory = node.api.lazy_members
        for number in range(200):
            who = Requester(user_id=f"@u{number}:x", device_id="D", token_id=1)
            more = [(("!r", f"@{each}:x"), "$e") for each in range(5000)]
            memory.remember(who.user_id, who.device_id, "s1", {}, more)
        assert memory.sent("@u0:x", "D", "s1") == {}
        assert len(memory.sent("@u199:x", "D", "s1")) == 4096
        assert memory.sent("@u199:x", "D", "s2") == {}


@pytest.mark.parametrize("prefix", ["", "org.matrix.msc4222."])
async def test_state_may_be_had_as_it_is_after_the_timeline(prefix: str) -> None:
    """MSC4222: `state` is left out then, and the timeline changes no state."""
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await set_state(alice, room_id, "m.room.name", {"name": "first"})
        await set_state(alice, room_id, "m.room.name", {"name": "second"})
        query = {f"{prefix}use_state_after": "true"}
        answer = await sync(alice, **query)
        room = joined(answer, room_id)
        assert "state" not in room
        state = slots(room[f"{prefix}state_after"]["events"])
        assert state["m.room.name", ""]["content"] == {"name": "second"}, "it is in the timeline as well"
        assert ("m.room.create", "") in state
        await join(bob, room_id)
        third = await set_state(alice, room_id, "m.room.name", {"name": "third"})
        await say(alice, room_id, "x")
        for more in ({}, {"filter": {"room": {"state": {"lazy_load_members": True}}}}):
            room = joined(await sync(alice, answer["next_batch"], **query, **more), room_id)
            state = slots(room[f"{prefix}state_after"]["events"])
            assert set(state) >= {("m.room.name", ""), ("m.room.member", bob.user_id)}
            assert state["m.room.name", ""]["event_id"] == third
            assert ("m.room.create", "") not in state
        assert (await alice.post(at(room_id, "leave"))).status == 200
        left = (await sync(alice, answer["next_batch"], **query))["rooms"]["leave"][room_id]
        assert "state" not in left
        own = slots(left[f"{prefix}state_after"]["events"])["m.room.member", alice.user_id]
        assert own["content"]["membership"] == "leave"
