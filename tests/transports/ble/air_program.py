"""A virtual air for other processes: HCI controllers on TCP, one for each place.

    python -m tests.transports.ble.air_program ann ben

prints {"ann": PORT, "ben": PORT}. A program that connects to a port finds a controller that was just switched on; when
it goes away, so does the controller, without a word to the others. Lines of standard input say who walks where:
`part ann ben`, `meet ann ben`, `count` (prints what went over the air); the end of it ends the program.
"""

from __future__ import annotations

import asyncio
import json
import sys

from bumble.transport.common import PacketParser, StreamPacketSink

from tests.transports.ble.virtual_air import AirController, VirtualAir


class Socket(asyncio.Protocol):
    """One host's connection to its controller."""

    def __init__(self, air: VirtualAir, place: str) -> None:
        self._air, self._place = air, place
        self._parser = PacketParser()
        self._controller: AirController | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._controller = self._air.controller(self._place, host_sink=StreamPacketSink(transport))
        self._parser.set_packet_sink(self._controller)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._controller is not None:
            self._air.lose(self._controller)


async def main(places: list[str], *, paced: bool) -> None:
    air = VirtualAir(paced=paced)
    loop = asyncio.get_running_loop()
    servers = {
        place: await loop.create_server(lambda place=place: Socket(air, place), "127.0.0.1", 0) for place in places
    }
    print(json.dumps({place: server.sockets[0].getsockname()[1] for place, server in servers.items()}), flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["part", a, b]:
                air.part(a, b)
            case ["meet", a, b]:
                air.meet(a, b)
            case ["count"]:
                pass
            case _:
                raise ValueError(f"what is {line}?")
        print(json.dumps(air.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main([word for word in sys.argv[1:] if word != "--paced"], paced="--paced" in sys.argv))
