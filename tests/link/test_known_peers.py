"""A peer that is expected by its key costs one round trip less, and hears the first words in the first datagram."""

from __future__ import annotations

from itertools import combinations

import pytest

from p2pserver.link import LinkEndpoint, LocalLinkError, PeerAuthenticated, Priority
from p2pserver.link.node_key import node_key_of
from p2pserver.link.pipe_state import PipeState
from p2pserver.link.sealing import SECURED
from tests.link.lossy import CAROL, DAVE, Faults, Node, World
from tests.link.test_handshake import MALLORY, Air

TEXT = b"see you at the bridge"
QUICK = Faults(delay_s=0.01)


class Recorder:
    """Notes every datagram, and whether message 1 was over before it."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def __call__(self, sender: int, datagram: bytes) -> list[bytes]:
        self.sent.append((sender, datagram))
        return [datagram]

    def handshake_octets(self) -> int:
        return sum(len(datagram) for _, datagram in self.sent if not datagram[0] & SECURED)


def acquainted(seed: int = 1) -> World:
    """Two nodes that have met; the pipe is gone."""
    world = World(seed)
    world.lay_pipe(1_400, QUICK)
    for node in world.nodes:
        node.conversation.send(b"pleased to meet you", Priority.TEXT)
    world.kick()
    world.run(1)
    for end in world.pipes[0].ends:
        end.close("out of reach", world.now)
    world.kick()
    world.run(1)
    world.pipes.clear()
    for node in world.nodes:
        assert node.received == [b"pleased to meet you"]
        node.received.clear()
        node.events.clear()
    return world


@pytest.mark.parametrize("octets_max", [20, 64, 244, 1_400])
def test_a_handshake_of_strangers_has_under_300_octets(octets_max: int) -> None:
    world = World(1)
    world.tamper = air = Recorder()
    world.lay_pipe(octets_max, QUICK)
    world.run(0.2)
    assert all(node.authenticated for node in world.nodes)
    assert 200 < air.handshake_octets() <= (235 if octets_max == 20 else 220)


@pytest.mark.parametrize("octets_max", [20, 64, 244, 1_400])
def test_a_handshake_with_another_than_the_expected_has_under_300_octets(octets_max: int) -> None:
    world = World(1)
    world.tamper = air = Recorder()
    pipe = world.lay_pipe(octets_max, QUICK, known_key=node_key_of(MALLORY))
    world.run(0.2)
    assert [node.authenticated for node in world.nodes] == [[node_key_of(DAVE)], [node_key_of(CAROL)]]
    assert air.handshake_octets() <= (300 if octets_max == 20 else 285)
    assert [end.bad_datagrams for end in pipe.ends] == [0, 0]


@pytest.mark.parametrize("octets_max", [20, 64, 244, 1_400])
def test_a_known_peer_has_the_first_text_within_150_octets(octets_max: int) -> None:
    world = acquainted()
    world.tamper = air = Recorder()
    carol, dave = world.nodes
    carol.conversation.send(TEXT, Priority.TEXT)
    world.lay_pipe(octets_max, QUICK, known_key=node_key_of(DAVE))
    first = [datagram for sender, datagram in air.sent if sender == 0]
    assert sum(map(len, first)) - len(TEXT) <= 150
    assert world.run(0.2, lambda: dave.received == [TEXT])
    assert [datagram for _, datagram in air.sent if TEXT in datagram] == []
    world.run(1)
    assert air.handshake_octets() <= (211 if octets_max == 20 else 205)
    after = [datagram for sender, datagram in air.sent if sender == 0 and datagram[0] & SECURED]
    assert all(len(datagram) < 24 for datagram in after), "the text went twice"


@pytest.mark.parametrize("octets_max", [20, 244])
def test_a_known_peer_and_nothing_to_say(octets_max: int) -> None:
    world = acquainted()
    world.tamper = air = Recorder()
    world.lay_pipe(octets_max, QUICK, known_key=node_key_of(DAVE))
    world.run(0.2)
    assert [node.events for node in world.nodes] == [
        [PeerAuthenticated(node_key_of(DAVE), 2)],
        [PeerAuthenticated(node_key_of(CAROL), 1)],
    ]
    assert air.handshake_octets() <= (180 if octets_max == 20 else 170)


@pytest.mark.parametrize("known", [DAVE, MALLORY], ids=["right", "wrong"])
@pytest.mark.parametrize("octets_max", [20, 1_400])
@pytest.mark.parametrize("fault", ["lose", "swap", "double", "damage", "cut"])
def test_each_single_fault_is_survived(octets_max: int, fault: str, known: bytes) -> None:
    def meet(air: Air) -> World:
        world = acquainted()
        world.tamper = air
        for node in world.nodes:
            node.conversation.send(b"hello again", Priority.TEXT)
        world.lay_pipe(octets_max, QUICK, known_key=node_key_of(known))
        world.run(9, lambda: all(node.received and not node.conversation.queued_octets for node in world.nodes))
        return world

    air = Air({})
    meet(air)
    for position in [(sender, index) for sender in (0, 1) for index in range(air.count[sender])]:
        world = meet(Air({position: fault}))
        assert [node.received for node in world.nodes] == [[b"hello again"]] * 2, f"{fault} of {position}"
        assert not any(node.conversation.queued_octets for node in world.nodes)


def test_each_pair_of_losses_is_survived() -> None:
    for first, second in combinations([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)], 2):
        world = acquainted()
        world.tamper = Air({first: "lose", second: "lose"})
        for node in world.nodes:
            node.conversation.send(TEXT, Priority.TEXT)
        world.lay_pipe(244, QUICK, known_key=node_key_of(DAVE))
        world.run(9)
        assert [node.received for node in world.nodes] == [[TEXT], [TEXT]], f"{first} {second}"


def test_a_recorded_first_message_changes_nothing() -> None:
    world = acquainted()
    carol, dave = world.nodes
    world.tamper = air = Recorder()
    carol.conversation.send(TEXT, Priority.TEXT)
    world.lay_pipe(244, QUICK, known_key=node_key_of(DAVE))
    (recorded,) = [datagram for sender, datagram in air.sent if sender == 0 and not datagram[0] & SECURED]
    world.pipes[0].up = False
    world.pipes.clear()
    held = dave.conversation.octets_held
    for _ in range(3):
        victim = LinkEndpoint(DAVE, False, 244, world.rng.randbytes, world.now, dave.allow, local_epoch=2)
        victim.datagram_received(recorded, world.now)
        assert victim.poll_transmit(world.now)
        assert victim.state is PipeState.AWAIT_CONFIRMATION
        world.run(12)
        victim.handle_timeout(world.now)
        victim.poll_transmit(world.now)
        victim.handle_timeout(world.now + 60)
        assert victim.state is PipeState.DEAD
        assert not any(isinstance(event, PeerAuthenticated) for event in victim.events())
        assert dave.conversation.octets_held == held
    world.lay_pipe(244, QUICK, known_key=node_key_of(DAVE))
    assert world.run(5, lambda: dave.received == [TEXT])


def test_first_words_for_an_earlier_process_are_said_again() -> None:
    world = acquainted()
    carol, dave = world.nodes
    carol.conversation.send(TEXT, Priority.TEXT)
    reborn = Node(world, dave.seed, epoch=3)
    world.nodes = (carol, reborn)
    world.lay_pipe(244, QUICK, known_key=node_key_of(DAVE))
    assert world.run(5, lambda: not carol.conversation.queued_octets)
    assert reborn.received == [TEXT]


def test_a_conversation_that_another_pipe_carries_says_nothing_early() -> None:
    world = World(1)
    carol, dave = world.nodes
    first = world.lay_pipe(1_400, QUICK)
    world.run(1)
    carol.conversation.send(TEXT, Priority.TEXT)
    assert carol.conversation.early(1_000) == b""
    world.lay_pipe(244, QUICK, known_key=node_key_of(DAVE))
    assert world.run(1, lambda: dave.received == [TEXT])
    assert first.ends[0].state is PipeState.ESTABLISHED


@pytest.mark.parametrize("known", [DAVE, MALLORY])
def test_a_blocked_server_is_refused_however_it_comes(known: bytes) -> None:
    world = World(1)
    world.nodes[1].allow = lambda _: False
    world.lay_pipe(244, QUICK, known_key=node_key_of(known))
    world.run(2)
    assert world.nodes[1].dead == ["not allowed here"]
    assert world.nodes[1].authenticated == []
    assert world.nodes[0].dead == ["the peer said: not allowed here"]


def test_only_an_initiator_expects_somebody() -> None:
    world = World(1)
    for initiator, key in ((False, node_key_of(DAVE)), (True, bytes(32)), (True, b"short")):
        with pytest.raises(LocalLinkError):
            LinkEndpoint(CAROL, initiator, 244, world.rng.randbytes, 0.0, lambda _: True, local_epoch=1, known_key=key)
