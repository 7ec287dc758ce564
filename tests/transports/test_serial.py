"""The serial transport beyond the contract: handles, turns, cost, faults of the line and of the port."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transports.serial_lines import VirtualLine, WireModel, pty_line
from transports.contract import LinkDown, ServiceState
from transports.serial import SerialParameters, SerialTransport
from transports.serial.control import Control, Kind
from transports.serial.frames import EVERYBODY, Frame, encode_frame
from transports.serial.link import SerialLink
from transports.serial.port import ThreadedPort
from transports.sim import run_virtual


def virtual(check: Coroutine[Any, Any, None], limit_s: float = 100_000) -> None:
    run_virtual(check, limit_s=limit_s)


class Party:
    """Some transports on one virtual line. Their instance ids are AAAAAAAA, BBBBBBBB, ..."""

    def __init__(self, text: str, ends: int, *, seed: int = 1, **line: Any) -> None:
        self.parameters = SerialParameters.parse(text)
        shared = self.parameters.modem.shared
        self.model = WireModel(ends, 1 / self.parameters.octet_s, seed=seed, shared=shared, **line)
        self.line = VirtualLine(self.model, grain_s=0.01)
        self.ports = [self.line.port(end) for end in range(ends)]
        self.transports = [
            SerialTransport(self.parameters, port=self.ports[end], rng=random.Random(1_000 * seed + end))
            for end in range(ends)
        ]

    async def start(self) -> None:
        for end, transport in enumerate(self.transports):
            await transport.start(self.id_of(end))

    def draw(self, handle: int, *ends: int) -> None:
        """These have drawn that handle, before anybody said a word."""
        for end in ends:
            table = self.transports[end]._neighbors
            assert table is not None
            table.handle = handle

    @staticmethod
    def id_of(end: int) -> bytes:
        return bytes([65 + end]) * 8

    async def links(self, count: int) -> list[dict[bytes, SerialLink]]:
        """For each transport its links by neighbor, once it has that many."""
        found: list[dict[bytes, SerialLink]] = []
        for transport in self.transports:
            links: dict[bytes, SerialLink] = {}
            while len(links) < count:
                link = await transport.next_link()
                links[link.instance_id] = link
            found.append(links)
        return found

    async def close(self) -> None:
        for transport in self.transports:
            await transport.close()


# discovery and handles


@pytest.mark.parametrize(("baud", "nodes"), [(300, 3), (1_200, 5), (9_600, 12)])
def test_all_on_a_shared_channel_find_each_other(baud: int, nodes: int) -> None:
    async def check() -> None:
        party = Party(f"v?baud={baud}&profile=bus", nodes)
        await party.start()
        async with asyncio.timeout(600):
            links = await party.links(nodes - 1)
        handles = {transport._neighbors.handle for transport in party.transports}  # type: ignore[union-attr]
        assert len(handles) == nodes
        for here, known in enumerate(links):
            for there, link in known.items():
                await link.send(bytes([here]))
                other = links[there[0] - 65][party.id_of(here)]
                async with asyncio.timeout(600):
                    assert await other.receive() == bytes([here])
        await party.close()

    virtual(check())


def test_two_with_one_handle_notice_and_one_draws_another() -> None:
    async def check() -> None:
        party = Party("v?baud=9600&profile=bus", 2)
        await party.start()
        party.draw(77, 0, 1)
        first, second = (transport._neighbors for transport in party.transports)
        assert first is not None
        assert second is not None
        assert first.handle == second.handle
        kept = first.handle
        async with asyncio.timeout(120):
            await party.links(1)
        assert first.handle == kept, "the smaller instance id keeps it"
        assert second.handle != kept
        await party.close()

    virtual(check())


def test_two_with_one_handle_that_cannot_hear_each_other_are_told_by_a_third() -> None:
    async def check() -> None:
        party = Party("v?baud=9600&profile=bus", 3, reach={(0, 1), (1, 0), (1, 2), (2, 1)})
        await party.start()
        party.draw(77, 0, 2)
        outer = [party.transports[end]._neighbors for end in (0, 2)]
        assert outer[0] is not None
        assert outer[1] is not None
        assert outer[0].handle == outer[1].handle
        middle = party.transports[1]
        async with asyncio.timeout(300):
            while {(await middle.next_link()).instance_id, (await middle.next_link()).instance_id} != {
                party.id_of(0),
                party.id_of(2),
            }:
                continue
        assert outer[0].handle != outer[1].handle
        await party.close()

    virtual(check())


@pytest.mark.parametrize("text", ["v?baud=300", "v?baud=1200&profile=bus", "v?baud=9600&profile=e22"])
def test_being_found_costs_a_fifth_of_a_bit_a_second(text: str) -> None:
    async def check() -> None:
        party = Party(text, 2)
        await party.start()
        await party.links(1)
        await asyncio.sleep(60)
        before = party.model.carried
        await asyncio.sleep(36_000)
        assert (party.model.carried - before) * 8 / 36_000 / 2 <= 0.21
        await party.close()

        alone = Party(text, 1)
        await alone.start()
        await asyncio.sleep(3_600)
        before = alone.model.carried
        await asyncio.sleep(36_000)
        assert (alone.model.carried - before) * 8 / 36_000 <= 0.21
        await alone.close()

    virtual(check())


def test_a_neighbor_that_vanishes_is_noticed_by_its_silence_and_found_when_it_is_back() -> None:
    async def check() -> None:
        party = Party("v?baud=1200&profile=bus", 2, reach={(0, 1), (1, 0)})
        await party.start()
        (here, _) = await party.links(1)
        assert party.model.reach is not None
        party.model.reach.clear()
        with pytest.raises(LinkDown, match="nothing was heard for"):
            await here[party.id_of(1)].receive()
        assert party.transports[0].status().services == ()
        await asyncio.sleep(10_000)
        party.model.reach |= {(0, 1), (1, 0)}
        async with asyncio.timeout(1_500):
            await party.links(1)
        await party.close()

    virtual(check())


def test_a_hostile_neighbor_fills_no_table_and_ends_no_task() -> None:
    """10,000 control frames of random kinds, ids and handles, then the two honest ones still talk."""

    async def check() -> None:
        party = Party("v?baud=115200&profile=bus", 3)
        rng = random.Random(5)
        for transport in party.transports[:2]:
            await transport.start(bytes([65 + party.transports.index(transport)]) * 8)
        here, there = (await party.transports[0].next_link(), await party.transports[1].next_link())
        honest = [transport._neighbors for transport in party.transports[:2]]
        for _ in range(10_000):
            control = Control(
                rng.choice(list(Kind)), rng.randbytes(8), rng.randrange(1 << 16), rng.randint(0, 255), b"AA"
            )
            frame = Frame(rng.randint(0, 127), rng.randint(1, 127), control.encode(), control=True, over=True)
            for transport in party.transports[:2]:
                transport.octets_arrived(encode_frame(frame, after_silence=True))
        assert all(table is not None and len(table) <= 64 for table in honest)
        await asyncio.sleep(600)
        assert not any(task.done() for transport in party.transports[:2] for task in transport._tasks)
        async with asyncio.timeout(600):
            for link in (here, there):
                await link.close()
            links = [await transport.next_link() for transport in party.transports[:2]]
            while not all(link.peer_hint in {b"A" * 8, b"B" * 8} and link.is_open for link in links):
                links = [await transport.next_link() for transport in party.transports[:2]]
            await links[0].send(b"still here")
            assert await links[1].receive() == b"still here"
        await party.transports[0].close()
        await party.transports[1].close()

    virtual(check())


# turns on a half-duplex channel


@pytest.mark.parametrize(("baud", "least"), [(300, 0.75), (1_200, 0.80), (9_600, 0.75)])
def test_two_who_talk_and_answer_hardly_collide(baud: int, least: float) -> None:
    """One streams, the other answers every second datagram with a short one, as the link layer does."""

    async def check() -> None:
        party = Party(f"v?baud={baud}&profile=bus", 2)
        await party.start()
        here, there = (next(iter(links.values())) for links in await party.links(1))
        octets = here.profile.addressed_octets_max
        loop = asyncio.get_running_loop()
        began_at, collisions, carried = loop.time(), party.model.collisions, 0

        async def answer() -> None:
            nonlocal carried
            for number in range(10**9):
                carried += len(await there.receive())
                if number % 2:
                    await there.send(bytes(14))

        async def hear() -> None:
            while True:
                await here.receive()

        tasks = [loop.create_task(answer()), loop.create_task(hear())]
        count = max(20, 60 * baud // 10 // octets)
        for number in range(count):
            await here.send(number.to_bytes(4, "big") + bytes(octets - 4))
        await asyncio.sleep(4 * octets * 10 / baud)
        for task in tasks:
            task.cancel()
        share = carried * 10 / baud / (loop.time() - began_at)
        assert carried >= 0.97 * count * octets, "too much was lost to collisions"
        assert share >= least, f"{share:.2f} of the line carried datagrams"
        assert party.model.collisions - collisions <= count
        await party.close()

    virtual(check())


def test_many_who_all_talk_get_their_share() -> None:
    async def check() -> None:
        nodes = 4
        party = Party("v?baud=9600&profile=bus&datagram=100", nodes)
        await party.start()
        links = await party.links(nodes - 1)
        got = [0] * nodes
        loop = asyncio.get_running_loop()

        async def talk(here: int) -> None:
            while True:
                await links[here][party.id_of((here + 1) % nodes)].send(bytes([here]) * 100)

        async def listen(here: int) -> None:
            while True:
                await links[here][party.id_of((here - 1) % nodes)].receive()
                got[here] += 1

        tasks = [loop.create_task(work(here)) for here in range(nodes) for work in (talk, listen)]
        await asyncio.sleep(100)
        for task in tasks:
            task.cancel()
        possible = 100 / party.parameters.airtime_s(100)
        assert sum(got) >= 0.5 * possible
        assert min(got) >= 0.5 * sum(got) / nodes, got
        await party.close()

    virtual(check())


def test_nobody_speaks_while_the_modem_says_that_it_is_busy() -> None:
    async def check() -> None:
        party = Party("v?baud=9600&profile=bus&busy=cts", 2)
        await party.start()
        here, there = (next(iter(links.values())) for links in await party.links(1))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        party.ports[0].busy = True
        began_at = loop.time()
        await here.send(b"when you are done")
        loop.call_later(5, setattr, party.ports[0], "busy", False)
        await there.receive()
        assert 5 <= loop.time() - began_at < 6
        party.ports[0].busy = True
        await here.send(b"you cannot be busy for ever")
        async with asyncio.timeout(40):
            await there.receive()
        await party.close()

    virtual(check())


# what the line and the port do


def test_octets_without_frames_are_told_and_forgotten_when_frames_come() -> None:
    async def check() -> None:
        party = Party("v?baud=9600", 2)
        transport = party.transports[0]
        await transport.start(b"A" * 8)
        await asyncio.sleep(1)
        assert transport.status().notes == ()
        transport.octets_arrived(random.Random(1).randbytes(200))
        assert any("wrong baud rate" in note for note in transport.status().notes)
        await party.transports[1].start(b"B" * 8)
        await transport.next_link()
        assert transport.status().notes == ()
        await party.close()

    virtual(check())


def test_a_noisy_line_is_told() -> None:
    async def check() -> None:
        party = Party("v?baud=9600&datagram=100", 2, flipped=0.003)
        await party.start()
        here = await party.transports[0].next_link()
        for _ in range(200):
            await here.send(bytes(100))
        assert any("damaged" in note for note in party.transports[1].status().notes)
        await party.close()

    virtual(check())


def test_a_port_that_is_pulled_out_and_put_back() -> None:
    async def check() -> None:
        party = Party("v?baud=9600", 2)
        await party.start()
        here, there = (next(iter(links.values())) for links in await party.links(1))
        party.ports[0].unplug()
        with pytest.raises(LinkDown, match="the port is gone"):
            await here.receive()
        assert "the port is gone; trying again" in party.transports[0].status().notes[0]
        assert party.transports[0].status().listening == ()
        await asyncio.sleep(20)
        party.ports[0].plug()
        with pytest.raises(LinkDown):
            await there.receive()
        async with asyncio.timeout(30):
            here, there = (next(iter(links.values())) for links in await party.links(1))
        assert party.transports[0].status().notes == ()
        await here.send(b"back")
        assert await there.receive() == b"back"
        await party.close()

    virtual(check())


def test_who_hears_us_and_is_not_heard_is_told_apart() -> None:
    async def check() -> None:
        party = Party("v?baud=1200&profile=bus", 2, reach={(1, 0)})
        await party.start()
        await asyncio.sleep(400)
        (service,) = party.transports[0].status().services
        assert service.state is ServiceState.FAILED
        assert "does not seem to hear us" in (service.last_error or "")
        await party.close()

    virtual(check())


# real terminals


@pytest.mark.parametrize("baud", [300, 1_200, 9_600, 115_200])
def test_a_datagram_takes_the_time_of_its_octets(baud: int) -> None:
    async def check() -> None:
        octets = {300: 20, 1_200: 60, 9_600: 200, 115_200: 1_400}[baud]
        with pty_line(WireModel(2, baud / 10)) as line:
            ends = [SerialTransport.from_parameters(f"{path}?baud={baud}") for path in line.paths]
            for end, transport in enumerate(ends):
                await transport.start(Party.id_of(end))
            async with asyncio.timeout(20):
                here, there = [await transport.next_link() for transport in ends]
            await asyncio.sleep(0.5)
            began_at = time.monotonic()
            await here.send(bytes(octets))
            async with asyncio.timeout(20):
                await there.receive()
            took_s = time.monotonic() - began_at
            least_s = (octets + 5) * 10 / baud
            assert 0.9 * least_s <= took_s <= 1.5 * least_s + 0.25
            for transport in ends:
                await transport.close()

    asyncio.run(check())


def test_a_real_port_vanishes_and_comes_back(tmp_path: Path) -> None:
    async def check() -> None:
        links = [str(tmp_path / "ttyA"), str(tmp_path / "ttyB")]
        with pty_line(WireModel(2, 11_520), links) as line:
            ends = [SerialTransport.from_parameters(f"{path}?baud=115200") for path in links]
            for end, transport in enumerate(ends):
                await transport.start(Party.id_of(end))
            async with asyncio.timeout(10):
                here, there = [await transport.next_link() for transport in ends]
            line.unplug(0)
            async with asyncio.timeout(5):
                with pytest.raises(LinkDown, match="the port is gone"):
                    await here.receive()
            await asyncio.sleep(1.2)
            (note,) = ends[0].status().notes
            assert "there is no such port" in note or "the port is gone" in note
            line.plug(0)
            async with asyncio.timeout(10):
                here, there = [await transport.next_link() for transport in ends]
                await here.send(b"back")
                assert await there.receive() == b"back"
            for transport in ends:
                await transport.close()

    asyncio.run(check())


def test_a_port_that_is_not_there_yet_is_a_note_and_one_in_use_an_error(tmp_path: Path) -> None:
    async def check() -> None:
        absent = SerialTransport.from_parameters(f"{tmp_path}/ttyNone")
        await absent.start(b"A" * 8)
        await asyncio.sleep(0.1)
        assert "is the device plugged in?" in absent.status().notes[0]
        await absent.close()
        with pty_line(WireModel(2, 11_520)) as line:
            first = SerialTransport.from_parameters(line.paths[0])
            await first.start(b"A" * 8)
            with pytest.raises(OSError, match="another program uses the port"):
                await SerialTransport.from_parameters(line.paths[0]).start(b"B" * 8)
            await first.close()

    asyncio.run(check())


def test_the_loop_goes_on_while_the_port_is_full() -> None:
    """Nobody reads at the other end: `write` says no, the writer's thread waits, and neither spins nor blocks."""

    async def check() -> None:
        with pty_line(WireModel(2, 1.0)) as line:  # an octet a second
            port = ThreadedPort(line.paths[0], baud=115_200)
            await port.start(_Ignored())
            assert port.is_open
            taken, late_s, cpu_s = 0, 0.0, time.process_time()
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                before = time.monotonic()
                await asyncio.sleep(0.005)
                late_s = max(late_s, time.monotonic() - before - 0.005)
                while port.write(bytes(1_000)):
                    taken += 1_000
            assert not port.write(b"x" * 1_000)
            assert 4_000 <= taken < 200_000
            assert late_s < 0.2
            assert time.process_time() - cpu_s < 0.6
            await port.close()

    asyncio.run(check())


