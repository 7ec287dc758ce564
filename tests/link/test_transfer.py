"""Whole messages over pipes that lose, double and reorder."""

from __future__ import annotations

import random

import pytest

from p2pserver.link import MESSAGE_OCTETS_MAX, QUEUE_OCTETS_MAX, LinkTimers, MessageSize, PipeDead, Priority, QueueFull
from p2pserver.link.limits import QUEUE_MESSAGES_MAX
from p2pserver.link.sealing import TAG_OCTETS
from tests.link.lossy import Faults, Node, World, random_messages, transfer_problems

LOSSY = Faults(loss=0.2, duplication=0.1, delay_s=0.01, jitter_s=0.03)
VERY_LOSSY = Faults(loss=0.4, duplication=0.2, delay_s=0.01, jitter_s=0.05)


def queue(node: Node, messages: list[tuple[bytes, Priority]]) -> dict[int, tuple[bytes, Priority]]:
    return {node.conversation.send(message, priority): (message, priority) for message, priority in messages}


def done(world: World) -> bool:
    return not any(node.conversation.queued_octets for node in world.nodes)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("faults", [Faults(), LOSSY, VERY_LOSSY], ids=["clean", "loss20", "loss40"])
@pytest.mark.parametrize("octets_max", [20, 200, 1_400, 65_535])
def test_everything_arrives_once_and_in_order(octets_max: int, faults: Faults, seed: int) -> None:
    world = World(seed)
    carol, dave = world.nodes
    messages_octets_max = 3_000 if octets_max <= 64 else 40_000 if octets_max < 65_535 else 150_000
    down = queue(carol, random_messages(world.rng, 40, messages_octets_max))
    up = queue(dave, random_messages(world.rng, 40, messages_octets_max))
    world.lay_pipe(octets_max, faults)
    assert world.run(600, lambda: done(world)), f"not over after 600 s, {seed=}"
    assert transfer_problems(carol, dave, down) == []
    assert transfer_problems(dave, carol, up) == []
    assert not carol.dead
    assert not dave.dead


@pytest.mark.parametrize("seed", range(4))
def test_a_pipe_is_replaced_in_the_middle_by_one_with_other_datagrams(seed: int) -> None:
    world = World(seed)
    carol, dave = world.nodes
    down = queue(carol, random_messages(world.rng, 30, 60_000))
    up = queue(dave, random_messages(world.rng, 30, 60_000))
    for octets_max in (1_400, 100, 65_535, 300, 64, 900):
        pipe = world.lay_pipe(octets_max, LOSSY, initiator=world.rng.randrange(2))
        world.run(0.4)
        pipe.up = False
    world.lay_pipe(1_000, LOSSY)
    assert world.run(600, lambda: done(world))
    assert transfer_problems(carol, dave, down) == []
    assert transfer_problems(dave, carol, up) == []


