"""The part of a room's state that the auth rules look at, with the questions they ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pserver.events.pdu import Pdu
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import JOIN_RULES, StateSlot, member_slot


@dataclass(frozen=True, slots=True)
class AuthState:
    """One state of a room: `create` is its create event, `power` the levels of its power levels event."""

    events: Mapping[StateSlot, Pdu]
    create: Pdu
    power: PowerLevels

    def membership(self, user_id: str) -> str:
        """`join`, `invite`, `leave`, `ban` or `knock`; `leave` for somebody who never was here."""
        event = self.events.get(member_slot(user_id))
        membership = None if event is None else event.content.get("membership")
        return membership if isinstance(membership, str) else "leave"

    def join_rule(self) -> str:
        """The `join_rule`: `invite` where there is none, "" where it is not a string (nobody may join then)."""
        event = self.events.get(JOIN_RULES)
        rule = "invite" if event is None else event.content.get("join_rule", "invite")
        return rule if isinstance(rule, str) else ""
