"""Programs that the LAN tests run on the hosts of a `netns` network. Each says what happens as one JSON object a line.

peer PARAMETERS            a LAN transport and the least of what a node does above it: on each link it sends a number
                           every 0.3 s, and it closes a link on which nothing came for 3 s
flood COUNT ADDRESS        announces services that change all the time, at the address of a third host, with names, ids
                           and texts of all kinds, a third of them printers, for 60 s
counter                    counts who connects to the ports that `flood` announces
impostors COUNT            announces many services that do not exist, for 60 s
occupy                     takes port 5353 for itself alone
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import time
from typing import Any

from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from transports.contract import Link, LinkDown
from transports.lan import LanTransport

SEND_EVERY_S = 0.3
DEAD_AFTER_S = 3.0
PORTS = range(9100, 9110)


def say(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **details}), flush=True)


async def use(link: Link) -> None:
    async def send() -> None:
        number = 0
        while True:
            await link.send(b"%d" % number)
            number += 1
            await asyncio.sleep(SEND_EVERY_S)

    say("link", remote=link.remote, initiator=link.initiator)
    sending = asyncio.get_running_loop().create_task(send())
    try:
        while True:
            async with asyncio.timeout(DEAD_AFTER_S):
                say("got", datagram=(await link.receive()).decode(), remote=link.remote)
    except (LinkDown, TimeoutError) as error:
        say("down", reason=str(error) or "silence", remote=link.remote)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await link.close()


async def peer(parameters: str) -> None:
    transport = LanTransport.from_parameters(parameters)
    await transport.start(secrets.token_bytes(8))

    async def report() -> None:
        while True:
            status = transport.status()
            say("status", notes=status.notes, services=len(status.services), listening=status.listening)
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(report())
        while True:
            tasks.create_task(use(await transport.next_link()))


async def impostors(count: int) -> None:
    running = AsyncZeroconf()
    for number in range(count):
        name = secrets.token_hex(8)
        service = AsyncServiceInfo(
            "_p2pserver._tcp.local.",
            f"{name}._p2pserver._tcp.local.",
            port=9,
            addresses=[socket.inet_aton(f"10.77.0.{100 + number % 100}")],
            properties={"id": name, "v": "1"},
            server=f"{name}.local.",
        )
        broadcast = await running.async_register_service(service, cooperating_responders=True)
        if number == count - 1:
            await broadcast
    say("announced")
    await asyncio.sleep(60)


async def flood(count: int, address: str) -> None:
    running = AsyncZeroconf()
    services = []
    for number in range(count):
        name = secrets.token_hex(8)
        properties: dict[str, str | bytes] = {"id": name if number % 4 else secrets.token_hex(8), "v": "1"}
        if number % 5 == 0:
            properties |= {f"x{n}": secrets.token_bytes(200) for n in range(5)}
        kind = "_ipp._tcp.local." if number % 3 == 0 else "_p2pserver._tcp.local."
        service = AsyncServiceInfo(
            kind,
            f"{name}.{kind}",
            port=PORTS[number % len(PORTS)],
            addresses=[socket.inet_aton(address)],
            properties=properties,
            server=f"{name}.local.",
        )
        await running.async_register_service(service, cooperating_responders=True)
        services.append(service)
    say("announced")
    for turn in range(60):
        for number, service in enumerate(services):
            if number % 6 == turn % 6:
                service.port = PORTS[(number + turn) % len(PORTS)]
                await running.async_update_service(service)
        await asyncio.sleep(1)


async def counter() -> None:
    """A host that has nothing to do with us."""
    connections = 0

    def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    servers = [await asyncio.start_server(count, "0.0.0.0", port) for port in PORTS]
    say("counting", ports=len(servers))
    while True:
        await asyncio.sleep(1)
        say("count", connections=connections)


def occupy() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 5353))
        say("occupied")
        time.sleep(60)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", parameters]:
            asyncio.run(peer(parameters))
        case ["impostors", count]:
            asyncio.run(impostors(int(count)))
        case ["flood", count, address]:
            asyncio.run(flood(int(count), address))
        case ["counter"]:
            asyncio.run(counter())
        case ["occupy"]:
            occupy()
        case _:
            sys.exit(f"not a program: {sys.argv[1:]}")
