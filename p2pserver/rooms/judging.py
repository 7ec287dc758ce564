"""What an event earns: checks 4 to 6 on receipt of a PDU, from what is held of its ancestors.

Whether an event is rejected is a function of its ancestry alone. Whether it is soft-failed depends on what this node
held when it came. Source: server-server API, "Checks performed on receipt of a PDU", "Soft failure".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.identifiers import public_key_of
from p2pserver.meg.auth import NotAllowed, authorize, check_auth_events, state_of_auth_events
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.state import StateView, power_levels_of, resolved_group
from p2pserver.store import events, memberships, state_groups
from p2pserver.store.events import EventFacts
from p2pserver.store.parked import Gap
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

DEPTH_MAX = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestors:
    """What is held of an event's parents and auth events.

    `missing` must come before the event can be judged. Without missing ones, `groups` are the states after the
    parents, claims standing in for gaps; `depth` is 1 + the greatest of the parents; `grounded` says that the whole
    ancestry is held; `outlying` are auth events that are only outliers, used because the event stands on a claim;
    `foreign` says that a parent or auth event is of another room; `on_claim` that the event comes after a join of ours
    whose history is still on its way.
    """

    missing: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    depth: int = 1
    grounded: bool = True
    rejected_auth: frozenset[str] = frozenset()
    outlying: tuple[str, ...] = ()
    foreign: bool = False
    on_claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    verdict: Verdict
    reason: str | None
    state_before: int
    state_after: int
    depth: int
    grounded: bool


def ancestors_of(tx: Tx, event: Pdu, gaps: Mapping[str, Gap], *, accept_outliers: bool = False) -> Ancestors:
    """Looks up an event's parents and auth events.

    In a complete room an auth event counts only with its place in the graph: as an outlier it could not tell whether
    the state before it rejected it. `accept_outliers` lets them count everywhere (when claims are judged again).
    """
    known = events.facts(tx, (*event.prev_events, *event.auth_events))
    missing: dict[str, None] = {}
    groups: dict[int, None] = {}
    depth, grounded, foreign, on_claim = 0, True, False, False
    for parent in event.prev_events:
        fact = known.get(parent)
        gap = gaps.get(parent)
        if fact is not None and fact.room_id != event.room_id:
            foreign = True
        elif fact is not None and not fact.outlier:
            depth = max(depth, fact.depth)
            grounded = grounded and fact.grounded
            on_claim = on_claim or (fact.position > 0 and not fact.grounded)
            if fact.state_after is not None:
                groups[fact.state_after] = None
        elif gap is not None and gap.claimed_group is not None:
            depth = max(depth, gap.depth)
            grounded = False
            on_claim = on_claim or gap.history
            groups[gap.claimed_group] = None
        else:
            missing[parent] = None
    outlying: list[str] = []
    stands_on_claim, parents_missing = not grounded, bool(missing)
    for auth_id in event.auth_events:
        fact = known.get(auth_id)
        if fact is None:
            missing[auth_id] = None
        elif fact.room_id != event.room_id:
            foreign = True
        elif fact.outlier:
            if grounded and not accept_outliers and not parents_missing:
                missing[auth_id] = None
            outlying.append(auth_id)
        elif not fact.grounded:
            stands_on_claim = True
    return Ancestors(
        missing=tuple(missing),
        groups=tuple(groups),
        depth=min(depth + 1, DEPTH_MAX),
        grounded=not stands_on_claim and not outlying,
        rejected_auth=frozenset(each for each in event.auth_events if each in known and known[each].rejected),
        outlying=tuple(outlying),
        foreign=foreign,
        on_claim=on_claim,
    )


def judge(tx: Tx, room: RoomRow, event: Pdu, ancestors: Ancestors, *, against_current: bool) -> Judgement:
    """The verdict on an event none of whose ancestors is missing, and the states before and after it.

    `against_current` adds the check against the current state; history that others already built upon is spared it.
    """
    groups = ancestors.groups
    if groups:
        before = resolved_group(tx, room.room_id, room.rules, groups)
    else:
        before = state_groups.group_of(tx, room.room_id, {})
    verdict, reason, after = Verdict.ACCEPTED, None, before
    try:
        check_by_ancestors(tx, room, event, ancestors, before)
        if against_current:
            check_by_current_state(tx, room, event, before=before)
    except _Refused as refusal:
        verdict, reason = refusal.verdict, refusal.reason
    slot = event.state_slot
    if verdict is not Verdict.REJECTED and slot is not None:
        after = state_groups.group_with(tx, room.room_id, before, {slot: event.event_id})
    return Judgement(
        verdict=verdict,
        reason=reason,
        state_before=before,
        state_after=after,
        depth=ancestors.depth,
        grounded=ancestors.grounded,
    )


def check_by_ancestors(tx: Tx, room: RoomRow, event: Pdu, ancestors: Ancestors, before: int) -> None:
    """Checks 4 and 5. Raises: _Refused."""
    if ancestors.foreign:
        raise _Refused(Verdict.REJECTED, "it cites an event of another room")
    check_by_auth_events(tx, room, event, ancestors.rejected_auth)
    check_by_state_before(tx, event, before)


def check_by_auth_events(tx: Tx, room: RoomRow, event: Pdu, rejected: frozenset[str]) -> None:
    create = event if event.event_id == room.create_event_id else events.pdu(tx, room.create_event_id)
    cited = [found for found in (events.pdu(tx, auth_id) for auth_id in event.auth_events) if found is not None]
    try:
        check_auth_events(event, cited, rejected=rejected, create=create)
        if event.type != "m.room.create":
            authorize_in(tx, event, state_of_auth_events(cited, create))
    except NotAllowed as error:
        raise _Refused(Verdict.REJECTED, f"by its auth events: {error.reason}") from None


def check_by_state_before(tx: Tx, event: Pdu, before: int) -> None:
    if event.type == "m.room.create":
        return
    try:
        authorize_in(tx, event, StateView(tx, state_groups.state_map(tx, before)))
    except NotAllowed as error:
        raise _Refused(Verdict.REJECTED, f"by the state before it: {error.reason}") from None


def check_by_current_state(tx: Tx, room: RoomRow, event: Pdu, *, before: int | None = None) -> None:
    """Check 6. `before` is a group by which the event passed check 5. Raises: _Refused."""
    if room.current_group is None or event.type == "m.room.create":
        return
    if before != room.current_group:
        try:
            authorize_in(tx, event, StateView(tx, state_groups.state_map(tx, room.current_group)))
        except NotAllowed as error:
            raise _Refused(Verdict.SOFT_FAILED, f"by the current state: {error.reason}") from None
    if _has_another_name(tx, room.room_id, event.server):
        raise _Refused(Verdict.SOFT_FAILED, f"by the current state: the key of {event.server} has another name here")


def _has_another_name(tx: Tx, room_id: str, server: str) -> bool:
    """Whether a self-certifying server came to the room by another name before: the first one counts, and if both
    are known (they came in different order to those who told us) the one that is first by its letters.

    Part of soft failure, since it depends on what came first: it makes no two nodes disagree about what happened.
    """
    if public_key_of(server) is None:
        return False
    names = memberships.names_of_key(tx, room_id, server)
    return bool(names) and names[0] != server


def allowed_now(tx: Tx, room: RoomRow, event: Pdu) -> str | None:
    """None, or why the current state does not allow the event."""
    try:
        check_by_current_state(tx, room, event)
    except _Refused as refusal:
        return refusal.reason
    return None


def outlier_reason(tx: Tx, room: RoomRow, event: Pdu, known: Mapping[str, EventFacts]) -> str | None:
    """None, or why an event that is known without its parents is rejected: by its auth events alone."""
    rejected = frozenset(each for each in event.auth_events if each in known and known[each].rejected)
    try:
        check_by_auth_events(tx, room, event, rejected)
    except _Refused as refusal:
        return refusal.reason
    return None


def authorize_in(tx: Tx, event: Pdu, state: Mapping[StateSlot, Pdu]) -> None:
    """The auth rules in one state. Raises: NotAllowed."""

    def levels(create: Pdu, power_levels: Pdu | None) -> PowerLevels:
        return power_levels_of(tx, create, power_levels)

    authorize(event, state, power_levels_of=levels)


class _Refused(Exception):
    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict, self.reason = verdict, reason
