"""Rooms by the admin API: lists, state, blocks, extremities, history, purging, deletion, admins, notices, reports."""

import asyncio
from typing import Any

import pytest

from p2pserver.rooms.departures import depart_once
from p2pserver.rooms.verification import verify
from p2pserver.store.alarms import STATE_RESET_SUSPECTED, raise_alarm
from p2pserver.store.event_reports import add_report
from tests.admin_api.harness import AdminNode, running_admin_node
from tests.client_api.harness import Client
from tests.client_api.sliding import one_list, slide
from tests.client_api.talk import new_room


async def say(client: Client, room_id: str, body: str) -> str:
    path = f"/rooms/{room_id}/send/m.room.message/{body}"
    event_id: str = (await client.put(path, {"msgtype": "m.text", "body": body}))["event_id"]
    return event_id


async def until(at: AdminNode, path: str, status: str = "complete") -> Any:
    for _ in range(2000):
        answer = await at.get(path)
        if answer["status"] == status:
            return answer
        await asyncio.sleep(0.005)
    raise AssertionError(answer)


async def test_rooms_are_listed_and_looked_at() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        big = (await alice.post("/createRoom", {"name": "Big", "topic": "all", "preset": "public_chat"}))["room_id"]
        await bob.post(f"/join/{big}")
        body = {"name": "small", "room_alias_name": "tiny", "visibility": "public", "room_version": "11"}
        small = (await alice.post("/createRoom", body))["room_id"]
        listed = await at.get("/v1/rooms")
        assert (listed["total_rooms"], [room["name"] for room in listed["rooms"]]) == (2, ["Big", "small"])
        first = listed["rooms"][0]
        assert (first["room_id"], first["joined_members"], first["joined_local_members"]) == (big, 2, 2)
        assert (first["creator"], first["version"], first["join_rules"]) == (alice.user_id, "12", "public")
        assert (first["public"], first["federatable"], first["encryption"]) == (False, True, None)
        assert "topic" not in first

        async def names(**query: str) -> list[str]:
            return [room["name"] for room in (await at.get("/v1/rooms", **query))["rooms"]]

        assert await names(order_by="joined_members", dir="b") == ["small", "Big"]
        assert await names(order_by="version") == ["Big", "small"]
        assert await names(search_term="bi") == ["Big"]
        assert await names(search_term="TINY") == ["small"]
        assert await names(search_term=big) == ["Big"]
        assert await names(public_rooms="true") == ["small"]
        assert await names(empty_rooms="true") == []
        page = await at.get("/v1/rooms", limit="1", **{"from": "1"})
        assert ([room["name"] for room in page["rooms"]], page["offset"], page["prev_batch"]) == (["small"], 1, 0)
        assert (await at.get("/v1/rooms", limit="1"))["next_batch"] == 1
        assert (await at.ask("GET", "/v1/rooms", order_by="smell")).errcode == "M_INVALID_PARAM"

        details = await at.get(f"/v1/rooms/{big}")
        assert (details["topic"], details["joined_local_devices"], details["tombstoned"]) == ("all", 2, False)
        assert details["alarms"] == []
        reset: dict[str, Any] = {
            "room_id": big,
            "kind": STATE_RESET_SUSPECTED,
            "about": "m.room.topic ",
            "details": {"to": None},
        }
        await at.node.database.write(lambda tx: raise_alarm(tx, **reset, now_ms=7))
        [alarm] = (await at.get(f"/v1/rooms/{big}"))["alarms"]
        assert alarm == {
            "kind": "state_reset_suspected",
            "about": "m.room.topic ",
            "details": {"to": None},
            "first_ms": 7,
            "last_ms": 7,
            "times": 1,
        }
        assert await at.get(f"/v1/rooms/{big}/members") == {"members": [alice.user_id, bob.user_id], "total": 2}
        state = (await at.get(f"/v1/rooms/{small}/state"))["state"]
        assert "m.room.create" in {event["type"] for event in state}
        topics = (await at.get(f"/v1/rooms/{big}/state", type="m.room.topic"))["state"]
        assert [event["content"]["topic"] for event in topics] == ["all"]
        for path in ("", "/members", "/state", "/forward_extremities", "/messages"):
            assert (await at.ask("GET", f"/v1/rooms/!nowhere:x{path}")).errcode == "M_NOT_FOUND", path
        assert (await at.ask("GET", "/v1/rooms/room")).errcode == "M_INVALID_PARAM"


