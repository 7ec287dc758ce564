"""The simulated network: the conformance suite on clean and on bad links, and what it promises beyond the contract."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest

from transports.conformance import TransportConformance
from transports.contract import Link, LinkDown, Transport
from transports.sim import LinkConditions, SimNetwork, SimTransport, run_virtual

LIMIT_S = 10_000.0


class TestCleanSim(TransportConformance):
    conditions = LinkConditions(delay_ms_mean=5)

    def prepare(self) -> None:
        self.network = SimNetwork(seed=1, conditions=self.conditions)

    def make(self, side: str) -> Transport:
        return self.network.transport(side)

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        run_virtual(check, limit_s=LIMIT_S)


class TestReorderingSim(TestCleanSim):
    conditions = LinkConditions(delay_ms_mean=40, jitter_ms=40)


class TestSmallSlowSim(TestCleanSim):
    conditions = LinkConditions(delay_ms_mean=100, bit_rate=9_600, datagram_octets_max=163)
    check_within_s = 5_000.0


class TestBadSim(TestCleanSim):
    conditions = LinkConditions(loss=0.3, delay_ms_mean=30, jitter_ms=30, duplication=0.1)
    delivers = False


async def meet(a: SimTransport, b: SimTransport) -> tuple[Link, Link]:
    return await a.next_link(), await b.next_link()


async def started(network: SimNetwork, *hosts: str) -> list[SimTransport]:
    transports = [network.transport(host) for host in hosts]
    for transport in transports:
        await transport.start(transport.host.encode().ljust(8, b"."))
    return transports


async def next_within(transport: SimTransport, seconds: float) -> Link:
    async with asyncio.timeout(seconds):
        return await transport.next_link()


async def nothing_arrives(link: Link, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await link.receive()
    except TimeoutError:
        return True
    return False


def quiet_network(seed: int = 3, **conditions: Any) -> SimNetwork:
    return SimNetwork(seed=seed, conditions=LinkConditions(**conditions), both_dial=0.0)


async def test_it_works_on_real_time_too() -> None:
    network = quiet_network()
    a, b = await started(network, "a", "b")
    link_a, link_b = await next_within(a, 2), await next_within(b, 2)
    await link_a.send(b"now")
    assert await link_b.receive() == b"now"
    await a.close()
    await b.close()


def test_a_partition_is_silent_and_the_same_link_works_after_it() -> None:
    async def main() -> None:
        network = quiet_network()
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        network.partition([{"a"}, {"b"}])
        await link_a.send(b"lost")
        assert await nothing_arrives(link_b, 600)
        network.heal()
        await link_a.send(b"found")
        assert await link_b.receive() == b"found"
        assert network.counts.vanished == 1
        assert network.counts.dials == 1

    run_virtual(main(), limit_s=LIMIT_S)


def test_a_partition_is_reported_where_the_network_is_told_to_and_heals_with_a_new_link() -> None:
    async def main() -> None:
        network = SimNetwork(seed=4, down_after_s=30, both_dial=0.0)
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        network.partition([{"a"}])
        for link in (link_a, link_b):
            with pytest.raises(LinkDown, match="out of reach"):
                await link.receive()
        assert asyncio.get_running_loop().time() == pytest.approx(30, abs=2)
        with pytest.raises(TimeoutError):
            await next_within(a, 1_000)
        network.heal()
        again = await next_within(a, 1)
        await again.send(b"x")
        assert await (await next_within(b, 1)).receive() == b"x"

    run_virtual(main(), limit_s=LIMIT_S)


def test_closed_during_a_partition_is_dialed_anew_and_the_half_open_end_goes_down_when_it_sends() -> None:
    async def main() -> None:
        network = quiet_network()
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        network.partition([{"a"}])
        await link_a.close()
        assert await nothing_arrives(link_b, 60)
        network.heal()
        again_a, again_b = await meet(a, b)
        assert again_a.initiator, "b believes that it has a link"
        await link_b.send(b"anybody there?")
        with pytest.raises(LinkDown):
            await link_b.receive()
        await again_b.send(b"yes")
        assert await again_a.receive() == b"yes"

    run_virtual(main(), limit_s=LIMIT_S)


@pytest.mark.parametrize("silent", [True, False])
def test_crash_and_restart(silent: bool) -> None:
    async def main() -> None:
        network = quiet_network()
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        network.crash("b", silent=silent)
        with pytest.raises(LinkDown):
            await link_b.receive()
        with pytest.raises(LinkDown):
            await b.next_link()
        if silent:
            await link_a.send(b"into the void")
            assert await nothing_arrives(link_a, 100)
        else:
            with pytest.raises(LinkDown):
                await link_a.receive()
        with pytest.raises(OSError, match="crashed"):
            await network.transport("b").start(b"newnewnw")
        b = network.restart("b")
        await b.start(b"newnewnw")
        again_a, again_b = await meet(a, b)
        assert again_a.peer_hint == b"newnewnw"
        if silent:
            await link_a.send(b"still you?")
            with pytest.raises(LinkDown):
                await link_a.receive()
        await again_a.send(b"x")
        assert await again_b.receive() == b"x"

    run_virtual(main(), limit_s=LIMIT_S)


def test_loss_and_duplication_come_at_their_rates() -> None:
    async def main() -> None:
        network = quiet_network(loss=0.2, duplication=0.1, delay_ms_mean=10)
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        for number in range(5_000):
            await link_a.send(number.to_bytes(2, "big"))
        await asyncio.sleep(1)
        got = [await link_b.receive() for _ in range(network.counts.delivered)]
        assert len(got) == pytest.approx(5_000 * 1.1 * 0.8, rel=0.03)
        assert network.counts.duplicated == pytest.approx(500, rel=0.15)
        assert network.counts.sent == 5_000

    run_virtual(main(), limit_s=LIMIT_S)


def test_jitter_reorders_and_its_absence_does_not() -> None:
    async def order(jitter_ms: float) -> list[int]:
        network = quiet_network(delay_ms_mean=50, jitter_ms=jitter_ms)
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        for number in range(200):
            await link_a.send(bytes([number]))
        return [(await link_b.receive())[0] for _ in range(200)]

    assert run_virtual(order(0)) == list(range(200))
    reordered = run_virtual(order(20))
    assert sorted(reordered) == list(range(200))
    assert reordered != list(range(200))


def test_bit_rate_takes_its_time_and_the_buffer_holds_the_sender() -> None:
    async def main() -> None:
        network = quiet_network(bit_rate=1_200, datagram_octets_max=150, delay_ms_mean=0)
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        sending = loop.create_task(send_all(link_a, [bytes([number]) * 150 for number in range(100)]))
        await asyncio.sleep(0)
        for number in range(100):
            assert (await link_b.receive())[0] == number
            assert loop.time() - started_s == pytest.approx(number + 1)
        await sending

    async def send_all(link: Link, datagrams: list[bytes]) -> None:
        for number, datagram in enumerate(datagrams):
            await link.send(datagram)
            assert asyncio.get_running_loop().time() >= number - 3, "more than two seconds' worth was taken"

    run_virtual(main(), limit_s=LIMIT_S)


def test_half_duplex_directions_share_the_bit_rate() -> None:
    async def took_s(half_duplex: bool) -> float:
        network = quiet_network(bit_rate=8_000, datagram_octets_max=100, delay_ms_mean=0, half_duplex=half_duplex)
        a, b = await started(network, "a", "b")
        link_a, link_b = await meet(a, b)
        started_s = asyncio.get_running_loop().time()
        for _ in range(10):
            await link_a.send(bytes(100))
            await link_b.send(bytes(100))
        for _ in range(10):
            await link_a.receive()
            await link_b.receive()
        return asyncio.get_running_loop().time() - started_s

    assert run_virtual(took_s(False)) == pytest.approx(1.0)
    assert run_virtual(took_s(True)) == pytest.approx(2.0)


def test_both_dial_sometimes_and_links_can_be_taken_out_one_by_one() -> None:
    async def main() -> None:
        network = SimNetwork(seed=5, both_dial=1.0, connected=False)
        a, _, c = await started(network, "a", "b", "c")
        with pytest.raises(TimeoutError):
            await next_within(a, 100)
        network.set_link("a", "b", True)
        ends = [await next_within(a, 2), await next_within(a, 2)]
        assert {end.initiator for end in ends} == {True, False}
        assert {end.remote for end in ends} == {"sim b"}
        assert network.in_reach("a", "b")
        assert not network.in_reach("b", "c")
        network.set_link("a", "b", False)
        await ends[0].send(b"x")
        await asyncio.sleep(10)
        assert network.counts.vanished == 1
        assert c.status().services == ()

    run_virtual(main(), limit_s=LIMIT_S)


def test_redial_backs_off_while_the_link_keeps_being_closed() -> None:
    async def main() -> None:
        network = quiet_network()
        a, _ = await started(network, "a", "b")
        times = []
        for _ in range(12):
            link = await a.next_link()
            times.append(asyncio.get_running_loop().time())
            await link.close()
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] < 4
        assert gaps[-1] > 10
        assert max(gaps) < 32

    run_virtual(main(), limit_s=LIMIT_S)


async def busy(seed: int) -> list[tuple[float, str, bytes]]:
    """Everything that arrives anywhere in an hour of trouble."""
    network = SimNetwork(
        seed=seed,
        conditions=LinkConditions(loss=0.2, duplication=0.1, delay_ms_mean=200, jitter_ms=200),
        down_after_s=60,
    )
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    trace: list[tuple[float, str, bytes]] = []
    hosts = ["a", "b", "c", "d"]

    async def live(transport: SimTransport) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                link = await transport.next_link()
                tasks.create_task(talk(transport.host, link))
                tasks.create_task(listen(transport.host, link))

    async def talk(host: str, link: Link) -> None:
        try:
            while True:
                await link.send(f"{host} at {loop.time()}".encode())
                await asyncio.sleep(rng.uniform(1, 20))
        except LinkDown:
            trace.append((loop.time(), host, b"down"))

    async def listen(host: str, link: Link) -> None:
        try:
            while True:
                trace.append((loop.time(), host, await link.receive()))
        except LinkDown:
            return

    lives = [loop.create_task(live(transport)) for transport in await started(network, *hosts)]
    for _ in range(20):
        await asyncio.sleep(rng.uniform(10, 300))
        network.partition([set(rng.sample(hosts, 2))])
        await asyncio.sleep(rng.uniform(10, 100))
        network.heal()
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    return trace


def test_a_seed_repeats_a_run_and_another_one_does_not() -> None:
    first = run_virtual(busy(1))
    assert len(first) > 500
    assert run_virtual(busy(1)) == first
    assert run_virtual(busy(2)) != first
