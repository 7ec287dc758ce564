"""maubot as it is: it makes its account on a real node, logs in, and a small plugin answers who speaks to it."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.app_services.person import person_at
from tests.app_services.test_heisenbridge import free_port
from tests.e2e.devices import NodeProcess

SECRET, ADMIN_PASSWORD = "between-us", "operator"
ABOUT = {
    "maubot": "0.1.0",
    "id": "org.example.echo",
    "version": "1.0.0",
    "license": "Apache-2.0",
    "modules": ["echo"],
    "main_class": "EchoBot",
}
ECHO = """
from maubot import MessageEvent, Plugin
from maubot.handlers import command


class EchoBot(Plugin):
    @command.new("echo")
    @command.argument("said", pass_raw=True)
    async def echo(self, event: MessageEvent, said: str) -> None:
        await event.respond("echo: " + said)
"""


def plugin() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("maubot.yaml", yaml.safe_dump(ABOUT))
        file.writestr("echo.py", ECHO)
    return archive.getvalue()


@contextmanager
def maubot(folder: Path, homeserver: str) -> Iterator[str]:
    """The address of its management API."""
    port = free_port()
    settings = {
        "database": f"sqlite:{folder}/maubot.db",
        "plugin_directories": {"upload": str(folder), "load": [str(folder)], "trash": "delete"},
        "plugin_databases": {"sqlite": str(folder), "postgres": None},
        "server": {"hostname": "127.0.0.1", "port": port, "public_url": f"http://127.0.0.1:{port}"},
        "homeservers": {"node": {"url": homeserver, "secret": SECRET}},
        "admins": {"root": "", "operator": ADMIN_PASSWORD},
        "logging": {"version": 1, "root": {"level": "INFO", "handlers": ["console"]}}
        | {"handlers": {"console": {"class": "logging.StreamHandler"}}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "maubot.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "maubot", "-c", str(folder / "config.yaml"), "-n"],
            cwd=folder,
            stdout=output,
            stderr=output,
        )
        try:
            yield f"http://127.0.0.1:{port}/_matrix/maubot/v1"
        finally:
            process.kill()
            process.wait(30)


class Management:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def log_in(self) -> None:
        """Once maubot is up."""
        async with asyncio.timeout(180):
            while True:
                try:
                    await self.post("/auth/login", {"username": "operator", "password": ADMIN_PASSWORD})
                except httpx.ConnectError:
                    await asyncio.sleep(0.2)
                else:
                    return

    async def post(self, path: str, body: Any, method: str = "POST") -> Any:
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await self._http.request(method, path, **content)
        assert answer.status_code in (200, 201), (path, answer.status_code, answer.text)
        found = answer.json()
        if "token" in found:
            self._http.headers["Authorization"] = f"Bearer {found['token']}"
        return found


@pytest.mark.timeout(900)
async def test_a_bot_answers(tmp_path: Path) -> None:
    arguments = ["--listen=127.0.0.1:0", "--transport=none", f"--registration-shared-secret={SECRET}"]
    node = NodeProcess(subprocess.Popen, tmp_path, arguments).start(120)
    folder = tmp_path / "maubot"
    folder.mkdir()
    try:
        with maubot(folder, node.url) as url:
            async with (
                person_at(node.url, "anna") as anna,
                httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http,
            ):
                management = Management(http)
                await management.log_in()
                bot = {"username": "bot", "password": "secret"}
                made = await management.post("/client/auth/node/register?update_client=true", bot)
                assert made["id"] == f"@bot:{node.server_name}"
                assert (await management.post("/client/auth/node/login", bot))["user_id"] == made["id"]
                await management.post("/plugins/upload", plugin())
                instance = {"type": ABOUT["id"], "primary_user": made["id"], "enabled": True}
                await management.post("/instance/echo", instance, "PUT")
                room_id = await anna.room_with(made["id"])
                await anna.say(room_id, "!echo over here")
                assert await anna.hears(room_id, "echo: over here") == made["id"]
    except BaseException:
        log = folder / "maubot.log"
        print(log.read_text()[-5_000:] if log.exists() else "", node.said())
        raise
    finally:
        node.stop()
