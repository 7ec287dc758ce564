"""What a `Peering` asks of the node, and the views of a room that it gets back.

An effect that reads or writes is answered by the method of `Peering` that its docstring names; the node may take as
long as it likes, but answers in the order of asking.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from p2pserver.errors import Verdict
from p2pserver.wire.messages import RoomDigests


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomView:
    """A room that this server is in, as one read saw it, with respect to the peer."""

    room_id: str
    leaves: tuple[str, ...]
    shared: bool
    """The peer has a joined or invited member, as far as is known here."""
    may_see: bool
    """The peer may be told event IDs and events of the room."""
    owed: bool = False
    """The outbox holds events of the room for the peer."""
    wanted: tuple[str, ...] = ()
    """Events that are cited and not held."""
    complete: bool = False
    """Every ancestor of every event is held: what follows from the events can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomStanding:
    """What follows here from the events of a complete room with these leaves: two digests of 32 octets."""

    room_id: str
    leaves: tuple[str, ...]
    sec: bytes
    current: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedItem:
    """A row of the outbox. `payload` is the PDU (kind `pdu`), else the JSON object of the edu or invite."""

    number: int
    kind: str
    room_id: str | None
    event_id: str | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PduResult:
    """What became of one PDU; verdict None: parked until its parents are here. event_id None: unreadable."""

    event_id: str | None
    verdict: Verdict | None
    new: bool
    """It was not held before."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer said its name; the node remembers it, and takes its clock as a neighbor's."""

    server_name: str
    agent: str
    clock_ms: int
    mark: bytes
    """To be kept for the peer."""
    kept: bytes
    """What it kept of us."""


@dataclass(frozen=True, slots=True)
class PeerMarked:
    """The peer gave another mark to be kept."""

    mark: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """The peer broke the protocol or may not talk to us: the node ends the conversation."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReadRooms:
    """Asks for the views of all rooms that this server is in. Answer: `rooms_read`."""


@dataclass(frozen=True, slots=True)
class ReadLeaves:
    """Asks for the views of some rooms. Answer: `leaves_read`, with this effect."""

    digests: Mapping[str, bytes | None]
    """By room ID, the digest that the peer told; None: the peer is to be told ours."""


@dataclass(frozen=True, slots=True)
class ReadStandings:
    """Asks for our standings in complete rooms that the peer may see. Answer: `standings_read`, with this effect."""

    told: Mapping[str, RoomDigests | None]
    """By room ID, what the peer told; None: it is to be told ours."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """The peer says that from the same events of a room something else follows there. It may be lying. No answer."""

    room_id: str
    ours: bytes
    theirs: bytes
    """8 octets each, of SEC digests, keyed for this pair."""


@dataclass(frozen=True, slots=True)
class StatesDiffer:
    """The peer says that its current state of a room is another one, with the same events. No answer."""

    room_id: str


@dataclass(frozen=True, slots=True)
class FindUnknown:
    """Asks which events are not held. Answer: `unknown_found`, with this effect."""

    room_id: str
    event_ids: tuple[str, ...]
    as_leaves: bool
    """They are the peer's leaves, and it did not have ours yet."""


@dataclass(frozen=True, slots=True)
class ReadHave:
    """Asks which of the events are still not held, and for a sample and a filter of what is. Answer: `have_read`."""

    room_id: str
    event_ids: tuple[str, ...]
    salt: bytes


@dataclass(frozen=True, slots=True)
class ReadMissing:
    """Asks for what the peer wants. Answer: `missing_read`."""

    room_id: str
    want: tuple[str, ...]
    have: tuple[str, ...]
    octets_max: int
    known: Container[str] = ()
    """Events that the peer says it holds: it is sent none of these unless it names them."""
    copies: frozenset[str] = frozenset()
    """Of `want`, what the peer holds a poor copy of: it needs a genuine one, and nothing before it."""


@dataclass(frozen=True, slots=True)
class Receive:
    """PDUs to be judged and stored. Answer, after the commit and never before: `received`, with this effect.

    If they cannot be stored (the disk is full), the node answers nothing and ends the conversation.
    """

    room_id: str
    pdus: tuple[Mapping[str, Any], ...]
    in_answer: bool
    more: bool
    asked: tuple[str, ...]
    """What had been wanted, if this is the answer."""
    overheard: bool = False
    """It was broadcast in the name of the peer, by whomever: only whole events count, and say nothing of the peer."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Events of a room came by push from the peer: others may lack them."""

    room_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A room grew by an exchange with the peer: others may want to compare."""

    room_id: str


@dataclass(frozen=True, slots=True)
class NobodyHas:
    """The peer was asked for events in vain. The node asks others."""

    room_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadOutbox:
    """Asks for a page of what is owed to the peer. Answer: `outbox_read`."""

    after: int
    octets_max: int


@dataclass(frozen=True, slots=True)
class Broadcast:
    """An event is owed to the peer, and perhaps to others that hear the same broadcasts.

    Answer: `broadcast_done` when it was on the air, or `broadcast_declined`, with its ID.
    """

    room_id: str
    event_id: str
    pdu: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HeardEphemera:
    """The peer tells who types there, who is present, how far its users have read: a JSON text. No answer."""

    edus: bytes


@dataclass(frozen=True, slots=True)
class PeerHears:
    """The peer says which network's broadcasts it reads, and what counter its next one has. No answer."""

    network_id: bytes
    epoch: int
    next_counter: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class ForgetOwed:
    """The peer holds these durably. No answer."""

    event_ids: tuple[str, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ForgetRoom:
    """The peer's leaves are `leaves`: if ours are still the same, no event of the room is owed.

    Answer: `room_forgotten`, with this effect.
    """

    room_id: str
    leaves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreItems:
    """EDUs and invites for this server: (number, kind, JSON text). Answer, after the commit: `items_stored`."""

    items: tuple[tuple[int, str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Serve:
    """A question of the peer. Answer: `served`."""

    number: int
    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a question of ours; ok: False with a Matrix error object."""

    number: int
    ok: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class AnswerArriving:
    """So much of the answer to a question of ours is here, and so much is still to come, as the peer says."""

    number: int
    octets: int
    left: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question of ours will not be answered: the peer is gone, or said too much."""

    number: int


@dataclass(frozen=True, slots=True)
class ReadMedia:
    """The peer asks for octets of a file. Answer: `media_read`, with less than that where there is less."""

    number: int
    ticket: bytes
    start: int
    octets: int


@dataclass(frozen=True, slots=True)
class MediaArrived:
    """Octets of a file that were asked for, perhaps fewer; b"": the peer has nothing for the ticket."""

    number: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class MediaUnanswered:
    """Octets that were asked for will not come: the peer is gone."""

    number: int


Effect: TypeAlias = (
    Greeted
    | Leave
    | ReadRooms
    | ReadLeaves
    | ReadStandings
    | Diverged
    | StatesDiffer
    | FindUnknown
    | ReadHave
    | ReadMissing
    | Receive
    | Forward
    | Changed
    | NobodyHas
    | ReadOutbox
    | Broadcast
    | HeardEphemera
    | PeerHears
    | PeerMarked
    | ForgetOwed
    | ForgetRoom
    | StoreItems
    | Serve
    | AnswerArriving
    | Answered
    | Unanswered
    | ReadMedia
    | MediaArrived
    | MediaUnanswered
)
