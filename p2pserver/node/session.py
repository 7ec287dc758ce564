"""One peer: its conversation on the link, its peering, and the pipes that lead to it. One task for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from p2pserver.errors import PeerUnreachable
from p2pserver.federation.effects import (
    AnswerArriving,
    Answered,
    Effect,
    MediaArrived,
    MediaUnanswered,
    PeerHears,
    Unanswered,
)
from p2pserver.federation.limits import FAST_BIT_RATE
from p2pserver.federation.peering import Peering
from p2pserver.link import Conversation
from p2pserver.link.limits import Priority
from p2pserver.mesh.neighbors import PipeFacts
from p2pserver.node.alarm import Alarm
from p2pserver.node.pipes import Pipe
from p2pserver.node.pipes_of_peer import PipesOfPeer
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import encode_json
from transports.contract import LinkProfile

log = logging.getLogger(__name__)

LINK_QUEUE_OCTETS = 256 * 1024
"""So much is handed to the link at a time; the rest waits in the peering, where newer things can overtake it."""
SHORT_QUEUE_OCTETS = 16 * 1024
"""And so much while all peers together make this node hold much."""
MESSAGES_AT_ONCE = 16
"""Messages that are read before what they ask for is done."""
PDUS_PER_UNIT_MAX = 32
"""A long answer is judged in parts, so that what a client sends in between does not wait for all of it."""
STALLED_OCTETS = 5_000
"""A slow link that moves nothing for as long as it takes for this has stalled."""
ANSWER_MAX_S = 4 * 3600.0

Execute = Callable[["Session", list[Effect]], Awaitable[None]]
Progress = Callable[[int, int], None]
"""Hears how many octets of an answer are here, and how many it has in all."""


class Session:
    """What this node and one process of a peer have in common, whatever pipes lead there."""

    def __init__(
        self,
        *,
        key: bytes,
        epoch: int,
        conversation: Conversation,
        peering: Peering,
        execute: Execute,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        chosen_anew: Callable[[Session], None],
    ) -> None:
        """`chosen_anew` hears when other pipes than before were chosen for what is sent, though none came or went."""
        self.key = key
        self.epoch = epoch
        """The random number of the peer's process."""
        self.conversation = conversation
        self.peering = peering
        self.pipes = PipesOfPeer(conversation, clock)
        self.active: Pipe | None = None
        """The pipe that most goes over; None, if there is none at all."""
        self.last_link = ""
        self.links_noted: list[tuple[str, list[str]]] = []
        """What was last written down of the links, for people."""
        self.links_noted_soon = False
        self.agent = ""
        """The peer's software, as it says."""
        self.hears: PeerHears | None = None
        """What the peer said that it reads on the medium that it shares with us."""
        self.idle_since = self.heard_at = clock()
        self.pdus_per_unit = PDUS_PER_UNIT_MAX
        """How many of the peer's events are judged in one unit of work; fewer, if they are dear."""
        self._execute = execute
        self._clock = clock
        self._wall_ms = wall_ms
        self._chosen_anew = chosen_anew
        self._held_back = False
        """The link's queue was full when we last had something to say."""
        self._wake = asyncio.Event()
        self._answers: dict[int, asyncio.Future[tuple[bool, bytes]]] = {}
        self._progress: dict[int, Progress] = {}
        self._media: dict[int, asyncio.Future[bytes]] = {}

    @property
    def server_name(self) -> str | None:
        return self.peering.server_name

    @property
    def is_stranger(self) -> bool:
        """Whether we share no room with the peer, as far as is known."""
        return not self.peering.shares_rooms

    def wake(self) -> None:
        self._wake.set()

    def pipe_active(self, pipe: Pipe) -> None:
        """Wakes the session if something arrived, or if what waits to be sent may find room now."""
        if self.conversation.has_received or self._held_back:
            self._wake.set()
        self.pipes.wake_others(pipe)

    # Pipes

    def add_pipe(self, pipe: Pipe, facts: PipeFacts) -> None:
        self.pipes.add(pipe, facts)
        self._pipes_changed()

    def retire_pipe(self, pipe: Pipe) -> None:
        self.pipes.retire(pipe)
        self._pipes_changed()

    def remove_pipe(self, pipe: Pipe) -> None:
        if pipe in self.pipes:
            self.pipes.remove(pipe)
            self._pipes_changed()

    def choose_pipes(self) -> None:
        before = self.pipes.links()
        self.pipes.choose()
        self._pipes_changed()
        if self.pipes.links() != before:
            self._chosen_anew(self)

    def _pipes_changed(self) -> None:
        before, self.active = self.active, self.pipes.main
        if self.active is None:
            if before is not None:
                self.idle_since = self._clock()
                self.peering.lost()
        else:
            self.last_link, bit_rate = self.active.link.remote, self.active.link.profile.bit_rate
            if before is None:
                self.peering.contact(self._clock(), clock_ms=self._wall_ms(), bit_rate=bit_rate)
            elif before is not self.active:
                self.peering.goes_over(bit_rate)
            self.pipes.wake()
        self.wake()

    # Questions

    async def ask(
        self, name: str, body: dict[str, Any], *, timeout_s: float, progress: Progress | None = None
    ) -> tuple[bool, bytes]:
        """(whether it is an answer, JSON text). On a slow link `timeout_s` is for a time in which nothing moves.
        `progress` hears of each part of a large answer.

        Raises: PeerUnreachable, at once when the peer cannot be asked, or when no answer came in time.
        """
        try:
            number = self.peering.ask(name, encode_json(body))
        except WireError as error:
            raise PeerUnreachable(f"the question cannot be sent: {error}") from None
        if number is None:
            raise PeerUnreachable("the server cannot be asked now")
        answer: asyncio.Future[tuple[bool, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        if progress is not None:
            self._progress[number] = progress
        self.wake()
        try:
            give_up_at = self._clock() + ANSWER_MAX_S
            while not answer.done():
                before, stalled_s = self._moved(), self._stalled_s()
                await asyncio.wait([answer], timeout=max(timeout_s, stalled_s))
                still = stalled_s > 0.0 and self._moved() != before and self._clock() < give_up_at
                if not answer.done() and not still:
                    raise PeerUnreachable("the server did not answer in time")
            return answer.result()
        finally:
            self._answers.pop(number, None)
            self._progress.pop(number, None)
            self.peering.cancel(number)

    def _moved(self) -> tuple[int, int]:
        """Changes while the link carries something for us, whole messages or parts, one way or the other."""
        return self.conversation.octets_held, self.conversation.queued_octets

    # What may be lost

    @property
    def talking(self) -> bool:
        return self.peering.talking

    @property
    def is_fast(self) -> bool:
        """Whether the link in use carries what runs by the clock."""
        bit_rate = None if self.active is None else self.active.link.profile.bit_rate
        return bit_rate is None or bit_rate >= FAST_BIT_RATE

    def tell_ephemera(self, edus: bytes, priority: Priority) -> bool:
        told = self.peering.tell_ephemera(edus, priority)
        self.wake()
        return told

    def _stalled_s(self) -> float:
        """How long nothing may move on a slow link, though both sides are there; 0 on a fast one."""
        bit_rate = None if self.active is None else self.active.link.profile.bit_rate
        return 0.0 if bit_rate is None or bit_rate >= FAST_BIT_RATE else STALLED_OCTETS * 8 / bit_rate

    def answer_arriving(self, effect: AnswerArriving) -> None:
        progress = self._progress.get(effect.number)
        if progress is not None:
            progress(effect.octets, effect.octets + effect.left)

    def answered(self, effect: Answered | Unanswered) -> None:
        answer = self._answers.get(effect.number)
        if answer is None or answer.done():
            return
        if isinstance(effect, Answered):
            answer.set_result((effect.ok, effect.body))
        else:
            answer.set_exception(PeerUnreachable("the server went away"))

    def fail_questions(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(PeerUnreachable("the server went away"))
        for octets in self._media.values():
            if not octets.done():
                octets.set_exception(PeerUnreachable("the server went away"))

    # Files

    @property
    def media_profile(self) -> LinkProfile | None:
        """The link that octets of files go over; None, if there is none."""
        pipe = self.pipes.media or self.active
        return None if pipe is None else pipe.link.profile

    async def ask_media(self, ticket: bytes, start: int, octets: int, *, timeout_s: float) -> bytes:
        """Octets of a file, perhaps fewer; b"", if the peer has nothing for the ticket.

        Raises: PeerUnreachable, at once when the peer cannot be asked, when it goes away, and at the timeout.
        """
        number = self.peering.media.ask(ticket, start, octets)
        if number is None:
            raise PeerUnreachable("the server cannot be asked now")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._media[number] = answer
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise PeerUnreachable("the server did not answer in time") from None
        finally:
            del self._media[number]
            self.peering.media.cancel(number)

    def media_answered(self, effect: MediaArrived | MediaUnanswered) -> None:
        answer = self._media.get(effect.number)
        if answer is None or answer.done():
            return
        if isinstance(effect, MediaArrived):
            answer.set_result(effect.octets)
        else:
            answer.set_exception(PeerUnreachable("the server went away"))

    # Life

    async def run(self) -> None:
        """Reads, does, says, for ever."""
        alarm = Alarm(self._wake.set, self._clock)
        try:
            while True:
                self._wake.clear()
                while await self._step():
                    pass
                times = (self.peering.next_deadline(), self.pipes.recheck_at)
                alarm.set(min((at for at in times if at), default=None))
                await self._wake.wait()
        finally:
            alarm.cancel()

    async def _step(self) -> bool:
        """Whether there may be more to do at once."""
        now = self._clock()
        deadline = self.peering.next_deadline()
        if deadline is not None and deadline <= now:
            self.peering.handle_timeout(now)
        if self.pipes.recheck_at is not None and self.pipes.recheck_at <= now:
            self.choose_pipes()
        heard = self._listen()
        said = self._say()
        self.conversation.holding.is_stranger = self.is_stranger
        self.conversation.holding.queue(self.conversation.queued_octets + self.peering.octets_held)
        effects = self.peering.effects()
        if effects:
            await self._execute(self, effects)
        return heard or said or bool(effects)

    def _listen(self) -> bool:
        heard = False
        for _ in range(MESSAGES_AT_ONCE):
            now = self._clock()
            messages = self.conversation.received(1) if self.peering.may_receive(now) else []
            if not messages:
                break
            self.peering.receive(messages[0], now)
            self.heard_at, heard = now, True
        if self.conversation.credit_due() is not None:
            self.pipes.wake()  # the peer may send as much again
        return heard

    def _say(self) -> bool:
        self.conversation.delivered()
        most = LINK_QUEUE_OCTETS if self.conversation.holding.may_grow else SHORT_QUEUE_OCTETS
        room = most - self.conversation.queued_octets
        messages = self.peering.messages_to_send(self._clock(), room) if room > 0 else []
        for data, priority in messages:
            self.conversation.send(data, priority)
        self._held_back = self.conversation.queued_octets >= most
        if messages:
            self.pipes.wake()
        return bool(messages)
