"""Receipt of PDUs that somebody brought: checked, judged, placed or parked, with whatever they set free.

    check_all_on_receipt → known already? → parents and auth events held? → judge → place → what was parked on it
                                │                     │ no
                                └ copy lattice        └ park (bounded) and say what to ask for

A carrier is not trusted with anything: an event is what its signature and its ancestry say, whoever brings it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from p2pserver.errors import Verdict
from p2pserver.events.hashing import reference_hash
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_all_on_receipt
from p2pserver.events.redaction import redact
from p2pserver.events.versions import EventIds
from p2pserver.identifiers import public_key_of, server_of
from p2pserver.meg.auth_content import redaction_takes_permissions
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.copies import COPIES_AT_ONCE, is_welcome
from p2pserver.rooms.current import update_current_state
from p2pserver.rooms.graph import place
from p2pserver.rooms.judging import Ancestors, Judgement, ancestors_of, judge
from p2pserver.rooms.rebuilding import judge_descendants_again, rebuild
from p2pserver.rooms.redacting import note_redactions
from p2pserver.rooms.values import Receipt, ReceiveReport
from p2pserver.store import events, memberships, outsiders, parked, rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

HOUR_MS = 3_600_000


class Intake:
    """One unit's worth of arriving events for one room that is held."""

    def __init__(self, context: RoomContext, tx: Tx, room_id: str) -> None:
        self._context, self._tx, self._room_id = context, tx, room_id
        self._gaps = parked.gaps(tx, room_id)
        self._joining = any(gap.history for gap in self._gaps.values())
        self._closed_gap = False
        self._held_up: set[str] = set()
        self._redacted: list[str] = []
        self._improved: list[str] = []
        self._resolve_at: int | None = None
        """The position of a message that was placed after the current state was last resolved."""
        self.report = ReceiveReport()

    def take_all(self, raws: Sequence[object], source: str, *, backfill: bool) -> ReceiveReport:
        """Takes a batch from one source and returns what it earned."""
        rules, keys = self._room().rules, self._context.keys
        for found in check_all_on_receipt(raws, rules, keys, limit_references=not backfill):
            if isinstance(found, PduDropped):
                dropped = Receipt(event_id=None, verdict=Verdict.DROPPED, reason=found.reason)
                self.report.results.append(dropped)
            else:
                self.report.results.append(self._take(found, source))
        return self.finish()

    def take_checked(self, event: Pdu, source: str) -> ReceiveReport:
        """Takes one event that has passed `check_on_receipt` and returns what it earned."""
        self.report.results.append(self._take(event, source))
        return self.finish()

    def finish(self) -> ReceiveReport:
        if self._resolve_at is not None:
            update_current_state(self._context, self._tx, self._room(), position=self._resolve_at)
            self._resolve_at = None
        self._replace_claims()
        if self._improved:
            judge_descendants_again(self._context, self._tx, self._room(), self._improved)
            self._improved = []
        if self._held_up:
            self.report.missing = parked.awaited(
                self._tx, self._room_id, most=self._context.limits.wanted_at_once, of=self._held_up
            )
        self.report.missing += [each for each in self._redacted if is_welcome(self._context, self._tx, each)]
        return self.report

    def settle(self, event_ids: Iterable[str]) -> None:
        """Something that may have been waited for is here: judges what waited for nothing else, and so on."""
        tx, settled = self._tx, deque(event_ids)
        while settled:
            for event_id in parked.settle(tx, settled.popleft()):
                held = parked.parked(tx, event_id, self._room().rules)
                if held is None:
                    continue
                parked.unpark(tx, event_id)
                self._held_up.discard(event_id)
                receipt = self._judge(held.pdu, held.source)
                if receipt.verdict is not None:
                    self.report.released.append(receipt)
                if is_placed(receipt):
                    settled.append(event_id)

    def _take(self, event: Pdu, source: str) -> Receipt:
        room = self._room()
        if event.room_id != room.room_id:
            return Receipt(event_id=event.event_id, verdict=Verdict.DROPPED, reason="the event is of another room")
        known = events.stored(self._tx, event.event_id)
        waiting = parked.parked(self._tx, event.event_id, room.rules)
        if any(held is not None and is_another_event(held.pdu, event) for held in (known, waiting)):
            return Receipt(event_id=event.event_id, verdict=Verdict.DROPPED, reason="another event has this ID here")
        if known is not None and not known.outlier:
            self._improve_copy(room, event, known)
            return Receipt(event_id=event.event_id, verdict=known.verdict, reason=known.reason or "")
        if known is not None:
            event = better_copy(events.pdu(self._tx, event.event_id), event)
        if waiting is not None:
            event = better_copy(waiting.pdu, event)
        receipt = self._judge(event, source, new=waiting is None)
        if receipt.verdict is not None:
            if waiting is not None:
                parked.unpark(self._tx, event.event_id)
            if is_placed(receipt):
                self.settle([event.event_id])
        return receipt

    def _judge(self, event: Pdu, source: str, *, new: bool = True) -> Receipt:
        """Places the event, or parks it."""
        tx, room = self._tx, self._room()
        ancestors = ancestors_of(tx, event, self._gaps)
        if ancestors.foreign:
            # Who is not in that room cannot know, waits in vain and never places the event: so nobody does.
            return Receipt(event_id=event.event_id, verdict=Verdict.DROPPED, reason="it cites an event of another room")
        if ancestors.missing:
            self._park(event, source, ancestors.missing)
            return Receipt(event_id=event.event_id, verdict=None, reason="waits for other events", new=new)
        fills_gap = event.event_id in self._gaps
        history = self._joining and not ancestors.on_claim
        against_current = not history and not fills_gap
        if self._is_outsider(event, source):
            by_outsider = self._judge_outsider(event, ancestors, against_current=against_current)
            if by_outsider is None:
                return Receipt(
                    event_id=event.event_id, verdict=Verdict.DROPPED, reason="too much from outside the room"
                )
            judgement = by_outsider
        else:
            judgement = judge(tx, room, event, ancestors, against_current=against_current)
        # A message has no state of its own, so those that arrive together may share one resolution.
        is_message = event.state_key is None
        position = place(self._context, tx, room, event, judgement, history=history, resolve=not is_message)
        if not history and judgement.verdict is Verdict.ACCEPTED:
            self._resolve_at = position if is_message else None
        if event.redacted_copy and len(self._redacted) < COPIES_AT_ONCE:
            self._redacted.append(event.event_id)
        if fills_gap:
            parked.close_gap(tx, self._room_id, event.event_id)
            del self._gaps[event.event_id]
            self._closed_gap = True
            if self._joining and not any(gap.history for gap in self._gaps.values()):
                self._replace_claims()
        return Receipt(event_id=event.event_id, verdict=judgement.verdict, reason=judgement.reason or "", new=True)

    def _judge_outsider(self, event: Pdu, ancestors: Ancestors, *, against_current: bool) -> Judgement | None:
        """The verdict on what a server outside the room brought; None, if it is not kept.

        What is accepted is kept whoever brings it, and what is awaited for a member's event, since all members hold the
        same events. The rest is kept in small amounts only, for a key costs nothing. A server that has just joined,
        which is not known here yet, is a member by the time that the rest is asked for again.
        """
        tx, limits = self._tx, self._context.limits
        hour, octets = self._context.wall_ms() // HOUR_MS, len(events.encode_raw(event.raw))
        kept = outsiders.kept(tx, self._room_id, hour)
        is_full = (
            kept.events >= limits.outsider_events_per_hour or kept.octets + octets > limits.outsider_octets_per_hour
        )
        if is_full:
            tx.execute("SAVEPOINT outsider")
        judgement = judge(tx, self._room(), event, ancestors, against_current=against_current)
        is_accepted = judgement.verdict is Verdict.ACCEPTED
        if is_full:
            if not is_accepted:
                tx.execute("ROLLBACK TO outsider")  # its state groups
                tx.caches.clear()
            tx.execute("RELEASE outsider")
        elif not is_accepted:
            outsiders.count(tx, self._room_id, hour, octets=octets)
        return judgement if is_accepted or not is_full else None

    def _is_outsider(self, event: Pdu, source: str) -> bool:
        """Whether no member server brought the event or waits for it."""
        return (
            not memberships.is_joined(self._tx, self._room_id, source)
            and event.event_id not in self._gaps
            and not parked.is_awaited_by_members(self._tx, self._room_id, event.event_id)
        )

    def _replace_claims(self) -> None:
        if self._closed_gap:
            self._closed_gap = False
            rebuild(self._context, self._tx, self._room())
            self._gaps = parked.gaps(self._tx, self._room_id)
            self._joining = any(gap.history for gap in self._gaps.values())

    def _park(self, event: Pdu, source: str, missing: Sequence[str]) -> None:
        limits = self._context.limits
        parked.park(self._tx, event, source=source, missing=missing, now_ms=self._context.wall_ms())
        self._held_up.add(event.event_id)
        dropped = parked.shrink(
            self._tx,
            self._room_id,
            source,
            per_source=limits.parked_per_source,
            per_room=limits.parked_per_room,
            octets=limits.parked_octets_per_room,
        )
        self._held_up.difference_update(dropped)

    def _improve_copy(self, room: RoomRow, event: Pdu, known: StoredEvent) -> None:
        """Absent < redacted copy < hash-verified: a genuine copy replaces a redacted one, never the reverse.

        Clients were not shown the redacted copy of a message, so they have yet to pass its place in the stream.
        """
        held = events.pdu(self._tx, event.event_id)
        if held is None or not held.redacted_copy or event.redacted_copy:
            return
        redacted_by = events.redacted_by(self._tx, event.event_id)
        events.replace_copy(self._tx, event)
        if redaction_takes_permissions(event):
            self._improved.append(event.event_id)
        elif redacted_by is not None:
            events.set_redacted(self._tx, event.event_id, redacted_by, redact(event.raw, room.rules))
        elif event.state_key is None and known.position > 0:
            events.set_position(self._tx, event.event_id, self._tx.next_position())
        note_redactions(self._tx, room, event)
        self._tx.notify(f"room:{self._room_id}")

    def _room(self) -> RoomRow:
        row = rooms.room(self._tx, self._room_id)
        if row is None:
            raise KeyError(self._room_id)
        return row


