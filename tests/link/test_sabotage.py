"""The checks are able to fail: each test breaks one thing in the link and expects the suite's check to say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.link import Priority
from p2pserver.link.frames import Fragment, nearest
from p2pserver.link.incoming import Incoming
from p2pserver.link.limits import BAD_DATAGRAMS_MAX
from p2pserver.link.outgoing import Outgoing
from p2pserver.link.recovery import Recovery
from p2pserver.link.replay import ReplayWindow
from p2pserver.link.sealing import SECURED, TAG_OCTETS, Keys, Opener, Sealer
from tests.link.lossy import Faults, World, random_messages, transfer_problems


def check() -> list[str]:
    """Transfers both ways over three pipes, one after another, on an air that loses, reorders and flips bits."""
    world = World(21)
    carol, dave = world.nodes

    def flip_bits(_sender: int, datagram: bytes) -> list[bytes]:
        if not datagram[0] & SECURED or world.rng.random() > 0.05:
            return [datagram]
        at = world.rng.randrange(1, len(datagram))
        return [datagram[:at] + bytes([datagram[at] ^ 1 << world.rng.randrange(8)]) + datagram[at + 1 :]]

    world.tamper = flip_bits
    down, up = (
        {node.conversation.send(*message): message for message in random_messages(world.rng, 60, 20_000)}
        for node in world.nodes
    )
    faults = Faults(loss=0.2, duplication=0.2, delay_s=0.01, jitter_s=0.02)
    for octets_max in (1_000, 300):
        pipe = world.lay_pipe(octets_max, faults)
        world.run(0.3)
        for end in pipe.ends:
            end.detach()
    world.lay_pipe(700, faults)
    world.run(120, lambda: not any(node.conversation.queued_octets for node in world.nodes))
    problems = transfer_problems(carol, dave, down) + transfer_problems(dave, carol, up)
    for node in world.nodes:
        problems += [reason for reason in node.dead if "error" in reason]
    return problems


def test_the_check_is_content_with_the_link_as_it_is() -> None:
    assert check() == []


def lose_an_acknowledged_message(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.fragment_received

    def forgetful(self: Incoming, fragment: Fragment) -> None:
        if fragment.priority == Priority.PRESENCE and fragment.position < 1_000:
            return
        honest(self, fragment)

    patch.setattr(Incoming, "fragment_received", forgetful)


def skip_the_tag_check(patch: pytest.MonkeyPatch) -> None:
    def open_anything(self: Opener, datagram: bytes, counter: int, header_octets: int, _: int) -> bytes:
        return self._keys.crypt(counter, datagram[header_octets:-TAG_OCTETS])

    patch.setattr(Opener, "open", open_anything)


def forget_what_is_held_when_the_pipe_changes(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.pipe_changed
    patch.setattr(Incoming, "pipe_changed", lambda self, **_: honest(self, peer_restarted=True))


def take_every_copy_for_a_new_message(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.fragment_received

    def eager(self: Incoming, fragment: Fragment) -> None:
        queue = self._classes[fragment.priority]
        start = nearest(fragment.position, fragment.bits, queue.front)
        honest(self, fragment._replace(position=queue.front) if start + len(fragment.data) <= queue.front else fragment)

    patch.setattr(Incoming, "fragment_received", eager)


def swap_fragments(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.fragment_received

    def swapping(self: Incoming, fragment: Fragment) -> None:
        honest(self, fragment._replace(priority=fragment.priority ^ 1))

    patch.setattr(Incoming, "fragment_received", swapping)


def never_send_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outgoing, "lost", lambda _self, _fragment: None)


def hand_over_without_order(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming._cut_messages

    def unordered(self: Incoming, priority: int, queue: Any) -> None:
        before = list(self._ready[priority])
        honest(self, priority, queue)
        fresh = self._ready[priority][len(before) :]
        self._ready[priority][:] = before + fresh[::-1]

    patch.setattr(Incoming, "_cut_messages", unordered)


def believe_every_acknowledgement_to_be_of_all(patch: pytest.MonkeyPatch) -> None:
    honest = Recovery.acknowledged

    def gullible(self: Recovery, ranges: object, delay_s: float, next_counter: int, now: float) -> object:
        return honest(self, [(0, next_counter)], delay_s, next_counter, now)

    patch.setattr(Recovery, "acknowledged", gullible)


def place_fragments_where_the_last_one_ended(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.fragment_received

    def hasty(self: Incoming, fragment: Fragment) -> None:
        honest(self, fragment._replace(position=self._classes[fragment.priority].front))

    patch.setattr(Incoming, "fragment_received", hasty)


@pytest.mark.parametrize(
    "sabotage",
    [
        lose_an_acknowledged_message,
        skip_the_tag_check,
        forget_what_is_held_when_the_pipe_changes,
        take_every_copy_for_a_new_message,
        swap_fragments,
        never_send_again,
        hand_over_without_order,
        believe_every_acknowledgement_to_be_of_all,
        place_fragments_where_the_last_one_ended,
    ],
)
def test_sabotage_is_reported(sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pserver.link.endpoint.BAD_DATAGRAMS_MAX", 10 * BAD_DATAGRAMS_MAX)
    assert check() == []
    sabotage(monkeypatch)
    assert check() != []


# A third node


class ThirdNode:
    """Hears all that two others say and has no key; what it makes of a datagram is heard before the datagram is."""

    def __init__(self, world: World) -> None:
        self.rng = world.rng
        self.heard: list[list[bytes]] = [[], []]
        """What each side said so far, secured."""
        self.nonces: dict[tuple[int, bytes], bytes] = {}
        self.problems: list[str] = []

    def __call__(self, sender: int, datagram: bytes) -> list[bytes]:
        if not datagram[0] & SECURED:
            return [datagram]
        if self.nonces.setdefault((sender, datagram[:HEADER_OCTETS]), datagram) != datagram:
            self.problems.append("two datagrams have one nonce")
        self.heard[sender].append(datagram)
        return [*self.made_of(sender, datagram), datagram]

    def made_of(self, sender: int, datagram: bytes) -> list[bytes]:
        return []


HEADER_OCTETS = 3
"""The link tag and a counter of 14 bits."""


class ForgesAcknowledgements(ThirdNode):
    """What is small is an acknowledgement; a stream cipher lets a bit of it be turned, so that it tells of more."""

    def made_of(self, sender: int, datagram: bytes) -> list[bytes]:
        length_of_first_range = len(datagram) - TAG_OCTETS - 1
        if not HEADER_OCTETS + 5 <= length_of_first_range < 24 or len(self.heard[sender]) <= 64:
            return []
        forged = bytearray(datagram)
        forged[length_of_first_range] ^= 1 << self.rng.randrange(6)
        return [bytes(forged)]


class SwapsWhatTwoDatagramsCarry(ThirdNode):
    """The header of one, and ciphertext and tag of the one before it."""

    def made_of(self, sender: int, datagram: bytes) -> list[bytes]:
        return [datagram[:HEADER_OCTETS] + before[HEADER_OCTETS:] for before in self.heard[sender][-2:-1]]


class RepeatsDatagrams(ThirdNode):
    """Says again what was said, old and new; and when one side is gone, it says what that side said."""

    def made_of(self, sender: int, datagram: bytes) -> list[bytes]:
        return [self.rng.choice(self.heard[sender]), datagram]


def check_beside(kind: type[ThirdNode]) -> list[str]:
    """Transfers both ways while a third node does what it can; then one side falls silent, and the other notices."""
    world = World(22)
    world.tamper = third = kind(world)
    carol, dave = world.nodes
    down, up = (
        {node.conversation.send(*message): message for message in random_messages(world.rng, 30, 5_000)}
        for node in world.nodes
    )
    pipe = world.lay_pipe(200, Faults(loss=0.1, delay_s=0.01, jitter_s=0.005))
    world.run(30, lambda: not any(node.conversation.queued_octets for node in world.nodes))
    world.run(1)
    problems = transfer_problems(carol, dave, down) + transfer_problems(dave, carol, up) + third.problems
    problems += [reason for node in world.nodes for reason in node.dead]
    pipe.up = False
    for _ in range(60):
        for datagram in third.heard[1][-30:] if kind is RepeatsDatagrams else []:
            pipe.ends[0].datagram_received(datagram, world.now)
        world.run(1)
    return problems + ([] if carol.dead == ["the peer is silent"] else ["nobody noticed that the peer was gone"])


def leave_the_header_out_of_the_tag(patch: pytest.MonkeyPatch) -> None:
    honest = Keys.tag
    patch.setattr(Keys, "tag", lambda self, _counter, _header, ciphertext: honest(self, 0, b"", ciphertext))


def forget_what_arrived(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplayWindow, "is_new", lambda _self, _counter: True)


def use_a_nonce_twice(patch: pytest.MonkeyPatch) -> None:
    honest = Sealer.seal

    def seal(self: Sealer, frames: bytes, acknowledged: int) -> bytes:
        datagram = honest(self, frames, acknowledged)
        self.counter -= self.counter % 10 == 9
        return datagram

    patch.setattr(Sealer, "seal", seal)


@pytest.mark.parametrize(
    ("third", "sabotage"),
    [
        (ForgesAcknowledgements, skip_the_tag_check),
        (SwapsWhatTwoDatagramsCarry, skip_the_tag_check),
        (SwapsWhatTwoDatagramsCarry, leave_the_header_out_of_the_tag),
        (RepeatsDatagrams, forget_what_arrived),
        (ThirdNode, use_a_nonce_twice),
    ],
)
def test_what_a_third_node_does_changes_nothing_unless_a_check_is_missing(
    third: type[ThirdNode], sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_beside(third) == []
    sabotage(monkeypatch)
    assert check_beside(third) != []
