"""The channel that simulated hosts share: the conformance suite, and what it promises beyond the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from transports.conformance import SharedMediumConformance
from transports.contract import Medium, Transport, medium_of
from transports.lan import LanTransport
from transports.sim import ChannelConditions, Deadlock, OutOfTime, SimNetwork, SimTransport, run_virtual
from transports.sim.medium import SimMedium
from transports.sim.network import SimLink

LIMIT_S = 20_000.0


class TestSharedSim(SharedMediumConformance):
    conditions = ChannelConditions(bit_rate=100_000, turnaround_ms=0.0, preamble_ms=0.1, backoff_ms=2.0)
    check_within_s = 5_000.0

    def prepare(self) -> None:
        self.network = SimNetwork(seed=1, shared=self.conditions)

    def make(self, side: str) -> Transport:
        return self.network.transport(side)

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        run_virtual(check, limit_s=LIMIT_S)


class TestBadSharedSim(TestSharedSim):
    conditions = ChannelConditions(bit_rate=100_000, loss=0.2, turnaround_ms=1.0, preamble_ms=0.1, backoff_ms=5.0)
    delivers = False


async def started(network: SimNetwork, *hosts: str) -> list[SimTransport]:
    transports = [network.transport(host) for host in hosts]
    for transport in transports:
        await transport.start(transport.host.encode().ljust(8, b"."))
    return transports


def ear(transport: SimTransport) -> Medium:
    medium = medium_of(transport)
    assert medium is not None
    return medium


async def everything_heard(transport: SimTransport, *, until_quiet_s: float = 30.0) -> list[bytes]:
    heard = []
    while True:
        try:
            async with asyncio.timeout(until_quiet_s):
                heard.append(await ear(transport).heard())
        except TimeoutError:
            return heard


def test_one_transmission_serves_everybody_and_takes_its_airtime() -> None:
    async def body() -> None:
        network = SimNetwork(seed=1, shared=ChannelConditions(bit_rate=1_200, preamble_ms=0.0))
        a, *others = await started(network, *"abcde")
        began_s = asyncio.get_running_loop().time()
        await ear(a).broadcast(bytes(150))
        assert [await ear(other).heard() for other in others] == [bytes(150)] * 4
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.0)
        assert network.channel is not None
        assert (network.channel.counts.transmissions, network.channel.counts.octets) == (1, 150)

    run_virtual(body(), limit_s=LIMIT_S)


def test_a_host_waits_while_it_hears_another() -> None:
    async def body() -> None:
        network = SimNetwork(seed=1, shared=ChannelConditions())
        a, b, c = await started(network, *"abc")
        await ear(a).broadcast(b"a" * 100)
        await asyncio.sleep(0.1)
        await ear(b).broadcast(b"b" * 100)
        assert await everything_heard(c) == [b"a" * 100, b"b" * 100]
        assert network.channel is not None
        assert network.channel.counts.collisions == 0

    run_virtual(body(), limit_s=LIMIT_S)


def test_two_that_begin_at_once_collide_and_do_not_hear_each_other() -> None:
    async def body() -> None:
        network = SimNetwork(seed=1, shared=ChannelConditions())
        a, b, c = await started(network, *"abc")
        await ear(a).broadcast(b"a" * 100)
        await ear(b).broadcast(b"b" * 100)
        assert [await everything_heard(host) for host in (a, b, c)] == [[], [], []]
        assert network.channel is not None
        assert network.channel.counts.collisions == 4

    run_virtual(body(), limit_s=LIMIT_S)


def test_hosts_hidden_from_each_other_collide_at_the_one_between() -> None:
    async def body() -> None:
        network = SimNetwork(seed=1, shared=ChannelConditions())
        a, b, c = await started(network, *"abc")
        network.set_link("a", "c", up=False)
        await ear(a).broadcast(b"a" * 100)
        await asyncio.sleep(0.1)
        await ear(c).broadcast(b"c" * 100)
        assert await everything_heard(b) == []

    run_virtual(body(), limit_s=LIMIT_S)


def test_each_hearer_loses_its_own_share() -> None:
    async def body() -> None:
        network = SimNetwork(seed=5, shared=ChannelConditions(bit_rate=100_000, loss=0.2))
        a, b, c = await started(network, *"abc")
        for number in range(200):
            await ear(a).broadcast(number.to_bytes(1, "big"))
        heard_b, heard_c = await everything_heard(b), await everything_heard(c)
        assert 130 < len(heard_b) < 190
        assert 130 < len(heard_c) < 190
        assert heard_b != heard_c

    run_virtual(body(), limit_s=LIMIT_S)


def test_a_crash_breaks_off_what_is_on_the_air() -> None:
    async def body() -> None:
        network = SimNetwork(seed=1, shared=ChannelConditions())
        a, b = await started(network, *"ab")
        await ear(a).broadcast(b"cut off")
        network.crash("a")
        assert await everything_heard(b) == []

    run_virtual(body(), limit_s=LIMIT_S)


def test_most_transports_have_no_medium() -> None:
    assert medium_of(LanTransport.from_parameters("")) is None
    assert medium_of(SimNetwork(seed=1).transport("a")) is None


def splits(patch: pytest.MonkeyPatch) -> None:
    whole = SimMedium.broadcast

    async def broadcast(self: SimMedium, datagram: bytes) -> None:
        await whole(self, datagram[:1])
        await whole(self, datagram)

    patch.setattr(SimMedium, "broadcast", broadcast)


def is_heard_by_itself(patch: pytest.MonkeyPatch) -> None:
    real = SimMedium.broadcast

    async def broadcast(self: SimMedium, datagram: bytes) -> None:
        await real(self, datagram)
        self.deliver(datagram)

    patch.setattr(SimMedium, "broadcast", broadcast)


def takes_any_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("transports.sim.medium.check_broadcast", lambda datagram, profile: None)


def never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimMedium, "over", lambda self: None)


def hears_links_too(patch: pytest.MonkeyPatch) -> None:
    def deliver(self: SimLink, datagram: bytes) -> None:
        if self.owner.medium is not None:
            self.owner.medium.deliver(datagram)

    patch.setattr(SimLink, "deliver", deliver)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (splits, "test_what_one_broadcasts_all_others_hear_whole"),
        (is_heard_by_itself, "test_what_one_broadcasts_all_others_hear_whole"),
        (takes_any_size, "test_broadcasts_of_a_wrong_size_are_refused"),
        (never_ends, "test_closing_the_transport_ends_its_medium"),
        (hears_links_too, "test_links_and_broadcasts_do_not_mix"),
    ],
)
def test_a_fault_is_noticed(fault: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(TestSharedSim(), check)()
    fault(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError, Deadlock, OutOfTime, pytest.fail.Exception)):
        getattr(TestSharedSim(), check)()
