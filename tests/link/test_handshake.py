"""Two strangers become known to each other, whatever the pipe does; who is not who it says stays out."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from nacl import bindings

from p2pserver.link import EPOCHS, Conversation, LinkEndpoint, LocalLinkError, PeerAuthenticated, PipeDead, Priority
from p2pserver.link.errors import PeerRefused
from p2pserver.link.handshake import Handshake
from p2pserver.link.limits import BAD_DATAGRAMS_MAX, LinkTimers
from p2pserver.link.node_key import (
    Introduction,
    node_key_from,
    node_key_of,
    sign_of,
    static_key_of,
    static_secret_of,
)
from p2pserver.link.noise import public_key_of
from p2pserver.link.pipe_state import PipeState
from p2pserver.link.sealing import SECURED
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
@pytest.mark.parametrize("octets_max", [20, 100, 1_400])
def test_each_single_fault_is_survived(octets_max: int, fault: str) -> None:
    positions = datagrams_of_a_handshake(octets_max)
    assert len(positions) >= 5
    for position in positions:
        assert has_met(meet(Air({position: fault}), octets_max)), f"{fault} of {position}"


@pytest.mark.parametrize("octets_max", [20, 1_400])
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
        Forged(0, 0),
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
            if not datagram[0] & SECURED and not attacker.peer:
                attacker.datagram_received(datagram, 0.0)
    return victim


PRIME = 2**255 - 19
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"


def montgomery(edwards: bytes) -> bytes:
    """u of a point that is given as an Ed25519 key (RFC 7748, section 4.1)."""
    y = int.from_bytes(edwards, "little") % (1 << 255)
    return ((1 + y) * pow(1 - y, -1, PRIME) % PRIME).to_bytes(32, "little")


NOT_STATIC_KEYS = {
    "order 2": bytes(32),
    "order 4": b"\x01" + bytes(31),
    "order 8": montgomery(bytes.fromhex(ORDER_8)),
    "order 8, not canonical": (PRIME + 1).to_bytes(32, "little"),
    "no y": (PRIME - 1).to_bytes(32, "little"),
    "highest bit set": (int.from_bytes(static_key_of(node_key_of(CAROL)), "little") | 1 << 255).to_bytes(32, "little"),
    "on the twist": b"\x02" + bytes(31),
    "outside the prime-order group": montgomery(
        bindings.crypto_core_ed25519_add(node_key_of(CAROL), bytes.fromhex(ORDER_8))
    ),
}


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("key", NOT_STATIC_KEYS.values(), ids=NOT_STATIC_KEYS.keys())
def test_static_keys_of_no_node_are_refused(key: bytes, sign: int) -> None:
    with pytest.raises(PeerRefused):
        node_key_from(key, sign)


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_a_holder_may_show_its_key_or_the_negative_of_it(attacker_initiates: bool) -> None:
    own = node_key_of(MALLORY)
    for sign in (0, 1):
        victim = forged(bytes((sign,)) + bytes(6), attacker_initiates=attacker_initiates)
        shown = own[:31] + bytes((own[31] & 0x7F | sign << 7,))
        assert victim.events() == [PeerAuthenticated(shown, 0)]
        assert static_key_of(shown) == static_key_of(own)


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_a_short_introduction_is_refused(attacker_initiates: bool) -> None:
    for introduction in (b"", bytes(6)):
        victim = forged(introduction, attacker_initiates=attacker_initiates)
        assert victim.events() == [PipeDead("an introduction too short")]


@pytest.mark.parametrize("attacker_initiates", [True, False])
def test_what_follows_a_sound_introduction_is_ignored(attacker_initiates: bool) -> None:
    own = node_key_of(MALLORY)
    victim = forged(bytes((0xFE | own[31] >> 7,)) + bytes(6) + b"later", attacker_initiates=attacker_initiates)
    assert victim.events() == [PeerAuthenticated(own, 0)]


def test_the_node_key_comes_back_from_the_static_key() -> None:
    rng = random.Random(1)
    for _ in range(200):
        key = node_key_of(rng.randbytes(32))
        assert node_key_from(static_key_of(key), sign_of(key)) == key


def test_the_static_key_is_the_converted_node_key() -> None:
    for seed in (CAROL, DAVE, MALLORY):
        assert public_key_of(static_secret_of(seed)) == static_key_of(node_key_of(seed))


def test_forged_first_messages_do_not_stop_an_honest_handshake() -> None:
    world = World(4)
    carol, dave = world.nodes
    pipe = world.lay_pipe(1_400, Faults(delay_s=0.5))
    for _ in range(5):
        pipe.ends[1].datagram_received(b"\x08" + world.rng.randbytes(32), world.now)
        pipe.ends[1].datagram_received(b"\x08" + bytes(32), world.now)
        for session in range(256):
            pipe.ends[0].datagram_received(bytes((0x08, session)) + world.rng.randbytes(105), world.now)
    assert world.run(9, lambda: bool(carol.authenticated and dave.authenticated))


def forgery(end: LinkEndpoint, index: int) -> bytes:
    """A datagram with the right link tag and a wrong tag."""
    assert end._opener is not None
    return bytes((end._opener.link_tag,)) + (0x8000 | 64 + index).to_bytes(2, "big") + bytes(40)


def test_a_thousand_bad_datagrams_in_a_row_end_a_pipe() -> None:
    world = meet(None, 1_400)
    assert world.pipes[0].ends[1].bad_datagrams == 0
    end = world.pipes[0].ends[1]
    for index in range(BAD_DATAGRAMS_MAX):
        assert end.state is PipeState.ESTABLISHED
        end.datagram_received(forgery(end, index), world.now)
    assert end.events() == [PipeDead("too many bad datagrams")]
    end.datagram_received(b"anything", world.now)
    assert end.poll_transmit(world.now) == []


def test_bad_datagrams_do_not_end_a_pipe_that_works_until_they_are_a_million(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pserver.link.endpoint.FORGERIES_MAX", 3_000)
    world = meet(None, 1_400)
    end = world.pipes[0].ends[1]
    for index in range(3_000):
        assert end.state is PipeState.ESTABLISHED
        end.datagram_received(forgery(end, index), world.now)
        if index % 900 == 0:
            world.nodes[0].conversation.send(b"still here", Priority.TEXT)
            world.kick()
            world.run(1)
    assert world.nodes[1].received.count(b"still here") == 4
    assert end.events() == [PipeDead("too many bad datagrams")]


def test_datagrams_for_another_pipe_are_passed_over() -> None:
    """BlueZ before 5.69 gives a notification to all centrals."""
    ours = meet(None, 244)
    end = ours.pipes[0].ends[0]
    assert end._opener is not None
    tag = end._opener.link_tag
    foreign = [bytes((other,)) + ours.rng.randbytes(60) for other in range(0x80, 0x100) if other != tag]
    for _ in range(20):
        for datagram in foreign:
            end.datagram_received(datagram, ours.now)
    assert end.bad_datagrams == 0
    assert end.state is PipeState.ESTABLISHED


def test_answers_to_another_initiator_are_passed_over() -> None:
    heard: list[bytes] = []

    def both(sender: int, datagram: bytes) -> list[bytes]:
        if sender == 1 and not datagram[0] & SECURED:
            heard.append(datagram)
        return [datagram]

    world = World(3)
    world.tamper = both
    world.lay_pipe(20, Faults())
    world.run(2)
    assert len(heard) >= 6
    other = World(4)
    pipe = other.lay_pipe(20, Faults(delay_s=0.5))
    for datagram in heard * 300:
        pipe.ends[0].datagram_received(datagram, other.now)
    assert other.run(9, lambda: all(node.authenticated for node in other.nodes))
    assert pipe.ends[0].bad_datagrams == 0


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
    for octets_max in (0, 19, 65_536):
        with pytest.raises(LocalLinkError):
            LinkEndpoint(CAROL, True, octets_max, world.rng.randbytes, 0.0, lambda _: True, local_epoch=1)
    for epoch in (-1, EPOCHS):
        with pytest.raises(LocalLinkError):
            LinkEndpoint(CAROL, True, 20, world.rng.randbytes, 0.0, lambda _: True, local_epoch=epoch)
    end = LinkEndpoint(CAROL, True, 20, world.rng.randbytes, 0.0, lambda _: True, local_epoch=1)
    with pytest.raises(LocalLinkError):
        end.attach(Conversation(1))
    known = meet(None, 200).pipes[0].ends[0]
    with pytest.raises(LocalLinkError):
        known.attach(Conversation(99))
