"""How many events of a room a user has not read, of those that his push rules notify him of: by thread.

Nothing is counted when an event is sent or received: a room with a thousand local members would cost a thousand
evaluations a message. It is counted when somebody's client asks, from where he has read on, and what was counted is
kept in memory, so that the next time only what came since is looked at. Source: client-server API, "Receiving
notifications", "Marking notifications as read", "Threading".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import member_slot
from p2pserver.rooms import reading
from p2pserver.rooms.push_rules import PushRules, Verdict
from p2pserver.store import events
from p2pserver.store.account_data import get_account_data
from p2pserver.store.lru import Lru
from p2pserver.store.memberships import local_membership
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.push_events import PushEvent, nth_newest, push_events, related_to, settings_position
from p2pserver.store.push_rules import default_push_rules
from p2pserver.store.receipts import MAIN, newest_receipt, own_receipts
from p2pserver.store.room_stream import FIRST, current_event_id, member_counts, slot_changes
from p2pserver.store.tx import Tx

COUNTED_MAX: Final = 2_000
"""Of the events that a user has not read, so many are looked at: the newest."""
HOPS_MAX: Final = 3
"""How far an event's relations are followed to find its thread."""
ROOMS_KEPT_MAX: Final = 20_000
USERS_KEPT_MAX: Final = 1_000
NOTIFICATION_LEVEL: Final = 50
"""What `notifications` of the power levels asks for where it says nothing."""


@dataclass(frozen=True, slots=True)
class Count:
    notifications: int = 0
    highlights: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.notifications + other.notifications, self.highlights + other.highlights)


NONE: Final = Count()


@dataclass(frozen=True, slots=True)
class Unread:
    """The counts of a room: of its main timeline, and of each thread that has any."""

    main: Count = NONE
    threads: Mapping[str, Count] = field(default_factory=dict)

    @property
    def total(self) -> Count:
        return sum(self.threads.values(), self.main)


@dataclass(frozen=True, slots=True)
class ReadUpTo:
    """How far a user has read a room: all of it, and each thread (`main` is one)."""

    everything: int
    threads: Mapping[str, int]

    def covers(self, position: int, thread: str) -> bool:
        return position <= max(self.everything, self.threads.get(thread, FIRST))


class RoomFactsOf:
    """What push rules ask about a room, as it is now, for one user."""

    def __init__(self, tx: Tx, room_id: str, user_id: str) -> None:
        self._tx, self._room_id, self._user_id = tx, room_id, user_id
        self._members: int | None = None
        self._name: tuple[str | None] | None = None
        self._power: PowerLevels | None = None

    def member_count(self) -> int:
        if self._members is None:
            self._members = member_counts(self._tx, self._room_id)["join"]
        return self._members

    def display_name(self) -> str | None:
        if self._name is None:
            event_id = current_event_id(self._tx, self._room_id, member_slot(self._user_id))
            member = None if event_id is None else events.pdu(self._tx, event_id)
            name = None if member is None else member.content.get("displayname")
            self._name = (name if isinstance(name, str) else None,)
        return self._name[0]

    def may_notify(self, sender: str, key: str) -> bool:
        if self._power is None:
            self._power = reading.power_levels(self._tx, self._room_id)
        return self._power.of_user(sender) >= self._power.tables.notifications.get(key, NOTIFICATION_LEVEL)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was counted up to a position, and what must not have changed for it to be of use."""

    valid: tuple[int, int, int]
    read: ReadUpTo
    upto: int
    counts: Mapping[str, Count]


class UnreadCounts:
    """Counts for all users of this node. Its memory is for one thread, that of reading."""

    def __init__(self) -> None:
        self._rules: Lru[str, tuple[int, PushRules, frozenset[str]]] = Lru(USERS_KEPT_MAX)
        self._kept: Lru[tuple[str, str], _Counted] = Lru(ROOMS_KEPT_MAX)

    def rules_of(self, tx: Tx, user_id: str) -> tuple[PushRules, frozenset[str]]:
        """The user's push rules, and whom he ignores."""
        position = settings_position(tx, user_id)
        known = self._rules.get(user_id)
        if known is None or known[0] != position:
            content = get_account_data(tx, user_id, None, "m.push_rules") or default_push_rules(user_id)
            known = (position, PushRules(content), ignored_users(tx, user_id))
            self._rules.put(user_id, known)
        return known[1], known[2]

    def unread(self, tx: Tx, user_id: str, room_id: str) -> Unread:
        """What a joined user has not read of a room."""
        counts = self._counted(tx, user_id, room_id).counts
        threads = {thread: count for thread, count in counts.items() if thread != MAIN and count.notifications}
        return Unread(counts.get(MAIN, NONE), threads)

    def judge(self, tx: Tx, user_id: str, event: PushEvent) -> Verdict | None:
        """What the user's push rules say of an event of somebody else."""
        rules, ignored = self.rules_of(tx, user_id)
        if event.sender in ignored and not event.is_state:
            return None
        return rules.judge(_candidate(event), RoomFactsOf(tx, event.room_id, user_id))

    def read_up_to(self, tx: Tx, user_id: str, room_id: str) -> ReadUpTo:
        """How far the user has read, by his receipts and by what he has sent."""
        return self._counted(tx, user_id, room_id).read

    def _counted(self, tx: Tx, user_id: str, room_id: str) -> _Counted:
        own = local_membership(tx, user_id, room_id)
        joined = 0 if own is None else own.position
        valid = (newest_receipt(tx, room_id, user_id), settings_position(tx, user_id), joined)
        known = self._kept.get((user_id, room_id))
        upto = tx.position()
        if known is not None and known.valid == valid and known.upto <= upto:
            if known.upto == upto:
                return known
            counted = self._count(tx, user_id, room_id, known, upto)
        else:
            counted = None
        if counted is None:
            read = _receipts(tx, user_id, room_id)
            start = read.everything
            if upto - start > COUNTED_MAX:
                start = max(start, nth_newest(tx, room_id, COUNTED_MAX) or FIRST)
            begin = _Counted(valid, read, start, {})
            counted = self._count(tx, user_id, room_id, begin, upto, again=False) or begin
        self._kept.put((user_id, room_id), counted)
        return counted

    def _count(
        self, tx: Tx, user_id: str, room_id: str, known: _Counted, upto: int, *, again: bool = True
    ) -> _Counted | None:
        """Goes on from `known`. None (only if `again`): an event of before was redacted, so it must begin anew."""
        rules, ignored = self.rules_of(tx, user_id)
        facts = RoomFactsOf(tx, room_id, user_id)
        counts, threads = dict(known.counts), dict(known.read.threads)
        for event in push_events(tx, room_id, above=known.upto, upto=upto):
            if event.type == "m.room.redaction" and again:
                return None
            if event.sender == user_id:
                if not event.is_state:  # who writes has read what was written before
                    thread = thread_of(tx, event.raw)
                    counts.pop(thread, None)
                    threads[thread] = max(event.position, threads.get(thread, FIRST))
                continue
            if event.sender in ignored and not event.is_state:
                continue
            verdict = rules.judge(_candidate(event), facts)
            if verdict is None or not verdict.notify:
                continue
            thread = thread_of(tx, event.raw)
            if event.position > threads.get(thread, FIRST):
                counts[thread] = counts.get(thread, NONE) + Count(1, int(verdict.highlight))
        return _Counted(known.valid, ReadUpTo(known.read.everything, threads), upto, counts)


