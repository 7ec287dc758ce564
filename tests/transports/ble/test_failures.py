"""What goes wrong on Bluetooth, on the virtual air: links cut in every way, hostile strangers, stacks that hang."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.transports.ble.radios import Place, until
from tests.transports.ble.talker import Talker
from tests.transports.ble.virtual_air import VirtualAir
from transports.ble import BleTransport, transport
from transports.ble import link as link_module
from transports.ble.bumble_radio import BumbleClientChannel
from transports.ble.greeting import Ability, Greeting, rename
from transports.ble.link import INBOX_DATAGRAMS_MAX, BleLink
from transports.ble.radio import ConnectFailed, RadioDown, Sighting
from transports.ble.roles import TokenBucket
from transports.ble.transport import ACCEPTED_MAX
from transports.contract import Link, LinkDown, ServiceState

LOW, MIDDLE, HIGH = b"\x01" * 6, b"\x50" * 6, b"\xf0" * 6


def node(place: Place, short_id: bytes) -> BleTransport:
    return BleTransport(place, random_bytes=lambda _: short_id, rng=random.Random(short_id[0]))


@asynccontextmanager
async def started(*transports: BleTransport) -> AsyncIterator[None]:
    try:
        for number, each in enumerate(transports):
            await each.start(b"instan-%d" % number)
        yield
    finally:
        for each in transports:
            await each.close()
        left = {task for task in asyncio.all_tasks() if task.get_name().startswith("ble")}
        assert not left, left


async def next_link(of: BleTransport, seconds: float = 20) -> BleLink:
    async with asyncio.timeout(seconds):
        return await of.next_link()


async def until_down(link: Link, seconds: float = 20) -> str:
    try:
        async with asyncio.timeout(seconds):
            while True:
                await link.receive()
    except LinkDown as down:
        return str(down)


class Stranger:
    """A central of another's making on the air; it does to the service what it likes."""

    def __init__(self, air: VirtualAir, name: str = "stranger") -> None:
        self.place = Place(air, name)
        self.sighted: dict[str, Sighting] = {}
        self.channels: list[BumbleClientChannel] = []

    async def hear(self, short_id: bytes | None = None) -> str:
        """The address of whoever is heard first, or of the one with this id."""
        radio = await self.place()
        assert radio.central is not None
        await radio.central.hear(lambda sighting: self.sighted.update({sighting.address: sighting}), lambda _: None)
        await radio.central.scan(on=True)
        found: list[Sighting] = []
        while not found:
            await asyncio.sleep(0.01)
            found = [each for each in self.sighted.values() if short_id in (None, each.short_id)]
        await radio.central.scan(on=False)
        return found[0].address

    async def dial(self, address: str) -> BumbleClientChannel:
        assert self.place.bumble is not None
        channel = await self.place.bumble.connect(address)
        self.channels.append(channel)
        return channel

    async def close(self) -> None:
        if self.place.bumble is not None:
            await self.place.bumble.close()


def hello(short_id: bytes, tag: int = 7) -> bytes:
    return Greeting(short_id=short_id, abilities=Ability.DIALS, datagram_octets_max=495).hello(tag)


# links that end in the middle of something


class Chatter:
    """A node's side of one conversation that survives its links."""

    def __init__(self, of: BleTransport) -> None:
        self._of = of
        self._talker: Talker | None = None
        self.sizes: list[int] = []
        self.links: list[BleLink] = []

    async def run(self) -> None:
        while True:
            link = await self._of.next_link()
            self.links.append(link)
            self.sizes.append(link.profile.addressed_octets_max)
            self._talker = Talker(link, before=self._talker)
            await self._talker.run()

    @property
    def received(self) -> bytes:
        return b"".join(self._talker.received) if self._talker is not None else b""

    async def send(self, text: bytes) -> None:
        await until(lambda: self._talker is not None)
        assert self._talker is not None
        self._talker.say(text)


Cut = Callable[[Place, Place, Chatter, Chatter], None]


