"""Controllers for the kernel of this machine (/dev/vhci), joined by a virtual air.

Lines of standard input: `part K0 K1` and `meet K0 K1`.
"""

from __future__ import annotations

import asyncio
import sys

from bumble.transport import open_transport

from tests.transports.ble.virtual_air import VirtualAir


async def main(count: int) -> None:
    air = VirtualAir()
    for number in range(count):
        transport = await open_transport("vhci")
        air.controller(f"K{number}", host_source=transport.source, host_sink=transport.sink)
        await asyncio.sleep(0.5)
    print("air", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        (air.part if line[0] == "part" else air.meet)(line[1], line[2])
        print(line[0], flush=True)


asyncio.run(main(int(sys.argv[1])))