class _Ignored:
    def port_opened(self) -> None: ...

    def port_lost(self, reason: str) -> None: ...

    def octets_arrived(self, octets: bytes) -> None: ...

    def octets_written(self) -> None: ...


# parameters


def test_the_ways_to_name_a_port() -> None:
    for text in (
        "/dev/ttyUSB0?baud=57600&profile=sik",
        "/dev/ttyUSB0,baud=57600,profile=sik",
        "port=/dev/ttyUSB0,baud=57600,profile=sik",
    ):
        found = SerialParameters.parse(text)
        assert (found.port, found.baud, found.profile) == ("/dev/ttyUSB0", 57_600, "sik")
    assert SerialParameters.parse("COM3").baud == 115_200
    assert SerialParameters.parse("rfc2217://host:7000?baud=9600").port == "rfc2217://host:7000"


def bad() -> Iterator[tuple[str, str]]:
    yield "", "name a port"
    yield "baud=9600", "name a port"
    yield "/dev/x?baud=fast", "baud is a whole number"
    yield "/dev/x?baud=9600&baud=1200", "given twice"
    yield "/dev/x?colour=red", "unknown parameter"
    yield "/dev/x?profile=pigeon", "profile is one of"
    yield "/dev/x?duty=200", "a duty cycle is one of"
    yield "/dev/x?busy=ring", "busy is one of"
    yield "/dev/x?rtscts=maybe", "rtscts is on or off"
    yield "/dev/x?datagram=9", "datagram is a whole number"


@pytest.mark.parametrize(("text", "message"), [*bad()])
def test_what_cannot_be_understood_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SerialTransport.from_parameters(text)


def test_profiles_tell_what_a_link_should_know() -> None:
    e22 = SerialParameters.parse("/dev/x?profile=e220&duty=eu868-1").link_profile
    assert (e22.addressed_octets_max, e22.broadcast_octets_max) == (233, 233)
    assert (e22.bit_rate, e22.airtime_ms_per_hour) == (2_400, 36_000)
    assert e22.shared_medium
    assert e22.half_duplex
    assert e22.datagram_overhead_ms > 80
    cable = SerialParameters.parse("/dev/x?baud=1200").link_profile
    assert (cable.bit_rate, cable.broadcast_octets_max, cable.half_duplex) == (960, None, False)
    assert 50 < cable.datagram_overhead_ms < 70
    assert SerialTransport.from_parameters("/dev/x").medium is None
    assert Frame(EVERYBODY, 1, b"x").to == 0
