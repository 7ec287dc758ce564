"""State resets: a slot of the current state that goes back, although nobody revoked anything.

State resolution 2 can lose state when old state comes up again on a fork (MSC4297, which version 12 mends): the event
in a slot is dropped because of what it was replaced by or of who has left since, and an ancestor of it is back, or
nothing. That is no difference between nodes, all of which see the same; so somebody must look at it.

What is no reset: a newer event, the other side of a fork, and an event that goes because a ban, a kick, levels or join
rules that have come up beside it do not allow it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import NotAllowed, auth_slots
from p2pserver.meg.state import StateMap, StateSlot
from p2pserver.rooms.judging import authorize_in
from p2pserver.rooms.state import StateView
from p2pserver.store import events, graph_walks, state_groups
from p2pserver.store.alarms import STATE_RESET_SUSPECTED, raise_alarm
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

WALK_MAX = 10_000
"""Events that are looked at to see whether one is an ancestor of another; what is further back is not noticed."""
CHAIN_MAX = 64
"""Events of one slot that are looked at between the one that went and the one that is back."""
Changes = Mapping[StateSlot, tuple[str | None, str | None]]
"""By slot, the event before and after a change of the state; None for an empty slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectedReset:
    """`now` is an ancestor of `was`, or None: the slot is empty."""

    slot: StateSlot
    was: str
    now: str | None


def suspected_resets(tx: Tx, changes: Changes, after: StateMap) -> list[SuspectedReset]:
    """Of the changes of a room's current state to `after`, those that take back what nobody revoked."""
    went_back = {
        slot: SuspectedReset(slot=slot, was=was, now=now)
        for slot, (was, now) in changes.items()
        if was is not None and _is_back(tx, was, now)
    }
    came = {slot: now for slot, (_, now) in changes.items() if slot not in went_back}
    return [reset for reset in went_back.values() if not _is_revoked(tx, reset, came, after)]


def tell_of_resets(tx: Tx, room: RoomRow, changes: Changes, after: StateMap, *, position: int, now_ms: int) -> None:
    """Raises an alarm for each."""
    for reset in suspected_resets(tx, changes, after):
        about = " ".join(reset.slot)
        details = {"from": reset.was, "to": reset.now, "position": position}
        is_new = raise_alarm(
            tx, room_id=room.room_id, kind=STATE_RESET_SUSPECTED, about=about, details=details, now_ms=now_ms
        )
        if is_new:
            tx.after_commit(lambda about=about, details=details: _log(room.room_id, about, details))  # type: ignore[misc]


def _log(room_id: str, about: str, details: Mapping[str, object]) -> None:
    log.warning("the state went back, though nobody revoked it", extra={"room_id": room_id, "slot": about, **details})


def _is_back(tx: Tx, was: str, now: str | None) -> bool:
    if now is None:
        return True
    known = events.facts(tx, (was, now))
    if len(known) < 2 or known[now].depth >= known[was].depth:
        return False
    return graph_walks.is_ancestor(tx, now, was, most=WALK_MAX)


def _is_revoked(tx: Tx, reset: SuspectedReset, came: Mapping[StateSlot, str | None], after: StateMap) -> bool:
    """Whether the event that went, or one that it needed, is not allowed by what has come up beside it.

    Each event of the slot, from the one that went back to the one that is there now, is judged where it was sent, with
    what came in the same change, and with the levels, join rules, bans and kicks that came before that and do not
    follow it. Who leaves has joined before, and falls with his join.
    """
    event_id: str | None = reset.was
    for _ in range(CHAIN_MAX):
        found = None if event_id is None else events.stored(tx, event_id)
        event = None if event_id is None else events.pdu(tx, event_id)
        if found is None or event is None or found.state_before is None:
            return False
        before = state_groups.state_map(tx, found.state_before)
        beside = {**_power_beside(tx, event, before, after), **came}
        state = {slot: each for slot, each in before.items() if slot not in beside}
        state.update((slot, each) for slot, each in beside.items() if each is not None)
        try:
            authorize_in(tx, event, StateView(tx, state))
        except NotAllowed:
            return True
        event_id = before.get(reset.slot)
        if event_id == reset.now:
            return False
    return False


def _power_beside(tx: Tx, event: Pdu, before: StateMap, after: StateMap) -> dict[StateSlot, str]:
    """The power events of a state that the auth rules ask of an event, and that are neither its past nor its future."""
    found = {}
    for slot in auth_slots(
        event_type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=dict(event.content),
        rules=event.rules,
    ):
        other = None if slot not in after or after[slot] == before.get(slot) else events.pdu(tx, after[slot])
        if (
            other is not None
            and other.event_id != event.event_id
            and _takes_rights(other)
            and not graph_walks.is_ancestor(tx, event.event_id, other.event_id, most=WALK_MAX)
            and not graph_walks.is_ancestor(tx, other.event_id, event.event_id, most=WALK_MAX)
        ):
            found[slot] = other.event_id
    return found


def _takes_rights(event: Pdu) -> bool:
    if event.type == "m.room.member":
        return event.sender != event.state_key and event.content.get("membership") in ("leave", "ban")
    return event.type in ("m.room.power_levels", "m.room.join_rules")
