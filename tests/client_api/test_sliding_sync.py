"""Sliding sync: what is in an answer, and what a position is worth. The extensions have a file of their own."""

import asyncio
from typing import Any

from tests.client_api.harness import Client, Node, running_node
from tests.client_api.sliding import ACCEPTED, DEPLOYED, ask, one_list, order, slide, slide4
from tests.client_api.talk import at, ids, invite_and_join, join, new_room, say, set_state, slots, sync, texts


async def three_rooms(node: Node) -> tuple[Client, list[str]]:
    alice = await node.register("alice")
    return alice, [await new_room(alice, name=name) for name in ("one", "two", "three")]


async def test_the_flag_is_set_and_both_paths_answer() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        versions = await node.stranger().get("/_matrix/client/versions")
        assert versions["unstable_features"]["org.matrix.simplified_msc3575"] is True
        for path in (DEPLOYED, ACCEPTED):
            answer = await alice.ask("POST", path, {})
            assert set(answer.body) == {"pos", "lists", "rooms", "extensions"}, answer.body
            assert (await node.stranger().ask("POST", path, {})).errcode == "M_MISSING_TOKEN"
            assert (await alice.ask("GET", path)).status == 405


async def test_the_rooms_with_the_newest_events_come_first() -> None:
    async with running_node() as node:
        alice, rooms = await three_rooms(node)
        first = await slide(alice, lists=one_list((0, 1)))
        assert first["lists"]["all"]["count"] == 3
        assert order(first) == [rooms[2], rooms[1]]
        assert list(first["rooms"]) == [rooms[2], rooms[1]]
        await say(alice, rooms[0], "up")
        second = await slide(alice, first["pos"], lists=one_list((0, 1)))
        assert order(second) == [rooms[0], rooms[2]]
        assert list(second["rooms"]) == [rooms[0]]
        assert second["rooms"][rooms[0]]["initial"] is True, "it was below the window"
        assert second["rooms"][rooms[0]]["num_live"] == 1, "of its events one is new"


async def test_a_growing_window_brings_only_the_rooms_that_are_new_in_it() -> None:
    async with running_node() as node:
        alice, rooms = await three_rooms(node)
        first = await slide(alice, lists=one_list((0, 0)))
        second = await slide(alice, first["pos"], lists=one_list((0, 9)))
        assert set(second["rooms"]) == {rooms[0], rooms[1]}
        third = await slide(alice, second["pos"], lists=one_list((0, 9)))
        assert third["rooms"] == {}


async def test_a_room_has_its_timeline_state_name_and_counts() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut", topic="wood")
        await set_state(alice, room_id, "m.room.avatar", {"url": "mxc://x/y"})
        await invite_and_join(alice, room_id, bob)
        await say(bob, room_id, "hello")
        state = [["m.room.create", ""], ["m.room.topic", ""], ["m.room.member", "$ME"], ["m.none", "*"]]
        answer = await slide(alice, lists=one_list((0, 9), limit=1, state=state))
        room = answer["rooms"][room_id]
        assert texts(room["timeline"]) == ["hello"]
        assert room["initial"] is True
        assert room["limited"] is True
        assert room["num_live"] == 0
        assert (room["name"], room["avatar"]) == ("Hut", "mxc://x/y")
        assert (room["joined_count"], room["invited_count"]) == (2, 0)
        assert "heroes" not in room
        assert set(slots(room["required_state"])) == {
            ("m.room.create", ""),
            ("m.room.topic", ""),
            ("m.room.member", alice.user_id),
        }
        page = await alice.get(at(room_id, "messages"), **{"from": room["prev_batch"], "dir": "b", "limit": 1})
        assert page["chunk"][0]["content"]["membership"] == "join", "what comes next is just before the timeline"
        page = await alice.get(at(room_id, "messages"), **{"from": answer["pos"], "dir": "b", "limit": 1})
        assert ids(page["chunk"]) == ids(room["timeline"]), "a position is a token for /messages"