async def test_history_is_read_whoever_may_see_it() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        room_id = (await alice.post("/createRoom", {}))["room_id"]
        said = [await say(alice, room_id, f"m{number}") for number in range(5)]
        page = await at.get(f"/v1/rooms/{room_id}/messages", dir="b", limit="3")
        assert [event["event_id"] for event in page["chunk"]] == said[:1:-1]
        older = await at.get(f"/v1/rooms/{room_id}/messages", dir="b", limit="3", **{"from": page["end"]})
        assert [event["event_id"] for event in older["chunk"]][:2] == [said[1], said[0]]
        forward = await at.get(f"/v1/rooms/{room_id}/messages", dir="f", limit="100", **{"from": older["end"]})
        assert [event["event_id"] for event in forward["chunk"]][-5:] == said
        around = await at.get(f"/v1/rooms/{room_id}/context/{said[2]}", limit="2")
        assert [event["event_id"] for event in around["events_before"]] == [said[1]]
        assert around["event"]["content"]["body"] == "m2"
        assert [event["event_id"] for event in around["events_after"]] == [said[3]]
        assert around["state"]
        after = await at.get(f"/v1/rooms/{room_id}/messages", dir="f", limit="1", **{"from": around["end"]})
        assert [event["event_id"] for event in after["chunk"]] == [said[4]]
        ts = around["event"]["origin_server_ts"]
        found = await at.get(f"/v1/rooms/{room_id}/timestamp_to_event", ts=str(ts), dir="b")
        assert found == {"event_id": said[2], "origin_server_ts": ts}
        assert (await at.ask("GET", f"/v1/rooms/{room_id}/timestamp_to_event", ts="9" * 14)).errcode == "M_NOT_FOUND"
        assert (await at.get(f"/v1/fetch_event/{said[0]}"))["event"]["content"]["body"] == "m0"
        assert (await at.ask("GET", "/v1/fetch_event/$none")).errcode == "M_NOT_FOUND"


async def test_a_blocked_room_cannot_be_joined_nor_invited_to() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"preset": "public_chat"}))["room_id"]
        path = f"/v1/rooms/{room_id}/block"
        assert await at.get(path) == {"block": False}
        assert await at.put(path, {"block": True}) == {"block": True}
        assert await at.get(path) == {"block": True, "user_id": at.root.user_id}
        assert (await bob.post(f"/join/{room_id}")).errcode == "M_FORBIDDEN"
        assert (await alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id})).errcode == "M_FORBIDDEN"
        assert await say(alice, room_id, "those who are in it may speak")
        unknown = "!unknown:elsewhere.example"
        await at.put(f"/v1/rooms/{unknown}/block", {"block": True})
        assert (await bob.post(f"/join/{unknown}")).errcode == "M_FORBIDDEN"
        await at.put(path, {"block": False})
        assert (await bob.post(f"/join/{room_id}")).status == 200
        assert (await at.ask("PUT", path, {"block": "yes"})).errcode == "M_INVALID_PARAM"


