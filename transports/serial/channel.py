"""Whose turn it is, and what goes out next: one frame at a time, so that what is urgent waits for one frame at most.

On a cable that carries both directions at once a frame is written when the one before has nearly left: what waits in
the operating system's buffer can neither be overtaken nor taken back.

On a half-duplex channel

- whoever has just been heard, or is in the middle of a frame, is let finish;
- the last frame of a turn says OVER: its addressee may answer at once, and everybody else, the sender included,
  listens for as long as it takes to hear an answer begin;
- whoever wants to speak after that draws a slot by chance, and gives way to who drew an earlier one. The number of
  slots follows the number of neighbors, and doubles when damaged frames are heard, as after a collision.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from transports.serial.frames import EVERYBODY, Frame, FrameDecoder, encode_frame
from transports.serial.parameters import SerialParameters
from transports.serial.port import Port

LEAD_S = 0.03
"""How long before the end of a frame the next is written."""
TURN_S = 1.5
"""After so long others get a chance; one frame may always be sent."""
CONTROL_FRAMES_MAX = 64
BUSY_LOOK_S = 0.01
BUSY_S_MAX = 30.0
"""A modem that says it is busy for so long is not believed."""
_CROWD_MAX = 8


class Source(Protocol):
    """Something that has frames to send, in turn with the others."""

    @property
    def has_frame(self) -> bool: ...

    def take_frame(self) -> Frame: ...


class Channel:
    """Sends on one port. `run` is its whole life; `neighbors()` tells how many others may want to speak."""

    def __init__(
        self,
        port: Port,
        parameters: SerialParameters,
        *,
        rng: random.Random,
        decoder: FrameDecoder,
        neighbors: Callable[[], int],
    ) -> None:
        self._port, self._parameters, self._rng, self._decoder = port, parameters, rng, decoder
        self._neighbors = neighbors
        self._half_duplex = parameters.modem.half_duplex
        self._control: deque[Frame] = deque()
        self._sources: deque[Source] = deque()
        self._stirred = asyncio.Event()
        self._free_at = float("-inf")
        """When what was written has left."""
        self._heard_at = float("-inf")
        self._listen_until = float("-inf")
        self._floor_until = float("-inf")
        self._crowd = 1
        self.airtime_s = 0.0
        """Of all that was sent."""
        self.sent_at = float("-inf")
        """When a frame last went out."""

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        if source in self._sources:
            self._sources.remove(source)

    def say(self, frame: Frame) -> None:
        """A frame of the transport itself: before all others. In a flood of them the oldest is dropped."""
        if len(self._control) >= CONTROL_FRAMES_MAX:
            self._control.popleft()
        self._control.append(frame)
        self._stirred.set()

    def stir(self) -> None:
        """A source has something, or the port has room."""
        self._stirred.set()

    def reset(self) -> None:
        """The port was opened again: what was to be said is stale."""
        self._control.clear()
        self._free_at = self._listen_until = self._floor_until = float("-inf")
        self._stirred.set()

    def last_word(self, frame: Frame) -> None:
        """Written at once, whoever speaks: there will be no later."""
        self._port.write(encode_frame(frame, after_silence=True))

    def heard(self, frames: list[Frame], own_handle: int, *, damaged: bool) -> None:
        """Something arrived, with these frames in it."""
        now = asyncio.get_running_loop().time()
        self._heard_at = now
        if damaged:
            self._crowd = min(2 * self._crowd, _CROWD_MAX)
        for frame in frames:
            self._crowd = max(1, self._crowd // 2)
            self._floor_until = float("-inf")
            if frame.over and frame.to == own_handle:
                self._floor_until = now + self._parameters.answer_s
                self._listen_until = now
            elif frame.over and frame.to != EVERYBODY:
                self._listen_until = now + self._parameters.answer_s
            elif not frame.over:
                self._listen_until = now + self._parameters.slot_s
        self._stirred.set()

    async def run(self) -> None:
        while True:
            if not (self._has_frame() and self._port.is_open):
                await self._wait_until(None)
            elif not self._half_duplex:
                await self._leave_at(self._free_at - LEAD_S)
                if self._has_frame():
                    await self._write(self._next_frame(), after_silence=self._now() > self._free_at)
            else:
                await self._wait_for_turn()
                await self._take_turn()

    async def _take_turn(self) -> None:
        """Sends until there is nothing more, or for a while, and gives the floor away."""
        parameters = self._parameters
        began_at = self._now()
        first = True
        while self._has_frame() and self._port.is_open:
            frame = self._next_frame()
            spent_s = self._now() - began_at + parameters.airtime_s(len(frame.body))
            over = not self._has_frame() or spent_s >= TURN_S
            await self._write(replace(frame, over=over), after_silence=first)
            first = False
            if over:
                asked = frame.to != EVERYBODY
                self._listen_until = self._free_at + (parameters.answer_s if asked else parameters.slot_s)
                self._floor_until = float("-inf")
                return
            await self._leave_at(self._free_at - LEAD_S)

    async def _write(self, frame: Frame, *, after_silence: bool) -> None:
        octets = encode_frame(frame, after_silence=after_silence)
        while not self._port.write(octets):
            if not self._port.is_open:
                return  # lost, as on any bad line
            await self._wait_until(None)
        modem_s = self._parameters.modem.frame_s
        airtime_s = modem_s + len(octets) * self._parameters.octet_s
        self.sent_at = self._now()
        self._free_at = max(self.sent_at, self._free_at) + airtime_s
        self.airtime_s += airtime_s

    async def _wait_for_turn(self) -> None:
        """Returns when we may speak, or there is nothing to say any more."""
        drawn_until: float | None = None
        busy_since: float | None = None
        while self._has_frame() and self._port.is_open:
            now = self._now()
            if self._port.is_busy():
                busy_since = now if busy_since is None else busy_since
                if now - busy_since < BUSY_S_MAX:
                    drawn_until = None
                    await asyncio.sleep(BUSY_LOOK_S)
                    continue
            quiet_at = self._quiet_at()
            if self._floor_until > now:
                if quiet_at <= now:
                    return
                await self._wait_until(quiet_at)
                continue
            quiet_at = max(quiet_at, self._listen_until, self._free_at)
            if quiet_at > now:
                drawn_until = None
                await self._wait_until(quiet_at)
                continue
            if drawn_until is None:
                slots = 2 * max(1, self._neighbors()) * self._crowd
                drawn_until = now + self._rng.randrange(slots) * self._parameters.slot_s
            if drawn_until <= now:
                return
            heard_at = self._heard_at
            await self._wait_until(drawn_until)
            if self._heard_at != heard_at:
                drawn_until = None

    def _quiet_at(self) -> float:
        """When whoever is heard now will be done, as far as that can be told."""
        if not self._decoder.mid_frame:
            return self._heard_at
        return self._heard_at + self._parameters.modem.latency_s + 10 * self._parameters.port_octet_s

    def _has_frame(self) -> bool:
        return bool(self._control) or any(source.has_frame for source in self._sources)

    def _next_frame(self) -> Frame:
        if self._control:
            return self._control.popleft()
        while True:
            source = self._sources[0]
            self._sources.rotate(-1)
            if source.has_frame:
                return source.take_frame()

    async def _leave_at(self, when: float) -> None:
        wait_s = when - self._now()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _wait_until(self, when: float | None) -> None:
        """Until then, or until something happens; None: only that."""
        self._stirred.clear()
        if when is None:
            await self._stirred.wait()
            return
        try:
            async with asyncio.timeout_at(when):
                await self._stirred.wait()
        except TimeoutError:
            return

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