def by_central(_a: Place, _b: Place, here: Chatter, _there: Chatter) -> None:
    here.links[-1].end("the test closes it")


def by_peripheral(_a: Place, _b: Place, _here: Chatter, there: Chatter) -> None:
    there.links[-1].end("the test closes it")


def by_silence(a: Place, b: Place, _here: Chatter, _there: Chatter) -> None:
    a.air.part(a.name, b.name)
    asyncio.get_running_loop().call_later(0.5, a.air.meet, a.name, b.name)


@pytest.mark.parametrize("cut", [by_central, by_peripheral, by_silence])
async def test_a_message_that_was_cut_completes_over_the_next_link_once(cut: Cut) -> None:
    air = VirtualAir(paced=True)
    a, b = Place(air, "a", mtu=247), Place(air, "b", mtu=247)
    await cut_and_compare(a, b, cut, [247 - 3])


async def test_a_message_goes_on_where_it_was_over_a_link_with_smaller_datagrams() -> None:
    air = VirtualAir(paced=True)
    a, b = Place(air, "a", mtu=517), Place(air, "b", mtu=517)

    def shrink(a: Place, b: Place, *_: Chatter) -> None:
        a.mtu = b.mtu = 100
        assert a.bumble is not None
        a.bumble._on_flush()  # the controller is gone; the next one agrees to less
        assert b.bumble is not None
        b.bumble._on_flush()

    await cut_and_compare(a, b, shrink, [495, 97])


async def cut_and_compare(a: Place, b: Place, cut: Cut, sizes: list[int]) -> None:
    ours, theirs = node(a, LOW), node(b, HIGH)
    async with started(ours, theirs):
        here, there = Chatter(ours), Chatter(theirs)
        running = [asyncio.create_task(chatter.run()) for chatter in (here, there)]
        texts = [random.Random(number).randbytes(40_000) for number in (1, 2)]
        await here.send(texts[0])
        await there.send(texts[1])
        await asyncio.sleep(0.35)
        assert len(here.received) < 40_000, "the cut came too late to show anything"
        cut(a, b, here, there)
        await until(lambda: len(here.received) >= 40_000 and len(there.received) >= 40_000, 30)
        assert there.received == texts[0]
        assert here.received == texts[1]
        assert len(here.links) >= 2
        assert list(dict.fromkeys(here.sizes)) == sizes
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


# who dials whom


async def test_the_lower_id_dials() -> None:
    air = VirtualAir()
    a, b = node(Place(air, "a"), LOW), node(Place(air, "b"), HIGH)
    async with started(a, b):
        assert (await next_link(a)).initiator
        assert not (await next_link(b)).initiator


async def test_when_the_lower_cannot_dial_the_other_does_within_15_s() -> None:
    air = VirtualAir()
    a, b = node(Place(air, "a", dials=False), LOW), node(Place(air, "b"), HIGH)
    async with started(a, b):
        assert (await next_link(b, 17)).initiator
        assert not (await next_link(a)).initiator


async def test_central_only_machines_find_those_that_can_be_dialed() -> None:
    air = VirtualAir()
    a, b = node(Place(air, "a", accepts=False), HIGH), node(Place(air, "b"), LOW)
    async with started(a, b):
        assert (await next_link(a, 5)).initiator, "who cannot be dialed waits for nobody"


async def test_neighbors_without_an_id_get_one_link_though_both_dial() -> None:
    """Both dial within 3 s. Who comes second reads in INFO who it is, and leaves; at the same moment both may succeed,
    and the node above closes one of the two."""
    air = VirtualAir()
    a = node(Place(air, "a", shows_id=False), LOW)
    b = node(Place(air, "b", shows_id=False), HIGH)
    async with started(a, b):
        await next_link(a)
        await next_link(b)
        await asyncio.sleep(4)
        assert 1 <= len(a._links) <= 2
        await asyncio.sleep(3)
        settled = len(a._links)
        await asyncio.sleep(3)
        assert len(a._links) == settled, "they dial again and again"