async def test_purged_messages_lose_their_content_and_nothing_else() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"topic": "stays", "preset": "public_chat"}))["room_id"]
        said = [await say(alice, room_id, f"m{number}") for number in range(4)]
        await bob.post(f"/join/{room_id}")
        digest = await at.node.database.read(lambda tx: at.node.rooms.digest(tx, room_id))
        found = await alice.post("/search", {"search_categories": {"room_events": {"search_term": "m1"}}})
        assert found["search_categories"]["room_events"]["count"] == 1
        started = await at.post(f"/v1/purge_history/{room_id}", {"purge_up_to_event_id": said[2]})
        await until(at, f"/v1/purge_history_status/{started['purge_id']}")
        # Nobody else may have what our own users said, so that it stays unless that is asked for.
        assert (await alice.get(f"/rooms/{room_id}/event/{said[0]}"))["content"]["body"] == "m0"
        body = {"purge_up_to_event_id": said[2], "delete_local_events": True}
        started = await at.post(f"/v1/purge_history/{room_id}", body)
        await until(at, f"/v1/purge_history_status/{started['purge_id']}")
        page = await alice.get(f"/rooms/{room_id}/messages", dir="b", limit="100")
        shown = [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
        assert shown == [said[3], said[2]]
        assert (await alice.get(f"/rooms/{room_id}/event/{said[1]}")).errcode == "M_NOT_FOUND"
        raws = await at.node.database.read(
            lambda tx: tx.all("SELECT CAST(raw AS TEXT) FROM events WHERE event_id IN (?, ?)", said[:2])
        )
        assert len(raws) == 2
        assert not any("body" in raw for (raw,) in raws)
        assert await at.node.database.read(lambda tx: at.node.rooms.digest(tx, room_id)) == digest
        assert await at.node.database.read(lambda tx: at.node.rooms.is_complete(tx, room_id))
        keys = at.node.rooms.context.keys
        verified = await at.node.database.read(lambda tx: verify(tx, room_id, keys))
        assert (verified.difference, verified.redacted) == (None, 2)
        assert (await alice.get(f"/rooms/{room_id}/state/m.room.topic"))["topic"] == "stays"
        search = {"search_categories": {"room_events": {"search_term": "m1"}}}
        assert (await alice.post("/search", search))["search_categories"]["room_events"]["count"] == 0
        late = await at.post(f"/v1/purge_history/{room_id}", {"purge_up_to_ts": 2**50, "delete_local_events": True})
        await until(at, f"/v1/purge_history_status/{late['purge_id']}")
        assert await say(alice, room_id, "goes on")
        for bad in ({}, {"purge_up_to_ts": "soon"}):
            assert (await at.ask("POST", f"/v1/purge_history/{room_id}", bad)).status == 400
        nowhere = await at.ask("POST", f"/v1/purge_history/{room_id}/$none")
        assert nowhere.errcode == "M_NOT_FOUND"
        assert (await at.ask("GET", "/v1/purge_history_status/x")).errcode == "M_NOT_FOUND"


async def test_a_genuine_copy_does_not_bring_back_what_was_purged() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        room_id = (await alice.post("/createRoom", {}))["room_id"]
        event_id = await say(alice, room_id, "secret")
        raw = dict((await at.node.database.read(lambda tx: at.node.rooms.event(tx, event_id))).raw)
        assert raw["content"]["body"] == "secret"
        started = await at.post(f"/v1/purge_history/{room_id}", {"purge_up_to_ts": 2**50, "delete_local_events": True})
        await until(at, f"/v1/purge_history_status/{started['purge_id']}")
        assert await at.node.database.read(lambda tx: at.node.rooms.wanted(tx, room_id)) == []
        await at.node.database.write(
            lambda tx: at.node.rooms.receive(tx, room_id=room_id, raws=[raw], source="other.example")
        )
        held = await at.node.database.read(
            lambda tx: tx.one("SELECT CAST(raw AS TEXT) FROM events WHERE event_id = ?", (event_id,))
        )
        assert held is not None
        assert "body" not in held[0]


async def sync(client: Client, since: str | None = None) -> Any:
    return (await client.get("/sync", **({} if since is None else {"since": since}))).body


async def test_whoever_slides_learns_that_a_room_was_deleted() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        room_id = await new_room(alice, name="gone")
        other = await new_room(alice, name="stays")
        subscribed: Any = {"room_subscriptions": {room_id: {"timeline_limit": 5, "required_state": []}}}
        first = await slide(alice, lists=one_list((0, 9)), **subscribed)
        assert set(first["rooms"]) == {room_id, other}
        await at.delete(f"/v1/rooms/{room_id}")
        second = await slide(alice, first["pos"], lists=one_list((0, 9)), **subscribed)
        shown = [event["content"].get("membership") for event in second["rooms"][room_id]["timeline"]]
        assert shown == ["leave"]
        third = await slide(alice, second["pos"], lists=one_list((0, 9)), **subscribed)
        assert room_id not in third["rooms"]
        fresh = await slide(alice, lists=one_list((0, 9)))
        assert set(fresh["rooms"]) == {other}


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_deleted_room_is_gone_and_its_users_are_told(version: str) -> None:
    async with running_admin_node() as at:
        alice, bob, carol = [await at.node.register(name) for name in ("alice", "bob", "carol")]
        body = {"room_alias_name": "bad", "visibility": "public", "invite": [carol.user_id], "preset": "public_chat"}
        room_id = (await alice.post("/createRoom", body))["room_id"]
        other = (await alice.post("/createRoom", {"name": "other"}))["room_id"]
        await bob.post(f"/join/{room_id}")
        await say(bob, room_id, "illegal")
        tokens = {client.user_id: (await sync(client))["next_batch"] for client in (alice, bob, carol)}
        await at.node.database.write(
            lambda tx: (
                tx.execute(
                    "INSERT INTO outbox (destination, kind, room_id, event_id, queued_at)"
                    " SELECT 'far.example', 'pdu', room_id, event_id, 1 FROM events WHERE room_id = ? AND type = ?",
                    (room_id, "m.room.message"),
                )
                and None
            )
        )
        answer = await at.delete(f"/{version}/rooms/{room_id}", {"block": True, "purge": True})
        if version == "v2":
            done = await until(at, f"/v2/rooms/delete_status/{answer['delete_id']}")
            assert (await at.get(f"/v2/rooms/{room_id}/delete_status"))["results"][0]["status"] == "complete"
            answer = done["shutdown_room"]
        assert answer["kicked_users"] == [alice.user_id, bob.user_id, carol.user_id]
        assert answer["failed_to_kick_users"] == []
        assert answer["local_aliases"] == [f"#bad:{at.node.server_name}"]
        for client in (alice, bob, carol):
            rooms = (await sync(client, tokens[client.user_id]))["rooms"]
            events = rooms["leave"][room_id]["timeline"]["events"] + rooms["leave"][room_id]["state"]["events"]
            assert [event["content"]["membership"] for event in events] == ["leave"]
            assert room_id not in rooms.get("join", {})
            assert room_id not in (await sync(client))["rooms"].get("join", {})
        assert (await at.ask("GET", f"/v1/rooms/{room_id}")).errcode == "M_NOT_FOUND"
        assert (await bob.post(f"/join/{room_id}")).errcode == "M_FORBIDDEN"
        assert (await bob.get(f"/directory/room/%23bad:{at.node.server_name}")).errcode == "M_NOT_FOUND"
        left = await at.node.database.read(lambda tx: rows_of(tx, room_id))
        assert left == {"blocked_rooms": 1, "invites": 3, "local_memberships": 3, "outbox": 1}
        payloads = await at.node.database.read(lambda tx: tx.all("SELECT CAST(payload AS TEXT) FROM outbox"))
        assert "illegal" in payloads[0][0]
        assert await say(alice, other, "still here")
        assert (await alice.post(f"/rooms/{room_id}/forget")).status == 200


def rows_of(tx: Any, room_id: str) -> dict[str, int]:
    """How many rows of each table name the room, and nothing that hangs on its events."""
    found = {}
    for (table,) in tx.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
        columns = [column for _, column, *_ in tx.all(f"PRAGMA table_info({table})")]
        if "room_id" in columns:
            (count,) = tx.one(f"SELECT count(*) FROM {table} WHERE room_id = ?", (room_id,))
            if count:
                found[table] = count
    for table in ("event_edges", "auth_nodes"):
        orphans = tx.all(f"SELECT 1 FROM {table} WHERE event_id NOT IN (SELECT event_id FROM events)")
        assert orphans == [], table
    assert tx.all("SELECT 1 FROM state_group_entries WHERE group_id NOT IN (SELECT group_id FROM state_groups)") == []
    return found


async def test_the_users_of_a_deleted_room_are_taken_to_a_new_one() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"preset": "public_chat"}))["room_id"]
        await bob.post(f"/join/{room_id}")
        body = {"new_room_user_id": at.root.user_id, "room_name": "Closed", "message": "It was closed."}
        answer = await at.delete(f"/v1/rooms/{room_id}", body)
        new_room = answer["new_room_id"]
        assert (await at.get(f"/v1/rooms/{new_room}/members"))["total"] == 3
        page = await bob.get(f"/rooms/{new_room}/messages", dir="b")
        assert "It was closed." in [event["content"].get("body") for event in page["chunk"]]
        spoken = await bob.put(f"/rooms/{new_room}/send/m.room.message/1", {"msgtype": "m.text", "body": "no"})
        assert spoken.errcode == "M_FORBIDDEN"
        assert (await at.ask("DELETE", f"/v1/rooms/{room_id}", {})).errcode == "M_NOT_FOUND"
        assert (await at.ask("DELETE", f"/v1/rooms/{new_room}", {"new_room_user_id": "@x:y"})).status == 400


