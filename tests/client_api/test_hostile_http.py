"""Hostile requests: mutations of valid ones in-process, broken HTTP on a socket. Errors, never 500, nothing changed."""

import asyncio
import contextlib
import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from p2pserver.client_api import profiles
from p2pserver.node.http import HttpServer
from p2pserver.store.inline import SimulatedDisk
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.talk import at, invite_and_join, new_room, say
from tests.client_api.test_keys import CrossSigner, device_keys, one_time_keys

CASES = 10_000
CASES_PER_NODE = 500
"""After which the database starts anew, so that it stays small."""
SEED = 20240229

BROKEN_JSON = [
    b"",
    b"{",
    b"}",
    b"[",
    b"nul",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a" 1}',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": 1e400}',
    b'{"a": -0}',
    b'{"a": 01}',
    b'{"a": 9007199254740992}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 1, "a": 2}',
    b'{"a": "\\ud800"}',
    b'{"\\udfff": 1}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\xff"}',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": 1}\x00',
    b'{"a": "\x01"}',
    "{}".encode("utf-16"),
    b"[" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"a":' * 99 + b"{}" + b"}" * 99,
    b"null",
    b"true",
    b"7",
    b'"text"',
    b"[]",
    b"[{}]",
]

ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**53 - 1,
    -(2**53) + 1,
    0.5,
    1e308,
    "",
    " ",
    "\0",
    "\n",
    "x" * 300,
    "😀" * 300,
    "é",
    "@",
    "@:",
    "@a:b",
    "@a:b:c",
    "!",
    "!x:y",
    "#x:y",
    "$",
    "$" + "A" * 43,
    "s0",
    "s-1",
    "s999999999",
    "s1.2_3",
    "..",
    "%2F",
    "'; DROP TABLE users; --",
    "join",
    "m.room.member",
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"a": {"b": []}},
    ["a", 1, None],
]

ODD_SEGMENTS = [
    b"",
    b"%",
    b"%zz",
    b"%00",
    b"%ff",
    b"%c3%28",
    b"%2F",
    b"..",
    b".",
    b"%25",
    b"*",
    b"x" * 300,
    b"%F0%9F%98%80",
    b"@a:b",
    b"!x:y",
    b"$" + b"A" * 43,
    b"m.room.member",
    b"-1",
    b";a=b",
]

ODD_QUERIES = [
    b"limit=-1",
    b"limit=x",
    b"limit=99999999999999999999",
    b"dir=x",
    b"dir=f",
    b"from=x",
    b"from=s0",
    b"since=s1.1_1",
    b"since=x",
    b"timeout=-5",
    b"filter=%7B",
    b"filter=%7B%22room%22:7%7D",
    b"filter=7",
    b"full_state=maybe",
    b"%ff=1",
    b"a=%zz",
    b"&&&",
    b"=",
    b"at=s3",
    b"membership=x",
    b"kind=guest",
    b"via=&via=x&server_name=y",
    b"&".join(b"a=1" for _ in range(150)),
    b"access_token=x",
]


@dataclass(frozen=True, slots=True)
class Valid:
    """A request that succeeds, from which mutations start."""

    method: str
    path: str
    body: Any = None
    query: str = ""


def digest(disk: SimulatedDisk) -> bytes:
    """Of every row of every table."""
    hashed = hashlib.sha256()
    tables = disk.conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    for (table,) in tables:
        hashed.update(repr((table, disk.conn.execute(f"SELECT * FROM {table}").fetchall())).encode())
    return hashed.digest()


def copy_of(disk: SimulatedDisk) -> SimulatedDisk:
    copied = SimulatedDisk()
    disk.conn.backup(copied.conn)
    return copied


async def settled(node: Node) -> None:
    """Waits for the work that goes on beside the requests."""
    while node.api._tasks:
        await asyncio.gather(*node.api._tasks)


