"""Account data, filters, push rules, capabilities, and what clients ask for at their start."""

from typing import Any

import pytest

from p2pserver.store.account_data import account_data_since
from p2pserver.store.tx import Tx
from tests.client_api.harness import Client, running_node


async def test_what_clients_ask_for_before_they_show_anything() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        versions = await node.stranger().get("/_matrix/client/versions")
        assert {"r0.6.1", "v1.1", "v1.3", "v1.10", "v1.11", "v1.12"} <= set(versions["versions"])
        assert "v1.13" not in versions["versions"]
        assert all(value is True for value in versions["unstable_features"].values())
        capabilities = (await alice.get("/capabilities"))["capabilities"]
        assert capabilities["m.room_versions"]["default"] == "12"
        assert capabilities["m.room_versions"]["available"] == {str(version): "stable" for version in range(1, 13)}
        assert (await alice.get("/thirdparty/protocols")).body == {}
        assert (await alice.get("/account/3pid")).body == {"threepids": []}
        assert (await alice.get("/pushers")).body == {"pushers": []}
        assert (await alice.get("/voip/turnServer")).body == {}
        assert (await alice.get("/media/config", version="v1")).body == {"m.upload.size": 100 << 20}
        assert (await alice.get("/_matrix/media/v3/config")).body == {"m.upload.size": 100 << 20}


async def test_a_missing_object_is_not_a_missing_endpoint() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        backup = await alice.get("/room_keys/version")
        assert (backup.status, backup.errcode) == (404, "M_NOT_FOUND")
        for path in ("/_matrix/client/v1/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"):
            answer = await alice.get(path)
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_account_data_is_kept_by_user_room_and_type() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = "!room:example.org"
        paths = {
            "everywhere": f"/user/{alice.user_id}/account_data/org.example%2Fa",
            "room": f"/user/{alice.user_id}/rooms/{room}/account_data/org.example%2Fa",
        }
        for name, path in paths.items():
            assert (await alice.get(path)).errcode == "M_NOT_FOUND"
            assert (await alice.put(path, {"where": name})).body == {}
        for name, path in paths.items():
            assert (await alice.get(path)).body == {"where": name}
            assert (await bob.get(path)).errcode == "M_FORBIDDEN"
            assert (await bob.put(path, {})).errcode == "M_FORBIDDEN"
        assert (await alice.put(f"/user/{alice.user_id}/rooms/room/account_data/a")).errcode == "M_INVALID_PARAM"
        assert (await alice.put(f"/user/{alice.user_id}/account_data/{'x' * 256}")).errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("kind", ["m.push_rules", "m.fully_read"])