async def test_branches_are_merged_and_not_dropped() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        room_id = (await alice.post("/createRoom", {}))["room_id"]
        start = await say(alice, room_id, "start")
        branches = []
        for number in range(3):
            await at.node.database.write(
                lambda tx: (
                    tx.execute("UPDATE forward_extremities SET event_id = ? WHERE room_id = ?", (start, room_id))
                    and None
                )
            )
            branches.append(await say(alice, room_id, f"branch{number}"))
        await at.node.database.write(
            lambda tx: tx.many(
                "INSERT OR IGNORE INTO forward_extremities (room_id, event_id) VALUES (?, ?)",
                [(room_id, each) for each in branches],
            )
        )
        listed = await at.get(f"/v1/rooms/{room_id}/forward_extremities")
        assert listed["count"] == 3
        assert {row["event_id"] for row in listed["results"]} == set(branches)
        assert await at.delete(f"/v1/rooms/{room_id}/forward_extremities") == {"deleted": 2}
        assert (await at.get(f"/v1/rooms/{room_id}/forward_extremities"))["count"] == 1
        for each in branches:
            assert (await alice.get(f"/rooms/{room_id}/event/{each}")).status == 200
        assert await at.delete(f"/v1/rooms/{room_id}/forward_extremities") == {"deleted": 0}


