"""Many peers that each make a node hold as much as they can: the sum stays bounded, and who shares a room is heard."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from p2pserver.link import Conversation, LinkEndpoint, Priority, datagram_octets, timers_for
from p2pserver.link.errors import PeerCut
from p2pserver.link.frames import WHOLE_BITS, Fragment, Held
from p2pserver.link.incoming import GAP_CHARGE_OCTETS
from p2pserver.link.limits import MESSAGE_OCTETS_MAX
from p2pserver.link.memory import KEPT_OCTETS, MEMORY_OCTETS_MAX, Holding, Memory
from p2pserver.link.outgoing import FragmentSent
from p2pserver.node.pipes import Pipe
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from transports.sim import SimTransport, run_virtual

HOSTILE = 64


class NothingMore(Conversation):
    """Sends what it has begun with, and never the rest."""

    def held_received(self, held: Held) -> None:
        return

    def fragments_lost(self, fragments: Sequence[FragmentSent]) -> None:
        return


class Greedy:
    """A peer with a key of its own that begins the largest messages and sends their last octet, on link after link."""

    def __init__(self, transport: SimTransport, number: int) -> None:
        self._transport = transport
        self._rng = random.Random(number)
        self._conversation = NothingMore(1)

    async def run(self) -> None:
        await self._transport.start(self._rng.randbytes(8))
        while True:
            link = await self._transport.next_link()
            self._conversation = NothingMore(self._rng.randrange(1 << 40))
            endpoint = LinkEndpoint(
                self._rng.randbytes(32),
                link.initiator,
                datagram_octets(link.profile),
                self._rng.randbytes,
                asyncio.get_running_loop().time(),
                lambda _: True,
                local_epoch=self._conversation.local_epoch,
                timers=timers_for(link.profile),
            )
            await Pipe(link, endpoint, self, clock=asyncio.get_running_loop().time).run()

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        queues = self._conversation._outgoing._classes
        for priority, size in ((Priority.TEXT, MESSAGE_OCTETS_MAX), (Priority.MEDIA, 700_000)):
            self._conversation.send(bytes(size), priority)
            self._conversation._outgoing._started += queues[priority].begin(1 << 40, 1 << 40)
            queues[priority].sent_to = queues[priority].started_to - 1
        pipe.attach(self._conversation)

    def pipe_active(self, pipe: Pipe) -> None:
        self._conversation.received()

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        """It does not care."""

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        """Another link comes."""


def really_held(mesh: SimulatedMesh, name: str) -> int:
    """Octets in all buffers of half-received messages of a node, counted where they are."""
    sessions = mesh.nodes[name].running.mesh._sessions.values()
    return sum(len(each.buffer) for session in sessions for each in session.conversation._incoming._classes)


async def flooded(octets_max: int) -> dict[str, Any]:
    """What became of node a, that 64 greedy peers called while b, with whom it shares a room, went on writing."""
    mesh = SimulatedMesh(["a", "b"], seed=4)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
    room = await RoomActions.create(anna, preset="public_chat")
    theirs = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
    await asyncio.sleep(70)
    memory = mesh.nodes["a"].running.mesh._crowd.memory
    memory.octets_max = octets_max
    cut: list[Holding] = []
    end = memory._cut
    memory._cut = lambda holding: (cut.append(holding), end(holding))  # type: ignore[func-returns-value, assignment, return-value]
    network, most, held = mesh.network, 0, 0
    network.connected = False
    greedy = []
    for number in range(HOSTILE):
        host = f"greedy {number}"
        greedy.append(Greedy(network.transport(host), number))
        network.set_link("a", host, True)
    running = [asyncio.create_task(each.run()) for each in greedy]
    for number in range(20):
        await theirs.send(f"text {number}")
        for _ in range(10):
            await asyncio.sleep(0.1)
            most, held = max(most, memory.octets), max(held, really_held(mesh, "a"))
    await asyncio.sleep(5)
    heard = [text for text in await room.messages() if text.startswith("text")]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for number in range(HOSTILE):
        network.crash(f"greedy {number}", silent=False)
    await asyncio.sleep(1_000)  # what was half-received of those that do not come back is kept for ten minutes
    left = memory.octets
    await mesh.stop()
    return {"most": most, "held": held, "heard": len(heard), "cut": cut, "left": left}


def test_64_greedy_peers_fill_no_more_than_the_node_gives_and_a_text_arrives() -> None:
    told = run_virtual(flooded(MEMORY_OCTETS_MAX))
    assert told["heard"] == 20
    assert told["held"] <= told["most"] <= MEMORY_OCTETS_MAX
    assert told["most"] > 0.9 * MEMORY_OCTETS_MAX, "they did not try"
    assert len(told["cut"]) >= HOSTILE - MEMORY_OCTETS_MAX // 1_700_000
    assert all(holding.is_stranger for holding in told["cut"])
    assert told["left"] < 10_000, "what is over is still counted"


def test_that_shows_a_node_without_a_limit() -> None:
    told = run_virtual(flooded(1 << 40))
    assert told["held"] > MEMORY_OCTETS_MAX


# Who gives way


def test_strangers_give_way_before_members_and_the_largest_before_the_smallest() -> None:
    cut: list[str] = []
    holdings: dict[Holding, str] = {}
    memory = Memory(10 * KEPT_OCTETS, cut=lambda holding: cut.append(holdings[holding]))
    for name in ("small stranger", "large stranger", "member", "greedy member"):
        holdings[memory.holding()] = name
    small, large, member, greedy = holdings
    member.is_stranger = greedy.is_stranger = False
    small.take(1_000)
    large.take(KEPT_OCTETS)
    member.take(KEPT_OCTETS)
    greedy.take(7 * KEPT_OCTETS)
    member.take(KEPT_OCTETS)
    assert cut == ["large stranger"]
    assert memory.octets == small.octets + member.octets + greedy.octets
    greedy.take(KEPT_OCTETS)
    assert cut[1:] == ["small stranger"]
    member.queue(1)
    assert cut[2:] == ["greedy member"]
    assert memory.octets == member.octets == 2 * KEPT_OCTETS + 1


def test_who_is_cut_holds_nothing_and_can_take_nothing_more() -> None:
    memory = Memory(1_000)
    holding = memory.holding()
    holding.take(900)
    with pytest.raises(PeerCut):
        holding.take(200)
    with pytest.raises(PeerCut):
        holding.take(1)
    holding.give(900)
    assert memory.octets == 0


def test_credit_is_not_extended_while_memory_is_tight_and_is_when_it_eases() -> None:
    eased = []
    memory = Memory(10 * KEPT_OCTETS, eased=lambda: eased.append(True))
    stranger, member, other = memory.holding(), memory.holding(), memory.holding()
    member.is_stranger = False
    other.take(8 * KEPT_OCTETS)
    assert not stranger.may_grow
    assert member.may_grow, "a member keeps what a message needs"
    member.take(KEPT_OCTETS)
    assert not member.may_grow
    other.give(4 * KEPT_OCTETS)
    assert stranger.may_grow
    assert eased == [True]


def test_pieces_cost_something_too() -> None:
    """8,192 pieces of one octet are more than 8 kB of memory."""
    memory = Memory()
    conversation = Conversation(1, memory.holding())
    for number in range(1_000):
        conversation.fragment_received(Fragment(Priority.MEDIA, 10 + 2 * number, WHOLE_BITS, b"x"))
    assert memory.octets >= 1_000 * GAP_CHARGE_OCTETS
