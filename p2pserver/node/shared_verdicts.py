"""Pure verdicts that the nodes of one simulation may share, so that a hundred nodes do not check one signature each.

Checks 1 to 3 on a PDU depend on its octets, the room version and keys that are part of the names. So what one node
found, another finds too, and both may look it up.

A state resolution depends on the states, on what the events say that they name, with their auth chains, and on which of
those are rejected. A node that holds the whole ancestry of all its events, and of none that the auth rules read only a
redacted copy, has no choice in any of it: all that follows from the event IDs in the states. Nodes look up the
resolution of such states by their digests. Whoever holds less, or judges events again, resolves by itself.

Nothing else is shared: what a node holds, its verdicts by ancestry and its soft failures are its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import cbor2

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_all_on_receipt, check_on_receipt
from p2pserver.events.signing import KeyLookup, SelfCertifyingKeys
from p2pserver.events.versions import RoomVersionRules
from p2pserver.meg.chains import ResolutionNotes
from p2pserver.meg.state import StateSlot
from p2pserver.node.sabotage import replace_in_units, replaced
from p2pserver.rooms import receipt, state
from p2pserver.rooms.state import resolution
from p2pserver.store import events, graph_walks, rooms, state_groups
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx


class SharedVerdicts:
    """Use `in_use` around a simulation; `keep_out` a node that is broken on purpose."""

    def __init__(self) -> None:
        self._checked: dict[tuple[str, bool, bytes], Pdu | str] = {}
        self._resolved: dict[tuple[str, frozenset[bytes]], Mapping[StateSlot, str | None]] = {}
        self.checks = self.checks_found = 0
        self.resolutions = self.resolutions_found = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with (
            replaced(receipt, "check_all_on_receipt", self.check_all_on_receipt),
            replaced(state, "resolution", self.resolution),
        ):
            yield

    def keep_out(self, database: InlineDatabase) -> None:
        """Units of work on this database compute everything themselves, and leave nothing for others."""
        replace_in_units(database, receipt, "check_all_on_receipt", check_all_on_receipt)
        replace_in_units(database, state, "resolution", resolution)

    def resolution(
        self,
        tx: Tx,
        room_id: str,
        rules: RoomVersionRules,
        groups: Sequence[int],
        *,
        notes: ResolutionNotes | None = None,
    ) -> Mapping[StateSlot, str | None]:
        self.resolutions += 1
        if not _follows_from_ids(tx, room_id):
            return resolution(tx, room_id, rules, groups, notes=notes)
        key = rules.version, frozenset(state_groups.digest(tx, group_id) for group_id in groups)
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = resolution(tx, room_id, rules, groups, notes=notes)
        else:
            self.resolutions_found += 1
        return found

    def check_all_on_receipt(
        self, objs: Iterable[object], rules: RoomVersionRules, keys: KeyLookup, *, limit_references: bool = True
    ) -> list[Pdu | PduDropped]:
        found: list[Pdu | PduDropped] = []
        for obj in objs:
            try:
                found.append(self._check_on_receipt(obj, rules, keys, limit_references=limit_references))
            except PduDropped as drop:
                found.append(drop)
        return found

    def _check_on_receipt(
        self, obj: object, rules: RoomVersionRules, keys: KeyLookup, *, limit_references: bool
    ) -> Pdu:
        """Raises: PduDropped."""
        try:
            octets = cbor2.dumps(obj)
        except (cbor2.CBOREncodeError, UnicodeError, RecursionError, TypeError, ValueError):
            octets = None
        if octets is None or not isinstance(keys, SelfCertifyingKeys):
            return check_on_receipt(obj, rules, keys, limit_references=limit_references)
        self.checks += 1
        key = (rules.version, limit_references, hashlib.blake2b(octets, digest_size=16).digest())
        found = self._checked.get(key)
        if found is None:
            try:
                found = check_on_receipt(obj, rules, keys, limit_references=limit_references)
            except PduDropped as drop:
                found = drop.reason
            self._checked[key] = found
        else:
            self.checks_found += 1
        if isinstance(found, str):
            raise PduDropped(found)
        return found


def _follows_from_ids(tx: Tx, room_id: str) -> bool:
    """Whether all that is held of the room follows from the IDs of its events."""
    room = rooms.room(tx, room_id)
    if room is None or not room.complete or graph_walks.has_ungrounded(tx, room_id):
        return False
    return not events.has_poor_permissions(tx, room_id)
