"""matrix-nio, a client that nobody here wrote, against the API on real sockets and a real database file."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nio
from nio.responses import PublicRoomsResponse

from p2pserver.client_api.app import ClientApi, ClientApiConfig
from p2pserver.node.http import HttpServer
from p2pserver.rooms.media_library import MediaLibrary, MediaLimits
from p2pserver.store.database import SqliteDatabase
from p2pserver.store.media_files import MediaFiles
from tests.client_api.harness import running_node


@asynccontextmanager
async def _served(path: Path) -> AsyncIterator[str]:
    """A node's API on a free port of the loopback, with `path` as its database."""
    async with running_node() as template:
        database = await SqliteDatabase.open(path)
        media = MediaLibrary(
            database=database,
            files=MediaFiles(path.parent / "media"),
            signer=template.rooms.context.signer,
            limits=MediaLimits(),
            wall_ms=template.api.wall_ms,
            random_bytes=random.randbytes,
        )
        api = ClientApi(
            database=database,
            rooms=template.rooms,
            media=media,
            remote_media=template.api.remote_media,
            remote=template.api.remote,
            config=ClientApiConfig(rate_limits=False),
            wall_ms=template.api.wall_ms,
        )
        server = HttpServer(api.asgi_app(), host="127.0.0.1", port=0)
        await server.start()
        try:
            yield server.url
        finally:
            await api.close()
            await server.stop()
            await database.close()


async def _log_in(url: str, name: str, *, register: bool = True) -> nio.AsyncClient:
    client = nio.AsyncClient(url, name)
    if register:
        answer: Any = await client.register(name, "secret", "laptop")
        assert isinstance(answer, nio.RegisterResponse), answer
        return client
    answer = await client.login("secret", "phone")
    assert isinstance(answer, nio.LoginResponse), answer
    return client


async def _send(client: nio.AsyncClient, room_id: str, text: str) -> str:
    answer = await client.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": text})
    assert isinstance(answer, nio.RoomSendResponse), answer
    event_id: str = answer.event_id
    return event_id


async def _sync(client: nio.AsyncClient, **fields: Any) -> nio.SyncResponse:
    answer = await client.sync(**fields)
    assert isinstance(answer, nio.SyncResponse), answer
    return answer


def _bodies(events: list[Any]) -> list[str]:
    return [event.body for event in events if isinstance(event, nio.RoomMessageText)]


async def test_a_conversation(tmp_path: Path) -> None:
    async with _served(tmp_path / "node.db") as url:
        alice, bob = await _log_in(url, "alice"), await _log_in(url, "bob")
        try:
            created = await alice.room_create(
                name="Hut", topic="Mountains", invite=[bob.user_id], preset=nio.RoomPreset.private_chat
            )
            assert isinstance(created, nio.RoomCreateResponse), created
            room_id = created.room_id
            await _sync(alice, full_state=True)
            assert alice.rooms[room_id].display_name == "Hut"
            assert alice.rooms[room_id].topic == "Mountains"
            invited = await _sync(bob)
            assert room_id in invited.rooms.invite
            assert bob.invited_rooms[room_id].name == "Hut"
            assert bob.invited_rooms[room_id].inviter == alice.user_id
            assert isinstance(await bob.join(room_id), nio.JoinResponse)
            await _sync(bob)
            assert set(bob.rooms[room_id].users) == {alice.user_id, bob.user_id}

            waiting = asyncio.create_task(_sync(bob, timeout=20_000))
            await asyncio.sleep(0.05)
            event_id = await _send(alice, room_id, "hello")
            answer = await asyncio.wait_for(waiting, 5)
            assert _bodies(answer.rooms.join[room_id].timeline.events) == ["hello"]

            for number in range(30):
                await _send(bob, room_id, str(number))
            limited = await _sync(alice, sync_filter={"room": {"timeline": {"limit": 5}}})
            timeline = limited.rooms.join[room_id].timeline
            assert timeline.limited
            assert _bodies(timeline.events) == [str(number) for number in range(25, 30)]
            older: list[str] = []
            start: str | None = timeline.prev_batch
            while start:
                page = await alice.room_messages(room_id, start, limit=7)
                assert isinstance(page, nio.RoomMessagesResponse), page
                older += _bodies(page.chunk)
                start = page.end
            assert older == [*(str(number) for number in range(24, -1, -1)), "hello"]

            assert isinstance(await alice.room_redact(room_id, event_id, "typo"), nio.RoomRedactResponse)
            shown = await bob.room_get_event(room_id, event_id)
            assert isinstance(shown, nio.RoomGetEventResponse), shown
            assert isinstance(shown.event, nio.RedactedEvent)
            around = await bob.room_context(room_id, event_id)
            assert isinstance(around, nio.RoomContextResponse), around

            members = await bob.joined_members(room_id)
            assert isinstance(members, nio.JoinedMembersResponse), members
            assert {member.user_id for member in members.members} == {alice.user_id, bob.user_id}
            state = await bob.room_get_state(room_id)
            assert isinstance(state, nio.RoomGetStateResponse), state
            assert isinstance(await bob.room_leave(room_id), nio.RoomLeaveResponse)
            left = await _sync(bob)
            assert room_id in left.rooms.leave
            assert isinstance(await bob.room_forget(room_id), nio.RoomForgetResponse)
        finally:
            await alice.close()
            await bob.close()