@pytest.mark.parametrize("version", ["10", "12"])
async def test_users_are_joined_and_made_admins_of_a_room(version: str) -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"room_version": version}))["room_id"]
        refused = await at.ask("POST", f"/v1/join/{room_id}", {"user_id": bob.user_id})
        assert refused.errcode == "M_FORBIDDEN"
        assert await at.post(f"/v1/rooms/{room_id}/make_room_admin", {"user_id": bob.user_id}) == {}
        assert await at.post(f"/v1/join/{room_id}", {"user_id": bob.user_id}) == {"room_id": room_id}
        levels = (await bob.get(f"/rooms/{room_id}/state/m.room.power_levels")).body
        assert levels["users"][bob.user_id] == 100
        assert (await bob.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "mine"})).status == 200
        await at.post(f"/v1/rooms/{room_id}/make_room_admin")
        await at.post(f"/v1/join/{room_id}", {"user_id": at.root.user_id})
        carol = await at.node.register("carol")
        assert (await at.post(f"/v1/join/{room_id}", {"user_id": carol.user_id})) == {"room_id": room_id}
        assert (
            await at.ask("POST", f"/v1/join/%23none:{at.node.server_name}", {"user_id": carol.user_id})
        ).status == 404


async def test_what_a_user_said_is_redacted_everywhere() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"preset": "public_chat"}))["room_id"]
        await bob.post(f"/join/{room_id}")
        said = [await say(bob, room_id, f"spam{number}") for number in range(3)]
        own = await say(alice, room_id, "fine")
        one = await at.post(f"/v1/user/{bob.user_id}/redact", {"rooms": [room_id], "limit": 1, "reason": "spam"})
        status = await until(at, f"/v1/user/redact_status/{one['redact_id']}")
        assert status["failed_redactions"] == {}

        async def bodies() -> list[str | None]:
            return [(await alice.get(f"/rooms/{room_id}/event/{each}"))["content"].get("body") for each in said]

        assert await bodies() == ["spam0", "spam1", None]
        await bob.post(f"/rooms/{room_id}/leave")
        rest = await at.post(f"/v1/user/{bob.user_id}/redact", {"rooms": []})
        await until(at, f"/v1/user/redact_status/{rest['redact_id']}")
        assert await bodies() == [None, None, None]
        assert (await alice.get(f"/rooms/{room_id}/event/{own}"))["content"]["body"] == "fine"
        assert (await at.ask("GET", "/v1/user/redact_status/x")).errcode == "M_NOT_FOUND"
        assert (await at.ask("POST", "/v1/user/bob/redact", {})).errcode == "M_INVALID_PARAM"


