"""What is drawn of a room: its events as they are held, what is missing, and which events lie open at the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from p2pserver.identifiers import server_of

HEALING_TYPE = "org.matrix.dummy_event"


class Look(Enum):
    """How an event is drawn; the first that applies, in this order. The value is what the legend says."""

    OUTLIER = "outlier: held, but with no place in the graph"
    REJECTED = "rejected: its own past forbids it"
    SOFT_FAILED = "soft-failed: came too late to count here"
    HEALING = "healing event: joins branches, hidden from clients"
    STATE = "state event"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEvent:
    """One event. `depth` is the computed one; `verdict` is accepted, soft_failed or rejected.

    `redacted_copy` says that its content never matched its hash, `redacted_by` that a redaction took the content.
    """

    event_id: str
    sender: str
    type: str
    state_key: str | None
    membership: str | None
    depth: int
    position: int
    origin_server_ts: int
    verdict: str
    reason: str | None
    outlier: bool
    redacted_copy: bool
    redacted_by: str | None
    extremity: bool
    prev_events: tuple[str, ...]

    @property
    def server(self) -> str:
        return server_of(self.sender)

    @property
    def look(self) -> Look:
        if self.outlier:
            return Look.OUTLIER
        if self.verdict == "rejected":
            return Look.REJECTED
        if self.verdict == "soft_failed":
            return Look.SOFT_FAILED
        if self.type == HEALING_TYPE:
            return Look.HEALING
        return Look.MESSAGE if self.state_key is None else Look.STATE

    @property
    def is_redacted(self) -> bool:
        return self.redacted_copy or self.redacted_by is not None

    @property
    def is_plain(self) -> bool:
        """Whether nobody misses it where a row of such events is drawn as one."""
        return self.look in (Look.MESSAGE, Look.STATE) and not self.is_redacted and not self.extremity

    @property
    def caption(self) -> str:
        """One or two words for a picture; nothing for a message."""
        if self.type == "m.room.member":
            by_another = self.membership == "leave" and self.sender != self.state_key
            return "kick" if by_another else str(self.membership or "member")
        if self.type == HEALING_TYPE:
            return "heal"
        if self.state_key is None and self.type != "m.room.redaction":
            return ""
        words = self.type.removeprefix("m.room.").rpartition(".")[2].replace("_", " ")
        return {"history visibility": "history", "power levels": "power", "guest access": "guests"}.get(words, words)

    def told(self) -> list[str]:
        """Everything about it, a line each: a tooltip."""
        what = self.type if self.state_key is None else f"{self.type}, state key {self.state_key!r}"
        if self.membership is not None:
            what += f", {self.membership}"
        verdict = self.verdict.replace("_", "-") + (f" {self.reason}" if self.reason else "")
        lines = [self.event_id, what, f"from {self.sender}", verdict]
        if self.outlier:
            lines.append("outlier: known as an auth event or as claimed state, with no place in the graph")
        if self.extremity:
            lines.append("forward extremity: the next event of this node cites it")
        if self.redacted_copy:
            lines.append("redacted copy: the content that came does not match the hash")
        if self.redacted_by is not None:
            lines.append(f"redacted by {self.redacted_by}")
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphGap:
    """A backward extremity: an event that is cited and not held. `history`: from before a join of this node."""

    missing_event_id: str
    depth: int
    claimed_by: str | None
    history: bool

    def told(self) -> list[str]:
        claim = (
            "nobody claimed the state after it" if self.claimed_by is None else f"state claimed by {self.claimed_by}"
        )
        return [self.missing_event_id, "gap: cited, and not held here", claim]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomGraph:
    """A room, or the newest part of it: parents that are neither here nor a gap are simply not shown.

    `events` are in the order of depth and arrival; `events_held` counts all of the room's graph, outliers aside.
    """

    room_id: str
    version: str
    name: str | None
    complete: bool
    events_held: int
    outliers_held: int
    events: tuple[GraphEvent, ...]
    gaps: tuple[GraphGap, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON: one object, the events and gaps as objects with the fields of their classes."""
        fields: Mapping[str, Any] = {
            "room_id": self.room_id,
            "room_version": self.version,
            "name": self.name,
            "complete": self.complete,
            "events_held": self.events_held,
            "outliers_held": self.outliers_held,
        }
        events = [{**asdict(event), "server": event.server, "caption": event.caption} for event in self.events]
        return {**fields, "events": events, "gaps": [asdict(gap) for gap in self.gaps]}
