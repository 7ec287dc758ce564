"""Pipes over the simulated network: link and transport driven by asyncio on virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pserver.link import EPOCHS, Conversation, LinkEndpoint, Priority
from p2pserver.node.pipes import Pipe
from transports.sim import LinkConditions, SimNetwork, run_virtual


class End:
    """A node reduced to one conversation with whoever it meets."""

    def __init__(self, network: SimNetwork, host: str, seed: int) -> None:
        self.host = host
        self.network = network
        self.rng = random.Random(seed)
        self.seed = self.rng.randbytes(32)
        self.epoch = self.rng.randrange(EPOCHS)
        self.conversation = Conversation(self.epoch)
        self.messages: list[bytes] = []
        self.pipes: list[Pipe] = []
        self.reasons: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        transport = self.network.transport(self.host)
        await transport.start(self.rng.randbytes(8))
        while True:
            link = await transport.next_link()
            clock = asyncio.get_running_loop().time
            endpoint = LinkEndpoint(
                self.seed,
                link.initiator,
                link.profile.addressed_octets_max,
                self.rng.randbytes,
                clock(),
                lambda key: True,
                local_epoch=self.epoch,
            )
            pipe = Pipe(link, endpoint, self, clock=clock)
            self.pipes.append(pipe)
            self.tasks.append(asyncio.create_task(pipe.run()))

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        pipe.attach(self.conversation)

    def pipe_active(self, pipe: Pipe) -> None:
        self.messages += self.conversation.received()

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        pass

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        self.reasons.append(reason)

    def say(self, text: str) -> None:
        self.conversation.send(text.encode(), Priority.TEXT)
        for pipe in self.pipes:
            pipe.wake()


async def until(condition: object, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("datagram_octets", [200, 65_535])
def test_messages_arrive_in_order_once_over_a_bad_network(loss: float, datagram_octets: int) -> None:
    async def main() -> None:
        conditions = LinkConditions(
            loss=loss, duplication=loss / 2, delay_ms_mean=30, jitter_ms=25, datagram_octets_max=datagram_octets
        )
        network = SimNetwork(seed=5, conditions=conditions, both_dial=0.0)
        ends = [End(network, "a", 1), End(network, "b", 2)]
        servers = [asyncio.create_task(end.serve()) for end in ends]
        expected = [f"{n} " + "x" * (n * 13 % 700) for n in range(100)]
        for text in expected:
            for end in ends:
                end.say(text)
        for end in ends:
            await until(lambda end=end: len(end.messages) == 100, 600)
            assert [message.decode() for message in end.messages] == expected
        for task in servers + [task for end in ends for task in end.tasks]:
            task.cancel()

    run_virtual(main())


def test_a_conversation_goes_on_after_a_partition() -> None:
    async def main() -> None:
        network = SimNetwork(seed=6, both_dial=0.0)
        ends = [End(network, "a", 1), End(network, "b", 2)]
        servers = [asyncio.create_task(end.serve()) for end in ends]
        ends[0].say("before")
        await until(lambda: ends[1].messages == [b"before"], 30)
        network.partition([{"a"}, {"b"}])
        ends[0].say("meanwhile")
        await until(lambda: all(end.reasons for end in ends), 300)
        assert ends[1].messages == [b"before"]
        network.heal()
        await until(lambda: ends[1].messages == [b"before", b"meanwhile"], 300)
        ends[1].say("answer")
        await until(lambda: ends[0].messages == [b"answer"], 30)
        for task in servers + [task for end in ends for task in end.tasks]:
            task.cancel()

    run_virtual(main())