async def valid_requests(alice: Client, bob: Client) -> list[Valid]:
    """One request, or a few, for every endpoint."""
    room = await new_room(alice, name="room")
    await invite_and_join(alice, room, bob)
    event_id = await say(alice, room, "hello")
    signer = CrossSigner(alice.user_id)
    me = quote(alice.user_id)
    password = {"type": "m.login.password", "user": "alice", "password": "secret"}
    keys = {
        "device_keys": device_keys(alice),
        "one_time_keys": one_time_keys("A", "B"),
        "fallback_keys": one_time_keys("F"),
    }
    filter_body = {"room": {"timeline": {"limit": 5, "types": ["m.*"]}, "rooms": [room]}, "event_format": "client"}
    rule = {"actions": ["notify"], "conditions": [{"kind": "event_match", "key": "type", "pattern": "m.*"}]}
    create = {
        "preset": "public_chat",
        "name": "n",
        "topic": "t",
        "invite": [bob.user_id],
        "room_version": "12",
        "initial_state": [{"type": "m.room.topic", "state_key": "", "content": {"topic": "t"}}],
        "creation_content": {"m.federate": True},
        "power_level_content_override": {"events_default": 0},
    }
    delayed = "/_matrix/client/unstable/org.matrix.msc4140"
    search = {
        "search_categories": {
            "room_events": {
                "search_term": "x",
                "keys": ["content.body"],
                "filter": {"limit": 5, "rooms": [room]},
                "order_by": "recent",
                "event_context": {"before_limit": 1, "after_limit": 1, "include_profile": True},
                "include_state": True,
                "groupings": {"group_by": [{"key": "room_id"}]},
            }
        }
    }
    return [
        Valid("GET", "/_matrix/client/versions"),
        Valid("GET", "/.well-known/matrix/client"),
        Valid("POST", "/login", {**password, "device_id": "FUZZ", "initial_device_display_name": "x"}),
        Valid("POST", "/login", {**password, "identifier": {"type": "m.id.user", "user": "alice"}, "password": "no"}),
        Valid("POST", "/register", {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}),
        Valid("GET", "/register/available", query="username=carol"),
        Valid("GET", "/account/whoami"),
        Valid("POST", "/account/password", {"new_password": "x", "logout_devices": False, "auth": None}),
        Valid("GET", "/devices"),
        Valid("PUT", f"/devices/{alice.device_id}", {"display_name": "x"}),
        Valid("POST", "/delete_devices", {"devices": ["X"]}),
        Valid("GET", "/capabilities"),
        Valid("POST", f"/user/{me}/filter", filter_body),
        Valid("GET", f"/user/{me}/filter/0"),
        Valid("PUT", f"/user/{me}/account_data/m.direct", {bob.user_id: [room]}),
        Valid("GET", f"/user/{me}/account_data/m.push_rules"),
        Valid("PUT", f"/user/{me}/rooms/{quote(room)}/account_data/m.tag", {"tags": {"u.x": {"order": 0.5}}}),
        Valid("GET", "/pushrules/"),
        Valid("PUT", "/pushrules/global/override/mine", rule, "after=mine"),
        Valid("PUT", "/pushrules/global/override/.m.rule.master/enabled", {"enabled": False}),
        Valid("PUT", "/pushrules/global/content/.m.rule.contains_user_name/actions", {"actions": ["notify"]}),
        Valid("GET", f"/profile/{quote(bob.user_id)}/displayname"),
        Valid("PUT", f"/profile/{me}/displayname", {"displayname": "Alice"}),
        Valid("PUT", f"/profile/{me}/avatar_url", {"avatar_url": "mxc://a/b"}),
        Valid("POST", "/user_directory/search", {"search_term": "b", "limit": 3}),
        Valid("POST", "/keys/upload", keys),
        Valid("POST", "/keys/query", {"device_keys": {alice.user_id: [], bob.user_id: ["X"]}, "timeout": 10}),
        Valid("POST", "/keys/claim", {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}),
        Valid("GET", "/keys/changes", query="from=s0&to=s9"),
        Valid("POST", "/keys/device_signing/upload", signer.upload()),
        Valid("POST", "/keys/signatures/upload", {alice.user_id: {alice.device_id: device_keys(alice)}}),
        Valid("PUT", "/sendToDevice/m.test/1", {"messages": {bob.user_id: {"*": {"a": 1}}}}),
        Valid("POST", "/createRoom", create),
        Valid("POST", f"/join/{quote(room)}", {"reason": "x"}, "via=a.example&server_name=b.example"),
        Valid("POST", at(room, "invite"), {"user_id": f"@x:{alice.user_id.partition(':')[2]}", "reason": "y"}),
        Valid("POST", at(room, "kick"), {"user_id": "@x:y.example"}),
        Valid("POST", at(room, "ban"), {"user_id": "@x:y.example", "reason": "z"}),
        Valid("POST", at(room, "unban"), {"user_id": "@x:y.example"}),
        Valid("PUT", at(room, "send", "m.room.message", "t"), {"msgtype": "m.text", "body": "x"}),
        Valid("PUT", at(room, "state", "m.room.topic"), {"topic": "x"}),
        Valid("PUT", at(room, "state", "m.room.power_levels"), {"users": {bob.user_id: 50}, "ban": 50}),
        Valid("PUT", at(room, "state", "m.room.member", alice.user_id), {"membership": "join"}),
        Valid("PUT", at(room, "redact", event_id, "t"), {"reason": "x"}),
        Valid("GET", at(room, "state")),
        Valid("GET", at(room, "state", "m.room.name")),
        Valid("GET", at(room, "members"), query="membership=join&not_membership=leave&at=s9"),
        Valid("GET", at(room, "joined_members")),
        Valid("GET", at(room, "messages"), query="dir=b&limit=5"),
        Valid("GET", at(room, "context", event_id), query="limit=5"),
        Valid("GET", at(room, "event", event_id)),
        Valid("GET", at(room, "aliases")),
        Valid("PUT", f"/directory/room/{quote('#x:' + alice.user_id.partition(':')[2])}", {"room_id": room}),
        Valid("GET", f"/directory/room/{quote('#x:' + alice.user_id.partition(':')[2])}"),
        Valid("PUT", f"/directory/list/room/{quote(room)}", {"visibility": "public"}),
        Valid("POST", "/publicRooms", {"limit": 5, "filter": {"generic_search_term": "x"}}),
        Valid("GET", "/publicRooms", query="limit=5"),
        Valid("GET", "/joined_rooms"),
        Valid("GET", "/sync", query="timeout=0&full_state=true"),
        Valid("GET", "/sync", query="timeout=0&since=s1&filter=0"),
        Valid("PUT", at(room, "typing", alice.user_id), {"typing": True, "timeout": 1000}),
        Valid("POST", at(room, "receipt", "m.read", event_id)),
        Valid("POST", at(room, "read_markers"), {"m.fully_read": event_id}),
        Valid("PUT", f"/presence/{me}/status", {"presence": "online"}),
        Valid("POST", "/search", search, "next_batch=0"),
        Valid("POST", f"/knock/{quote(room)}", {"reason": "x"}, "via=a.example"),
        Valid("GET", f"/_matrix/client/v1{at(room, 'hierarchy')}", query="limit=5&max_depth=1&suggested_only=true"),
        Valid("GET", f"/_matrix/client/v1/room_summary/{quote(room)}", query="via=a.example"),
        Valid("GET", f"/_matrix/client/v1{at(room, 'timestamp_to_event')}", query="ts=5&dir=f"),
        Valid("GET", "/_matrix/client/v1/mutual_rooms", query=f"user_id={quote(bob.user_id)}&from=0"),
        Valid("PUT", f"/profile/{me}/org.example.field", {"org.example.field": {"a": [1, None, "x"]}}),
        Valid("POST", at(room, "report", event_id), {"reason": "x", "score": -5}),
        Valid("POST", f"/users/{quote(bob.user_id)}/report", {"reason": "x"}),
        Valid("PUT", f"{delayed}/rooms/{quote(room)}/delayed_event/m.x/1", {"delay_ms": 10**8, "content": {"a": 1}}),
        Valid("POST", f"{delayed}/delayed_events/x", {"action": "cancel"}),
        Valid("GET", at(room, "initialSync"), query="limit=5"),
    ]


