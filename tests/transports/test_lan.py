"""The LAN transport on loopback: conformance, parameters, hostile TCP peers. mDNS is tested on hosts of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import transports.lan.link
import transports.lan.transport
from transports.conformance import TransportConformance
from transports.contract import Link, LinkDown, ServiceState, Transport
from transports.lan import LanParameters, LanTransport
from transports.lan.addresses import LocalAddress, is_near, local_addresses, parse_host_port, resolve, shown
from transports.lan.link import GREETING

OURS = b"OURS-OUR"
THEIRS = b"THEIRS-T"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class TestLanWithNamedPeer(TransportConformance):
    def prepare(self) -> None:
        self.port = free_port()

    def make(self, side: str) -> Transport:
        if side == "a":
            return LanTransport.from_parameters(f"listen=127.0.0.1:{self.port},mdns=off")
        return LanTransport.from_parameters(f"listen=127.0.0.1:0,mdns=off,peer=127.0.0.1:{self.port}")


class TestLanNamingEachOther(TransportConformance):
    """Both dial: often at the same moment, so that there are two links for a while."""

    def prepare(self) -> None:
        self.ports = {"a": free_port(), "b": free_port()}

    def make(self, side: str) -> Transport:
        other = self.ports["b" if side == "a" else "a"]
        return LanTransport.from_parameters(f"listen=127.0.0.1:{self.ports[side]},mdns=off,peer=127.0.0.1:{other}")


async def test_a_peer_whose_name_cannot_be_one_is_told_and_ends_nothing() -> None:
    transport = LanTransport(LanParameters(listen=("127.0.0.1", 0), peers=(("a..b", 4001),), mdns=False))
    await transport.start(OURS)
    try:
        async with asyncio.timeout(10):
            while transport.status().services[0].state is not ServiceState.FAILED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "not a host name" in (transport.status().services[0].last_error or "")
    finally:
        await transport.close()


# parameters


def test_parameters() -> None:
    assert LanParameters.parse("") == LanParameters(listen=("", 0), peers=(), mdns=True, interfaces=())
    parsed = LanParameters.parse(
        "listen=127.0.0.1:4001, peer=10.0.0.2:4001,peer=[fe80::1%eth0]:7,mdns=off,interface=wlan0"
    )
    assert parsed == LanParameters(
        listen=("127.0.0.1", 4001), peers=(("10.0.0.2", 4001), ("fe80::1%eth0", 7)), mdns=False, interfaces=("wlan0",)
    )
    assert parsed.loopback_only
    assert not parsed.all_addresses
    for text in ("listen=0.0.0.0:1", "listen=[::]:1", "listen=:1", ""):
        assert LanParameters.parse(text).all_addresses


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("port=1", "unknown parameter 'port'"),
        ("listen", "'listen' is not of the form key=value"),
        ("listen=", "'listen=' is not of the form key=value"),
        ("listen=127.0.0.1", "listen: '127.0.0.1' is not of the form HOST:PORT"),
        ("listen=127.0.0.1:x", "not of the form HOST:PORT"),
        ("listen=127.0.0.1:70000", "not of the form HOST:PORT"),
        ("listen=localhost:1", "'localhost' is not an IP address"),
        ("listen=fe80::1:4001", "written in brackets"),
        ("listen=:1,listen=:2", "'listen' is given twice"),
        ("peer=:4001", "needs a host and a port"),
        ("peer=10.0.0.1:0", "needs a host and a port"),
        ("mdns=maybe", "mdns is on or off, not 'maybe'"),
    ],
)
def test_parameters_that_cannot_be_understood(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        LanTransport.from_parameters(text)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_host_and_port_forms() -> None:
    assert parse_host_port("nas.local:80", "x") == ("nas.local", 80)
    assert parse_host_port("[::1]:80", "x") == ("::1", 80)
    assert shown("::1", 80) == "[::1]:80"
    assert shown("::ffff:10.0.0.1", 80) == "10.0.0.1:80"


def test_only_near_addresses_are_dialed() -> None:
    local = {LocalAddress("eth0", 2, ipaddress.ip_address("203.0.113.7"), 24)}
    local.add(LocalAddress("eth0", 2, ipaddress.ip_address("2a00:1:2:3::7"), 64))
    near = [
        "10.1.2.3",
        "192.168.0.1",
        "169.254.3.4",
        "127.0.0.1",
        "203.0.113.9",
        "2a00:1:2:3::9",
        "fd00::1",
        "fe80::1%2",
    ]
    far = ["8.8.8.8", "100.64.0.1", "2a00:1:2:4::9", "224.0.0.251", "ff02::fb", "0.0.0.0", "::", "fe80::1", "host", ""]
    assert [text for text in near if not is_near(text, local)] == []
    assert [text for text in far if is_near(text, local)] == []


def test_own_addresses_are_those_of_the_interfaces_asked_for() -> None:
    assert ipaddress.ip_address("127.0.0.1") in {own.ip for own in local_addresses()}
    assert {own.interface for own in local_addresses({"lo"})} == {"lo"}
    assert local_addresses({"no-such-interface"}) == frozenset()


async def test_names_are_looked_up_off_the_loop() -> None:
    assert (socket.AF_INET, ("127.0.0.1", 80)) in await resolve("127.0.0.1", 80)
    assert any(address[0] in {"127.0.0.1", "::1"} for _, address in await resolve("localhost", 80))
    with pytest.raises(OSError):
        await resolve("no-such-host.invalid", 80)


async def test_an_address_in_use_is_an_error_at_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        transport = LanTransport.from_parameters(f"listen=127.0.0.1:{taken.getsockname()[1]},mdns=off")
        with pytest.raises(OSError, match="in use"):
            await transport.start(OURS)
        await transport.close()


# hostile and unlucky peers


@asynccontextmanager
async def listening(**options: str) -> AsyncIterator[tuple[LanTransport, int]]:
    """A transport that nobody else knows of, and its port."""
    extra = "".join(f",{key}={value}" for key, value in options.items())
    transport = LanTransport.from_parameters(f"listen=127.0.0.1:0,mdns=off{extra}")
    await transport.start(OURS)
    try:
        yield transport, int(transport.status().listening[0].rpartition(":")[2])
    finally:
        await transport.close()


class Peer:
    """A TCP client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, first: bytes = GREETING + THEIRS) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        peer.writer.write(first)
        return peer

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    async def is_cut_off(self) -> bool:
        """Whether the other side ends the connection within a second."""
        try:
            async with asyncio.timeout(1):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