async def test_types_with_an_endpoint_of_their_own_are_refused(kind: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.put(f"/user/{alice.user_id}/account_data/{kind}", {})
        assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")


async def test_account_data_since_a_position_comes_once_and_newest() -> None:
    async with running_node() as node:
        alice = await node.register("alice")

        def since(position: int) -> Any:
            def query(tx: Tx) -> Any:
                changes = account_data_since(tx, alice.user_id, position, tx.position())
                return [(change.room_id, change.type, change.content) for change in changes], tx.position()

            return node.database.read(query)

        first, position = await since(0)
        assert [kind for _, kind, _ in first] == ["m.push_rules"]
        for number in range(3):
            await alice.put(f"/user/{alice.user_id}/account_data/a", {"number": number})
        await alice.put(f"/user/{alice.user_id}/rooms/!r:x/account_data/b", {})
        changes, later = await since(position)
        assert changes == [(None, "a", {"number": 2}), ("!r:x", "b", {})]
        assert await since(later) == ([], later)


async def test_filters_are_checked_and_kept_by_user() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        definition = {"room": {"timeline": {"limit": 20}}, "org.example.unknown": {"kept": True}}
        filter_id = (await alice.post(f"/user/{alice.user_id}/filter", definition))["filter_id"]
        assert not filter_id.startswith("{")
        again = await alice.post(f"/user/{alice.user_id}/filter", definition)
        assert again["filter_id"] == filter_id
        assert (await alice.get(f"/user/{alice.user_id}/filter/{filter_id}")).body == definition
        assert (await alice.get(f"/user/{alice.user_id}/filter/77")).errcode == "M_NOT_FOUND"
        assert (await alice.get(f"/user/{alice.user_id}/filter/%C2%B2")).errcode == "M_NOT_FOUND"
        assert (await bob.get(f"/user/{alice.user_id}/filter/{filter_id}")).errcode == "M_FORBIDDEN"
        assert (await bob.get(f"/user/{bob.user_id}/filter/{filter_id}")).errcode == "M_NOT_FOUND"
        for wrong in ({"room": []}, {"room": {"timeline": {"limit": "many"}}}, {"room": {"rooms": "!r"}}):
            assert (await alice.post(f"/user/{alice.user_id}/filter", wrong)).errcode == "M_BAD_JSON"


async def rule_ids(client: Client, kind: str) -> list[str]:
    return [rule["rule_id"] for rule in (await client.get("/pushrules/"))["global"][kind]]


async def test_push_rules_begin_with_the_predefined_ones() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        rules = (await alice.get("/pushrules/"))["global"]
        assert (await alice.get("/pushrules")).body == {"global": rules}
        assert (await alice.get("/pushrules/global")).body == rules
        assert (await alice.get("/pushrules/global/override/")).body == rules["override"]
        assert rules["override"][0]["rule_id"] == ".m.rule.master"
        assert rules["override"][0]["enabled"] is False
        assert {".m.rule.reaction", ".m.rule.suppress_edits"} <= {rule["rule_id"] for rule in rules["override"]}
        assert rules["content"][0]["pattern"] == "alice"
        mention = next(rule for rule in rules["override"] if rule["rule_id"] == ".m.rule.is_user_mention")
        assert mention["conditions"][0]["value"] == alice.user_id


async def test_push_rules_of_a_user() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        path = "/pushrules/global/override"
        actions = {"actions": ["notify", {"set_tweak": "highlight"}]}
        for name in ("one", "two"):
            assert (await alice.put(f"{path}/{name}", actions)).body == {}
        assert (await rule_ids(alice, "override"))[:3] == [".m.rule.master", "two", "one"]
        assert (await alice.ask("PUT", f"{path}/three", actions, after="two")).status == 200
        assert (await alice.ask("PUT", f"{path}/four", actions, before="two")).status == 200
        assert (await rule_ids(alice, "override"))[1:5] == ["four", "two", "three", "one"]
        assert (await alice.ask("PUT", f"{path}/five", actions, before="none")).errcode == "M_INVALID_PARAM"
        assert (await alice.put(f"{path}/two/enabled", {"enabled": False})).body == {}
        assert (await alice.get(f"{path}/two/enabled")).body == {"enabled": False}
        assert (await alice.put(f"{path}/two/actions", {"actions": []})).body == {}
        assert (await alice.get(f"{path}/two"))["actions"] == []
        assert (await alice.delete(f"{path}/two")).body == {}
        assert (await alice.get(f"{path}/two")).errcode == "M_NOT_FOUND"
        room_rule = "/pushrules/global/room/!room:example.org"
        assert (await alice.put(room_rule, {"actions": ["dont_notify"]})).status == 200
        content_rule = "/pushrules/global/content/cake"
        assert (await alice.put(content_rule, actions)).errcode == "M_MISSING_PARAM"
        assert (await alice.put(content_rule, {**actions, "pattern": "cake*"})).status == 200
        assert (await alice.get(content_rule))["pattern"] == "cake*"


async def test_predefined_push_rules_can_be_changed_but_not_deleted() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        path = "/pushrules/global/underride/.m.rule.message"
        assert (await alice.put(f"{path}/actions", {"actions": []})).status == 200
        assert (await alice.get(f"{path}/actions")).body == {"actions": []}
        assert (await alice.put("/pushrules/global/override/.m.rule.master/enabled", {"enabled": True})).status == 200
        assert (await alice.delete(path)).errcode == "M_INVALID_PARAM"
        assert (await alice.put("/pushrules/global/override/.m.mine", {"actions": []})).errcode == "M_INVALID_PARAM"
        mirrored = await alice.get(f"/user/{alice.user_id}/account_data/m.push_rules")
        assert mirrored.body == (await alice.get("/pushrules/")).body
        assert mirrored["global"]["override"][0]["enabled"] is True


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/pushrules/global/nonsense/x", {"actions": []}, "M_INVALID_PARAM"),
        ("/pushrules/device/override/x", {"actions": []}, "M_UNRECOGNIZED"),
        ("/pushrules/global/override/x", {}, "M_MISSING_PARAM"),
        ("/pushrules/global/override/x", {"actions": "notify"}, "M_BAD_JSON"),
        ("/pushrules/global/override/x", {"actions": [7]}, "M_BAD_JSON"),
        ("/pushrules/global/override/x", {"actions": [], "conditions": {}}, "M_BAD_JSON"),
        ("/pushrules/global/override/x", {"actions": [], "conditions": [{}]}, "M_BAD_JSON"),
        ("/pushrules/global/override/a%2Fb", {"actions": []}, "M_INVALID_PARAM"),
        ("/pushrules/global/override/none/enabled", {"enabled": True}, "M_NOT_FOUND"),
        ("/pushrules/global/override/.m.rule.master/enabled", {"enabled": 1}, "M_BAD_JSON"),
    ],
)
async def test_push_rules_that_are_refused(path: str, body: dict[str, Any], errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        before = (await alice.get("/pushrules/")).body
        assert (await alice.put(path, body)).errcode == errcode
        assert (await alice.get("/pushrules/")).body == before


async def test_tags_of_a_room_are_account_data_of_the_room() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        path = f"/user/{alice.user_id}/rooms/!room:example.org"
        assert (await alice.get(f"{path}/tags")).body == {"tags": {}}
        assert (await alice.put(f"{path}/tags/m.favourite", {"order": 0.25})).body == {}
        assert (await alice.put(f"{path}/tags/u.a%2Fb", {"order": None})).body == {}
        expected = {"tags": {"m.favourite": {"order": 0.25}, "u.a/b": {}}}
        assert (await alice.get(f"{path}/tags")).body == expected
        assert (await alice.get(f"{path}/account_data/m.tag")).body == expected
        assert (await alice.delete(f"{path}/tags/m.favourite")).body == {}
        assert (await alice.delete(f"{path}/tags/m.favourite")).body == {}
        assert (await alice.get(f"{path}/tags")).body == {"tags": {"u.a/b": {}}}
        assert (await bob.get(f"{path}/tags")).errcode == "M_FORBIDDEN"
        assert (await bob.put(f"{path}/tags/m.favourite")).errcode == "M_FORBIDDEN"
        assert (await alice.put(f"{path}/tags/m.favourite", {"order": "first"})).errcode == "M_BAD_JSON"
        assert (await alice.put(f"{path}/tags/{'x' * 256}")).errcode == "M_INVALID_PARAM"
        await alice.put(f"{path}/account_data/m.tag", {"tags": "none"})
        assert (await alice.get(f"{path}/tags")).body == {"tags": {}}
