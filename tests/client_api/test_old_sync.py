"""`/events` and a room's `initialSync`, for clients from before `/sync` and for who looks into a room."""

import asyncio

from tests.client_api.harness import running_node
from tests.client_api.talk import at, history, ids, invite_and_join, new_room, say, texts


async def test_a_room_at_once() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, name="Hut")
        await invite_and_join(alice, room_id, bob)
        sent = [await say(alice, room_id, str(number)) for number in range(5)]
        await bob.put(f"/user/{bob.user_id}{at(room_id, 'tags', 'm.favourite')}", {"order": 0.5})
        answer = (await bob.get(at(room_id, "initialSync"), limit=3)).body
        assert (answer["room_id"], answer["membership"], answer["visibility"]) == (room_id, "join", "private")
        assert ids(answer["messages"]["chunk"]) == sent[2:]
        assert answer["account_data"] == [{"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.5}}}}]
        assert "m.room.name" in [event["type"] for event in answer["state"]]
        older = await bob.get(at(room_id, "messages"), **{"from": answer["messages"]["start"], "dir": "b", "limit": 1})
        assert ids(older["chunk"]) == sent[1:2]
        await bob.post(at(room_id, "leave"))
        await say(alice, room_id, "without bob")
        left = (await bob.get(at(room_id, "initialSync"))).body
        assert left["membership"] == "leave"
        assert "without bob" not in texts(left["messages"]["chunk"])
        assert (await carol.get(at(room_id, "initialSync"))).errcode == "M_FORBIDDEN"
        assert (await node.stranger().get("/initialSync")).errcode == "M_UNRECOGNIZED"


async def test_new_events_of_a_room_are_waited_for() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        open_to_all = [{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}]
        room_id = await new_room(alice, initial_state=open_to_all)
        other = await new_room(alice)
        start = (await bob.get("/events", room_id=room_id, timeout=0))["end"]
        waiting = asyncio.create_task(bob.get("/events", room_id=room_id, timeout=60_000, **{"from": start}))
        await asyncio.sleep(0)
        await say(alice, other, "elsewhere")
        event_id = await say(alice, room_id, "news")
        answer = await asyncio.wait_for(waiting, 30)
        assert (ids(answer["chunk"]), answer["start"]) == ([event_id], start)
        again = await bob.get("/events", room_id=room_id, timeout=0, **{"from": answer["end"]})
        assert again["chunk"] == []
        everything = await alice.get("/events", timeout=0, **{"from": start})
        assert texts(everything["chunk"]) == ["elsewhere", "news"]
        assert (await bob.get("/events", timeout=0, **{"from": start}))["chunk"] == [], "he is in no room"
        assert (await bob.get("/events", room_id=other, timeout=0)).errcode == "M_FORBIDDEN"
        assert (await bob.get("/events", timeout=0, **{"from": "nonsense"})).errcode == "M_INVALID_PARAM"
        assert (await bob.get(f"/events/{event_id}"))["content"]["body"] == "news"
        hidden = (await history(alice, other))[0]["event_id"]
        assert (await bob.get(f"/events/{hidden}")).errcode == "M_NOT_FOUND"
