"""The start-up sequences of clients, on a new account and on one with rooms, keys and a backup."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from p2pserver.client_api import profiles
from tests.client_api.harness import Answer, Client, Node, running_node
from tests.client_api.openapi.schemas import operations, response_faults
from tests.client_api.openapi.world import World, populate
from tests.client_api.startups import ELEMENT_WEB, ELEMENT_X, SLIDING, STARTUPS, Call, get
from tests.client_api.talk import at
from tests.client_api.test_dehydrated_devices import upload_of
from tests.client_api.test_keys import device_keys, one_time_keys
from tests.client_api.test_profiles import spread

NAME = re.compile(r"\{(\w+)\}")
NO_TURN_SERVER = "GET /_matrix/client/v3/voip/turnServer"
"""`{}` is how every server says that there is none; the schema has no word for it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "SPREAD_PAUSE_S", 0.0)


def filled(value: Any, known: dict[str, Any]) -> Any:
    """The value with what is known in place of each `{name}`."""
    if isinstance(value, str):
        name = NAME.fullmatch(value)
        return value if name is None else known[name[1]]
    if isinstance(value, dict):
        return {filled(key, known): filled(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled(each, known) for each in value]
    return value


def members(value: Any, path: list[str]) -> list[Any]:
    """What is at the end of a path, of each branch. Raises: KeyError, where it is missing."""
    if not path:
        return [value]
    if path[0] == "*":
        branches = list(value.values()) if isinstance(value, dict) else value
        return [found for each in branches for found in members(each, path[1:])]
    name = path[0].removesuffix("?")
    if not isinstance(value, dict) or value.get(name) is None:
        if name != path[0]:
            return []
        raise KeyError(name)
    return members(value[name], path[1:])


def fault(call: Call, status: int, body: Any, known: dict[str, Any], *, is_new: bool) -> str | None:
    """What would stop the client, if anything."""
    errcode = call.never or (call.new_account if is_new else None)
    if errcode is not None:
        return None if (status, body.get("errcode")) == (404, errcode) else f"not a 404 {errcode}"
    if status != 200:
        return "not a success"
    for path in call.reads:
        try:
            members(body, [filled(part, known) for part in path.split("/")])
        except KeyError as missing:
            return f"{path}: {missing} is missing"
    operation = operations().get(f"{call.method} {call.path}")
    if operation is None or operation.name == NO_TURN_SERVER:
        return None
    return "; ".join(response_faults(operation, status, body)) or None


async def replay(
    node: Node, calls: tuple[Call, ...], known: dict[str, Any], *, is_new: bool
) -> list[tuple[Call, Answer]]:
    """Raises: AssertionError, at the first answer that would stop the client."""
    client = Client(node.http)
    answers = []
    for call in calls:
        params = {**known, **call.params}
        path = NAME.sub(lambda name, params=params: quote(params[name[1]], safe=""), call.path)
        query = filled(dict(call.query), known)
        answer = await client.ask(call.method, path, filled(call.body, known), **query)
        wrong = fault(call, answer.status, answer.body, known, is_new=is_new)
        assert wrong is None, f"{call.method} {path} {query}: {wrong}\n{answer.status} {answer.body}"
        assert answer.headers["access-control-allow-origin"] == "*"
        allowed = await node.http.options(path, headers={"Access-Control-Request-Method": call.method})
        assert (allowed.status_code, allowed.content) == (204, b"")
        assert "Authorization" in allowed.headers["access-control-allow-headers"]
        for member, name in call.keeps.items():
            [known[name]] = members(answer.body, member.split("/"))
        if "token" in known and client.token is None:
            client.token, client.user_id, client.device_id = known["token"], known["userId"], known["device_id"]
            known |= {
                "device_keys": device_keys(client),
                "one_time_keys": one_time_keys("A", "B"),
                "fallback_keys": one_time_keys("F"),
            }
        answers.append((call, answer))
    return answers


async def old_account(node: Node) -> World:
    """Alice has rooms, keys, a backup, secret storage and a dehydrated device."""
    world = await populate(node)
    await spread(node)
    for room in world.rooms:
        assert (await world.alice.post(at(room, "receipt", "m.read", world.events[room][1]))).status == 200
    me = quote(world.alice.user_id)
    for kind, content in (
        ("m.secret_storage.default_key", {"key": "abc"}),
        ("m.secret_storage.key.abc", {"algorithm": "m.secret_storage.v1.aes-hmac-sha2"}),
        ("m.cross_signing.master", {"encrypted": {"abc": {"iv": "a", "ciphertext": "b", "mac": "c"}}}),
    ):
        assert (await world.alice.put(f"/user/{me}/account_data/{kind}", content)).status == 200
    path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
    assert (await world.alice.put(path, upload_of(world.alice))).status == 200
    return world


@pytest.mark.parametrize("name", STARTUPS)
async def test_a_new_account(name: str) -> None:
    async with running_node() as node:
        await node.register("alice")
        known = {"localpart": "alice", "password": "secret", "room": "!none:a.example"}
        answers = await replay(node, STARTUPS[name], known, is_new=True)
        assert len(answers) == len(STARTUPS[name])


async def test_an_account_with_rooms() -> None:
    """One node for all clients: each logs in as a further device."""
    async with running_node() as node:
        world = await old_account(node)
        joined = {*world.rooms, world.space}
        for name, calls in STARTUPS.items():
            known = {"localpart": "alice", "password": "secret", "room": world.rooms[0]}
            answers = await replay(node, calls, known, is_new=False)
            syncs = [answer for call, answer in answers if call.path.endswith("/sync")]
            if name == "Element X":
                shows_the_room_list(world, [answer for call, answer in answers if call.path == SLIDING])
            else:
                assert set(syncs[0]["rooms"]["join"]) == joined
                assert len(syncs[0]["rooms"]["invite"]) == 1
                assert syncs[1]["rooms"]["join"] == {}


def shows_the_room_list(world: World, answers: list[Answer]) -> None:
    """What Element X needs to show its first screen, and then an opened room."""
    crypto, first, crypto_again, wider, opened = answers
    assert crypto["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert crypto_again["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 2}
    assert crypto_again["extensions"]["e2ee"]["device_unused_fallback_key_types"] == ["signed_curve25519"]
    rooms = first["rooms"]
    assert {*world.rooms, world.space} <= set(rooms)
    assert first["lists"]["all_rooms"]["count"] == len(rooms)
    assert [room for room in rooms.values() if room.get("invite_state")]
    for room_id in world.rooms:
        room = rooms[room_id]
        assert room["initial"] is True
        assert len(room["timeline"]) == 1
        assert room["joined_count"] == 3
        given = {(event["type"], event["state_key"]) for event in room["required_state"]}
        assert given >= {("m.room.create", ""), ("m.room.avatar", ""), ("m.room.member", world.alice.user_id)}
        assert ("m.room.member", room["timeline"][0]["sender"]) in given
    extensions = first["extensions"]
    assert "m.push_rules" in {event["type"] for event in extensions["account_data"]["global"]}
    assert set(extensions["receipts"]["rooms"]) >= set(world.rooms)
    assert wider["rooms"] == {}
    assert len(opened["rooms"][world.rooms[0]]["timeline"]) > 5


def test_what_would_stop_a_client_is_seen() -> None:
    known = {"userId": "@a:b.example", "device_id": "D"}
    [backup] = [call for call in ELEMENT_WEB if call.path.endswith("room_keys/version")]
    missing = {"errcode": "M_NOT_FOUND", "error": "none"}
    assert fault(backup, 404, missing, known, is_new=True) is None
    assert fault(backup, 404, missing, known, is_new=False)
    assert fault(backup, 404, {**missing, "errcode": "M_UNRECOGNIZED"}, known, is_new=True)
    [oauth, _] = [call for call in ELEMENT_X if call.path.endswith("auth_metadata")]
    assert fault(oauth, 404, missing, known, is_new=True)
    sync = get("/_matrix/client/v3/sync", "next_batch", "rooms/join/*/timeline/events")
    rooms = {"join": {"!a:b.example": {"timeline": {"events": []}}}}
    assert fault(sync, 200, {"next_batch": "s", "rooms": rooms}, known, is_new=True) is None
    assert fault(sync, 200, {"rooms": rooms}, known, is_new=True)
    assert fault(sync, 200, {"next_batch": "s", "rooms": {"join": {"!a:b.example": {}}}}, known, is_new=True)
    assert fault(sync, 200, {"next_batch": 7, "rooms": rooms}, known, is_new=True)
    assert fault(sync, 500, {"errcode": "M_UNKNOWN", "error": "x"}, known, is_new=True)
