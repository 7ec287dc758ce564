"""Device keys, one-time keys, cross-signing: on one node."""

import asyncio
from typing import Any

import pytest

from p2pserver.events.signing import Signer, sign_json
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.store.device_lists import device_list_changes
from p2pserver.store.one_time_keys import CLAIMED_REMEMBERED_MAX, otk_changed_since, otk_counts, unused_fallback
from tests.client_api.harness import Client, Node, running_node

PASSWORD = {"type": "m.login.password", "password": "secret"}


def seed_of(name: str) -> bytes:
    return name.encode().ljust(32, b"\0")


def device_signer(client: Client) -> Signer:
    return Signer(client.user_id, f"ed25519:{client.device_id}", seed_of(client.user_id[:8] + client.device_id))


def device_keys(client: Client, **changes: Any) -> dict[str, Any]:
    """What a client uploads for its device, signed by it."""
    signer = device_signer(client)
    keys = {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"ed25519:{client.device_id}": encode_base64(signer.verify_key),
            f"curve25519:{client.device_id}": encode_base64(b"c" * 32),
        },
        **changes,
    }
    return sign_json(keys, signer)


def one_time_keys(*names: str, salt: str = "") -> dict[str, Any]:
    return {f"signed_curve25519:{name}": {"key": f"key {name}{salt}", "signatures": {}} for name in names}


class CrossSigner:
    """The three cross-signing keys of a user."""

    def __init__(self, user_id: str, name: str = "") -> None:
        self.user_id = user_id
        self.signers: dict[str, Signer] = {}
        self.public: dict[str, str] = {}
        for usage in ("master", "self_signing", "user_signing"):
            verify_key = Signer(user_id, "ed25519:x", seed_of(f"{usage}{name}{user_id[:6]}")).verify_key
            self.public[usage] = encode_base64(verify_key)
            self.signers[usage] = Signer(
                user_id, f"ed25519:{self.public[usage]}", seed_of(f"{usage}{name}{user_id[:6]}")
            )

    def key(self, usage: str) -> dict[str, Any]:
        public = self.public[usage]
        key = {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}
        return key if usage == "master" else sign_json(key, self.signers["master"])

    def upload(self) -> dict[str, Any]:
        return {f"{usage}_key": self.key(usage) for usage in self.signers}


