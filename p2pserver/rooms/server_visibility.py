"""What another server may see of a room: it is judged by the state at each event, as for users.

A server that is in the room gets every event, since it needs them all to agree with us; what the history visibility
hides from its users it gets in the redacted form, which has the same ID and the same effect on the state. Where it has
not (`meg/auth_content.py`), it gets the event in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact
from p2pserver.identifiers import server_of
from p2pserver.meg.auth_content import may_lack_permissions, redaction_takes_permissions
from p2pserver.meg.state import StateMap
from p2pserver.store import events, memberships, state_groups
from p2pserver.store.account_status import is_erased
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

HISTORY_VISIBILITY = ("m.room.history_visibility", "")
SERVER_MEMBERSHIPS_KEPT = 1024


def sees_room(tx: Tx, server: str, room_id: str) -> bool:
    """Whether a user of the server is or was joined."""
    return memberships.was_in(tx, room_id, server)


def visibility_in(tx: Tx, state: StateMap) -> str:
    """`world_readable`, `shared`, `invited` or `joined`; `shared` where nothing valid is said."""
    event_id = state.get(HISTORY_VISIBILITY)
    event = None if event_id is None else events.pdu(tx, event_id)
    value = None if event is None else event.content.get("history_visibility")
    return value if value in ("world_readable", "shared", "invited", "joined") else "shared"


def copy_for(tx: Tx, server: str, event_id: str) -> dict[str, Any] | None:
    """The event as this server may have it: in full, redacted, or None."""
    found = events.stored(tx, event_id)
    if found is None or found.outlier or found.state_before is None or found.state_after is None:
        return None
    joined_now = memberships.is_joined(tx, found.pdu.room_id, server)
    whole = events.pdu(tx, event_id)
    if whole is not None and joined_now and redaction_takes_permissions(whole):
        return dict(whole.raw)  # who judges by less comes to other verdicts; each redacts what it shows
    if found.pdu.server == server or _sees(tx, server, found.pdu, found.state_before, found.state_after, joined_now):
        if _is_erased_for(tx, server, found.pdu, found.state_before):
            return redact(found.pdu.raw, found.pdu.rules)
        return dict(found.pdu.raw)
    if joined_now:
        return redact(found.pdu.raw, found.pdu.rules)
    return None


def _is_erased_for(tx: Tx, server: str, event: Pdu, before: int) -> bool:
    """Whether it is a message of a user who asked to be forgotten, of a time when the server was not in the room."""
    if event.state_key is not None or not is_erased(tx, event.sender):
        return False
    return "join" not in _memberships_of(tx, server, before)


def may_have_content(tx: Tx, server: str, event_id: str) -> bool:
    """Whether another member would give this server the event in full."""
    found = events.stored(tx, event_id)
    if found is None or found.state_before is None or found.state_after is None:
        return False
    if may_lack_permissions(found.pdu):
        return True
    return _sees(tx, server, found.pdu, found.state_before, found.state_after, joined_now=True)


def may_see_content(tx: Tx, server: str, event_id: str) -> bool:
    """Whether the history visibility shows the event to users of the server."""
    found = events.stored(tx, event_id)
    if found is None or found.outlier or found.state_before is None or found.state_after is None:
        return False
    joined_now = memberships.is_joined(tx, found.pdu.room_id, server)
    return _sees(tx, server, found.pdu, found.state_before, found.state_after, joined_now)


def _sees(tx: Tx, server: str, event: Pdu, before: int, after: int, joined_now: bool) -> bool:
    state = state_groups.state_map(tx, before)
    visibility = visibility_in(tx, state)
    if visibility == "world_readable" or (visibility == "shared" and joined_now):
        return True
    present = _memberships_of(tx, server, before) | _memberships_of(tx, server, after)
    return "join" in present or (visibility == "invited" and "invite" in present)


def _memberships_of(tx: Tx, server: str, group_id: int) -> frozenset[str]:
    """The memberships that users of a server have in a state."""
    cache: Lru[tuple[str, int], frozenset[str]] | None = tx.caches.get("server_memberships")
    if cache is None:
        cache = tx.caches["server_memberships"] = Lru(SERVER_MEMBERSHIPS_KEPT)
    known = cache.get((server, group_id))
    if known is None:
        known = frozenset(_each_membership(tx, server, state_groups.state_map(tx, group_id)))
        cache.put((server, group_id), known)
    return known


def _each_membership(tx: Tx, server: str, state: Mapping[tuple[str, str], str]) -> list[str]:
    found: list[str] = []
    for (event_type, user_id), event_id in state.items():
        if event_type == "m.room.member" and server_of(user_id) == server:
            event = events.pdu(tx, event_id)
            membership = None if event is None else event.content.get("membership")
            if isinstance(membership, str):
                found.append(membership)
    return found