async def test_a_neighbor_that_comes_back_under_a_new_address_is_linked_though_the_old_link_seems_to_live() -> None:
    air = VirtualAir(supervision_s=60)
    place = Place(air, "a")
    a, b = node(place, LOW), node(Place(air, "b"), HIGH)
    async with started(a, b):
        old_a, old_b = await next_link(a), await next_link(b)
        assert place.controller is not None
        air.lose(place.controller)
        a._radio_down("its battery was changed")
        await until(lambda: not old_a.is_open)
        new_a, new_b = await next_link(a), await next_link(b)
        assert old_b.is_open, old_b._down_because
        await new_a.send(b"over the new one")
        assert await new_b.receive() == b"over the new one"
        assert old_b.channel.address != new_b.channel.address


async def test_an_hour_later_the_short_id_is_another_and_links_stay() -> None:
    air = VirtualAir()
    ids = iter([LOW, b"\x02" * 6, b"\x03" * 6])
    a = BleTransport(Place(air, "a"), random_bytes=lambda _: next(ids), rng=random.Random(1))
    b = node(Place(air, "b"), HIGH)
    async with started(a, b):
        link_a, link_b = await next_link(a), await next_link(b)
        a._rotates_at = 1e-9  # the hour is over
        a._wake.set()
        await until(lambda: link_b.short_id == b"\x02" * 6)
        stranger = Stranger(air)
        await stranger.hear(b"\x02" * 6)
        await stranger.close()
        await asyncio.sleep(1.0)
        assert link_a.is_open
        assert link_b.is_open
        assert len(a._links) == len(b._links) == 1, "a known neighbor was taken for a stranger"


async def test_a_peripheral_that_rotates_is_asked_before_it_is_dialed_again() -> None:
    air = VirtualAir()
    ids = iter([HIGH, b"\xf1" * 6, b"\xf2" * 6])
    a = node(Place(air, "a"), LOW)
    b = BleTransport(Place(air, "b"), random_bytes=lambda _: next(ids), rng=random.Random(1))
    async with started(a, b):
        await next_link(a)
        await next_link(b)
        b._rotates_at = 1e-9
        b._wake.set()
        await until(lambda: b._roles.own_id == b"\xf1" * 6)
        a._roles.seen("whatever", b"\xf1" * 6, asyncio.get_running_loop().time())
        a._wake.set()
        await until(lambda: [link.short_id for link in a._links] == [b"\xf1" * 6])
        await asyncio.sleep(0.5)
        assert len(a._links) == 1


# notifications that go to everybody


async def test_what_is_tagged_for_another_is_dropped_in_silence() -> None:
    air = VirtualAir()
    a, b = node(Place(air, "a"), LOW), node(Place(air, "b", tags=True), HIGH)
    async with started(a, b):
        link_a, link_b = await next_link(a), await next_link(b)
        assert link_a.profile.addressed_octets_max == link_b.profile.addressed_octets_max == 494
        await link_b.send(b"for a")
        assert await link_a.receive() == b"for a"
        assert link_a.tag is not None
        for _ in range(2_000):  # more than would make the link above give up
            link_a.datagram_arrived(bytes([link_a.tag ^ 1]) + b"for somebody else")
        await link_b.send(b"for a again")
        assert await link_a.receive() == b"for a again"
        assert link_a.not_for_us == 2_000


# limits


async def test_who_connects_and_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GREETING_S", 0.5)
    air = VirtualAir()
    a, stranger = node(Place(air, "a"), LOW), Stranger(air)
    async with started(a):
        channel = await stranger.dial(await stranger.hear())
        await until(channel._over.done, 5)
        await stranger.close()
        assert not a._greeting


async def test_a_link_without_notifications_fails_its_handshake_above_and_costs_nothing() -> None:
    """HELLO, but nothing subscribed: our datagrams go nowhere, and the link is closed by who gets no answer."""
    air = VirtualAir()
    a, stranger = node(Place(air, "a"), LOW), Stranger(air)
    async with started(a):
        channel = await stranger.dial(await stranger.hear())
        await channel.write_control(hello(HIGH))
        link = await next_link(a)
        await link.send(b"does anybody hear this?")
        await link.close()
        await until(channel._over.done, 5)
        await stranger.close()


