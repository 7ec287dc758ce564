"""What people read: the lines of `p2pserver run`, and those of `peers` and `rooms`.

No line is made for a wide screen: a name of 52 characters has a line of its own, so that it can be copied whole.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ifaddr

from p2pserver.config import Config
from p2pserver.graph_view.text import printable
from p2pserver.link import Priority
from p2pserver.link.network_key import NetworkKey
from p2pserver.node.identity import Identity
from p2pserver.node.peer_events import (
    FormerUsers,
    JoinUnderWay,
    KeyUsedTwice,
    MediaUnderWay,
    PeerConnected,
    PeerEvent,
    PeerLost,
    PeerRefused,
    SetBack,
)
from p2pserver.store.media_transfers import HELD_BACK, UNDER_WAY, TransferRow
from transports.contract import ServiceState, TransportStatus

NAME_CHARACTERS_MAX = 200


def welcome(
    config: Config,
    identity: Identity,
    url: str,
    *,
    token: str | None,
    register: str,
    device_addresses: Sequence[str] = (),
) -> list[str]:
    """The first lines: who this is, where a client goes, how to register, what is risky.

    `register` is the command that makes an account on this very node, without the user's name.
    """
    lines = [
        f"This node is {identity.server_name}" + (" (new)" if identity.is_new else ""),
        f"Point a Matrix client to {url}",
    ]
    port = url.rpartition(":")[2]
    lines += [f"On other devices of this network: http://{address}:{port}" for address in device_addresses]
    if config.registration == "open":
        lines.append(f"Register in the client, or with: {register} NAME")
    elif token is not None:
        lines.append(f"Register in the client with the token {token}, or with: {register} NAME")
    else:
        lines.append(f"Register with: {register} NAME")
    if config.listens_beyond_loopback:
        lines += [
            f"Listening on {config.listen_host}: everybody who reaches this device can try to log in,",
            "and passwords and messages cross the network unencrypted. Use a network that you trust.",
        ]
    if config.transports:
        lines.append(f"Looking for other nodes over {', '.join(config.transports)}; Ctrl-C stops")
    else:
        lines.append("Not looking for other nodes (--transport none); Ctrl-C stops")
    return lines


def device_addresses(listen_host: str) -> list[str]:
    """The IPv4 addresses under which other devices reach a node that listens on all addresses, at most four."""
    if listen_host not in ("0.0.0.0", "::"):  # noqa: S104  # compared, not listened on
        return []
    try:
        found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    except OSError:  # Android forbids some to look
        return []
    usable = (ip for ip in map(ipaddress.IPv4Address, found) if not ip.is_loopback and not ip.is_link_local)
    return [str(ip) for ip in sorted(usable)][:4]


def line_of(event: PeerEvent) -> str:
    """One line about a peer."""
    match event:
        case PeerConnected():
            return f"connected to {event.server_name} over {event.link}"
        case PeerLost():
            return printable(f"lost {event.server_name}: {event.reason}")
        case PeerRefused():
            return printable(f"refused {event.who}: {event.reason}")
        case JoinUnderWay(room_id, _, percent, octets, seconds_left):
            if seconds_left is None:
                return printable(f"joined {room_id}")
            left = _duration(seconds_left)
            return printable(f"joining {room_id}: {percent} % of {octets:,} octets, about {left} left")
        case MediaUnderWay():
            return printable(_line_of_media(event))
        case SetBack():
            return f"ALARM: {event.told_by} knows more of this node than its own data: they are old; it goes on anew"
        case KeyUsedTwice():
            whose = "this node's key: stop it, or this one" if event.ours else f"the key of {event.server_name}"
            return f"ALARM: another node runs with {whose}"
        case FormerUsers():
            names = ", ".join(event.user_ids[:5]) + (" and others" if len(event.user_ids) > 5 else "")
            return printable(f"others know {names}: `p2pserver register NAME` brings their rooms back")


def _line_of_media(event: MediaUnderWay) -> str:
    if event.seconds_left is None:
        return f"fetched {event.uri}"
    left = _duration(event.seconds_left)
    if event.held_back:
        return (
            f"not fetching {event.uri}: {event.size:,} octets would take about {left}; "
            f"`p2pserver media fetch {event.uri}` fetches it"
        )
    return f"fetching {event.uri}: {100 * event.octets // max(1, event.size)} % of {event.size:,} octets, {left} left"


def _duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"


def lines_of_joins(joins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Two lines for each row of `store.pending_joins.list_joins`."""
    for join in joins:
        yield printable(f"{join['membership']}ing for {join['user_id']}")
        yield printable(f"  {join['room_id']}")
        if join["octets_all"]:
            percent = 100 * join["octets"] // join["octets_all"]
            left = _duration(join["seconds_left"])
            yield printable(f"  {percent} % of {join['octets_all']:,} octets, about {left} left, from {join['source']}")
        else:
            yield "  nothing has arrived yet"


