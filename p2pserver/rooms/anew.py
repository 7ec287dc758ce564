"""Going on from a state that is not the newest: what the node did since must not be done again, nor be taken for known.

This is for a database that was put back: by `p2pserver restore`, by copying a folder, by a snapshot of a machine. What
is events comes back from the rooms' other servers by itself. See docs/backup.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules
from p2pserver.identifiers import server_of
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.invites import invite_payload
from p2pserver.rooms.sending import room_of
from p2pserver.store import events, memberships, outbox
from p2pserver.store.delayed_events import due_before, finalise
from p2pserver.store.device_list_cache import cached_users
from p2pserver.store.device_lists import note_remote_change
from p2pserver.store.filters import leave_filter_numbers_out
from p2pserver.store.key_backups import leave_backup_numbers_out
from p2pserver.store.one_time_keys import spend_all_keys
from p2pserver.store.receipts import forget_receipts_told
from p2pserver.store.runs import begin_life
from p2pserver.store.tokens import drop_short_lived_tokens
from p2pserver.store.tx import Tx

ROOMS_AT_ONCE = 200
JOINS_AT_ONCE = 300
USERS_OF_ROOM_MAX = 100


def go_on_anew(tx: Tx) -> None:
    """Spends what may have been handed out, and doubts what others may have changed.

    One-time keys: a client deletes the secret half when the first message that uses it arrives, so a key that is handed
    out twice makes messages that nobody can read. Clients see that none is left and upload others. Device lists of
    other servers: what they sent was acknowledged, and does not come again. Numbers that clients keep (filters,
    versions of key backups) are not given again.
    """
    begin_life(tx)
    spend_all_keys(tx)
    for user_id in cached_users(tx):
        note_remote_change(tx, user_id)
    leave_filter_numbers_out(tx)
    leave_backup_numbers_out(tx)
    drop_short_lived_tokens(tx)


def give_up_overdue(tx: Tx, now_ms: int) -> int:
    """Delayed events that were due since the backup may have been sent: they are given up. Returns how many."""
    overdue = due_before(tx, now_ms)
    error = {"errcode": "M_UNKNOWN", "error": "the node was restored from a backup; this may have been sent before"}
    for event in overdue:
        finalise(tx, event, now_ms, error=error)
    return len(overdue)


def rooms_of_origin(
    context: RoomContext,
    tx: Tx,
    origin: str,
    body: dict[str, Any],
    *,
    may_know: Callable[[str], bool] = lambda room_id: True,
) -> dict[str, Any]:
    """Tells a server that does not know all that it did in which rooms its users are, and tells it anew of what else it
    may have forgotten: invites by users of this server, receipts. What is known here of its users' devices is in doubt.

    Answer: `rooms`, by room ID its `version` and the PDUs with which users `joined`; `after`, if there are more rooms,
    to be asked with.
    """
    after = body.get("after")
    shared = [room_id for room_id in memberships.shared_rooms(tx, context.server_name, origin) if may_know(room_id)]
    if isinstance(after, str):
        shared = [room_id for room_id in shared if room_id > after]
    else:
        forget_receipts_told(tx, origin)
        for user_id in cached_users(tx, origin):
            note_remote_change(tx, user_id)
    rooms: dict[str, dict[str, Any]] = {}
    joins = 0
    for room_id in shared[:ROOMS_AT_ONCE]:
        rooms[room_id] = _room_told(context, tx, origin, room_id)
        joins += len(rooms[room_id]["joined"])
        if joins >= JOINS_AT_ONCE:
            break
    return {"rooms": rooms} | ({"after": list(rooms)[-1]} if len(rooms) < len(shared) else {})


def _room_told(context: RoomContext, tx: Tx, origin: str, room_id: str) -> dict[str, Any]:
    joined: list[dict[str, Any]] = []
    for _, membership, event_id in memberships.users_of_server(tx, room_id, origin, most=USERS_OF_ROOM_MAX):
        if membership == "invite":
            _invite_again(context, tx, origin, room_id, event_id)
        elif (event := events.pdu(tx, event_id)) is not None:
            joined.append(dict(event.raw))
    return {"version": room_of(tx, room_id).rules.version, "joined": joined}


def _invite_again(context: RoomContext, tx: Tx, origin: str, room_id: str, event_id: str) -> None:
    try:
        payload = invite_payload(tx, event_id)
    except KeyError:
        return
    is_ours = server_of(payload["event"]["sender"]) == context.server_name
    if is_ours and not outbox.is_invite_owed(tx, origin, room_id):
        outbox.queue_invite(tx, origin, room_id, payload)


def rooms_told(context: RoomContext, answer: dict[str, Any]) -> list[tuple[str, str]]:
    """(user ID, room ID) of joins of our users that another server knows, each signed by this node; nothing else of
    what it says is believed."""
    rooms = answer.get("rooms")
    found: dict[tuple[str, str], None] = {}
    for room_id, told in list(rooms.items())[:ROOMS_AT_ONCE] if isinstance(rooms, dict) else ():
        version, joined = (told.get("version"), told.get("joined")) if isinstance(told, dict) else (None, None)
        rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
        if rules is None or not isinstance(joined, list):
            continue
        for raw in joined[:USERS_OF_ROOM_MAX]:
            user_id = _joined_by(context, rules, room_id, raw)
            if user_id is not None:
                found[user_id, room_id] = None
    return list(found)


def _joined_by(context: RoomContext, rules: RoomVersionRules, room_id: str, raw: object) -> str | None:
    try:
        event = check_on_receipt(raw, rules, context.keys)
    except PduDropped:
        return None
    is_join = event.type == "m.room.member" and event.content.get("membership") == "join"
    if not is_join or event.room_id != room_id or event.state_key != event.sender:
        return None
    return event.sender if context.is_local(event.sender) else None
