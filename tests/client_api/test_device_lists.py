"""Who is told that somebody's keys changed: on one node, and between two whose wire comes and goes."""

from typing import Any

from p2pserver.rooms.edus import receive_edu
from p2pserver.store.outbox import destinations
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import at, invite_and_join, join, new_room, sync
from tests.client_api.test_keys import CrossSigner, device_keys, one_time_keys, resigned


async def upload(client: Client, *, otks: int = 0) -> dict[str, Any]:
    keys = device_keys(client)
    body = {"device_keys": keys, "one_time_keys": one_time_keys(*map(str, range(otks)))}
    assert (await client.post("/keys/upload", body)).status == 200
    return keys


async def lists(client: Client, since: str) -> tuple[list[str], list[str]]:
    """(changed, left) by `/sync`, which `/keys/changes` has to agree with."""
    answer = await sync(client, since)
    listed = answer["device_lists"]
    changes = await client.ask("GET", "/keys/changes", **{"from": since, "to": answer["next_batch"]})
    assert sorted(listed.get("changed", [])) == changes["changed"]
    assert sorted(listed.get("left", [])) == changes["left"]
    return changes["changed"], changes["left"]


async def token(client: Client) -> str:
    next_batch: str = (await sync(client))["next_batch"]
    return next_batch


async def test_those_who_share_a_room_learn_of_every_change_and_nobody_else() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room = await new_room(alice)
        await invite_and_join(alice, room, bob)
        for change in ("keys", "cross-signing", "signature", "name", "new device", "logout"):
            since = {client.user_id: await token(client) for client in (alice, bob, carol)}
            if change == "keys":
                keys = await upload(alice)
            elif change == "cross-signing":
                signer = CrossSigner(alice.user_id)
                await alice.post("/keys/device_signing/upload", signer.upload())
            elif change == "signature":
                signed = resigned(keys, signer.signers["self_signing"])
                body = {alice.user_id: {alice.device_id: signed}}
                assert (await alice.post("/keys/signatures/upload", body)).body == {"failures": {}}
            elif change == "name":
                await alice.put(f"/devices/{alice.device_id}", {"display_name": "phone"})
            elif change == "new device":
                other = await node.log_in("alice")
                await upload(other)
            else:
                await other.post("/logout")
            assert await lists(alice, since[alice.user_id]) == ([alice.user_id], []), change
            assert await lists(bob, since[bob.user_id]) == ([alice.user_id], []), change
            assert await lists(carol, since[carol.user_id]) == ([], []), change


async def test_what_changes_nothing_tells_nobody() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await upload(alice)
        signer = CrossSigner(alice.user_id)
        await alice.post("/keys/device_signing/upload", signer.upload())
        since = await token(alice)
        await upload(alice)
        await alice.post("/keys/device_signing/upload", signer.upload())
        device_without_keys = await node.log_in("alice")
        await device_without_keys.post("/logout")
        assert await lists(alice, since) == ([], [])


async def test_changed_when_the_first_room_is_shared_and_left_with_the_last() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        first, second = await new_room(alice), await new_room(alice)
        since = {"alice": await token(alice), "bob": await token(bob)}
        await invite_and_join(alice, first, bob)
        assert await lists(alice, since["alice"]) == ([bob.user_id], [])
        assert await lists(bob, since["bob"]) == ([alice.user_id], [])
        await invite_and_join(alice, second, bob)
        since = {"alice": await token(alice), "bob": await token(bob)}
        await bob.post(at(first, "leave"))
        assert await lists(alice, since["alice"]) == ([], [])
        assert await lists(bob, since["bob"]) == ([], [])
        await alice.post(at(second, "kick"), {"user_id": bob.user_id})
        assert await lists(alice, since["alice"]) == ([], [bob.user_id])
        assert await lists(bob, since["bob"]) == ([], [alice.user_id])
        renamed = await token(alice)
        await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "A"})
        assert await lists(alice, renamed) == ([], [])


async def shared_room(here: Node, there: Node, alice: Client, bob: Client) -> str:
    """A room of alice, who is here, that bob joined from there."""
    room = await new_room(alice, preset="public_chat")
    answer = await bob.ask("POST", f"/join/{room}", {}, via=here.server_name)
    assert answer.status == 200, answer.body
    await carry(there, here)
    assert (await alice.get(at(room, "joined_members")))["joined"].keys() == {alice.user_id, bob.user_id}
    return room


async def query(client: Client, target: Client) -> Any:
    return await client.post("/keys/query", {"device_keys": {target.user_id: []}})