async def test_nonsense_on_every_characteristic_is_refused_and_harms_nobody() -> None:
    air = VirtualAir()
    a, b, stranger = node(Place(air, "a"), LOW), node(Place(air, "b"), HIGH), Stranger(air)
    rng = random.Random(5)
    async with started(a, b):
        link_a, link_b = await next_link(a), await next_link(b)
        channel = await stranger.dial(await stranger.hear())
        for _ in range(300):
            with pytest.raises(ConnectFailed):
                await channel.write_control(b"\x03" + rng.randbytes(rng.randrange(0, 40)))
        for octets in (b"", b"\x01", hello(LOW)[:-1], rename(MIDDLE), b"\x01\x00\x07" + hello(LOW)[3:]):
            with pytest.raises(ConnectFailed):
                await channel.write_control(octets)
        await channel.write(b"before HELLO")
        await channel.write_control(hello(MIDDLE))
        with pytest.raises(ConnectFailed):
            await channel.write_control(hello(MIDDLE))
        await link_a.send(b"unharmed")
        assert await link_b.receive() == b"unharmed"
        await stranger.close()


async def test_a_flood_of_tiny_writes_is_bounded_and_others_are_served() -> None:
    air = VirtualAir()
    place = Place(air, "a", mtu=247)
    a, b, stranger = node(place, HIGH), node(Place(air, "b", mtu=247), LOW), Stranger(air)
    async with started(a, b):
        link_a, link_b = await next_link(a), await next_link(b)
        stranger.place.mtu = 247
        channel = await stranger.dial(await stranger.hear(HIGH))
        await channel.write_control(hello(MIDDLE))
        flooded = await next_link(a)
        for number in range(10_000):
            await channel.write(bytes([number & 255]))
        await until(lambda: flooded.dropped >= 10_000 - INBOX_DATAGRAMS_MAX)
        assert len(flooded._inbox) == INBOX_DATAGRAMS_MAX
        for number in range(50):
            await link_b.send(bytes([number]))
        assert [await link_a.receive() for _ in range(50)] == [bytes([number]) for number in range(50)]
        await stranger.close()


async def test_more_than_four_are_refused_and_make_room_when_they_leave() -> None:
    air = VirtualAir()
    a = node(Place(air, "a"), LOW)
    strangers = [Stranger(air, f"stranger {number}") for number in range(ACCEPTED_MAX + 1)]
    async with started(a):
        address = await strangers[0].hear()
        for stranger in strangers[1:]:
            await stranger.hear()
        for number, stranger in enumerate(strangers[:ACCEPTED_MAX]):
            channel = await stranger.dial(address)
            await channel.write_control(hello(bytes([number + 9]) * 6))
        await until(lambda: len(a._links) == ACCEPTED_MAX)
        with pytest.raises(ConnectFailed):
            await strangers[-1].dial(address)
        await strangers[0].channels[0].disconnect()
        await until(lambda: len(a._links) == ACCEPTED_MAX - 1)
        channel = await strangers[-1].dial(address)
        await channel.write_control(hello(b"\x77" * 6))
        await until(lambda: len(a._links) == ACCEPTED_MAX)
        for stranger in strangers:
            await stranger.close()


async def test_values_of_impossible_sizes_end_the_link() -> None:
    air = VirtualAir()
    a, b = node(Place(air, "a"), LOW), node(Place(air, "b"), HIGH)
    async with started(a, b):
        link_a, _ = await next_link(a), await next_link(b)
        for _ in range(20):
            link_a.datagram_arrived(b"")
        assert not link_a.is_open


# adapters and stacks