async def no_link(transport: LanTransport) -> bool:
    try:
        async with asyncio.timeout(0.3):
            await transport.next_link()
    except TimeoutError:
        return True
    return False


async def linked(transport: LanTransport, port: int) -> tuple[Peer, Link]:
    peer = await Peer.connect(port)
    async with asyncio.timeout(5):
        return peer, await transport.next_link()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"P2PSRV2\n" + THEIRS, b"\x00" * 64])
async def test_whoever_does_not_greet_like_us_is_cut_off(first: bytes) -> None:
    async with listening() as (transport, port):
        peer = await Peer.connect(port, first)
        assert await peer.is_cut_off()
        assert await no_link(transport)
        await peer.close()


async def test_a_greeting_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports.lan.link, "_GREETING_S", 0.2)
    async with listening() as (transport, port):
        for first in (b"", b"P", GREETING, GREETING + THEIRS[:7]):
            peer = await Peer.connect(port, first)
            assert await peer.is_cut_off()
            await peer.close()
        assert await no_link(transport)


async def test_our_own_greeting_is_not_a_link() -> None:
    async with listening() as (transport, port):
        peer = await Peer.connect(port, GREETING + OURS)
        assert await peer.is_cut_off()
        assert await no_link(transport)
        await peer.close()


async def test_a_datagram_may_come_in_pieces_of_any_size() -> None:
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        rng = random.Random(5)
        sent = [rng.randbytes(rng.choice([1, 2, 255, 256, 5_000, 65_535])) for _ in range(30)]
        stream = b"".join(len(datagram).to_bytes(2, "big") + datagram for datagram in sent)
        while stream:
            size = rng.choice([1, 2, 3, 1_000, 70_000])
            peer.writer.write(stream[:size])
            await asyncio.sleep(0)
            stream = stream[size:]
        assert [await link.receive() for _ in sent] == sent
        await peer.close()


async def test_an_empty_datagram_ends_the_link_after_what_came_before_it() -> None:
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        peer.writer.write(b"\x00\x00")
        with pytest.raises(LinkDown, match="empty"):
            await link.receive()
        assert await peer.is_cut_off()
        await peer.close()


async def test_a_datagram_that_trickles_in_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports.lan.link, "_DATAGRAM_S", 0.5)
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        peer.writer.write(b"\x00\x01x\x00\xff")  # one whole, and the beginning of another
        assert await link.receive() == b"x"
        receiving = asyncio.ensure_future(link.receive())
        for _ in range(20):
            peer.writer.write(b"y")
            await asyncio.sleep(0.05)
        with pytest.raises(LinkDown, match="too long"):
            await receiving
        await peer.close()


