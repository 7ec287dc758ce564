"""The rooms of a `/sync` answer: joined, left, invited.

Source: client-server API, "Syncing", "Room summary"; docs/sync.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pserver.client_api.client_events import client_event, client_events, stripped
from p2pserver.client_api.room_access import end_of_membership, was_joined_at
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.sync_scope import RoomSection, SyncScope
from p2pserver.client_api.sync_state import changed_state, full_state, leaves_a_loser, state_after
from p2pserver.client_api.timeline import Timeline, newest_events
from p2pserver.events.pdu import Pdu
from p2pserver.meg.state import StateSlot, member_slot
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.unread import Count
from p2pserver.store import memberships
from p2pserver.store.events import StoredEvent
from p2pserver.store.receipts import newest_receipt, receipt_contents, receipts_of_room
from p2pserver.store.room_stream import FIRST, current_event_id, first_members, member_counts
from p2pserver.store.tx import Tx

HEROES_MAX = 5


def joined_room(
    scope: SyncScope, room_id: str, *, new: bool, account_data: Sequence[Mapping[str, Any]]
) -> RoomSection | None:
    """The section of a joined room, or None where there is nothing to tell.

    `new`: the client does not know the room: this is its first sync, or the user joined after `since`.
    """
    since = None if new else scope.position
    timeline = _timeline(scope, room_id, above=FIRST if since is None else since, upto=scope.upto)
    state = _state(scope, room_id, timeline, since=None if scope.full_state else since, end=scope.upto)
    whole = since is None or scope.full_state
    members_changed = whole or any(slot[0] == "m.room.member" for slot in state) or _holds_members(timeline.events)
    ephemeral = _ephemeral(scope, room_id, since=since)
    has_read = since is not None and newest_receipt(scope.tx, room_id, scope.user_id) > since
    if not (whole or timeline.events or state or timeline.limited or account_data or ephemeral or has_read):
        return None
    summary = _summary(scope, room_id) if members_changed else {}
    shown, members = _shown_state(
        scope, room_id, state, timeline.events, whole=whole, heroes=summary.get("m.heroes", ())
    )
    body = {
        "summary": summary,
        scope.state_after or "state": {"events": shown},
        "timeline": _timeline_body(scope, timeline),
        "ephemeral": {"events": ephemeral},
        "account_data": {"events": list(account_data)},
        **_unread(scope, room_id),
    }
    loser = scope.state_after is None and leaves_a_loser(scope, room_id, timeline.events)
    return RoomSection(body=body, settle_from=timeline.start if loser else None, members=members)


def _state(scope: SyncScope, room_id: str, timeline: Timeline, *, since: int | None, end: int) -> dict[StateSlot, str]:
    """The state events that the client wants: with `since`, of what changed after that."""
    if scope.state_after is not None:
        return state_after(scope, room_id, since=since, end=end)
    if since is None:
        return full_state(scope, room_id, timeline.events, start=timeline.start, end=end)
    return changed_state(scope, room_id, timeline.events, since=since, start=timeline.start, end=end)


def _unread(scope: SyncScope, room_id: str) -> dict[str, Any]:
    """The counts of what the user has not read: together, or by thread for a client that asks for it so."""
    unread = scope.unread.unread(scope.tx, scope.user_id, room_id)
    if not scope.sync_filter.unread_thread_notifications:
        return {"unread_notifications": _count(unread.total)}
    counts: dict[str, Any] = {"unread_notifications": _count(unread.main)}
    if unread.threads:
        counts["unread_thread_notifications"] = {root: _count(count) for root, count in unread.threads.items()}
    return counts


def _count(count: Count) -> dict[str, int]:
    return {"highlight_count": count.highlights, "notification_count": count.notifications}


def _ephemeral(scope: SyncScope, room_id: str, *, since: int | None) -> list[dict[str, Any]]:
    """Receipts that are new, and who is typing, where that changed. `since` None: the client knows nothing."""
    wanted = scope.sync_filter.ephemeral
    if not wanted.wants_room(room_id):
        return []
    events: list[dict[str, Any]] = []
    if wanted.wants("m.receipt", None, {}):
        above = FIRST if since is None else since
        receipts = receipts_of_room(scope.tx, room_id, scope.user_id, above=above, upto=scope.upto)
        shown = [
            receipt
            for receipt in receipts
            if receipt.user_id not in scope.ignored and wanted.wants_sender(receipt.user_id)
        ]
        events += [{"type": "m.receipt", "content": content} for content in receipt_contents(shown)]
    typing = scope.live.typing.get(room_id)
    if typing is not None and wanted.wants("m.typing", None, {}):
        users = [user_id for user_id in typing if user_id not in scope.ignored]
        if users or since is not None:
            events.append({"type": "m.typing", "content": {"user_ids": users}})
    return events


def left_room(scope: SyncScope, room_id: str, *, event_id: str, position: int) -> RoomSection:
    """The section of a room that the user has left, was kicked or banned from, or whose invite is gone.

    `event_id` is the member event that says so, in effect since `position`.
    """
    tx, rooms = scope.tx, scope.rooms
    since = scope.position
    ended = end_of_membership(tx, rooms, scope.user_id, room_id)
    leave = rooms.stored(tx, event_id)
    was_in_it = ended is not None and (since is None or ended > since)
    if not was_in_it or ended is None:
        events = [] if leave is None else [client_event(leave.pdu, wall_ms=scope.wall_ms)]
        return RoomSection(
            body=_left_body(scope, {"events": [], "limited": False, "prev_batch": _prev_batch(position)}, events)
        )
    known = since is not None and was_joined_at(tx, rooms, scope.user_id, room_id, since)
    end = max(position, leave.position) if leave is not None and not leave.outlier else position
    timeline = _timeline(scope, room_id, above=since if known and since is not None else FIRST, upto=end)
    state = _state(scope, room_id, timeline, since=since if known and not scope.full_state else None, end=end)
    if scope.state_after is not None or not any(event.pdu.event_id == event_id for event in timeline.events):
        state[member_slot(scope.user_id)] = event_id
    shown, members = _shown_state(scope, room_id, state, timeline.events, whole=not known, heroes=())
    return RoomSection(body=_left_body(scope, _timeline_body(scope, timeline), shown), members=members)


def invited_room(scope: SyncScope, room_id: str, *, event_id: str, knocking: bool = False) -> RoomSection:
    """The section of an invite or a knock: stripped state, with `m.room.create` and the user's own member event."""
    events = outside_state(scope.tx, scope.rooms, scope.user_id, room_id, event_id=event_id)
    return RoomSection(body={"knock_state" if knocking else "invite_state": {"events": events}})


