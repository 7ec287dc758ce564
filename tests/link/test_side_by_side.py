"""One conversation over two pipes at once: who carries what, and datagrams that come very late."""

from __future__ import annotations

import pytest

from p2pserver.link import LinkEndpoint, Priority
from p2pserver.link.frames import Fragment
from p2pserver.link.positions import PositionsReceived
from tests.link.lossy import Faults, World, transfer_problems


def say(world: World, octets: int, priority: Priority = Priority.TEXT) -> tuple[bytes, Priority]:
    return world.rng.randbytes(octets), priority


def late_datagram() -> list[str]:
    """A datagram of the first pipe is held up while the second one carries 400,000 octets, then comes after all."""
    world = World(3)
    carol, dave = world.nodes
    first = world.lay_pipe(300, Faults())
    world.run(1)
    held: list[bytes] = []

    def hold_up(sender: int, datagram: bytes) -> list[bytes]:
        if sender == 0 and not held:
            held.append(datagram)
            return []
        return [datagram]

    world.tamper = hold_up
    messages = [say(world, 200)]
    sent = {carol.conversation.send(*messages[0]): messages[0]}
    world.kick()
    world.tamper = None
    assert held
    first.ends[0].detach()
    world.lay_pipe(170, Faults())
    world.run(5)
    for part in range(2):
        for _ in range(4):
            message = say(world, 100_000)
            sent[carol.conversation.send(*message)] = message
        world.kick()
        world.run(30, lambda: not carol.conversation.queued_octets)
        if part == 0:
            first.ends[1].datagram_received(held[0], world.now)
            world.kick()
    return transfer_problems(carol, dave, sent) + [reason for node in world.nodes for reason in node.dead]


def test_a_datagram_that_another_pipe_overtook_by_far_changes_nothing() -> None:
    assert late_datagram() == []


def test_the_newest_position_of_all_pipes_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PositionsReceived.placed
    pipes: list[PositionsReceived] = []

    def placed(self: PositionsReceived, fragment: Fragment, counter: int) -> Fragment:
        if self not in pipes:
            pipes.append(self)
        return honest(pipes[-1], fragment, 1 << 40)

    monkeypatch.setattr(PositionsReceived, "placed", placed)
    assert late_datagram() != []


def carried(end: LinkEndpoint, world: World) -> int:
    pipe = next(pipe for pipe in world.pipes if end in pipe.ends)
    return pipe.octets[pipe.ends.index(end)]


def test_each_pipe_sends_its_classes_and_takes_all() -> None:
    world = World(4)
    carol, dave = world.nodes
    quick, wide = world.lay_pipe(200, Faults()), world.lay_pipe(1_400, Faults())
    world.run(1)
    for end in quick.ends:
        end.carry([Priority.ALERT, Priority.TEXT], give_back=False)
    for end in wide.ends:
        end.carry([Priority.STATE, Priority.RECEIPT, Priority.MEDIA, Priority.PRESENCE], give_back=False)
    before = carried(quick.ends[0], world), carried(wide.ends[0], world)
    messages = [say(world, 50_000, Priority.MEDIA), say(world, 2_000, Priority.TEXT)]
    sent = {carol.conversation.send(*message): message for message in messages}
    world.kick()
    assert world.run(30, lambda: not carol.conversation.queued_octets)
    assert transfer_problems(carol, dave, sent) == []
    assert 2_000 < carried(quick.ends[0], world) - before[0] < 4_000
    assert carried(wide.ends[0], world) - before[1] > 50_000


def test_what_is_given_back_goes_again_at_once_and_a_late_acknowledgement_counts() -> None:
    world = World(5)
    carol, dave = world.nodes
    dying, other = world.lay_pipe(1_400, Faults()), world.lay_pipe(1_400, Faults(delay_s=0.2))
    world.run(2)
    for end in other.ends:
        end.carry((), give_back=False)
    dying.up = False
    message = say(world, 500)
    sent = {carol.conversation.send(*message): message}
    world.kick()
    began = world.now
    world.run(5, lambda: dying.ends[0].timeouts > 0)
    dying.ends[0].carry((), give_back=True)
    other.ends[0].carry(tuple(Priority), give_back=False)
    world.kick()
    assert world.run(5, lambda: bool(dave.received))
    assert world.now - began < 1
    assert world.run(5, lambda: not carol.conversation.queued_octets)
    assert transfer_problems(carol, dave, sent) == []
