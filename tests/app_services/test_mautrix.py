"""A bridge on mautrix's AppService beside one node, a person on another: both are real processes, and one is killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mautrix.appservice import AppService
from mautrix.appservice.state_store import ASStateStore
from mautrix.client.state_store import MemoryStateStore
from mautrix.types import Event, EventType, Membership, RoomCreatePreset

from tests.app_services.person import Person, person_at
from tests.app_services.test_heisenbridge import free_port
from tests.client_api.talk import at
from tests.e2e.devices import NodeProcess

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mautrix gives aiohttp a loop

PATIENCE_S = 180


class Memory(ASStateStore, MemoryStateStore):  # type: ignore[misc]
    def __init__(self) -> None:
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class EchoBridge:
    """Joins where it is invited; one of its users repeats what people write. Makes rooms for aliases on demand."""

    def __init__(self, node: NodeProcess, registration: dict[str, Any]) -> None:
        self.refusing = False
        self.transactions: list[tuple[str, bytes, bool]] = []
        """(ID, body, whether it was taken)."""
        self.ephemeral: list[Any] = []
        self.asked: list[str] = []
        self._news = asyncio.Event()
        self.service = AppService(
            server=node.url,
            domain=node.server_name,
            as_token=registration["as_token"],
            hs_token=registration["hs_token"],
            bot_localpart=registration["sender_localpart"],
            id=registration["id"],
            state_store=Memory(),
            ephemeral_events=True,
            query_user=self._query_user,
            query_alias=self._query_alias,
            aiohttp_params={"middlewares": [self._watch]},
        )
        self.service.matrix_event_handler(self._on_event)
        self.ghost = f"@irc_nick:{node.server_name}"

    @property
    def texts(self) -> list[str]:
        """What was written in the events that it took."""
        events = [event for _, body, taken in self.transactions if taken for event in json.loads(body)["events"]]
        return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if "/transactions/" in request.path:
            self.transactions.append((request.path.rpartition("/")[2], await request.read(), not self.refusing))
            self._news.set()
            if self.refusing:
                return web.json_response({}, status=503)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _on_event(self, event: Event) -> None:
        if event.type.is_ephemeral:
            self.ephemeral.append(event)
            self._news.set()
        elif event.type == EventType.ROOM_MEMBER and event.content.membership == Membership.INVITE:
            if event.state_key == self.service.bot_mxid:
                await self.service.intent.join_room(event.room_id)
        elif event.type == EventType.ROOM_MESSAGE and not event.sender.startswith("@irc"):
            intent = self.service.intent.user(self.ghost)
            await intent.ensure_joined(event.room_id)
            await intent.send_text(event.room_id, f"echo: {event.content.body}")

    async def _query_user(self, user_id: str) -> dict[str, Any]:
        self.asked.append(user_id)
        await self.service.intent.user(user_id).ensure_registered()
        return {"known": True}

    async def _query_alias(self, alias: str) -> dict[str, Any]:
        self.asked.append(alias)
        localpart = alias[1:].partition(":")[0]
        await self.service.intent.create_room(alias_localpart=localpart, preset=RoomCreatePreset.PUBLIC)
        return {"known": True}

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_true():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def two_nodes(tmp_path: Path, registration: dict[str, Any]) -> AsyncIterator[tuple[NodeProcess, NodeProcess]]:
    """(the one beside the bridge, another that is connected to it)."""
    port, file = free_port(), tmp_path / "registration.yaml"
    file.write_text(json.dumps(registration))
    started: list[NodeProcess] = []
    try:
        for name, options in (
            ("beside", [f"--transport=lan:listen=127.0.0.1:{port}", f"--app-service={file}"]),
            ("far", [f"--transport=lan:peer=127.0.0.1:{port}"]),
        ):
            (tmp_path / name).mkdir()
            node = NodeProcess(subprocess.Popen, tmp_path / name, [*options, f"--listen=127.0.0.1:{free_port()}"])
            started.append(node)
            node.start(120)
        yield started[0], started[1]
    except BaseException:
        for node in started:
            print(node.said())
        raise
    finally:
        for node in started:
            node.stop()


def registration_of(port: int, **more: Any) -> dict[str, Any]:
    """The registration of an echo bridge that listens on that port."""
    return {
        "id": "echo",
        "url": f"http://127.0.0.1:{port}",
        "as_token": "shown-to-the-node",
        "hs_token": "shown-to-the-bridge",
        "rate_limited": False,
        **more,
    }


async def hears_echo(person: Person, bridge: EchoBridge, room_id: str, text: str) -> None:
    await person.say(room_id, text)
    assert await person.hears(room_id, f"echo: {text}") == bridge.ghost


@pytest.mark.timeout(900)
async def test_a_person_on_another_node_talks_to_a_bridge_that_survives_a_power_cut(tmp_path: Path) -> None:
    port = free_port()
    registration = registration_of(
        port,
        sender_localpart="ircbot",
        receive_ephemeral=True,
        namespaces={
            "users": [{"regex": "@irc_.*", "exclusive": True}],
            "aliases": [{"regex": "#irc_.*", "exclusive": True}],
        },
    )
    async with two_nodes(tmp_path, registration) as (node, far), person_at(far.url, "berta") as berta:
        bridge = EchoBridge(node, registration)
        await bridge.service.start(port=port)
        try:
            await bridge.service.intent.ensure_registered()
            assert await bridge.service.ping_self("t") >= 0

            room_id = await berta.room_with(bridge.service.bot_mxid)
            await hears_echo(berta, bridge, room_id, "hello")

            await berta.client.put(at(room_id, "typing", berta.user_id), {"typing": True, "timeout": 60_000})
            own = await berta.say(room_id, "read so far")
            await berta.client.post(at(room_id, "receipt", "m.read", own), {})
            await bridge.until(lambda: any(each.type == EventType.RECEIPT for each in bridge.ephemeral))

            alias = f"#irc_pub:{node.server_name}"
            joined = await berta.client.post(f"/join/{alias.replace('#', '%23')}")
            assert joined.status == 200, joined.body
            await hears_echo(berta, bridge, joined["room_id"], "in the channel")
            fresh = f"@irc_fresh:{node.server_name}"
            assert (await berta.client.get(f"/profile/{fresh}"))["displayname"] == "irc_fresh"
            assert bridge.asked == [alias, fresh]

            await bridge.until(lambda: "in the channel" in bridge.texts)
            bridge.refusing = True
            await berta.say(room_id, "in the dark")
            await bridge.until(lambda: b"in the dark" in bridge.transactions[-1][1])
            await asyncio.to_thread(node.kill)
            under_way = bridge.transactions[-1]
            bridge.transactions.clear()
            bridge.refusing = False
            await asyncio.to_thread(node.start, 120)
            await hears_echo(berta, bridge, room_id, "in the light")
            assert bridge.transactions[0] == (under_way[0], under_way[1], True), "the same under the same ID"
            assert bridge.texts[0] == "in the dark"
            assert await berta.hears(room_id, "echo: in the dark") == bridge.ghost
        finally:
            await bridge.service.stop()
