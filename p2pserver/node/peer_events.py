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


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaUnderWay:
    """A file of another node that takes long, or, `held_back`, would take so long that somebody must ask for it.

    `seconds_left` is None once it is here.
    """

    uri: str
    server_name: str
    octets: int
    size: int
    seconds_left: int | None
    held_back: bool


@dataclass(frozen=True, slots=True)
class SetBack:
    """A peer knows more of what this node did than its own database: it goes on anew."""

    told_by: str


@dataclass(frozen=True, slots=True)
class KeyUsedTwice:
    """Two processes run with the key of `server_name`; `ours`: it is this node's."""

    server_name: str
    ours: bool


@dataclass(frozen=True, slots=True)
class FormerUsers:
    """Others know these users of this node, who have no account here."""

    user_ids: tuple[str, ...]


PeerEvent: TypeAlias = (
    PeerConnected | PeerLost | PeerRefused | JoinUnderWay | MediaUnderWay | SetBack | KeyUsedTwice | FormerUsers
)
