"""What the auth rules ask of one state of a room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from p2pserver.events.pdu import Pdu
from p2pserver.meg.power import LevelTables, PowerLevels
from p2pserver.meg.state import JOIN_RULES, StateSlot, member_slot

NO_MEMBER: Final = "leave"


class AuthState(Protocol):
    """One state of a room, with a create event in it."""

    @property
    def create(self) -> Pdu:
        """The room's create event."""

    @property
    def power(self) -> PowerLevels:
        """The levels of its power levels event, or the defaults."""

    def event(self, slot: StateSlot) -> Pdu | None:
        """What holds a slot."""

    def levels_of(self, event: Pdu) -> LevelTables:
        """What a power levels event sets, which need not be in the state."""

    def membership(self, user_id: str) -> str:
        """`join`, `invite`, `leave`, `ban` or `knock`; `leave` for somebody who never was here."""

    def join_rule(self) -> str:
        """The `join_rule`: `invite` where there is none, "" where it is not a string (nobody may join then)."""


@dataclass(frozen=True, slots=True)
class StateOfEvents:
    """The `AuthState` of events that are at hand."""

    events: Mapping[StateSlot, Pdu]
    create: Pdu
    power: PowerLevels

    def event(self, slot: StateSlot) -> Pdu | None:
        return self.events.get(slot)

    def levels_of(self, event: Pdu) -> LevelTables:
        return LevelTables.of(event)

    def membership(self, user_id: str) -> str:
        event = self.events.get(member_slot(user_id))
        return NO_MEMBER if event is None else membership_by(event)

    def join_rule(self) -> str:
        return join_rule_by(self.events.get(JOIN_RULES))


def membership_by(event: Pdu) -> str:
    """What a member event makes of its user."""
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else NO_MEMBER


def join_rule_by(event: Pdu | None) -> str:
    """What a join rules event, or its absence, sets."""
    rule = "invite" if event is None else event.content.get("join_rule", "invite")
    return rule if isinstance(rule, str) else ""
