"""Every operation of the specification that is served, asked on a node where there is something of everything.

No 500, no answer that breaks its schema, and each operation succeeds. Requests are made from the schemas and from what
is there; every third has a fault. Then the rooms are filled with state of any shape, and all that reads is asked again.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from p2pserver.client_api import login, openid, presence
from p2pserver.client_api.app import ClientApiConfig
from tests.app_services.service import bridged_node
from tests.client_api import conformance
from tests.client_api.harness import running_node
from tests.client_api.openapi.requests import Asked, valid_request, with_a_fault
from tests.client_api.openapi.schemas import Operation, event_faults, operations, response_faults
from tests.client_api.openapi.world import World, bridged, populate, spoil

SEED = 20260708
CONFIG = ClientApiConfig(rate_limits=False, support=("mail@example.org", "@root:a.example", "https://example.org/help"))
ROUNDS = 6
"""How often each operation is asked. After many more the limits of an account would be reached."""
GOOD_SHARE = 0.95
"""Of the requests without a fault to operations that can succeed."""

NO_THIRD_PARTY = "third-party IDs are refused: there is no mail, telephone or identity server"
OFF = "off by default; tests/media/test_url_previews.py switches it on"
NEVER_SUCCEEDS = {
    "POST /_matrix/client/v3/account/3pid": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/add": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/bind": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/delete": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/unbind": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/email/requestToken": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/3pid/msisdn/requestToken": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/password/email/requestToken": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/account/password/msisdn/requestToken": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/register/email/requestToken": NO_THIRD_PARTY,
    "POST /_matrix/client/v3/register/msisdn/requestToken": NO_THIRD_PARTY,
    "GET /_matrix/client/v1/media/preview_url": OFF,
    "GET /_matrix/media/v3/preview_url": OFF,
    "GET /_matrix/client/v1/register/m.login.registration_token/validity": "only where registration is by token: below",
}
OTHER_ENCRYPTION = "a room whose algorithm the specification does not list is encrypted all the same, and that is told"
APART = {
    ("GET /_matrix/client/v3/voip/turnServer", "is a required property"): "`{}` is how every server says: none",
    ("GET /_matrix/client/v1/room_summary/{roomIdOrAlias}", "is not one of ['m.megolm"): OTHER_ENCRYPTION,
    ("GET /_matrix/client/v1/rooms/{roomId}/hierarchy", "is not one of ['m.megolm"): OTHER_ENCRYPTION,
    ("GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", "is valid under each of"): (
        "the schema wants either any object or an event, and an event is an object"
    ),
}
"""By operation and part of what is found wrong: why it is right."""
NODES_APART = ("M_UNREACHABLE", "M_NOT_YET_UPLOADED")
"""Another server is away: a 502 or 504, which is no fault of this one."""
OF_THE_SERVER = ("m.receipt", "m.typing", "m.presence", "m.push_rules", "m.fully_read", "m.tag")
"""Types of events whose content the server makes."""


@dataclass(slots=True)
class Seen:
    """What came of the requests."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """By operation, of the requests without a fault."""
    faults: dict[str, str] = field(default_factory=dict)
    """What was wrong, with the request and the answer."""
    faulty: Counter[int] = field(default_factory=Counter)

    def share(self) -> float:
        counted = [statuses for name, statuses in self.statuses.items() if name not in NEVER_SUCCEEDS]
        good = sum(count for statuses in counted for status, count in statuses.items() if status < 300)
        return good / sum(statuses.total() for statuses in counted)

    def never_good(self) -> set[str]:
        return {name for name, statuses in self.statuses.items() if not any(status < 300 for status in statuses)}


async def send(asked: Asked) -> httpx.Response:
    headers = {} if asked.client.token is None else {"Authorization": f"Bearer {asked.client.token}"}
    content: dict[str, Any] = {}
    if isinstance(asked.body, bytes):
        content = {"content": asked.body}
    elif asked.body is not None:
        content = {"json": asked.body}
    return await asked.client.http.request(
        asked.method, asked.path, headers=headers, params=asked.query or None, **content
    )


def wrong(operation: Operation, response: httpx.Response) -> list[str]:
    """What an answer must not be."""
    status = response.status_code
    if response.headers.get("access-control-allow-origin") != "*":
        return ["no CORS headers"]
    if response.headers.get("content-type") != "application/json":
        kinds = operation.responses.get(str(status), {})
        return [] if any(kind != "application/json" for kind in kinds) else ["not JSON"]
    body = json.loads(response.content)
    if status in (502, 504):
        return [] if body.get("errcode") in NODES_APART else [f"status {status}"]
    if status >= 500:
        return [f"status {status}"]
    found = response_faults(operation, status, body) + [each for event in _made(body) for each in event_faults(event)]
    apart = [part for name, part in APART if name == operation.name]
    return [each for each in found if not any(part in each for part in apart)]


def _made(value: Any) -> Iterator[dict[str, Any]]:
    """The events in an answer that the server has made."""
    if isinstance(value, dict):
        if value.get("type") in OF_THE_SERVER and "content" in value:
            yield value
        else:
            for each in value.values():
                yield from _made(each)
    elif isinstance(value, list):
        for each in value:
            yield from _made(each)


async def ask(seen: Seen, world: World, operation: Operation, rng: random.Random, *, faulty: bool = False) -> None:
    asked = await valid_request(world, operation, rng)
    if faulty:
        asked = with_a_fault(asked, rng)
    response = await send(asked)
    (seen.faulty if faulty else seen.statuses[operation.name])[response.status_code] += 1
    told = f"{asked.path} {asked.query} {asked.body!r}\n  {response.text[:600]}"
    for what in wrong(operation, response):
        seen.faults.setdefault(f"{operation.name}: {response.status_code} {what}", told)


def served(*parts: str) -> list[Operation]:
    """The operations that this node has, or those of them whose name ends so."""
    routes = {(line.method, line.path) for line in conformance.lines() if line.route is not None}
    found = [each for each in operations().values() if (each.method, each.path) in routes]
    return [each for each in found if not parts or each.name.endswith(parts)]


async def asked_all(asked: list[Operation], *, seed: int = SEED, rounds: int = ROUNDS) -> Seen:
    """Each operation several times, in an order of chance; then, on spoiled rooms, what reads."""
    rng = random.Random(seed)
    seen = Seen()
    async with bridged_node(fields={"protocols": ["irc"]}, config=CONFIG, seed=seed) as (service, node):
        service.answer = bridged
        world = await populate(node)
        for number in range(rounds):
            for operation in rng.sample(asked, len(asked)):
                await ask(seen, world, operation, rng, faulty=number % 3 == 2)
        await spoil(world, rng)
        reading = [each for each in asked if each.method == "GET" or each.path.endswith(("/search", "/publicRooms"))]
        for operation in [*reading, *reading]:
            await ask(seen, world, operation, rng)
    return seen


def hold(seen: Seen) -> None:
    """Raises: AssertionError, where an answer was wrong, or an operation never succeeded and has no reason for it."""
    assert not seen.faults, "\n".join(f"{what}\n  {told}" for what, told in seen.faults.items())
    assert seen.never_good() - set(NEVER_SUCCEEDS) == set()
    assert seen.share() >= GOOD_SHARE, {name: dict(each) for name, each in seen.statuses.items() if max(each) > 299}


async def test_every_operation_succeeds_and_no_answer_breaks_its_schema() -> None:
    seen = await asked_all(served())
    total = sum(each.total() for each in seen.statuses.values())
    print(
        f"{len(seen.statuses)} operations, {total} requests, {seen.share():.1%} good; with a fault: {dict(seen.faulty)}"
    )
    hold(seen)
    assert len(seen.statuses) >= 140
    assert seen.faulty[400] >= seen.faulty.total() / 10


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
async def test_many_more_requests(seed: int) -> None:
    hold(await asked_all(served(), seed=seed))


async def test_the_reasons_are_needed() -> None:
    """What is said never to succeed does not, and what is said to be apart is."""
    seen = await asked_all([operations()[name] for name in NEVER_SUCCEEDS], rounds=2)
    assert seen.never_good() == set(NEVER_SUCCEEDS)
    turn = operations()["GET /_matrix/client/v3/voip/turnServer"]
    assert response_faults(turn, 200, {})


async def test_registration_by_token() -> None:
    config = ClientApiConfig(rate_limits=False, registration="token", registration_token="let me in")
    name = "GET /_matrix/client/v1/register/m.login.registration_token/validity"
    async with running_node(config=config) as node:
        for token, valid in (("let me in", True), ("no", False)):
            answer = await node.stranger().get(name.removeprefix("GET "), token=token)
            assert response_faults(operations()[name], answer.status, answer.body) == []
            assert answer["valid"] is valid
        body: dict[str, Any] = {"username": "alice", "password": "x", "auth": None}
        first = await node.stranger().post("/register", body)
        register = operations()["POST /_matrix/client/v3/register"]
        assert (first.status, response_faults(register, 401, first.body)) == (401, [])
        body["auth"] = {"type": "m.login.registration_token", "token": "let me in", "session": first.body["session"]}
        answer = await node.stranger().post("/register", body)
        assert response_faults(register, 200, answer.body) == []
        assert answer["user_id"]


# Sabotage


@pytest.mark.parametrize(
    ("module", "handler", "answer", "found"),
    [
        (login, "whoami", {"user_id": 7}, "is not of type 'string'"),
        (openid, "request_token", {"access_token": "x"}, "is a required property"),
        (presence, "get_presence", None, "status 500"),
    ],
)
async def test_a_wrong_answer_is_seen(
    monkeypatch: pytest.MonkeyPatch, module: Any, handler: str, answer: Any, found: str
) -> None:
    [route] = [each for each in module.routes.all if each.handler.__name__ == handler and "/v3/" in each.pattern]

    async def other(api: Any, request: Any) -> Any:
        if answer is None:
            raise RuntimeError("a mistake")
        return answer

    changed = [
        conformance.Route(**{name: getattr(each, name) for name in each.__slots__} | {"handler": other})
        if each is route
        else each
        for each in module.routes.all
    ]
    monkeypatch.setattr(module.routes, "all", changed)
    path = route.pattern.replace("{user_id}", "{userId}")
    seen = await asked_all(served(f"{route.method} {path}"), rounds=2)
    with pytest.raises(AssertionError, match=found):
        hold(seen)


async def test_an_operation_that_never_succeeds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NEVER_SUCCEEDS, "POST /_matrix/client/v3/account/3pid/add")
    with pytest.raises(AssertionError, match="3pid/add"):
        hold(await asked_all(served("/3pid/add"), rounds=2))
