"""Presence on one node: merged over devices, told to those who share a room, in the answers of `/sync`."""

import asyncio
from typing import Any

from p2pserver.rooms.live import LiveChanges
from p2pserver.rooms.presence import OTHERS_MAX, Presence
from tests.client_api.harness import Answer, Client, running_node
from tests.client_api.sliding import slide
from tests.client_api.talk import at, invite_and_join, new_room, say, sync


def presence_of(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert all(event["type"] == "m.presence" for event in answer["presence"]["events"])
    return {event["sender"]: event["content"] for event in answer["presence"]["events"]}


async def put(client: Client, state: str, **fields: Any) -> Answer:
    return await client.put(f"/presence/{client.user_id}/status", {"presence": state, **fields})


async def status(client: Client, whom: Client) -> dict[str, Any]:
    answer = await client.get(f"/presence/{whom.user_id}/status")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.body
    return found


async def test_who_syncs_is_online_for_those_who_share_a_room() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        first = await sync(alice)
        assert presence_of(first) == {alice.user_id: presence_of(first)[alice.user_id]}
        await sync(carol)
        waiting = asyncio.create_task(sync(alice, first["next_batch"], wait_ms=60_000))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "carol is in no room of hers"
        await sync(bob)
        found = presence_of(await waiting)
        assert list(found) == [bob.user_id]
        assert found[bob.user_id]["presence"] == "online"
        assert found[bob.user_id]["currently_active"] is True
        assert found[bob.user_id]["last_active_ago"] >= 0
        assert set(presence_of(await sync(alice))) == {alice.user_id, bob.user_id}
        assert (await status(alice, bob))["presence"] == "online"
        assert (await alice.get(f"/presence/{carol.user_id}/status")).errcode == "M_FORBIDDEN"
        assert (await alice.get("/presence/nobody/status")).errcode == "M_INVALID_PARAM"


async def test_set_presence_offline_leaves_one_unseen_and_sliding_sync_counts_too() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await sync(alice, set_presence="offline")
        assert (await status(alice, alice))["presence"] == "offline"
        await slide(alice)
        assert (await status(alice, alice))["presence"] == "online"
        await sync(alice, set_presence="unavailable")
        assert (await status(alice, alice))["presence"] == "unavailable"
        assert (await alice.get("/sync", set_presence="dancing")).errcode == "M_INVALID_PARAM"


async def test_a_status_is_told_and_kept_over_syncs() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await invite_and_join(alice, await new_room(alice), bob)
        token = (await sync(bob))["next_batch"]
        assert (await put(alice, "online", status_msg="in the hut")).body == {}
        answer = await sync(bob, token)
        assert presence_of(answer)[alice.user_id]["status_msg"] == "in the hut"
        await sync(alice)
        assert (await status(bob, alice))["status_msg"] == "in the hut"
        await put(alice, "online")
        assert "status_msg" not in await status(bob, alice)


async def test_bad_presence_is_refused() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        path = f"/presence/{alice.user_id}/status"
        assert (await bob.put(path, {"presence": "online"})).errcode == "M_FORBIDDEN"
        assert (await alice.put(path, {"presence": "dancing"})).errcode == "M_INVALID_PARAM"
        assert (await alice.put(path, {})).errcode == "M_MISSING_PARAM"
        assert (await alice.put(path, {"presence": "online", "status_msg": 5})).errcode == "M_BAD_JSON"
        assert (await alice.put(path, {"presence": "online", "status_msg": "x" * 513})).errcode == "M_INVALID_PARAM"


async def test_the_filter_applies() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await invite_and_join(alice, await new_room(alice), bob)
        await sync(bob)
        assert presence_of(await sync(alice, filter={"presence": {"types": []}})) == {}
        senders = presence_of(await sync(alice, filter={"presence": {"senders": [bob.user_id]}}))
        assert list(senders) == [bob.user_id]


async def test_in_a_large_room_presence_wakes_nobody_but_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr("p2pserver.client_api.app.PRESENCE_WAKES_MAX", 1)
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        token = (await sync(alice))["next_batch"]
        waiting = asyncio.create_task(sync(alice, token, wait_ms=60_000))
        await asyncio.sleep(0.05)
        await sync(bob)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await say(bob, room_id, "x")
        assert list(presence_of(await waiting)) == [bob.user_id]


# Merging


class Clocks:
    """A presence with a clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[tuple[float, Any]] = []
        self.changed: list[str] = []
        self.presence = Presence(
            changes=LiveChanges(1),
            clock_s=lambda: self.now_s,
            wall_ms=lambda: int(self.now_s * 1000),
            call_later=lambda delay_s, callback: self.timers.append((self.now_s + delay_s, callback)),
            changed=self.changed.append,
        )

    def turn(self, seconds: float) -> None:
        end = self.now_s + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer[0])
            timer[1]()
        self.now_s = end

    def state(self) -> str:
        return self.presence.of_user("@a").state

    def sync(self, device: str, state: str = "online", *, seconds: float = 0) -> None:
        self.presence.sync_begins("@a", device, state)
        self.turn(seconds)
        self.presence.sync_ends("@a", device, state)


def test_a_device_that_stops_syncing_is_gone_after_a_while() -> None:
    clocks = Clocks()
    clocks.sync("D", seconds=600)
    assert clocks.state() == "online", "it waited all that time"
    clocks.turn(29)
    assert clocks.state() == "online"
    clocks.turn(2)
    assert clocks.state() == "offline"
    assert clocks.changed == ["@a", "@a"]
    assert clocks.timers == []
    assert clocks.presence._devices == {}


def test_devices_are_merged_and_the_one_that_is_most_there_wins() -> None:
    clocks = Clocks()
    clocks.sync("phone", "unavailable")
    assert clocks.state() == "unavailable"
    clocks.sync("laptop", "online")
    assert clocks.state() == "online"
    clocks.turn(20)
    clocks.sync("phone", "unavailable")
    clocks.turn(20)
    assert clocks.state() == "unavailable", "the laptop went away"


def test_busy_stays_while_the_device_syncs_as_online() -> None:
    clocks = Clocks()
    clocks.presence.set("@a", "phone", "busy", None)
    clocks.sync("phone")
    clocks.sync("laptop")
    assert clocks.state() == "busy"
    clocks.presence.set("@a", "phone", "online", None)
    assert clocks.state() == "online"


def test_activity_makes_one_currently_active_for_a_minute() -> None:
    clocks = Clocks()
    clocks.sync("D")
    assert clocks.presence.of_user("@a").active
    clocks.presence.sync_begins("@a", "D", "unavailable")
    assert not clocks.presence.of_user("@a").active
    clocks.presence.sync_begins("@a", "D", "online")
    clocks.turn(61)
    assert not clocks.presence.of_user("@a").active
    clocks.changed.clear()
    clocks.presence.did_something("@a")
    clocks.presence.did_something("@a")
    assert clocks.presence.of_user("@a").active
    assert clocks.changed == ["@a"], "going on is no news"
    clocks.presence.did_something("@offline")
    assert clocks.presence.of_user("@offline").state == "offline"


def test_timers_do_not_pile_up() -> None:
    clocks = Clocks()
    for _ in range(1000):
        clocks.sync("D")
    assert len(clocks.timers) == 1


def test_what_other_nodes_say_is_checked_bounded_and_ends_with_the_connection() -> None:
    clocks = Clocks()
    say = clocks.presence.told
    assert say(
        "@b:x", {"presence": "online", "last_active_ago": 5_000, "currently_active": True, "status_msg": "s" * 999}
    )
    content = clocks.presence.of_user("@b:x").content(int(clocks.now_s * 1000))
    assert content == {
        "presence": "online",
        "last_active_ago": 5_000,
        "currently_active": True,
        "status_msg": "s" * 512,
    }
    for bad in ({}, {"presence": "x"}, {"presence": "online", "last_active_ago": -1}, {"presence": 5}):
        assert not say("@b:x", bad)
    assert not say("@b:x", {"presence": "online", "last_active_ago": True})
    assert not say("@b:x", {"presence": "online", "status_msg": 5})
    clocks.changed.clear()
    say("@b:x", {"presence": "online", "currently_active": True, "status_msg": "s" * 512})
    assert clocks.changed == [], "nothing else than before"
    clocks.presence.lost("y")
    assert clocks.presence.of_user("@b:x").state == "online"
    clocks.presence.lost("x")
    assert clocks.presence.of_user("@b:x").state == "offline"
    for number in range(OTHERS_MAX + 10):
        say(f"@{number}:x", {"presence": "online"})
    assert len(clocks.presence.present()) == OTHERS_MAX


async def test_typing_and_reading_are_activity() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "x")
        await sync(alice)
        for act in (
            alice.put(at(room_id, "typing", alice.user_id), {"typing": True}),
            alice.post(at(room_id, "receipt", "m.read", event_id)),
        ):
            before = node.api.presence.of_user(alice.user_id).last_active_ms
            assert (await act).status == 200
            assert before is not None
            assert (node.api.presence.of_user(alice.user_id).last_active_ms or 0) > before
