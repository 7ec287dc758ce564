"""Key backups: versions, keys, which of two keys stays, and what nobody else can reach."""

from typing import Any

import pytest

from p2pserver.client_api import key_backup
from tests.client_api.harness import Client, running_node

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM, OTHER_ROOM = "!room:example.org", "!cqNX8CFhG9QVvyGC4dhcMVUVL3hBgFDTXLGcSpiS6Yo"


def key(first: int = 0, *, forwarded: int = 0, verified: bool = True, **data: Any) -> dict[str, Any]:
    return {
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": "c", "ephemeral": "e", "mac": "m", **data},
    }


async def new_backup(client: Client, **auth_data: Any) -> str:
    answer = await client.post("/room_keys/version", {"algorithm": ALGORITHM, "auth_data": auth_data})
    version: str = answer["version"]
    return version


async def put(client: Client, path: str, version: str, body: Any) -> Any:
    return await client.put(f"/room_keys/keys{path}?version={version}", body)


async def test_versions_are_made_read_changed_and_deleted() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        assert (await alice.get("/room_keys/version")).errcode == "M_NOT_FOUND"
        first, second = await new_backup(alice, public_key="one"), await new_backup(alice, public_key="two")
        assert first != second
        newest = (await alice.get("/room_keys/version")).body
        assert newest == {
            "version": second,
            "algorithm": ALGORITHM,
            "auth_data": {"public_key": "two"},
            "count": 0,
            "etag": newest["etag"],
        }
        other = {"algorithm": ALGORITHM, "auth_data": {"public_key": "three"}, "version": second}
        assert (await alice.put(f"/room_keys/version/{second}", other)).body == {}
        assert (await alice.get(f"/room_keys/version/{second}"))["auth_data"] == {"public_key": "three"}
        assert (await alice.get(f"/room_keys/version/{first}"))["auth_data"] == {"public_key": "one"}
        for wrong in ({**other, "version": first}, {**other, "algorithm": "m.other"}):
            assert (await alice.put(f"/room_keys/version/{second}", wrong)).errcode == "M_INVALID_PARAM"
        for _ in range(2):
            assert (await alice.delete(f"/room_keys/version/{second}")).body == {}
        assert (await alice.get("/room_keys/version"))["version"] == first
        assert await new_backup(alice) not in (first, second)
        for unknown in ("99", "0", "-1", "x", "01"):
            assert (await alice.get(f"/room_keys/version/{unknown}")).errcode == "M_NOT_FOUND"
            assert (await alice.put(f"/room_keys/version/{unknown}", {**other, "version": unknown})).status == 404
            assert (await alice.delete(f"/room_keys/version/{unknown}")).errcode == "M_NOT_FOUND"


async def test_keys_are_stored_and_read_in_all_three_shapes() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        version = await new_backup(alice)
        empty = (await alice.get(f"/room_keys/keys?version={version}")).body
        assert empty == {"rooms": {}}
        rooms = {ROOM: {"sessions": {"a/b": key(1)}}, OTHER_ROOM: {"sessions": {"c": key(2)}}}
        one = await put(alice, "", version, {"rooms": rooms})
        two = await put(alice, f"/{ROOM}", version, {"sessions": {"d": key(3)}})
        three = await put(alice, f"/{ROOM}/e%2Ff", version, key(4))
        assert [answer["count"] for answer in (one, two, three)] == [2, 3, 4]
        assert len({answer["etag"] for answer in (one, two, three)}) == 3
        rooms[ROOM]["sessions"].update({"d": key(3), "e/f": key(4)})
        assert (await alice.get(f"/room_keys/keys?version={version}")).body == {"rooms": rooms}
        assert (await alice.get(f"/room_keys/keys/{ROOM}?version={version}")).body == rooms[ROOM]
        assert (await alice.get(f"/room_keys/keys/{ROOM}/a%2Fb?version={version}")).body == key(1)
        assert (await alice.get(f"/room_keys/keys/{ROOM}/z?version={version}")).errcode == "M_NOT_FOUND"
        assert (await alice.get(f"/room_keys/keys/!empty:x.org?version={version}")).body == {"sessions": {}}
        about = (await alice.get("/room_keys/version")).body
        assert (about["count"], about["etag"]) == (4, three["etag"])


async def test_keys_are_deleted_by_session_room_and_whole() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        version = await new_backup(alice)
        rooms = {ROOM: {"sessions": {"a": key(), "b": key()}}, OTHER_ROOM: {"sessions": {"c": key(), "d": key()}}}
        etags = [(await put(alice, "", version, {"rooms": rooms}))["etag"]]
        for path, left in ((f"/{ROOM}/a", 3), (f"/{OTHER_ROOM}", 1), ("", 0)):
            answer = await alice.delete(f"/room_keys/keys{path}?version={version}")
            assert answer["count"] == left
            etags.append(answer["etag"])
        assert len(set(etags)) == 4