@pytest.mark.parametrize(("octets_max", "header_octets"), [(20, 4), (244, 6), (1_400, 6), (65_535, 9)])
def test_a_datagram_in_the_middle_of_a_message_has_little_header(octets_max: int, header_octets: int) -> None:
    world = World(1)
    carol, dave = world.nodes
    datagrams: list[bytes] = []
    world.lay_pipe(octets_max, Faults())
    world.run(1)
    text = world.rng.randbytes(octets_max * 12)
    sent = queue(carol, [(text, Priority.MEDIA)])

    def note(sender: int, datagram: bytes) -> list[bytes]:
        if sender == 0:
            datagrams.append(datagram)
        return [datagram]

    world.tamper = note
    world.kick()
    assert world.run(60, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []
    full = [datagram for datagram in datagrams if len(datagram) == octets_max]
    assert len(full) * (octets_max - TAG_OCTETS - header_octets) >= len(text) - octets_max
    assert header_octets <= 0.025 * 244 or octets_max > 244


@pytest.mark.parametrize("before", [0, 20_000, 3_000_000])
def test_after_a_reconnect_the_header_is_as_small(before: int) -> None:
    """100 kB in datagrams of 244 octets, over the second pipe of two processes, behind so many over the first."""
    world = World(2)
    carol, dave = world.nodes
    first = world.lay_pipe(60_000, Faults())
    world.run(1)
    for _ in range(-(-before // 500_000)):
        queue(carol, [(bytes(min(before, 500_000)), Priority.MEDIA)])
        world.kick()
        world.run(30, lambda: done(world))
    for end in first.ends:
        end.detach()
    world.lay_pipe(244, Faults(bit_rate=700_000, delay_s=0.015), paced=True)
    world.run(1)
    sizes: list[int] = []

    def note(sender: int, datagram: bytes) -> list[bytes]:
        if sender == 0 and len(datagram) > 40:
            sizes.append(len(datagram))
        return [datagram]

    world.tamper = note
    octets = 100_000
    queue(carol, [(world.rng.randbytes(octets), Priority.MEDIA)])
    world.kick()
    assert world.run(60, lambda: done(world))
    assert len(dave.received[-1]) == octets
    full = sizes.count(244)
    rest = sum(size - TAG_OCTETS - 5 for size in sizes if size < 244)
    header_octets = 244 - TAG_OCTETS - (octets - rest) / full
    assert header_octets <= 0.025 * 244


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("between", [20, 100, 1_000])
def test_after_a_reconnect_only_what_is_missing_is_sent(between: int, seed: int) -> None:
    """Each pipe breaks with datagrams and acknowledgements on their way; the next has another datagram size."""
    world = World(seed)
    carol, dave = world.nodes
    octets = 200_000
    sent = queue(carol, [(world.rng.randbytes(octets // 2), Priority.MEDIA) for _ in range(2)])
    for octets_max in (244, between, 495, between, 244):
        pipe = world.lay_pipe(octets_max, Faults(bit_rate=200_000, delay_s=0.05), paced=True)
        world.run(0.8 + world.rng.random())
        pipe.up = False
        world.run(0.2)
        for end in pipe.ends:
            end.close("out of reach", world.now)
        world.kick()
    held = dave.conversation.octets_held
    assert held > 0
    left = octets - len(b"".join(dave.received)) - held
    pipe = world.lay_pipe(1_000, Faults(bit_rate=200_000, delay_s=0.05), paced=True)
    assert world.run(120, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []
    assert pipe.octets[0] < left * 1.03 + 2_500


def test_a_lost_pipe_is_noticed_and_the_next_one_goes_on() -> None:
    world = World(1)
    carol, dave = world.nodes
    pipe = world.lay_pipe(1_400, Faults())
    world.run(1)
    pipe.up = False
    sent = queue(carol, [(b"are you there?", Priority.TEXT)])
    world.kick()
    assert not world.run(24, lambda: bool(carol.dead))
    assert world.run(20, lambda: bool(carol.dead and dave.dead))
    assert carol.dead == ["the peer is silent"]
    assert not carol.conversation.attached
    assert carol.conversation.queued_octets == 14
    world.lay_pipe(1_400, Faults())
    assert world.run(5, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []


def test_an_idle_pipe_stays_alive_for_a_day() -> None:
    world = World(1)
    pipe = world.lay_pipe(1_400, Faults(loss=0.05))
    world.run(86_400)
    assert [node.dead for node in world.nodes] == [[], []]
    assert sum(pipe.sent) < 86_400 / 15 * 4


def test_an_unattached_pipe_acknowledges_nothing_and_stays_alive() -> None:
    world = World(1)
    carol, dave = world.nodes
    pipe = world.lay_pipe(1_400, Faults())
    world.run(1)
    pipe.ends[1].detach()
    sent = queue(carol, [(b"hello", Priority.TEXT)])
    world.kick()
    world.run(5)
    assert not carol.delivered
    pipe.ends[1].attach(dave.conversation)
    world.kick()
    assert world.run(5, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []


def test_a_restarted_peer_gets_undelivered_messages_again_as_new() -> None:
    world = World(5)
    carol, dave = world.nodes
    first = queue(carol, [(bytes([n]) * 5_000, Priority.STATE) for n in range(20)])
    pipe = world.lay_pipe(1_400, LOSSY)
    world.run(60, lambda: len(carol.delivered) >= 5)
    pipe.up = False
    world.run(0.1)
    delivered_before = set(carol.delivered)
    reborn = Node(world, dave.seed, epoch=3)
    world.nodes = (carol, reborn)
    world.pipes.clear()
    up = queue(reborn, [(b"I am new", Priority.TEXT)])
    second = queue(carol, [(b"welcome", Priority.TEXT)])
    world.lay_pipe(300, LOSSY)
    assert world.run(600, lambda: done(world))
    expected = {handle: message for handle, message in {**first, **second}.items() if handle not in delivered_before}
    carol.delivered = [handle for handle in carol.delivered if handle not in delivered_before]
    assert transfer_problems(carol, reborn, expected) == []
    assert carol.received[-1:] == [b"I am new"]
    assert list(up) == reborn.delivered


def test_an_urgent_message_overtakes_a_large_one() -> None:
    world = World(1)
    carol, dave = world.nodes
    slow = Faults(bit_rate=100_000)
    world.lay_pipe(500, slow)
    world.run(1)
    queue(carol, [(bytes(500_000), Priority.MEDIA)])
    world.kick()
    world.run(5)
    queue(carol, [(b"alert", Priority.ALERT)])
    world.kick()
    before = world.now
    assert world.run(60, lambda: b"alert" in dave.received)
    assert world.now - before < 2


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("bit_rate", [9_600, 100_000, 1_000_000])
def test_a_slow_pipe_is_used_and_not_flooded(bit_rate: int, paced: bool) -> None:
    world = World(1)
    carol, dave = world.nodes
    pipe = world.lay_pipe(500, Faults(bit_rate=bit_rate, queue_octets=20_000, delay_s=0.02), paced=paced)
    world.run(5)
    octets = bit_rate // 8 * 12
    sent = queue(carol, [(world.rng.randbytes(octets // 10), Priority.STATE) for _ in range(10)])
    world.kick()
    start = world.now
    before = pipe.octets[0]
    assert world.run(600, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []
    assert world.now - start < 12 * 1.35
    assert pipe.octets[0] - before < octets * 1.3


def test_a_reader_that_does_not_take_bounds_the_sender() -> None:
    world = World(1)
    carol, dave = world.nodes
    dave.reads = False
    world.lay_pipe(65_535, Faults())
    world.run(1)
    sent = {}
    for n in range(40):
        if carol.conversation.can_send(200_000):
            sent.update(queue(carol, [(bytes([n]) * 200_000, Priority.MEDIA)]))
        world.kick()
        world.run(2)
    assert dave.conversation.octets_held <= 2 << 20
    assert carol.conversation.queued_octets <= QUEUE_OCTETS_MAX
    urgent = queue(carol, [(b"short", Priority.TEXT)])
    world.kick()
    assert world.run(5, lambda: set(urgent) <= set(carol.delivered))
    dave.reads = True
    world.kick()
    assert world.run(20, lambda: done(world))
    assert transfer_problems(carol, dave, {**sent, **urgent}) == []


def test_the_queue_is_bounded() -> None:
    world = World(1)
    conversation = world.nodes[0].conversation
    for octets in (0, MESSAGE_OCTETS_MAX + 1):
        with pytest.raises(MessageSize):
            conversation.send(bytes(octets), Priority.TEXT)
    conversation.send(bytes(MESSAGE_OCTETS_MAX), Priority.TEXT)
    conversation.send(bytes(MESSAGE_OCTETS_MAX), Priority.TEXT)
    assert not conversation.can_send(1)
    with pytest.raises(QueueFull):
        conversation.send(b"x", Priority.ALERT)
    many = World(1).nodes[0].conversation
    sent = 0
    while many.can_send(1):
        many.send(b"x", Priority.TEXT)
        sent += 1
    assert sent == QUEUE_MESSAGES_MAX


def test_largest_messages_in_every_class_at_once_do_not_lock_up() -> None:
    world = World(3)
    carol, dave = world.nodes
    world.lay_pipe(65_535, Faults(loss=0.1, jitter_s=0.01))
    sent: dict[int, tuple[bytes, Priority]] = {}
    waiting = [(bytes([n]) * MESSAGE_OCTETS_MAX, Priority(n % 6)) for n in range(12)]
    for _ in range(1_000):
        while waiting and carol.conversation.can_send(len(waiting[-1][0])):
            sent.update(queue(carol, [waiting.pop()]))
        world.kick()
        world.run(1, lambda: done(world))
        if not waiting and done(world):
            break
    assert len(sent) == 12
    assert transfer_problems(carol, dave, sent) == []


def test_goodbye_ends_both_sides() -> None:
    world = World(1)
    pipe = world.lay_pipe(1_400, Faults())
    world.run(1)
    pipe.ends[0].close("second link", world.now)
    world.kick()
    world.run(1)
    assert world.nodes[0].dead == ["closed here: second link"]
    assert world.nodes[1].dead == ["the peer said: second link"]
    assert pipe.ends[0].poll_transmit(world.now) == []
    assert pipe.ends[0].next_deadline() is None


def test_a_patient_pipe_sends_nothing_twice_when_datagrams_only_change_places() -> None:
    world = World(2, timers=LinkTimers(reorder_wait_s=1.0, timeout_min_s=1.5, timeout_max_s=8.0))
    carol, dave = world.nodes
    pipe = world.lay_pipe(495, Faults(delay_s=0.03, jitter_s=0.3))
    world.run(5)
    before = pipe.octets[0]
    sent = queue(carol, [(world.rng.randbytes(50_000), Priority.STATE)])
    world.kick()
    assert world.run(60, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []
    assert pipe.octets[0] - before < 50_000 * 1.04


def test_the_same_seed_gives_the_same_run() -> None:
    def history(seed: int) -> list[object]:
        world = World(seed)
        queue(world.nodes[0], random_messages(world.rng, 20, 20_000))
        pipe = world.lay_pipe(300, VERY_LOSSY)
        world.run(600, lambda: done(world))
        return [world.now, pipe.sent, pipe.octets, world.nodes[1].received]

    assert history(7) == history(7)
    assert history(7) != history(8)


def test_many_pipes_one_after_another_leave_nothing_behind() -> None:
    world = World(11)
    carol, dave = world.nodes
    rng = random.Random(4)
    sent: dict[int, tuple[bytes, Priority]] = {}
    for index in range(60):
        if carol.conversation.can_send(20_000):
            sent.update(
                queue(carol, [(index.to_bytes(4, "big") + rng.randbytes(rng.randrange(20_000)), Priority.TEXT)])
            )
        world.lay_pipe(rng.choice((64, 200, 1_400)), LOSSY, initiator=rng.randrange(2))
        world.run(rng.random() * 0.5)
    assert world.run(600, lambda: done(world))
    assert transfer_problems(carol, dave, sent) == []
    assert not any(
        isinstance(event, PipeDead) and "error" in event.reason for node in world.nodes for event in node.events
    )


def random_life(seed: int) -> list[str]:
    """Pipes of every kind that come, fall silent and are replaced, while both sides go on sending; then a good one."""
    world = World(seed)
    rng = world.rng
    sent: list[dict[int, tuple[bytes, Priority]]] = [{}, {}]

    def close_all() -> None:
        for pipe in world.pipes:
            for end in pipe.ends:
                end.close("over", world.now)
        world.kick()
        world.pipes.clear()

    for _ in range(rng.randrange(1, 12)):
        for side, node in enumerate(world.nodes):
            for message, priority in random_messages(rng, rng.randrange(10), rng.choice((10, 1_000, 30_000))):
                sent[side] |= queue(node, [(rng.randbytes(8) + message, priority)])
        if rng.random() < 0.7 or not world.pipes:
            if len(world.pipes) > 2:
                close_all()
            faults = Faults(
                loss=rng.choice((0.0, 0.05, 0.2, 0.4)),
                duplication=rng.choice((0.0, 0.3)),
                delay_s=rng.choice((0.0001, 0.01, 0.3)),
                jitter_s=rng.choice((0.0, 0.02, 0.5)),
                bit_rate=rng.choice((None, None, 50_000, 2_000_000)),
                queue_octets=rng.choice((3_000, 64_000)),
            )
            octets_max = rng.choice((64, 65, 100, 300, 1_400, 65_535))
            world.lay_pipe(octets_max, faults, initiator=rng.randrange(2), paced=rng.random() < 0.5)
        world.kick()
        world.pipes[-1].up = rng.random() < 0.7
        world.run(rng.random() * rng.choice((0.1, 1, 30)))
    problems: list[str] = []
    for _ in range(10):
        close_all()
        world.lay_pipe(rng.choice((64, 300, 1_400, 65_535)), Faults(loss=0.2, jitter_s=0.02))
        if world.run(200, lambda: done(world)):
            break
    for side in (0, 1):
        problems += transfer_problems(world.nodes[side], world.nodes[1 - side], sent[side])
        problems += [reason for reason in world.nodes[side].dead if "error" in reason]
    return problems


@pytest.mark.parametrize("seed", range(40))
def test_random_lives(seed: int) -> None:
    assert random_life(seed) == [], f"{seed=}"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40, 1_500))
def test_many_random_lives(seed: int) -> None:
    assert random_life(seed) == [], f"{seed=}"
