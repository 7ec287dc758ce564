"""Over slow links a thumbnail travels instead of the picture: made and signed by the origin, a file like any other."""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.federation.media_manifest import thumbnail_id, thumbnail_meant
from p2pserver.node.simulation import InProcessClient
from tests.media.asking import V1, Got
from tests.media.meshes import FETCH, Scene, ask, download, live, octets, scene, upload
from tests.media.pictures import noise, opened
from transports.sim import LinkConditions

BLUETOOTH = LinkConditions(bit_rate=200_000, datagram_octets_max=250, delay_ms_mean=30, loss=0.05)


async def thumbnail(client: InProcessClient, where: str, **query: Any) -> Got:
    return await ask(client, "GET", f"{V1}/thumbnail/{where}", width=96, height=96, method="crop", **query)


async def with_a_picture(*names: str) -> tuple[Scene, str]:
    there = await scene(*names, conditions=BLUETOOTH)
    picture = noise(1000, 800)
    assert len(picture) > 900_000, "a minute over Bluetooth"
    return there, await upload(there.users["a"], picture)


def test_the_picture_stays_where_it_is() -> None:
    async def story() -> None:
        there, where = await with_a_picture("a", "b")
        loop = asyncio.get_running_loop()
        began = loop.time()
        got = await thumbnail(there.users["b"], where)
        assert got.status == 200, got.body
        assert loop.time() - began < 10
        assert opened(got.body).size == (96, 96)
        assert got.headers["content-type"] == "image/jpeg"
        assert got.headers["content-disposition"].startswith("inline")
        assert (await download(there.users["b"], where, allow_remote="false")).errcode == "M_NOT_FOUND"
        there.mesh.partition({"a"}, {"b"})
        assert (await thumbnail(there.users["b"], where)).body == got.body
        await there.mesh.stop()

    live(story())


def test_a_neighbor_has_it_too_and_one_in_between_looks_for_it() -> None:
    async def story() -> None:
        there, where = await with_a_picture("a", "b", "c")
        there.mesh.network.set_link("a", "c", up=False)
        await asyncio.sleep(60)
        got = await thumbnail(there.users["c"], where, timeout_ms=60_000)
        assert got.status == 200, got.body
        assert (await thumbnail(there.users["b"], where, allow_remote="false")).body == got.body
        await there.mesh.stop()

    live(story())


def test_a_thumbnail_goes_with_its_picture() -> None:
    async def story() -> None:
        there, where = await with_a_picture("a", "b")
        assert (await thumbnail(there.users["b"], where)).status == 200
        library = there.mesh.nodes["a"].running.media
        origin, _, media_id = where.partition("/")
        small = thumbnail_id(media_id, "96x96-crop")
        found, made = await library.find(origin, media_id), await library.find(origin, small)
        assert found is not None
        assert made is not None
        assert (await library.list_uploads())[1] == 1, "it is no upload"
        await library.quarantine([found], by="@op:here")
        assert (await download(there.users["a"], f"{origin}/{small}")).errcode == "M_NOT_FOUND"
        await library.quarantine([found], by=None)
        assert (await download(there.users["a"], f"{origin}/{small}")).status == 200
        await library.delete([found])
        assert await library.find(origin, small) is None
        files = [path for path in there.mesh.nodes["a"].disk.media_folder.rglob("*") if path.is_file()]
        assert files == []
        await there.mesh.stop()

    live(story())


def test_what_is_no_picture_is_fetched_itself() -> None:
    async def story() -> None:
        there = await scene("a", "b", conditions=BLUETOOTH)
        where = await upload(there.users["a"], octets(20_000))
        got = await thumbnail(there.users["b"], where)
        assert (got.status, got.errcode) == (400, "M_UNKNOWN")
        assert (await download(there.users["b"], where, allow_remote="false")).status == 200
        odd = thumbnail_id(where.partition("/")[2], "9999x9999-scale")
        name = there.mesh.nodes["a"].server_name
        assert (await download(there.users["b"], f"{name}/{odd}")).errcode == "M_NOT_FOUND"
        assert (await ask(there.users["b"], "GET", f"{FETCH}/{name}/{odd}")).errcode == "M_NOT_FOUND"
        await there.mesh.stop()

    live(story())


def test_the_ids_of_thumbnails() -> None:
    assert thumbnail_meant(thumbnail_id("boat", "320x240-scale")) == ("boat", "320x240-scale")
    for other in ("boat", "boat_thumbnail_", "_thumbnail_32x32-crop", "boat_thumbnail_32x32-cut"):
        assert thumbnail_meant(other) is None
