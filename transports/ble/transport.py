"""Bluetooth LE: everybody advertises, scans and dials; `docs/ble.md` has the protocol and the reasons.

One task for each adapter does everything that adapters do one at a time: it starts and stops the scan, advertises and
dials. When the adapter is gone it says so in a note and tries again until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol, Self

from transports.base import TransportBase
from transports.ble.greeting import Ability, Greeting, NotUnderstood, read_control, rename
from transports.ble.link import BleLink
from transports.ble.parameters import BleParameters
from transports.ble.radio import Channel, ClientChannel, ConnectFailed, Radio, RadioDown, Refused, Sighting
from transports.ble.roles import Neighbor, Roles, TokenBucket
from transports.ble.uuids import (
    DATAGRAM_OCTETS_MAX,
    DATAGRAM_OCTETS_MIN,
    SHORT_ID_OCTETS,
    datagram_octets,
    tagged_datagram_octets,
)
from transports.contract import TransportStatus

log = logging.getLogger(__name__)

DIALED_MAX = 3
ACCEPTED_MAX = 4
"""Seven in all: what the weakest common phones can hold."""
GREETING_MAX = 2
"""Connections that have not yet said HELLO."""
GREETING_S = 10.0
HELLOS_PER_MIN = 20
SHORT_ID_S = 3_600.0

SCAN_S = 5.0
"""A scan takes the radio from the links, so with links it is on for a while and off for longer."""
PAUSE_S = 10.0
SCAN_MANY_S = 3.0
PAUSE_MANY_S = 15.0
MANY_LINKS = 5

_DIAL_S = 45.0
"""Over all of one dial, whose parts have limits of their own: what is given up in the middle is not tidied up."""
_OPERATION_S = 10.0
_LINGER_S = 0.3
_RETRY_FIRST_S = 1.0
_RETRY_MAX_S = 30.0
_LOOK_AGAIN_S = 30.0
"""Also how long a scan may hear nobody before it is begun anew: BlueZ before 5.88 may take itself for scanning."""


class RadioOpener(Protocol):
    """Makes a fresh radio, each time the last one went down."""

    async def __call__(self) -> Radio:
        """Raises: RadioDown."""
        ...


class BleTransport(TransportBase[BleLink]):
    """Implements `transports.contract.Transport`, and `PeripheralUser` for its radio."""

    kind = "ble"

    def __init__(
        self,
        open_radio: RadioOpener,
        *,
        rng: random.Random | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        super().__init__()
        self._open_radio = open_radio
        self._rng = rng or random.Random()
        self._random_bytes = random_bytes
        self._radio: Radio | None = None
        self._roles = Roles(random_bytes(SHORT_ID_OCTETS), self._rng, accepts=True)
        self._links: dict[BleLink, None] = {}
        self._by_channel: dict[Channel, BleLink] = {}
        self._greeting: dict[Channel, asyncio.TimerHandle] = {}
        self._parting: dict[Channel, None] = {}
        self._hellos = TokenBucket(HELLOS_PER_MIN, HELLOS_PER_MIN / 2)
        self._wake = asyncio.Event()
        self._disconnecting: set[asyncio.Task[None]] = set()
        self._note: str | None = None
        self._failures = 0
        """Since an adapter was last on."""
        self._down_because: str | None = None
        self._advertised: bytes | None = None
        self._advertises_again_at = 0.0
        """When an adapter that refused to advertise is asked again."""
        self._scanning = False
        self._scan_flips_at = 0.0
        self._heard_at = 0.0
        """When somebody was heard last, or the scan began."""
        self._rotates_at = 0.0

    @classmethod
    def from_parameters(cls, parameters: str) -> Self:
        """Raises: ValueError; ImportError, when the package is not installed that this kind of radio needs."""
        parsed = BleParameters.parse(parameters)
        if parsed.hci is not None:
            from transports.ble.bumble_radio import BumbleRadio

            async def open_controller(spec: str = parsed.hci) -> Radio:
                return (await BumbleRadio.open(spec, mtu=parsed.mtu)).radio()

            return cls(open_controller)
        from transports.ble.system import open_system_radio

        async def open_system() -> Radio:
            return await open_system_radio(parsed.adapter)

        return cls(open_system)

    # Transport

    async def begin(self) -> None:
        self.work_on(self._keep_radio(), name="adapter", broken=self._broken)

    def _broken(self, note: str) -> None:
        self._note = note

    def status(self) -> TransportStatus:
        radio = self._radio
        notes = [self._note]
        if radio is not None:
            notes += [role.note for role in (radio.central, radio.peripheral) if role is not None]
        return TransportStatus(
            kind=self.kind,
            listening=(radio.name,) if radio is not None and not self.closed else (),
            services=self._roles.services(),
            notes=tuple(note for note in notes if note),
        )

    async def close(self) -> None:
        self.closed = True
        for link in list(self._links):
            link.end("the transport is closed")
        await self.stop_work()
        for task in list(self._disconnecting):
            task.cancel()
        await asyncio.gather(*self._disconnecting, return_exceptions=True)

    # the adapter

    async def _keep_radio(self) -> None:
        """One radio after the other, for as long as the transport lives."""
        while True:
            try:
                async with asyncio.timeout(3 * _OPERATION_S):
                    radio = await self._open_radio()
            except (RadioDown, TimeoutError) as down:
                self._note = str(down) or "the system's Bluetooth does not answer (systemctl restart bluetooth)"
            except Exception as error:  # noqa: BLE001  of a stack below us
                self._unforeseen(error)
            else:
                try:
                    await self._use(radio)
                except RadioDown as down:
                    self._note = str(down)
                except Exception as error:  # noqa: BLE001  of a stack below us
                    self._unforeseen(error)
                finally:
                    await self._put_away(radio)
            pause_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(self._failures, 10))
            self._failures += 1
            await asyncio.sleep(pause_s * self._rng.uniform(0.75, 1.25))

    def _unforeseen(self, error: Exception) -> None:
        """The adapter is begun anew, and the log has what can be reported, once."""
        note = f"Bluetooth failed in a way that nobody foresaw ({error!r}), and is tried again; please report the log"
        if note != self._note:
            log.error("an error of Bluetooth that nobody foresaw", exc_info=error)
        self._note = note

    async def _use(self, radio: Radio) -> None:
        """Raises: RadioDown, when the adapter does not go on."""
        self._down_because, self._advertised, self._scanning = None, None, False
        self._roles.accepts = radio.peripheral is not None
        if radio.central is not None:
            await self._in_time(radio.central.hear(self._seen, self._radio_down))
        if radio.peripheral is not None:
            await self._in_time(radio.peripheral.serve(self, self._radio_down))
        self._radio, self._note, self._failures = radio, None, 0
        log.info("Bluetooth is on", extra={"radio": radio.name})
        while True:
            self._wake.clear()
            if self._down_because is not None:
                raise RadioDown(self._down_because)
            await self._rotate(radio)
            await self._advertise(radio)
            if radio.central is not None and await self._dial_next(radio):
                continue
            await self._scan(radio)
            await self._sleep()

    async def _put_away(self, radio: Radio) -> None:
        self._radio = None
        log.info("Bluetooth is off", extra={"radio": radio.name, "reason": self._note})
        for timer in self._greeting.values():
            timer.cancel()
        self._greeting.clear()
        for link in list(self._links):
            link.end(self._down_because or self._note or "Bluetooth is off")
        self._by_channel.clear()
        closing = [role for role in (radio.central, radio.peripheral) if role is not None]
        if self._disconnecting:
            await asyncio.wait(self._disconnecting, timeout=_LINGER_S)
        for role in dict.fromkeys(closing):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await role.close()

    def _radio_down(self, reason: str) -> None:
        self._down_because = reason
        self._wake.set()

    async def _sleep(self) -> None:
        now = self._now()
        wake_at = min(self._rotates_at, now + _LOOK_AGAIN_S)
        if self._radio is not None and self._radio.central is not None:
            wake_at = min(wake_at, self._scan_flips_at)
            if self._scanning:
                wake_at = min(wake_at, self._heard_at + _LOOK_AGAIN_S)
            due_at = self._roles.next_due(now) if self._may_dial() else None
            if due_at is not None:
                wake_at = min(wake_at, due_at)
        try:
            async with asyncio.timeout(max(wake_at - now, 0.01)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _rotate(self, radio: Radio) -> None:
        """A new short id each hour. Those that we dialed are told, so that they do not take us for a stranger."""
        now = self._now()
        if now < self._rotates_at:
            return
        first, self._rotates_at = self._rotates_at == 0.0, now + SHORT_ID_S
        if first:
            return
        await self._stop_scan(radio)
        self._roles.own_id = self._random_bytes(SHORT_ID_OCTETS)
        for link in [link for link in self._links if link.initiator]:
            channel: ClientChannel = link.channel  # type: ignore[assignment]  # that we dialed
            try:
                async with asyncio.timeout(_OPERATION_S):
                    await channel.write_control(rename(self._roles.own_id))
            except (ConnectFailed, TimeoutError) as failed:
                link.end(str(failed) or "it stopped answering")

    async def _advertise(self, radio: Radio) -> None:
        if radio.peripheral is None:
            return
        accepted = sum(not link.initiator for link in self._links) + len(self._greeting)
        wanted = self._roles.own_id if accepted < ACCEPTED_MAX else None
        refused = wanted is not None and radio.peripheral.note is not None
        if wanted != self._advertised or (refused and self._now() >= self._advertises_again_at):
            self._advertises_again_at = self._now() + _LOOK_AGAIN_S
            await self._in_time(radio.peripheral.advertise(wanted))
            self._advertised = wanted
            log.debug("Bluetooth advertising", extra={"radio": radio.name, "on": wanted is not None})

    async def _scan(self, radio: Radio) -> None:
        if radio.central is None:
            return
        now = self._now()
        if self._scanning and now - self._heard_at >= _LOOK_AGAIN_S:
            await self._stop_scan(radio)
        if not self._links or not self._may_dial():
            on, self._scan_flips_at = self._may_dial(), now + _LOOK_AGAIN_S
        elif now >= self._scan_flips_at or self._scan_flips_at > now + PAUSE_MANY_S:
            many = len(self._links) >= MANY_LINKS
            on = not self._scanning
            self._scan_flips_at = now + (
                (SCAN_MANY_S if many else SCAN_S) if on else (PAUSE_MANY_S if many else PAUSE_S)
            )
        else:
            on = self._scanning
        if on != self._scanning:
            await self._in_time(radio.central.scan(on))
            self._scanning, self._heard_at = on, self._now()
            log.debug("Bluetooth scan", extra={"radio": radio.name, "on": on})

    async def _stop_scan(self, radio: Radio) -> None:
        if self._scanning and radio.central is not None:
            await self._in_time(radio.central.scan(on=False))
            self._scanning = False

    async def _in_time(self, operation: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_OPERATION_S):
                await operation
        except TimeoutError:
            raise RadioDown("the Bluetooth adapter hangs") from None

    # dialing

    def _may_dial(self) -> bool:
        return sum(link.initiator for link in self._links) < DIALED_MAX

    def _seen(self, sighting: Sighting) -> None:
        self._heard_at = self._now()
        if self._roles.seen(sighting.address, sighting.short_id, self._heard_at):
            self._wake.set()

    async def _dial_next(self, radio: Radio) -> bool:
        """Dials one neighbor, if it is somebody's turn."""
        if not self._may_dial() or radio.central is None:
            return False
        # the same connection under two links would be over for both when one is closed
        connected = {channel.address for channel in (*self._by_channel, *self._greeting, *self._parting)}
        neighbor = self._roles.next_dial(self._now(), connected)
        if neighbor is None:
            return False
        await self._stop_scan(radio)
        try:
            if neighbor.short_id is not None and not neighbor.ever_linked:
                await self._ask_names_again()
                if self._roles.is_linked(neighbor.short_id):
                    return True
            async with asyncio.timeout(_DIAL_S):
                await self._dial(radio, neighbor)
        except (ConnectFailed, NotUnderstood, TimeoutError) as failed:
            reason = f"{neighbor.address}: {str(failed) or 'it does not answer'}"
            log.debug("a Bluetooth dial failed", extra={"radio": radio.name, "reason": reason})
            self._roles.dial_failed(neighbor, reason, self._now())
        return True

    async def _dial(self, radio: Radio, neighbor: Neighbor) -> None:
        """Raises: ConnectFailed, NotUnderstood, RadioDown."""
        assert radio.central is not None
        channel = await radio.central.connect(neighbor.address)
        link: BleLink | None = None
        try:
            theirs = Greeting.from_info(await channel.read_info())
            if not self._roles.identified(neighbor, theirs.short_id, self._now()):
                return
            tag = self._rng.randrange(256)
            tagged = Ability.TAGS in theirs.abilities
            link = self._link(radio, channel, theirs, initiator=True, tag=tag if tagged else None)
            await channel.subscribe(link)
            await channel.write_control(self._greeting_at(channel).hello(tag))
            self._offer(link)
            link = None
        finally:
            if link is not None:
                link.end("it refused the link")
            elif channel not in self._by_channel:
                self._disconnect(channel)

    async def _ask_names_again(self) -> None:
        """Whoever we dialed may go by another id by now, and be no stranger."""
        for link in [link for link in self._links if link.initiator]:
            channel: ClientChannel = link.channel  # type: ignore[assignment]  # that we dialed
            try:
                async with asyncio.timeout(_OPERATION_S):
                    now_called = Greeting.from_info(await channel.read_info()).short_id
            except (ConnectFailed, NotUnderstood, TimeoutError) as failed:
                link.end(str(failed) or "it stopped answering")
                continue
            self._rename(link, now_called)

    def _rename(self, link: BleLink, short_id: bytes) -> None:
        if short_id != link.short_id:
            self._roles.renamed(link.short_id, short_id)
            link.short_id = short_id

    # links

    def _greeting_at(self, channel: Channel | None) -> Greeting:
        radio = self._radio
        abilities = Ability(0)
        if radio is None or radio.central is not None:
            abilities |= Ability.DIALS
        if radio is None or radio.peripheral is not None:
            abilities |= Ability.ACCEPTS
        if radio is not None and radio.tags:
            abilities |= Ability.TAGS
        largest = DATAGRAM_OCTETS_MAX if channel is None else datagram_octets(channel.att_mtu)
        return Greeting(short_id=self._roles.own_id, abilities=abilities, datagram_octets_max=largest)

    def _link(self, radio: Radio, channel: Channel, theirs: Greeting, *, initiator: bool, tag: int | None) -> BleLink:
        """Raises: NotUnderstood, when the datagrams would be too small for any link."""
        room = datagram_octets(channel.att_mtu) if tag is None else tagged_datagram_octets(channel.att_mtu)
        if room < DATAGRAM_OCTETS_MIN:
            raise NotUnderstood(f"an ATT MTU of {channel.att_mtu} has no room for a tag")
        return BleLink(
            channel,
            initiator=initiator,
            short_id=theirs.short_id,
            datagram_octets_max=min(room, theirs.datagram_octets_max),
            bit_rate=radio.bit_rate,
            reorder_ms=radio.reorder_ms,
            tag=tag,
            over=self._link_over,
        )

    def _offer(self, link: BleLink) -> None:
        if not link.is_open:
            return
        self._links[link] = None
        self._by_channel[link.channel] = link
        self._roles.linked(link.short_id)
        self.offer(link)
        self._wake.set()

    def _link_over(self, link: BleLink, reason: str) -> None:
        self._disconnect(link.channel)
        if link in self._links:
            del self._links[link]
            self._by_channel.pop(link.channel, None)
            now = self._now()
            self._roles.unlinked(link.short_id, now - link.made_at_s, now)
            self._advertised = None  # a connection may have ended it
            self._scan_flips_at = 0.0
            self._wake.set()
        log.debug("Bluetooth link over", extra={"link": link.remote, "reason": reason})

    def _disconnect(self, channel: Channel) -> None:
        task = asyncio.get_running_loop().create_task(self._part(channel), name="ble disconnect")
        self._disconnecting.add(task)
        task.add_done_callback(self._disconnecting.discard)

    async def _part(self, channel: Channel) -> None:
        """BlueZ takes 2 to 3 s to disconnect, and who dials meanwhile gets a connection that ends at once."""
        self._parting[channel] = None
        try:
            await channel.disconnect()
        finally:
            del self._parting[channel]
            self._wake.set()

    # PeripheralUser

    def info(self) -> bytes:
        return self._greeting_at(None).info()

    def dialed(self, channel: Channel) -> None:
        self._advertised = None  # most adapters stop to advertise when somebody connects
        self._wake.set()
        if len(self._greeting) >= GREETING_MAX or self.closed:
            self._disconnect(channel)
            return
        loop = asyncio.get_running_loop()
        self._greeting[channel] = loop.call_later(GREETING_S, self._no_hello, channel)

    def _no_hello(self, channel: Channel) -> None:
        if self._greeting.pop(channel, None) is not None:
            self._disconnect(channel)
            self._wake.set()

    def control(self, channel: Channel, octets: bytes) -> None:
        try:
            self._obey(channel, octets)
        except Refused as refused:
            log.debug("a Bluetooth greeting is refused", extra={"of": channel.address, "reason": str(refused)})
            raise

    def _obey(self, channel: Channel, octets: bytes) -> None:
        try:
            said = read_control(octets)
        except NotUnderstood as error:
            raise Refused(str(error)) from None
        link = self._by_channel.get(channel)
        if isinstance(said, bytes):
            if link is None:
                raise Refused("HELLO first")
            self._rename(link, said)
            return
        timer = self._greeting.pop(channel, None)
        if timer is None or link is not None or self._radio is None:
            raise Refused("a second HELLO on a connection" if link is not None else "HELLO on no connection")
        timer.cancel()
        theirs, tag = said
        accepted = [other for other in self._links if not other.initiator]
        reason = None
        if len(accepted) >= ACCEPTED_MAX or not self._hellos.take(self._now()):
            reason = "no room for another link"
        elif self._radio.tags and any(other.tag == tag for other in accepted):
            reason = "its tag is taken"
        elif theirs.short_id == self._roles.own_id:
            reason = "it has this node's own id"
        if reason is not None:
            self._disconnect(channel)
            raise Refused(reason)
        try:
            made = self._link(self._radio, channel, theirs, initiator=False, tag=tag if self._radio.tags else None)
        except NotUnderstood as error:
            raise Refused(str(error)) from None
        self._offer(made)

    def data(self, channel: Channel, datagram: bytes) -> None:
        link = self._by_channel.get(channel)
        if link is not None:
            link.datagram_arrived(datagram)

    def hung_up(self, channel: Channel, reason: str) -> None:
        timer = self._greeting.pop(channel, None)
        if timer is not None:
            timer.cancel()
        link = self._by_channel.get(channel)
        if link is not None:
            link.end(reason)
        self._advertised = None
        self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
