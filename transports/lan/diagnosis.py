"""What this machine and the network that it is on can do for the LAN transport: for `p2pserver doctor`.

Listens for a moment who is announced, announces nobody, and opens and closes a connection to some of those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from transports.finding import Finding, Weight
from transports.lan.addresses import LocalAddress, bare, local_addresses
from transports.lan.discovery import Announcement, Discovery
from transports.lan.transport import PASSES_MULTICAST_ONLY

LISTEN_S = 3.0
DIAL_S = 3.0
DIALED_MAX = 8


@dataclass(frozen=True, slots=True)
class LanFacts:
    """`addresses`: None where the system does not tell. `mdns`: why mDNS does not work. `announced`: nodes on other
    machines; `answered`: of `dialed` of them. `here`: nodes on this machine."""

    addresses: frozenset[LocalAddress] | None
    mdns: str | None = None
    announced: int = 0
    dialed: int = 0
    answered: int = 0
    here: int = 0


async def gather(listen_s: float = LISTEN_S) -> LanFacts:
    try:
        everywhere = local_addresses()
    except OSError:
        return LanFacts(None)
    local = frozenset(own for own in everywhere if not own.ip.is_loopback)
    if not local:
        return LanFacts(local)
    found: dict[str, Announcement] = {}
    discovery = Discovery(bytes(8), found=lambda who: found.update({who.name: who}), gone=lambda _: None)
    await discovery.start(local | {own for own in everywhere if own.ip.is_loopback and own.ip.version == 4}, None, 0)
    try:
        if not discovery.running:
            return LanFacts(local, mdns=discovery.note)
        await asyncio.sleep(listen_s)
    finally:
        await discovery.stop()
    own = {str(address.ip) for address in everywhere}
    others = [who for who in found.values() if not any(bare(host) in own for host, _ in who.addresses)]
    some = others[:DIALED_MAX]
    answered = sum(await asyncio.gather(*(_answers(who) for who in some)))
    return LanFacts(local, announced=len(others), dialed=len(some), answered=answered, here=len(found) - len(others))


async def _answers(who: Announcement) -> bool:
    """Whether anything comes back, be it a refusal."""
    for host, port in who.addresses:
        try:
            async with asyncio.timeout(DIAL_S):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
        except ConnectionError:
            return True
        except OSError:
            continue
        return True
    return False


def judge(facts: LanFacts) -> tuple[Finding, ...]:
    if facts.addresses is None:
        remedy = "name the others, with lan:peer=HOST:PORT"
        return (Finding(Weight.REMARK, "the system does not tell the addresses of this machine", remedy),)
    if not facts.addresses:
        return (Finding(Weight.BAD, "this machine is on no network", "plug in a cable, or join a Wi-Fi"),)
    findings = [Finding(Weight.GOOD, f"this machine is on {_networks(facts.addresses)}")]
    if facts.here:
        nodes = "one node runs" if facts.here == 1 else f"{facts.here} nodes run"
        findings.append(Finding(Weight.GOOD, f"{nodes} on this machine and can be found"))
    return (*findings, _neighbors(facts))


def _networks(addresses: Collection[LocalAddress]) -> str:
    interfaces = sorted({own.interface for own in addresses})
    versions = sorted({f"IPv{own.ip.version}" for own in addresses})
    return f"{', '.join(interfaces)} with {' and '.join(versions)}"


def _neighbors(facts: LanFacts) -> Finding:
    if facts.mdns is not None:
        return Finding(Weight.BAD, facts.mdns, "end the program that has port 5353, or use lan:peer=HOST:PORT")
    if not facts.announced:
        remedy = "if others run here, the network blocks multicast: name one with lan:peer=HOST:PORT"
        return Finding(Weight.REMARK, "no node of another machine is announced on this network", remedy)
    if not facts.answered:
        what, _, remedy = PASSES_MULTICAST_ONLY.rpartition(": ")
        return Finding(Weight.BAD, what, remedy)
    answer = f"{facts.answered} of {facts.dialed} that were tried answer"
    return Finding(Weight.GOOD, f"other nodes are announced here: {facts.announced}; {answer}")
