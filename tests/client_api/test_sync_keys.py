"""What `/sync` says about keys: counts always, fallback keys always, at once when they change."""

import asyncio

from tests.client_api.harness import running_node
from tests.client_api.talk import sync
from tests.client_api.test_keys import claim, one_time_keys

OLD_NAME = "org.matrix.msc2732.device_unused_fallback_key_types"


async def test_counts_are_in_every_sync_and_a_claim_ends_a_long_poll() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        other = await node.log_in("alice")
        first = await sync(alice)
        assert first["device_one_time_keys_count"] == {"signed_curve25519": 0}
        assert first["device_unused_fallback_key_types"] == first[OLD_NAME] == []
        upload = {"one_time_keys": one_time_keys("A", "B"), "fallback_keys": one_time_keys("F")}
        await alice.post("/keys/upload", upload)
        second = await sync(alice, first["next_batch"])
        assert second["device_one_time_keys_count"] == {"signed_curve25519": 2}
        assert second["device_unused_fallback_key_types"] == second[OLD_NAME] == ["signed_curve25519"]
        assert (await sync(other))["device_one_time_keys_count"] == {"signed_curve25519": 0}
        since = second["next_batch"]
        for left, unused in ((1, ["signed_curve25519"]), (0, ["signed_curve25519"]), (0, [])):
            poll = asyncio.create_task(sync(alice, since, wait_ms=20_000))
            await asyncio.sleep(0.05)
            assert not poll.done()
            await claim(bob, alice)
            answer = await asyncio.wait_for(poll, 5)
            assert answer["device_one_time_keys_count"] == {"signed_curve25519": left}
            assert answer["device_unused_fallback_key_types"] == unused
            since = answer["next_batch"]


async def test_account_data_and_messages_of_another_device_end_a_long_poll() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        other = await node.log_in("alice")
        since = (await sync(alice))["next_batch"]
        poll = asyncio.create_task(sync(alice, since, wait_ms=20_000))
        await asyncio.sleep(0.05)
        await other.put(f"/user/{alice.user_id}/account_data/org.example", {"x": 1})
        answer = await asyncio.wait_for(poll, 5)
        assert answer["account_data"]["events"] == [{"type": "org.example", "content": {"x": 1}}]
        poll = asyncio.create_task(sync(alice, answer["next_batch"], wait_ms=20_000))
        await asyncio.sleep(0.05)
        await other.put("/sendToDevice/m.test/1", {"messages": {alice.user_id: {alice.device_id: {"n": 1}}}})
        answer = await asyncio.wait_for(poll, 5)
        assert [event["content"] for event in answer["to_device"]["events"]] == [{"n": 1}]
