"""One `/sync` answer, out of one snapshot of the database.

What an incremental answer costs depends on what is new, not on how many rooms there are: the rooms that are looked at
are found by position. Source: client-server API, "Syncing"; docs/sync.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from p2pserver.client_api.room_access import was_joined_at
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.sync_rooms import invited_room, joined_room, left_room
from p2pserver.client_api.sync_scope import RoomSection, SyncScope
from p2pserver.store.account_data import AccountData, account_data_since
from p2pserver.store.device_lists import device_list_changes, share_a_room
from p2pserver.store.memberships import LocalMembership
from p2pserver.store.one_time_keys import otk_changed_since, otk_counts, unused_fallback
from p2pserver.store.own_rooms import memberships_of
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.receipts import rooms_with_receipts
from p2pserver.store.room_stream import has_news, rooms_with_news
from p2pserver.store.to_device import to_device_since

TO_DEVICE_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """A body to send, and what is to be remembered when it is sent."""

    body: dict[str, Any]
    next_batch: StreamToken
    eventful: bool
    """Whether the client learns anything from it; if not, it rather waits."""
    topics: frozenset[str]
    """What would make the next answer eventful."""
    sent_members: list[tuple[tuple[str, str], str]]


def sync_answer(scope: SyncScope) -> SyncAnswer:
    """The answer to `scope`. Raises nothing that is the client's fault; those are found before."""
    tx, since = scope.tx, scope.position
    memberships = [row for row in memberships_of(tx, scope.user_id) if scope.sync_filter.wants_room(row.room_id)]
    data = account_data_since(tx, scope.user_id, -1 if since is None else since, scope.upto)
    by_room, own_data = _account_data(scope, data)
    ignored = ignored_users(tx, scope.user_id)
    if ignored:
        scope = replace(scope, ignored=ignored)
    sections = _sections(scope, memberships, by_room)
    messages, to_device_upto = _to_device(scope)
    changed, left = ([], []) if since is None else device_list_changes(tx, scope.user_id, since, scope.upto)
    device = (scope.user_id, scope.requester.device_id)
    keys_changed = since is not None and otk_changed_since(tx, *device, since)
    fallback_types = unused_fallback(tx, *device)
    settle = [
        room.settle_from for rooms in sections.values() for room in rooms.values() if room.settle_from is not None
    ]
    next_batch = StreamToken(
        scope.upto, settle_from=min(settle, default=None), to_device=to_device_upto, live=scope.live.serial
    )
    presence = _presence(scope)
    is_seen = any(event["sender"] != scope.user_id for event in presence)
    body: dict[str, Any] = {
        "next_batch": str(next_batch),
        "rooms": {name: {room_id: room.body for room_id, room in rooms.items()} for name, rooms in sections.items()},
        "account_data": {"events": own_data},
        "presence": {"events": presence},
        "to_device": {"events": messages},
        "device_one_time_keys_count": otk_counts(tx, *device),
        "device_unused_fallback_key_types": fallback_types,
        "org.matrix.msc2732.device_unused_fallback_key_types": fallback_types,
    }
    if since is not None:
        body["device_lists"] = {"changed": changed, "left": left}
    joined = [row.room_id for row in memberships if row.membership == "join"]
    return SyncAnswer(
        body=body,
        next_batch=next_batch,
        eventful=bool(any(sections.values()) or own_data or messages or changed or left or keys_changed or is_seen),
        topics=frozenset((f"user:{scope.user_id}", *(f"room:{room_id}" for room_id in joined))),
        sent_members=[
            ((room_id, user_id), event_id)
            for rooms in sections.values()
            for room_id, room in rooms.items()
            for user_id, event_id in room.members.items()
        ],
    )


