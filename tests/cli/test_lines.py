"""What people read fits a plain terminal and cannot command it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from p2pserver.config import Config
from p2pserver.identifiers import server_name_of
from p2pserver.link.network_key import OPEN_NETWORK
from p2pserver.node.identity import load_identity
from p2pserver.node.lines import (
    device_addresses,
    line_of,
    lines_of_network,
    lines_of_peers,
    lines_of_rooms,
    lines_of_transport,
    printable,
    welcome,
)
from p2pserver.node.peer_events import PeerLost
from transports.contract import DiscoveredService, ServiceState, TransportStatus

NAME = server_name_of(bytes(range(32)))
PEER = {
    "server_name": NAME,
    "link": "lan 192.168.100.107:44945",
    "connected": True,
    "last_seen": "2026-07-01 10:00:00 UTC",
    "queued": 12_345,
    "blocked": False,
    "agent": "p2pserver",
}
ROOM = {
    "room_id": "!" + "r" * 43,
    "name": "harbor",
    "version": "12",
    "joined": 100_000,
    "events": 1_000_000,
    "width": 20,
    "gaps": 3,
    "alarms": 2,
    "history": "partial, 3 gaps",
}


def test_peers_and_rooms_fit_80_columns_and_show_names_whole() -> None:
    rows = [PEER, {**PEER, "connected": False, "blocked": True}]
    lines = [*lines_of_peers(rows), *lines_of_rooms([ROOM])]
    assert NAME in lines
    assert f"  {ROOM['room_id']}" in lines
    assert "  ALARMS: 2; see `p2pserver alarms !rrrrrrr`" in lines
    assert max(map(len, lines)) <= 80
    assert "connected over lan 192.168.100.107:44945, 12345 waiting for it" in lines[1]
    assert "last seen 2026-07-01 10:00:00 UTC, 12345 waiting for it, blocked" in lines[3]


def test_a_blocked_node_that_was_never_met_is_said_to_be_one() -> None:
    never = {**PEER, "connected": False, "last_seen": None, "link": None, "queued": 0, "blocked": True}
    assert list(lines_of_peers([never])) == [NAME, "  never met, blocked"]


def test_text_of_others_cannot_command_the_terminal() -> None:
    assert printable("\x1b[2Jgone\u202e\ud800") == "\ufffd[2Jgone\ufffd\ufffd"
    assert printable("a\u00a0b\nc[/red]") == "a b c[/red]"
    [name, *_] = lines_of_rooms([{**ROOM, "name": "\x1b]0;owned\x07[/bold]" + "x" * 10_000}])
    assert name.startswith("\ufffd]0;owned\ufffd[/bold]x")
    assert len(name) <= 200
    assert "\x1b" not in line_of(PeerLost(NAME, "the peer said: \x1b[31m"))
    assert next(lines_of_rooms([{**ROOM, "name": None}])) == "(no name)"


def test_a_transport_tells_what_stands_in_the_way_and_not_what_is_well() -> None:
    services = tuple(
        DiscoveredService(address=f"10.0.0.{number}:1", hint=None, state=state, last_error="timeout")
        for number, state in enumerate(ServiceState)
    )
    status = TransportStatus(kind="lan", services=services, notes=("no mDNS",))
    assert list(lines_of_transport(status)) == [
        "lan: no mDNS",
        "lan: a node at 10.0.0.3:1 does not answer: timeout",
    ]


def test_beyond_loopback_other_devices_are_told_the_address_to_use(tmp_path: Path) -> None:
    identity = load_identity(tmp_path)
    assert device_addresses("127.0.0.1") == []
    assert all(not address.startswith("127.") for address in device_addresses("0.0.0.0"))
    lines = welcome(
        Config(data_dir=tmp_path, listen_host="0.0.0.0", registration="token"),
        identity,
        "http://127.0.0.1:8008",
        token="abc",
        register="p2pserver register",
        device_addresses=["192.168.1.7"],
    )
    assert "On other devices of this network: http://192.168.1.7:8008" in lines
    assert "unencrypted" in " ".join(lines)


def test_it_is_said_plainly_who_can_read_what_is_broadcast() -> None:
    first, *_, last = lines_of_network(OPEN_NETWORK, before="Broadcasting on shared radios in ")
    assert first.startswith("Broadcasting on shared radios in the open network: its key is public")
    assert "network create" in last
    own = replace(OPEN_NETWORK, network_id=bytes(8), name="\x1b[2JVillage", epoch=3)
    assert lines_of_network(own)[0].startswith("the network '\ufffd[2JVillage', epoch 3: who has its key")