@pytest.mark.parametrize(
    ("held", "offered", "replaces"),
    [
        (key(5, verified=False), key(9, forwarded=9), True),
        (key(9, forwarded=9), key(0, verified=False), False),
        (key(5), key(4, forwarded=3), True),
        (key(5), key(6), False),
        (key(5, forwarded=2), key(5, forwarded=1), True),
        (key(5, forwarded=1), key(5, forwarded=2), False),
        (key(5), key(5), False),
    ],
)
async def test_the_better_key_of_a_session_stays(held: Any, offered: Any, replaces: bool) -> None:
    offered = {**offered, "session_data": {"ciphertext": "offered"}}
    async with running_node() as node:
        alice = await node.register("alice")
        version = await new_backup(alice)
        before = await put(alice, f"/{ROOM}/s", version, held)
        after = await put(alice, f"/{ROOM}/s", version, offered)
        assert (before["etag"] != after["etag"]) is replaces
        kept = (await alice.get(f"/room_keys/keys/{ROOM}/s?version={version}")).body
        assert kept == (offered if replaces else held)


async def test_keys_go_into_the_newest_backup_alone() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        old = await new_backup(alice)
        await put(alice, f"/{ROOM}/s", old, key())
        new = await new_backup(alice)
        refused = await put(alice, f"/{ROOM}/t", old, key())
        assert (refused.status, refused.errcode) == (403, "M_WRONG_ROOM_KEYS_VERSION")
        assert refused.body["current_version"] == new
        assert (await put(alice, f"/{ROOM}/t", "99", key())).errcode == "M_NOT_FOUND"
        assert (await alice.get(f"/room_keys/keys?version={old}")).body["rooms"][ROOM]["sessions"] == {"s": key()}
        assert (await alice.get("/room_keys/keys")).errcode == "M_MISSING_PARAM"


async def test_nobody_else_sees_a_backup_and_a_deleted_one_is_gone() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        version = await new_backup(alice)
        await put(alice, f"/{ROOM}/s", version, key())
        assert (await bob.get(f"/room_keys/keys?version={version}")).errcode == "M_NOT_FOUND"
        assert (await bob.delete(f"/room_keys/version/{version}")).errcode == "M_NOT_FOUND"
        assert await new_backup(bob) == version
        assert (await bob.get(f"/room_keys/keys?version={version}")).body == {"rooms": {}}
        await alice.delete(f"/room_keys/version/{version}")
        assert (await alice.get(f"/room_keys/keys?version={version}")).errcode == "M_NOT_FOUND"
        assert await node.database.read(lambda tx: tx.all("SELECT * FROM backed_up_keys")) == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"rooms": []}, "M_BAD_JSON"),
        ({"rooms": {"room": {"sessions": {}}}}, "M_INVALID_PARAM"),
        ({"rooms": {ROOM: 1}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": 1}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": {}}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"": key()}}}}, "M_INVALID_PARAM"),
        ({"rooms": {ROOM: {"sessions": {"s" * 256: key()}}}}, "M_INVALID_PARAM"),
        ({"rooms": {ROOM: {"sessions": {"s": key(-1)}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": {**key(), "forwarded_count": 1.5}}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": {**key(), "is_verified": 1}}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": {**key(), "session_data": "x"}}}}}, "M_BAD_JSON"),
        ({"rooms": {ROOM: {"sessions": {"s": key(ciphertext="x" * 20_000)}}}}, "M_TOO_LARGE"),
    ],
)
async def test_malformed_keys_change_nothing(body: Any, errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        version = await new_backup(alice)
        assert (await put(alice, "", version, body)).errcode == errcode
        assert (await alice.get(f"/room_keys/keys?version={version}")).body == {"rooms": {}}


async def test_an_account_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_backup, "VERSIONS_MAX", 2)
    monkeypatch.setattr(key_backup, "KEYS_PER_USER_MAX", 3)
    async with running_node() as node:
        alice = await node.register("alice")
        await new_backup(alice)
        version = await new_backup(alice)
        refused = await alice.post("/room_keys/version", {"algorithm": ALGORITHM, "auth_data": {}})
        assert refused.errcode == "M_TOO_LARGE"
        assert (await put(alice, f"/{ROOM}", version, {"sessions": {str(n): key() for n in range(3)}}))["count"] == 3
        assert (await put(alice, f"/{ROOM}", version, {"sessions": {"4": key()}})).errcode == "M_TOO_LARGE"
        assert (await alice.get("/room_keys/version"))["count"] == 3
