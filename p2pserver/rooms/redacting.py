"""Redactions: applied when both events are here and it is allowed, held back from clients until then.

Allowed is who has the redact level in the state before the redaction, and whoever is of the same server as the sender
of the target; in versions 1 and 2, whomever the auth rules allowed it. Source: room versions 3 to 12, "Handling
redactions"; room version 1, "Authorization rules".
"""

from __future__ import annotations

from p2pserver.errors import Verdict
from p2pserver.events.hashing import content_hash
from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact
from p2pserver.meg.auth_content import redaction_takes_permissions
from p2pserver.rooms.state import power_levels_in
from p2pserver.store import events, redactions, search_index, state_groups
from p2pserver.store.events import StoredEvent
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


def note_redactions(tx: Tx, room: RoomRow, event: Pdu, *, may_be_target: bool = True) -> None:
    """After an event found its place or another verdict: applies it as a redaction, and those that wait for it.

    `may_be_target`: whether any can wait, as none can for an event that did not exist before.
    """
    search_index.note(tx, event.event_id, event.type)
    target = event.redacts
    if target is not None:
        redactions.remember(tx, room.room_id, target=target, redaction=event.event_id)
        _apply(tx, room, target, event.event_id)
    if not may_be_target:
        return
    for redaction, applied in redactions.of_target(tx, event.event_id):
        if not applied:
            _apply(tx, room, event.event_id, redaction)


def undo_redaction(tx: Tx, event: Pdu) -> None:
    """A redaction that was applied on the ground of a false claim: the content is lost here, but may come again."""
    found = redactions.target_of(tx, event.event_id)
    if found is None or not found[1]:
        return
    target = found[0]
    redactions.set_applied(tx, target=target, redaction=event.event_id, applied=False)
    held = events.pdu(tx, target)
    others = [each for each, applied in redactions.of_target(tx, target) if applied]
    events.set_redacted(tx, target, others[0] if others else None, None)
    if (
        held is not None
        and not others
        and content_hash(held.raw, held.rules) != held.raw["hashes"]["sha256"].rstrip("=")
    ):
        events.mark_redacted_copy(tx, target)


def _apply(tx: Tx, room: RoomRow, target_id: str, redaction_id: str) -> None:
    target, redaction = events.stored(tx, target_id), events.stored(tx, redaction_id)
    if target is None or redaction is None or not _is_allowed(tx, room, target, redaction):
        return
    redactions.set_applied(tx, target=target_id, redaction=redaction_id, applied=True)
    if redaction.position > 0 and target.position != redaction.position:
        _show_again(tx, redaction)
    if target.redacted_by is None:
        redacted = None if redaction_takes_permissions(target.pdu) else redact(target.pdu.raw, room.rules)
        events.set_redacted(tx, target_id, redaction_id, redacted)
        search_index.forget(tx, target_id, target.pdu.type, target.pdu.content)
    tx.notify(f"room:{room.room_id}")


def _is_allowed(tx: Tx, room: RoomRow, target: StoredEvent, redaction: StoredEvent) -> bool:
    if target.outlier or redaction.outlier or redaction.state_before is None:
        return False
    if target.verdict is not Verdict.ACCEPTED or redaction.verdict is not Verdict.ACCEPTED:
        return False
    if target.pdu.room_id != room.room_id or redaction.pdu.room_id != room.room_id:
        return False
    if target.pdu.server == redaction.pdu.server or room.rules.redactions_authorized:
        return True
    state = state_groups.state_map(tx, redaction.state_before)
    return power_levels_in(tx, room, state).may_redact(redaction.pdu.sender)


def _show_again(tx: Tx, redaction: StoredEvent) -> None:
    """A redaction that was held back comes to clients now: at a new place in the stream; they have passed the old."""
    if tx.position() > redaction.position:
        events.set_position(tx, redaction.pdu.event_id, tx.next_position())
