"""Hydrogen in headless Chromium: a person logs in, accepts invites and chats with somebody on another node.

The page comes from one address and the node has another, so every request has to pass the browser's CORS rules.
"""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import nio
import pytest

from tests.e2e.chromium import PATIENCE_S, Page, chromium
from tests.e2e.doors import SCRIPTS, AsgiApp, two_doors

PASSWORD = "correct horse battery staple"
EXPECTED_404 = "/org.matrix.msc2697.v2/dehydrated_device"
"""Of an older proposal: Hydrogen asks for it, and goes on without."""


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Hydrogen, built and served: its URL."""
    folder = tmp_path_factory.mktemp("hydrogen")
    subprocess.run(
        [
            *(node_modules / ".bin" / "esbuild", SCRIPTS / "hydrogen" / "page.js"),
            *("--bundle", "--format=esm", "--log-level=warning", f"--outfile={folder / 'page.js'}"),
            *(f"--external:{module}" for module in ("fs", "path", "crypto")),
        ],
        check=True,
    )
    view_sdk = node_modules / "hydrogen-view-sdk"
    shutil.copy(SCRIPTS / "hydrogen" / "index.html", folder)
    shutil.copy(view_sdk / "lib-build" / "sw.js", folder)
    shutil.copytree(view_sdk / "asset-build" / "assets", folder / "assets")
    shutil.copytree(node_modules / "@matrix-org" / "olm", folder / "olm")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


class Friend:
    """Who is on the other node, with matrix-nio and its encryption."""

    def __init__(self, client: nio.AsyncClient) -> None:
        self.client = client
        self.heard: list[tuple[str, str, bool]] = []
        """(room ID, text, was it encrypted)"""
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """For ever: sync, then upload, query and claim what is due."""
        while True:
            answer: Any = await self.client.sync(timeout=5_000)
            assert isinstance(answer, nio.SyncResponse), answer
            for room_id, room in answer.rooms.join.items():
                for event in room.timeline.events:
                    if isinstance(event, nio.RoomMessageText):
                        self.heard.append((room_id, event.body, event.decrypted))
            if self.client.should_upload_keys:
                await self.client.keys_upload()
            if self.client.should_query_keys:
                await self.client.keys_query()
            await self.client.send_to_device_messages()
            self._news.set()

    async def invite(self, user_id: str, name: str, *, encrypted: bool) -> str:
        encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        created: Any = await self.client.room_create(
            name=name, invite=[user_id], initial_state=[encryption] if encrypted else []
        )
        assert isinstance(created, nio.RoomCreateResponse), created
        return created.room_id

    async def say(self, room_id: str, text: str) -> None:
        content = {"msgtype": "m.text", "body": text}
        said: Any = await self.client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(said, nio.RoomSendResponse), said

    async def hears(self, *heard: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while heard not in self.heard:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def friend_at(url: str, name: str, store: Path) -> AsyncIterator[Friend]:
    config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = nio.AsyncClient(url, name, store_path=str(store), config=config)
    answer: Any = await client.register(name, PASSWORD)
    assert isinstance(answer, nio.RegisterResponse), answer
    friend = Friend(client)
    listening = asyncio.create_task(friend.listen())
    try:
        yield friend
    finally:
        listening.cancel()
        await client.close()


async def register(url: str, name: str) -> str:
    async with httpx.AsyncClient(base_url=url) as http:
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}, "inhibit_login": True}
        answer = await http.post("/_matrix/client/v3/register", json=body)
        user_id: str = answer.json()["user_id"]
        return user_id


async def log_in(page: Page, url: str) -> None:
    await page.type("#homeserver", url, key="Tab")
    await page.type("#username", "alice")
    await page.type("#password", PASSWORD, key="Enter")


async def accept(page: Page, room_name: str) -> None:
    """Opens the invite in the list of rooms, and accepts it."""
    tiles = "[...document.querySelectorAll('.RoomList a')]"
    tile = f"{tiles}.find((each) => each.innerText.includes({json.dumps(room_name)}))"
    await page.until(f"{tile} && ({tile}.click(), true)")
    await page.click(".InviteView .primary:not(.destructive)")
    await page.until("document.querySelector('.MessageComposer textarea')")


async def reads(page: Page, text: str) -> None:
    bodies = "[...document.querySelectorAll('.Timeline_messageBody')].map((each) => each.innerText)"
    await page.until(f"{bodies}.some((body) => body.includes({json.dumps(text)}))")


def preflights(page: Page, url: str) -> set[str]:
    """The first part of each path below `/_matrix/client/VERSION` for which the browser asked whether it may ask."""
    asked = [each for kind, each, _ in page.answered if kind == "Preflight" and each.startswith(url)]
    return {each.partition("?")[0].split("/")[6] for each in asked}


@pytest.mark.timeout(900)
async def test_a_person_logs_in_with_hydrogen_and_chats_with_somebody_on_another_node(
    site: str, tmp_path: Path
) -> None:
    async with two_doors(loss=0.0) as (_, urls), friend_at(urls["there"], "bob", tmp_path) as bob:
        alice = await register(urls["here"], "alice")
        async with chromium(site, tmp_path / "profile") as page:
            await log_in(page, urls["here"])
            await page.until("document.querySelector('.LeftPanel')")
            for name, encrypted in (("Harbor", False), ("Cabin", True)):
                room_id = await bob.invite(alice, name, encrypted=encrypted)
                await accept(page, name)
                await page.type(".MessageComposer textarea", f"the bridge to the {name} is out", key="Enter")
                await bob.hears(room_id, f"the bridge to the {name} is out", encrypted)
                await bob.say(room_id, f"to the {name} by ferry")
                await reads(page, f"to the {name} by ferry")
            await page.told(
                lambda: preflights(page, urls["here"]) >= {"login", "keys", "user", "rooms", "sendToDevice"}
            )
            asked = [(url, status) for _, url, status in page.answered if url.startswith(urls["here"])]
            refused = [(url, status) for url, status in asked if status >= 400]
            assert all(EXPECTED_404 in url and status == 404 for url, status in refused), refused
            assert [said for said in page.complaints if EXPECTED_404 not in said] == []


def without_cors(app: AsgiApp) -> AsgiApp:
    async def stripped(scope: Any, receive: Any, send: Any) -> None:
        async def send_bare(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if not name.startswith(b"access-control-")]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, send_bare)

    return stripped


async def test_a_browser_refuses_a_node_whose_answers_lack_the_cors_headers(site: str, tmp_path: Path) -> None:
    async with two_doors(loss=0.0, around=without_cors) as (_, urls), chromium(site, tmp_path / "profile") as page:
        await page.type("#homeserver", urls["here"], key="Tab")
        await page.until("document.querySelector('.LoginView_sso .error')")
        refused = f"net::ERR_FAILED {urls['here']}/_matrix/client/r0/login"
        await page.told(lambda: any(refused in said for said in page.complaints))
        async with httpx.AsyncClient(base_url=urls["here"]) as http:
            assert (await http.get("/_matrix/client/r0/login")).status_code == 200