async def test_an_increment_has_what_is_new_and_the_same_position_gives_it_again() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut")
        await invite_and_join(alice, room_id, bob)
        lists = one_list((0, 9), state=[["m.room.name", ""], ["m.room.topic", ""]])
        pos = (await slide(bob, lists=lists))["pos"]
        await say(alice, room_id, "one")
        await set_state(alice, room_id, "m.room.name", {"name": "Cabin"})
        await set_state(alice, room_id, "m.room.join_rules", {"join_rule": "public"})
        for _ in range(3):
            answer = await slide(bob, pos, lists=lists)
            room = answer["rooms"][room_id]
            assert "initial" not in room
            assert room["limited"] is False
            assert room["num_live"] == 3
            assert room["name"] == "Cabin"
            assert "avatar" not in room, "unchanged"
            assert set(slots(room["required_state"])) == {("m.room.name", "")}
            assert len(room["timeline"]) == 3
        newer = await slide(bob, pos, lists=lists)
        for each in (answer, newer):
            assert (await slide(bob, each["pos"], lists=lists))["rooms"] == {}, "either answer may have arrived"


async def test_a_position_before_the_last_one_that_came_back_is_unknown() -> None:
    async with running_node() as node:
        alice, _ = await three_rooms(node)
        first = await slide(alice, conn_id="a")
        second = await slide(alice, first["pos"], conn_id="a")
        third = await slide(alice, second["pos"], conn_id="a")
        tablet = await node.log_in("alice")
        for client, pos, conn_id in (
            (alice, first["pos"], "a"),
            (alice, third["pos"], "b"),
            (alice, "s1-abc", "a"),
            (alice, "nonsense", "a"),
            (tablet, third["pos"], "a"),
        ):
            answer = await ask(client, pos, conn_id=conn_id)
            assert (answer.status, answer.errcode) == (400, "M_UNKNOWN_POS"), pos
        assert (await ask(alice, second["pos"], conn_id="a")).status == 200
        assert (await ask(alice, third["pos"], conn_id="a")).status == 200


async def test_connections_of_one_device_know_nothing_of_each_other() -> None:
    async with running_node() as node:
        alice, rooms = await three_rooms(node)
        main = await slide(alice, conn_id="room-list", lists=one_list((0, 9)))
        other = await slide(alice, conn_id="encryption", extensions={"e2ee": {"enabled": True}})
        assert other["rooms"] == {}
        await say(alice, rooms[0], "x")
        assert list((await slide(alice, main["pos"], conn_id="room-list", lists=one_list((0, 9))))["rooms"]) == [
            rooms[0]
        ]
        assert (await slide(alice, other["pos"], conn_id="encryption"))["rooms"] == {}


async def test_it_waits_for_news_and_only_with_a_position() -> None:
    async with running_node() as node:
        alice, rooms = await three_rooms(node)
        lists = one_list((0, 9))
        first = await slide(alice, lists=lists, wait_ms=60_000)
        waiting = asyncio.create_task(slide(alice, first["pos"], lists=lists, wait_ms=60_000))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await say(alice, rooms[0], "now")
        assert texts((await waiting)["rooms"][rooms[0]]["timeline"]) == ["now"]
        again = await slide(alice, first["pos"], lists=lists, wait_ms=50)
        assert list(again["rooms"]) == [rooms[0]]
        assert (await slide(alice, again["pos"], lists=lists, wait_ms=50))["rooms"] == {}


async def test_a_room_that_falls_out_of_the_window_is_told_of_when_it_comes_back() -> None:
    async with running_node() as node:
        alice, rooms = await three_rooms(node)
        answer = await slide(alice, lists=one_list((0, 9)))
        sent = []
        for number in range(2):
            sent.append(await say(alice, rooms[0], f"{number}"))
            for room_id in rooms[1:]:
                await say(alice, room_id, "above it")
            answer = await slide(alice, answer["pos"], lists=one_list((0, 1)))
            assert rooms[0] not in answer["rooms"]
        answer = await slide(alice, answer["pos"], lists=one_list((0, 2)))
        room = answer["rooms"][rooms[0]]
        assert ids(room["timeline"]) == sent
        assert room["limited"] is False
        assert "initial" not in room
        assert room["num_live"] == 2, "none of them was in an answer before"


async def test_what_was_left_out_makes_a_timeline_limited() -> None:
    async with running_node() as node:
        alice, [room_id, *_] = await three_rooms(node)
        lists = one_list((0, 9), limit=2)
        pos = (await slide(alice, lists=lists))["pos"]
        sent = [await say(alice, room_id, str(number)) for number in range(5)]
        room = (await slide(alice, pos, lists=lists))["rooms"][room_id]
        assert room["limited"] is True
        assert ids(room["timeline"]) == sent[-2:]
        assert room["num_live"] == 2
        page = await alice.get(at(room_id, "messages"), **{"from": room["prev_batch"], "dir": "b", "limit": 3})
        assert ids(page["chunk"]) == sent[2::-1]


