"""Pure verdicts that the nodes of one simulation may share, so that a hundred nodes do not check one signature each.

Checks 1 to 3 on a PDU depend on its octets, the room version and keys that are part of the names. So what one node
found, another finds too, and both may look it up. Nothing else is shared: what a node holds, its verdicts by ancestry,
its resolutions and its soft failures are its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import cbor2

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_all_on_receipt, check_on_receipt
from p2pserver.events.signing import KeyLookup, SelfCertifyingKeys
from p2pserver.events.versions import RoomVersionRules
from p2pserver.node.sabotage import replace_in_units, replaced
from p2pserver.rooms import receipt
from p2pserver.store.inline import InlineDatabase


class SharedVerdicts:
    """Use `in_use` around a simulation; `keep_out` a node that is broken on purpose."""

    def __init__(self) -> None:
        self._checked: dict[tuple[str, bool, bytes], Pdu | str] = {}
        self.checks = self.checks_found = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with replaced(receipt, "check_all_on_receipt", self.check_all_on_receipt):
            yield

    def keep_out(self, database: InlineDatabase) -> None:
        """Units of work on this database compute everything themselves, and leave nothing for others."""
        replace_in_units(database, receipt, "check_all_on_receipt", check_all_on_receipt)

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