async def test_an_idle_link_and_a_steady_stream_are_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports.lan.link, "_DATAGRAM_S", 0.2)
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        await asyncio.sleep(0.5)
        for number in range(30):  # always in the middle of a datagram, but never long in the same one
            peer.writer.write(bytes([0, 2, number]))
            await asyncio.sleep(0.02)
            peer.writer.write(bytes([number]))
        for number in range(30):
            assert await link.receive() == bytes([number, number])
        assert not await peer.is_cut_off()
        await peer.close()


async def test_a_peer_that_stops_reading_ends_the_link_and_costs_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transports.lan.link, "_STOPPED_READING_S", 0.5)
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            while sent < 500_000_000:
                await link.send(bytes(65_535))
                sent += 65_535

        with pytest.raises(LinkDown, match="stopped reading"):
            await send_all()
        assert sent < 50_000_000, "this is more than two sockets' buffers"
        with pytest.raises(LinkDown):
            await link.send(b"x")
        await peer.close()


async def test_a_flood_that_nobody_reads_is_not_taken_in() -> None:
    async with listening() as (transport, port):
        peer, link = await linked(transport, port)
        flood = b"\x00\x01x" * 20_000
        taken = 0

        async def send_all() -> None:
            nonlocal taken
            while taken < 500_000_000:
                peer.writer.write(flood)
                await peer.writer.drain()
                taken += len(flood)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send_all(), 1)
        assert taken < 50_000_000
        for _ in range(100_000):  # and it goes on where it stopped
            assert await link.receive() == b"x"
        await peer.close()


async def test_no_more_connections_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports.lan.transport, "INBOUND_PER_HOST_MAX", 5)
    async with listening() as (transport, port):
        peers = [await Peer.connect(port, GREETING + bytes([number]) * 8) for number in range(5)]
        links = [await transport.next_link() for _ in peers]
        one_too_many = await Peer.connect(port)
        assert await one_too_many.is_cut_off()
        assert await no_link(transport)
        await links[0].close()
        await peers[0].close()
        await asyncio.sleep(0.1)
        again, _ = await linked(transport, port)
        for peer in (*peers, one_too_many, again):
            await peer.close()
    assert transports.lan.transport.INBOUND_MAX == 64


async def test_garbage_ends_links_and_nothing_else() -> None:
    rng = random.Random(9)
    async with listening() as (transport, port):
        ended = 0
        for _ in range(200):
            peer, link = await linked(transport, port)
            peer.writer.write(rng.randbytes(rng.randrange(1, 2_000)))
            peer.writer.write_eof()
            try:
                while True:
                    assert 1 <= len(await link.receive()) <= 65_535
            except LinkDown:
                ended += 1
            await peer.close()
        assert ended == 200
        assert not transport._connections


async def test_a_named_peer_that_is_not_there_is_tried_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    async with listening(peer=f"127.0.0.1:{port}") as (transport, _):
        await asyncio.sleep(0.2)
        (service,) = transport.status().services
        assert service.state is ServiceState.FAILED
        assert service.last_error is not None
        assert f"127.0.0.1:{port}" in service.last_error
        other = LanTransport.from_parameters(f"listen=127.0.0.1:{port},mdns=off")
        await other.start(THEIRS)
        async with asyncio.timeout(5):
            link = await transport.next_link()
        assert link.peer_hint == THEIRS
        assert transport.status().services[0].state is ServiceState.LINKED
        await other.close()


async def test_a_named_peer_that_is_ourselves_is_said_to_be() -> None:
    port = free_port()
    transport = LanTransport.from_parameters(f"listen=127.0.0.1:{port},mdns=off,peer=127.0.0.1:{port}")
    await transport.start(OURS)
    await asyncio.sleep(0.3)
    (service,) = transport.status().services
    assert service.last_error is not None
    assert "this node itself" in service.last_error
    assert await no_link(transport)
    await transport.close()


async def test_a_peer_that_accepts_and_hangs_up_is_not_dialed_in_a_circle() -> None:
    accepted = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.write(GREETING + THEIRS)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listening(peer=f"127.0.0.1:{server.sockets[0].getsockname()[1]}"):
        await asyncio.sleep(2.5)
    server.close()
    assert 2 <= accepted <= 4


async def test_ipv6() -> None:
    port = free_port("::1")
    a = LanTransport.from_parameters(f"listen=[::1]:{port},mdns=off")
    b = LanTransport.from_parameters(f"listen=:0,mdns=off,peer=[::1]:{port}")
    await a.start(OURS)
    await b.start(THEIRS)
    async with asyncio.timeout(5):
        link_a, link_b = await a.next_link(), await b.next_link()
    await link_b.send(b"six")
    assert await link_a.receive() == b"six"
    assert link_b.remote == f"lan [::1]:{port}"
    await a.close()
    await b.close()
