"""What the use cases of `rooms` take and give."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pserver.errors import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomLimits:
    """Bounds on what others can make this node keep. Counts unless the name says otherwise."""

    parked_per_room: int = 1_000
    parked_per_source: int = 400
    parked_octets_per_room: int = 8 * 1024 * 1024
    wanted_at_once: int = 200
    claim_pdus: int = 50_000
    invite_octets: int = 64 * 1024
    invites_per_origin_per_hour: int = 100
    invites_held: int = 2_000
    owed_unmet_max: int = 100
    """In a room of more servers than this, those that were never met are owed no events: they will compare."""
    outsider_events_per_hour: int = 100
    """Per room: events that were not accepted, and that servers outside the room brought."""
    outsider_octets_per_hour: int = 1024 * 1024
    events_per_walk: int = 100_000
    """How far back one walk over prev_events goes when another server asks for events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one PDU earned. `verdict` is None while it is parked; `event_id` is None where it could not be told."""

    event_id: str | None
    verdict: Verdict | None
    reason: str = ""
    new: bool = False
    """It was not held before: a carrier passes it on."""


@dataclass(slots=True, kw_only=True)
class ReceiveReport:
    """What a batch earned.

    `results` has one entry for each PDU of the batch, in its order; `released` those that had been parked and found
    their place because of it; `missing` the IDs of events to ask for: before the parked ones can be judged, or for a
    better copy.
    """

    results: list[Receipt] = field(default_factory=list)
    released: list[Receipt] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDigest:
    """`sec` is a function of the event set alone; `operational` of the current state, which arrival order can sway."""

    sec: bytes
    operational: bytes
    width: int
    """Number of forward extremities."""
    events: int
    """Events in the graph, rejected and soft-failed ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a node stands in a complete room, for a comparison.

    `leaves` are the events that none cites, and then those held only redacted that may say more to the auth rules.
    """

    room_id: str
    leaves: tuple[str, ...]
    sec: bytes
    operational: bytes
    width: int