async def test_a_token_and_the_messages_outlive_the_server(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    async with _served(path) as url:
        alice = await _log_in(url, "alice")
        created = await alice.room_create(name="Hut")
        assert isinstance(created, nio.RoomCreateResponse), created
        room_id = created.room_id
        token = (await _sync(alice)).next_batch
        await _send(alice, room_id, "before")
        await alice.close()
    async with _served(path) as url:
        again = await _log_in(url, "alice", register=False)
        try:
            await _send(again, room_id, "after")
            answer = await _sync(again, since=token)
            assert _bodies(answer.rooms.join[room_id].timeline.events) == ["before", "after"]
        finally:
            await again.close()


async def test_a_client_that_hangs_up_leaves_no_poll_behind(tmp_path: Path) -> None:
    async with _served(tmp_path / "node.db") as url:
        alice = await _log_in(url, "alice")
        try:
            await _sync(alice)
            before = len(asyncio.all_tasks())
            waiting = asyncio.create_task(alice.sync(timeout=60_000))
            await asyncio.sleep(0.2)
            assert len(asyncio.all_tasks()) > before
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            for _ in range(50):
                if len(asyncio.all_tasks()) <= before:
                    break
                await asyncio.sleep(0.05)
            assert len(asyncio.all_tasks()) <= before
        finally:
            await alice.close()


async def test_spaces_knocking_and_the_directory(tmp_path: Path) -> None:
    async with _served(tmp_path / "node.db") as url:
        alice, bob = await _log_in(url, "alice"), await _log_in(url, "bob")
        try:
            space: Any = await alice.room_create(
                name="Village", space=True, visibility=nio.RoomVisibility.public, preset=nio.RoomPreset.public_chat
            )
            hut: Any = await alice.room_create(
                name="Hut", initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
            )
            rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space.room_id}]}
            await alice.room_create(
                name="Square",
                visibility=nio.RoomVisibility.public,
                initial_state=[{"type": "m.room.join_rules", "content": rules}],
            )
            server = alice.user_id.partition(":")[2]
            await alice.room_put_state(space.room_id, "m.space.child", {"via": [server]}, hut.room_id)
            tree: Any = await bob.space_get_hierarchy(space.room_id)
            assert isinstance(tree, nio.SpaceGetHierarchyResponse), tree
            assert [room["name"] for room in tree.rooms] == ["Village", "Hut"]
            listed: Any = await bob.list_public_rooms()
            assert isinstance(listed, PublicRoomsResponse), listed
            assert sorted(str(room.name) for room in listed.public_rooms) == ["Square", "Village"]
            knock: Any = await bob.room_knock(hut.room_id, reason="please")
            assert isinstance(knock, nio.RoomKnockResponse), knock
            seen = await _sync(alice)
            members = [event for event in seen.rooms.join[hut.room_id].timeline.events if event.sender == bob.user_id]
            assert [event.source["content"]["membership"] for event in members] == ["knock"]
            await alice.room_invite(hut.room_id, bob.user_id)
            assert hut.room_id in (await _sync(bob)).rooms.invite
            assert isinstance(await bob.join(hut.room_id), nio.JoinResponse)
            await bob.room_leave(hut.room_id)
            assert isinstance(await bob.room_forget(hut.room_id), nio.RoomForgetResponse)
        finally:
            await alice.close()
            await bob.close()