def outside_state(tx: Tx, rooms: Rooms, user_id: str, room_id: str, *, event_id: str) -> list[dict[str, Any]]:
    """What somebody who is not in a room yet is shown of it; `event_id` is his own member event."""
    held = memberships.invite(tx, user_id, room_id)
    if held is not None:
        events = [_stripped_raw(raw) for raw in (*held.room_state, held.raw)]
    else:
        own = rooms.stored(tx, event_id)
        events = [*rooms.stripped_state(tx, room_id), *([] if own is None else [stripped(own.pdu)])]
    return list({(event["type"], event["state_key"]): event for event in events}.values())


def _stripped_raw(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in ("content", "sender", "state_key", "type")}


def _left_body(scope: SyncScope, timeline: Mapping[str, Any], state: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {scope.state_after or "state": {"events": list(state)}, "timeline": timeline, "account_data": {"events": []}}


def _prev_batch(position: int) -> str:
    return str(StreamToken(position))


def _timeline(scope: SyncScope, room_id: str, *, above: int, upto: int) -> Timeline:
    event_filter = scope.sync_filter.timeline
    if not event_filter.wants_room(room_id):
        return Timeline([], upto, limited=False)
    return newest_events(
        scope.tx,
        scope.rooms,
        room_id=room_id,
        user_id=scope.user_id,
        above=above,
        upto=upto,
        limit=event_filter.limit,
        event_filter=event_filter,
        ignored=scope.ignored,
    )


def _timeline_body(scope: SyncScope, timeline: Timeline) -> dict[str, Any]:
    events = client_events(
        scope.tx,
        scope.rooms,
        timeline.events,
        requester=scope.requester,
        wall_ms=scope.wall_ms,
        aggregate=timeline.limited,
    )
    return {"events": events, "limited": timeline.limited, "prev_batch": _prev_batch(timeline.start)}


def _holds_members(events: Sequence[StoredEvent]) -> bool:
    return any(event.pdu.type == "m.room.member" for event in events)


def _shown_state(
    scope: SyncScope,
    room_id: str,
    state: Mapping[StateSlot, str],
    timeline: Sequence[StoredEvent],
    *,
    whole: bool,
    heroes: Sequence[str],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The `state` events in client format, and which member events the client has now got in this room.

    With lazy loading: of a whole state only the members that matter (senders in the timeline, heroes, the user), of a
    change all members that changed; besides, the senders that this device has not been sent.
    """
    event_filter = scope.sync_filter.state
    chosen = dict(state)
    in_timeline = {event.pdu.state_key: event.pdu.event_id for event in timeline if event.pdu.type == "m.room.member"}
    named = [event.pdu.sender for event in timeline]
    if scope.state_after is not None:  # member events of the timeline are not taken from there
        named += [user_id for user_id in in_timeline if user_id is not None]
        in_timeline = {}
    if scope.sync_filter.lazy_load_members:
        needed = dict.fromkeys((*named, *heroes))
        if whole:
            needed[scope.user_id] = None
            chosen = {
                slot: event_id for slot, event_id in state.items() if slot[0] != "m.room.member" or slot[1] in needed
            }
        chosen.update(_senders_to_send(scope, room_id, chosen, needed, in_timeline, whole=whole))
    events = [event for event_id in chosen.values() if (event := scope.rooms.stored(scope.tx, event_id)) is not None]
    events.sort(key=lambda event: (event.pdu.type != "m.room.create", event.position))
    pdus = [event.pdu for event in events]
    if not event_filter.wants_room(room_id):
        pdus = []
    pdus = [pdu for pdu in pdus if event_filter.wants(pdu.type, pdu.sender, pdu.content)]
    members = {slot[1]: event_id for slot, event_id in chosen.items() if slot[0] == "m.room.member"}
    members.update((user_id, event_id) for user_id, event_id in in_timeline.items() if user_id is not None)
    return [_state_event(scope, pdu) for pdu in pdus], members


def _senders_to_send(
    scope: SyncScope,
    room_id: str,
    chosen: Mapping[StateSlot, str],
    needed: Mapping[str, None],
    in_timeline: Mapping[str | None, str],
    *,
    whole: bool,
) -> dict[StateSlot, str]:
    """The current member events of `needed` users that are neither in the answer nor with the device already."""
    found: dict[StateSlot, str] = {}
    for user_id in needed:
        slot = member_slot(user_id)
        if slot in chosen or user_id in in_timeline:
            continue
        event_id = current_event_id(scope.tx, room_id, slot)
        if event_id is None:
            continue
        redundant = scope.sent_members.get((room_id, user_id)) == event_id
        if whole or not redundant or scope.sync_filter.state.include_redundant_members:
            found[slot] = event_id
    return found


def _state_event(scope: SyncScope, pdu: Pdu) -> dict[str, Any]:
    return client_event(pdu, wall_ms=scope.wall_ms)


def _summary(scope: SyncScope, room_id: str) -> dict[str, Any]:
    """Member counts, and up to five members after whom a client may name a room that has no name."""
    counts = member_counts(scope.tx, room_id)
    summary: dict[str, Any] = {
        "m.joined_member_count": counts.get("join", 0),
        "m.invited_member_count": counts.get("invite", 0),
    }
    if not _has_name(scope, room_id):
        summary["m.heroes"] = heroes_of(scope.tx, room_id, scope.user_id)
    return summary


def _has_name(scope: SyncScope, room_id: str) -> bool:
    for event_type, key in (("m.room.name", "name"), ("m.room.canonical_alias", "alias")):
        event = scope.rooms.current_event(scope.tx, room_id, event_type)
        if event is not None and event.content.get(key):
            return True
    return False


def heroes_of(tx: Tx, room_id: str, user_id: str) -> list[str]:
    """Those who are in the room or invited; if there are none, those who were."""
    for kinds in (("join", "invite"), ("leave", "ban")):
        found = first_members(tx, room_id, kinds, but=user_id, most=HEROES_MAX)
        if found:
            return found
    return []