def _sections(
    scope: SyncScope, memberships: Collection[LocalMembership], account_data: Mapping[str, list[dict[str, Any]]]
) -> dict[str, dict[str, RoomSection]]:
    since = scope.position
    changed = (
        None
        if since is None or scope.full_state
        else _changed_rooms(scope, since, memberships) | set(account_data) | _with_ephemeral(scope, since)
    )
    sections: dict[str, dict[str, RoomSection]] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
    for row in memberships:
        room_id, fresh = row.room_id, since is None or row.position > since
        if row.membership == "join":
            if changed is not None and not fresh and room_id not in changed:
                continue
            new = since is None or (fresh and not was_joined_at(scope.tx, scope.rooms, scope.user_id, room_id, since))
            room = joined_room(scope, room_id, new=new, account_data=account_data.get(room_id, ()))
            if room is not None:
                sections["join"][room_id] = room
        elif row.membership == "invite":
            if fresh and row.sender not in scope.ignored:
                sections["invite"][room_id] = invited_room(scope, room_id, event_id=row.event_id)
        elif row.membership == "knock":
            if fresh:
                sections["knock"][room_id] = invited_room(scope, room_id, event_id=row.event_id, knocking=True)
        elif row.membership in ("leave", "ban") and fresh:
            if since is None and (row.forgotten or not scope.sync_filter.include_leave):
                continue
            sections["leave"][room_id] = left_room(scope, room_id, event_id=row.event_id, position=row.position)
    return sections


def _with_ephemeral(scope: SyncScope, since: int) -> set[str]:
    """The rooms in which somebody has read on or has begun or stopped to type."""
    return rooms_with_receipts(scope.tx, scope.user_id, above=since, upto=scope.upto) | set(scope.live.typing)


def _changed_rooms(scope: SyncScope, since: int, memberships: Collection[LocalMembership]) -> set[str]:
    """The rooms with new events or changed state: found from the stream where that is short, else room by room."""
    tx, upto = scope.tx, scope.upto
    joined = {row.room_id for row in memberships if row.membership == "join"}
    oldest = since
    if scope.since is not None and scope.since.settle_from is not None:
        oldest = min(since, scope.since.settle_from)
    if upto - oldest > 4 * len(joined):
        return {room_id for room_id in joined if has_news(tx, room_id, above=oldest)}
    return joined & rooms_with_news(tx, above=oldest, upto=upto)


def _presence(scope: SyncScope) -> list[dict[str, Any]]:
    """Of the user himself and of those who share a room with him."""
    wanted = scope.sync_filter.presence
    return [
        {"type": "m.presence", "sender": user_id, "content": content}
        for user_id, content in scope.live.presence.items()
        if wanted.wants("m.presence", user_id, content)
        and user_id not in scope.ignored
        and (user_id == scope.user_id or share_a_room(scope.tx, scope.user_id, user_id))
    ]


def _account_data(
    scope: SyncScope, data: Collection[AccountData]
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """What the filter lets through: by room, and the user's own."""
    by_room: dict[str, list[dict[str, Any]]] = {}
    own: list[dict[str, Any]] = []
    in_rooms, globally = scope.sync_filter.room_account_data, scope.sync_filter.account_data
    for entry in data:
        shown = {"type": entry.type, "content": entry.content}
        if entry.room_id is None:
            if globally.wants(entry.type, None, entry.content):
                own.append(shown)
        elif in_rooms.wants_room(entry.room_id) and in_rooms.wants(entry.type, None, entry.content):
            by_room.setdefault(entry.room_id, []).append(shown)
    return by_room, own


def _to_device(scope: SyncScope) -> tuple[list[dict[str, Any]], int | None]:
    """The waiting messages, and where they were cut if there are more."""
    since = 0
    if scope.since is not None:
        since = scope.since.position if scope.since.to_device is None else scope.since.to_device
    found = to_device_since(
        scope.tx, scope.user_id, scope.requester.device_id, since, scope.upto, limit=TO_DEVICE_MAX + 1
    )
    shown = found[:TO_DEVICE_MAX]
    cut = shown[-1][0] if len(found) > TO_DEVICE_MAX else None
    return [message for _, message in shown], cut