class Jealous:
    """A central that fails when it is asked for two things at once, as BlueZ does: org.bluez.Error.InProgress."""

    def __init__(self) -> None:
        self.note: str | None = None
        self.busy = False
        self.scanning = False
        self.dials = 0
        self.seen: Callable[[Sighting], None] = lambda _: None

    async def hear(self, seen: Callable[[Sighting], None], down: Callable[[str], None]) -> None:
        self.seen = seen

    async def _alone(self) -> None:
        assert not self.busy, "InProgress"
        self.busy = True
        await asyncio.sleep(0.01)
        self.busy = False

    async def scan(self, on: bool) -> None:
        await self._alone()
        self.scanning = on
        if on:
            for number in range(3):
                self.seen(Sighting(address=f"X{number}", short_id=bytes([0x90 + number]) * 6))

    async def connect(self, address: str) -> BumbleClientChannel:
        assert not self.scanning, "InProgress"
        await self._alone()
        self.dials += 1
        raise ConnectFailed("nobody there")

    async def close(self) -> None:
        return


async def test_scanning_and_connecting_are_never_asked_for_at_once() -> None:
    from transports.ble.radio import Radio

    central = Jealous()

    async def jealous_radio() -> Radio:
        return Radio(central=central, peripheral=None, name="jealous")

    a = BleTransport(jealous_radio, random_bytes=lambda _: LOW)
    async with started(a):
        await until(lambda: central.dials >= 3)
        assert {each.state for each in a.status().services} == {ServiceState.FAILED}
        assert not a.status().notes


class Deaf(Jealous):
    """A central whose first scan hears nobody, as BlueZ's when it takes its adapter for scanning."""

    def __init__(self) -> None:
        super().__init__()
        self.scans = 0

    async def scan(self, on: bool) -> None:
        self.scans += on
        await self._alone()
        if on and self.scans > 1:
            await super().scan(on)
        self.scanning = on


async def test_a_scan_that_hears_nobody_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from transports.ble.radio import Radio

    monkeypatch.setattr(transport, "_LOOK_AGAIN_S", 0.3)
    central = Deaf()

    async def deaf_radio() -> Radio:
        return Radio(central=central, peripheral=None, name="deaf")

    a = BleTransport(deaf_radio, random_bytes=lambda _: LOW)
    async with started(a):
        await until(lambda: central.dials)


class Shy:
    """A peripheral whose adapter refuses to advertise at first."""

    def __init__(self) -> None:
        self.note: str | None = None
        self.asked = 0

    async def serve(self, user: object, down: object) -> None:
        return

    async def advertise(self, short_id: bytes | None) -> None:
        self.asked += 1
        self.note = "it cannot be found" if self.asked < 3 else None

    async def close(self) -> None:
        return


async def test_an_adapter_that_refuses_to_advertise_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from transports.ble.radio import Radio

    monkeypatch.setattr(transport, "_LOOK_AGAIN_S", 0.2)
    peripheral = Shy()

    async def shy_radio() -> Radio:
        return Radio(central=None, peripheral=peripheral, name="shy")

    a = BleTransport(shy_radio, random_bytes=lambda _: LOW)
    async with started(a):
        await until(lambda: a.status().notes)
        await until(lambda: peripheral.asked == 3)
        await asyncio.sleep(0.6)
        assert peripheral.asked == 3
        assert not a.status().notes