async def test_a_subscription_with_a_higher_limit_brings_older_events_at_once() -> None:
    async with running_node() as node:
        alice, [room_id, *_] = await three_rooms(node)
        sent = [await say(alice, room_id, str(number)) for number in range(5)]
        lists = one_list((0, 9), limit=1, state=[["m.room.name", ""]])
        pos = (await slide(alice, lists=lists))["pos"]
        state = [["m.room.name", ""], ["m.room.create", ""]]
        subscription = {room_id: {"timeline_limit": 4, "required_state": state}}
        answer = await slide(alice, pos, lists=lists, room_subscriptions=subscription, wait_ms=60_000)
        room = answer["rooms"][room_id]
        assert ids(room["timeline"]) == sent[1:]
        assert room["unstable_expanded_timeline"] is True
        assert room["num_live"] == 0
        assert "initial" not in room
        assert set(slots(room["required_state"])) == {("m.room.create", "")}, "the name it has"
        again = await slide(alice, answer["pos"], lists=lists, room_subscriptions=subscription)
        assert again["rooms"] == {}
        live = await say(alice, room_id, "live")
        room = (await slide(alice, again["pos"], lists=lists, room_subscriptions=subscription))["rooms"][room_id]
        assert ids(room["timeline"]) == [live]
        assert "unstable_expanded_timeline" not in room


async def test_state_that_changed_while_it_was_not_asked_for_is_sent_when_it_is_asked_for_again() -> None:
    async with running_node() as node:
        alice, [room_id, *_] = await three_rooms(node)
        both, one = [["m.room.topic", ""], ["m.room.name", ""]], [["m.room.name", ""]]
        pos = (await slide(alice, lists=one_list((0, 9), state=both)))["pos"]
        pos = (await slide(alice, pos, lists=one_list((0, 9), state=one)))["pos"]
        await set_state(alice, room_id, "m.room.topic", {"topic": "new"})
        answer = await slide(alice, pos, lists=one_list((0, 9), state=one))
        assert "required_state" not in answer["rooms"][room_id]
        room = (await slide(alice, answer["pos"], lists=one_list((0, 9), state=both)))["rooms"][room_id]
        assert slots(room["required_state"])["m.room.topic", ""]["content"] == {"topic": "new"}


async def test_wildcards_match_types_and_keys() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        for key in ("", "a", "b"):
            await set_state(alice, room_id, "x.y", {"v": key}, key)

        async def state(*patterns: list[str]) -> set[tuple[str, str]]:
            room = (await slide(alice, lists=one_list((0, 9), state=patterns)))["rooms"][room_id]
            return set(slots(room.get("required_state", [])))

        assert await state() == set()
        assert await state(["x.y", "*"]) == {("x.y", ""), ("x.y", "a"), ("x.y", "b")}
        assert await state(["*", "a"]) == {("x.y", "a")}
        everything = await state(["*", "*"])
        assert {("m.room.create", ""), ("m.room.member", alice.user_id), ("x.y", "b")} <= everything


async def test_members_are_loaded_when_they_are_needed_and_once() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        others = [await node.register(name) for name in ("bob", "carol", "dan")]
        bob, carol, dan = others
        room_id = await new_room(alice, preset="public_chat")
        for other in others:
            await join(other, room_id)
        await say(bob, room_id, "hi")
        lists = one_list((0, 9), limit=1, state=[["m.room.member", "$LAZY"], ["m.room.member", "$ME"]])
        answer = await slide(alice, lists=lists)
        room = answer["rooms"][room_id]
        assert {key for _, key in slots(room["required_state"])} == {alice.user_id, bob.user_id}
        assert [hero["user_id"] for hero in room["heroes"]] == [bob.user_id, carol.user_id, dan.user_id]
        assert room["heroes"][0] == {"user_id": bob.user_id, "displayname": "bob"}
        await say(bob, room_id, "again")
        answer = await slide(alice, answer["pos"], lists=lists)
        assert "required_state" not in answer["rooms"][room_id], "bob it has"
        await say(carol, room_id, "me too")
        for _ in range(2):
            room = (await slide(alice, answer["pos"], lists=lists))["rooms"][room_id]
            assert [key for _, key in slots(room["required_state"])] == [carol.user_id], "a lost answer is repeated"
        room = (await slide(alice, lists=one_list((0, 9), limit=1, state=[["*", "*"], ["m.room.member", "$LAZY"]])))[
            "rooms"
        ][room_id]
        members = {key for kind, key in slots(room["required_state"]) if kind == "m.room.member"}
        assert members == {carol.user_id}, "a wildcard for all types does not undo lazy loading"