def receive_overheard(context: RoomContext, tx: Tx, room_id: str, raws: Iterable[object]) -> ReceiveReport:
    """Judges PDUs that came with no word of who brought them.

    A copy whose content was changed is not even kept as a redacted one: it would be acknowledged in the place of the
    genuine copy, which is still to come from somebody with a name.
    """
    report = ReceiveReport()
    room = rooms.room(tx, room_id)
    if room is None:
        return report
    for found in check_all_on_receipt(raws, room.rules, context.keys):
        if isinstance(found, PduDropped) or found.redacted_copy:
            reason = found.reason if isinstance(found, PduDropped) else "its content was changed"
            report.results.append(Receipt(event_id=None, verdict=Verdict.DROPPED, reason=reason))
            continue
        part = Intake(context, tx, room_id).take_checked(found, server_of(found.sender))
        report.results += part.results
        report.released += part.released
        report.missing += part.missing
    return report


def is_placed(receipt: Receipt) -> bool:
    """Whether the event is in the graph now."""
    return receipt.verdict is not None and receipt.verdict is not Verdict.DROPPED


def is_another_event(held: Pdu, arrived: Pdu) -> bool:
    """Whether one ID has two events: a server that is no node can do that in versions 1 and 2. The first one counts."""
    if arrived.rules.event_ids is not EventIds.CHOSEN or public_key_of(server_of(arrived.event_id)) is not None:
        return False
    return held.room_id != arrived.room_id or (
        reference_hash(held.raw, held.rules) != reference_hash(arrived.raw, arrived.rules)
    )


def better_copy(held: Pdu | None, arrived: Pdu) -> Pdu:
    return held if held is not None and arrived.redacted_copy and not held.redacted_copy else arrived
