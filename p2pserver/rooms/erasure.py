"""Messages of users who asked to be forgotten: who was not there when one was sent gets it in the redacted form.

It has the same ID and the same place in the graph, so that nothing that nodes compare changes. Who was there keeps what
he saw, and other nodes keep and pass on what they hold: erasure binds this node. State events are left as they are.
Source: client-server API, "Account deactivation" (`erase`).
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.redaction import redact
from p2pserver.meg.state import member_slot
from p2pserver.store import events, state_groups
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx


def as_shown_to(tx: Tx, user_id: str, found: Sequence[StoredEvent]) -> list[Pdu]:
    """The events that a user may see, those that erasure hides from him redacted, in the same order."""
    erased = {sender for (sender,) in tx.all("SELECT user_id FROM users WHERE erased = 1")}
    return [
        _redacted(each.pdu)
        if each.pdu.sender in erased and each.pdu.state_key is None and not _was_joined(tx, user_id, each)
        else each.pdu
        for each in found
    ]


def _redacted(event: Pdu) -> Pdu:
    return load_pdu(redact(event.raw, event.rules), event.rules, event_id=event.event_id)


def _was_joined(tx: Tx, user_id: str, event: StoredEvent) -> bool:
    if event.state_before is None:
        return False
    member_id = state_groups.state_map(tx, event.state_before).get(member_slot(user_id))
    member = None if member_id is None else events.pdu(tx, member_id)
    return member is not None and member.content.get("membership") == "join"
