"""A bridge with mautrix's end-to-bridge encryption beside one node, a person with an encrypting client on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nio
import pytest
from mautrix.appservice import AppService
from mautrix.appservice.state_store.asyncpg import PgASStateStore
from mautrix.bridge.e2ee import EncryptionManager
from mautrix.client.state_store.asyncpg import PgStateStore
from mautrix.types import EncryptedEvent, Event, EventType, Membership, MessageType, TextMessageEventContent
from mautrix.util.async_db import Database

from tests.app_services.test_heisenbridge import free_port
from tests.app_services.test_mautrix import PATIENCE_S, registration_of, two_nodes
from tests.client_api.test_nio_encryption import CONFIG, say, settle
from tests.e2e.devices import NodeProcess
from tests.media.test_nio import logged_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mautrix gives aiohttp a loop


class EncryptedEchoBridge:
    """What EncryptionManager takes for a bridge: its bot joins where it is invited and repeats what it can read."""

    name = "echo"
    loop = None

    def __init__(self, node: NodeProcess, registration: dict[str, Any], file: Path, *, by_login: bool) -> None:
        self.config = {
            "bridge.encryption.verification_levels": dict.fromkeys(("send", "share", "receive"), "unverified"),
            "bridge.encryption.allow_key_sharing": True,
            "bridge.encryption.appservice": True,
            "bridge.encryption.msc4190": not by_login,
            "bridge.encryption.delete_keys": None,
            "bridge.encryption.rotation.disable_device_change_key_rotation": False,
        }
        database = f"sqlite:///{file}"
        self.database = Database.create(database, upgrade_table=PgStateStore.upgrade_table)
        self.state_store = PgASStateStore(self.database)
        self.az = AppService(
            server=node.url,
            domain=node.server_name,
            as_token=registration["as_token"],
            hs_token=registration["hs_token"],
            bot_localpart="ircbot",
            id=registration["id"],
            state_store=self.state_store,
            ephemeral_events=True,
            encryption_events=True,
        )
        self.az.matrix_event_handler(self._on_event)
        self.e2ee = EncryptionManager(cast("Any", self), node.url, "@irc_", f":{node.server_name}", database)

    async def get_portal(self, room_id: str) -> Any:
        return SimpleNamespace(encrypted=True)

    async def _on_event(self, event: Event) -> None:
        if event.type == EventType.ROOM_MEMBER:
            if event.content.membership == Membership.INVITE and event.state_key == self.az.bot_mxid:
                await self.az.intent.join_room(event.room_id)
            await self.e2ee.handle_member_event(event)
        elif isinstance(event, EncryptedEvent) and event.sender != self.az.bot_mxid:
            text = (await self.e2ee.decrypt(event, wait_session_timeout=PATIENCE_S)).content.body
            content = TextMessageEventContent(msgtype=MessageType.TEXT, body=f"echo: {text}")
            await self.az.intent.get_room_members(event.room_id)  # it takes note of who is to get the keys
            kind, encrypted = await self.e2ee.encrypt(event.room_id, EventType.ROOM_MESSAGE, content)
            await self.az.intent.send_message_event(event.room_id, kind, cast("Any", encrypted))


@asynccontextmanager
async def running(bridge: EncryptedEchoBridge, port: int) -> AsyncIterator[None]:
    await bridge.database.start()
    await bridge.database.execute("CREATE TABLE portal (mxid TEXT, encrypted BOOLEAN)")  # as every bridge has
    await bridge.az.start(port=port)
    await bridge.az.intent.ensure_registered()
    await bridge.e2ee.start()
    try:
        yield
    finally:
        await bridge.e2ee.stop()
        await bridge.e2ee.client.api.session.close()
        await bridge.az.stop()
        await bridge.database.stop()


async def hears(client: nio.AsyncClient, room_id: str, text: str) -> str:
    """Who wrote it, encrypted; the key may come before the event or after it."""
    locked: list[nio.MegolmEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            room = (await settle(client)).rooms.join.get(room_id)
            events = list(room.timeline.events) if room else []
            locked += [event for event in events if isinstance(event, nio.MegolmEvent)]
            for event in locked:
                with suppress(nio.EncryptionError):
                    events.append(client.decrypt_event(event))
            for event in events:
                if isinstance(event, nio.RoomMessageText) and event.decrypted and event.body == text:
                    return str(event.sender)
            await asyncio.sleep(0.05)


async def knows_devices(client: nio.AsyncClient, user_id: str, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(list(client.device_store.active_user_devices(user_id))) < number:
            await settle(client)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(900)
async def test_it_reads_and_answers_a_person_on_another_node_also_after_it_lost_its_keys(tmp_path: Path) -> None:
    port = free_port()
    users = [{"regex": each, "exclusive": True} for each in ("^@irc_.*:.*$", "^@ircbot:.*$")]
    flags = ("de.sorunome.msc2409.push_ephemeral", "org.matrix.msc3202", "io.element.msc4190")
    registration = registration_of(
        port,
        sender_localpart="kQdDxUjPTQVkdsKbT5TnYcD0mautrix_",
        namespaces={"users": users},
        **dict.fromkeys(flags, True),
    )
    async with (
        two_nodes(tmp_path, registration) as (node, far),
        logged_in(far.url, "berta", store_path=str(tmp_path), config=CONFIG) as berta,
    ):
        bot = f"@ircbot:{node.server_name}"
        await settle(berta)
        async with running(EncryptedEchoBridge(node, registration, tmp_path / "first.db", by_login=False), port):
            encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
            created: Any = await berta.room_create(invite=[bot], is_direct=True, initial_state=[encryption])
            await knows_devices(berta, bot, 1)
            await say(berta, created.room_id, "hello")
            assert await hears(berta, created.room_id, "echo: hello") == bot
        async with running(EncryptedEchoBridge(node, registration, tmp_path / "second.db", by_login=True), port):
            await berta.room_typing(created.room_id)  # a bridge makes keys when it is told how many it has
            await knows_devices(berta, bot, 2)
            await say(berta, created.room_id, "again")
            assert await hears(berta, created.room_id, "echo: again") == bot
