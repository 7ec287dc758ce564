"""What people are told of other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PeerConnected:
    server_name: str
    link: str
    agent: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    server_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """It broke the protocol. `who` is its server name, or its key in hex."""

    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class JoinUnderWay:
    """A join that takes long: so many percent of `octets` are here. `seconds_left` is None once the room is joined."""

    room_id: str
    server_name: str
    percent: int
    octets: int
    seconds_left: float | None


PeerEvent: TypeAlias = PeerConnected | PeerLost | PeerRefused | JoinUnderWay
