"""matrix-nio with its own encryption (vodozemac) on two nodes: what one encrypts, the other can read."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nio

from p2pserver.node.http import HttpServer
from tests.client_api.harness import Node
from tests.client_api.neighbors import carry, two_nodes

CONFIG = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)


@asynccontextmanager
async def logged_in(node: Node, name: str, folder: Path) -> AsyncIterator[nio.AsyncClient]:
    """A client with an encryption store, on a socket of its own."""
    await node.register(name)
    server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
    await server.start()
    store = folder / name
    store.mkdir()
    client = nio.AsyncClient(server.url, f"@{name}:{node.server_name}", store_path=str(store), config=CONFIG)
    try:
        answer: Any = await client.login("secret", "laptop")
        assert isinstance(answer, nio.LoginResponse), answer
        yield client
    finally:
        await client.close()
        await server.stop()


async def settle(client: nio.AsyncClient) -> nio.SyncResponse:
    """One round of what `sync_forever` does: sync, then upload, query and claim what is due."""
    answer: Any = await client.sync(timeout=0)
    assert isinstance(answer, nio.SyncResponse), answer
    if client.should_upload_keys:
        uploaded: Any = await client.keys_upload()
        assert isinstance(uploaded, nio.KeysUploadResponse), uploaded
    if client.should_query_keys:
        queried: Any = await client.keys_query()
        assert isinstance(queried, nio.KeysQueryResponse), queried
    await client.send_to_device_messages()
    return answer


async def say(client: nio.AsyncClient, room_id: str, text: str) -> None:
    content = {"msgtype": "m.text", "body": text}
    answer: Any = await client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
    assert isinstance(answer, nio.RoomSendResponse), answer


def texts(answer: nio.SyncResponse, room_id: str) -> list[tuple[str, bool]]:
    events = answer.rooms.join[room_id].timeline.events
    return [(event.body, event.decrypted) for event in events if isinstance(event, nio.RoomMessageText)]


async def test_an_encrypted_conversation_between_two_nodes(tmp_path: Path) -> None:
    async with two_nodes() as (here, there, wire, there_wire), AsyncExitStack() as stack:
        alice = await stack.enter_async_context(logged_in(here, "alice", tmp_path))
        bob = await stack.enter_async_context(logged_in(there, "bob", tmp_path))
        for client in (alice, bob):
            await settle(client)
        encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        created: Any = await alice.room_create(preset=nio.RoomPreset.public_chat, initial_state=[encryption])
        assert isinstance(created, nio.RoomCreateResponse), created
        room_id = created.room_id
        joined = await bob.send(
            "POST",
            f"/_matrix/client/v3/join/{room_id}?via={here.server_name}",
            "{}",
            {"Authorization": f"Bearer {bob.access_token}"},
        )
        assert joined.status == 200
        await carry(there, here)
        for client in (alice, bob):
            await settle(client)
        await say(alice, room_id, "hello")
        await carry(here, there)
        assert texts(await settle(bob), room_id) == [("hello", True)]
        # The wire is cut: both go on, and what they say and the keys for it wait for the other.
        wire.plugged = there_wire.plugged = False
        await say(alice, room_id, "are you there?")
        await say(bob, room_id, "all alone")
        wire.plugged = there_wire.plugged = True
        await carry(here, there)
        await carry(there, here)
        assert ("are you there?", True) in texts(await settle(bob), room_id)
        assert ("all alone", True) in texts(await settle(alice), room_id)
        stored = await here.database.read(lambda tx: tx.all("SELECT CAST(raw AS TEXT) FROM events"))
        assert not any("are you there?" in raw for (raw,) in stored)
