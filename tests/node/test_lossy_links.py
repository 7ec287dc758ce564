"""Two links to one peer, and the faster one loses: what is sent goes over the one on which it is there sooner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from statistics import mean

import pytest

from p2pserver.link import Priority
from p2pserver.link.loss import VALID_S
from p2pserver.mesh.sharing import Standing
from p2pserver.node.pipes_of_peer import PipesOfPeer
from tests.node.test_many_links import End, until
from transports.sim import LinkConditions, SimNetwork, run_virtual

LOSS = 0.4
WARM, MESSAGES = 25, 5
"""Short messages that let the loss be noticed, and those that are timed."""


BLE = LinkConditions(delay_ms_mean=15, bit_rate=700_000, datagram_octets_max=244)


def serial(bit_rate: int, octets_max: int) -> LinkConditions:
    return LinkConditions(bit_rate=bit_rate, half_duplex=True, datagram_octets_max=octets_max, delay_ms_mean=5)


async def ends_over(networks: list[SimNetwork]) -> tuple[End, End]:
    a, b = (End(host, number, networks) for number, host in enumerate("ab", 1))
    await until(lambda: all(len(end.carries()) == len(networks) for end in (a, b)), 60)
    return a, b


async def say(a: End, b: End, messages: int, octets: int, priority: Priority) -> list[float]:
    """How long each message took until it was there."""
    took_s = []
    for _ in range(messages):
        there = len(b.received)
        a.say(a.rng.randbytes(octets), priority)
        took_s.append(await until(lambda there=there: len(b.received) > there, 600))  # type: ignore[misc]
        await asyncio.sleep(4)
    return took_s


def stop(*ends: End) -> None:
    for end in ends:
        for task in end.tasks:
            task.cancel()


def network(kind: str, conditions: LinkConditions) -> SimNetwork:
    return SimNetwork(seed=len(kind), conditions=conditions, both_dial=0.0, kind=kind)


def mean_s(links: dict[str, LinkConditions], octets: int, priority: Priority) -> float:
    """Of messages from one end to the other over these links, of which the fast one loses much."""

    async def main() -> float:
        networks = [network(kind, conditions) for kind, conditions in links.items()]
        a, b = await ends_over(networks)
        for it in networks:
            if it.kind == "fast":
                it.set_conditions("a", "b", replace(it.conditions, loss=LOSS))
        await say(a, b, WARM, 300, priority)
        took_s = await say(a, b, MESSAGES, octets, priority)
        stop(a, b)
        return mean(took_s)

    return run_virtual(main())


FAR = LinkConditions(delay_ms_mean=100, datagram_octets_max=1_400)
CASES = {
    "a text": ("slow", {"fast": serial(9_600, 255), "slow": serial(4_800, 255)}, 300, Priority.TEXT),
    "a file": ("slow", {"fast": FAR, "slow": BLE}, 60_000, Priority.MEDIA),
    "state": ("fast", {"fast": serial(115_200, 512), "slow": serial(9_600, 255)}, 10_000, Priority.STATE),
}


def problems(better: str, links: dict[str, LinkConditions], octets: int, priority: Priority) -> list[str]:
    """Whether messages over both take much longer than over the better one."""
    alone = mean_s({better: links[better]}, octets, priority)
    both = mean_s(links, octets, priority)
    return [] if both <= 1.6 * alone else [f"{both:.2f} s over both, {alone:.2f} s over the {better} one"]


@pytest.mark.parametrize("case", CASES)
def test_messages_go_over_the_link_on_which_they_are_there_sooner(case: str) -> None:
    assert problems(*CASES[case]) == []


def ignore_what_is_lost(patch: pytest.MonkeyPatch) -> None:
    honest = PipesOfPeer._standing

    def blind(self: PipesOfPeer, *known: object) -> Standing:
        return replace(honest(self, *known), loss=0.0, late_s=0.0, window_bit_rate=None)  # type: ignore[arg-type]

    patch.setattr(PipesOfPeer, "_standing", blind)


def test_a_choice_that_ignores_losses_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ignore_what_is_lost(monkeypatch)
    assert problems(*CASES["a file"]) != []


def test_a_link_that_has_got_better_is_taken_again() -> None:
    async def main() -> None:
        fast, slow = network("fast", FAR), network("slow", BLE)
        a, b = await ends_over([fast, slow])

        def carries_files() -> str:
            return next(link.split()[0] for link, classes in a.pipes.links() if Priority.MEDIA in classes)

        await say(a, b, 5, 1_000, Priority.MEDIA)
        assert carries_files() == "fast"
        fast.set_conditions("a", "b", replace(FAR, loss=0.3))
        await say(a, b, 25, 1_000, Priority.MEDIA)
        assert carries_files() == "slow"
        fast.set_conditions("a", "b", FAR)
        for _ in range(40):
            await asyncio.sleep(VALID_S / 20)
            if carries_files() == "fast":
                break
        assert carries_files() == "fast"
        stop(a, b)

    run_virtual(main())
