"""The persistent data unit: an event in federation form, read-only, with its derived identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import server_of


@dataclass(slots=True, kw_only=True, eq=False)
class Pdu:
    """One event that has passed the format check of its room version; never changed, as mypy sees to.

    (The interpreter does not: a frozen dataclass of this size takes three times as long to make.)
    `raw` is the JSON object as it travels (hashes and signatures included, `unsigned` and, from version 3 on, the event
    ID left out); treat it as immutable. `redacted_copy` says that the content hash did not match and `raw` is
    therefore the redacted form ("Checks performed on receipt of a PDU", step 3). `prev_events` names each parent once,
    also where `raw` repeats one; `auth_events` is in full, since a repetition there is against the auth rules. Both are
    plain event IDs in every room version.
    """

    event_id: Final[str]
    room_id: Final[str]
    rules: Final[RoomVersionRules]
    raw: Final[Mapping[str, Any]]
    type: Final[str]
    sender: Final[str]
    state_key: Final[str | None]
    content: Final[Mapping[str, Any]]
    depth: Final[int]
    origin_server_ts: Final[int]
    prev_events: Final[tuple[str, ...]]
    auth_events: Final[tuple[str, ...]]
    redacted_copy: Final[bool] = False

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    @property
    def state_slot(self) -> tuple[str, str] | None:
        """(type, state_key) of a state event, None of a message event."""
        return None if self.state_key is None else (self.type, self.state_key)

    @property
    def server(self) -> str:
        """The server that signed it: the sender's."""
        return server_of(self.sender)

    @property
    def redacts(self) -> str | None:
        """The event that an `m.room.redaction` names, wherever its room version keeps it."""
        if self.type != "m.room.redaction":
            return None
        target = self.content.get("redacts") if self.rules.redacts_in_content else self.raw.get("redacts")
        return target if isinstance(target, str) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pdu) and self.event_id == other.event_id and self.redacted_copy == other.redacted_copy

    def __hash__(self) -> int:
        return hash(self.event_id)
