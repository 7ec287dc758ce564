"""The pipes that lead to one peer, side by side, and which of them sends what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from p2pserver.link import Conversation, Priority
from p2pserver.link.loss import VALID_S
from p2pserver.mesh.neighbors import PipeFacts
from p2pserver.mesh.sharing import Standing, Trust, homes, shares
from p2pserver.node.pipes import Pipe

MAIN: Final = Priority.STATE
"""The pipe that carries this class is the one that a peer is said to be connected over."""


@dataclass(slots=True)
class _Known:
    facts: PipeFacts
    trust: Trust = field(default_factory=Trust)
    failing: bool = False
    losses: tuple[float, float, float | None] = (0.0, 0.0, None)
    """`loss`, `late_s` and `window_bit_rate` when it last answered in time."""


class PipesOfPeer:
    """All are attached to the conversation, so that each takes what the peer sends on it; each class is sent on one."""

    def __init__(self, conversation: Conversation, clock: Callable[[], float]) -> None:
        self._conversation = conversation
        self._clock = clock
        self._known: dict[Pipe, _Known] = {}
        self._homes: dict[Priority, Pipe] = {}
        self._shares: dict[Priority, Pipe] = {}
        self.recheck_at: float | None = None
        """When to `choose` again, though nothing happened."""

    def __contains__(self, pipe: Pipe) -> bool:
        return pipe in self._known

    def all(self) -> list[tuple[Pipe, PipeFacts]]:
        return [(pipe, known.facts) for pipe, known in self._known.items()]

    @property
    def main(self) -> Pipe | None:
        return self._shares.get(MAIN)

    @property
    def media(self) -> Pipe | None:
        """The pipe that octets of files go over."""
        return self._shares.get(Priority.MEDIA)

    def links(self) -> list[tuple[str, list[Priority]]]:
        """For people: each link, and the classes that go over it from here; the main one first."""
        main = self.main
        ordered = sorted(self._known, key=lambda pipe: (pipe is not main, pipe.link.remote))
        return [(pipe.link.remote, [of for of, on in self._shares.items() if on is pipe]) for pipe in ordered]

    def add(self, pipe: Pipe, facts: PipeFacts) -> None:
        self._known[pipe] = _Known(facts)
        pipe.attach(self._conversation)
        self.choose()

    def retire(self, pipe: Pipe) -> None:
        """Until it ends, it sends nothing new, takes what the peer still sends on it, and waits for answers."""
        if self._known.pop(pipe, None) is not None:
            pipe.carry((), give_back=False)
            self.choose()

    def remove(self, pipe: Pipe) -> None:
        """It is over."""
        if self._known.pop(pipe, None) is not None:
            self.choose()

    def clear(self) -> list[Pipe]:
        """Forgets all; those that were there."""
        pipes = list(self._known)
        self._known.clear()
        self._shares.clear()
        self._homes.clear()
        self.recheck_at = None
        return pipes

    def choose(self) -> None:
        """Gives each class to the pipe that is best for it now."""
        now = self._clock()
        pipes = dict(enumerate(self._known))
        handles = {pipe: handle for handle, pipe in pipes.items()}
        standings = {handle: self._standing(pipe, now) for handle, pipe in pipes.items()}
        before = {priority: handles[pipe] for priority, pipe in self._homes.items() if pipe in handles}
        settled = homes(standings, before)
        self._homes = {priority: pipes[handle] for priority, handle in settled.items()}
        chosen = shares(standings, settled)
        self._shares = {priority: pipes[handle] for priority, handle in chosen.items()}
        for handle, pipe in pipes.items():
            pipe.carry(
                [priority for priority, its in chosen.items() if its == handle],
                give_back=standings[handle].timeouts > 0,
            )
        untils = [known.trust.distrusted_until(now) for known in self._known.values()]
        if len(pipes) > 1 and any(standing.loss for standing in standings.values()):
            untils.append(now + VALID_S)  # a link that sends nothing has forgotten by then what it lost
        self.recheck_at = min((until for until in untils if until is not None), default=None)

    def wake(self) -> None:
        """There is something new to send, or room for more of what the peer sends."""
        for pipe in dict.fromkeys(self._shares.values()):
            pipe.wake()

    def wake_others(self, pipe: Pipe) -> None:
        """What `pipe` lost may have become the task of another."""
        if len(self._known) > 1:
            for other in dict.fromkeys(self._shares.values()):
                if other is not pipe and self._conversation.has_fragments(other.endpoint.classes):
                    other.wake()

    def _standing(self, pipe: Pipe, now: float) -> Standing:
        known, profile = self._known[pipe], pipe.link.profile
        endpoint, timeouts = pipe.endpoint, pipe.timeouts
        if not timeouts:
            known.losses = endpoint.path.loss(now), endpoint.path.late_s(now), endpoint.path.window_bit_rate(now)
        loss, late_s, window_bit_rate = known.losses
        standing = Standing(
            bit_rate=profile.bit_rate,
            metered=profile.airtime_ms_per_hour is not None,
            round_trip_s=endpoint.path.round_trip_s,
            loss=loss,
            late_s=late_s,
            window_bit_rate=window_bit_rate,
            timeouts=timeouts,
            since=known.facts.since,
        )
        failing = standing.is_dead
        if failing and not known.failing:
            known.trust.failed(now)
        known.failing = failing
        return replace(standing, distrusted=known.trust.distrusted_until(now) is not None)
