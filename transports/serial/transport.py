"""One serial port and everybody who can be heard through it. `docs/serial.md` has the options and the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Self

from transports.base import TransportBase
from transports.contract import DiscoveredService, ServiceState, TransportStatus
from transports.serial.channel import Channel
from transports.serial.control import ANY_LINK, CONTROL_OCTETS_MAX, Control, Kind, decode_control
from transports.serial.frames import EVERYBODY, Frame, FrameDecoder
from transports.serial.line_quality import LineQuality
from transports.serial.link import SerialLink
from transports.serial.medium import SerialMedium
from transports.serial.neighbors import OPEN_TRIES, UNKNOWN, Neighbor, Neighbors
from transports.serial.parameters import DATAGRAM_OCTETS_MAX, SerialParameters
from transports.serial.port import Port, ThreadedPort

FIRST_HELLO_S = 1.0
"""After the first HELLO, while nobody has answered; then doubled, up to `hello_s`."""
CLOSE_S = 0.9


class SerialTransport(TransportBase[SerialLink]):
    """Implements `transports.contract.Transport`; hears what the port, the links and the clock have to say."""

    kind = "serial"

    def __init__(
        self, parameters: SerialParameters, *, port: Port | None = None, rng: random.Random | None = None
    ) -> None:
        """`port` instead of the one that the parameters name: a test's, on virtual time."""
        super().__init__()
        self.parameters = parameters
        self.profile = parameters.link_profile
        self._rng = rng or random.Random()
        self._port = port or ThreadedPort(
            parameters.port, baud=parameters.baud, rtscts=parameters.rtscts, busy=parameters.busy
        )
        self._decoder = FrameDecoder(DATAGRAM_OCTETS_MAX)
        self._quality = LineQuality()
        self._neighbors: Neighbors | None = None
        self.medium = (
            SerialMedium(self.profile, own_handle=self._own_handle, queued=self.outbox_filled)
            if self.profile.shared_medium
            else None
        )
        self._channel: Channel | None = None
        self._woken = asyncio.Event()
        self._hello_at: float | None = None
        self._hello_wanted = False
        self._hello_pause_s = FIRST_HELLO_S
        self._port_note: str | None = None

    @classmethod
    def from_parameters(cls, parameters: str) -> Self:
        return cls(SerialParameters.parse(parameters))

    async def begin(self) -> None:
        self._neighbors = neighbors = Neighbors(self.instance_id, self._rng)
        self._channel = channel = Channel(
            self._port,
            self.parameters,
            rng=self._rng,
            decoder=self._decoder,
            neighbors=lambda: len(neighbors),
        )
        await self._port.start(self)
        if self.medium is not None:
            self.medium.begin()
            channel.add(self.medium)
        self.work_on(channel.run(), name="channel", broken=self._broken)
        self.work_on(self._keep(neighbors, channel), name="neighbors", broken=self._broken)

    def _broken(self, note: str) -> None:
        self._port_note = f"{self.parameters.port}: {note}"

    def status(self) -> TransportStatus:
        here = f"{self.parameters.port}, {self.parameters.profile}, {self.parameters.baud} baud"
        notes = [self._port_note] if self._port_note else []
        if self._port.is_open and not self.closed:
            notes += self._quality.notes()
        return TransportStatus(
            kind=self.kind,
            listening=(here,) if self._port.is_open and not self.closed else (),
            services=tuple(self._service(neighbor) for neighbor in self._neighbors or ()),
            notes=tuple(notes),
        )

    async def close(self) -> None:
        if self.closed:
            return
        await self.stop_work()
        if self._neighbors is not None and self._channel is not None:
            self._channel.last_word(self._frame(EVERYBODY, Control(Kind.BYE, self.instance_id)))
            for neighbor in self._neighbors:
                self._link_over(neighbor, "the transport is closed", keep_inbox=False)
                self._neighbors.forget(neighbor)
        if self.medium is not None:
            self.medium.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._port.close()

    # PortEvents

    def port_opened(self) -> None:
        self._port_note = None
        self._decoder.forget()
        self._quality.begin(self._now())
        channel = self._running_channel()
        channel.reset()
        self._say(
            EVERYBODY, Control(Kind.BYE, self.instance_id)
        )  # who linked to us before the port was lost should do it anew
        self._say(EVERYBODY, Control(Kind.ASK, self.instance_id))
        self._hello_pause_s = max(FIRST_HELLO_S, 10 * self._control_s())
        self._hello_at = self._now() + self._hello_pause_s
        self._woken.set()

    def port_lost(self, reason: str) -> None:
        self._port_note = f"{self.parameters.port}: {reason}; trying again"
        self._decoder.forget()
        for neighbor in self._neighbors or ():
            self._link_over(neighbor, f"{self.parameters.port}: {reason}", keep_inbox=False)
            if self._neighbors is not None:
                self._neighbors.forget(neighbor)

    def octets_written(self) -> None:
        self._running_channel().stir()

    def octets_arrived(self, octets: bytes) -> None:
        if self.closed or self._neighbors is None:
            return
        damaged = self._decoder.damaged
        frames = self._decoder.feed(octets)
        damaged = self._decoder.damaged - damaged
        now = self._now()
        self._quality.heard(len(octets), len(frames), damaged, now)
        self._running_channel().heard(frames, self._neighbors.handle, damaged=damaged > 0)
        for frame in frames:
            self._frame_arrived(self._neighbors, frame, now)

    # LinkOwner

    def outbox_filled(self) -> None:
        self._running_channel().stir()

    def inbox_full(self, link: SerialLink) -> None:
        self._say_to(link, Control(Kind.STOP))

    def inbox_has_room(self, link: SerialLink) -> None:
        self._say_to(link, Control(Kind.GO))

    def closed_here(self, link: SerialLink, unsent: list[Frame]) -> None:
        channel = self._running_channel()
        channel.remove(link)
        for frame in unsent:
            channel.say(frame)
        self._say_to(link, Control(Kind.CLOSE, self.instance_id, link.nonce))
        neighbor = self._neighbors.with_id(link.instance_id) if self._neighbors is not None else None
        if neighbor is not None and neighbor.link is link:
            self._back_off(neighbor, link)

    # what arrives

    def _frame_arrived(self, neighbors: Neighbors, frame: Frame, now: float) -> None:
        if frame.to not in {EVERYBODY, neighbors.handle}:
            self._overheard(neighbors, frame, now)
        elif frame.control:
            control = decode_control(frame.body)
            if control is not None:
                self._control_arrived(neighbors, frame, control, now)
        elif frame.to == EVERYBODY:
            self._overheard(neighbors, frame, now)
            if self.medium is not None and frame.sender != neighbors.handle:
                self.medium.datagram_arrived(frame.body)
        else:
            neighbor = self._overheard(neighbors, frame, now)
            if neighbor is not None and neighbor.link is not None:
                neighbor.link.datagram_arrived(frame.body)
            elif neighbor is not None and neighbor.opening is None and now - neighbor.closed_told_at >= 1.0:
                neighbor.closed_told_at = now
                self._say(neighbor.handle, Control(Kind.CLOSE, neighbors.instance_id, ANY_LINK))

    def _overheard(self, neighbors: Neighbors, frame: Frame, now: float) -> Neighbor | None:
        """Whoever speaks lives; who speaks and is not known is asked, once in a while."""
        neighbor = neighbors.heard(frame.sender, now)
        if neighbor is None and neighbors.may_ask(frame.sender, now, 20 * self._control_s() + 1.0):
            self._say(frame.sender, Control(Kind.ASK, neighbors.instance_id))
        return neighbor

    def _control_arrived(self, neighbors: Neighbors, frame: Frame, control: Control, now: float) -> None:
        if control.kind in {Kind.HELLO, Kind.ASK, Kind.OPEN}:
            known = neighbors.with_id(control.instance_id) is not None
            self._announce(neighbors.learn(frame.sender, control.instance_id, now))
            if control.instance_id == neighbors.instance_id:
                return
            if control.kind is Kind.ASK:
                self._answer_soon(at_once=frame.to == neighbors.handle)
            elif not known and control.kind is Kind.HELLO:
                self._answer_soon(at_once=False)
            self._woken.set()
        elif control.kind is Kind.CLASH:
            self._announce(neighbors.told_of_clash(control))
            return
        elif control.kind is Kind.BYE:
            leaving = neighbors.with_id(control.instance_id)
            if leaving is not None:
                self._link_over(leaving, "the other side left")
                neighbors.forget(leaving)
            return
        neighbor = neighbors.heard(frame.sender, now)
        if neighbor is None:
            return
        match control.kind:
            case Kind.OPEN if neighbors.instance_id.startswith(control.addressee):
                self._opened_there(neighbor, control)
            case Kind.ACCEPT if neighbor.opening == control.nonce:
                if control.instance_id == neighbor.instance_id:  # otherwise somebody else with its handle
                    self._make_link(neighbor, control.nonce, initiator=True)
            case Kind.CLOSE if control.instance_id == neighbor.instance_id and neighbor.link is not None:
                if control.nonce in {neighbor.link.nonce, ANY_LINK}:
                    self._link_over(neighbor, "closed by the other side")
            case Kind.STOP if neighbor.link is not None:
                neighbor.link.told_to_stop()
            case Kind.GO if neighbor.link is not None:
                neighbor.link.told_to_go()

    def _opened_there(self, neighbor: Neighbor, control: Control) -> None:
        if neighbor.link is None or neighbor.link.nonce != control.nonce:
            self._link_over(neighbor, "the other side began anew")
            self._make_link(neighbor, control.nonce, initiator=False)
        self._say(neighbor.handle, Control(Kind.ACCEPT, self.instance_id, control.nonce))

    # links

    def _make_link(self, neighbor: Neighbor, nonce: int, *, initiator: bool) -> None:
        assert self._neighbors is not None
        neighbors, instance_id = self._neighbors, neighbor.instance_id
        link = SerialLink(
            self,
            self.profile,
            initiator=initiator,
            instance_id=instance_id,
            nonce=nonce,
            remote=f"serial {self.parameters.port} handle {neighbor.handle}",
            handles=lambda: (neighbors.handle_of(instance_id), neighbors.handle),
        )
        neighbor.link, neighbor.opening, neighbor.tries = link, None, 0
        neighbor.state = ServiceState.LINKED
        self._running_channel().add(link)
        self.offer(link)

    def _link_over(self, neighbor: Neighbor, reason: str, *, keep_inbox: bool = True) -> None:
        link = neighbor.link
        if link is not None:
            self._running_channel().remove(link)
            self._back_off(neighbor, link)
            link.end(reason, keep_inbox=keep_inbox)

    def _back_off(self, neighbor: Neighbor, link: SerialLink) -> None:
        now = self._now()
        neighbor.link_over(now, lasted_s=now - link.made_at_s, rng=self._rng, least_s=10 * self._control_s())
        self._woken.set()

    # what is said

    def _say(self, to: int, control: Control) -> None:
        self._running_channel().say(self._frame(to, control))

    def _say_to(self, link: SerialLink, control: Control) -> None:
        assert self._neighbors is not None
        handle = self._neighbors.handle_of(link.instance_id)
        if handle != UNKNOWN:
            self._say(handle, control)

    def _frame(self, to: int, control: Control) -> Frame:
        assert self._neighbors is not None
        return Frame(to, self._neighbors.handle, control.encode(), control=True)

    def _announce(self, controls: list[Control]) -> None:
        for control in controls:
            if control.kind is Kind.HELLO:
                self._answer_soon(at_once=True)
            else:
                self._say(EVERYBODY, control)

    def _answer_soon(self, *, at_once: bool) -> None:
        """A HELLO, once for all who want one; where several will answer, each after a wait of its own."""
        others = len(self._neighbors or ())
        wait_s = 0.0
        if not at_once and self.profile.half_duplex:
            wait_s = self._rng.uniform(0.0, 4 * self._control_s() * (others + 1))
        self._hello_wanted = True
        when = self._now() + wait_s
        self._hello_at = when if self._hello_at is None else min(when, self._hello_at)
        self._woken.set()

    async def _keep(self, neighbors: Neighbors, channel: Channel) -> None:
        """Does what is due: says HELLO, asks for links, forgets who is silent."""
        while True:
            now = self._now()
            self._forget_silent(neighbors, now)
            if self._port.is_open:
                self._say_hello(neighbors, channel, now)
                for neighbor in neighbors:
                    self._ask_for_link(neighbors, neighbor, now)
            deadlines = [neighbor.heard_at + self.parameters.silence_s for neighbor in neighbors]
            if self._port.is_open:
                deadlines += [neighbor.due_at for neighbor in neighbors if self._is_ours_to_open(neighbors, neighbor)]
                deadlines += [] if self._hello_at is None else [self._hello_at]
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadlines, default=None)):
                    await self._woken.wait()

    def _forget_silent(self, neighbors: Neighbors, now: float) -> None:
        for neighbor in neighbors:
            silent_s = now - neighbor.heard_at
            if silent_s >= self.parameters.silence_s:
                self._link_over(neighbor, f"nothing was heard for {silent_s:.0f} s")
                neighbors.forget(neighbor)
                self._hello_pause_s = max(FIRST_HELLO_S, 10 * self._control_s())
                self._answer_soon(at_once=False)

    def _say_hello(self, neighbors: Neighbors, channel: Channel, now: float) -> None:
        """Who has something else to say is heard anyway, and asked who it is by who does not know."""
        if self._hello_at is None or self._hello_at > now:
            return
        if len(neighbors):
            pause_s = self.parameters.hello_s
            silent_s = now - channel.sent_at
            if pause_s - silent_s >= 1.0 and not self._hello_wanted:
                self._hello_at = now + pause_s - silent_s
                return
            self._say(EVERYBODY, Control(Kind.HELLO, neighbors.instance_id))
        else:
            pause_s = self._hello_pause_s
            self._hello_pause_s = min(2 * pause_s, self.parameters.hello_s)
            self._say(EVERYBODY, Control(Kind.ASK, neighbors.instance_id))
        self._hello_wanted = False
        self._hello_at = now + pause_s * self._rng.uniform(0.9, 1.1)

    def _is_ours_to_open(self, neighbors: Neighbors, neighbor: Neighbor) -> bool:
        return neighbor.link is None and neighbor.handle != UNKNOWN and neighbors.instance_id < neighbor.instance_id

    def _ask_for_link(self, neighbors: Neighbors, neighbor: Neighbor, now: float) -> None:
        """Of two instances the one with the smaller id asks, until it is answered; then less often."""
        if not self._is_ours_to_open(neighbors, neighbor) or neighbor.due_at > now:
            return
        if neighbor.opening is None or neighbor.tries >= OPEN_TRIES:
            neighbor.state = ServiceState.FAILED if neighbor.tries >= OPEN_TRIES else ServiceState.DIALING
            neighbor.opening, neighbor.tries = self._rng.randrange(1, 1 << 16), 0
        neighbor.tries += 1
        asking = Control(Kind.OPEN, neighbors.instance_id, neighbor.opening, addressee=neighbor.instance_id)
        self._say(neighbor.handle, asking)
        wait_s = 4 * self._control_s() + 2 * self.parameters.answer_s + 0.5
        neighbor.due_at = now + wait_s * min(2 ** (neighbor.tries - 1), 16) * self._rng.uniform(0.75, 1.25)

    # facts

    def _service(self, neighbor: Neighbor) -> DiscoveredService:
        failed = neighbor.state is ServiceState.FAILED
        return DiscoveredService(
            address=f"{self.parameters.port} handle {neighbor.handle}",
            hint=neighbor.instance_id,
            state=neighbor.state,
            last_error="it is heard, but does not seem to hear us" if failed else None,
        )

    def _own_handle(self) -> int:
        assert self._neighbors is not None
        return self._neighbors.handle

    def _running_channel(self) -> Channel:
        assert self._channel is not None
        return self._channel

    def _control_s(self) -> float:
        return self.parameters.airtime_s(CONTROL_OCTETS_MAX)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
