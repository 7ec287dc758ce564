"""One connection of a client: HTTP/1.1 as h11 reads and writes it, and each request in it as a call of the ASGI app.

    octets -> h11 -> Request, Data, EndOfMessage -> `receive` of an exchange -> the app
    octets <- h11 <- Response, Data, EndOfMessage <- `send` of an exchange   <- the app

Requests of one connection are answered one after the other; what comes ahead of its turn is not read. What a slow side
makes us keep is bounded: of a head and of a body that nobody has asked for yet some 64 KiB each, and the app waits
while the client does not read. Source: RFC 9112; ASGI specification 3.0, "HTTP & WebSocket ASGI Message Format".
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final
from urllib.parse import unquote

import h11

from p2pserver.client_api.app import json_response
from p2pserver.http_api.asgi import Answer, ASGIApp, HeaderList, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

HEAD_OCTETS_MAX: Final = 65_536
BODY_OCTETS_AHEAD: Final = 65_536
"""Of a body that the app has not asked for yet; then the client has to wait."""
UNWANTED_OCTETS_MAX: Final = 32 << 20
"""So much of a body that nobody wants is read, for the sake of the answer that has gone out already."""
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Connections:
    """Those of one server, with what they have in common."""

    def __init__(self, app: ASGIApp, *, connections_max: int, idle_s: float) -> None:
        """Beyond `connections_max` requests are answered 503. `idle_s`: how long the head of a request may take."""
        self.app = app
        self.idle_s = idle_s
        self.connections_max = connections_max
        self.open: set[HttpConnection] = set()
        self.exchanges: set[asyncio.Task[None]] = set()
        self._date = (0, b"")

    def date(self) -> bytes:
        """The present time as the Date header has it. Source: RFC 9110, 5.6.7."""
        now_s = int(time.time())
        if now_s != self._date[0]:
            at = time.gmtime(now_s)
            day = f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year}"
            self._date = (now_s, f"{day} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT".encode())
        return self._date[1]

    async def close(self, *, within_s: float) -> None:
        """Lets requests under way be answered, and ends after `within_s` seconds those that are not."""
        for connection in [*self.open]:
            connection.close_when_idle()
        if self.exchanges:
            await asyncio.wait(self.exchanges, timeout=within_s)
        for task in self.exchanges:
            task.cancel()
        await asyncio.gather(*self.exchanges, return_exceptions=True)
        for connection in [*self.open]:
            connection.abort()


class HttpConnection(asyncio.Protocol):
    """A new one for each connection."""

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_OCTETS_MAX)
        self._transport: asyncio.Transport
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._exchange: _Exchange | None = None
        self._head: h11.Response
        """Of the answer; sent with the first part of its body."""
        self._ahead = False
        """The client has sent a part of its next request already, which waits in the socket."""
        self._thrown_away = 0
        """Octets of a body that came after the answer."""
        self._ending = False
        self._idle: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        self._all.open.add(self)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.open.discard(self)
        self._stop_waiting()
        self._writable.set()
        if self._exchange is not None:
            self._exchange.end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._take_events()

    # What the client says.

    def _take_events(self) -> None:
        while not self._transport.is_closing():
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(str(error))
                return
            if event is h11.NEED_DATA:
                return
            if event is h11.PAUSED:
                self._ahead = True
                self._transport.pause_reading()
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._take_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                if self._exchange is not None:
                    self._exchange.take_end()
                else:
                    self._go_on()

    def _take_body(self, octets: bytes) -> None:
        if self._exchange is not None:
            if self._exchange.take(octets) > BODY_OCTETS_AHEAD:
                self._transport.pause_reading()
            return
        self._thrown_away += len(octets)
        if self._thrown_away > UNWANTED_OCTETS_MAX:
            self._transport.close()

    def _begin(self, request: h11.Request) -> None:
        self._stop_waiting()
        raw_path, _, query = request.target.partition(b"?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": query,
            "headers": [*request.headers],
            "client": self._client,
            "server": self._server,
        }
        too_many = len(self._all.open) > self._all.connections_max
        self._exchange = _Exchange(self, scope, self._writable)
        task = asyncio.get_running_loop().create_task(self._exchange.run(_too_busy if too_many else self._all.app))
        self._all.exchanges.add(task)
        task.add_done_callback(self._all.exchanges.discard)

    def _refuse(self, why: str) -> None:
        """What is no HTTP is answered like every other mistake; the connection ends: nobody knows where it stands."""
        log.info("no HTTP", extra={"error": why})
        if self._exchange is not None:
            self._exchange.end()
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = json_response(400, {"errcode": "M_UNKNOWN", "error": "Invalid HTTP request received."})
            self.begin_answer(answer.status, [*answer.headers, _length(answer), (b"connection", b"close")])
            self.write(answer.body, last=True)
        self._transport.close()

    # What an exchange does.

    def want_body(self) -> None:
        """The app waits for what the client sends, or for its hanging up."""
        if self._h11.they_are_waiting_for_100_continue:
            self._transport.write(self._send(h11.InformationalResponse(status_code=100, headers=[])))
        if not self._ahead:
            self._transport.resume_reading()

    def begin_answer(self, status: int, headers: HeaderList) -> None:
        """Raises: h11.LocalProtocolError, if the headers are none."""
        headers = [*headers, (b"date", self._all.date())]
        if self._ending:
            headers.append((b"connection", b"close"))
        self._head = h11.Response(status_code=status, headers=headers)

    def write(self, part: bytes, *, last: bool) -> None:
        """Sends a part of the answer, the first time with the head before it."""
        octets = b""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            octets = self._send(self._head)
        if part:
            octets += self._send(h11.Data(data=part))
        if last:
            octets += self._send(h11.EndOfMessage())
        self._transport.write(octets)

    def answered(self) -> None:
        """The whole answer is written: on to the next request, if there may be one.

        What is left of a body that the app did not want is taken and thrown away: a connection that is closed before it
        would take the answer with it.
        """
        self._exchange, self._thrown_away = None, 0
        if self._h11.their_state is h11.SEND_BODY and not self._h11.they_are_waiting_for_100_continue:
            self._wait_for_request()
            self._transport.resume_reading()
            self._take_events()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._ending or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self._transport.close()
            return
        self._h11.start_next_cycle()
        self._ahead = False
        self._wait_for_request()
        self._transport.resume_reading()
        self._take_events()

    def close_when_idle(self) -> None:
        self._ending = True
        if self._exchange is None:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _send(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._idle = asyncio.get_running_loop().call_later(self._all.idle_s, self._transport.close)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class _Exchange:
    """One request and its answer."""

    def __init__(self, connection: HttpConnection, scope: Scope, writable: asyncio.Event) -> None:
        self._connection = connection
        self._scope = scope
        self._writable = writable
        self._body = bytearray()
        self._whole = False
        """The body has come to its end."""
        self._told_whole = False
        self._ended = False
        """Answered, or the client has gone."""
        self._news = asyncio.Event()

    def take(self, octets: bytes) -> int:
        """More of the body; how many octets of it wait for the app now."""
        self._body += octets
        self._news.set()
        return len(self._body)

    def take_end(self) -> None:
        self._whole = True
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        except Exception:  # the app answers its own mistakes: this one came while it did so
            log.exception("no answer", extra={"method": self._scope["method"], "path": self._scope["path"]})
        finally:
            if not self._ended:  # nothing more comes: the client is left without an answer, or with half of one
                self._ended = True
                self._connection.abort()

    async def _receive(self) -> Message:
        while not self._ended and not self._body and (self._told_whole or not self._whole):
            self._news.clear()
            self._connection.want_body()
            await self._news.wait()
        if self._ended:
            return {"type": "http.disconnect"}
        part, self._body, self._told_whole = bytes(self._body), bytearray(), self._whole
        return {"type": "http.request", "body": part, "more_body": not self._whole}

    async def _send(self, message: Message) -> None:
        await self._writable.wait()
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self._connection.begin_answer(message["status"], message["headers"])
            return
        last = not message.get("more_body", False)
        part = b"" if self._scope["method"] == "HEAD" else message.get("body", b"")
        self._connection.write(part, last=last)
        if last:
            self.end()
            self._connection.answered()


async def _too_busy(scope: Scope, receive: Receive, send: Send) -> None:
    answer = json_response(503, {"errcode": "M_UNKNOWN", "error": "too many connections"}, {"Connection": "close"})
    await answer(scope, receive, send)


def _length(answer: Answer) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(answer.body)


def _address(found: object) -> tuple[str, int] | None:
    """Host and port of a socket's address, which for IPv6 has more, and for other families is something else."""
    if isinstance(found, tuple) and len(found) >= 2:
        return str(found[0]), int(found[1])
    return None
