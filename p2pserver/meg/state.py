"""The words of this folder: state slots, state maps, where events come from, and the refusal of the auth rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeAlias

from p2pserver.events.pdu import Pdu

StateSlot: TypeAlias = tuple[str, str]
"""(event type, state key)."""

StateMap: TypeAlias = Mapping[StateSlot, str]
"""The state of a room: which event holds each slot, by event ID."""

CREATE: Final[StateSlot] = ("m.room.create", "")
JOIN_RULES: Final[StateSlot] = ("m.room.join_rules", "")
POWER_LEVELS: Final[StateSlot] = ("m.room.power_levels", "")


def member_slot(user_id: str) -> StateSlot:
    return ("m.room.member", user_id)


class NotAllowed(Exception):
    """The auth rules refuse an event; `reason` says why, in one sentence for a log or an error body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EventSource(Protocol):
    """Where state resolution finds events. Whoever implements it keeps the parsed events at hand."""

    def event(self, event_id: str) -> Pdu:
        """Raises: KeyError, if the event is not known."""
        ...

    def is_rejected(self, event_id: str) -> bool:
        """Whether a known event earned `Verdict.REJECTED`; soft-failed events are not rejected."""
        ...
