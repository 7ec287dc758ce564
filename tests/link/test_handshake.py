"""Two strangers become known to each other, whatever the pipe does; who is not who it says stays out."""

from __future__ import annotations

from itertools import combinations

import pytest

from p2pserver.link import Conversation, LinkEndpoint, LocalLinkError, PeerAuthenticated, PipeDead, Priority
from p2pserver.link.handshake import Handshake
from p2pserver.link.limits import BAD_DATAGRAMS_MAX, LinkTimers
from p2pserver.link.node_key import Introduction, node_key_of, static_key_of, static_secret_of
from p2pserver.link.noise import public_key_of
from p2pserver.link.pipe_state import PipeState
from tests.link.lossy import CAROL, DAVE, Faults, World

MALLORY = b"\x03" * 32


class Air:
    """Does one thing to each of the datagrams that are named by sender and count; hands on the others."""

    def __init__(self, faults: dict[tuple[int, int], str]) -> None:
        self.faults = faults
        self.count = [0, 0]
        self.kept: list[list[bytes]] = [[], []]

    def __call__(self, sender: int, datagram: bytes) -> list[bytes]:
        fault = self.faults.get((sender, self.count[sender]))
        self.count[sender] += 1
        late, self.kept[sender] = self.kept[sender], []
        if fault == "lose":
            return late
        if fault == "swap":
            self.kept[sender] = [datagram, *late]
            return []
        if fault == "double":
            return [datagram, datagram, *late]
        if fault == "damage":
            return [datagram[:-1] + bytes([datagram[-1] ^ 0x80]), *late]
        if fault == "cut":
            return [datagram[: len(datagram) // 2], *late]
        return [datagram, *late]


def meet(air: Air | None, octets_max: int, seconds: float = 9.0) -> World:
    world = World(3)
    world.tamper = air
    for node in world.nodes:
        node.conversation.send(b"hello", Priority.TEXT)
    world.lay_pipe(octets_max, Faults(delay_s=0.01))
    world.run(seconds, lambda: all(node.received for node in world.nodes))
    return world


def datagrams_of_a_handshake(octets_max: int) -> list[tuple[int, int]]:
    air = Air({})
    meet(air, octets_max)
    return [(sender, index) for sender in (0, 1) for index in range(air.count[sender])]


def has_met(world: World) -> bool:
    carol, dave = world.nodes
    return (
        carol.authenticated == [node_key_of(DAVE)]
        and dave.authenticated == [node_key_of(CAROL)]
        and carol.received == dave.received == [b"hello"]
    )


@pytest.mark.parametrize("fault", ["lose", "swap", "double", "damage", "cut"])
@pytest.mark.parametrize("octets_max", [64, 100, 1_400])
def test_each_single_fault_is_survived(octets_max: int, fault: str) -> None:
    positions = datagrams_of_a_handshake(octets_max)
    assert len(positions) >= 5
    for position in positions:
        assert has_met(meet(Air({position: fault}), octets_max)), f"{fault} of {position}"


@pytest.mark.parametrize("octets_max", [64, 1_400])
def test_each_pair_of_faults_is_survived(octets_max: int) -> None:
    positions = datagrams_of_a_handshake(octets_max)
    for first, second in combinations(positions, 2):
        for faults in (("lose", "lose"), ("lose", "swap"), ("double", "lose")):
            assert has_met(meet(Air({first: faults[0], second: faults[1]}), octets_max)), f"{faults} of {first, second}"


def test_all_of_one_side_lost_for_a_while() -> None:
    for sender in (0, 1):
        assert has_met(meet(Air({(sender, index): "lose" for index in range(6)}), 1_400))


def test_both_sides_learn_key_and_epoch() -> None:
    world = meet(None, 1_400)
    assert world.nodes[0].events == [PeerAuthenticated(node_key_of(DAVE), 2)]
    assert world.nodes[1].events == [PeerAuthenticated(node_key_of(CAROL), 1)]


@pytest.mark.parametrize("initiator", [True, False])
def test_a_handshake_without_an_answer_dies_after_ten_seconds(initiator: bool) -> None:
    world = World(1)
    end = LinkEndpoint(CAROL, initiator, 200, world.rng.randbytes, 100.0, lambda _: True, local_epoch=1)
    now, sent = 100.0, 0
    while (deadline := end.next_deadline()) is not None:
        now = deadline
        end.handle_timeout(now)
        sent += len(end.poll_transmit(now))
    assert now == 110.0
    assert end.events() == [PipeDead("the handshake made no progress")]
    assert (8 <= sent <= 15) if initiator else sent == 0


@pytest.mark.parametrize("blocker", [0, 1])
def test_a_blocked_server_is_refused(blocker: int) -> None:
    world = World(1)
    asked: list[bytes] = []
    world.nodes[blocker].allow = lambda key: asked.append(key) or False  # type: ignore[func-returns-value]
    pipe = world.lay_pipe(1_400, Faults())
    world.run(12)
    assert asked == [node_key_of(world.nodes[1 - blocker].seed)]
    assert world.nodes[blocker].authenticated == []
    assert world.nodes[blocker].dead == ["not allowed here"]
    assert [end.state for end in pipe.ends] == [PipeState.DEAD, PipeState.DEAD]
    if blocker == 1:
        assert world.nodes[0].dead == ["the peer said: not allowed here"]
    else:
        assert world.nodes[1].dead == ["the handshake made no progress"]
        assert world.nodes[1].authenticated == []


def test_a_node_does_not_talk_to_itself() -> None:
    world = World(1)
    world.nodes[1].seed = CAROL
    world.lay_pipe(1_400, Faults())
    world.run(12)
    assert not world.nodes[0].authenticated
    assert not world.nodes[1].authenticated
    assert world.nodes[0].dead == ["a node does not talk to itself"]


def forged(introduction: bytes, *, attacker_initiates: bool) -> LinkEndpoint:
    """An honest endpoint after a handshake with one who introduces itself like that."""
    world = World(2)

    class Forged(Introduction):
        def encode(self) -> bytes:
            return introduction

    attacker = Handshake(
        MALLORY,
        Forged(b"", 0),
        initiator=attacker_initiates,
        datagram_octets_max=1_400,
        random_bytes=world.rng.randbytes,
        timers=LinkTimers(),
        now=0.0,
    )
    victim = LinkEndpoint(DAVE, not attacker_initiates, 1_400, world.rng.randbytes, 0.0, lambda _: True, local_epoch=2)
    for _ in range(3):
        for datagram in attacker.transmit(0.0):
            victim.datagram_received(datagram, 0.0)
        for datagram in victim.poll_transmit(0.0):
            if datagram[0] == 1 and not attacker.peer:
                attacker.datagram_received(datagram, 0.0)
    return victim


NOT_KEYS = {
    "identity, order 1": "0100000000000000000000000000000000000000000000000000000000000000",
    "order 2": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "order 4": "0000000000000000000000000000000000000000000000000000000000000000",
    "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "identity not canonical": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "zero with a sign": "0000000000000000000000000000000000000000000000000000000000000080",
    "not on the curve": "0200000000000000000000000000000000000000000000000000000000000000",
    "all ones": "ff" * 32,
}


@pytest.mark.parametrize("attacker_initiates", [True, False])
@pytest.mark.parametrize("key", NOT_KEYS.values(), ids=NOT_KEYS.keys())
def test_keys_that_are_no_keys_are_refused(key: str, attacker_initiates: bool) -> None:
    victim = forged(b"\x01" + bytes.fromhex(key) + bytes(8), attacker_initiates=attacker_initiates)
    assert victim.events() == [PipeDead("not a valid Ed25519 key")]


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_the_node_key_of_somebody_else_is_refused(attacker_initiates: bool) -> None:
    victim = forged(b"\x01" + node_key_of(CAROL) + bytes(8), attacker_initiates=attacker_initiates)
    assert victim.events() == [PipeDead("the static key does not belong to the node key")]


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_another_version_and_a_short_introduction_are_refused(attacker_initiates: bool) -> None:
    own = node_key_of(MALLORY) + bytes(8)
    for introduction in (b"\x02" + own, b"", b"\x01" + own[:-1]):
        victim = forged(introduction, attacker_initiates=attacker_initiates)
        (event,) = victim.events()
        assert isinstance(event, PipeDead)


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_what_follows_a_sound_introduction_is_ignored(attacker_initiates: bool) -> None:
    victim = forged(b"\x01" + node_key_of(MALLORY) + bytes(8) + b"later", attacker_initiates=attacker_initiates)
    assert victim.events() == [PeerAuthenticated(node_key_of(MALLORY), 0)]


def test_the_static_key_is_the_converted_node_key() -> None:
    for seed in (CAROL, DAVE, MALLORY):
        assert public_key_of(static_secret_of(seed)) == static_key_of(node_key_of(seed))


def test_forged_first_messages_do_not_stop_an_honest_handshake() -> None:
    world = World(4)
    carol, dave = world.nodes
    pipe = world.lay_pipe(1_400, Faults(delay_s=0.5))
    for _ in range(5):
        session = world.rng.randbytes(4)
        pipe.ends[1].datagram_received(b"\x01" + session + b"\x01\x00\x01" + world.rng.randbytes(32), world.now)
        pipe.ends[1].datagram_received(b"\x01" + session + b"\x01\x00\x01" + bytes(32), world.now)
        pipe.ends[0].datagram_received(b"\x01" + session + b"\x02\x00\x01" + world.rng.randbytes(137), world.now)
    assert world.run(9, lambda: bool(carol.authenticated and dave.authenticated))


def test_a_thousand_bad_datagrams_end_a_pipe() -> None:
    world = meet(None, 1_400)
    assert world.pipes[0].ends[1].bad_datagrams == 0
    end = world.pipes[0].ends[1]
    for index in range(BAD_DATAGRAMS_MAX):
        assert end.state is PipeState.ESTABLISHED
        end.datagram_received(b"\x02" + (64 + index % 64).to_bytes(1, "big") * 2 + bytes(40), world.now)
    assert end.events() == [PipeDead("too many bad datagrams")]
    end.datagram_received(b"anything", world.now)
    assert end.poll_transmit(world.now) == []


def test_an_old_recording_of_a_handshake_gets_nowhere() -> None:
    recorded: list[bytes] = []

    class Recorder(Air):
        def __call__(self, sender: int, datagram: bytes) -> list[bytes]:
            if sender == 0:
                recorded.append(datagram)
            return [datagram]

    meet(Recorder({}), 1_400)
    world = World(9)
    victim = LinkEndpoint(DAVE, False, 1_400, world.rng.randbytes, 0.0, lambda _: True, local_epoch=2)
    for datagram in recorded:
        victim.datagram_received(datagram, 0.0)
        victim.poll_transmit(0.0)
    assert victim.events() == []
    assert victim.state is PipeState.AWAIT_THIRD


def test_misuse_is_refused() -> None:
    world = World(1)
    for octets_max in (0, 63, 65_536):
        with pytest.raises(LocalLinkError):
            LinkEndpoint(CAROL, True, octets_max, world.rng.randbytes, 0.0, lambda _: True, local_epoch=1)
    end = LinkEndpoint(CAROL, True, 64, world.rng.randbytes, 0.0, lambda _: True, local_epoch=1)
    with pytest.raises(LocalLinkError):
        end.attach(Conversation(1))
    known = meet(None, 200).pipes[0].ends[0]
    with pytest.raises(LocalLinkError):
        known.attach(Conversation(99))