async def test_keys_of_another_node_are_asked_for_and_kept_for_when_it_is_away() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob", initial_device_display_name="secret")
        keys = await upload(bob)
        signer = CrossSigner(bob.user_id)
        await bob.post("/keys/device_signing/upload", signer.upload())
        wire.plugged = False
        unknown = await query(alice, bob)
        assert unknown["device_keys"] == {}
        assert unknown["failures"] == {there.server_name: {}}
        wire.plugged = True
        found = await query(alice, bob)
        assert found["device_keys"] == {bob.user_id: {bob.device_id: keys}}
        assert found["master_keys"] == {bob.user_id: signer.key("master")}
        assert found["self_signing_keys"] == {bob.user_id: signer.key("self_signing")}
        assert found["user_signing_keys"] == {}
        assert found["failures"] == {}
        wire.plugged = False
        assert (await query(alice, bob)).body == found.body
        one = {"device_keys": {bob.user_id: ["OTHER"], alice.user_id: []}}
        partly = await alice.post("/keys/query", one)
        assert partly["device_keys"] == {bob.user_id: {}, alice.user_id: {}}
        nobody = f"@nobody:{there.server_name}"
        assert (await alice.post("/keys/query", {"device_keys": {nobody: []}}))["failures"] == {there.server_name: {}}
        wire.plugged = True
        answer = await alice.post("/keys/query", {"device_keys": {nobody: []}})
        assert (answer["device_keys"], answer["failures"]) == ({}, {})


async def test_keys_are_claimed_from_another_node_and_a_server_that_is_away_is_a_failure_at_once() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await upload(bob, otks=1)
        await bob.post("/keys/upload", {"fallback_keys": one_time_keys("F")})
        body = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519", "NONE": "signed_curve25519"}}}
        wire.plugged = False
        away = await alice.post("/keys/claim", body)
        assert (away["one_time_keys"], away["failures"]) == ({}, {there.server_name: {}})
        wire.plugged = True
        for key_id in ("signed_curve25519:0", "signed_curve25519:F"):
            answer = await alice.post("/keys/claim", body)
            assert answer["failures"] == {}
            assert {
                user: {device: list(keys) for device, keys in by.items()}
                for user, by in answer["one_time_keys"].items()
            } == {bob.user_id: {bob.device_id: [key_id]}}


async def test_a_change_during_a_partition_is_told_when_it_heals() -> None:
    async with two_nodes() as (here, there, wire, there_wire):
        alice, bob = await here.register("alice"), await there.register("bob")
        first_keys = await upload(bob)
        await shared_room(here, there, alice, bob)
        await carry(here, there)
        assert (await query(alice, bob))["device_keys"][bob.user_id] == {bob.device_id: first_keys}
        wire.plugged = there_wire.plugged = False
        since = await token(alice)
        tablet = await there.log_in("bob")
        await upload(tablet)
        signer = CrossSigner(bob.user_id)
        await bob.post("/keys/device_signing/upload", signer.upload())
        assert await there.database.read(destinations) == [here.server_name]
        assert await lists(alice, since) == ([], [])
        assert (await query(alice, bob))["device_keys"][bob.user_id] == {bob.device_id: first_keys}
        wire.plugged = there_wire.plugged = True
        await carry(there, here, twice=True)
        assert await lists(alice, since) == ([bob.user_id], [])
        healed = await query(alice, bob)
        assert set(healed["device_keys"][bob.user_id]) == {bob.device_id, tablet.device_id}
        assert healed["master_keys"][bob.user_id] == signer.key("master")
        since = await token(alice)
        await tablet.post("/logout")
        await carry(there, here)
        assert await lists(alice, since) == ([bob.user_id], [])
        assert set((await query(alice, bob))["device_keys"][bob.user_id]) == {bob.device_id}


async def test_an_answer_that_differs_without_an_update_before_it_tells_the_clients() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await shared_room(here, there, alice, bob)
        await upload(bob)
        await query(alice, bob)
        await carry(there, here)
        await query(alice, bob)
        since = await token(alice)
        await query(alice, bob)
        assert await lists(alice, since) == ([], [])
        await upload(await there.log_in("bob"))
        await query(alice, bob)
        assert await lists(alice, since) == ([bob.user_id], [])


async def test_servers_that_share_no_room_are_told_nothing() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        room = await shared_room(here, there, alice, bob)
        await alice.post(at(room, "kick"), {"user_id": bob.user_id})
        await carry(here, there)
        await upload(alice)
        assert await here.database.read(destinations) == []