def lines_of_media(rows: Sequence[TransferRow]) -> Iterator[str]:
    """Two lines for each file that is wanted."""
    for row in rows:
        yield printable(row.uri)
        left = "" if row.seconds_left is None else f", about {_duration(row.seconds_left)}"
        if row.state == UNDER_WAY:
            percent = 100 * row.octets // max(1, row.size)
            yield printable(f"  {percent} % of {row.size:,} octets{left} left, from {row.source}")
        elif row.state == HELD_BACK:
            yield f"  held back: {row.size:,} octets{left}; `p2pserver media fetch` fetches it"
        else:
            yield "  nobody in reach has it" + ("" if row.for_server is None else "; a neighbor wants it")


def lines_of_transport(status: TransportStatus) -> Iterator[str]:
    """What a transport has to say, and what stands between us and nodes that it knows of."""
    for note in status.notes:
        yield printable(f"{status.kind}: {note}")
    for service in status.services:
        if service.state is ServiceState.FAILED:
            reason = f": {service.last_error}" if service.last_error else ""
            yield printable(f"{status.kind}: a node at {service.address} does not answer{reason}")


def lines_of_network(network: NetworkKey, *, before: str = "") -> list[str]:
    """What it means to broadcast in a network; `before` begins the first line."""
    if network.is_open:
        return [
            f"{before}the open network: its key is public, so whoever is",
            "in reach can read what is broadcast, but for what clients have encrypted.",
            "`p2pserver network create NAME` makes a network of your own.",
        ]
    return [
        f"{before}the network {printable(network.name)!r}, epoch {network.epoch}: who has its key",
        "can read what is broadcast, but for what clients have encrypted.",
    ]


def lines_of_peers(peers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Two lines for each row of `store.peers.list_peers`, and one more for each link where there are several."""
    for peer in peers:
        yield peer["server_name"]
        facts = []
        if peer["connected"]:
            facts.append(f"connected over {peer['link']}")
        elif peer["last_seen"] is not None:
            facts.append(f"last seen {peer['last_seen']}")
        else:
            facts.append("never met")
        if peer["queued"]:
            facts.append(f"{peer['queued']} waiting for it")
        if peer["blocked"]:
            facts.append("blocked")
        yield printable("  " + ", ".join(facts))
        links = peer.get("links", []) if peer["connected"] else []
        for link in links if len(links) > 1 else ():
            yield printable(f"  {link['link']}: {_what_it_carries(link['carries'])}")


def _what_it_carries(classes: Sequence[str]) -> str:
    if len(classes) == len(Priority):
        return "carries everything"
    return f"carries {', '.join(classes)}" if classes else "stands by"


def lines_of_rooms(rooms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Three lines for each row of `store.room_list.list_rooms`, and one more where there are alarms."""
    for room in rooms:
        yield printable((room["name"] or "(no name)")[:NAME_CHARACTERS_MAX])
        yield f"  {room['room_id']}"
        yield (
            f"  version {room['version']}, {room['joined']} joined, {room['events']} events, width {room['width']},"
            f" {room['history']}"
        )
        if room["alarms"]:
            yield f"  ALARMS: {room['alarms']}; see `p2pserver alarms {room['room_id'][:8]}`"