async def test_membership_changes_come_with_lazy_loading_unless_the_timeline_is_limited() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, preset="public_chat")
        lists = one_list((0, 9), limit=2, state=[["m.room.member", "$LAZY"]])
        answer = await slide(alice, lists=lists)
        await join(bob, room_id)
        answer = await slide(alice, answer["pos"], lists=lists)
        room = answer["rooms"][room_id]
        assert bob.user_id in {key for _, key in slots(room["required_state"])}
        assert (room["joined_count"], room["invited_count"]) == (2, 0)
        await join(carol, room_id)
        for number in range(3):
            await say(alice, room_id, str(number))
        room = (await slide(alice, answer["pos"], lists=lists))["rooms"][room_id]
        assert room["limited"] is True
        assert carol.user_id not in {key for _, key in slots(room.get("required_state", []))}
        assert room["joined_count"] == 3


async def test_an_invite_is_stripped_state_and_becomes_a_room() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        lists = one_list((0, 9), state=[["m.room.create", ""]])
        pos = (await slide(bob, lists=lists))["pos"]
        room_id = await new_room(alice, name="Hut", invite=[bob.user_id])
        answer = await slide(bob, pos, lists=lists)
        room = answer["rooms"][room_id]
        assert room["initial"] is True
        stripped = {(event["type"], event["state_key"]): event for event in room["invite_state"]}
        assert {("m.room.create", ""), ("m.room.member", bob.user_id)} <= set(stripped)
        assert all(set(event) == {"type", "state_key", "sender", "content"} for event in stripped.values())
        assert not {"timeline", "required_state", "name", "joined_count"} & set(room)
        assert (await slide(bob, answer["pos"], lists=lists))["rooms"] == {}
        await join(bob, room_id)
        room = (await slide(bob, answer["pos"], lists=lists))["rooms"][room_id]
        assert room["initial"] is True, "the client knew it as an invite only"
        assert room["name"] == "Hut"
        assert set(slots(room["required_state"])) == {("m.room.create", "")}


async def test_a_room_that_was_left_is_told_of_once_and_only_if_it_was_known() -> None:
    async with running_node() as node:
        alice, [known, unknown, _] = await three_rooms(node)
        lists = one_list((0, 9), state=[["m.room.member", "$ME"]])
        subscription = {known: {"timeline_limit": 5, "required_state": [["m.room.member", "$ME"]]}}
        pos = (await slide(alice, room_subscriptions=subscription))["pos"]
        for room_id in (known, unknown):
            assert (await alice.post(at(room_id, "leave"))).status == 200
        answer = await slide(alice, pos, lists=lists)
        assert unknown not in answer["rooms"]
        room = answer["rooms"][known]
        assert room["timeline"][-1]["content"]["membership"] == "leave"
        assert slots(room["required_state"])["m.room.member", alice.user_id]["content"]["membership"] == "leave"
        again = await slide(alice, answer["pos"], lists=lists)
        assert again["rooms"] == {}
        assert again["lists"]["all"]["count"] == 1


async def test_who_was_kicked_or_banned_is_told_so_always() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut")
        await invite_and_join(alice, room_id, bob)
        assert (await alice.post(at(room_id, "kick"), {"user_id": bob.user_id})).status == 200
        await say(alice, room_id, "he is gone")
        lists = one_list((0, 9), state=[["m.room.member", "$ME"], ["m.room.name", ""]])
        answer = await slide(bob, lists=lists)
        room = answer["rooms"][room_id]
        assert room["timeline"][-1]["content"]["membership"] == "leave"
        assert texts(room["timeline"]) == []
        assert room["name"] == "Hut"
        assert slots(room["required_state"])["m.room.member", bob.user_id]["content"]["membership"] == "leave"
        assert (await slide(bob, answer["pos"], lists=lists))["rooms"] == {}, "once"
        assert (await bob.post(at(room_id, "forget"))).status == 200
        assert (await slide(bob, lists=lists))["rooms"] == {}