async def test_a_server_says_nothing_about_the_keys_of_others() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await shared_room(here, there, alice, bob)
        keys = await upload(bob)
        await query(alice, bob)
        since = await token(alice)

        async def edu(content: Any) -> None:
            await here.database.write(lambda tx: receive_edu(tx, there.server_name, "m.device_list_update", content))

        for content in ({}, {"user_id": 7}, {"user_id": alice.user_id}, {"user_id": "@x:elsewhere"}):
            await edu(content)
        await edu({"user_id": f"@stranger:{there.server_name}"})
        assert await lists(alice, since) == ([], [])
        other = CrossSigner(alice.user_id)
        wire.answers["keys_query"] = {
            "device_keys": {
                bob.user_id: {
                    bob.device_id: {**keys, "unsigned": {"device_display_name": "x"}},
                    "WRONG": keys,
                    "LIST": [],
                    "FLOAT": {**keys, "device_id": "FLOAT", "x": 0.5},
                    "LARGE": {**keys, "device_id": "LARGE", "x": "y" * 20_000},
                },
                alice.user_id: {"EVIL": keys},
            },
            "master_keys": {bob.user_id: other.key("master"), alice.user_id: other.key("master")},
            "self_signing_keys": [],
        }
        answer = await query(alice, bob)
        assert answer["device_keys"] == {bob.user_id: {bob.device_id: keys}}
        assert answer["master_keys"] == answer["self_signing_keys"] == {}
        for forged in ({}, {"device_keys": []}, {"device_keys": {bob.user_id: []}}):
            wire.answers["keys_query"] = forged
            assert (await query(alice, bob))["device_keys"] == {}
        body = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
        for forged in (
            {},
            {"one_time_keys": {bob.user_id: {bob.device_id: []}}},
            {"one_time_keys": {bob.user_id: {bob.device_id: {"curve25519:A": "x"}}}},
            {"one_time_keys": {bob.user_id: {bob.device_id: {"signed_curve25519:A": 7}}}},
            {"one_time_keys": {bob.user_id: {bob.device_id: one_time_keys("A", "B")}}},
            {"one_time_keys": {alice.user_id: {bob.device_id: one_time_keys("A")}}},
        ):
            wire.answers["keys_claim"] = forged
            assert (await alice.post("/keys/claim", body))["one_time_keys"] == {}


async def test_a_signature_on_somebody_far_away_is_kept_and_shown_to_the_signer() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        alices, bobs = CrossSigner(alice.user_id), CrossSigner(bob.user_id)
        await alice.post("/keys/device_signing/upload", alices.upload())
        await bob.post("/keys/device_signing/upload", bobs.upload())
        signed = resigned(bobs.key("master"), alices.signers["user_signing"])
        body = {bob.user_id: {bobs.public["master"]: signed}}
        unknown = await alice.post("/keys/signatures/upload", body)
        assert unknown["failures"][bob.user_id][bobs.public["master"]]["errcode"] == "M_NOT_FOUND"
        await query(alice, bob)
        assert (await alice.post("/keys/signatures/upload", body)).body == {"failures": {}}
        for plugged in (True, False):
            wire.plugged = plugged
            seen = (await query(alice, bob))["master_keys"][bob.user_id]
            assert seen["signatures"] == signed["signatures"]


async def test_joining_wakes_nobody_twice() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = await new_room(alice, preset="public_chat")
        since = await token(alice)
        await join(bob, room)
        answer = await sync(alice, since)
        assert answer["device_lists"]["changed"] == [bob.user_id]
        assert (await sync(alice, answer["next_batch"]))["device_lists"].get("changed", []) == []


async def test_many_keys_are_asked_for_in_parts_and_put_together() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await upload(bob, otks=3)
        strangers = {f"@user{n}:{there.server_name}": [] for n in range(450)}
        answer = await alice.post("/keys/query", {"device_keys": {**strangers, bob.user_id: []}})
        assert list(answer["device_keys"]) == [bob.user_id]
        assert wire.asked == ["keys_query"] * 3
        wire.asked.clear()
        devices = {f"D{n}": "signed_curve25519" for n in range(100)}
        wanted = {bob.user_id: {**devices, bob.device_id: "signed_curve25519"}}
        claimed = await alice.post("/keys/claim", {"one_time_keys": wanted})
        assert list(claimed["one_time_keys"][bob.user_id]) == [bob.device_id]
        assert wire.asked == ["keys_claim"] * 3
        long = {"one_time_keys": {bob.user_id: {"D" * 256: "signed_curve25519"}}}
        assert (await alice.post("/keys/claim", long)).errcode == "M_INVALID_PARAM"