def resigned(signed: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """The object with this signature alone, as clients upload it."""
    return sign_json({name: value for name, value in signed.items() if name not in ("signatures", "unsigned")}, signer)


async def counts(node: Node, client: Client) -> tuple[dict[str, int], list[str]]:
    return await node.database.read(
        lambda tx: (
            otk_counts(tx, client.user_id, client.device_id),
            unused_fallback(tx, client.user_id, client.device_id),
        )
    )


async def claim(client: Client, target: Client) -> list[str]:
    """The key IDs that one claim brings."""
    body = {"one_time_keys": {target.user_id: {target.device_id: "signed_curve25519"}}}
    answer = await client.post("/keys/claim", body)
    assert answer["failures"] == {}
    return list(answer["one_time_keys"].get(target.user_id, {}).get(target.device_id, {}))


async def test_device_keys_are_served_as_uploaded_with_the_devices_name() -> None:
    async with running_node() as node:
        alice = await node.register("alice", initial_device_display_name="phone")
        bob = await node.register("bob")
        keys = device_keys(alice)
        assert (await alice.post("/keys/upload", {"device_keys": keys})).body == {
            "one_time_key_counts": {"signed_curve25519": 0}
        }
        answer = await bob.post("/keys/query", {"device_keys": {alice.user_id: [], f"@none:{node.server_name}": []}})
        expected = {**keys, "unsigned": {"device_display_name": "phone"}}
        assert answer["device_keys"] == {alice.user_id: {alice.device_id: expected}}
        assert answer["failures"] == {}
        other = await bob.post("/keys/query", {"device_keys": {alice.user_id: ["OTHER"], bob.user_id: []}})
        assert other["device_keys"] == {alice.user_id: {}, bob.user_id: {}}


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"device_keys": []}, 400, "M_BAD_JSON"),
        ({"device_keys": {}}, 400, "M_INVALID_PARAM"),
        ({"one_time_keys": []}, 400, "M_BAD_JSON"),
        ({"one_time_keys": {"signed_curve25519": {"key": "x"}}}, 400, "M_INVALID_PARAM"),
        ({"one_time_keys": {"signed_curve25519:": {"key": "x"}}}, 400, "M_INVALID_PARAM"),
        ({"one_time_keys": {"signed_curve25519:A": 7}}, 400, "M_INVALID_PARAM"),
        ({"one_time_keys": {"signed_curve25519:A": {"key": "x", "n": 0.5}}}, 400, "M_BAD_JSON"),
        ({"fallback_keys": {"signed_curve25519:A": {"key": "x" * 20_000}}}, 413, "M_TOO_LARGE"),
        ({"one_time_keys": one_time_keys(*map(str, range(1001)))}, 400, "M_INVALID_PARAM"),
    ],
)
async def test_uploads_that_are_refused_keep_nothing(body: dict[str, Any], status: int, errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        body = {"one_time_keys": one_time_keys("A"), **body}
        answer = await alice.post("/keys/upload", body)
        assert (answer.status, answer.errcode) == (status, errcode)
        assert (await counts(node, alice))[0] == {"signed_curve25519": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "@bob:example.org"},
        {"device_id": "OTHER"},
        {"algorithms": "m.olm"},
        {"keys": {"ed25519:X": 7}},
        {"keys": []},
    ],
)
async def test_device_keys_of_somebody_else_or_without_shape_are_refused(changes: dict[str, Any]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.post("/keys/upload", {"device_keys": device_keys(alice, **changes)})
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_one_time_keys_are_handed_out_once_and_in_order() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        for name in ("C", "A", "B"):
            await alice.post("/keys/upload", {"one_time_keys": one_time_keys(name)})
        assert (await counts(node, alice))[0] == {"signed_curve25519": 3}
        got = [(await claim(bob, alice)) for _ in range(4)]
        assert got == [["signed_curve25519:C"], ["signed_curve25519:A"], ["signed_curve25519:B"], []]
        assert (await alice.post("/keys/upload"))["one_time_key_counts"] == {"signed_curve25519": 0}


async def test_many_claims_at_once_never_get_the_same_key() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await alice.post("/keys/upload", {"one_time_keys": one_time_keys(*map(str, range(50)))})
        got = await asyncio.gather(*(claim(bob, alice) for _ in range(60)))
        claimed = [key for keys in got for key in keys]
        assert len(claimed) == len(set(claimed)) == 50


async def test_the_same_key_again_is_fine_and_another_under_its_name_is_not() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        upload = {"one_time_keys": one_time_keys("A", "B")}
        await alice.post("/keys/upload", upload)
        assert (await alice.post("/keys/upload", upload))["one_time_key_counts"] == {"signed_curve25519": 2}
        other = {"one_time_keys": {**one_time_keys("C"), **one_time_keys("A", salt="!")}}
        refused = await alice.post("/keys/upload", other)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
        assert (await counts(node, alice))[0] == {"signed_curve25519": 2}
        assert await claim(bob, alice) == ["signed_curve25519:A"]
        # What was handed out does not come back by a repeated upload, nor under its name with other content.
        assert (await alice.post("/keys/upload", upload))["one_time_key_counts"] == {"signed_curve25519": 1}
        assert (await alice.post("/keys/upload", other)).errcode == "M_INVALID_PARAM"
        assert await claim(bob, alice) == ["signed_curve25519:B"]
        assert await claim(bob, alice) == []


async def test_what_is_remembered_of_claimed_keys_is_bounded() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await node.database.write(
            lambda tx: tx.many(
                "INSERT INTO claimed_keys (user_id, device_id, key_id, digest) VALUES (?, ?, ?, x'00')",
                ((alice.user_id, alice.device_id, f"old:{n}") for n in range(CLAIMED_REMEMBERED_MAX)),
            )
        )
        await alice.post("/keys/upload", {"one_time_keys": one_time_keys("A")})
        assert await claim(bob, alice) == ["signed_curve25519:A"]
        rows = await node.database.read(lambda tx: tx.all("SELECT key_id FROM claimed_keys ORDER BY number"))
        assert len(rows) == CLAIMED_REMEMBERED_MAX
        assert (rows[0][0], rows[-1][0]) == ("old:1", "signed_curve25519:A")


async def test_fallback_keys_are_used_when_the_others_are_gone() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        assert (await counts(node, alice))[1] == []
        upload = {"one_time_keys": one_time_keys("A"), "fallback_keys": one_time_keys("F1")}
        await alice.post("/keys/upload", upload)
        assert (await counts(node, alice))[1] == ["signed_curve25519"]
        assert await claim(bob, alice) == ["signed_curve25519:A"]
        assert await claim(bob, alice) == ["signed_curve25519:F1"]
        assert await claim(bob, alice) == ["signed_curve25519:F1"]
        assert (await counts(node, alice))[1] == []
        await alice.post("/keys/upload", {"fallback_keys": one_time_keys("F1")})
        assert (await counts(node, alice))[1] == []
        await alice.post("/keys/upload", {"fallback_keys": one_time_keys("F2")})
        assert (await counts(node, alice))[1] == ["signed_curve25519"]
        assert await claim(bob, alice) == ["signed_curve25519:F2"]


async def test_a_claim_wakes_the_device_and_tells_that_its_count_changed() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await alice.post("/keys/upload", {"one_time_keys": one_time_keys("A")})
        before = node.database.position
        waiting = asyncio.create_task(node.database.wait([f"user:{alice.user_id}"], after=before, timeout_s=5))
        await asyncio.sleep(0)
        await claim(bob, alice)
        assert await waiting
        changed = await node.database.read(
            lambda tx: [
                otk_changed_since(tx, alice.user_id, alice.device_id, since) for since in (before, tx.position())
            ]
        )
        assert changed == [True, False]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"one_time_keys": []},
        {"one_time_keys": {"@a:b": []}},
        {"one_time_keys": {"@a:b": {"D": 7}}},
        {"one_time_keys": {"@a:b": {"D": "x"}}, "timeout": "long"},
    ],
)
async def test_claims_that_are_refused(body: dict[str, Any]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.post("/keys/claim", body)
        assert answer.status == 400
        assert answer.errcode in ("M_BAD_JSON", "M_MISSING_PARAM")


async def test_logging_out_deletes_keys() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        upload = {"device_keys": device_keys(alice), "one_time_keys": one_time_keys("A")}
        await alice.post("/keys/upload", upload | {"fallback_keys": one_time_keys("F")})
        await alice.post("/logout")
        assert (await bob.post("/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"] == {
            alice.user_id: {}
        }
        assert await claim(bob, alice) == []


async def test_cross_signing_keys_first_again_and_others() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        first, second = CrossSigner(alice.user_id), CrossSigner(alice.user_id, "second")
        assert (await alice.post("/keys/device_signing/upload", first.upload())).body == {}
        assert (await alice.post("/keys/device_signing/upload", first.upload())).body == {}
        asked = await alice.post("/keys/device_signing/upload", second.upload())
        assert (asked.status, asked.errcode) == (401, None)
        mine = await alice.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert mine["master_keys"] == {alice.user_id: first.key("master")}
        assert mine["self_signing_keys"] == {alice.user_id: first.key("self_signing")}
        assert mine["user_signing_keys"] == {alice.user_id: first.key("user_signing")}
        theirs = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert theirs["master_keys"] == mine["master_keys"]
        assert theirs["user_signing_keys"] == {}
        auth = {**PASSWORD, "session": asked.body["session"]}
        assert (await alice.post("/keys/device_signing/upload", {**second.upload(), "auth": auth})).body == {}
        mine = await alice.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert mine["master_keys"] == {alice.user_id: second.key("master")}


async def test_cross_signing_keys_that_are_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        keys, others = CrossSigner(alice.user_id), CrossSigner(alice.user_id, "other")
        bob_key = CrossSigner(f"@bob:{node.server_name}").key("master")
        for body, status, errcode in [
            ({}, 400, "M_MISSING_PARAM"),
            ({"self_signing_key": keys.key("self_signing")}, 400, "M_MISSING_PARAM"),
            ({"master_key": bob_key}, 400, "M_INVALID_PARAM"),
            ({"master_key": keys.key("self_signing")}, 400, "M_INVALID_PARAM"),
            ({"master_key": "key"}, 400, "M_BAD_JSON"),
            (
                {"master_key": keys.key("master"), "self_signing_key": others.key("self_signing")},
                400,
                "M_INVALID_SIGNATURE",
            ),
            ({"master_key": {**keys.key("master"), "keys": {"ed25519:a": "b"}}}, 400, "M_INVALID_PARAM"),
        ]:
            answer = await alice.post("/keys/device_signing/upload", body)
            assert (answer.status, answer.errcode) == (status, errcode), body
        assert (await alice.post("/keys/query", {"device_keys": {alice.user_id: []}}))["master_keys"] == {}


async def test_a_cross_signing_key_may_not_have_the_name_of_a_device() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        keys = CrossSigner(alice.user_id)
        await node.log_in("alice", device_id=keys.public["master"])
        answer = await alice.post("/keys/device_signing/upload", keys.upload())
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_signatures_on_own_device_and_master_key_are_merged_in() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        keys = CrossSigner(alice.user_id)
        device = device_keys(alice)
        await alice.post("/keys/upload", {"device_keys": device})
        await alice.post("/keys/device_signing/upload", keys.upload())
        before = node.database.position
        body = {
            alice.user_id: {
                alice.device_id: resigned(device, keys.signers["self_signing"]),
                keys.public["master"]: resigned(keys.key("master"), device_signer(alice)),
            }
        }
        assert (await alice.post("/keys/signatures/upload", body)).body == {"failures": {}}
        answer = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
        signed = answer["device_keys"][alice.user_id][alice.device_id]["signatures"][alice.user_id]
        assert set(signed) == {f"ed25519:{alice.device_id}", f"ed25519:{keys.public['self_signing']}"}
        master = answer["master_keys"][alice.user_id]["signatures"][alice.user_id]
        assert set(master) == {f"ed25519:{alice.device_id}"}
        changed, _ = await node.database.read(lambda tx: device_list_changes(tx, alice.user_id, before, tx.position()))
        assert changed == [alice.user_id]
        # The device uploads its own keys again, as clients do: the signature of the user stays.
        await alice.post("/keys/upload", {"device_keys": device})
        again = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert again.body == answer.body


async def test_a_signature_on_somebody_else_is_seen_by_the_signer_alone() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        alices, bobs = CrossSigner(alice.user_id), CrossSigner(bob.user_id)
        await alice.post("/keys/device_signing/upload", alices.upload())
        await bob.post("/keys/device_signing/upload", bobs.upload())
        before = node.database.position
        signed = resigned(bobs.key("master"), alices.signers["user_signing"])
        body = {bob.user_id: {bobs.public["master"]: signed}}
        assert (await alice.post("/keys/signatures/upload", body)).body == {"failures": {}}
        question = {"device_keys": {bob.user_id: []}}
        seen = (await alice.post("/keys/query", question))["master_keys"][bob.user_id]
        assert seen["signatures"] == signed["signatures"]
        assert "signatures" not in (await bob.post("/keys/query", question))["master_keys"][bob.user_id]
        for user, changed in ((alice, [bob.user_id]), (bob, [])):
            found = await node.database.read(
                lambda tx, user=user: device_list_changes(tx, user.user_id, before, tx.position())
            )
            assert found == (changed, [])


async def test_signatures_that_are_refused_stand_alone() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        alices, bobs = CrossSigner(alice.user_id), CrossSigner(bob.user_id)
        device = device_keys(alice)
        await alice.post("/keys/upload", {"device_keys": device})
        await alice.post("/keys/device_signing/upload", alices.upload())
        await bob.post("/keys/device_signing/upload", bobs.upload())
        good = resigned(device, alices.signers["self_signing"])
        forged = {**good, "algorithms": []}
        by_other = resigned(device, bobs.signers["self_signing"])
        wrong = resigned(bobs.key("master"), alices.signers["self_signing"])
        for target, key_id, value, errcode in [
            (alice.user_id, alice.device_id, forged, "M_INVALID_PARAM"),
            (alice.user_id, alice.device_id, by_other, "M_INVALID_PARAM"),
            (alice.user_id, alice.device_id, "text", "M_BAD_JSON"),
            (alice.user_id, "UNKNOWN", good, "M_NOT_FOUND"),
            (bob.user_id, bobs.public["master"], wrong, "M_INVALID_SIGNATURE"),
            (bob.user_id, "UNKNOWN", wrong, "M_NOT_FOUND"),
            (f"@carol:{node.server_name}", "x", good, "M_NOT_FOUND"),
            ("nobody", "x", good, "M_NOT_FOUND"),
        ]:
            answer = await alice.post("/keys/signatures/upload", {target: {key_id: value}})
            assert answer["failures"][target][key_id]["errcode"] == errcode
        body = {alice.user_id: {alice.device_id: good, "UNKNOWN": good}}
        answer = await alice.post("/keys/signatures/upload", body)
        assert list(answer["failures"][alice.user_id]) == ["UNKNOWN"]
        assert (await alice.post("/keys/signatures/upload", {alice.user_id: []})).errcode == "M_BAD_JSON"
        tampered = {**good, "signatures": {alice.user_id: dict.fromkeys(good["signatures"][alice.user_id], "A" * 86)}}
        answer = await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: tampered}})
        assert answer["failures"][alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"


@pytest.mark.parametrize("query", [{}, {"from": "s0"}, {"from": "x", "to": "s1"}, {"from": "s1", "to": "12"}])
async def test_key_changes_need_two_tokens(query: dict[str, str]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        assert (await alice.get("/keys/changes", **query)).status == 400
