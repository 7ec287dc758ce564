"""Knocking, restricted rooms, spaces, profiles and search on whole nodes, over links that lose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pserver.node.simulation import InProcessClient, RequestFailed, RoomActions, SimulatedMesh, segment
from transports.sim import LinkConditions, run_virtual


async def _synced(client: InProcessClient, section: str, room_id: str) -> dict[str, Any]:
    """The room as it stands in a section of `/sync`, as soon as it is there."""
    for _ in range(600):
        found = (await client.request("GET", "/sync", timeout="0"))["rooms"][section].get(room_id)
        if found is not None:
            return dict(found)
        await asyncio.sleep(0.5)
    raise AssertionError(f"{room_id} is not in {section}")


async def _state_of(room: RoomActions, user_id: str, wanted: str) -> None:
    path = f"/rooms/{segment(room.room_id)}/state/m.room.member/{segment(user_id)}"
    for _ in range(600):
        try:
            if (await room.client.request("GET", path))["membership"] == wanted:
                return
        except RequestFailed:
            pass
        await asyncio.sleep(0.5)
    raise AssertionError(f"{user_id} is not seen as {wanted}")


def test_a_space_with_a_room_to_knock_on_and_one_that_it_opens() -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a", "b", "c"], seed=5, conditions=LinkConditions(loss=0.1, delay_ms_mean=20))
        await mesh.start()
        await asyncio.sleep(10)
        anna, boris, carla = [await mesh.user(name, f"user-{name}") for name in "abc"]
        via = mesh.nodes["a"].server_name
        space = await RoomActions.create(
            anna, name="Village", preset="public_chat", creation_content={"type": "m.space"}
        )
        knock = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        hut = await RoomActions.create(anna, name="Hut", initial_state=knock)
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space.room_id}]}
        square = await RoomActions.create(
            anna,
            name="Square",
            initial_state=[{"type": "m.room.join_rules", "content": rules}],
            power_level_content_override={"invite": 50},
        )
        for child in (hut, square):
            path = f"/rooms/{segment(space.room_id)}/state/m.space.child/{segment(child.room_id)}"
            await anna.request("PUT", path, {"via": [via]})
        await square.send("welcome to the square")

        hierarchy = f"/_matrix/client/v1/rooms/{segment(space.room_id)}/hierarchy"
        assert {room["name"] for room in (await boris.request("GET", hierarchy))["rooms"]} == {"Village", "Hut"}
        with pytest.raises(RequestFailed) as refused:
            await boris.request("POST", f"/join/{segment(square.room_id)}", {}, via=via)
        assert refused.value.errcode == "M_FORBIDDEN", "he is not in the space"

        await RoomActions.join(boris, space.room_id, via=via)
        await _state_of(space, boris.user_id, "join")
        assert len((await boris.request("GET", hierarchy))["rooms"]) == 3
        there = await RoomActions.join(boris, square.room_id, via=via)
        await there.send("boris is here")
        assert await mesh.until_equal(square.room_id, within_s=300, names="ab") is not None
        found = await boris.request(
            "POST", "/search", {"search_categories": {"room_events": {"search_term": "welcome square"}}}
        )
        assert found["search_categories"]["room_events"]["count"] == 1

        await boris.request("POST", f"/knock/{segment(hut.room_id)}", {"reason": "please"}, via=via)
        state = (await _synced(boris, "knock", hut.room_id))["knock_state"]["events"]
        assert {"m.room.create", "m.room.name", "m.room.member"} <= {event["type"] for event in state}
        await _state_of(hut, boris.user_id, "knock")
        mesh.partition({"a"}, {"b", "c"})
        await anna.request("POST", f"/rooms/{segment(hut.room_id)}/invite", {"user_id": boris.user_id})
        with pytest.raises(RequestFailed) as away:
            await carla.request("POST", f"/knock/{segment(hut.room_id)}", {}, via=via)
        assert away.value.status in (404, 502), "nobody who knows the room can be asked"
        mesh.heal()
        await _synced(boris, "invite", hut.room_id)
        inside = await RoomActions.join(boris, hut.room_id)
        await inside.send("thank you")
        assert await mesh.until_equal(hut.room_id, within_s=300, names="ab") is not None

        await carla.request("POST", f"/knock/{segment(hut.room_id)}", {}, via=via)
        await _state_of(inside, carla.user_id, "knock")
        kick = {"user_id": carla.user_id, "reason": "full"}
        await anna.request("POST", f"/rooms/{segment(hut.room_id)}/kick", kick)
        left = await _synced_leave(carla, hut.room_id)
        assert left["content"] == {"membership": "leave", "reason": "full"}
        await mesh.stop()

    run_virtual(story(), limit_s=7200)


async def _synced_leave(client: InProcessClient, room_id: str) -> dict[str, Any]:
    everything = '{"room": {"include_leave": true}}'
    for _ in range(600):
        rooms = (await client.request("GET", "/sync", timeout="0", filter=everything))["rooms"]["leave"]
        if room_id in rooms:
            events = rooms[room_id]["state"]["events"]
            return next(event for event in events if event.get("state_key") == client.user_id)
        await asyncio.sleep(0.5)
    raise AssertionError("the end of the knock was not told")
