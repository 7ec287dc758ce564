"""History visibility for the users of this node: judged by the state at each event, on every read path.

Source: client-server API, "Room history visibility".
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.meg.state import StateMap, member_slot
from p2pserver.rooms.server_visibility import HISTORY_VISIBILITY, visibility_in
from p2pserver.store import events, redactions, state_groups
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx

NOTHING = -(2**63)
"""A stream position below that of every event."""


def visible_to(tx: Tx, user_id: str, found: Sequence[StoredEvent]) -> list[bool]:
    """Whether the user may see each event. Rejected, soft-failed, outlying, healing and purged ones are for nobody.

    A redaction is for nobody as long as it has no effect: its target is not here, or it is not allowed. So is a message
    of which only a redacted copy is held though nobody redacted it: the genuine one may still come.
    """
    last_seen: dict[str, int | None] = {}
    views = _Views(tx, user_id)
    answers: list[bool] = []
    for each in found:
        room_id = each.pdu.room_id
        if room_id not in last_seen:
            last_seen[room_id] = shared_until(tx, user_id, room_id)
        answers.append(_is_visible(tx, views, each, last_seen[room_id]))
    return answers


def shared_until(tx: Tx, user_id: str, room_id: str) -> int | None:
    """The stream position up to which the user may see `shared` history: None, if he is joined now.

    Somebody who left keeps what was there when he did.
    """
    row = tx.one(
        "SELECT membership FROM current_state WHERE room_id = ? AND type = 'm.room.member' AND state_key = ?",
        (room_id, user_id),
    )
    if row is not None and row[0] == "join":
        return None
    until = NOTHING
    was_joined = False
    for position, event_id in tx.execute(
        "SELECT position, event_id FROM events WHERE room_id = ? AND state_key = ? AND type = 'm.room.member'"
        " AND outlier = 0 AND verdict = 'accepted' ORDER BY position",
        (room_id, user_id),
    ):
        if was_joined:
            until = position
        event = events.pdu(tx, event_id)
        was_joined = event is not None and event.content.get("membership") == "join"
    return until


class _Views:
    """What a user is to a room in its states, and who may see what there: the same for all messages in one state."""

    def __init__(self, tx: Tx, user_id: str) -> None:
        self.user_id = user_id
        self._tx = tx
        self._known: dict[int, tuple[str, str]] = {}

    def at(self, group_id: int) -> tuple[str, str]:
        """(membership, history visibility) in a state group."""
        known = self._known.get(group_id)
        if known is None:
            state = state_groups.state_map(self._tx, group_id)
            known = (_membership(self._tx, state, self.user_id), visibility_in(self._tx, state))
            self._known[group_id] = known
        return known


def _is_visible(tx: Tx, views: _Views, event: StoredEvent, until: int | None) -> bool:
    if event.outlier or event.verdict is not Verdict.ACCEPTED or event.pdu.type == events.HEALING_TYPE:
        return False
    if event.state_before is None or event.state_after is None or event.redacted_by == events.PURGED:
        return False
    if event.pdu.redacted_copy and event.redacted_by is None and event.pdu.state_key is None:
        return False
    if event.pdu.type == "m.room.redaction":
        effect = redactions.target_of(tx, event.pdu.event_id)
        if effect is None or not effect[1]:
            return False
    membership, visibility = views.at(event.state_before)
    present, visibilities = {membership}, {visibility}
    if event.pdu.state_slot == ("m.room.member", views.user_id):
        present.add(views.at(event.state_after)[0])
    elif event.pdu.state_slot == HISTORY_VISIBILITY:
        visibilities.add(views.at(event.state_after)[1])
    if "world_readable" in visibilities or "join" in present:
        return True
    if "shared" in visibilities and (until is None or event.position <= until):
        return True
    return "invited" in visibilities and "invite" in present


def _membership(tx: Tx, state: StateMap, user_id: str) -> str:
    event_id = state.get(member_slot(user_id))
    event: Pdu | None = None if event_id is None else events.pdu(tx, event_id)
    membership = None if event is None else event.content.get("membership")
    return membership if isinstance(membership, str) else "leave"
