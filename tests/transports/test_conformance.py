"""The conformance suite notices what is wrong with a transport: each fault makes the check named beside it fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.transports.test_sim import TestCleanSim as _CleanSim
from transports.sim import Deadlock, LinkConditions, OutOfTime
from transports.sim.network import SimLink, SimTransport

Fault = Callable[[pytest.MonkeyPatch], None]


def splits_datagrams(patch: pytest.MonkeyPatch) -> None:
    whole = SimLink.send

    async def send(self: SimLink, datagram: bytes) -> None:
        middle = len(datagram) // 2 or 1
        for part in filter(None, (datagram[:middle], datagram[middle:])):
            await whole(self, part)

    patch.setattr(SimLink, "send", send)


def takes_any_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("transports.sim.network.check_datagram", lambda datagram, profile: None)


def doubles(patch: pytest.MonkeyPatch) -> None:
    once = SimLink.send

    async def send(self: SimLink, datagram: bytes) -> None:
        await once(self, datagram)
        await once(self, datagram)

    patch.setattr(SimLink, "send", send)


def receives_and_then_waits(patch: pytest.MonkeyPatch) -> None:
    quick = SimLink.receive

    async def receive(self: SimLink) -> bytes:
        datagram = await quick(self)
        await asyncio.sleep(0)
        return datagram

    patch.setattr(SimLink, "receive", receive)


def closes_in_silence(patch: pytest.MonkeyPatch) -> None:
    async def close(self: SimLink) -> None:
        self.end("closed here")

    patch.setattr(SimLink, "close", close)


def sends_on_a_closed_link(patch: pytest.MonkeyPatch) -> None:
    real = SimLink.send

    async def send(self: SimLink, datagram: bytes) -> None:
        if self.is_open:
            await real(self, datagram)

    patch.setattr(SimLink, "send", send)


def buffers_without_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LinkConditions, "send_buffer_octets", lambda self: 10**12)


def never_dials_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("transports.sim.network._Pair.end_is_over", lambda self, wire: None)


def leaves_a_task_behind(patch: pytest.MonkeyPatch) -> None:
    real = SimTransport.start
    left: list[Any] = []

    async def start(self: SimTransport, instance_id: bytes) -> None:
        await real(self, instance_id)
        left.append(asyncio.get_running_loop().create_task(asyncio.sleep(1_000)))

    patch.setattr(SimTransport, "start", start)


def takes_long_to_close(patch: pytest.MonkeyPatch) -> None:
    real = SimTransport.close

    async def close(self: SimTransport) -> None:
        await asyncio.sleep(3)
        await real(self)

    patch.setattr(SimTransport, "close", close)


def waits_for_links_when_closed(patch: pytest.MonkeyPatch) -> None:
    async def next_link(self: SimTransport) -> SimLink:
        while not self._offered:
            self._news.clear()
            await self._news.wait()
        return self._offered.popleft()

    patch.setattr(SimTransport, "next_link", next_link)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (splits_datagrams, "test_boundaries_and_octets_are_kept"),
        (takes_any_size, "test_sizes_out_of_range_are_refused_and_the_link_stays_up"),
        (doubles, "test_many_back_to_back"),
        (receives_and_then_waits, "test_a_cancelled_receive_loses_nothing"),
        (closes_in_silence, "test_close_is_seen_by_the_other_side"),
        (sends_on_a_closed_link, "test_nothing_works_on_a_closed_link"),
        (buffers_without_limit, "test_a_sender_waits_for_a_receiver_that_does_not_read"),
        (never_dials_again, "test_a_closed_link_is_replaced"),
        (leaves_a_task_behind, "test_two_that_are_started_get_a_link"),
        (takes_long_to_close, "test_closing_the_transport_ends_its_links_and_next_link"),
        (waits_for_links_when_closed, "test_closing_the_transport_ends_its_links_and_next_link"),
    ],
)
def test_a_fault_is_noticed(fault: Fault, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(_CleanSim(), check)()
    fault(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError, Deadlock, OutOfTime, pytest.fail.Exception)):
        getattr(_CleanSim(), check)()