async def test_notices_reach_a_user_in_a_room_of_their_own() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        body = {"user_id": alice.user_id, "content": {"msgtype": "m.text", "body": "The node moves on Sunday."}}
        first = await at.post("/v1/send_server_notice", body)
        synced = await sync(alice)
        (room_id,) = synced["rooms"]["invite"]
        invited = synced["rooms"]["invite"][room_id]["invite_state"]["events"]
        assert {"name": "Server Notices"} in [event["content"] for event in invited]
        await alice.post(f"/join/{room_id}")
        shown = await alice.get(f"/rooms/{room_id}/event/{first['event_id']}")
        assert shown["content"]["body"] == "The node moves on Sunday."
        tags = await alice.get(f"/user/{alice.user_id}/rooms/{room_id}/tags")
        assert tags["tags"] == {"m.server_notice": {}}
        path = "/v1/send_server_notice/42"
        once, again = await at.put(path, body), await at.put(path, body)
        assert once == again
        assert once["event_id"] != first["event_id"]
        assert (await at.get(f"/v1/users/@server-notices:{at.node.server_name}/joined_rooms"))["total"] == 1
        spoken = await alice.put(f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "no"})
        assert spoken.errcode == "M_FORBIDDEN"
        await alice.post(f"/rooms/{room_id}/leave")
        await at.post("/v1/send_server_notice", body)
        assert len((await sync(alice))["rooms"]["invite"]) == 1
        assert (await at.ask("POST", "/v1/send_server_notice", {"user_id": "@x:y", "content": {}})).status == 400


async def test_reports_are_listed_read_and_deleted() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await alice.post("/createRoom", {"name": "Bad", "preset": "public_chat"}))["room_id"]
        event_id = await say(alice, room_id, "rude")
        await at.node.database.write(
            lambda tx: add_report(
                tx,
                reporter=bob.user_id,
                received_ms=5,
                room_id=room_id,
                event_id=event_id,
                user_id=alice.user_id,
                reason="rude",
            )
        )
        await at.node.database.write(
            lambda tx: add_report(tx, reporter=bob.user_id, received_ms=6, user_id=alice.user_id)
        )
        listed = await at.get("/v1/event_reports", limit="1")
        assert (listed["total"], listed["next_token"], listed["event_reports"][0]["sender"]) == (2, 1, alice.user_id)
        oldest = (await at.get("/v1/event_reports", dir="f", room_id=room_id))["event_reports"]
        assert [(each["name"], each["user_id"], each["reason"]) for each in oldest] == [("Bad", bob.user_id, "rude")]
        number = oldest[0]["id"]
        details = await at.get(f"/v1/event_reports/{number}")
        assert details["event_json"]["content"]["body"] == "rude"
        assert await at.delete(f"/v1/event_reports/{number}") == {}
        assert (await at.ask("GET", f"/v1/event_reports/{number}")).errcode == "M_NOT_FOUND"
        assert (await at.ask("GET", "/v1/event_reports/first")).errcode == "M_INVALID_PARAM"


async def test_a_deactivated_account_that_nobody_else_can_stand_in_for_leaves_all_the_same() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        room_id = (await alice.post("/createRoom", {}))["room_id"]
        await at.post(f"/v1/deactivate/{alice.user_id}", {})
        while await at.node.database.write(lambda tx: depart_once(at.node.rooms, tx)):
            pass
        assert (await at.get("/v1/rooms", empty_rooms="true"))["total_rooms"] == 1
        assert (await at.delete(f"/v1/rooms/{room_id}"))["kicked_users"] == []
        assert (await at.get("/v1/rooms"))["total_rooms"] == 0
