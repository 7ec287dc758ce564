"""Neighbors that lie about files: they are found out, cost little, and keep nobody from the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.federation.media_assembly import Assembly
from p2pserver.federation.media_manifest import make_manifest
from p2pserver.node.media_serving import MediaServing
from p2pserver.node.simulation import SimulatedMesh
from p2pserver.rooms.media_library import MediaLimits
from tests.media.meshes import Scene, download, live, octets, scene, until_here, upload

CONTENT = octets(300_000)


def lie_in_octets(mesh: SimulatedMesh, name: str, forge: Callable[[bytes, Any], bytes]) -> None:
    """From now on a node answers wants with what `forge` makes of the true octets."""
    serving: MediaServing = mesh.nodes[name].running.mesh.exchange._media
    honest = serving._octets

    async def lie(session: Any, effect: Any) -> bytes:
        return forge(await honest(session, effect), effect)

    serving._octets = lie  # type: ignore[method-assign]


def lie_in_answers(mesh: SimulatedMesh, name: str, question: str, forge: Callable[[dict[str, Any]], Any]) -> list[str]:
    """From now on a node answers a question with what `forge` makes of the true answer; who asked is kept."""
    handlers: Any = mesh.nodes[name].running.mesh.exchange._handlers
    honest, asked = handlers[question], []

    def lie(tx: Any, origin: str, body: dict[str, Any]) -> Any:
        asked.append(origin)
        return forge(honest(tx, origin, body))

    handlers[question] = lie
    return asked


async def liar_with_a_copy() -> tuple[Scene, str]:
    """`a` has a file, `b` a copy of it, and `a` is away; `c` wants it and hears `b` and, later, `a`."""
    there = await scene("a", "b", "c")
    where = await upload(there.users["a"], CONTENT)
    assert (await download(there.users["b"], where)).status == 200
    there.mesh.partition({"a"}, {"b", "c"})
    await asyncio.sleep(60)
    return there, where


FORGERIES: dict[str, Callable[[bytes, Any], bytes]] = {
    "another octet": lambda part, effect: part[:-1] + bytes([part[-1] ^ 1]) if part else part,
    "zeros": lambda part, effect: bytes(len(part)),
    "of another place": lambda part, effect: part[1:] + part[:1],
    "less and less": lambda part, effect: part[: len(part) // 3],
    "nothing": lambda part, effect: b"",
    "more than was asked for": lambda part, effect: part + bytes(20_000),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_wrong_octets_are_never_shown_and_the_file_comes_from_elsewhere(forgery: str) -> None:
    async def story() -> None:
        there, where = await liar_with_a_copy()
        lie_in_octets(there.mesh, "b", FORGERIES[forgery])
        got = await download(there.users["c"], where)
        assert got.errcode == "M_NOT_YET_UPLOADED"
        found_out = forgery in ("another octet", "zeros", "of another place")
        assert there.transfers("c")._sources.distrusted() == ([there.mesh.nodes["b"].server_name] if found_out else [])
        there.mesh.heal()
        assert (await until_here(there.users["c"], where, within_s=120)).body == CONTENT
        await there.mesh.stop()

    live(story())


def test_one_liar_among_the_sources_spoils_nothing() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c", "d")
        where = await upload(there.users["a"], CONTENT)
        for name in ("b", "c"):
            assert (await download(there.users[name], where)).status == 200
        there.mesh.partition({"a"}, {"b", "c", "d"})
        await asyncio.sleep(60)
        lie_in_octets(there.mesh, "b", FORGERIES["zeros"])
        assert (await until_here(there.users["d"], where, within_s=60)).body == CONTENT
        await there.mesh.stop()

    live(story())


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda answer: {key: value for key, value in answer.items() if key != name}


def _changed(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda answer: {**answer, "manifest": {**answer["manifest"], **fields}}


@pytest.mark.parametrize(
    ("question", "forge"),
    [
        ("media", _changed(size=5)),
        ("media", _changed(sha256="A" * 43)),
        ("media", _changed(origin="elsewhere.example")),
        ("media", _changed(signatures={})),
        ("media", _changed(signatures=7)),
        ("media", _without("manifest")),
        ("media", _without("ticket")),
        ("media", lambda answer: {"manifest": [], "ticket": "A"}),
        ("media", lambda answer: {**answer, "ticket": "A" * 4000}),
        ("media_chunks", lambda answer: {"chunks": answer["chunks"][:-2] + "AA"}),
        ("media_chunks", lambda answer: {"chunks": 7}),
        ("media_chunks", lambda answer: {"chunks": ""}),
    ],
)
def test_a_forged_manifest_ends_the_trust_of_who_sent_it(question: str, forge: Callable[[dict[str, Any]], Any]) -> None:
    async def story() -> None:
        there, where = await liar_with_a_copy()
        asked = lie_in_answers(there.mesh, "b", question, forge)
        assert (await download(there.users["c"], where)).errcode == "M_NOT_YET_UPLOADED"
        assert there.transfers("c")._sources.distrusted() == [there.mesh.nodes["b"].server_name]
        assert len(asked) == 1
        there.mesh.heal()
        assert (await until_here(there.users["c"], where, within_s=120)).body == CONTENT
        assert len(asked) == 1
        await there.mesh.stop()

    live(story())


def test_an_origin_that_contradicts_itself_is_found_out() -> None:
    """It signs a manifest whose chunks are right, and whose whole is another file."""

    async def story() -> None:
        there = await scene("a", "b")
        where = await upload(there.users["a"], CONTENT)
        signer = there.mesh.nodes["a"].identity.signer
        library = there.mesh.nodes["a"].running.media
        found = await library.find(*where.split("/"))
        assert found is not None
        chunks = there.mesh.nodes["a"].disk.conn.execute("SELECT chunks FROM media_blobs").fetchone()[0]
        forged = make_manifest(
            signer,
            media_id=found.media_id,
            digest=bytes(32),
            size=found.size,
            content_type="image/png",
            filename=None,
            chunks=chunks,
        )
        lie_in_answers(there.mesh, "a", "media", lambda answer: {**answer, "manifest": forged})
        assert (await download(there.users["b"], where)).errcode == "M_NOT_FOUND"
        await there.mesh.stop()

    live(story())


def test_what_is_too_large_is_not_begun() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        library: Any = there.mesh.nodes["b"].running.media
        library.limits = MediaLimits(upload_octets=100_000)
        where = await upload(there.users["a"], CONTENT)
        got = await download(there.users["b"], where)
        assert (got.status, got.errcode) == (502, "M_TOO_LARGE")
        huge = make_manifest(
            there.mesh.nodes["a"].identity.signer,
            media_id=where.partition("/")[2],
            digest=bytes(32),
            size=2**39,
            content_type="image/png",
            filename=None,
            chunks=bytes(16_384),
        )
        lie_in_answers(there.mesh, "a", "media", lambda answer: {**answer, "manifest": huge})
        await asyncio.sleep(120)
        assert (await download(there.users["b"], where)).status == 502
        assert not list(there.mesh.nodes["b"].disk.media_folder.glob("parts/*"))
        await there.mesh.stop()

    live(story())


def test_nobody_learns_what_is_held_by_guessing_tickets() -> None:
    async def story() -> None:
        there = await scene("a", "b", "c")
        where = await upload(there.users["a"], CONTENT)
        assert (await download(there.users["b"], where)).status == 200
        tickets = there.mesh.nodes["a"].running.mesh.exchange._media._tickets
        b, c = (there.mesh.nodes[name] for name in "bc")
        good = tickets.ticket(b.server_name, 1)
        origin = there.mesh.nodes["a"].server_name
        for node, ticket, least in ((b, good, 1), (c, good, 0), (b, good[:-1] + b"\0", 0), (b, b"\1", 0)):
            session = node.running.mesh.session_named(origin)
            assert session is not None
            part = await session.ask_media(ticket, 0, 100, timeout_s=10)
            assert (part == CONTENT[:100]) == bool(least)
            assert part in (b"", CONTENT[:100])
        await there.mesh.stop()

    live(story())


def test_a_peer_that_asks_without_end_is_refused_and_holds_up_nobody() -> None:
    async def story() -> None:
        there = await scene("a", "b")
        where = await upload(there.users["a"], CONTENT)
        assert (await download(there.users["b"], where)).status == 200
        origin, b = there.mesh.nodes["a"], there.mesh.nodes["b"]
        ticket = origin.running.mesh.exchange._media._tickets.ticket(b.server_name, 1)
        session = b.running.mesh.session_named(origin.server_name)
        assert session is not None
        parts = await asyncio.gather(*(session.ask_media(ticket, 0, 65_536, timeout_s=20) for _ in range(16)))
        assert set(parts) == {b"", CONTENT[:65_536]}
        with pytest.raises(Exception, match="cannot be asked now"):
            await asyncio.gather(*(session.ask_media(ticket, 0, 65_536, timeout_s=20) for _ in range(17)))
        await there.mesh.stop()

    live(story())


def test_sabotage_a_chunk_that_is_not_checked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If chunks were taken as they come, the liar would spoil the whole, and these tests would be red."""
    monkeypatch.setattr(Assembly, "is_right", lambda self, number, chunk: True)
    with pytest.raises(AssertionError):
        test_one_liar_among_the_sources_spoils_nothing()
