"""`GET /timestamp_to_event`: the nearest event that may be seen, here and on other nodes."""

from tests.client_api.harness import Client
from tests.client_api.talk import at, history, join, new_room, say
from tests.client_api.wire import wired_nodes


def _path(room_id: str) -> str:
    return f"/_matrix/client/v1{at(room_id, 'timestamp_to_event')}"


async def _at(client: Client, room_id: str, timestamp: int, direction: str) -> tuple[str, int]:
    answer = await client.get(_path(room_id), ts=timestamp, dir=direction)
    return answer["event_id"], answer["origin_server_ts"]


async def test_the_nearest_event_before_or_after_a_time() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, carol = await north.register("alice"), await south.register("bob"), await north.register("carol")
        joined = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
        room_id = await new_room(alice, preset="public_chat", initial_state=joined)
        hidden = await say(alice, room_id, "before carol came")
        await join(carol, room_id)
        seen = await say(alice, room_id, "after carol came")
        times = {event["event_id"]: event["origin_server_ts"] for event in await history(alice, room_id)}
        assert await _at(alice, room_id, times[hidden], "b") == (hidden, times[hidden])
        assert await _at(alice, room_id, times[hidden], "f") == (hidden, times[hidden])
        assert await _at(alice, room_id, times[seen] + 10_000, "b") == (seen, times[seen])
        first = (await _at(carol, room_id, 0, "f"))[0]
        assert first != hidden
        assert (await alice.get(_path(room_id), ts=times[seen] + 10_000, dir="f")).errcode == "M_NOT_FOUND"
        assert (await alice.get(_path(room_id), ts=0, dir="b")).errcode == "M_NOT_FOUND"
        for query in ({"ts": 0}, {"ts": 0, "dir": "x"}, {"ts": "x", "dir": "f"}, {"ts": -1, "dir": "f"}):
            assert (await alice.get(_path(room_id), **query)).errcode == "M_INVALID_PARAM"
        assert (await alice.get(_path(room_id), dir="f")).errcode == "M_MISSING_PARAM"
        assert (await bob.get(_path(room_id), ts=0, dir="f")).errcode == "M_FORBIDDEN"

        shared = await new_room(alice, preset="public_chat")
        old = await say(alice, shared, "long ago")
        assert (await bob.post(f"/join/{shared}?via={north.server_name}")).status == 200
        await wire.deliver()
        times = {event["event_id"]: event["origin_server_ts"] for event in await history(alice, shared)}
        assert await _at(bob, shared, times[old], "b") == (old, times[old]), "whoever has the history knows"
        wire.separate(north, south)
        assert (await bob.get(_path(shared), ts=times[old], dir="b")).errcode == "M_NOT_FOUND"
        wire.rejoin(north, south)
        await wire.backfill(south, shared, north)
        wire.asked.clear()
        assert await _at(bob, shared, times[old], "b") == (old, times[old])
        assert wire.asked == [], "nobody is asked once the history is here"
