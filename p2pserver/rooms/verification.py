"""A room checked again, from the stored events alone: what every row about it should say.

Pass 1 reads who cites whom. Pass 2 takes the events in the order of the graph: format, signatures, hashes, the columns
beside the event, the auth rules by its auth events and by the state before it, both states, depth, edges. Then what
follows from all of them together: leaves, extremities, current state. Nothing that is checked is used: verdicts and
states are those of `meg.replay`, which begins at the create event.

States are held for events whose children are still to come, so that the memory needed is a few hundred bytes for an
event and the states of as many branches as are open at one time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt, load_pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import KeyLookup
from p2pserver.events.versions import rules_of
from p2pserver.identifiers import server_of
from p2pserver.meg.auth_content import redaction_takes_permissions
from p2pserver.meg.auth_index import AuthNode
from p2pserver.meg.digest import (
    changed_sum,
    event_sec,
    leaves_digest,
    room_sec,
    state_digest,
    state_sum,
    sum_digest,
)
from p2pserver.meg.replay import Replay, Replayed
from p2pserver.meg.state import StateMap
from p2pserver.rooms.judging import DEPTH_MAX
from p2pserver.rooms.verification_order import Node, Order, read_order
from p2pserver.store import graph_ends, parked, rooms, state_groups
from p2pserver.store.events import PURGED
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

PDUS_KEPT = 2048
STATE_ENTRIES_KEPT = 300_000
"""In states that are kept beyond those of open branches, all of them together; about 30 MB."""

_COLUMNS = (
    "event_id, room_id, depth, type, state_key, sender, origin_server_ts, verdict, reason, outlier, grounded,"
    " redacted_copy, redacted_by, state_before, state_after, sec, raw"
)

Progress = Callable[[int, int], None]
"""Called now and then with how many events are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that is not as it should be: at which event, if at one; what is stored, and what should be."""

    event_id: str | None
    what: str
    stored: str
    expected: str


class Differs(Exception):
    def __init__(self, event_id: str | None, what: str, stored: object, expected: object) -> None:
        super().__init__(what)
        self.difference = Difference(event_id=event_id, what=what, stored=_told(stored), expected=_told(expected))


@dataclass(slots=True, kw_only=True)
class Verified:
    """What was looked at. `on_claims` events stand on something that a server claimed: they were checked against it."""

    room_id: str
    difference: Difference | None = None
    events: int = 0
    state_events: int = 0
    rejected: int = 0
    soft_failed: int = 0
    redacted: int = 0
    merges: int = 0
    outliers: int = 0
    on_claims: int = 0
    sec: str | None = None
    """The SEC digest in hex: equal on all nodes that hold the same events. None of a room that is not complete."""
    claims: list[str] = field(default_factory=list)
    """Servers that claimed a state which nothing here can check."""


def verify(tx: Tx, room_id: str, keys: KeyLookup, progress: Progress = lambda _done, _total: None) -> Verified:
    """Checks everything that is stored of a room, and stops at the first difference in the order of the graph.

    Only reads. What cannot be checked is whether a soft-failed event came late, and what a claim says.
    Raises: KeyError, if the room is not held.
    """
    found = Verified(room_id=room_id)
    try:
        _Verification(tx, room_id, keys, found).run(progress)
    except Differs as differs:
        found.difference = differs.difference
    return found


class _Verification:
    def __init__(self, tx: Tx, room_id: str, keys: KeyLookup, found: Verified) -> None:
        room = rooms.room(tx, room_id)
        if room is None:
            raise KeyError(room_id)
        self._tx, self._room, self._keys, self._found = tx, room, keys, found
        self._pdus: Lru[str, Pdu] = Lru(PDUS_KEPT)
        self._groups: Lru[int, StateMap] = Lru(STATE_ENTRIES_KEPT, lambda state: len(state) + 1)
        self._replay = Replay(room.rules, self._find, create_event_id=room.create_event_id)
        self._gaps = parked.gaps(tx, room_id)
        self._after: dict[int, StateMap] = {}
        self._depths: dict[int, int] = {}
        self._secs: dict[int, bytes] = {}
        self._sums: Lru[int, tuple[StateMap, bytes]] = Lru(STATE_ENTRIES_KEPT, lambda kept: len(kept[0]) + 1)
        self._ungrounded: set[str] = set()
        self._auth_edges = 0

    def run(self, progress: Progress) -> None:
        order = read_order(self._tx, self._room)
        total = len(order.nodes)
        for done, node in enumerate(order.parents_first()):
            if done % 100 == 0:
                progress(done, total)
            self._check(order, node)
        self._check_all_reached(order)
        self._check_front(order)
        progress(total, total)

    # One event

    def _check(self, order: Order, node: Node) -> None:
        row = self._row(node.event_id)
        event = self._check_copy(row)
        self._pdus.put(event.event_id, event)
        if row["outlier"]:
            self._found.outliers += 1
            self._replay.note(event)
            self._check_auth_index(event)
            self._check_verdict(event, row, self._replay.rejection_by_auth_events(event))
            if row["verdict"] == "rejected":
                self._replay.rejected.add(event.event_id)
            return
        self._check_edges(event)
        judged, grounded, depth = self._judge(order, node, event)
        self._check_verdict(event, row, judged.rejection)
        _expect(event.event_id, "depth", row["depth"], depth)
        self._note_sums(event, judged, [self._after[parent] for parent in node.parents])
        self._check_state(event, "state before", row["state_before"], judged.before)
        self._check_state(event, "state after", row["state_after"], judged.after)
        _expect(event.event_id, "ancestry", _ancestry(bool(row["grounded"])), _ancestry(grounded))
        self._check_sec(node, row, judged, grounded)
        self._check_auth_index(event)
        self._count(node, event, row, grounded)
        self._depths[node.number] = depth
        if not grounded:
            self._ungrounded.add(event.event_id)
        order.note_verdict(node, stands=judged.rejection is None, accepted=row["verdict"] == "accepted")
        self._keep_states(order, node, judged.after)

    def _row(self, event_id: str) -> dict[str, Any]:
        row = self._tx.one(f"SELECT {_COLUMNS} FROM events WHERE event_id = ?", (event_id,))
        assert row is not None
        return dict(zip(_COLUMNS.split(", "), row, strict=True))

    def _check_copy(self, row: Mapping[str, Any]) -> Pdu:
        """Checks 1 to 3 of the receipt, and that the columns say what the event says."""
        event_id: str = row["event_id"]
        try:
            raw = json.loads(row["raw"])
            event = check_on_receipt(raw, self._room.rules, self._keys, limit_references=False)
        except (ValueError, TypeError, RecursionError):
            raise Differs(event_id, "event", "something that is not JSON", "one that passes the receipt") from None
        except PduDropped as drop:
            raise Differs(
                event_id, "event", f"one that is dropped: {drop.reason}", "one that passes the receipt"
            ) from None
        _expect(event_id, "event ID", event_id, event.event_id)
        if row["redacted_copy"] and not event.redacted_copy:
            raise Differs(event_id, "redacted copy", "yes", "no, as the content matches its hash")
        if event.redacted_copy:
            lost = row["redacted_copy"] or (row["redacted_by"] is not None and not redaction_takes_permissions(event))
            if not lost:
                raise Differs(event_id, "content", "one that does not match its hash", "the content that was hashed")
            if raw != redact(raw, self._room.rules):
                raise Differs(event_id, "content", "more than the redacted form", "the redacted form, as no hash fits")
        for name in ("room_id", "type", "state_key", "sender", "origin_server_ts"):
            _expect(event_id, f"column {name}", row[name], getattr(event, name))
        if row["redacted_by"] not in (None, PURGED):
            self._check_redaction(event_id, row["redacted_by"])
        return load_pdu(raw, self._room.rules, redacted_copy=bool(row["redacted_copy"]), event_id=event_id)

    def _check_redaction(self, event_id: str, redaction_id: str) -> None:
        redaction = self._find(redaction_id)
        if redaction is None or redaction.redacts != event_id:
            raise Differs(event_id, "redacted by", redaction_id, "an event that redacts this one, or nothing")

    def _check_edges(self, event: Pdu) -> None:
        rows = self._tx.all("SELECT prev_event_id FROM event_edges WHERE event_id = ?", (event.event_id,))
        _expect(event.event_id, "edges", sorted(parent for (parent,) in rows), sorted(event.prev_events))

    def _check_auth_index(self, event: Pdu) -> None:
        """What is kept for resolution of a state event's place in the auth graph; the place itself may be missing."""
        if not event.is_state:
            return
        cited = set(event.auth_events)
        self._auth_edges += len(cited)
        for auth_id in sorted(cited):
            row = self._tx.one(
                "SELECT 1 FROM auth_edges WHERE auth_event_id = ? AND event_id = ?", (auth_id, event.event_id)
            )
            if row is None:
                raise Differs(event.event_id, "auth edges", f"none to {auth_id}", f"one to {auth_id}")
        row = self._tx.one("SELECT level, spine, depth, jump FROM auth_nodes WHERE event_id = ?", (event.event_id,))
        if row is not None:
            _expect(event.event_id, "place in the auth graph", AuthNode(*row), self._replay.auth_node(event.event_id))

    def _judge(self, order: Order, node: Node, event: Pdu) -> tuple[Replayed, bool, int]:
        """The event's judgement, whether its whole ancestry is held, and its depth."""
        after = [self._after[parent] for parent in node.parents]
        depth = max((self._depths[parent] for parent in node.parents), default=0)
        grounded = all(order.nodes[parent].event_id not in self._ungrounded for parent in node.parents)
        foreign = False
        for parent in node.elsewhere:
            gap = self._gaps.get(parent)
            if gap is not None and gap.claimed_group is not None:
                after.append(self._claimed(event.event_id, gap.claimed_group))
                depth, grounded = max(depth, gap.depth), False
            elif self._find(parent) is not None and not order.is_outlier(parent):
                foreign = True
            else:
                raise Differs(event.event_id, "parent", f"{parent} is neither held nor a gap", "all parents held")
        for auth_id in event.auth_events:
            if self._find(auth_id) is None:
                raise Differs(event.event_id, "auth event", f"{auth_id} is not held", "all auth events held")
            if order.is_outlier(auth_id) or auth_id in self._ungrounded:
                grounded = False
        return self._replay.judge(event, after, foreign_parent=foreign), grounded, min(depth + 1, DEPTH_MAX)

    def _claimed(self, event_id: str, group_id: int) -> StateMap:
        known = self._groups.get(group_id)
        if known is None:
            known = self._stored_state(event_id, "claimed state", group_id)
            self._groups.put(group_id, known)
        return known

    def _check_verdict(self, event: Pdu, row: Mapping[str, Any], rejection: str | None) -> None:
        verdict, reason = row["verdict"], row["reason"]
        stored = verdict if reason is None else f"{verdict} {reason}"
        if rejection is not None:
            if verdict != "rejected" or reason is None:
                raise Differs(event.event_id, "verdict", stored, f"rejected {rejection}")
        elif verdict == "rejected":
            raise Differs(event.event_id, "verdict", stored, "not rejected: its auth events and the state allow it")
        elif (verdict == "soft_failed") != (reason is not None):
            raise Differs(event.event_id, "reason", stored, "a reason for a soft failure, and none else")

    def _check_state(self, event: Pdu, what: str, group_id: int | None, expected: StateMap) -> None:
        if group_id is None:
            raise Differs(event.event_id, what, "none", "a state group")
        if self._groups.get(group_id) is expected:
            return
        stored = self._stored_state(event.event_id, what, group_id)
        _expect_state(event.event_id, what, stored, expected)
        row = self._tx.one("SELECT state_sum FROM state_groups WHERE group_id = ?", (group_id,))
        if row is not None and row[0] is not None and row[0] != self._sum_of(expected):
            raise Differs(event.event_id, f"sum of the {what}", "another number", "that of the state's entries")
        self._groups.put(group_id, expected)

    def _check_sec(self, node: Node, row: Mapping[str, Any], judged: Replayed, grounded: bool) -> None:
        """What is kept of the SEC digest with the event; a row of an earlier version may not have it yet."""
        sec = event_sec(
            node.event_id,
            rejected=judged.rejection is not None,
            state_before=sum_digest(self._sum_of(judged.before)),
            state_after=sum_digest(self._sum_of(judged.after)),
            parents=[self._secs[parent] for parent in node.parents],
        )
        self._secs[node.number] = sec
        if row["sec"] is not None and row["sec"] != (sec if grounded else None):
            raise Differs(node.event_id, "sec", _spelled(row["sec"]), sec.hex() if grounded else None)

    def _note_sums(self, event: Pdu, judged: Replayed, after_parents: Sequence[StateMap]) -> None:
        """The sums over the slots of both states, from those of states near to them, so that large ones cost little."""
        before, after, slot = judged.before, judged.after, event.state_slot
        if self._sums.get(id(before)) is None:
            near = next((found for found in map(self._sums.get, map(id, after_parents)) if found is not None), None)
            if near is not None:
                removed, added = dict(near[0].items() - before.items()), dict(before.items() - near[0].items())
                self._keep_sum(before, changed_sum(near[1], removed=removed, added=added))
        if after is not before and slot is not None:
            removed = {slot: before[slot]} if slot in before else {}
            self._keep_sum(after, changed_sum(self._sum_of(before), removed=removed, added={slot: after[slot]}))

    def _sum_of(self, state: StateMap) -> bytes:
        known = self._sums.get(id(state))
        return known[1] if known is not None else self._keep_sum(state, state_sum(state))

    def _keep_sum(self, state: StateMap, total: bytes) -> bytes:
        self._sums.put(id(state), (state, total))  # with the state: its id is its own as long as it lives
        return total

    def _stored_state(self, event_id: str | None, what: str, group_id: int) -> StateMap:
        try:
            return state_groups.state_map(self._tx, group_id).whole()
        except KeyError:
            raise Differs(
                event_id, what, f"state group {group_id}, which is not there in full", "a state group"
            ) from None

    def _count(self, node: Node, event: Pdu, row: Mapping[str, Any], grounded: bool) -> None:
        found = self._found
        found.events += 1
        found.state_events += event.is_state
        found.rejected += row["verdict"] == "rejected"
        found.soft_failed += row["verdict"] == "soft_failed"
        found.redacted += bool(row["redacted_copy"] or row["redacted_by"])
        found.merges += len(node.parents) > 1
        found.on_claims += not grounded

    def _keep_states(self, order: Order, node: Node, after: StateMap) -> None:
        """The state after an event is forgotten with its last child, unless it lies open at the front."""
        self._after[node.number] = after
        for number in (*node.parents, node.number):
            each = order.nodes[number]
            if each.children_to_come == 0 and not (each.is_extremity or each.is_accepted_leaf):
                self._after.pop(number, None)
                self._depths.pop(number, None)
            if each.children_to_come == 0 and each.children > 0:
                self._secs.pop(number, None)

    def _find(self, event_id: str) -> Pdu | None:
        known = self._pdus.get(event_id)
        if known is not None:
            return known
        row = self._tx.one(
            "SELECT e.raw, e.redacted_copy, r.version FROM events AS e JOIN rooms AS r ON r.room_id = e.room_id"
            " WHERE e.event_id = ?",
            (event_id,),
        )
        if row is None:
            return None
        try:
            found = load_pdu(json.loads(row[0]), rules_of(row[2]), redacted_copy=bool(row[1]), event_id=event_id)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Differs(event_id, "event", "something that cannot be read", "one that passes the receipt") from None
        self._pdus.put(event_id, found)
        return found

    # The whole room

    def _check_all_reached(self, order: Order) -> None:
        """Events that cite each other in a circle cannot all be what their IDs say: one of them is not."""
        stuck = list(order.not_reached())
        for event_id in stuck:
            self._check_copy(self._row(event_id))
        if stuck:
            raise Differs(stuck[0], "ancestry", "a circle of citations", "events that lead back to the create event")

    def _check_front(self, order: Order) -> None:
        room, tx = self._room, self._tx
        placed = [node for node in order.nodes if not node.outlier]
        edges = tx.one(
            "SELECT count(*) FROM events AS e JOIN auth_edges AS a ON a.event_id = e.event_id WHERE e.room_id = ?",
            (room.room_id,),
        )
        _expect(None, "auth edges", 0 if edges is None else edges[0], self._auth_edges)
        leaves = sorted(node.event_id for node in placed if not node.children)
        _expect(None, "leaves", graph_ends.leaves(tx, room.room_id), leaves)
        standing = [node for node in placed if node.is_accepted_leaf]
        stored = graph_ends.accepted_leaves(tx, room.room_id)
        _expect(None, "accepted leaves", stored, sorted(node.event_id for node in standing))
        joining = any(gap.history for gap in self._gaps.values())
        positions = self._positions() if joining else {}
        front = [node for node in placed if node.is_extremity]
        if joining:
            front = [each for each in front if each.event_id in self._ungrounded and positions[each.event_id] > 0]
        extremities = sorted(node.event_id for node in front)
        _expect(None, "forward extremities", graph_ends.extremities(tx, room.room_id), extremities)
        if front:
            self._check_current_state(self._replay.resolved([self._after[node.number] for node in front]))
        if room.complete:
            resolution = self._replay.resolved([self._after[node.number] for node in standing])
            secs = {node.event_id: self._secs[node.number] for node in placed if not node.children}
            self._found.sec = room_sec(leaves_digest(secs), state_digest(resolution)).hex()
        held = {node.event_id for node in placed}
        for gap in self._gaps.values():
            if gap.missing_event_id in held:
                raise Differs(gap.missing_event_id, "gap", "recorded as missing", "no gap, as the event is held")
            if gap.claimed_by is not None:
                self._found.claims.append(gap.claimed_by)
        if room.complete and (self._gaps or self._ungrounded):
            raise Differs(
                None, "complete", "yes", f"no: {len(self._gaps)} gaps, {len(self._ungrounded)} events on claims"
            )
        if not (room.complete or self._gaps or self._ungrounded):
            raise Differs(None, "complete", "no", "yes: all is held, back to the create event")

    def _positions(self) -> dict[str, int]:
        rows = self._tx.execute("SELECT event_id, position FROM events WHERE room_id = ?", (self._room.room_id,))
        return dict(rows.fetchall())

    def _check_current_state(self, current: StateMap) -> None:
        """The state group, the rows for SQL with their memberships, and the numbers of members by server."""
        room, tx = self._room, self._tx
        if room.current_group is None:
            raise Differs(None, "current state", "none", "the resolution of the forward extremities")
        _expect_state(None, "current state", self._stored_state(None, "current state", room.current_group), current)
        rows = tx.all(
            "SELECT type, state_key, event_id, membership FROM current_state WHERE room_id = ?", (room.room_id,)
        )
        _expect_state(None, "rows of the current state", {(row[0], row[1]): row[2] for row in rows}, current)
        members: dict[str, list[int]] = {}
        for event_type, user_id, event_id, stored in rows:
            expected = None
            if event_type == "m.room.member":
                event = self._replay.event(event_id)
                value = event.content.get("membership")
                expected = value if isinstance(value, str) else "leave"
                counts = members.setdefault(server_of(user_id), [0, 0])
                counts[0] += expected == "join"
                counts[1] += expected == "invite"
            _expect(event_id, "membership in the current state", stored, expected)
        for server, joined, invited in tx.all(
            "SELECT server, joined, invited FROM member_servers WHERE room_id = ? ORDER BY server", (room.room_id,)
        ):
            expected_counts = members.pop(server, [0, 0])
            _expect(None, f"members of {server} (joined, invited)", [joined, invited], expected_counts)
        for server, (joined, invited) in members.items():
            if joined or invited:
                raise Differs(None, f"members of {server} (joined, invited)", "none", [joined, invited])


def _expect(event_id: str | None, what: str, stored: object, expected: object) -> None:
    if stored != expected:
        if isinstance(stored, list) and isinstance(expected, list) and len(expected) > 3:
            extra, lacking = (
                set(map(str, stored)) - set(map(str, expected)),
                set(map(str, expected)) - set(map(str, stored)),
            )
            stored = f"{len(stored)}" + (f", with {min(extra)}" if extra else "")
            expected = f"{len(expected)}" + (f", with {min(lacking)}" if lacking else f", without {min(extra)}")
        raise Differs(event_id, what, stored, expected)


def _expect_state(event_id: str | None, what: str, stored: StateMap, expected: StateMap) -> None:
    if stored == expected:
        return
    slot = min((slot for slot in {*stored, *expected} if stored.get(slot) != expected.get(slot)), key=repr)
    kind, key = slot
    raise Differs(event_id, f"{what}, {kind} {key!r}", stored.get(slot), expected.get(slot))


def _ancestry(grounded: bool) -> str:
    return "held, back to the create event" if grounded else "in part only claimed"


def _spelled(octets: object) -> str:
    return octets.hex() if isinstance(octets, bytes) else repr(octets)


def _told(value: object) -> str:
    return "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