def mutated_value(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it replaced, removed, renamed, added or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        rest = {name: member for name, member in value.items() if name != key}
        match rng.randrange(5):
            case 0:
                return rest
            case 1:
                return {**rest, rng.choice(("x", "", "é", "auth", key.upper(), key + "\0")): value[key]}
            case 2:
                return {**value, rng.choice(("x", "type", "user_id")): rng.choice(ODD_VALUES)}
            case _:
                return {**rest, key: mutated_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], mutated_value(rng, value[place]), *value[place + rng.randrange(2) :]]
    return rng.choice(ODD_VALUES)


def mutated_octets(rng: random.Random, octets: bytes) -> bytes:
    """JSON text with octets changed, cut, doubled."""
    if not octets or rng.random() < 0.3:
        return rng.choice(BROKEN_JSON)
    place = rng.randrange(len(octets))
    match rng.randrange(3):
        case 0:
            return octets[:place] + bytes((rng.randrange(256),)) + octets[place + 1 :]
        case 1:
            return octets[:place]
        case _:
            return octets[:place] + octets[rng.randrange(len(octets)) :]


def mutated_path(rng: random.Random, path: bytes) -> bytes:
    segments = path.split(b"/")
    place = rng.randrange(3, len(segments)) if len(segments) > 3 else len(segments) - 1
    match rng.randrange(4):
        case 0:
            segments.insert(place, rng.choice(ODD_SEGMENTS))
        case 1:
            del segments[place]
        case _:
            segments[place] = rng.choice(ODD_SEGMENTS)
    return b"/".join(segments)


