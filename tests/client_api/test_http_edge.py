"""What every request passes: routing, CORS, tokens, limits, disconnects, mistakes of ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from p2pserver.client_api.app import ClientApiConfig
from p2pserver.client_api.request_body import OCTETS_MAX
from p2pserver.errors import InvalidParam, MethodNotAllowed, Unrecognized
from p2pserver.http_api.routing import Match, Router, Routes, parse_query
from p2pserver.node.http import HttpServer
from tests.client_api.harness import Client, Node, running_node


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[str]:
    """The node behind the real server on a real socket."""
    server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


def routes_for_tests() -> Router:
    routes = Routes()

    async def handler(api: Any, request: Any) -> dict[str, Any]:
        return {}

    for method, path in [
        ("GET", "/rooms/{room_id}/state"),
        ("GET", "/rooms/{room_id}/state/{event_type}"),
        ("GET", "/rooms/{room_id}/state/{event_type}/{state_key}"),
        ("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}"),
        ("GET", "/pushrules/"),
        ("GET", "/user/me/filter"),
        ("GET", "/user/{user_id}/data"),
    ]:
        routes.route(method, path, versions=("v3",))(handler)
    return Router(routes.all)


def matched(target: str, method: str = "GET") -> Match:
    return routes_for_tests().match(method, f"/_matrix/client/v3{target}".encode())


def test_segments_are_decoded_once_after_the_split() -> None:
    match = matched("/rooms/%21r%2Fx%3Ahost/state/m.x/%2525%2F")
    assert match.params == {"room_id": "!r/x:host", "event_type": "m.x", "state_key": "%25/"}
    assert matched("/rooms/!r:h/state/m.x/@a:b").params["state_key"] == "@a:b"


def test_a_transaction_has_one_path_however_it_is_spelled() -> None:
    assert matched("/rooms/%21r:h/state/m.x/a").path == matched("/rooms/!r%3Ah/state/m%2Ex/%61").path
    assert matched("/rooms/r/state/a%2Fb/c").path != matched("/rooms/r/state/a/b%2Fc").path


def test_trailing_slashes() -> None:
    assert matched("/pushrules").route is not None
    assert matched("/pushrules/").route is not None
    assert "state_key" not in matched("/rooms/!r/state/m.room.name/").params
    with pytest.raises(Unrecognized):
        matched("/pushrules//")
    with pytest.raises(Unrecognized):
        matched("/rooms//state")


def test_literal_segments_win_over_parameters_and_both_are_tried() -> None:
    assert matched("/user/me/filter").params == {}
    assert matched("/user/me/data").params == {"user_id": "me"}


@pytest.mark.parametrize("segment", ["%", "%4", "%zz", "%ff", "%c3%28", "%ed%a0%80", "a%"])
def test_broken_encoding_is_an_error(segment: str) -> None:
    with pytest.raises(InvalidParam):
        matched(f"/user/{segment}/data")
    with pytest.raises(InvalidParam):
        parse_query(f"a={segment}".encode())


def test_wrong_method_and_unknown_path() -> None:
    with pytest.raises(MethodNotAllowed):
        matched("/rooms/!r/state", "POST")
    with pytest.raises(Unrecognized):
        matched("/no/such/path")
    with pytest.raises(Unrecognized):
        routes_for_tests().match("GET", b"*")


def test_query_values_keep_their_order() -> None:
    assert parse_query(b"via=a&via=b%26&x&y=1+1") == {"via": ["a", "b&"], "x": [""], "y": ["1 1"]}
    with pytest.raises(InvalidParam):
        parse_query(b"&".join(b"a=1" for _ in range(101)))


CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
    "access-control-allow-headers": "X-Requested-With, Content-Type, Authorization",
}


async def test_cors_and_json_on_every_answer() -> None:
    async with running_node() as node:
        stranger = node.stranger()
        answers = [
            await stranger.get("/_matrix/client/versions"),
            await stranger.get("/.well-known/matrix/client"),
            await stranger.get("/no/such/path"),
            await stranger.delete("/login"),
            await stranger.get("/account/whoami"),
            await stranger.post("/login", b"{"),
            await stranger.post("/login", b" " * (OCTETS_MAX + 1)),
            await stranger.ask("OPTIONS", "/no/such/path"),
            await Client(node.http, "wrong").ask("OPTIONS", "/account/whoami"),
        ]
        assert [answer.status for answer in answers] == [200, 200, 404, 405, 401, 400, 413, 204, 204]
        for answer in answers:
            assert {name: answer.headers[name] for name in CORS} == CORS
        for answer in answers[2:7]:
            assert answer.headers["content-type"] == "application/json"
            assert set(answer.body) >= {"errcode", "error"}
        assert [answer.errcode for answer in answers[2:7]] == [
            "M_UNRECOGNIZED",
            "M_UNRECOGNIZED",
            "M_MISSING_TOKEN",
            "M_NOT_JSON",
            "M_TOO_LARGE",
        ]


async def test_tokens() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        wrong = await Client(node.http, alice.token + "x").get("/account/whoami")
        assert (wrong.status, wrong.errcode, wrong.body["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", False)
        in_query = await node.stranger().get("/account/whoami", access_token=alice.token)
        assert in_query["user_id"] == alice.user_id
        lower = await node.http.get(
            "/_matrix/client/r0/account/whoami", headers={"Authorization": f"bearer {alice.token}"}
        )
        assert lower.status_code == 200
        assert (await Client(node.http, "wrong").get("/_matrix/client/versions")).errcode == "M_UNKNOWN_TOKEN"
        stored = await node.database.read(lambda tx: tx.all("SELECT hash FROM access_tokens"))
        assert alice.token.encode() not in b"".join(row[0] for row in stored)


async def test_a_store_that_fails_is_not_a_wrong_token(caplog: pytest.LogCaptureFixture) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await node.database.close()
        answer = await alice.get("/account/whoami")
        assert (answer.status, answer.errcode) == (500, "M_UNKNOWN")
        assert "request failed" in caplog.text
        assert alice.token not in caplog.text


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"not json", "M_NOT_JSON"),
        (b"\xff\xfe", "M_NOT_JSON"),
        (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'"text"', "M_BAD_JSON"),
        (b'{"a": NaN}', "M_BAD_JSON"),
        (b'{"a": 1, "a": 2}', "M_BAD_JSON"),
        (b'{"a": "\\ud800"}', "M_BAD_JSON"),
        (b'{"a": 9007199254740992}', "M_BAD_JSON"),
        (b'{"a": 1e999}', "M_BAD_JSON"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "M_BAD_JSON"),
    ],
)
async def test_bodies_that_are_not_objects_of_matrix(body: bytes, errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.ask("PUT", f"/user/{alice.user_id}/account_data/org.example", body)
        assert (answer.status, answer.errcode) == (400, errcode)


async def test_account_data_may_hold_floats_and_large_texts() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        path = f"/user/{alice.user_id}/account_data/org.example"
        content = {"volume": 0.5, "name": "ü😀", "text": "x" * 200_000}
        assert (await alice.put(path, content)).status == 200
        assert (await alice.get(path)).body == content
        assert (await alice.put(path, {"text": "x" * 300_000})).errcode == "M_TOO_LARGE"


async def test_rate_limits_answer_429_with_both_spellings_of_the_delay() -> None:
    async with running_node(config=ClientApiConfig(rate_limits=True)) as node:
        alice = await node.register("alice")
        answers = [await alice.get("/account/whoami") for _ in range(1001)]
        assert [answer.status for answer in answers[:1000]] == [200] * 1000
        limited = answers[1000]
        assert (limited.status, limited.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert int(limited.headers["retry-after"]) * 1000 >= limited.body["retry_after_ms"] > 0
        assert (await alice.ask("OPTIONS", "/account/whoami")).status == 204
        node.clock_s[0] += limited.body["retry_after_ms"] / 1000
        assert (await alice.get("/account/whoami")).status == 200


async def test_wrong_passwords_slow_down_one_account_only() -> None:
    async with running_node(config=ClientApiConfig(rate_limits=True)) as node:
        await node.register("alice")
        await node.register("bob")
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "guess"}
        statuses = [(await node.stranger().post("/login", body)).status for _ in range(7)]
        assert statuses == [403] * 5 + [429] * 2
        right = await node.stranger().post("/login", body | {"password": "secret"})
        assert right.status == 429
        await node.log_in("bob")
        node.clock_s[0] += 60
        await node.log_in("alice")


async def test_a_client_that_hangs_up_stops_a_waiting_handler() -> None:
    async with running_node() as node, served(node) as url:
        alice = await node.register("alice")
        started, stopped = asyncio.Event(), asyncio.Event()

        async def wait_for_ever(*_: Any, **__: Any) -> bool:
            started.set()
            try:
                await asyncio.sleep(3600)
            finally:
                stopped.set()
            return True

        node.api.database.wait = wait_for_ever  # type: ignore[method-assign]
        async with httpx.AsyncClient() as http:
            headers = {"Authorization": f"Bearer {alice.token}"}
            first = await http.get(f"{url}/_matrix/client/v3/sync", headers=headers)
            target = f"{url}/_matrix/client/v3/sync?timeout=30000&since={first.json()['next_batch']}"
            poll = asyncio.create_task(http.get(target, headers=headers))
            await asyncio.wait_for(started.wait(), 5)
            poll.cancel()
            await asyncio.wait_for(stopped.wait(), 5)


async def test_closing_ends_long_polls() -> None:
    async with running_node() as node, served(node) as url:
        alice = await node.register("alice")
        async with httpx.AsyncClient() as http:
            headers = {"Authorization": f"Bearer {alice.token}"}
            first = await http.get(f"{url}/_matrix/client/v3/sync", headers=headers)
            target = f"{url}/_matrix/client/v3/sync?timeout=30000&since={first.json()['next_batch']}"
            poll = asyncio.create_task(http.get(target, headers=headers))
            await asyncio.sleep(0.2)
            await asyncio.wait_for(node.api.close(), 1)
            answer = await asyncio.wait_for(poll, 1)
            assert (answer.status_code, answer.json()["errcode"]) == (503, "M_UNKNOWN")
            later = await http.get(f"{url}/_matrix/client/versions")
            assert later.status_code == 503


async def test_the_real_server_gives_login_its_own_address() -> None:
    async with running_node() as node, served(node) as url, httpx.AsyncClient() as http:
        await node.register("alice")
        body = {"type": "m.login.password", "user": "alice", "password": "secret"}
        answer = (await http.post(f"{url}/_matrix/client/r0/login", json=body)).json()
        assert answer["well_known"] == {"m.homeserver": {"base_url": url}}
        forged = await http.get(f"{url}/.well-known/matrix/client", headers={"Host": "evil/x?"})
        assert forged.json()["m.homeserver"]["base_url"].startswith("http://127.0.0.1:")
        large = await http.put(
            f"{url}/_matrix/client/v3/profile/@alice:x/displayname",
            content=b"x" * (OCTETS_MAX + 5),
            headers={"Authorization": f"Bearer {answer['access_token']}"},
        )
        assert large.status_code == 413
