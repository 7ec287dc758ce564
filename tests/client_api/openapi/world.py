"""A node on which there is something of everything, so that requests can name what exists."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from p2pserver.store.accounts import hash_password, register_user
from tests.app_services.service import Asked, Bridge
from tests.client_api.harness import Client, Node
from tests.client_api.talk import at, invite_and_join, new_room, say, set_state, sync
from tests.client_api.test_key_backup import key, new_backup
from tests.client_api.test_keys import CrossSigner, device_keys, one_time_keys
from tests.media.asking import upload

PASSWORD = "secret"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@dataclass(slots=True, kw_only=True)
class World:
    """Alice asks most; Bob and Carol are in her rooms, Dave is not, Root is an admin."""

    node: Node
    alice: Client
    bob: Client
    carol: Client
    dave: Client
    root: Client
    bridge: Client
    """A service beside the node, as it asks."""
    rooms: list[str] = field(default_factory=list)
    """Rooms in which Alice has all power and is with Bob and Carol."""
    space: str = ""
    events: dict[str, list[str]] = field(default_factory=dict)
    """Of each of the rooms, messages of Alice."""
    tokens: list[str] = field(default_factory=list)
    """Of `/sync`, from the first one on."""
    aliases: list[str] = field(default_factory=list)
    media_ids: list[str] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    session: str = "session+1/x"
    version: str = ""
    """Of the key backup."""
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def clients(self) -> list[Client]:
        return [self.alice, self.bob, self.carol, self.dave]

    def unused(self, prefix: str = "n") -> str:
        return f"{prefix}{next(self.numbers)}"

    def user(self, localpart: str) -> str:
        return f"@{localpart}:{self.node.server_name}"

    def alias(self, localpart: str) -> str:
        return f"#{localpart}:{self.node.server_name}"


def bridged(asked: Asked) -> tuple[int, Any]:
    """What the service answers: it knows one network, and everybody there."""
    if "/protocol/" in asked.path:
        instance = {"desc": "Libera", "network_id": "libera", "fields": {}}
        kinds = {"nick": {"regexp": "[a-z]+", "placeholder": "nick"}}
        fields = {"user_fields": ["nick"], "location_fields": [], "field_types": kinds}
        return 200, {**fields, "icon": "mxc://example.org/irc", "instances": [instance]}
    if "/thirdparty/location" in asked.path:
        return 200, [{"alias": "#irc_x:example.org", "protocol": "irc", "fields": {}}]
    if "/thirdparty/user" in asked.path:
        return 200, [{"userid": "@irc_x:example.org", "protocol": "irc", "fields": {}}]
    return 200, {}


async def populate(node: Node) -> World:
    root_id = f"@root:{node.server_name}"
    await node.database.write(lambda tx: register_user(tx, root_id, hash_password(PASSWORD), admin=True))
    people = [await node.register(name, initial_device_display_name=name) for name in ("alice", "bob", "carol", "dave")]
    alice, bob, carol, dave = people
    world = World(
        node=node, alice=alice, bob=bob, carol=carol, dave=dave, root=await node.log_in("root"), bridge=Bridge(node)
    )
    await _rooms(world)
    await _account(world)
    world.tokens.append((await sync(alice))["next_batch"])
    for room in world.rooms:
        await say(bob, room, "alice, what is new?")
    world.tokens.append((await sync(alice, world.tokens[-1]))["next_batch"])
    return world


async def _rooms(world: World) -> None:
    alice, bob, carol = world.alice, world.bob, world.carol
    media = await upload(alice, PNG, content_type="image/png", filename="a.png")
    world.media_ids.append(media.json()["content_uri"].rpartition("/")[2])
    avatar = media.json()["content_uri"]
    for number, fields in enumerate(
        (
            {
                "preset": "public_chat",
                "visibility": "public",
                "room_alias_name": "one",
                "name": "One",
                "topic": "of it",
            },
            {"preset": "trusted_private_chat", "is_direct": True},
            {"preset": "public_chat", "room_version": "10", "name": "Old"},
        )
    ):
        room = await new_room(alice, **fields)
        world.rooms.append(room)
        await invite_and_join(alice, room, bob, carol)
        await set_state(alice, room, "m.room.avatar", {"url": avatar})
        root = await say(alice, room, "words and more words")
        related = {"rel_type": "m.thread", "event_id": root}
        path = at(room, "send", "m.room.message")
        for user, text in ((bob, "in the thread"), (alice, "there as well")):
            body = {"msgtype": "m.text", "body": text, "m.relates_to": related}
            assert (await user.put(f"{path}/{world.unused()}", body)).status == 200
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+"}}
        assert (await bob.put(at(room, "send", "m.reaction", world.unused()), reaction)).status == 200
        edit = {
            "msgtype": "m.text",
            "body": "* other words",
            "m.new_content": {"msgtype": "m.text", "body": "other words"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": root},
        }
        assert (await alice.put(f"{path}/{world.unused()}", edit)).status == 200
        gone = await say(bob, room, "to be redacted")
        assert (await bob.put(at(room, "redact", gone, world.unused()), {"reason": "x"})).status == 200
        last = await say(alice, room, f"the last of {number}")
        world.events[room] = [root, last]
        assert (await bob.post(at(room, "receipt", "m.read", last))).status == 200
        assert (await bob.post(at(room, "receipt", "m.read", root), {"thread_id": root})).status == 200
        assert (await bob.put(at(room, "typing", bob.user_id), {"typing": True, "timeout": 100_000})).status == 200
    world.aliases.append(world.alias("one"))
    world.space = await new_room(
        alice,
        preset="public_chat",
        name="Space",
        creation_content={"type": "m.space"},
        power_level_content_override={"events_default": 100},
    )
    for room in world.rooms:
        content = {"via": [world.node.server_name], "suggested": True, "order": "a"}
        await set_state(alice, world.space, "m.space.child", content, room)
    invited = await new_room(bob, name="Invited", invite=[alice.user_id])
    assert invited
    left = await new_room(bob, preset="public_chat")
    assert (await alice.post(f"/join/{quote(left)}")).status == 200
    assert (await alice.post(at(left, "leave"))).status == 200
    knocked = await new_room(
        bob, initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]
    )
    assert (await alice.post(f"/knock/{quote(knocked)}", {"reason": "please"})).status == 200


async def _account(world: World) -> None:
    alice, bob = world.alice, world.bob
    me = quote(alice.user_id)
    for user in (alice, bob):
        keys = {
            "device_keys": device_keys(user),
            "one_time_keys": one_time_keys("A", "B", "C"),
            "fallback_keys": one_time_keys("F"),
        }
        assert (await user.post("/keys/upload", keys)).status == 200
        assert (await user.post("/keys/device_signing/upload", CrossSigner(user.user_id).upload())).status == 200
    message = {"messages": {alice.user_id: {"*": {"a": 1}}}}
    assert (await bob.put("/sendToDevice/m.test/1", message)).status == 200
    world.version = await new_backup(alice)
    backup = f"/room_keys/keys/{quote(world.rooms[0])}/{quote(world.session, safe='')}?version={world.version}"
    assert (await alice.put(backup, key())).status == 200
    limits = {"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": True}}}
    world.filters.append((await alice.post(f"/user/{me}/filter", limits))["filter_id"])
    assert (await alice.put(f"/user/{me}/account_data/m.direct", {bob.user_id: world.rooms[1:2]})).status == 200
    for room in world.rooms:
        assert (await alice.put(f"/user/{me}/rooms/{quote(room)}/tags/u.x", {"order": 0.5})).status == 200
        assert (await alice.post(at(room, "read_markers"), {"m.fully_read": world.events[room][0]})).status == 200
    await alice.put("/pushrules/global/override/mine", {"actions": ["notify"], "conditions": []})
    await alice.put("/pushrules/global/content/word", {"actions": ["notify"], "pattern": "new"})
    assert (await alice.post("/pushers/set", pusher("one"))).status == 200
    assert (await alice.put(f"/profile/{me}/avatar_url", {"avatar_url": "mxc://a.example/b"})).status == 200
    assert (await alice.put(f"/profile/{me}/org.example.word", {"org.example.word": ["a", 1]})).status == 200
    assert (await bob.put(f"/presence/{quote(bob.user_id)}/status", {"presence": "online"})).status == 200


def pusher(pushkey: str) -> dict[str, Any]:
    """The address is one at which nobody answers."""
    return {
        "kind": "http",
        "app_id": "org.example.app",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "pushkey": pushkey,
        "data": {"url": "http://127.0.0.1:9/_matrix/push/v1/notify"},
    }


SPOILED = (
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.pinned_events",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.join_rules",
    "m.room.tombstone",
    "m.space.child",
)
ODD: tuple[Any, ...] = (None, True, 7, "", "x", [], {}, [1], {"a": []}, ["x", None])
FIELDS = (
    *("name", "topic", "url", "alias", "alt_aliases", "pinned", "guest_access", "history_visibility", "algorithm"),
    *("deny", "allow", "join_rule", "replacement_room", "via", "order", "suggested", "displayname", "avatar_url"),
    *("body", "msgtype", "m.new_content", "m.mentions", "is_direct", "reason", "ban", "events", "users_default"),
)


async def spoil(world: World, rng: random.Random) -> None:
    """Fills the rooms with state, messages and account data of shapes that nobody wants and no rule forbids."""

    def odd() -> dict[str, Any]:
        return {name: rng.choice(ODD) for name in rng.sample(FIELDS, 8)}

    def related(event_id: str) -> dict[str, Any]:
        relation = {"rel_type": rng.choice(("m.thread", "m.replace", "m.annotation", 7)), "event_id": event_id}
        return {**odd(), "m.relates_to": {**relation, "key": rng.choice(ODD)}}

    for room in [*world.rooms, world.space]:
        for kind in SPOILED:
            keys = (*world.rooms[:1], "x") if kind == "m.space.child" else ("",)
            for key_ in keys:
                content = {**odd(), "via": [world.node.server_name]} if key_ in world.rooms else odd()
                await world.alice.put(at(room, "state", kind, key_), content)
        await world.bob.put(at(room, "state", "m.room.member", world.bob.user_id), {**odd(), "membership": "join"})
        for event_id in world.events.get(room, ()):
            for kind in ("m.room.message", "m.reaction"):
                for _ in range(3):
                    await world.bob.put(at(room, "send", kind, world.unused()), related(event_id))
        me = quote(world.alice.user_id)
        for kind in ("m.tag", "m.fully_read", "m.direct", "m.ignored_user_list", "m.invite_permission_config"):
            await world.alice.put(f"/user/{me}/rooms/{quote(room)}/account_data/{kind}", odd())
            await world.alice.put(f"/user/{me}/account_data/{kind}", odd())