@pytest.mark.parametrize("operation", ["connect", "read", "notify", "write", "disconnect"])
async def test_a_stack_that_hangs_costs_its_link_and_nothing_else(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transports.ble import bleak_central

    for module, name in ((bleak_central, "_ATT_S"), (bleak_central, "_CONNECT_S"), (link_module, "WRITE_S")):
        monkeypatch.setattr(module, name, 0.4)
    monkeypatch.setattr(bleak_central, "_DISCONNECT_S", 0.4)
    air = VirtualAir()
    place = Place(air, "a", bleak=True)
    a, b = node(place, LOW), node(Place(air, "b"), HIGH)
    async with started(a, b):
        place.hang.add(operation)
        if operation in ("write", "disconnect"):
            if operation == "write":
                place.hang.clear()
            link = await next_link(a)
            place.hang.add(operation)
            with contextlib.suppress(LinkDown):
                await link.send(b"into the void")
            await link.close()
        else:
            await until(lambda: any(each.state is ServiceState.FAILED for each in a.status().services))
            place.hang.clear()
            await until(lambda: place.forgotten)
        place.hang.clear()
        if operation != "disconnect":  # bleak keeps a connection that it did not end
            await next_link(a, 30)


async def test_an_error_of_the_stack_that_nobody_foresaw_is_told_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    air = VirtualAir()
    place = Place(air, "a")
    opened = 0

    async def odd() -> object:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise KeyError("org.bluez.GattService1")
        return await place()

    a = BleTransport(odd, random_bytes=lambda _: LOW)  # type: ignore[arg-type]
    async with started(a):
        await until(lambda: any("GattService1" in note for note in a.status().notes))
        assert any("nobody foresaw" in record.getMessage() for record in caplog.records)
        await until(lambda: a.status().listening)
        assert not a.status().notes


async def test_an_adapter_that_goes_and_comes_back_is_used_again() -> None:
    air = VirtualAir()
    place = Place(air, "a")
    failing = False

    async def sometimes() -> object:
        if failing:
            raise RadioDown("there is no Bluetooth adapter")
        return await place()

    a = BleTransport(sometimes, random_bytes=lambda _: LOW)  # type: ignore[arg-type]
    b = node(Place(air, "b"), HIGH)
    async with started(a, b):
        link_a, link_b = await next_link(a), await next_link(b)
        failing = True
        assert place.controller is not None
        air.lose(place.controller)
        assert place.bumble is not None
        place.bumble._on_flush()
        assert await until_down(link_a)
        assert await until_down(link_b)
        await until(lambda: "there is no Bluetooth adapter" in a.status().notes)
        failing = False
        link_a, link_b = await next_link(a), await next_link(b)
        await link_b.send(b"back")
        assert await link_a.receive() == b"back"
        assert not a.status().notes


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: Python objects, tasks, file descriptors."""

    objects: int
    tasks: int
    files: int

    @classmethod
    def now(cls) -> Self:
        gc.collect()
        return cls(len(gc.get_objects()), len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())))


async def soak(cycles: int, *, bleak: bool = False) -> tuple[Held, Held]:
    """Links made and closed, by both sides in turn; what was held after a third of it, and at the end."""
    air = VirtualAir()
    a, b = node(Place(air, "a", bleak=bleak), LOW), node(Place(air, "b"), HIGH)
    held = []
    async with started(a, b):
        for cycle in range(1, cycles + 1):
            ends = await next_link(a, 60), await next_link(b, 60)
            await ends[cycle % 2].close()
            await until(lambda ends=ends: not any(end.is_open for end in ends), 60)  # type: ignore[misc]
            del ends
            for each in (a, b):
                for neighbor in each._roles._neighbors.values():
                    neighbor.failures, neighbor.due_at = 0, 0.0
                each._roles._dials = TokenBucket(1e6, 1e3)
                each._hellos = TokenBucket(1e6, 1e3)
            if cycle in (cycles // 3, cycles):
                held.append(Held.now())
        for each in (a, b):
            assert len(each._links) <= 1
            assert len(each._by_channel) <= 1
            assert len(each._greeting) <= 1
    return held[0], held[1]


async def test_connecting_and_disconnecting_leaves_nothing_behind() -> None:
    before, after = await soak(25)
    assert after.tasks <= before.tasks + 4
    assert after.files <= before.files


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("bleak", [False, True])
async def test_connecting_and_disconnecting_a_thousand_times_leaves_nothing_behind(bleak: bool) -> None:
    before, after = await soak(1_000, bleak=bleak)
    print(before, after)
    assert after.tasks <= before.tasks + 4
    assert after.files <= before.files
    assert after.objects <= before.objects + 600, "an object for each link"
