"""The HTTP door on a real socket: what a client may do in one connection, and what a slow one costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from p2pserver.http_api.asgi import Answer, Receive, Scope, Send
from p2pserver.node import http
from p2pserver.node.http import HttpServer
from p2pserver.node.http_connection import BODY_OCTETS_AHEAD

LONG_S = 30.0


@dataclass
class Echo:
    """An app that answers with the method, the path and the size of the body; some paths do something else."""

    asked: list[str] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    sent_octets: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.asked.append(path)
        if path == "/wait":
            self.waiting.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.hung_up.set()
            return
        if path == "/later":
            self.waiting.set()
            await self.go_on.wait()
        if path == "/much":
            await self._much(send)
            return
        if path == "/mistake":
            raise RuntimeError("a mistake")
        if path == "/early":
            await Answer(413, [], b"too much")(scope, receive, send)
            return
        if path == "/split":
            await Answer(200, [(b"x-split", b"a\r\nb: c")])(scope, receive, send)
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        said = f"{scope['method']} {path}?{scope['query_string'].decode()} {size}"
        await Answer(200, [(b"content-type", b"text/plain")], said.encode())(scope, receive, send)

    async def _much(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1_000):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            self.sent_octets += 65_536
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Line:
    """A connection to the server under test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)

    async def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer, which has a Content-Length."""
        async with asyncio.timeout(LONG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            octets = await self.reader.readexactly(int(headers.get("content-length", "0"))) if body else b""
        return int(head[0].split()[1]), headers, octets

    async def ended(self) -> bool:
        """Once the server has hung up: whether it said nothing more."""
        async with asyncio.timeout(LONG_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@dataclass
class Door:
    app: Echo
    server: HttpServer
    _lines: list[Line] = field(default_factory=list)

    async def line(self) -> Line:
        port = int(self.server.url.rpartition(":")[2])
        self._lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        return self._lines[-1]


@asynccontextmanager
async def opened() -> AsyncIterator[Door]:
    app = Echo()
    door = Door(app, HttpServer(app, host="127.0.0.1", port=0))
    await door.server.start()
    try:
        yield door
    finally:
        for line in door._lines:
            line.writer.transport.abort()
            with suppress(ConnectionError):
                await line.writer.wait_closed()
        await door.server.stop()


def request(path: str, *, method: str = "GET", more: str = "") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n"


async def test_requests_that_come_at_once_are_answered_in_turn_on_one_connection() -> None:
    async with opened() as door:
        line = await door.line()
        with_body = request("/b", method="PUT", more="Content-Length: 3\r\n") + "abc"
        line.say(request("/a?x=1") + with_body + request("/c%20d"))
        bodies = [(await line.answer())[2] for _ in range(3)]
        assert bodies == [b"GET /a?x=1 0", b"PUT /b? 3", b"GET /c d? 0"]
        line.say(request("/e"))
        status, headers, _ = await line.answer()
        assert status == 200
        assert headers["date"].endswith("gmt")


async def test_the_next_request_waits_for_the_answer_to_this_one() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/later") + request("/next"))
        await door.app.waiting.wait()
        other = await door.line()
        other.say(request("/other"))
        await other.answer()
        assert door.app.asked == ["/later", "/other"]
        door.app.go_on.set()
        assert [(await line.answer())[2] for _ in range(2)] == [b"GET /later? 0", b"GET /next? 0"]


async def test_head_has_the_headers_and_no_body() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/a", method="HEAD") + request("/b"))
        status, headers, _ = await line.answer(body=False)
        assert (status, headers["content-length"]) == (200, str(len("HEAD /a? 0")))
        assert (await line.answer())[2] == b"GET /b? 0"


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/a", method="POST", more="Content-Length: 2\r\nExpect: 100-continue\r\n"))
        assert (await line.answer())[0] == 100
        line.say("ab")
        assert (await line.answer())[2] == b"POST /a? 2"


async def test_large_bodies_pass_in_chunks_and_the_connection_goes_on() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/a", method="POST", more="Transfer-Encoding: chunked\r\n"))
        for _ in range(64):
            line.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        line.say(b"0\r\n\r\n" + request("/b").encode())
        assert [(await line.answer())[2] for _ in range(2)] == [b"POST /a? %d" % (64 << 16), b"GET /b? 0"]


async def say_without_end(line: Line) -> None:
    for _ in range(4_096):
        line.say(b"x" * 65_536)
        await line.writer.drain()


async def test_a_body_that_nobody_reads_stays_with_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GRACE_S", 0.1)
    async with opened() as door:
        line = await door.line()
        line.say(request("/later", method="POST", more=f"Content-Length: {256 << 20}\r\n"))
        await door.app.waiting.wait()
        (connection,) = door.server._connections.open
        sending = asyncio.create_task(say_without_end(line))
        await asyncio.wait({sending}, timeout=1.0)
        assert sending.cancel(), "the server took more than it asked for"
        exchange = connection._exchange
        assert exchange is not None
        assert 0 < len(exchange._body) <= BODY_OCTETS_AHEAD + (256 << 10)


async def test_an_answer_that_does_not_wait_for_the_body_arrives_all_the_same() -> None:
    """Who closes on a client that is still sending takes the answer away from it again."""
    async with opened() as door:
        line = await door.line()
        octets = 8 << 20
        line.say(request("/early", method="POST", more=f"Content-Length: {octets}\r\n"))
        for _ in range(octets >> 16):
            line.say(b"x" * 65_536)
            await line.writer.drain()
        status, _, body = await line.answer()
        assert (status, body) == (413, b"too much")
        line.say(request("/early", method="POST", more="Transfer-Encoding: chunked\r\n") + "2\r\nab\r\n")
        assert (await line.answer())[0] == 413
        line.say("0\r\n\r\n" + request("/a"))
        assert (await line.answer())[2] == b"GET /a? 0"
        line.say(request("/early", method="POST", more="Content-Length: 10\r\nConnection: close\r\n"))
        assert (await line.answer())[0] == 413
        line.say("0123456789")
        assert await line.ended()


async def test_the_app_waits_for_a_client_that_does_not_read() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/much"))
        await line.reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != door.app.sent_octets:  # until it goes no further
            before = door.app.sent_octets
            await asyncio.sleep(0.2)
        assert door.app.sent_octets < 32 << 20


async def test_an_old_client_is_answered_and_hung_up_on() -> None:
    async with opened() as door:
        line = await door.line()
        line.say("GET /a HTTP/1.0\r\n\r\n")
        assert (await line.answer())[2] == b"GET /a? 0"
        assert await line.ended()


async def test_the_app_hears_that_its_client_hung_up() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/wait"))
        await door.app.waiting.wait()
        line.writer.close()
        await asyncio.wait_for(door.app.hung_up.wait(), LONG_S)


@pytest.mark.parametrize("path", ["/mistake", "/split"])
async def test_a_mistake_of_the_app_ends_one_connection_alone(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as door:
        line, other = await door.line(), await door.line()
        line.say(request(path) + request("/next"))
        assert await line.ended()
        assert "no answer" in caplog.text
        other.say(request("/a"))
        assert (await other.answer())[0] == 200
        assert door.app.asked == [path, "/a"]


async def test_a_body_that_breaks_off_into_nonsense_is_refused_once() -> None:
    async with opened() as door:
        line = await door.line()
        line.say(request("/a", method="POST", more="Transfer-Encoding: chunked\r\n") + "2\r\nab\r\nnonsense\r\n")
        status, headers, _ = await line.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert await line.ended()


async def asked_in_time(door: Door) -> Line:
    """A connection on which one request was answered; on a busy machine the first ones may come too late."""
    while True:
        line = await door.line()
        line.say(request("/a"))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await line.answer()
            return line


async def test_heads_take_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.3)
    async with opened() as door:
        silent, slow = await door.line(), await door.line()
        slow.say("GET /slow HTTP/1.1\r\nHost: x\r\n")
        answered = await asked_in_time(door)
        for line in (silent, slow, answered):
            assert await line.ended()
        assert "/slow" not in door.app.asked


async def test_beyond_so_many_connections_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    async with opened() as door:
        lines = [await door.line() for _ in range(2)]
        for line in lines:
            line.say(request("/a"))
            assert (await line.answer())[0] == 200
        late = await door.line()
        late.say(request("/a"))
        status, headers, _ = await late.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert await late.ended()
        lines[0].say(request("/a"))
        assert (await lines[0].answer())[0] == 200


async def test_stopping_answers_what_is_under_way_and_cuts_off_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GRACE_S", 0.5)
    async with opened() as door:
        idle, under_way, waiting = await door.line(), await door.line(), await door.line()
        idle.say(request("/a"))
        await idle.answer()
        waiting.say(request("/wait"))
        await door.app.waiting.wait()
        door.app.waiting.clear()
        under_way.say(request("/later"))
        await door.app.waiting.wait()
        stopping = asyncio.create_task(door.server.stop())
        assert await idle.ended()
        door.app.go_on.set()
        status, headers, _ = await under_way.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await under_way.ended()
        assert await waiting.ended()
        await asyncio.wait_for(stopping, LONG_S)