def _candidate(event: PushEvent) -> Mapping[str, Any]:
    """The event as rules look at it; in room version 12 a create event does not name its room."""
    return event.raw if "room_id" in event.raw else {**event.raw, "room_id": event.room_id}


def _receipts(tx: Tx, user_id: str, room_id: str) -> ReadUpTo:
    """By receipts of both kinds, the farther one counting. What was there when the user came is not unread."""
    everything = _joined_since(tx, user_id, room_id)
    threads: dict[str, int] = {}
    for receipt, position in own_receipts(tx, room_id, user_id):
        if position is None:
            continue
        if receipt.thread_id is None:
            everything = max(everything, position)
        else:
            threads[receipt.thread_id] = max(position, threads.get(receipt.thread_id, FIRST))
    return ReadUpTo(everything, threads)


def _joined_since(tx: Tx, user_id: str, room_id: str) -> int:
    """The position from which on the user is in the room, whatever he changed of his member event since."""
    since = 0
    for change in reversed(slot_changes(tx, room_id, member_slot(user_id), above=FIRST)):
        event = None if change.event_id is None else events.pdu(tx, change.event_id)
        if event is None or event.content.get("membership") != "join":
            break
        since = change.position
    return since


def thread_of(tx: Tx, raw: Mapping[str, Any]) -> str:
    """The root of the thread that an event belongs to, or `main`."""
    return next((target for kind, target in _relations(tx, raw) if kind == "m.thread"), MAIN)


def is_read_with(tx: Tx, event: Pdu, thread_id: str) -> bool:
    """Whether a receipt of a thread may be for this event: it is of the thread, its root, or related to the root.

    The root and what is related to it are of the main timeline as well.
    """
    thread = thread_of(tx, event.raw)
    if thread != MAIN or thread_id == MAIN:
        return thread == thread_id
    return thread_id in (event.event_id, *(target for _, target in _relations(tx, event.raw)))


def _relations(tx: Tx, raw: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """(type, target) of an event's relation, then of its target's, as far as they are followed and held here."""
    current: Mapping[str, Any] | None = raw
    for _ in range(HOPS_MAX + 1):
        kind, target = related_to(current) if current is not None else (None, None)
        if target is None:
            return
        yield kind, target
        held = events.pdu(tx, target)
        current = None if held is None else held.raw
