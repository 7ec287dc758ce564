"""Whom a LAN transport dials when strangers announce what they like, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import cast

from transports.contract import ServiceState
from transports.lan.dialing import DIALS_PER_HOST, Dialer
from transports.lan.discovery import Announcement
from transports.lan.link import LanLink
from transports.sim import run_virtual

OURS, THEIRS = b"instan-a", b"instan-b"


class FakeLink:
    def __init__(self, hint: bytes, host: str) -> None:
        self.peer_hint, self.remote_host, self.made_at_s = hint, host, 0.0

    def abort(self, reason: str) -> None:
        pass


class Lan:
    """What the dialer sees: hosts that answer with an instance id, and hosts that do not."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.dials: Counter[str] = Counter()
        self.links: list[LanLink] = []
        self.dialer = Dialer(
            OURS, connect=self.connect, offer=self.links.append, links_to=self.links_to, rng=random.Random(1)
        )

    async def connect(self, host: str, port: int) -> LanLink:
        self.dials[host] += 1
        await asyncio.sleep(0.01)
        if host not in self.answers:
            raise TimeoutError
        return cast(LanLink, FakeLink(self.answers[host], host))

    def links_to(self, instance_id: bytes) -> list[LanLink]:
        return [link for link in self.links if link.peer_hint == instance_id]

    def announce(self, host: str, instance_id: bytes = THEIRS, *, port: int = 1, name: str = "") -> None:
        self.dialer.announced(Announcement(name or instance_id.hex(), instance_id, ((host, port),)))


def test_who_calls_itself_another_from_elsewhere_does_not_keep_us_from_dialing_that_one() -> None:
    async def main() -> None:
        lan = Lan({"10.0.0.2": THEIRS})
        lan.links.append(cast(LanLink, FakeLink(THEIRS, "10.0.0.66")))
        lan.announce("10.0.0.2")
        await asyncio.sleep(5)
        assert lan.dials == {"10.0.0.2": 1}
        assert [link.remote_host for link in lan.links] == ["10.0.0.66", "10.0.0.2"]
        await lan.dialer.close()

    run_virtual(main())


def test_a_link_from_where_it_was_announced_is_believed_whatever_the_scope_is_called() -> None:
    async def main() -> None:
        lan = Lan({})
        lan.links.append(cast(LanLink, FakeLink(THEIRS, "fe80::2%eth0")))
        lan.announce("fe80::2%3")
        await asyncio.sleep(60)
        assert not lan.dials
        assert [service.state for service in lan.dialer.services()] == [ServiceState.LINKED]
        await lan.dialer.close()

    run_virtual(main())


def test_a_third_host_is_not_dialed_for_many_that_are_announced_at_its_address() -> None:
    async def main() -> None:
        lan = Lan({})
        for minute in range(10):
            for number in range(200):
                name = f"{number}"
                lan.announce("10.0.0.9", number.to_bytes(8, "big"), port=1 + number + minute, name=name)
            await asyncio.sleep(60)
        assert DIALS_PER_HOST <= lan.dials["10.0.0.9"] <= 11 * DIALS_PER_HOST
        await lan.dialer.close()

    run_virtual(main())


def test_an_announcement_that_changes_all_the_time_is_followed_at_leisure() -> None:
    async def main() -> None:
        lan = Lan({})
        for second in range(100):
            lan.announce(f"10.0.0.{second}")
            await asyncio.sleep(1)
        assert sum(lan.dials.values()) <= 25
        await lan.dialer.close()

    run_virtual(main())


def test_nobody_answers_is_said_only_where_nothing_comes_back() -> None:
    async def main() -> None:
        lan = Lan({"10.0.0.3": b"instan-c"})
        lan.announce("10.0.0.2")
        await asyncio.sleep(0.5)
        assert not lan.dialer.nobody_answers
        await asyncio.sleep(30)
        assert lan.dialer.nobody_answers
        lan.announce("10.0.0.3", b"instan-c")
        await asyncio.sleep(5)
        assert not lan.dialer.nobody_answers
        await lan.dialer.close()

    run_virtual(main())
