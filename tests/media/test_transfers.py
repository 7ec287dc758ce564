"""Files travel between nodes: checked, in chunks, over loss, restarts and cuts."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from p2pserver.node.simulation import RoomActions
from p2pserver.rooms.media_library import MediaLimits
from p2pserver.store.media_transfers import list_transfers, part_name
from tests.media.meshes import FETCH, Scene, ask, download, live, octets, scene, until_here, upload
from transports.sim import LinkConditions


def test_a_file_of_another_node_is_fetched_and_kept() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        content = octets(700_000)
        where = await upload(there.users["a"], content)
        got = await download(there.users["b"], where)
        assert (got.status, got.body) == (200, content)
        assert got.headers["content-type"] == "image/png"
        assert got.headers["content-disposition"] == 'inline; filename="boat.png"'
        there.mesh.partition({"a"}, {"b"})
        again = await download(there.users["b"], where, allow_remote="false")
        assert (again.status, again.body) == (200, content)
        empty = await upload(there.users["b"], b"")
        there.mesh.heal()
        assert (await until_here(there.users["a"], empty, within_s=120)).body == b""
        await there.mesh.stop()

    live(story())


@pytest.mark.parametrize("size", [1, 4096, 4097, 1_000_000])
def test_sizes(size: int) -> None:
    async def story() -> None:
        there = await scene("a", "b")
        where = await upload(there.users["a"], octets(size))
        assert (await download(there.users["b"], where)).body == octets(size)
        await there.mesh.stop()

    live(story())


def test_what_is_not_there_is_told_at_once() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        name = there.mesh.nodes["a"].server_name
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await download(there.users["b"], f"{name}/nothing")).errcode == "M_NOT_FOUND"
        assert (await download(there.users["b"], "matrix.example/nothing")).errcode == "M_NOT_FOUND"
        assert loop.time() - began < 2
        assert (await download(there.users["b"], f"{name}/other", allow_remote="false")).errcode == "M_NOT_FOUND"
        await there.mesh.stop()

    live(story())


def test_who_is_away_is_waited_for_as_long_as_the_client_says() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        where = await upload(there.users["a"], octets(5000))
        there.mesh.partition({"a"}, {"b"})
        await asyncio.sleep(60)
        loop = asyncio.get_running_loop()
        began = loop.time()
        got = await download(there.users["b"], where, timeout_ms=5000)
        assert (got.status, got.errcode) == (504, "M_NOT_YET_UPLOADED")
        assert 4.9 < loop.time() - began < 6
        began = loop.time()
        got = await download(there.users["b"], where)
        assert (got.status, got.errcode) == (504, "M_NOT_YET_UPLOADED")
        assert loop.time() - began < 3, "a page full of pictures would stand still"
        waiting = asyncio.create_task(download(there.users["b"], where, timeout_ms=60_000))
        await asyncio.sleep(5)
        there.mesh.heal()
        assert (await waiting).body == octets(5000)
        await there.mesh.stop()

    live(story())


def test_an_upload_that_was_announced_is_waited_for_by_the_other_node() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        created = await ask(there.users["a"], "POST", "/_matrix/media/v1/create", content=b"{}")
        where = str(json.loads(created.body)["content_uri"]).removeprefix("mxc://")
        waiting = asyncio.create_task(download(there.users["b"], where))
        await asyncio.sleep(3)
        done = await ask(there.users["a"], "PUT", f"/_matrix/media/v3/upload/{where}", content=b"late")
        assert done.status == 200
        assert (await waiting).body == b"late"
        await there.mesh.stop()

    live(story())


@pytest.mark.parametrize("seed", [1, 2])
def test_loss_restarts_and_cuts_cost_only_time(seed: int) -> None:
    """200 kB over a line of 100 kbit/s that loses three of ten datagrams, with both nodes losing their power."""

    async def story() -> None:
        conditions = LinkConditions(loss=0.3, delay_ms_mean=60, jitter_ms=30, datagram_octets_max=250, bit_rate=100_000)
        there = await scene("a", "b", seed=seed, conditions=conditions)
        content = octets(200_000)
        where = await upload(there.users["a"], content)
        assert (await download(there.users["b"], where, timeout_ms=4_000)).errcode == "M_NOT_YET_UPLOADED"
        held = [await _held(there, "b", where)]
        for disturbance in ("crash b", "crash a", "cut", "crash b"):
            await asyncio.sleep(4)
            held.append(await _held(there, "b", where))
            if disturbance == "cut":
                there.mesh.partition({"a"}, {"b"})
                await asyncio.sleep(20)
                there.mesh.heal()
            else:
                name = disturbance[-1]
                await there.mesh.crash(name)
                await asyncio.sleep(3)
                await there.mesh.boot(name)
        got = await until_here(there.users["b"], where, within_s=1200)
        assert (got.status, got.body) == (200, content)
        assert held == sorted(held), "what was fetched and checked is not fetched again"
        assert held[-1] > 0
        await there.mesh.stop()

    live(story())


async def _held(there: object, name: str, where: str) -> int:
    """Octets on the disk of the node that wants the file."""
    node = there.mesh.nodes[name]  # type: ignore[attr-defined]
    path = node.running.media.files.part_path(part_name(*where.split("/")))
    return sum(map(bool, path.read_bytes())) if path.exists() else 0


def test_progress_can_be_watched_and_a_transfer_given_up() -> None:
    async def story() -> None:
        there = await scene("a", "b", conditions=LinkConditions(bit_rate=64_000))
        where = await upload(there.users["a"], octets(100_000))
        user = there.users["b"]
        assert (await ask(user, "GET", f"{FETCH}/{where}")).errcode == "M_NOT_FOUND"
        assert (await download(user, where, timeout_ms=5_000)).errcode == "M_NOT_YET_UPLOADED"
        told = json.loads((await ask(user, "GET", f"{FETCH}/{where}")).body)
        assert told["state"] == "under_way"
        assert 0 < told["octets"] < told["size"] == 100_000
        assert 0 < told["seconds_left"] < 60
        assert (await ask(user, "DELETE", f"{FETCH}/{where}")).status == 200
        await asyncio.sleep(60)
        assert (await ask(user, "GET", f"{FETCH}/{where}")).errcode == "M_NOT_FOUND"
        assert (await download(user, where, allow_remote="false")).errcode == "M_NOT_FOUND"
        assert await _held(there, "b", where) == 0
        await there.mesh.stop()

    live(story())


def test_over_a_slow_link_it_takes_somebody_who_asks() -> None:
    """A line of 9,600 bit/s: a picture of 200 kB would take minutes, so it waits for a word; a small one does not."""

    async def story() -> None:
        there = await scene("a", "b", conditions=LinkConditions(bit_rate=9_600, datagram_octets_max=250))
        user = there.users["b"]
        large, small = await upload(there.users["a"], octets(60_000)), await upload(there.users["a"], octets(3_000, 2))
        assert (await until_here(user, small, within_s=120)).body == octets(3_000, 2)
        held_back = await download(user, large, timeout_ms=20_000)
        assert held_back.errcode == "M_NOT_YET_UPLOADED"
        assert b"60000 octets would take about 83 s" in held_back.body
        began = asyncio.get_running_loop().time()
        assert (await download(user, large, timeout_ms=20_000)).body == held_back.body
        assert asyncio.get_running_loop().time() - began < 1
        await asyncio.sleep(300)
        told = json.loads((await ask(user, "GET", f"{FETCH}/{large}")).body)
        assert told == {"state": "held_back", "octets": 0, "size": 60_000, "seconds_left": 83}
        assert (await ask(user, "POST", f"{FETCH}/{large}")).status == 200
        got = await until_here(user, large, within_s=600)
        assert got.body == octets(60_000)
        assert json.loads((await ask(user, "GET", f"{FETCH}/{large}")).body)["state"] == "here"
        await there.mesh.stop()

    live(story())


def test_over_lora_nothing_is_even_asked_without_a_word() -> None:
    """5,470 bit/s, a duty cycle of 1 %, three of ten datagrams lost: a thumbnail of 2 kB takes an hour, and comes."""

    async def story() -> None:
        lora = LinkConditions(
            bit_rate=5_470, airtime_ms_per_hour=36_000, datagram_octets_max=200, loss=0.3, half_duplex=True
        )
        there = await scene("a", "b", conditions=lora)
        await asyncio.sleep(60)
        user, (peer,) = there.users["b"], there.mesh.nodes["b"].running.mesh.connected()
        where = await upload(there.users["a"], octets(2_000))
        session = there.mesh.nodes["b"].running.mesh.session_named(peer)
        assert session is not None
        refused = await download(user, where)
        assert refused.errcode == "M_NOT_YET_UPLOADED"
        assert b"even asking for it takes long" in refused.body
        await asyncio.sleep(1800)
        assert session.peering.media._next == 0
        assert there.transfers("b")._active[tuple(where.split("/"))].manifest is None
        assert (await ask(user, "POST", f"{FETCH}/{where}")).status == 200
        got = await until_here(user, where, within_s=4 * 3600)
        assert got.body == octets(2_000)
        await there.mesh.stop()

    live(story())


def test_what_cannot_be_had_gives_way_when_the_room_is_needed() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c", conditions=LinkConditions(bit_rate=100_000))
        node = there.mesh.nodes["c"].running
        node.media.limits = MediaLimits(upload_octets=100_000, cache_octets=150_000)
        stalled, other = await upload(there.users["a"], octets(100_000)), await upload(there.users["b"], octets(90_000))
        assert (await download(there.users["c"], stalled, timeout_ms=6_000)).errcode == "M_NOT_YET_UPLOADED"
        assert 0 < await _held(there, "c", stalled) < 100_000
        there.mesh.partition({"a"}, {"b", "c"})
        await asyncio.sleep(120)
        assert (await until_here(there.users["c"], other, within_s=60)).body == octets(90_000)
        assert await _held(there, "c", stalled) == 0
        there.mesh.heal()
        assert (await until_here(there.users["c"], stalled, within_s=200)).body == octets(100_000)
        gone = await download(there.users["c"], other, allow_remote="false")
        assert gone.errcode == "M_NOT_FOUND", "of the copies the older one went"
        await there.mesh.stop()

    live(story())


def test_a_neighbor_that_has_it_brings_it_when_the_origin_is_away() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c")
        where = await upload(there.users["a"], octets(50_000))
        assert (await download(there.users["b"], where)).status == 200
        there.mesh.partition({"a"}, {"b", "c"})
        await asyncio.sleep(60)
        assert (await download(there.users["c"], where)).body == octets(50_000)
        await there.mesh.stop()

    live(story())


def test_a_neighbor_in_between_looks_for_it() -> None:
    """a and c do not hear each other; nobody at b looked at the picture."""

    async def story() -> None:
        there = await scene("a", "b", "c")
        there.mesh.network.set_link("a", "c", up=False)
        await asyncio.sleep(60)
        where = await upload(there.users["a"], octets(50_000))
        got = await until_here(there.users["c"], where, within_s=60)
        assert got.body == octets(50_000)
        await there.mesh.stop()

    live(story())


def test_a_text_does_not_wait_for_a_file() -> None:
    """Over 19,200 bit/s, while 100 kB are under way: a text is there in the time of a few datagrams."""

    async def story() -> None:
        there = await scene("a", "b", conditions=LinkConditions(bit_rate=19_200, datagram_octets_max=250))
        anna, boris = there.users["a"], there.users["b"]
        room = await RoomActions.create(anna, preset="public_chat")
        await RoomActions.join(boris, room.room_id, via=there.mesh.nodes["a"].server_name)
        assert await there.mesh.until_equal(room.room_id, within_s=600) is not None
        await asyncio.sleep(60)
        where = await upload(anna, octets(100_000))
        assert (await ask(boris, "POST", f"{FETCH}/{where}")).status == 200
        await asyncio.sleep(15)
        database, loop = there.mesh.nodes["b"].database, asyncio.get_running_loop()
        assert database is not None
        for number in range(3):
            assert json.loads((await ask(boris, "GET", f"{FETCH}/{where}")).body)["state"] == "under_way"
            before, began = database.position, loop.time()
            await room.send(f"overtakes {number}")
            assert await database.wait([f"room:{room.room_id}"], after=before, timeout_s=30)
            assert loop.time() - began < 2.5, "9 s of the file were asked for"
            await asyncio.sleep(3)
        assert (await until_here(boris, where, within_s=300)).body == octets(100_000)
        await there.mesh.stop()

    live(story())


def test_many_files_that_nobody_has_keep_no_other_from_coming() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c")
        lost = [await upload(there.users["a"], octets(100, number)) for number in range(80)]
        there.mesh.partition({"a"}, {"b", "c"})
        await asyncio.sleep(60)
        got = await asyncio.gather(*(download(there.users["b"], each, timeout_ms=100) for each in lost))
        assert {each.errcode for each in got} == {"M_NOT_YET_UPLOADED"}
        where = await upload(there.users["c"], octets(5_000))
        assert (await download(there.users["b"], where)).body == octets(5_000)
        there.mesh.heal()
        await asyncio.sleep(200)
        assert {(await download(there.users["b"], each, allow_remote="false")).status for each in lost} == {200}
        await there.mesh.stop()

    live(story())


def test_of_the_copies_what_was_not_looked_at_for_longest_goes_and_never_an_upload() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        library = there.mesh.nodes["b"].running.media
        library.limits = MediaLimits(cache_octets=100_000)
        own = await upload(there.users["b"], octets(200_000, 9))
        first, second, third = [await upload(there.users["a"], octets(40_000, number)) for number in range(3)]
        user = there.users["b"]
        assert (await download(user, first)).status == (await download(user, second)).status == 200
        await asyncio.sleep(3700)
        assert (await download(user, first)).status == 200
        assert (await download(user, third)).status == 200
        held = [(await download(user, each, allow_remote="false")).status for each in (first, second, third, own)]
        assert held == [200, 404, 200, 200]
        await there.mesh.stop()

    live(story())


LINES = {
    "9,600 bit/s, half duplex": (LinkConditions(bit_rate=9_600, datagram_octets_max=250, half_duplex=True), 20_000),
    "the same, three of ten datagrams lost": (
        LinkConditions(bit_rate=9_600, datagram_octets_max=250, half_duplex=True, loss=0.3),
        20_000,
    ),
    "1,200 bit/s, half duplex": (LinkConditions(bit_rate=1_200, datagram_octets_max=200, half_duplex=True), 5_000),
    "200 kbit/s, 30 ms": (LinkConditions(bit_rate=200_000, datagram_octets_max=250, delay_ms_mean=30), 100_000),
}


@pytest.mark.parametrize("line", LINES)
def test_what_a_line_carries_is_what_the_page_says(line: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "media.md").read_text("utf-8")
    told = re.search(rf"^\| {re.escape(line)} \| (\d+) % \|$", page, re.MULTILINE)
    assert told is not None
    conditions, size = LINES[line]

    async def story() -> None:
        there = await scene("a", "b", conditions=conditions)
        await asyncio.sleep(60)
        where = await upload(there.users["a"], octets(size))
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await ask(there.users["b"], "POST", f"{FETCH}/{where}")).status == 200
        while (await download(there.users["b"], where, timeout_ms=60_000)).status != 200:
            assert loop.time() - began < 600
        assert conditions.bit_rate is not None
        share = size * 8 / (loop.time() - began) / conditions.bit_rate
        assert share * 100 > int(told[1]) - 6, "of the bit rate, questions included"
        await there.mesh.stop()

    live(story())


def test_what_a_neighbor_wanted_is_forgotten_soon() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c")
        where = await upload(there.users["a"], octets(1000))
        there.mesh.partition({"a"}, {"b", "c"})
        await asyncio.sleep(60)
        assert (await download(there.users["c"], where, timeout_ms=5_000)).errcode == "M_NOT_YET_UPLOADED"
        rows = {name: await _wanted(there, name) for name in "bc"}
        assert rows == {"b": [there.mesh.nodes["c"].server_name], "c": [None]}
        assert await ask(there.users["c"], "DELETE", f"{FETCH}/{where}")
        await asyncio.sleep(700)
        assert await _wanted(there, "b") == await _wanted(there, "c") == []
        await there.mesh.stop()

    live(story())


async def _wanted(there: Scene, name: str) -> list[str | None]:
    """For whom something is wanted at a node."""
    database = there.mesh.nodes[name].database
    assert database is not None
    return [row.for_server for row in await database.read(list_transfers)]
