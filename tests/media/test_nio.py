"""matrix-nio on real sockets, two nodes with real files and a LAN between them: pictures, voice, encryption."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import nio
from nio.crypto import attachments

from p2pserver.config import Config
from p2pserver.node.http import HttpServer
from p2pserver.node.identity import load_identity
from p2pserver.node.node import Node
from p2pserver.node.run import transport_of
from p2pserver.store.database import SqliteDatabase
from tests.media.pictures import opened, picture

SOUND = random.Random(2).randbytes(300_000)
WAITS_S = 60


@asynccontextmanager
async def served(folder: Path, transport: str) -> AsyncIterator[tuple[Node, str]]:
    """A whole node, as `p2pserver run` starts it, and where clients reach it."""
    config = Config(data_dir=folder, transports=(transport,), rate_limits=False)
    identity = load_identity(folder, domain=None)
    database = await SqliteDatabase.open(config.database_path)
    node = Node(config, identity=identity, database=database, transports=[transport_of(transport)])
    http = HttpServer(node.client_api.asgi_app(), host="127.0.0.1", port=0)
    try:
        await node.start()
        await http.start()
        yield node, http.url
    finally:
        await asyncio.gather(http.stop(), node.stop())
        await database.close()


@asynccontextmanager
async def logged_in(
    url: str, name: str, *, store_path: str = "", config: nio.AsyncClientConfig | None = None
) -> AsyncIterator[nio.AsyncClient]:
    config = config or nio.AsyncClientConfig(max_timeouts=1, request_timeout=WAITS_S)
    client = nio.AsyncClient(url, name, store_path=store_path, config=config)
    try:
        answer: Any = await client.register(name, "secret", "laptop")
        assert isinstance(answer, nio.RegisterResponse), answer
        yield client
    finally:
        await client.close()


async def upload(client: nio.AsyncClient, octets: bytes, kind: str, name: str, **options: Any) -> tuple[str, Any]:
    answer, keys = await client.upload(
        BytesIO(octets), content_type=kind, filename=name, filesize=len(octets), **options
    )
    assert isinstance(answer, nio.UploadResponse), answer
    return answer.content_uri, keys


async def download(client: nio.AsyncClient, uri: str) -> nio.DownloadResponse:
    answer: Any = await client.download(uri)
    assert isinstance(answer, nio.DownloadResponse), answer
    return answer


async def test_pictures_voice_and_encrypted_files_between_two_nodes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        here, here_url = await stack.enter_async_context(served(tmp_path / "here", "lan:mdns=off,listen=127.0.0.1:0"))
        port = here.mesh._transports[0]._port  # type: ignore[attr-defined]
        there, there_url = await stack.enter_async_context(
            served(tmp_path / "there", f"lan:mdns=off,peer=127.0.0.1:{port}")
        )
        alice = await stack.enter_async_context(logged_in(here_url, "alice"))
        bob = await stack.enter_async_context(logged_in(there_url, "bob"))
        for _ in range(50 * WAITS_S):
            if there.mesh.connected():
                break
            await asyncio.sleep(0.02)

        config: Any = await bob.content_repository_config()
        assert config.upload_size == 100 << 20

        voice, _ = await upload(alice, SOUND, "audio/ogg; codecs=opus", "Voice message.ogg")
        heard = await download(bob, voice)
        assert (heard.body, heard.filename) == (SOUND, "Voice message.ogg")

        boat, _ = await upload(alice, picture(900, 600, "JPEG"), "image/jpeg", "boat.jpg")
        server, _, media_id = boat.removeprefix("mxc://").partition("/")
        small: Any = await bob.thumbnail(server, media_id, width=320, height=240)
        assert isinstance(small, nio.ThumbnailResponse), small
        assert opened(small.body).size == (320, 213)

        secret, keys = await upload(alice, SOUND, "application/octet-stream", "secret", encrypt=True)
        sealed = await download(bob, secret)
        assert sealed.body != SOUND
        key, digest, vector = keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"]
        assert attachments.decrypt_attachment(sealed.body, key, digest, vector) == SOUND
        refused: Any = await bob.thumbnail(*secret.removeprefix("mxc://").split("/"), width=32, height=32)
        assert isinstance(refused, nio.ThumbnailError), refused

        await bob.set_avatar(boat)
        assert (await alice.get_avatar(bob.user_id)).avatar_url == boat  # type: ignore[union-attr]
        files = [path for path in (tmp_path / "there" / "media").rglob("*") if path.is_file()]
        assert len([path for path in files if "thumbnails" not in path.parts]) == 3
        assert here.mesh.connected() == [there.identity.server_name]
