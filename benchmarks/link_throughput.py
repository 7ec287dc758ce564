"""What the link costs on this machine: goodput, small messages and latency over a pipe in memory, by CPU time.

python benchmarks/link_throughput.py
"""

from __future__ import annotations

import json
import os
import time
from statistics import median

from p2pserver.link import Conversation, LinkEndpoint, PeerAuthenticated, Priority


class InMemory:
    """Two endpoints whose datagrams arrive at once."""

    def __init__(self, octets_max: int) -> None:
        now = time.process_time()
        self.conversations = [Conversation(1), Conversation(2)]
        self.ends = [
            LinkEndpoint(
                bytes([side + 1]) * 32, side == 0, octets_max, os.urandom, now, lambda _: True, local_epoch=side + 1
            )
            for side in (0, 1)
        ]
        while not all(conversation.attached for conversation in self.conversations):
            self.exchange()

    def exchange(self) -> None:
        """Carry datagrams both ways until nobody has one."""
        busy = True
        while busy:
            busy = False
            for side in (0, 1):
                now = time.process_time()
                end = self.ends[side]
                end.handle_timeout(now)
                for event in end.events():
                    if isinstance(event, PeerAuthenticated):
                        end.attach(self.conversations[side])
                for datagram in end.poll_transmit(now):
                    busy = True
                    self.ends[1 - side].datagram_received(datagram, now)


def goodput_mb_s(octets_max: int, octets: int) -> float:
    pipe = InMemory(octets_max)
    message = os.urandom(250_000)
    start = time.process_time()
    arrived = 0
    while arrived < octets:
        while pipe.conversations[0].can_send(len(message)):
            pipe.conversations[0].send(message, Priority.STATE)
        pipe.exchange()
        arrived += sum(map(len, pipe.conversations[1].received()))
    return arrived / (time.process_time() - start) / 1e6


def small_messages_per_s(octets_max: int, burst: int, total: int) -> float:
    pipe = InMemory(octets_max)
    message = os.urandom(300)
    start = time.process_time()
    arrived = 0
    while arrived < total:
        for _ in range(burst):
            pipe.conversations[0].send(message, Priority.TEXT)
        pipe.exchange()
        arrived += len(pipe.conversations[1].received())
    return arrived / (time.process_time() - start)


def one_way_us(octets_max: int) -> float:
    pipe = InMemory(octets_max)
    times = []
    for _ in range(2_000):
        start = time.process_time()
        pipe.conversations[0].send(b"x" * 300, Priority.TEXT)
        for datagram in pipe.ends[0].poll_transmit(start):
            pipe.ends[1].datagram_received(datagram, start)
        assert pipe.conversations[1].received()
        times.append(time.process_time() - start)
        pipe.exchange()
    return median(times) * 1e6


def main() -> None:
    print(
        json.dumps(
            {
                "goodput_mb_s": {octets: round(goodput_mb_s(octets, 20_000_000), 1) for octets in (200, 1_400, 65_535)},
                "messages_of_300_octets_per_s": {
                    "one a datagram": round(small_messages_per_s(65_535, 1, 5_000)),
                    "in bursts of 100": round(small_messages_per_s(65_535, 100, 20_000)),
                },
                "one_way_us": round(one_way_us(1_400), 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
