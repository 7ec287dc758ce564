"""A room is joined and used over a slow serial line, on virtual time; whoever waits is told how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from p2pserver.client_api.join_progress import JoinProgress
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.simulation import RequestFailed, RoomActions
from p2pserver.store.pending_joins import list_joins
from tests.node.serial_mesh import SerialMesh
from transports.sim import run_virtual


async def eventually(seen: Callable[[], Awaitable[bool]], within_s: float = 900) -> None:
    async with asyncio.timeout(within_s):
        while not await seen():  # noqa: ASYNC110  what is seen is asked for over HTTP
            await asyncio.sleep(0.5)


async def until_synced(client: InProcessClient, section: str, room_id: str, within_s: float = 900) -> None:
    """Until the room is among the `invite` or `join` of `/sync`."""

    async def seen() -> bool:
        return room_id in (await client.request("GET", "/sync"))["rooms"].get(section, {})

    await eventually(seen, within_s)


@pytest.mark.parametrize(
    ("line", "least_s", "most_s"),
    [
        ("v?baud=300", 60, 240),
        ("v?baud=1200", 15, 60),
        ("v?baud=1200&profile=bus", 15, 90),
        ("v?baud=9600", 2, 15),
    ],
)
def test_a_join_is_followed_to_its_end(line: str, least_s: float, most_s: float) -> None:
    async def check() -> None:
        mesh = SerialMesh(["a", "b"], line)
        await mesh.start()
        loop = asyncio.get_running_loop()
        ann, ben = await mesh.user("a", "ann"), await mesh.user("b", "ben")
        room = await RoomActions.create(ann, name="harbor", invite=[ben.user_id])
        await until_synced(ben, "invite", room.room_id)
        heard: list[tuple[float, JoinProgress]] = []
        api = mesh.nodes["b"].running.client_api
        api.tell_join = lambda progress: heard.append((loop.time(), progress))
        rows: list[dict[str, object]] = []

        async def watch() -> None:
            while True:
                await asyncio.sleep(1)
                assert mesh.nodes["b"].database is not None
                rows.extend(await mesh.nodes["b"].database.read(list_joins))

        watching = loop.create_task(watch())
        began_s = loop.time()
        told = ""
        try:
            await RoomActions.join(ben, room.room_id)
        except RequestFailed as slow:
            assert loop.time() - began_s >= 29
            told = slow.body["error"]
        await until_synced(ben, "join", room.room_id)
        took_s = loop.time() - began_s
        watching.cancel()
        assert least_s <= took_s <= most_s
        if took_s > 31:
            assert "the join goes on in the background" in told
            assert ("% is here, about " in told) == any(at_s < began_s + 30 for at_s, _ in heard)
        if took_s > 15:
            *parts, end = heard
            assert len(parts) >= 2
            assert end[1].seconds_left is None
            percents = [progress.percent for _, progress in parts]
            assert percents == sorted(set(percents))
            for at_s, progress in parts[1:]:  # the first part alone says little of the rate
                assert progress.seconds_left is not None
                assert at_s + progress.seconds_left == pytest.approx(end[0], abs=0.25 * (end[0] - began_s) + 2)
            assert any(row["octets"] and row["seconds_left"] for row in rows)
            assert rows[0]["octets"] is None
        rooms = {name: RoomActions(client, room.room_id) for name, client in (("a", ann), ("b", ben))}
        for here, there in (("a", "b"), ("b", "a")):
            await rooms[here].send(f"hello from {here}")

            async def arrived(here: str = here, there: str = there) -> bool:
                return f"hello from {here}" in await rooms[there].messages()

            await eventually(arrived)
        assert await mesh.until_equal(room.room_id, within_s=900) is not None
        await mesh.stop()

    run_virtual(check(), limit_s=5_000)


def test_a_join_that_the_line_cuts_short_is_taken_up_again() -> None:
    async def check() -> None:
        mesh = SerialMesh(["a", "b"], "v?baud=1200&profile=bus", reach={(0, 1), (1, 0)})
        await mesh.start()
        ann, ben = await mesh.user("a", "ann"), await mesh.user("b", "ben")
        room = await RoomActions.create(ann, name="harbor", invite=[ben.user_id])
        await until_synced(ben, "invite", room.room_id)
        joining = asyncio.get_running_loop().create_task(RoomActions.join(ben, room.room_id))
        await asyncio.sleep(10)
        assert mesh.model.reach is not None
        mesh.model.reach.clear()
        (result,) = await asyncio.gather(joining, return_exceptions=True)
        assert isinstance(result, RequestFailed)
        await asyncio.sleep(2_000)
        mesh.model.reach |= {(0, 1), (1, 0)}
        await until_synced(ben, "join", room.room_id, within_s=1_500)
        await mesh.stop()

    run_virtual(check(), limit_s=10_000)
