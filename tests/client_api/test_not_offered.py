"""What this server does not offer is refused in the words that clients know: no 500, and no silent 200."""

import pytest

from p2pserver.client_api.app import ClientApiConfig
from tests.client_api.harness import running_node

CLIENT = "/_matrix/client"

UNRECOGNIZED = [
    ("GET", f"{CLIENT}/v1/auth_metadata"),
    ("GET", f"{CLIENT}/unstable/org.matrix.msc2965/auth_metadata"),
    ("POST", f"{CLIENT}/unstable/org.matrix.msc4108/rendezvous"),
    ("GET", f"{CLIENT}/unstable/org.matrix.msc4143/rtc/transports"),
    ("GET", f"{CLIENT}/unstable/io.element.msc4306/rooms/!a:b/thread/$c/subscription"),
    ("GET", f"{CLIENT}/v3/login/sso/redirect"),
    ("GET", f"{CLIENT}/v3/login/sso/redirect/google"),
    ("GET", f"{CLIENT}/v3/initialSync"),
    ("GET", "/.well-known/matrix/policy_server"),
    ("GET", f"{CLIENT}/v9/sync"),
]
WRONG_METHOD = [
    ("DELETE", f"{CLIENT}/v3/sync"),
    ("GET", f"{CLIENT}/v3/search"),
    ("GET", f"{CLIENT}/v3/knock/!a:b"),
    ("PUT", f"{CLIENT}/v1/rooms/!a:b/hierarchy"),
    ("POST", f"{CLIENT}/v1/room_summary/!a:b"),
    ("DELETE", f"{CLIENT}/versions"),
]
THIRD_PARTY = [
    "/register/email/requestToken",
    "/register/msisdn/requestToken",
    "/account/password/email/requestToken",
    "/account/password/msisdn/requestToken",
    "/account/3pid/email/requestToken",
    "/account/3pid/msisdn/requestToken",
]


async def test_endpoints_that_do_not_exist_and_methods_that_do_not() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for method, path in UNRECOGNIZED:
            answer = await alice.ask(method, path)
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED"), path
            assert answer.headers["access-control-allow-origin"] == "*"
        for method, path in WRONG_METHOD:
            answer = await alice.ask(method, path)
            assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED"), path


@pytest.mark.parametrize("version", ["v3", "r0"])
async def test_third_party_ids_are_refused(version: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for path in THIRD_PARTY:
            answer = await node.stranger().ask("POST", path, {"email": "a@b"}, version=version)
            assert (answer.status, answer.errcode) == (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"), path
        for path in ("", "/add", "/bind", "/delete", "/unbind"):
            answer = await alice.ask("POST", f"/account/3pid{path}", {}, version=version)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), path
        assert (await alice.ask("GET", "/account/3pid", version=version)).body == {"threepids": []}
        assert (await alice.ask("GET", "/voip/turnServer", version=version)).body == {}


async def test_whom_to_ask_is_what_the_operator_said() -> None:
    path = "/.well-known/matrix/support"
    async with running_node() as node:
        answer = await node.stranger().get(path)
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        assert answer.headers["access-control-allow-origin"] == "*"
    said = ("@ann:x.example", "ann@mail.example", "https://x.example/help")
    async with running_node(config=ClientApiConfig(rate_limits=False, support=said)) as node:
        assert (await node.stranger().get(path)).body == {
            "contacts": [
                {"matrix_id": "@ann:x.example", "role": "m.role.admin"},
                {"email_address": "ann@mail.example", "role": "m.role.admin"},
            ],
            "support_page": "https://x.example/help",
        }
