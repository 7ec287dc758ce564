"""Server ACLs: which servers may talk to us about a room, by the `m.room.server_acl` of its current state.

Only who talks is judged, never who made an event: what a denied server has made and another member brings is taken, or
two members of whom one has heard of the ACL later would hold different graphs for ever. Names are compared without
regard to case (as since v1.19) and without their port; `*` and `?` are wildcards. An ACL that was redacted is none: its
empty content would deny everybody. Source: client-server API, "Server Access Control Lists (ACLs) for rooms".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.errors import BadJson, Forbidden, Verdict
from p2pserver.events.receipt import PduDropped, check_all_on_receipt
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.push_patterns import Matcher, whole_text
from p2pserver.rooms.values import Receipt, ReceiveReport
from p2pserver.store import events, rooms
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

EVENT_TYPE = "m.room.server_acl"
ENTRIES_MAX = 10_000
"""Of one list. An event has no space for more names."""
WITH_ONE_CHARACTER_MAX = 256
"""Entries of one list with a `?`, which cost more; those beyond match nothing."""
REASON = "the server ACL of the room denies this server"
ACLS_KEPT = 64
VERDICTS_KEPT = 4_096

_PORT = re.compile(r":[0-9]{1,5}\Z")
_IPV4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")


@dataclass(frozen=True, slots=True)
class ServerAcl:
    """The content of an `m.room.server_acl` event, ready to be asked."""

    ip_literals: bool
    deny: tuple[Matcher, ...]
    allow: tuple[Matcher, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ServerAcl:
        """What has the wrong type counts as absent: nobody is denied, nobody is allowed."""
        return cls(
            content.get("allow_ip_literals") is not False, _matchers(content, "deny"), _matchers(content, "allow")
        )

    def allows(self, server: str) -> bool:
        host = _PORT.sub("", server)
        if not self.ip_literals and (host.startswith("[") or _IPV4.fullmatch(host)):
            return False
        return not any(spells(host) for spells in self.deny) and any(spells(host) for spells in self.allow)


def _matchers(content: Mapping[str, Any], name: str) -> tuple[Matcher, ...]:
    value = content.get(name)
    entries = dict.fromkeys(each for each in value if isinstance(each, str)) if isinstance(value, list) else {}
    left = WITH_ONE_CHARACTER_MAX
    found: list[Matcher] = []
    for entry in list(entries)[:ENTRIES_MAX]:
        left -= "?" in entry
        if "?" not in entry or left >= 0:
            found.append(whole_text(entry))
    return tuple(found)


def is_denied(tx: Tx, room_id: str, server: str) -> bool:
    """Whether a room that is held has an ACL now by which this server may not talk about it."""
    event_id = _current(tx, room_id)
    return event_id is not None and not _allows(tx, event_id, server)


def allowed(tx: Tx, room_id: str, servers: Collection[str]) -> list[str]:
    """Those of the servers that may talk about a room."""
    event_id = _current(tx, room_id)
    return [server for server in servers if event_id is None or _allows(tx, event_id, server)]


def _current(tx: Tx, room_id: str) -> str | None:
    row = tx.one(
        "SELECT s.event_id FROM current_state AS s JOIN events AS e ON e.event_id = s.event_id"
        f" WHERE s.room_id = ? AND s.type = '{EVENT_TYPE}' AND s.state_key = ''"
        " AND e.redacted_by IS NULL AND e.redacted_copy = 0",
        (room_id,),
    )
    return None if row is None else row[0]


def _allows(tx: Tx, event_id: str, server: str) -> bool:
    verdicts: Lru[tuple[str, str], bool] = tx.caches.setdefault("server_acl_verdicts", Lru(VERDICTS_KEPT))
    known = verdicts.get((event_id, server))
    if known is None:
        known = _acl(tx, event_id).allows(server)
        verdicts.put((event_id, server), known)
    return known


def _acl(tx: Tx, event_id: str) -> ServerAcl:
    acls: Lru[str, ServerAcl] = tx.caches.setdefault("server_acls", Lru(ACLS_KEPT))
    known = acls.get(event_id)
    if known is None:
        event = events.pdu(tx, event_id)
        known = ServerAcl.of({} if event is None else event.content)
        acls.put(event_id, known)
    return known


def refuse_denied(tx: Tx, room_id: str, server: str) -> None:
    """Raises: Forbidden."""
    if is_denied(tx, room_id, server):
        raise Forbidden(REASON)


def check_own_acl(content: Mapping[str, Any], server_name: str) -> None:
    """Before a user sets an ACL: one that denies his own server would end the room for him. As Synapse does.

    Raises: BadJson.
    """
    if not ServerAcl.of(content).allows(server_name):
        raise BadJson("this server ACL would deny this server itself")


def refused(context: RoomContext, tx: Tx, room_id: str, raws: Sequence[object]) -> ReceiveReport:
    """What a denied server is told of the events that it brings: dropped, each by its ID, so that it tries no more."""
    held = rooms.room(tx, room_id)
    report = ReceiveReport()
    if held is not None:
        for found in check_all_on_receipt(raws, held.rules, context.keys, limit_references=False):
            event_id = None if isinstance(found, PduDropped) else found.event_id
            report.results.append(Receipt(event_id=event_id, verdict=Verdict.DROPPED, reason=REASON))
    return report
