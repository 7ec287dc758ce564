"""What is pushed: the next event that a user is to be notified of, and the notification about it.

Source: push gateway API, `POST /_matrix/push/v1/notify`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.meg.state import member_slot
from p2pserver.rooms.push_rules import Verdict
from p2pserver.rooms.unread import UnreadCounts, thread_of
from p2pserver.store import events, memberships
from p2pserver.store.own_rooms import joined_rooms_of, memberships_of
from p2pserver.store.push_events import PushEvent, push_events_of
from p2pserver.store.pushers import Pusher
from p2pserver.store.room_stream import current_event_id
from p2pserver.store.tx import Tx

EXAMINED_MAX: Final = 500
"""Events that are looked at in one go."""
CONTENT_OCTETS_MAX: Final = 4_096
"""A larger content is left out: what push services carry is small."""


@dataclass(frozen=True, slots=True)
class Due:
    """An event to push, with what the user's rules say of it."""

    event: PushEvent
    verdict: Verdict


def next_due(tx: Tx, unread: UnreadCounts, pusher: Pusher) -> tuple[Due | None, int]:
    """(the oldest event that is to be pushed, the position up to which there is no other before it)."""
    upto = tx.position()
    for looked_at, event in enumerate(_candidates(tx, pusher.user_id, above=pusher.position, upto=upto), 1):
        is_invite = event.type == "m.room.member"
        if is_invite or not unread.read_up_to(tx, pusher.user_id, event.room_id).covers(
            event.position, thread_of(tx, event.raw)
        ):
            verdict = unread.judge(tx, pusher.user_id, event)
            if verdict is not None and verdict.notify:
                return Due(event, verdict), event.position
        if looked_at == EXAMINED_MAX:
            return None, event.position
    return None, upto


def _candidates(tx: Tx, user_id: str, *, above: int, upto: int) -> Iterator[PushEvent]:
    """Events of others in the user's rooms, and invites to him wherever they are, oldest first."""
    invites = [
        PushEvent(own.position, own.event_id, own.room_id, "m.room.member", True, own.sender, _invite(tx, own))
        for own in memberships_of(tx, user_id, above=above)
        if own.membership == "invite" and own.position <= upto
    ]
    invites.sort(key=lambda event: event.position)
    joined = push_events_of(tx, user_id, above=above, upto=upto, most=EXAMINED_MAX)
    yield from heapq.merge(invites, joined, key=lambda event: event.position)


def _invite(tx: Tx, own: memberships.LocalMembership) -> dict[str, Any]:
    held = memberships.invite(tx, own.user_id, own.room_id)
    if held is not None:
        return held.raw
    event = events.shown(tx, own.event_id)
    content = {"membership": "invite"} if event is None else dict(event.content)
    return {"type": "m.room.member", "sender": own.sender, "state_key": own.user_id, "content": content}


def unread_of(tx: Tx, unread: UnreadCounts, user_id: str) -> int:
    """The number of unread messages in all rooms of the user."""
    rooms = joined_rooms_of(tx, user_id)
    return sum(unread.unread(tx, user_id, room_id).total.notifications for room_id in rooms)


def notification(tx: Tx, pusher: Pusher, due: Due, *, unread: int) -> dict[str, Any]:
    """The body about one event, in the format that the pusher asks for."""
    event, tweaks = due.event, due.verdict.tweaks()
    is_loud = due.verdict.highlight or "sound" in tweaks or event.type == "m.room.encrypted"
    body: dict[str, Any] = {
        "event_id": event.event_id,
        "room_id": event.room_id,
        "prio": "high" if is_loud else "low",
        "counts": _counts(unread),
    }
    if pusher.content["data"].get("format") == "event_id_only":
        return {"notification": {**body, "devices": [_device(pusher)]}}
    body |= {"type": event.type, "sender": event.sender}
    member = _current(tx, event.room_id, member_slot(event.sender))
    for name, found in (
        ("sender_display_name", member and member.content.get("displayname")),
        ("room_name", _text(tx, event.room_id, "m.room.name", "name")),
        ("room_alias", _text(tx, event.room_id, "m.room.canonical_alias", "alias")),
    ):
        if isinstance(found, str) and found:
            body[name] = found
    if event.type == "m.room.member":
        body["user_is_target"] = event.raw.get("state_key") == pusher.user_id
    content = event.raw.get("content")
    if isinstance(content, Mapping) and len(events.encode_raw(content)) <= CONTENT_OCTETS_MAX:
        body["content"] = content
    return {"notification": {**body, "devices": [{**_device(pusher), "tweaks": tweaks}]}}


def badge(pusher: Pusher, *, unread: int) -> dict[str, Any]:
    """The body that tells a changed count and nothing else."""
    return {"notification": {"counts": _counts(unread), "devices": [_device(pusher)]}}


def _counts(unread: int) -> dict[str, int]:
    return {"unread": unread} if unread else {}


def _device(pusher: Pusher) -> dict[str, Any]:
    return {
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "pushkey_ts": pusher.set_ms // 1000,
        "data": {key: value for key, value in pusher.content["data"].items() if key != "url"},
    }


def _current(tx: Tx, room_id: str, slot: tuple[str, str]) -> Pdu | None:
    event_id = current_event_id(tx, room_id, slot)
    return None if event_id is None else events.shown(tx, event_id)


def _text(tx: Tx, room_id: str, event_type: str, key: str) -> object:
    event = _current(tx, room_id, (event_type, ""))
    return None if event is None else event.content.get(key)
