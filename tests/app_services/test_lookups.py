"""Third-party networks, their directories of rooms, and pings."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.client_api import app_service_calls
from tests.app_services.service import HS_TOKEN, Asked, Bridge, bridged_node, ghost, running_service, silent_port
from tests.client_api.harness import running_node
from tests.client_api.talk import new_room

PROTOCOL: dict[str, Any] = {
    "user_fields": ["nick"],
    "location_fields": ["channel"],
    "icon": "mxc://example.org/irc",
    "field_types": {},
    "instances": [{"desc": "Libera", "network_id": "libera", "fields": {}}],
}


async def test_lookups_are_passed_on() -> None:
    async with bridged_node(fields={"protocols": ["irc"]}) as (service, node):
        alice = await node.register("alice")

        def answer(asked: Asked) -> tuple[int, Any]:
            if "/protocol/" in asked.path:
                return 200, PROTOCOL
            return 200, [{"alias": "#irc_x:y", "protocol": "irc", "fields": {}}, "no object"]

        service.answer = answer
        shown = {**PROTOCOL, "instances": [{**PROTOCOL["instances"][0], "instance_id": "irc|libera"}]}
        assert (await alice.get("/thirdparty/protocols")).body == {"irc": shown}
        assert (await alice.get("/thirdparty/protocol/irc")).body == shown
        assert (await alice.get("/thirdparty/protocol/icq")).errcode == "M_NOT_FOUND"
        found = await alice.get("/thirdparty/location/irc", channel="#x")
        assert found.body == [{"alias": "#irc_x:y", "protocol": "irc", "fields": {}}]
        assert (await alice.get("/thirdparty/user/irc", nick="n")).status == 200
        assert (await alice.get("/thirdparty/user/icq")).errcode == "M_NOT_FOUND"
        alias, user_id = f"#irc_x:{node.server_name}", f"@irc_x:{node.server_name}"
        assert (await alice.get("/thirdparty/location", alias=alias)).body == found.body
        assert (await alice.get("/thirdparty/user", userid=user_id)).body == found.body
        assert (await alice.get("/thirdparty/user", userid="@other:x")).body == []
        assert (await alice.get("/thirdparty/user")).errcode == "M_MISSING_PARAM"
        asked = {(each.path.removeprefix("/_matrix/app/v1/thirdparty"), *each.query.items()) for each in service.asked}
        assert asked == {
            ("/protocol/irc",),
            ("/location/irc", ("channel", "#x")),
            ("/user/irc", ("nick", "n")),
            ("/location", ("alias", alias)),
            ("/user", ("userid", user_id)),
        }
        assert {each.token for each in service.asked} == {HS_TOKEN}


async def test_a_service_that_answers_nonsense_or_nothing_spoils_nothing() -> None:
    async with bridged_node(fields={"protocols": ["irc"]}) as (service, node):
        alice = await node.register("alice")
        for answer in ((500, {}), (200, []), (200, {"instances": 5}), (200, "x" * (1 << 21))):
            service.answer = lambda asked, answer=answer: answer  # type: ignore[misc]
            assert (await alice.get("/thirdparty/protocols")).status == 200
            assert (await alice.get("/thirdparty/location/irc")).body == []
    async with running_node() as node:
        assert (await (await node.register("alice")).get("/thirdparty/protocols")).body == {}


async def test_a_service_lists_rooms_in_the_directory_of_its_network() -> None:
    async with bridged_node() as (_, node):
        alice, nick = await node.register("alice"), await ghost(node, "irc_nick")
        room_id = await new_room(nick, preset="public_chat", name="#python")
        await new_room(alice, preset="public_chat", visibility="public", name="ours")
        path = f"/directory/list/appservice/libera/{room_id}"
        assert (await alice.put(path, {"visibility": "public"})).errcode == "M_FORBIDDEN"
        assert (await nick.put(path, {"visibility": "maybe"})).errcode == "M_INVALID_PARAM"
        nowhere = f"/directory/list/appservice/libera/!{'x' * 43}"
        assert (await nick.put(nowhere, {"visibility": "public"})).errcode == "M_NOT_FOUND"
        assert (await Bridge(node).put(path, {"visibility": "public"})).body == {}

        async def listed(**fields: Any) -> list[str]:
            chunk = (await alice.post("/publicRooms", fields))["chunk"]
            return sorted(room["name"] for room in chunk)

        assert await listed() == ["ours"]
        assert await listed(third_party_instance_id="irc|libera") == ["#python"]
        assert await listed(third_party_instance_id="irc|other") == []
        assert await listed(include_all_networks=True) == ["#python", "ours"]
        for fields in ({"third_party_instance_id": "icq|x"}, {"third_party_instance_id": "irc"}):
            assert (await alice.post("/publicRooms", fields)).errcode == "M_INVALID_PARAM"
        both = {"third_party_instance_id": "irc|libera", "include_all_networks": True}
        assert (await alice.post("/publicRooms", both)).errcode == "M_INVALID_PARAM"
        await Bridge(node).put(path, {"visibility": "private"})
        assert await listed(include_all_networks=True) == ["ours"]


async def test_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    ping = "/appservice/irc/ping"
    async with bridged_node() as (service, node):
        answer = await Bridge(node).ask("POST", ping, {"transaction_id": "t"}, version="v1")
        assert answer["duration_ms"] >= 0
        [asked] = service.asked
        assert (asked.method, asked.path, asked.body, asked.token) == (
            "POST",
            "/_matrix/app/v1/ping",
            {"transaction_id": "t"},
            HS_TOKEN,
        )
        other = await Bridge(node).ask("POST", "/appservice/other/ping", {}, version="v1")
        assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
        alice = await node.register("alice")
        assert (await alice.ask("POST", ping, {}, version="v1")).errcode == "M_FORBIDDEN"
        service.answer = lambda asked: (418, {"errcode": "M_TEAPOT"})
        bad = await Bridge(node).ask("POST", ping, {}, version="v1")
        assert (bad.status, bad.errcode, bad.body["status"]) == (502, "M_BAD_STATUS", 418)
        assert "M_TEAPOT" in bad.body["body"]
        versions = await node.stranger().get("/_matrix/client/versions")
        assert versions["unstable_features"]["fi.mau.msc2659.stable"] is True
    async with running_service() as service:
        registration = service.registration()
    async with running_node(app_services=[registration]) as node:
        gone = await Bridge(node).ask("POST", ping, {}, version="v1")
        assert (gone.status, gone.errcode) == (502, "M_CONNECTION_FAILED")
    async with bridged_node(fields={"url": None}) as (_, node):
        assert (await Bridge(node).ask("POST", ping, {}, version="v1")).errcode == "M_URL_NOT_SET"
    monkeypatch.setattr(app_service_calls, "PING_S", 0.05)
    async with (
        silent_port() as port,
        running_node(app_services=[{**registration, "url": f"http://127.0.0.1:{port}"}]) as node,
    ):
        slow = await Bridge(node).ask("POST", ping, {}, version="v1")
        assert (slow.status, slow.errcode) == (504, "M_CONNECTION_TIMEOUT")