async def test_an_invite_that_is_refused_or_taken_back_goes_away() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        lists = one_list((0, 9), state=[["m.room.member", "$ME"]])
        for refuse in (True, False):
            room_id = await new_room(alice, invite=[bob.user_id])
            answer = await slide(bob, lists=lists)
            assert "invite_state" in answer["rooms"][room_id]
            if refuse:
                assert (await bob.post(at(room_id, "leave"))).status == 200
            else:
                assert (await alice.post(at(room_id, "kick"), {"user_id": bob.user_id})).status == 200
            told = await slide(bob, answer["pos"], lists=lists)
            [event] = told["rooms"][room_id]["required_state"]
            assert event["content"]["membership"] == "leave"
            assert (await slide(bob, told["pos"], lists=lists))["rooms"] == {}
            assert (await slide(bob, lists=lists))["rooms"] == {}


async def test_a_rejoined_room_is_new() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        lists = one_list((0, 9))
        answer = await slide(bob, lists=lists)
        await bob.post(at(room_id, "leave"))
        answer = await slide(bob, answer["pos"], lists=lists)
        await join(bob, room_id)
        assert (await slide(bob, answer["pos"], lists=lists))["rooms"][room_id]["initial"] is True


async def test_a_subscription_to_a_room_of_others_is_ignored() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat", initial_state=[])
        subscriptions = {
            each: {"timeline_limit": 5, "required_state": [["*", "*"]]} for each in (room_id, "!none", "x")
        }
        assert (await slide(bob, room_subscriptions=subscriptions))["rooms"] == {}


async def test_filters_choose_rooms() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        plain = await new_room(alice)
        space = await new_room(alice, creation_content={"type": "m.space"})
        secret = await new_room(alice, initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "x"}}])
        await set_state(alice, space, "m.space.child", {"via": ["x"]}, secret)
        await set_state(alice, space, "m.space.child", {}, plain)
        await alice.put(f"/user/{alice.user_id}/account_data/m.direct", {bob.user_id: [plain]})
        await alice.put(f"/user/{alice.user_id}/rooms/{plain}/tags/m.favourite", {"order": 0.5})
        invite = await new_room(bob, invite=[alice.user_id], creation_content={"type": "m.space"})

        async def rooms(**filters: Any) -> set[str]:
            return set(order(await slide(alice, lists=one_list((0, 9), **filters))))

        assert await rooms() == {plain, space, secret, invite}
        assert await rooms(is_dm=True) == {plain}
        assert await rooms(is_dm=False) == {space, secret, invite}
        assert await rooms(is_encrypted=True) == {secret}
        assert await rooms(is_invite=True) == {invite}
        assert await rooms(is_invite=False) == {plain, space, secret}
        assert await rooms(room_types=["m.space"]) == {space, invite}
        assert await rooms(room_types=[None]) == {plain, secret}
        assert await rooms(not_room_types=["m.space"]) == {plain, secret}
        assert await rooms(not_room_types=[None], room_types=["m.space", None]) == {space, invite}
        assert await rooms(spaces=[space, plain]) == {secret}
        assert await rooms(tags=["m.favourite"]) == {plain}
        assert await rooms(not_tags=["m.favourite"], tags=["m.favourite"]) == set()
        assert await rooms(unknown_filter=5) == {plain, space, secret, invite}
        room = (await slide(alice, lists=one_list((0, 9), is_dm=True)))["rooms"][plain]
        assert room["is_dm"] is True


async def test_a_room_that_becomes_a_direct_chat_is_told_of() -> None:
    async with running_node() as node:
        alice, [room_id, *_] = await three_rooms(node)
        answer = await slide(alice, lists=one_list((0, 9)))
        await alice.put(f"/user/{alice.user_id}/account_data/m.direct", {"@b:x": [room_id]})
        answer = await slide(alice, answer["pos"], lists=one_list((0, 9)), wait_ms=60_000)
        assert answer["rooms"] == {room_id: {"is_dm": True, "notification_count": 0, "highlight_count": 0}}


async def test_the_transaction_id_is_shown_to_the_sending_device_alone() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        tablet = await node.log_in("alice")
        room_id = await new_room(alice)
        await say(alice, room_id, "x", txn="mine")
        for client, txn in ((alice, "mine"), (tablet, None)):
            room = (await slide(client, lists=one_list((0, 9), limit=1)))["rooms"][room_id]
            assert room["timeline"][0]["unsigned"].get("transaction_id") == txn


async def test_ignored_users_are_not_heard() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
        await say(bob, room_id, "noise")
        await new_room(bob, invite=[alice.user_id])
        answer = await slide(alice, lists=one_list((0, 9)))
        assert order(answer) == [room_id], "nor are their invites shown"
        assert texts(answer["rooms"][room_id]["timeline"]) == []


