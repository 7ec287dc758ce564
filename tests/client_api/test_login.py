"""Registering, logging in and out, devices, passwords."""

from tests.client_api.harness import running_node


async def test_register_log_in_and_ask_who_one_is() -> None:
    async with running_node() as node:
        alice = await node.register("Alice")
        assert alice.user_id == f"@alice:{node.server_name}"
        assert (await alice.get("/account/whoami")).body == {
            "user_id": alice.user_id,
            "device_id": alice.device_id,
            "is_guest": False,
        }
        again = await node.log_in("alice")
        assert again.device_id != alice.device_id
        by_full_id = await node.log_in(alice.user_id, device_id="PHONE")
        assert by_full_id.device_id == "PHONE"
        old_style = {"type": "m.login.password", "user": "alice", "password": "secret"}
        assert (await node.stranger().post("/login", old_style)).status == 200
