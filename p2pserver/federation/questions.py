"""Requests and responses, both ways. A response may be large; it goes in parts when there is room for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import AnswerArriving, Answered, Serve, Unanswered
from p2pserver.link.limits import Priority
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import PART_OCTETS_MAX, Request, Response, encode_json
from p2pserver.wire.packing import pack, unpack

PARTS_LEAST = 32
"""A large answer goes in so many parts at least, so that whoever waits sees it come."""
PART_OCTETS_LEAST = 512
"""A part costs about ten octets beyond its own."""


@dataclass(slots=True)
class _Answering:
    number: int
    ok: bool
    body: bytes
    at: int = 0


class Questions:
    """Open questions of either side, bounded."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next = 0
        self._open: dict[int, bytearray] = {}
        self._serving: set[int] = set()
        self._answers: deque[_Answering] = deque()
        self._answer_octets = 0

    # Ours

    def ask(self, name: str, body: bytes) -> int | None:
        """Asks; returns the number, or None when too many questions are open.

        Raises: WireError, for a question that cannot be written.
        """
        if len(self._open) >= self._channel.limits.asking:
            return None
        number = self._next
        self._next += 1
        self._channel.say(Request(number, name, body), Priority.STATE)
        self._open[number] = bytearray()
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._open.pop(number, None)

    def response(self, message: Response) -> None:
        collected = self._open.get(message.number)
        if collected is None:
            return
        if len(collected) + len(message.part) > self._channel.limits.response_octets:
            del self._open[message.number]
            self._channel.emit(Unanswered(message.number))
            return
        collected += message.part
        if message.left:
            self._channel.emit(AnswerArriving(message.number, len(collected), message.left))
            return
        del self._open[message.number]
        try:
            body = unpack(bytes(collected), self._channel.limits.response_octets)
        except WireError:
            self._channel.emit(Unanswered(message.number))
        else:
            self._channel.emit(Answered(message.number, message.ok, body))

    def lost(self) -> None:
        """The peer is gone: nothing that is open will be waited for."""
        for number in self._open:
            self._channel.emit(Unanswered(number))
        self._open.clear()

    # The peer's

    @property
    def octets_held(self) -> int:
        """Of answers of both sides that are not through."""
        return self._answer_octets + sum(map(len, self._open.values()))

    @property
    def is_busy(self) -> bool:
        """Whether the peer should not be listened to until it has taken its answers."""
        return self._answer_octets >= self._channel.limits.response_octets

    def request(self, message: Request) -> None:
        if message.number in self._serving or len(self._serving) >= self._channel.limits.serving:
            refusal = {"errcode": "M_LIMIT_EXCEEDED", "error": "too many questions at once", "retry_after_ms": 1000}
            self._channel.say(Response(message.number, False, encode_json(refusal), 0), Priority.STATE)
            return
        self._serving.add(message.number)
        self._channel.emit(Serve(message.number, message.name, message.body))

    def served(self, number: int, ok: bool, body: bytes) -> None:
        self._serving.discard(number)
        packed = pack(body)
        self._answers.append(_Answering(number, ok, packed))
        self._answer_octets += len(packed)

    def pump(self) -> None:
        """Sends parts of answers while there is room."""
        while self._answers and self._channel.talking and not self._channel.is_full:
            answer = self._answers[0]
            size = min(max(PART_OCTETS_LEAST, len(answer.body) // PARTS_LEAST), PART_OCTETS_MAX)
            part = answer.body[answer.at : answer.at + size]
            answer.at += len(part)
            left = len(answer.body) - answer.at
            self._channel.say(Response(answer.number, answer.ok, part, left), Priority.STATE)
            if not left:
                self._answers.popleft()
                self._answer_octets -= len(answer.body)
