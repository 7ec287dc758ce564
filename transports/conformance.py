"""The suite that holds every transport to `transports.contract`. Needs pytest, and nothing else of a test setup.

Subclass it in a test module and say how to make two transports that find each other:

    class TestMine(TransportConformance):
        def make(self, side: str) -> Transport:
            return MyTransport(port={"a": 4001, "b": 4002}[side])

A transport that loses, doubles or reorders what it carries says so with `delivers = False`: then only what the contract
promises of every transport is asked of it. Each check begins with transports that were just made, and ends by looking
for tasks that were left behind.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from transports.contract import INSTANCE_ID_OCTETS, Link, LinkDown, Medium, Transport, medium_of

QUIET_S = 0.3
"""How long to wait for something that should not happen."""


@dataclass(slots=True)
class Pair:
    """Two started transports and one link between them."""

    a: Transport
    b: Transport
    link_a: Link
    link_b: Link


class TransportConformance:
    """The checks. Attributes to override are `delivers`, `found_within_s` and `check_within_s`."""

    delivers = True
    """Whether every datagram arrives once and undamaged while the link is up, on the medium that `make` sets up."""
    found_within_s = 15.0
    """How long until two transports that were started have a link, or have one again after a restart."""
    check_within_s = 60.0
    """How long one check may take."""
    initial_ids = (b"A" * INSTANCE_ID_OCTETS, b"B" * INSTANCE_ID_OCTETS)

    def make(self, side: str) -> Transport:
        """A fresh transport, not started, for side "a" or "b". Called again for a side whose last one was closed."""
        raise LookupError(f"the test class must say how to make side {side}")

    def prepare(self) -> None:
        """Called before the first `make` of each check, inside its event loop."""

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        """Runs one check to its end."""
        asyncio.run(check)

    # how the checks are run

    def _check(self, body: Coroutine[Any, Any, None]) -> None:
        async def checked() -> None:
            async with asyncio.timeout(self.check_within_s):
                self.prepare()
                await body
            for _ in range(5):  # what was cancelled may need a few turns to end
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"

        self.run(checked())

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[Transport, Transport]]:
        a, b = self.make("a"), self.make("b")
        try:
            await a.start(self.initial_ids[0])
            await b.start(self.initial_ids[1])
            yield a, b
        finally:
            await a.close()
            await b.close()

    @asynccontextmanager
    async def _linked(self) -> AsyncIterator[Pair]:
        async with self._started() as (a, b):
            yield Pair(a, b, *await self._meet(a, b))

    async def _meet(self, a: Transport, b: Transport, *had_by_a: Link) -> tuple[Link, Link]:
        """Two ends of one link: when both have dialed there are two, and one that is left over is closed."""
        async with asyncio.timeout(self.found_within_s):
            ends_a, ends_b = list(had_by_a) or [await a.next_link()], [await b.next_link()]
            while True:
                for end_a in ends_a:
                    for end_b in ends_b:
                        if end_a.initiator != end_b.initiator:
                            for spare in {*ends_a, *ends_b} - {end_a, end_b}:
                                await spare.close()
                            return end_a, end_b
                # each took the end of the link that it dialed: the other ends are on their way
                ends_a.append(await a.next_link())
                ends_b.append(await b.next_link())

    async def _deliver(self, sender: Link, receiver: Link, datagram: bytes) -> bytes:
        """Sends until something arrives: once is enough where the medium delivers."""
        while True:
            await sender.send(datagram)
            try:
                async with asyncio.timeout(self.found_within_s if self.delivers else QUIET_S):
                    return await receiver.receive()
            except TimeoutError:
                assert not self.delivers, "a datagram did not arrive"

    # the checks

    def test_two_that_are_started_get_a_link(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                assert {pair.link_a.initiator, pair.link_b.initiator} == {True, False}
                for link, transport, hint in (
                    (pair.link_a, pair.a, self.initial_ids[1]),
                    (pair.link_b, pair.b, self.initial_ids[0]),
                ):
                    assert link.profile.kind == transport.kind
                    assert link.profile.addressed_octets_max >= 1
                    assert link.remote
                    assert link.peer_hint in {None, hint}

        self._check(body())

    def test_status_can_be_read_at_any_time(self) -> None:
        async def body() -> None:
            fresh = self.make("a")
            assert fresh.status().kind == fresh.kind
            await fresh.close()
            async with self._linked() as pair:
                assert pair.a.status().kind == pair.a.kind
                assert all(isinstance(note, str) for note in pair.a.status().notes)
                await pair.a.close()
                assert pair.a.status().kind == pair.a.kind

        self._check(body())

    def test_boundaries_and_octets_are_kept(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                most = pair.link_a.profile.addressed_octets_max
                sizes = sorted({1, 2, 3, 100, 255, 256, most // 2 or 1, most - 1 or 1, most} & set(range(1, most + 1)))
                rng = random.Random(1)
                for size in sizes:
                    datagram = rng.randbytes(size)
                    arrived = await self._deliver(pair.link_a, pair.link_b, datagram)
                    while not self.delivers and arrived != datagram and len(arrived) in sizes:
                        arrived = await self._deliver(pair.link_a, pair.link_b, datagram)  # an earlier one, doubled
                    assert arrived == datagram

        self._check(body())

    def test_sizes_out_of_range_are_refused_and_the_link_stays_up(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                with pytest.raises(ValueError):  # noqa: PT011  the contract fixes the type, not the words
                    await pair.link_a.send(bytes(pair.link_a.profile.addressed_octets_max + 1))
                with pytest.raises(ValueError):  # noqa: PT011
                    await pair.link_a.send(b"")
                assert await self._deliver(pair.link_a, pair.link_b, b"still here") == b"still here"

        self._check(body())

    def test_many_back_to_back(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                await self._burst(pair.link_a, pair.link_b, 500)

        self._check(body())

    def test_both_directions_at_once(self) -> None:
        async def body() -> None:
            async with self._linked() as pair, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._burst(pair.link_a, pair.link_b, 300))
                tasks.create_task(self._burst(pair.link_b, pair.link_a, 300))

        self._check(body())

    async def _burst(self, sender: Link, receiver: Link, count: int) -> None:
        """Numbered datagrams of many sizes; each that arrives must be one that was sent."""
        sent = [self._numbered(number, sender.profile.addressed_octets_max) for number in range(count)]

        async def send_all() -> None:
            for datagram in sent:
                await sender.send(datagram)

        sending = asyncio.get_running_loop().create_task(send_all())
        arrived: list[bytes] = []
        try:
            while len(arrived) < count:
                async with asyncio.timeout(self.found_within_s if self.delivers else 10 * QUIET_S):
                    arrived.append(await receiver.receive())
        except TimeoutError:
            assert not self.delivers, f"{len(arrived)} of {count} arrived"
        await sending
        assert arrived, "nothing arrived"
        assert set(arrived) <= set(sent)
        if self.delivers:
            assert sorted(arrived) == sorted(sent)
        if sender.profile.ordered and self.delivers:
            assert arrived == sent

    @staticmethod
    def _numbered(number: int, most: int) -> bytes:
        rng = random.Random(number)
        return (number.to_bytes(4, "big") + rng.randbytes(rng.randrange(0, 1_500)))[-min(most, 1_504) :]

    def test_a_cancelled_receive_loses_nothing(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                for number in range(40):
                    receiving = asyncio.get_running_loop().create_task(pair.link_b.receive())
                    await asyncio.sleep(0)
                    sending = asyncio.get_running_loop().create_task(pair.link_a.send(bytes([number])))
                    await asyncio.sleep(number // 4 / 1_000)  # to some moment around the arrival, whenever that is
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
                    receiving.cancel()
                    (got,) = await asyncio.gather(receiving, return_exceptions=True)
                    await sending
                    if isinstance(got, bytes):  # it was done before it could be cancelled
                        assert got == bytes([number]) or not self.delivers
                    elif self.delivers:
                        async with asyncio.timeout(self.found_within_s):
                            assert await pair.link_b.receive() == bytes([number])

        self._check(body())

    def test_close_is_seen_by_the_other_side(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                await pair.link_a.close()
                with pytest.raises(LinkDown):
                    await self._receive_until_down(pair.link_b)
                with pytest.raises(LinkDown):
                    await pair.link_b.send(b"too late")

        self._check(body())

    async def _receive_until_down(self, link: Link) -> None:
        async with asyncio.timeout(self.found_within_s):
            while True:
                await link.receive()

    def test_nothing_works_on_a_closed_link(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                receiving = asyncio.get_running_loop().create_task(pair.link_a.receive())
                await asyncio.sleep(0)
                await pair.link_a.close()
                with pytest.raises(LinkDown):
                    await receiving
                with pytest.raises(LinkDown):
                    await pair.link_a.send(b"x")
                with pytest.raises(LinkDown):
                    await pair.link_a.receive()
                await pair.link_a.close()

        self._check(body())

    def test_what_had_arrived_before_the_close_can_be_read(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                await self._deliver(pair.link_a, pair.link_b, b"first")
                await pair.link_a.send(b"last")
                await asyncio.sleep(QUIET_S)
                await pair.link_a.close()
                await asyncio.sleep(QUIET_S)
                async with asyncio.timeout(self.found_within_s):
                    if self.delivers:
                        assert await pair.link_b.receive() == b"last"
                    with pytest.raises(LinkDown):
                        await self._receive_until_down(pair.link_b)

        self._check(body())

    def test_a_closed_link_is_replaced(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                await pair.link_a.close()
                await pair.link_b.close()
                again_a, again_b = await self._meet(pair.a, pair.b)
                assert again_a is not pair.link_a
                assert await self._deliver(again_b, again_a, b"back again") == b"back again"

        self._check(body())

    def test_a_sender_waits_for_a_receiver_that_does_not_read(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                datagram = bytes(pair.link_a.profile.addressed_octets_max)
                sent = 0

                async def flood() -> None:
                    nonlocal sent
                    while sent < 64_000_000:
                        await pair.link_a.send(datagram)
                        sent += len(datagram)

                flooding = asyncio.get_running_loop().create_task(flood())
                before = -1
                while before != sent:  # until the buffers on the way are full
                    before = sent
                    await asyncio.sleep(QUIET_S)
                assert not flooding.done(), "64 MB were buffered without a limit"
                assert await pair.link_b.receive() == datagram
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)

        if self.delivers:
            self._check(body())

    def test_closing_the_transport_ends_its_links_and_next_link(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                waiting = asyncio.get_running_loop().create_task(self._links_until_down(pair.a))
                await asyncio.sleep(0)
                started_s = asyncio.get_running_loop().time()
                await pair.a.close()
                assert asyncio.get_running_loop().time() - started_s <= 1.0
                with pytest.raises(LinkDown):
                    await waiting
                with pytest.raises(LinkDown):
                    await pair.a.next_link()
                with pytest.raises(LinkDown):
                    await pair.link_a.send(b"x")
                with pytest.raises(LinkDown):
                    await self._receive_until_down(pair.link_b)
                await pair.a.close()

        self._check(body())

    async def _links_until_down(self, transport: Transport) -> None:
        while True:
            await transport.next_link()

    def test_a_cancelled_next_link_loses_none(self) -> None:
        async def body() -> None:
            async with self._started() as (a, b):
                had: list[Link] = []
                for _ in range(3):
                    waiting = asyncio.get_running_loop().create_task(a.next_link())
                    await asyncio.sleep(0)
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    if not waiting.cancelled():  # there was one already
                        had.append(waiting.result())
                link_a, link_b = await self._meet(a, b, *had)
                assert await self._deliver(link_a, link_b, b"found") == b"found"

        self._check(body())

    def test_one_side_starts_again(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                await pair.b.close()
                with pytest.raises(LinkDown):
                    await self._receive_until_down(pair.link_a)
                again = self.make("b")
                try:
                    await again.start(b"C" * INSTANCE_ID_OCTETS)
                    link_a, link_b = await self._meet(pair.a, again)
                    assert link_a.peer_hint in {None, b"C" * INSTANCE_ID_OCTETS}
                    assert await self._deliver(link_a, link_b, b"after a restart") == b"after a restart"
                    assert await self._deliver(link_b, link_a, b"and back") == b"and back"
                finally:
                    await again.close()

        self._check(body())

    def test_a_transport_that_was_never_started_can_be_closed(self) -> None:
        async def body() -> None:
            transport = self.make("a")
            await transport.close()
            with pytest.raises(LinkDown):
                await transport.next_link()

        self._check(body())


class SharedMediumConformance(TransportConformance):
    """For a transport with a medium: the checks above, and those of `transports.contract.Medium`.

    `make` is asked for a side "c", too: all three hear each other.
    """

    @asynccontextmanager
    async def _hearing(self) -> AsyncIterator[tuple[list[Transport], list[Medium]]]:
        transports = [self.make(side) for side in "abc"]
        try:
            for transport, instance_id in zip(transports, (*self.initial_ids, b"C" * INSTANCE_ID_OCTETS), strict=True):
                await transport.start(instance_id)
            media = [medium for medium in map(medium_of, transports) if medium is not None]
            assert len(media) == 3, "there is no medium"
            yield transports, media
        finally:
            for transport in transports:
                await transport.close()

    async def _heard(self, medium: Medium) -> bytes | None:
        """What is heard next; None, if nothing is heard and the medium loses."""
        try:
            async with asyncio.timeout(self.found_within_s if self.delivers else QUIET_S):
                return await medium.heard()
        except TimeoutError:
            assert not self.delivers, "a datagram was not heard"
            return None

    def test_the_medium_says_what_it_is(self) -> None:
        async def body() -> None:
            async with self._hearing() as (transports, media):
                for transport, medium in zip(transports, media, strict=True):
                    assert medium_of(transport) is medium
                    assert medium.profile.kind == transport.kind
                    assert medium.profile.shared_medium
                    assert (medium.profile.broadcast_octets_max or 0) >= 1

        self._check(body())

    def test_what_one_broadcasts_all_others_hear_whole(self) -> None:
        async def body() -> None:
            async with self._hearing() as (_, media):
                speaker, *hearers = media
                most = speaker.profile.broadcast_octets_max or 0
                rng = random.Random(2)
                for size in sorted({1, 2, most // 2 or 1, most}):
                    datagram = rng.randbytes(size)
                    heard: list[bytes | None] = []
                    while datagram not in heard:
                        await speaker.broadcast(datagram)
                        heard = [await self._heard(hearer) for hearer in hearers]
                        assert not self.delivers or heard == [datagram, datagram]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(QUIET_S):
                        assert await speaker.heard() == b"", "its own datagram"

        self._check(body())

    def test_broadcasts_of_a_wrong_size_are_refused(self) -> None:
        async def body() -> None:
            async with self._hearing() as (_, (speaker, *_rest)):
                for size in (0, (speaker.profile.broadcast_octets_max or 0) + 1):
                    with pytest.raises(ValueError):  # noqa: PT011  the contract fixes the type, not the words
                        await speaker.broadcast(bytes(size))

        self._check(body())

    def test_links_and_broadcasts_do_not_mix(self) -> None:
        async def body() -> None:
            async with self._linked() as pair:
                medium_a, medium_b = medium_of(pair.a), medium_of(pair.b)
                assert medium_a is not None
                assert medium_b is not None
                for _ in range(1 if self.delivers else 20):
                    await medium_a.broadcast(b"to all")
                    await pair.link_a.send(b"to one")
                assert await self._next(pair.link_b.receive()) == b"to one"
                assert await self._next(medium_b.heard()) == b"to all"

        self._check(body())

    async def _next(self, arrival: Coroutine[Any, Any, bytes]) -> bytes:
        async with asyncio.timeout(self.found_within_s):
            return await arrival

    def test_a_cancelled_heard_loses_nothing(self) -> None:
        async def body() -> None:
            async with self._hearing() as (_, (speaker, hearer, _third)):
                for number in range(20):
                    hearing = asyncio.get_running_loop().create_task(hearer.heard())
                    await asyncio.sleep(0)
                    await speaker.broadcast(bytes([number]))
                    await asyncio.sleep(number // 4 / 1_000)
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
                    hearing.cancel()
                    (got,) = await asyncio.gather(hearing, return_exceptions=True)
                    heard = got if isinstance(got, bytes) else await self._heard(hearer)
                    assert heard == bytes([number]) or not self.delivers

        self._check(body())

    def test_who_does_not_listen_holds_nobody_up(self) -> None:
        async def body() -> None:
            async with self._hearing() as (_, (speaker, hearer, _deaf)):
                heard = 0
                for number in range(400):
                    await speaker.broadcast(number.to_bytes(2, "big"))
                    heard += await self._heard(hearer) is not None if self.delivers else 0
                assert heard == 400 or not self.delivers

        self._check(body())

    def test_closing_the_transport_ends_its_medium(self) -> None:
        async def body() -> None:
            async with self._hearing() as (transports, (medium, *_rest)):
                hearing = asyncio.get_running_loop().create_task(medium.heard())
                await asyncio.sleep(0)
                await transports[0].close()
                with pytest.raises(LinkDown):
                    await hearing
                with pytest.raises(LinkDown):
                    await medium.heard()
                with pytest.raises(LinkDown):
                    await medium.broadcast(b"too late")

        self._check(body())

    def test_a_medium_that_was_never_started_carries_nothing(self) -> None:
        async def body() -> None:
            transport = self.make("a")
            medium = medium_of(transport)
            assert medium is not None
            with pytest.raises(LinkDown):
                await medium.broadcast(b"too early")
            await transport.close()
            with pytest.raises(LinkDown):
                await medium.heard()

        self._check(body())
