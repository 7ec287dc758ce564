"""One peer, several links side by side: losing one loses nothing, and delivers nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from p2pserver.link import EPOCHS, Conversation, LinkEndpoint, Priority, datagram_octets, pacer_for, timers_for
from p2pserver.link.frames import Fragment, decode_varint
from p2pserver.link.incoming import Incoming
from p2pserver.link.outgoing import Outgoing
from p2pserver.link.recovery import Recovery
from p2pserver.mesh.neighbors import PipeFacts
from p2pserver.node.pipes import Pipe
from p2pserver.node.pipes_of_peer import PipesOfPeer
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.store.peers import list_peers
from transports.contract import Link
from transports.sim import LinkConditions, SimNetwork, run_virtual

FAST = LinkConditions(delay_ms_mean=2, jitter_ms=1)
SLOW = LinkConditions(delay_ms_mean=40, jitter_ms=20, loss=0.1, bit_rate=100_000, datagram_octets_max=244)


class End:
    """A node reduced to one conversation with whoever it meets, over all networks that it is on."""

    def __init__(self, host: str, seed: int, networks: list[SimNetwork]) -> None:
        self.host = host
        self.rng = random.Random(seed)
        self.seed = self.rng.randbytes(32)
        self.conversation = Conversation(self.rng.randrange(EPOCHS))
        self.clock = asyncio.get_running_loop().time
        self.pipes = PipesOfPeer(self.conversation, self.clock)
        self.received: list[bytes] = []
        self.sent: list[tuple[bytes, Priority]] = []
        self.tasks = [asyncio.create_task(self.serve(number, network)) for number, network in enumerate(networks)]
        self.tasks.append(asyncio.create_task(self.recheck()))

    async def serve(self, number: int, network: SimNetwork) -> None:
        transport = network.transport(self.host)
        await transport.start(self.rng.randbytes(8))
        while True:
            self.take(await transport.next_link(), number)

    async def recheck(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.pipes.recheck_at is not None and self.pipes.recheck_at <= self.clock():
                self.pipes.choose()
                self.pipes.wake()

    def take(self, link: Link, number: int) -> None:
        endpoint = LinkEndpoint(
            self.seed,
            link.initiator,
            datagram_octets(link.profile),
            self.rng.randbytes,
            self.clock(),
            lambda key: True,
            local_epoch=self.conversation.local_epoch,
            timers=timers_for(link.profile),
            pacer=pacer_for(link.profile),
        )
        pipe = Pipe(link, endpoint, self, clock=self.clock, transport=number)
        self.tasks.append(asyncio.create_task(pipe.run()))

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        facts = PipeFacts(transport=pipe.transport, initiated_here=pipe.initiator, since=self.clock())
        self.pipes.add(pipe, facts)
        self.pipes.wake()

    def pipe_active(self, pipe: Pipe) -> None:
        new = self.conversation.received()
        self.received += new
        self.pipes.wake_others(pipe)
        if new:
            self.pipes.wake()

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        if pipe in self.pipes:
            self.pipes.choose()
            self.pipes.wake()

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        self.pipes.remove(pipe)
        self.pipes.wake()

    def say(self, octets: bytes, priority: Priority) -> None:
        self.sent.append((octets, priority))
        self.conversation.send(octets, priority)
        self.pipes.wake()

    def carries(self) -> dict[str, int]:
        """How many classes go over each link."""
        return {link.split()[0]: len(classes) for link, classes in self.pipes.links()}


def problems(sender: End, receiver: End) -> list[str]:
    """What is wrong after all that was sent should have arrived: the check that sabotage must not pass."""
    found = []
    for priority in Priority:
        sent = [octets for octets, its in sender.sent if its is priority]
        known = set(sent)
        got = [octets for octets in receiver.received if octets in known]
        if got != sent:
            lost, twice = len(known - set(got)), len(got) - len(set(got))
            found.append(f"{priority.name}: {lost} of {len(sent)} lost, {twice} twice, or out of order")
    strange = set(receiver.received) - {octets for octets, _ in sender.sent}
    return [*found, *([f"{len(strange)} were never sent"] if strange else [])]


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the condition reads what others write
            await asyncio.sleep(0.01)
    return loop.time() - began


def apart(network: SimNetwork) -> None:
    """Datagrams vanish without a word, as behind an access point that died."""
    network.partition([{"a"}, {"b"}])


class Story:
    """Two ends on a fast and a slow network, connected over both."""

    async def begin(self, seed: int = 1, fast: LinkConditions = FAST, slow: LinkConditions = SLOW) -> None:
        self.fast = SimNetwork(seed=seed, conditions=fast, both_dial=0.0, kind="fast")
        self.slow = SimNetwork(seed=seed + 1, conditions=slow, both_dial=0.0, kind="slow")
        self.rng = random.Random(seed)
        self.a, self.b = (End(host, number, [self.fast, self.slow]) for number, host in enumerate("ab", 1))
        self.ends = (self.a, self.b)
        await until(lambda: all(len(end.carries()) == 2 for end in self.ends), 30)

    def chat(self, messages: int, octets_max: int = 4_000) -> None:
        for end in self.ends:
            for _ in range(messages):
                octets = max(5, int(octets_max ** self.rng.random()))
                end.say(self.rng.randbytes(octets), Priority(self.rng.randrange(6)))

    async def all_arrived(self, within_s: float) -> float:
        return await until(
            lambda: all(
                not end.conversation.queued_octets and len(other.received) >= len(end.sent)
                for end, other in (self.ends, self.ends[::-1])
            ),
            within_s,
        )

    def problems(self) -> list[str]:
        return problems(self.a, self.b) + problems(self.b, self.a)

    async def end(self) -> None:
        await asyncio.sleep(1)  # what is doubled may come later
        assert self.problems() == []
        for end in self.ends:
            for task in end.tasks:
                task.cancel()


def test_everything_goes_over_the_fast_link_while_it_answers() -> None:
    async def main() -> None:
        story = Story()
        await story.begin()
        await asyncio.sleep(1)
        assert all(end.carries() == {"fast": 6, "slow": 0} for end in story.ends)
        slow_before = story.slow.counts.sent
        story.chat(200)
        assert await story.all_arrived(30) < 5
        assert story.slow.counts.sent - slow_before < 10
        await story.end()

    run_virtual(main())


def test_a_fast_link_that_dies_in_silence_is_replaced_within_a_moment_and_taken_again_when_it_is_back() -> None:
    async def main() -> None:
        story = Story()
        await story.begin()
        await asyncio.sleep(10)
        apart(story.fast)
        story.a.say(b"are you there?", Priority.TEXT)
        assert await story.all_arrived(2) < 0.5
        story.chat(30)
        await story.all_arrived(60)
        assert story.a.carries()["slow"] == 6
        await asyncio.sleep(60)
        assert story.a.carries() == {"slow": 6}
        story.fast.heal()
        await until(lambda: all(end.carries() == {"fast": 6, "slow": 0} for end in story.ends), 60)
        story.chat(30)
        await story.all_arrived(60)
        await story.end()

    run_virtual(main())


def test_a_link_that_is_cut_with_a_word_loses_nothing() -> None:
    async def main() -> None:
        story = Story()
        await story.begin()
        story.fast.down_after_s = 0.0
        story.chat(100, 20_000)
        await asyncio.sleep(0.01)
        apart(story.fast)
        await story.all_arrived(120)
        await story.end()

    run_virtual(main())


def test_a_link_that_takes_nothing_more_is_left() -> None:
    async def main() -> None:
        story = Story()
        await story.begin(fast=LinkConditions(delay_ms_mean=2, buffer_octets=20_000))
        stuck = next(wire for pair in story.fast._pairs.values() for wire in pair.wires)
        for end in (stuck.near, stuck.far):
            end.hold(1_000_000)  # a full buffer that nobody empties
        story.chat(20)
        await story.all_arrived(60)
        assert story.a.carries()["slow"] == 6
        await story.end()

    run_virtual(main())


async def flap(seed: int) -> list[str]:
    """Both links come and go, now one, now the other, now both, silently or with a word, under traffic."""
    story = Story()
    await story.begin(seed)
    rng = random.Random(seed)
    for _ in range(40):
        network = rng.choice([story.fast, story.slow])
        network.down_after_s = rng.choice([None, 0.0, 1.0])
        network.heal() if rng.random() < 0.5 else apart(network)
        story.chat(rng.randrange(8), 10_000)
        await asyncio.sleep(rng.choice([0.01, 0.1, 1.0, 5.0, 40.0]))
    story.fast.heal()
    story.slow.heal()
    try:
        await story.all_arrived(300)
        await asyncio.sleep(1)
    except TimeoutError:
        pass
    found = story.problems()
    for end in story.ends:
        for task in end.tasks:
            task.cancel()
    return found


@pytest.mark.parametrize("seed", range(1, 7))
def test_links_that_flap_lose_nothing_and_deliver_nothing_twice(seed: int) -> None:
    assert run_virtual(flap(seed)) == []


def lose_on_detach(patch: pytest.MonkeyPatch) -> None:
    honest = Outgoing.pipe_entered

    def entered(self: Outgoing, *, peer_restarted: bool, alone: bool) -> None:
        honest(self, peer_restarted=peer_restarted, alone=False)

    patch.setattr(Outgoing, "pipe_entered", entered)
    patch.setattr(Recovery, "in_flight", property(lambda _self: []))


def deliver_twice(patch: pytest.MonkeyPatch) -> None:
    honest = Incoming.fragment_received

    def eager(self: Incoming, fragment: Fragment) -> None:
        honest(self, fragment)
        queue = self._classes[fragment.priority]
        if fragment.position + len(fragment.data) <= queue.base:
            octets, start = decode_varint(fragment.data, 0)
            if 0 < octets == len(fragment.data) - start:  # a whole message, and not the first time perhaps
                self._ready[fragment.priority].append(fragment.data[start:])

    patch.setattr(Incoming, "fragment_received", eager)


@pytest.mark.parametrize("sabotage", [lose_on_detach, deliver_twice])
def test_sabotage_is_reported(sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch)
    assert run_virtual(flap(1)) != []


def test_short_messages_take_the_quick_link_and_long_ones_the_wide_one() -> None:
    async def main() -> None:
        story = Story()
        satellite = LinkConditions(delay_ms_mean=600)
        await story.begin(fast=satellite, slow=LinkConditions(delay_ms_mean=20, bit_rate=200_000))
        await asyncio.sleep(10)
        shares = dict(story.a.pipes.links())
        wide = next(classes for link, classes in shares.items() if link.startswith("fast"))
        quick = next(classes for link, classes in shares.items() if link.startswith("slow"))
        assert Priority.MEDIA in wide
        assert Priority.TEXT in quick
        story.chat(100, 50_000)
        await story.all_arrived(300)
        await story.end()

    run_virtual(main())


def test_whole_nodes_stay_connected_while_links_change_and_say_which_carries_what() -> None:
    async def main() -> None:
        ble = SimNetwork(seed=4, conditions=SLOW, kind="ble")
        mesh = SimulatedMesh(["a", "b"], seed=3, more_networks=[ble])
        mesh.network.kind = "lan"
        await mesh.start()
        await asyncio.sleep(10)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, name="harbor", preset="private_chat", invite=[boris.user_id])
        await asyncio.sleep(2)
        joined = await RoomActions.join(boris, room.room_id)
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        database = mesh.nodes["a"].database
        assert database is not None
        everything = [priority.name.lower() for priority in Priority]

        async def links() -> list[tuple[str, list[str]]]:
            assert database is not None
            (row,) = await database.read(list_peers)
            return [(link["link"], link["carries"]) for link in row["links"]]

        assert await links() == [("lan b", everything), ("ble b", [])]
        apart(mesh.network)
        await joined.send("boris, by radio")
        took_s = await mesh.until_equal(room.room_id, within_s=30)
        assert took_s is not None
        assert took_s < 2
        await room.send("anna, by radio")
        assert await mesh.until_equal(room.room_id, within_s=30) is not None
        await asyncio.sleep(60)
        assert await links() == [("ble b", everything)]
        mesh.network.heal()
        await asyncio.sleep(60)
        assert await links() == [("lan b", everything), ("ble b", [])]
        assert [mesh.nodes[name].running.mesh.connected() for name in "ab"] == [
            [mesh.nodes["b"].server_name],
            [mesh.nodes["a"].server_name],
        ]
        await mesh.stop()

    run_virtual(main(), limit_s=7200)
