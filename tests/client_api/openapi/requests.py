"""Requests for the operations of the specification that a populated node can answer, and such with one fault."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from tests.client_api.harness import Client
from tests.client_api.openapi.generate import TEXTS, Pool, value_for
from tests.client_api.openapi.schemas import Operation, definitions
from tests.client_api.openapi.world import PASSWORD, PNG, World, pusher
from tests.client_api.talk import at, new_room
from tests.client_api.test_key_backup import key, new_backup
from tests.client_api.test_keys import CrossSigner, device_keys, one_time_keys

V3 = "/_matrix/client/v3"
STATE_TYPES = (
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.pinned_events",
    "m.room.guest_access",
    "m.room.server_acl",
    "org.example.state",
)
ALWAYS = ("timeout", "timeout_ms", "alias", "userid")
"""Parameters that are always there: without them a request may wait for half a minute, or there is no question."""
MESSAGE_TYPES = ("m.room.message", "m.reaction", "m.sticker", "m.room.encrypted", "org.example.message")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    client: Client
    method: str
    path: str
    query: dict[str, Any]
    body: Any
    """A JSON value, octets, or None for no body at all."""


@dataclass(slots=True)
class Given:
    """What an operation needs beside its schemas: who asks, what names mean, members of the body."""

    client: Client | None = None
    pool: dict[str, list[Any]] = field(default_factory=dict)
    body: Any = None
    """Members that stand whatever the schema made up; octets in place of JSON."""
    without: tuple[str, ...] = ()
    """Members and parameters that are left out."""


Prepare = Callable[[World, random.Random], Awaitable[Given]]


async def valid_request(world: World, operation: Operation, rng: random.Random) -> Asked:
    """A request that the specification allows, about what is there."""
    prepare = PREPARED.get(operation.name.removeprefix(V3).replace(f" {V3}", " "))
    given = Given() if prepare is None else await prepare(world, rng)
    pool = {**usual_pool(world, rng), **given.pool}
    query: dict[str, Any] = {}
    path = operation.path
    for parameter in operation.parameters:
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(str(value_for(parameter["schema"], rng, pool, name)), safe=""))
        elif (
            parameter["in"] == "query"
            and name not in given.without
            and (parameter["required"] or name in ALWAYS or rng.random() < 0.5)
        ):
            query[name] = as_query(value_for(parameter["schema"], rng, pool, name))
    return Asked(given.client or world.alice, operation.method, path, query, body_for(operation, rng, pool, given))


def body_for(operation: Operation, rng: random.Random, pool: Pool, given: Given) -> Any:
    if isinstance(given.body, bytes):
        return given.body
    schema = operation.body.get("application/json")
    if schema is None:
        return given.body
    body = value_for(schema, rng, pool)
    body.update(given.body or {})
    for name in ("auth", *given.without):
        if name not in (given.body or {}):
            body.pop(name, None)
    return body


def as_query(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return json.dumps(value)
    return value


def usual_pool(world: World, rng: random.Random) -> dict[str, list[Any]]:
    """What names mean where an operation says nothing else. Rooms and events in it belong together."""
    room = rng.choice(world.rooms)
    others = [each.user_id for each in world.clients]
    return {
        "roomId": [room],
        "room_id": [room],
        "rooms": [room],
        "roomIdOrAlias": [room, *world.aliases],
        "roomAlias": world.aliases,
        "room_alias": world.aliases,
        "eventId": world.events[room],
        "event_id": world.events[room],
        "m.fully_read": world.events[room],
        "m.read": world.events[room],
        "m.read.private": world.events[room],
        "userId": [world.alice.user_id],
        "user_id": others,
        "deviceId": [world.alice.device_id],
        "server_name": [world.node.server_name],
        "serverName": [world.node.server_name],
        "server": [world.node.server_name],
        "via": [world.node.server_name],
        "mediaId": world.media_ids,
        "fileName": ["a.png"],
        "mxc_uri": [f"mxc://{world.node.server_name}/{each}" for each in world.media_ids],
        "filterId": world.filters,
        "filter": [world.filters[0], {"limit": 3}, {}],
        "version": [world.version],
        "sessionId": [world.session],
        "since": world.tokens,
        "from": world.tokens,
        "to": world.tokens,
        "at": world.tokens,
        "timeout": [0, 1],
        "timeout_ms": [0],
        "limit": [1, 3, 100],
        "ts": [0, world.node.now_ms[0], 2**50],
        "txnId": [world.unused("t")],
        "kind": ["override"],
        "ruleId": ["mine"],
        "receiptType": ["m.read", "m.read.private", "m.fully_read"],
        "relType": ["m.thread", "m.annotation", "m.replace"],
        "keyName": ["displayname", "avatar_url", "org.example.word"],
        "tag": ["u.x", "m.favourite", "é ☃"],
        "type": ["m.direct"],
        "order": [0, 0.25, 1],
        "width": [1, 96],
        "height": [1, 96],
    }


async def others_user(world: World, rng: random.Random) -> Given:
    return Given(pool={"userId": [each.user_id for each in world.clients]})


async def of_an_admin(world: World, rng: random.Random) -> Given:
    return Given(world.root, {"userId": [world.dave.user_id]})


async def of_a_newcomer(world: World, rng: random.Random) -> Given:
    client = await world.node.register(world.unused("newcomer"))
    return Given(world.root, {"userId": [client.user_id]})


async def banned(world: World, rng: random.Random) -> Given:
    """Dave, who is in none of the rooms, is banned and let in again all the time."""
    return Given(body={"user_id": world.dave.user_id})


async def unbanned(world: World, rng: random.Random) -> Given:
    room = rng.choice(world.rooms)
    await world.alice.post(at(room, "ban"), {"user_id": world.dave.user_id})
    return Given(pool={"roomId": [room]}, body={"user_id": world.dave.user_id})


async def kicked(world: World, rng: random.Random) -> Given:
    room = await new_room(world.alice, preset="public_chat")
    assert (await world.bob.post(f"/join/{quote(room)}")).status == 200
    return Given(pool={"roomId": [room]}, body={"user_id": world.bob.user_id})


async def left(world: World, rng: random.Random) -> Given:
    room = await new_room(world.bob, preset="public_chat")
    assert (await world.alice.post(f"/join/{quote(room)}")).status == 200
    return Given(pool={"roomId": [room]})


async def forgotten(world: World, rng: random.Random) -> Given:
    made = await left(world, rng)
    assert (await world.alice.post(at(made.pool["roomId"][0], "leave"))).status == 200
    return made


async def invited(world: World, rng: random.Random) -> Given:
    room = await new_room(world.alice, preset="private_chat")
    return Given(pool={"roomId": [room]}, body={"user_id": rng.choice(world.clients[1:]).user_id})


async def joined(world: World, rng: random.Random) -> Given:
    room = await new_room(world.bob, preset="public_chat")
    return Given(pool={"roomId": [room], "roomIdOrAlias": [room, *world.aliases]}, without=("third_party_signed",))


async def knocked(world: World, rng: random.Random) -> Given:
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    return Given(pool={"roomIdOrAlias": [await new_room(world.bob, initial_state=[rule])]})


async def logged_in(world: World, rng: random.Random) -> Given:
    identifier = {"type": "m.id.user", "user": rng.choice(("dave", world.dave.user_id))}
    by_password = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    if rng.random() < 0.7:
        return Given(pool={"device_id": ["PHONE", "TABLET"]}, body=by_password)
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    token = (await world.dave.ask("POST", "/_matrix/client/v1/login/get_token", {"auth": auth}))["login_token"]
    return Given(body={"type": "m.login.token", "token": token})


async def registered(world: World, rng: random.Random) -> Given:
    body = {"username": world.unused("user"), "password": "x y z", "auth": {"type": "m.login.dummy"}}
    return Given(pool={"kind": ["user"], "device_id": ["PHONE"]}, body=body)


async def available(world: World, rng: random.Random) -> Given:
    return Given(pool={"username": [world.unused("free")]})


async def refreshed(world: World, rng: random.Random) -> Given:
    body = {"type": "m.login.password", "user": "dave", "password": PASSWORD, "refresh_token": True}
    return Given(body={"refresh_token": (await world.node.stranger().post("/login", body))["refresh_token"]})


async def own_session(world: World, rng: random.Random) -> Given:
    """Somebody whose sessions may end."""
    return Given(await world.node.register(world.unused("newcomer")))


async def another_device(world: World, rng: random.Random) -> Given:
    device = (await world.node.log_in("dave")).device_id
    auth = {"type": "m.login.password", "user": "dave", "password": PASSWORD}
    body = {"auth": auth, **({"devices": [device]} if rng.random() < 0.9 else {})}
    return Given(world.dave, {"deviceId": [device]}, body, ())


async def newcomer(world: World, rng: random.Random) -> Given:
    """Somebody who can be deactivated, or have another password."""
    client = await world.node.register(world.unused("newcomer"))
    auth = {"type": "m.login.password", "user": client.user_id, "password": PASSWORD}
    return Given(client, body={"auth": auth})


async def a_new_password(world: World, rng: random.Random) -> Given:
    made = await newcomer(world, rng)
    made.body["new_password"] = "another one"
    return made


async def a_login_token(world: World, rng: random.Random) -> Given:
    return Given(world.dave, body={"auth": {"type": "m.login.password", "user": "dave", "password": PASSWORD}})


async def cross_signing(world: World, rng: random.Random) -> Given:
    client = await world.node.register(world.unused("signer"))
    return Given(client, body=CrossSigner(client.user_id).upload())


async def signatures(world: World, rng: random.Random) -> Given:
    alice = world.alice
    return Given(body={alice.user_id: {alice.device_id: device_keys(alice)}})


async def uploaded_keys(world: World, rng: random.Random) -> Given:
    names = [world.unused("K") for _ in range(rng.randrange(3))]
    body: dict[str, Any] = {"one_time_keys": one_time_keys(*names), "fallback_keys": one_time_keys(world.unused("F"))}
    if rng.random() < 0.5:
        body["device_keys"] = device_keys(world.bob)
    return Given(world.bob, body=body, without=("device_keys",))


async def claimed(world: World, rng: random.Random) -> Given:
    who = rng.choice(world.clients)
    return Given(body={"one_time_keys": {who.user_id: {who.device_id: "signed_curve25519"}}})


async def queried(world: World, rng: random.Random) -> Given:
    return Given(body={"device_keys": {each.user_id: [] for each in rng.sample(world.clients, 2)}})


async def to_device(world: World, rng: random.Random) -> Given:
    content = {rng.choice(("*", world.bob.device_id)): {"a": 1}}
    return Given(pool={"eventType": ["m.test"]}, body={"messages": {world.bob.user_id: content}})


async def backed_up_keys(world: World, rng: random.Random) -> Given:
    sessions = {"sessions": {world.session: key(rng.randrange(9))}}
    return Given(body={"rooms": {world.rooms[0]: sessions}})


async def backed_up_room(world: World, rng: random.Random) -> Given:
    return Given(pool={"roomId": world.rooms[:1]}, body={"sessions": {world.session: key(rng.randrange(9))}})


async def backed_up_session(world: World, rng: random.Random) -> Given:
    return Given(pool={"roomId": world.rooms[:1]}, body=key(rng.randrange(9)))


async def backed_up(world: World, rng: random.Random) -> Given:
    return Given(pool={"roomId": world.rooms[:1]})


async def another_backup(world: World, rng: random.Random) -> Given:
    client = await world.node.register(world.unused("newcomer"))
    return Given(client, {"version": [await new_backup(client)]})


async def a_new_backup(world: World, rng: random.Random) -> Given:
    return Given(await world.node.register(world.unused("newcomer")))


async def changed_backup(world: World, rng: random.Random) -> Given:
    return Given(body={"auth_data": {"public_key": world.unused("p")}}, without=("version",))


async def a_message(world: World, rng: random.Random) -> Given:
    kind = rng.choice(MESSAGE_TYPES)
    room = rng.choice(world.rooms)
    pool = {"roomId": [room], "room_id": [room], "eventId": world.events[room], "event_id": world.events[room]}
    body = content_of(world, kind, rng, pool)
    if "m.relates_to" in body and body["m.relates_to"].get("rel_type") == "m.annotation":
        body["m.relates_to"]["key"] = world.unused("key")
    return Given(pool={**pool, "eventType": [kind]}, body=body)


async def a_state(world: World, rng: random.Random) -> Given:
    kind = rng.choice(STATE_TYPES)
    pool = {"eventType": [kind], "stateKey": ["" if kind.startswith("m.room") else rng.choice(TEXTS[:-1])]}
    return Given(pool=pool, body=content_of(world, kind, rng, {}))


async def read_state(world: World, rng: random.Random) -> Given:
    member = {"eventType": ["m.room.member"], "stateKey": [world.bob.user_id]}
    create = {"eventType": ["m.room.create", "m.room.power_levels", "m.room.join_rules"], "stateKey": [""]}
    return Given(pool=rng.choice((member, create)))


def content_of(world: World, kind: str, rng: random.Random, pool: Pool) -> dict[str, Any]:
    """The content of an event by the schema of its type."""
    schema = definitions().get(f"event-schemas.schema.{kind}")
    if schema is None:
        return {"a": rng.choice(TEXTS), "n": [rng.randrange(9)], "deep": {"x": None}}
    made = value_for(schema, rng, {**usual_pool(world, rng), **pool, "type": ["m.text"]})
    content = made.get("content", {}) if isinstance(made, dict) else {}
    return dict(content)


async def redacted(world: World, rng: random.Random) -> Given:
    room = rng.choice(world.rooms)
    path = at(room, "send", "m.room.message", world.unused())
    event_id = (await world.alice.put(path, {"msgtype": "m.text", "body": "oops"}))["event_id"]
    return Given(pool={"roomId": [room], "eventId": [event_id]})


async def upgraded(world: World, rng: random.Random) -> Given:
    room = await new_room(world.alice, preset="public_chat", room_version=rng.choice(("9", "11", "12")))
    return Given(pool={"roomId": [room]}, body={"new_version": rng.choice(("10", "11", "12"))}, without=ADDITIONAL)


ADDITIONAL = ("additional_creators",)


async def created(world: World, rng: random.Random) -> Given:
    pool = {
        "room_version": ["9", "10", "11", "12"],
        "room_alias_name": [world.unused("alias")],
        "invite": [world.bob.user_id],
        "initial_state": [{"type": "m.room.topic", "state_key": "", "content": {"topic": "x"}}],
        "creation_content": [{"m.federate": True}, {"type": "m.space"}],
        "power_level_content_override": [{"events_default": 0}, {"invite": 50}],
    }
    return Given(pool=pool, body={}, without=("invite_3pid", "predecessor"))


async def new_alias(world: World, rng: random.Random) -> Given:
    return Given(pool={"roomAlias": [world.alias(world.unused("alias"))]})


async def deleted_alias(world: World, rng: random.Random) -> Given:
    alias = world.alias(world.unused("alias"))
    path = f"/directory/room/{quote(alias, safe='')}"
    assert (await world.alice.put(path, {"room_id": world.rooms[0]})).status == 200
    return Given(pool={"roomAlias": [alias]})


async def a_profile_field(world: World, rng: random.Random) -> Given:
    name = rng.choice(("displayname", "avatar_url", "org.example.more", "m.tz"))
    value: Any = {"displayname": "Alice", "avatar_url": "mxc://a.example/b", "m.tz": "Europe/Oslo"}.get(name, [1, "x"])
    return Given(pool={"keyName": [name]}, body={name: value})


async def a_profile_read(world: World, rng: random.Random) -> Given:
    return Given(pool={"userId": [world.alice.user_id], "keyName": ["displayname", "avatar_url", "org.example.word"]})


async def a_rule(world: World, rng: random.Random) -> Given:
    kind, name = rng.choice((("override", "mine"), ("content", "word"), ("underride", ".m.rule.message")))
    return Given(pool={"kind": [kind], "ruleId": [name], "actions": [["notify"], []]}, body={})


async def a_rule_of_ones_own(world: World, rng: random.Random) -> Given:
    kind = rng.choice(("override", "underride", "content", "sender", "room"))
    name = {"sender": world.bob.user_id, "room": world.rooms[0]}.get(kind, world.unused("rule"))
    body: dict[str, Any] = {"actions": rng.choice((["notify"], [], ["notify", {"set_tweak": "highlight"}]))}
    if kind == "content":
        body["pattern"] = "w*rd"
    elif kind in ("override", "underride"):
        condition = {"kind": "event_match", "key": "type", "pattern": "m.*"}
        body["conditions"] = rng.choice(([], [condition], [{"kind": "room_member_count", "is": ">2"}]))
    return Given(
        pool={"kind": [kind], "ruleId": [name]}, body=body, without=("before", "after", "conditions", "pattern")
    )


async def a_deleted_rule(world: World, rng: random.Random) -> Given:
    name = world.unused("rule")
    assert (await world.alice.put(f"/pushrules/global/override/{name}", {"actions": []})).status == 200
    return Given(pool={"kind": ["override"], "ruleId": [name]})


async def a_pusher(world: World, rng: random.Random) -> Given:
    if rng.random() < 0.3:
        return Given(body={"kind": None, "app_id": "org.example.app", "pushkey": world.unused("k")})
    return Given(body=pusher(rng.choice(("one", "two"))))


async def an_upload(world: World, rng: random.Random) -> Given:
    return Given(pool={"filename": ["a.txt", "é.png"]}, body=rng.choice((b"text", PNG)))


async def an_upload_to(world: World, rng: random.Random) -> Given:
    created = await world.alice.ask("POST", "/_matrix/media/v1/create")
    made = await an_upload(world, rng)
    made.pool["mediaId"] = [created["content_uri"].rpartition("/")[2]]
    return made


async def searched(world: World, rng: random.Random) -> Given:
    events = {
        "search_term": rng.choice(("words", "more", "nothing")),
        "order_by": rng.choice(("recent", "rank")),
        "event_context": {"before_limit": rng.randrange(3), "include_profile": True},
        "include_state": rng.random() < 0.5,
        "groupings": {"group_by": [{"key": rng.choice(("room_id", "sender"))}]},
    }
    return Given(body={"search_categories": {"room_events": events}}, without=("next_batch",))


async def mutual(world: World, rng: random.Random) -> Given:
    return Given(pool={"user_id": [world.bob.user_id, world.carol.user_id]}, without=("from",))


async def related(world: World, rng: random.Random) -> Given:
    room = rng.choice(world.rooms)
    pairs = (("m.thread", "m.room.message"), ("m.annotation", "m.reaction"), ("m.replace", "m.room.message"))
    rel_type, event_type = rng.choice(pairs)
    pool = {"roomId": [room], "eventId": world.events[room][:1], "relType": [rel_type], "eventType": [event_type]}
    return Given(pool=pool, without=("from", "to"))


async def when(world: World, rng: random.Random) -> Given:
    pairs = (("0", "f"), (str(2**50), "b"))
    ts, direction = rng.choice(pairs)
    return Given(pool={"ts": [ts], "dir": [direction]})


async def walked(world: World, rng: random.Random) -> Given:
    return Given(pool={"roomId": [world.space, *world.rooms]}, without=("from",))


async def listed(world: World, rng: random.Random) -> Given:
    without = ("since", "server", *rng.choice(((), ("third_party_instance_id",))))
    filters = [{}, {"generic_search_term": "one"}, {"room_types": [None, "m.space"]}]
    return Given(without=without, pool={"filter": filters})


async def a_filter(world: World, rng: random.Random) -> Given:
    return Given(pool={"types": ["m.*"], "not_types": ["m.x"], "event_fields": ["content.body"]})


async def synced(world: World, rng: random.Random) -> Given:
    return Given(pool={"timeout": [0], "filter": [world.filters[0], {"room": {"timeline": {"limit": 2}}}]})


async def a_tag_removed(world: World, rng: random.Random) -> Given:
    return Given(pool={"tag": ["u.x", "u.gone"]})


async def data_read(world: World, rng: random.Random) -> Given:
    return Given(pool={"type": ["m.direct", "m.push_rules"]})


async def data_of_a_room(world: World, rng: random.Random) -> Given:
    return Given(pool={"type": ["m.tag", "m.fully_read"]})


async def data_written(world: World, rng: random.Random) -> Given:
    body = rng.choice(({}, {"a": {"b": [1, 0.5, None]}}, {world.bob.user_id: world.rooms[:1]}))
    return Given(pool={"type": ["m.direct", "org.example.data"]}, body=body)


async def read_up_to(world: World, rng: random.Random) -> Given:
    """The root of a thread is of the thread and of the main timeline."""
    room = rng.choice(world.rooms)
    root = world.events[room][0]
    return Given(pool={"roomId": [room], "eventId": [root], "thread_id": ["main", root]})


async def the_thread_of(world: World, rng: random.Random) -> Given:
    return Given(without=("from",))


async def wanted_directory(world: World, rng: random.Random) -> Given:
    return Given(pool={"search_term": ["b", "carol", "nobody"]})


async def of_the_bridge(world: World, rng: random.Random) -> Given:
    return Given(world.bridge, {"appserviceId": ["irc"], "networkId": ["libera"]})


async def looked_up(world: World, rng: random.Random) -> Given:
    pool = {"protocol": ["irc"], "alias": [world.alias("irc_x")], "userid": [world.user("irc_x")]}
    return Given(pool=pool)


PREPARED: dict[str, Prepare] = {
    "GET /user/{userId}/account_data/{type}": data_read,
    "PUT /user/{userId}/account_data/{type}": data_written,
    "GET /user/{userId}/rooms/{roomId}/account_data/{type}": data_of_a_room,
    "PUT /user/{userId}/rooms/{roomId}/account_data/{type}": data_written,
    "POST /account/deactivate": newcomer,
    "POST /account/password": a_new_password,
    "GET /admin/whois/{userId}": of_an_admin,
    "GET /_matrix/client/v1/admin/suspend/{userId}": of_an_admin,
    "PUT /_matrix/client/v1/admin/suspend/{userId}": of_a_newcomer,
    "GET /_matrix/client/v1/admin/lock/{userId}": of_an_admin,
    "PUT /_matrix/client/v1/admin/lock/{userId}": of_a_newcomer,
    "POST /rooms/{roomId}/ban": banned,
    "POST /rooms/{roomId}/unban": unbanned,
    "POST /rooms/{roomId}/kick": kicked,
    "POST /rooms/{roomId}/leave": left,
    "POST /rooms/{roomId}/forget": forgotten,
    "POST /rooms/{roomId}/invite": invited,
    "POST /rooms/{roomId}/join": joined,
    "POST /join/{roomIdOrAlias}": joined,
    "POST /knock/{roomIdOrAlias}": knocked,
    "POST /login": logged_in,
    "POST /_matrix/client/v1/login/get_token": a_login_token,
    "POST /register": registered,
    "GET /register/available": available,
    "POST /refresh": refreshed,
    "POST /logout": own_session,
    "POST /logout/all": own_session,
    "DELETE /devices/{deviceId}": another_device,
    "POST /delete_devices": another_device,
    "POST /keys/device_signing/upload": cross_signing,
    "POST /keys/signatures/upload": signatures,
    "POST /keys/upload": uploaded_keys,
    "POST /keys/claim": claimed,
    "POST /keys/query": queried,
    "PUT /sendToDevice/{eventType}/{txnId}": to_device,
    "PUT /room_keys/keys": backed_up_keys,
    "PUT /room_keys/keys/{roomId}": backed_up_room,
    "PUT /room_keys/keys/{roomId}/{sessionId}": backed_up_session,
    "GET /room_keys/keys/{roomId}": backed_up,
    "GET /room_keys/keys/{roomId}/{sessionId}": backed_up,
    "DELETE /room_keys/keys": another_backup,
    "DELETE /room_keys/keys/{roomId}": another_backup,
    "DELETE /room_keys/keys/{roomId}/{sessionId}": another_backup,
    "DELETE /room_keys/version/{version}": another_backup,
    "PUT /room_keys/version/{version}": changed_backup,
    "POST /room_keys/version": a_new_backup,
    "PUT /rooms/{roomId}/send/{eventType}/{txnId}": a_message,
    "PUT /rooms/{roomId}/state/{eventType}/{stateKey}": a_state,
    "GET /rooms/{roomId}/state/{eventType}/{stateKey}": read_state,
    "PUT /rooms/{roomId}/redact/{eventId}/{txnId}": redacted,
    "POST /rooms/{roomId}/upgrade": upgraded,
    "POST /createRoom": created,
    "PUT /directory/room/{roomAlias}": new_alias,
    "DELETE /directory/room/{roomAlias}": deleted_alias,
    "PUT /profile/{userId}/{keyName}": a_profile_field,
    "DELETE /profile/{userId}/{keyName}": a_profile_read,
    "GET /profile/{userId}/{keyName}": a_profile_read,
    "GET /profile/{userId}": others_user,
    "GET /presence/{userId}/status": others_user,
    "POST /users/{userId}/report": others_user,
    "GET /pushrules/global/{kind}/{ruleId}": a_rule,
    "PUT /pushrules/global/{kind}/{ruleId}": a_rule_of_ones_own,
    "DELETE /pushrules/global/{kind}/{ruleId}": a_deleted_rule,
    "GET /pushrules/global/{kind}/{ruleId}/enabled": a_rule,
    "PUT /pushrules/global/{kind}/{ruleId}/enabled": a_rule,
    "GET /pushrules/global/{kind}/{ruleId}/actions": a_rule,
    "PUT /pushrules/global/{kind}/{ruleId}/actions": a_rule,
    "POST /pushers/set": a_pusher,
    "POST /_matrix/media/v3/upload": an_upload,
    "PUT /_matrix/media/v3/upload/{serverName}/{mediaId}": an_upload_to,
    "POST /search": searched,
    "GET /_matrix/client/v1/mutual_rooms": mutual,
    "GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}": related,
    "GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}": related,
    "GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}": related,
    "GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event": when,
    "GET /_matrix/client/v1/rooms/{roomId}/hierarchy": walked,
    "GET /_matrix/client/v1/rooms/{roomId}/threads": the_thread_of,
    "POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": read_up_to,
    "GET /publicRooms": listed,
    "POST /publicRooms": listed,
    "POST /user/{userId}/filter": a_filter,
    "GET /sync": synced,
    "DELETE /user/{userId}/rooms/{roomId}/tags/{tag}": a_tag_removed,
    "POST /user_directory/search": wanted_directory,
    "GET /notifications": the_thread_of,
    "POST /_matrix/client/v1/appservice/{appserviceId}/ping": of_the_bridge,
    "PUT /directory/list/appservice/{networkId}/{roomId}": of_the_bridge,
    "GET /thirdparty/protocol/{protocol}": looked_up,
    "GET /thirdparty/location/{protocol}": looked_up,
    "GET /thirdparty/user/{protocol}": looked_up,
    "GET /thirdparty/location": looked_up,
    "GET /thirdparty/user": looked_up,
}


ODD: tuple[Any, ...] = (None, True, -1, 0.5, 2**53 - 1, "", "x", "@a:b", "!x:y", "é" * 200, [], {}, [[1]], {"a": None})


def with_a_fault(asked: Asked, rng: random.Random) -> Asked:
    """The request with one thing wrong: a member of the body, a parameter, a part of the path."""
    body, query, path = asked.body, asked.query, asked.path
    kind = rng.randrange(4)
    if kind <= 1 and isinstance(body, dict) and body:
        return replace(asked, body=_changed(body, rng))
    if kind == 2 and query:
        name = rng.choice([name for name in query if name not in ALWAYS] or ["x"])
        return replace(asked, query={**query, name: rng.choice(("", "x", "-1", "s0", "[]", "{", '{"room":1}', "é"))})
    segments = path.split("/")
    places = [place for place, segment in enumerate(segments) if place > 4 and re.search(r"[%\d]", segment)]
    if not places:
        return replace(
            asked, body=rng.choice(ODD) if body is None else {**body, "x": 1} if isinstance(body, dict) else b""
        )
    other = rng.choice(("x", "@a:b", "!x:y", "$z", "..", "é", "\0", "x" * 300))
    segments[rng.choice(places)] = "%2E%2E" if other == ".." else quote(other, safe="")  # httpx takes a bare ".." away
    return replace(asked, path="/".join(segments))


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value:
        name = rng.choice(list(value))
        if rng.random() < 0.2:
            return {key: each for key, each in value.items() if key != name}
        return {**value, name: _changed(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        return [_changed(value[0], rng), *value[1:]]
    return rng.choice(ODD)