@dataclass(slots=True)
class Hostile:
    """One request as raw as ASGI has it."""

    method: str
    path: bytes
    query: bytes
    body: bytes
    token: str | None


def hostile(rng: random.Random, valid: Valid, token: str) -> Hostile:
    """A mutation of a valid request: most have one fault, some more."""
    prefix = "" if valid.path.startswith(("/_matrix", "/.well-known")) else "/_matrix/client/v3"
    body = b"" if valid.body is None else json.dumps(valid.body).encode()
    request = Hostile(valid.method, (prefix + valid.path).encode(), valid.query.encode(), body, token)
    for _ in range(1 if rng.random() < 0.8 else 3):
        match rng.randrange(20):
            case 0:
                request.method = rng.choice(("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "TRACE", "X" * 50, "get"))
            case 1:
                request.token = rng.choice((None, "", "x", token[:-1], token + "\0", "é", " "))
            case 2 | 3:
                request.path = mutated_path(rng, request.path)
            case 4 | 5:
                request.query = rng.choice((request.query + b"&", b"")) + rng.choice(ODD_QUERIES)
            case 6 | 7 | 8 | 9:
                request.body = mutated_octets(rng, request.body)
            case _:
                value = valid.body if isinstance(valid.body, dict) else {}
                for _ in range(rng.choice((1, 1, 2, 5))):
                    value = mutated_value(rng, value)
                request.body = json.dumps(value).encode()
    return request


@dataclass(slots=True)
class Outcome:
    status: int = 0
    headers: dict[bytes, bytes] | None = None
    body: bytes = b""


async def call(app: Any, request: Hostile) -> Outcome:
    """Calls the application as the server would."""
    outcome = Outcome()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            outcome.status, outcome.headers = message["status"], dict(message["headers"])
        else:
            outcome.body += message.get("body", b"")

    headers = [(b"host", b"node.test:8008"), (b"content-length", str(len(request.body)).encode())]
    if request.token is not None:
        headers.append((b"authorization", f"Bearer {request.token}".encode("latin-1", "replace")))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path.decode("latin-1"),
        "raw_path": request.path,
        "query_string": request.query,
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8008),
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    return outcome


UNPARSED = ("M_NOT_JSON", "M_UNRECOGNIZED", "M_UNKNOWN_TOKEN", "M_MISSING_TOKEN")
"""Error codes of requests that a handler never saw."""


async def test_mutated_requests_earn_an_error_or_an_answer_and_errors_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "SPREAD_PAUSE_S", 0.0)
    rng = random.Random(SEED)
    statuses: Counter[int] = Counter()
    past_json = 0
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        requests = await valid_requests(alice, bob)
        await settled(node)
    for _ in range(CASES // CASES_PER_NODE):
        async with running_node(disk=copy_of(node.disk)) as attacked:
            app = attacked.api.asgi_app()
            before, rows = digest(attacked.disk), attacked.disk.conn.total_changes
            for number in range(CASES_PER_NODE):
                request = hostile(rng, rng.choice(requests), alice.token or "")
                outcome = await call(app, request)
                replay = f"case {number} after {sum(statuses.values())} of seed {SEED}: {request}"
                assert outcome.headers is not None, replay
                assert outcome.headers[b"access-control-allow-origin"] == b"*", replay
                assert outcome.headers[b"content-type"] == b"application/json", replay
                body = json.loads(outcome.body)
                errcode = body.get("errcode") if isinstance(body, dict) else None
                statuses[outcome.status] += 1
                past_json += errcode not in UNPARSED
                await settled(attacked)
                rows_now = attacked.disk.conn.total_changes
                after = before if rows_now == rows else digest(attacked.disk)
                # A join whose servers are away is refused for now and goes on in the background.
                if outcome.status >= 300 and errcode != "M_UNREACHABLE":
                    assert outcome.status < 500, replay
                    assert errcode is not None or (outcome.status == 401 and "flows" in body), replay
                    assert after == before, replay
                before, rows = after, rows_now
    assert past_json >= CASES // 5, statuses
    assert statuses[200] >= CASES // 20, statuses
    assert statuses[400] >= CASES // 10, statuses


async def test_the_digest_sees_a_change() -> None:
    async with running_node() as node:
        before, rows = digest(node.disk), node.disk.conn.total_changes
        await node.register("alice")
        assert digest(node.disk) != before
        assert node.disk.conn.total_changes > rows


def broken_http(rng: random.Random) -> bytes:
    """Octets that are no HTTP request, or hardly one."""
    request = rng.choice(
        (
            b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
            (
                b"PUT /_matrix/client/v3/sendToDevice/a/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\n{}\r\n0\r\n\r\n"
            ),
        )
    )
    place = rng.randrange(len(request))
    match rng.randrange(9):
        case 0:
            return rng.randbytes(rng.randrange(1, 400))
        case 1:
            return request[:place] + rng.randbytes(rng.randrange(1, 5)) + request[place:]
        case 2:
            return request[:place] + request[place + rng.randrange(1, 10) :]
        case 3:
            return request.replace(b"HTTP/1.1", rng.choice((b"HTTP/9.9", b"HTTP/1.0", b"", b"HTTP/1.1 HTTP/1.1")))
        case 4:
            return request.replace(b"Host: x", rng.choice((b"", b"Host", b"Host: x\r\nHost: y", b": x", b"H\x00st: x")))
        case 5:
            return request.replace(b"Content-Length: 2", rng.choice((b"Content-Length: -1", b"Content-Length: 1e3")))
        case 6:
            return request.replace(b" /_matrix", b" " + rng.choice((b"*", b"http://x/_matrix", b"//x", b"/%", b"\xff")))
        case 7:
            return b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        case _:
            return b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"


async def exchange(port: int, octets: bytes) -> bytes:
    """What the server says to these octets: its first answer, or nothing if it waits for more of the request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(octets)
        async with asyncio.timeout(0.5):
            said = await reader.readuntil(b"\r\n\r\n")
            length = int(said.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            said += await reader.readexactly(length)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return said


async def test_head_is_a_get_without_the_body() -> None:
    """As watchdogs and proxies ask; the next request on the connection is not confused by it."""
    async with running_node() as node:
        server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        heads = []
        try:
            for method, path in (("HEAD", "versions"), ("HEAD", "none"), ("GET", "versions")):
                writer.write(f"{method} /_matrix/client/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                heads.append((await reader.readuntil(b"\r\n\r\n")).lower())
            lengths = [int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]) for head in heads]
            assert json.loads(await reader.readexactly(lengths[2]))["versions"]
        finally:
            writer.close()
            await server.stop()
        assert [head.split(b" ", 2)[1] for head in heads] == [b"200", b"404", b"200"]
        assert lengths[0] == lengths[2]


async def test_broken_http_on_a_socket_is_answered_in_json_or_ends(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(SEED)
    answered: Counter[bytes] = Counter()
    async with running_node() as node:
        server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
        await server.start()
        port = int(server.url.rpartition(":")[2])
        before = digest(node.disk)
        try:
            for _ in range(20):
                sent = [broken_http(rng) for _ in range(20)]
                for octets, said in zip(
                    sent, await asyncio.gather(*(exchange(port, octets) for octets in sent)), strict=True
                ):
                    if said:
                        status = said.split(b" ", 2)[1]
                        answered[status] += 1
                        assert status[:1] in b"24", octets[:200]
                        assert isinstance(json.loads(said.partition(b"\r\n\r\n")[2]), dict), octets[:200]
            whole = await exchange(port, b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n")
            assert whole.startswith(b"HTTP/1.1 200"), whole
        finally:
            await server.stop()
        assert digest(node.disk) == before
    assert answered[b"400"] >= 100, answered
    assert "Traceback" not in caplog.text


async def test_bodies_without_end_cost_bounded_memory() -> None:
    async with running_node() as node:
        server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
        await server.start()
        alice = await node.register("alice")
        port = int(server.url.rpartition(":")[2])
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = (
                f"PUT /_matrix/client/v3/profile/{quote(alice.user_id)}/displayname HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {alice.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            writer.write(head.encode())
            chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 64 << 20 and not reader.at_eof():
                    writer.write(chunk)
                    await asyncio.wait_for(writer.drain(), 2)
                    sent += 0x10000
            said = b""
            with contextlib.suppress(ConnectionError):
                said = await asyncio.wait_for(reader.read(1000), 5)
            assert not said or said.startswith(b"HTTP/1.1 413")
            assert sent < 64 << 20
            writer.close()
        finally:
            await server.stop()
