"""Better copies of events that are held: absent < redacted copy < genuine copy.

A liar can give one node an event with a content that does not match its hash, and another node the genuine one. Both
hold the same event, so nothing that compares event IDs shows a difference. Who holds a redacted copy therefore asks the
others for a genuine one, as long as it is one that this server may have at all: what the history visibility hides from
it comes redacted from everybody.
"""

from __future__ import annotations

from p2pserver.meg.auth_content import may_lack_permissions
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.server_visibility import may_have_content
from p2pserver.store import events
from p2pserver.store.tx import Tx

COPIES_AT_ONCE = 8
POOR_MAX = 512
"""So many poor copies of events that the auth rules read are looked at."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def is_welcome(context: RoomContext, tx: Tx, event_id: str) -> bool:
    """Whether a genuine copy of an event, that is held redacted, may exist for this server."""
    return may_have_content(tx, context.server_name, event_id)


def wanted_copies(context: RoomContext, tx: Tx, room_id: str) -> list[str]:
    """Some of the events to ask for a genuine copy: others each time, for a liar can make many that have none."""
    if not events.has_redacted_copies(tx, room_id):
        return []
    start = "$" + "".join(context.rng.choices(_LETTERS, k=4))
    found = events.redacted_copies(tx, room_id, start=start, most=COPIES_AT_ONCE)
    poor = poor_permissions(tx, room_id)
    first = context.rng.sample(poor, min(len(poor), COPIES_AT_ONCE))
    return [event_id for event_id in dict.fromkeys((*first, *found)) if is_welcome(context, tx, event_id)]


def poor_permissions(tx: Tx, room_id: str) -> list[str]:
    """The events whose genuine copy may be judged otherwise, or others by it; sorted.

    Two nodes that do not have the same ones cannot be compared by what they made of the events.
    """
    return sorted(
        event.event_id for event in events.poor_permissions(tx, room_id, most=POOR_MAX) if may_lack_permissions(event)
    )