async def test_the_accepted_dialect_has_its_own_names() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut")
        invite = await new_room(bob, invite=[alice.user_id])
        sent = [await say(alice, room_id, str(number)) for number in range(3)]
        required = {"include": [{}], "exclude": [{"type": "m.room.create"}], "lazy_members": True}
        lists = {
            "rooms": {
                "range": [0, 9],
                "timeline_limit": 1,
                "required_state": required,
                "filters": {"is_invited": False},
            },
            "invites": {"timeline_limit": 1, "required_state": {}, "filters": {"is_invited": True}},
        }
        answer = await slide4(alice, lists=lists)
        assert answer["lists"] == {"rooms": {"count": 1}, "invites": {"count": 1}}
        room = answer["rooms"][room_id]
        assert ids(room["timeline_events"]) == sent[-1:]
        assert (room["membership"], room["lists"], room["initial"]) == ("join", ["rooms"], True)
        assert not {"notification_count", "highlight_count", "timeline", "invite_state"} & set(room)
        state = set(slots(room["required_state"]))
        assert ("m.room.create", "") not in state
        assert {("m.room.name", ""), ("m.room.member", alice.user_id)} <= state
        stripped = answer["rooms"][invite]
        assert (stripped["membership"], stripped["lists"]) == ("invite", ["invites"])
        assert ("m.room.create", "") in {(event["type"], event["state_key"]) for event in stripped["stripped_state"]}
        subscription = {room_id: {"timeline_limit": 3, "required_state": {"include": [{"type": "m.room.create"}]}}}
        answer = await slide4(alice, answer["pos"], room_subscriptions=subscription)
        room = answer["rooms"][room_id]
        assert room["expanded_timeline"] is True
        assert ids(room["timeline_events"]) == sent
        assert "lists" not in room
        assert set(slots(room["required_state"])) == {("m.room.create", "")}


async def test_what_is_no_request_is_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for body in (
            {"lists": []},
            {"lists": {"a": 5}},
            {"lists": {"a": {}}},
            {"lists": {"a b": {"timeline_limit": 1}}},
            {"lists": {str(number): {"timeline_limit": 1} for number in range(101)}},
            {"lists": one_list((5, 2))},
            {"lists": one_list(limit=-1)},
            {"lists": {"a": {"timeline_limit": 1, "ranges": [[0]]}}},
            {"lists": {"a": {"timeline_limit": 1, "ranges": [[0, "5"]]}}},
            {"lists": one_list(state=["m.room.name"])},
            {"lists": one_list(state=[["m.room.name"]])},
            {"lists": one_list(is_dm="yes")},
            {"lists": one_list(tags=[5])},
            {"lists": one_list(room_types="m.space")},
            {"room_subscriptions": {"!a": {"timeline_limit": "5"}}},
            {"conn_id": 5},
            {"conn_id": "a/b"},
            {"extensions": {"to_device": {"enabled": "yes"}}},
            {"extensions": {"to_device": {"enabled": True, "since": "x"}}},
            {"extensions": {"to_device": {"enabled": True, "limit": 0}}},
            {"extensions": {"receipts": {"enabled": True, "rooms": {}}}},
        ):
            answer = await ask(alice, **body)
            assert answer.status == 400, body
            assert answer.errcode in ("M_BAD_JSON", "M_INVALID_PARAM"), body
        for body in ({"timeout": "5"}, {"timeout": -1}, {"set_presence": "busy?"}, {"pos": 5}):
            assert (await alice.ask("POST", ACCEPTED, body)).status == 400, body
        assert (await alice.ask("POST", DEPLOYED, {}, set_presence="dancing")).errcode == "M_INVALID_PARAM"


async def test_a_restart_ends_connections_with_the_error_on_which_clients_begin_anew() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        pos = (await slide(alice))["pos"]
        async with running_node(disk=node.disk) as again:
            after = Client(again.http, alice.token)
            assert (await ask(after, pos)).errcode == "M_UNKNOWN_POS"
            assert (await ask(after)).status == 200


async def test_a_position_and_a_token_of_v3_agree() -> None:
    """Both are cuts in the same stream."""
    async with running_node() as node:
        alice, [room_id, *_] = await three_rooms(node)
        pos = (await slide(alice, lists=one_list((0, 9))))["pos"]
        event_id = await say(alice, room_id, "x")
        answer = await sync(alice, pos)
        assert ids(answer["rooms"]["join"][room_id]["timeline"]["events"]) == [event_id]
