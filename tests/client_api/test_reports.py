"""Reports of events, rooms and users: what is kept of them, and who may make them."""

from typing import Any

from p2pserver.store.event_reports import reports
from tests.client_api.harness import Node, running_node
from tests.client_api.neighbors import two_nodes
from tests.client_api.talk import at, invite_and_join, new_room, say


async def _kept(node: Node) -> list[tuple[Any, ...]]:
    found = await node.database.read(lambda tx: reports(tx, newest_first=False, limit=100, start=0)[0])
    return [(each.reporter, each.room_id, each.event_id, each.user_id, each.reason, each.score) for each in found]


async def test_rooms_events_and_users_are_reported() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        event_id = await say(alice, room_id, "rude")
        report = {"reason": "rude", "score": -100}
        assert (await bob.post(at(room_id, "report", event_id), report)).body == {}
        assert (await bob.post(at(room_id, "report", event_id), {})).body == {}
        assert (await carol.post(at(room_id, "report"), {"reason": ""})).body == {}
        assert (await bob.post(f"/users/{alice.user_id}/report", {"reason": "again"})).body == {}
        assert await _kept(node) == [
            (bob.user_id, room_id, event_id, alice.user_id, "rude", -100),
            (bob.user_id, room_id, event_id, alice.user_id, None, None),
            (carol.user_id, room_id, None, None, "", None),
            (bob.user_id, None, None, alice.user_id, "again", None),
        ]


async def test_reports_that_are_refused_leave_nothing() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "secret")
        other = await new_room(bob)
        refusals: list[tuple[str, Any, str]] = [
            (at(room_id, "report", event_id), {"reason": "x"}, "M_NOT_FOUND"),
            (at(other, "report", event_id), {"reason": "x"}, "M_NOT_FOUND"),
            (at("!" + "a" * 43, "report"), {"reason": "x"}, "M_NOT_FOUND"),
            (f"/users/@nobody:{node.server_name}/report", {"reason": "x"}, "M_NOT_FOUND"),
            ("/users/@nobody:far.example/report", {"reason": "x"}, "M_NOT_FOUND"),
            ("/users/bob/report", {"reason": "x"}, "M_INVALID_PARAM"),
            (at(room_id, "report"), {}, "M_MISSING_PARAM"),
            (f"/users/{alice.user_id}/report", {}, "M_MISSING_PARAM"),
            (at(room_id, "report"), {"reason": 7}, "M_BAD_JSON"),
            (at(room_id, "report"), {"reason": "x" * 2_001}, "M_TOO_LARGE"),
        ]
        for path, body, errcode in refusals:
            assert (await bob.post(path, body)).errcode == errcode, path
        for score in (1, -101, "bad", True):
            assert (await alice.post(at(room_id, "report", event_id), {"score": score})).errcode == "M_BAD_JSON"
        assert await _kept(node) == []


async def test_somebody_of_another_node_is_reported_here() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        assert (await alice.post(f"/users/{bob.user_id}/report", {"reason": "x"})).errcode == "M_NOT_FOUND"
        assert (await alice.get(f"/profile/{bob.user_id}")).status == 200
        assert (await alice.post(f"/users/{bob.user_id}/report", {"reason": "x"})).status == 200
        assert (await _kept(here), await _kept(there)) == ([(alice.user_id, None, None, bob.user_id, "x", None)], [])
