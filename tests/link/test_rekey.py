"""Keys change while datagrams are lost, late and doubled, and nobody notices."""

from __future__ import annotations

import random

import pytest

from p2pserver.link import Priority
from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import REKEY_S, UNHEARD_MAX
from p2pserver.link.sealing import Keys, Opener, Sealer
from tests.link.lossy import Faults, World, random_messages, transfer_problems
from tests.link.test_transfer import done, queue

TAG = 0x85


@pytest.mark.parametrize("faults", [Faults(), Faults(loss=0.3, duplication=0.2, delay_s=0.01, jitter_s=0.1)])
def test_nothing_is_lost_when_keys_change(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pserver.link.sealing.REKEY_DATAGRAMS", 40)
    world = World(5)
    carol, dave = world.nodes
    down, up = (queue(node, random_messages(world.rng, 40, 20_000)) for node in world.nodes)
    pipe = world.lay_pipe(200, faults)
    assert world.run(600, lambda: done(world))
    assert transfer_problems(carol, dave, down) == []
    assert transfer_problems(dave, carol, up) == []
    for end in pipe.ends:
        assert end._sealer is not None
        assert end._sealer._phase_from > 200
        assert end.bad_datagrams == 0


def test_keys_change_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(5)
    pipe = world.lay_pipe(244, Faults(loss=0.1))
    world.run(10)
    before = [end._sealer._keys for end in pipe.ends if end._sealer is not None]
    world.run(REKEY_S * 1.2)
    assert all(
        end._sealer is not None and end._sealer._keys is not old for end, old in zip(pipe.ends, before, strict=True)
    )
    queue(world.nodes[0], [(b"still here", Priority.TEXT)])
    world.kick()
    assert world.run(5, lambda: world.nodes[1].received == [b"still here"])


def test_who_only_acknowledges_asks_now_and_then() -> None:
    world = World(5)
    carol, _ = world.nodes
    pipe = world.lay_pipe(20, Faults())
    queue(carol, [(world.rng.randbytes(40_000), Priority.MEDIA)])
    assert world.run(600, lambda: done(world))
    end = pipe.ends[1]
    assert end._sealer is not None
    assert end._sealer.counter > 2 * UNHEARD_MAX
    assert end._sealer.counter - end._recovery.highest_acknowledged <= UNHEARD_MAX + 64


def sealed(sealer: Sealer, count: int, *, rekey_every: int, acknowledges: bool = True) -> list[bytes]:
    out = []
    for index in range(count):
        acknowledged = sealer.counter - 1 if acknowledges else -1
        if index and index % rekey_every == 0:
            sealer.rekey_if_due(acknowledged, 1e9 + index * 2 * REKEY_S)
        out.append(sealer.seal(b"%d" % sealer.counter, acknowledged))
    return out


@pytest.mark.parametrize("seed", range(10))
def test_any_order_of_datagrams_around_a_change_is_opened(seed: int) -> None:
    rng = random.Random(seed)
    secret = rng.randbytes(32)
    datagrams = sealed(Sealer(secret, TAG, 244, 0.0), 600, rekey_every=150)
    order = sorted(range(600), key=lambda index: index + rng.random() * 140)
    opener = Opener(secret, TAG)
    highest = -1
    for index in order:
        counter, header_octets = opener.counter_of(datagrams[index], highest)
        assert opener.open(datagrams[index], counter, header_octets, highest) == b"%d" % index
        highest = max(highest, counter)


def test_no_change_before_the_peer_took_part_in_the_phase() -> None:
    sealer = Sealer(bytes(32), TAG, 244, 0.0)
    keys = sealer._keys
    sealed(sealer, 100, rekey_every=10, acknowledges=False)
    assert sealer._keys is keys


def test_keys_of_a_phase_open_nothing_of_another_and_are_forgotten() -> None:
    secret = bytes(32)
    datagrams = sealed(Sealer(secret, TAG, 244, 0.0), 2_000, rekey_every=500)
    first = Keys(secret)
    assert first.tag(0, datagrams[0][:3], datagrams[0][3:-8]) == datagrams[0][-8:]
    assert first.tag(500, datagrams[500][:3], datagrams[500][3:-8]) != datagrams[500][-8:]
    opener = Opener(secret, TAG)
    for counter in range(1, 1_400):
        opener.open(datagrams[counter], counter, 3, counter - 1)
    assert opener.open(datagrams[999], 999, 3, 1_399) == b"999"
    with pytest.raises(RemoteLinkError):
        opener.open(datagrams[0], 0, 3, 1_399)
    for counter in range(1_400, 1_500):
        opener.open(datagrams[counter], counter, 3, counter - 1)
    for counter in range(1_500, 2_000):
        opener.open(datagrams[counter], counter, 3, counter - 1)
    opener._phase_from -= 100
    with pytest.raises(RemoteLinkError):
        opener.open(datagrams[1_499], 1_499, 3, 1_999)
    assert opener._before is None
