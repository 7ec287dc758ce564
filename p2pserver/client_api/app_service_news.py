"""What an application service is told next: one transaction, out of one snapshot of the database.

A service is interested in an event if its sender, or the user whose membership it changes, is in the service's user
namespaces; if its room, or one of the room's aliases, is in its namespaces; or if a user of this node who is in them
was in the room when it came. To-device messages go to a service that asks for what encryption needs, for its own users.

Source: application service API, "Pushing events"; MSC2409, MSC3202.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.sync_rooms import outside_state
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import rules_of
from p2pserver.http_api.routing import Requester
from p2pserver.identifiers import server_of
from p2pserver.rooms.app_services import AppService
from p2pserver.rooms.service import Rooms
from p2pserver.store import events, memberships
from p2pserver.store.accounts import is_name_taken
from p2pserver.store.aliases import aliases_of
from p2pserver.store.app_services import (
    Happened,
    events_since,
    invites_since,
    members_changed_since,
    own_devices,
    to_device_since,
)
from p2pserver.store.device_lists import device_list_changes
from p2pserver.store.one_time_keys import otk_counts, unused_fallback
from p2pserver.store.own_rooms import local_members
from p2pserver.store.receipts import Receipt, receipt_contents, receipts_since
from p2pserver.store.room_stream import rooms_joined_by
from p2pserver.store.tx import Tx

EXAMINED_MAX: Final = 500
"""Events that are looked at in one go."""
EVENTS_MAX: Final = 100
OCTETS_MAX: Final = 1 << 20
"""Of the events in one transaction; a single one may be larger."""
TO_DEVICE_MAX, RECEIPTS_MAX, LIVE_MAX = 100, 500, 500
DEVICES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Live:
    """What is true for seconds only, as it is when the transaction is made."""

    typing: Mapping[str, list[str]] = field(default_factory=dict)
    """By room, where it changed."""
    presence: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By user, where it changed."""


@dataclass(frozen=True, slots=True)
class News:
    """`reached`: there is nothing else to tell up to there. `strangers`: users of the service who do not exist yet."""

    body: dict[str, Any] | None
    reached: int
    upto: int
    strangers: list[str]


def next_news(tx: Tx, rooms: Rooms, service: AppService, *, above: int, live: Live, wall_ms: int) -> News:
    """The oldest that the service was not told of yet."""
    return _Look(tx, rooms, service, above, wall_ms).news(live)


class _Look:
    def __init__(self, tx: Tx, rooms: Rooms, service: AppService, above: int, wall_ms: int) -> None:
        self._tx = tx
        self._rooms = rooms
        self._service = service
        self._above = above
        self._wall_ms = wall_ms
        self._requester = Requester(user_id=service.sender, device_id="", token_id=0)
        self._listed: dict[str, bool] = {}
        self._members: dict[str, _Members] = {}
        self._strangers: dict[str, None] = {}

    def news(self, live: Live) -> News:
        service, upto = self._service, self._tx.position()
        told, reached = self._events(upto)
        messages, reached = self._to_device(reached) if service.wants_encryption else ([], reached)
        ephemeral, reached = self._receipts(reached) if service.wants_ephemeral else ([], reached)
        if service.wants_ephemeral:
            ephemeral += self._fleeting(live)
        body: dict[str, Any] = {"events": [event for position, event in told if position <= reached]}
        if due := [message for position, message in messages if position <= reached]:
            body["de.sorunome.msc2409.to_device"] = due
        if ephemeral:
            body["ephemeral"] = body["de.sorunome.msc2409.ephemeral"] = ephemeral
        if service.wants_encryption:
            self._add_encryption(body, reached)
        is_empty = not body["events"] and len(body) == 1
        return News(None if is_empty else body, reached, upto, list(self._strangers))

    # Events

    def _events(self, upto: int) -> tuple[list[tuple[int, dict[str, Any]]], int]:
        """(position, event) of what the service is interested in, and up to where there is no more."""
        found = events_since(self._tx, above=self._above, most=EXAMINED_MAX)
        reached = found[-1].position if len(found) == EXAMINED_MAX else upto
        told: list[tuple[int, dict[str, Any]]] = []
        octets = 0
        both = heapq.merge(found, invites_since(self._tx, above=self._above), key=lambda each: each.position)
        for each in both:
            if each.position > reached:
                break
            shown = self._in_a_room(each) if each.held else self._outside(each)
            if shown is None:
                continue
            size = len(json.dumps(shown))
            if told and octets + size > OCTETS_MAX:
                return told, told[-1][0]
            told.append((each.position, shown))
            octets += size
            if len(told) == EVENTS_MAX:
                return told, each.position
        return told, reached

    def _in_a_room(self, event: Happened) -> dict[str, Any] | None:
        member = event.state_key if event.type == "m.room.member" else None
        if not (
            self._service.has_user(event.sender)
            or (member is not None and self._service.has_user(member))
            or self._is_listed(event.room_id)
            or self._members_of(event.room_id).were_there(event.position)
        ):
            return None
        found = self._rooms.stored(self._tx, event.event_id)
        if found is None:
            return None
        [shown] = client_events(
            self._tx, self._rooms, [found], requester=self._requester, wall_ms=self._wall_ms, aggregate=False
        )
        if member is not None and found.pdu.content.get("membership") == "invite":
            self._describe_invite(shown, event.room_id, member)
        return shown

    def _outside(self, event: Happened) -> dict[str, Any] | None:
        """An invite to a room that is not held here, or what ended it."""
        user_id = event.state_key
        if user_id is None or not self._service.has_user(user_id):
            return None
        held = memberships.invite(self._tx, user_id, event.room_id)
        if held is None:
            ended = self._rooms.stored(self._tx, event.event_id)
            return None if ended is None else client_event(ended.pdu, wall_ms=self._wall_ms)
        shown = client_event(load_pdu(held.raw, rules_of(held.version)), wall_ms=self._wall_ms)
        if held.membership == "invite":
            self._describe_invite(shown, event.room_id, user_id)
        return shown

    def _describe_invite(self, shown: dict[str, Any], room_id: str, user_id: str) -> None:
        """Puts what somebody outside may know of the room beside an invite of one of the service's users."""
        if not self._service.has_user(user_id):
            return
        if self._service.may_act_as(user_id) and not is_name_taken(self._tx, user_id):
            self._strangers[user_id] = None
        state = outside_state(self._tx, self._rooms, user_id, room_id, event_id=shown["event_id"])
        shown["unsigned"]["invite_room_state"] = [each for each in state if each["state_key"] != user_id]

    def _is_listed(self, room_id: str) -> bool:
        """Whether the room or one of its aliases is in the namespaces."""
        known = self._listed.get(room_id)
        if known is None:
            aliases = aliases_of(self._tx, room_id) if self._service.aliases else ()
            known = self._service.has_room(room_id) or any(map(self._service.has_alias, aliases))
            self._listed[room_id] = known
        return known

    def _members_of(self, room_id: str) -> _Members:
        members = self._members.get(room_id)
        if members is None:
            members = self._members[room_id] = _Members(self._tx, self._service, room_id, above=self._above)
        return members

    def _is_in_room(self, room_id: str) -> bool:
        """Whether it is interested in what goes on in the room now."""
        return self._is_listed(room_id) or bool(self._members_of(room_id).now)

    # The rest

    def _to_device(self, reached: int) -> tuple[list[tuple[int, dict[str, Any]]], int]:
        rows = to_device_since(self._tx, above=self._above, most=TO_DEVICE_MAX)
        if len(rows) == TO_DEVICE_MAX:
            reached = min(reached, rows[-1][0])
        return [
            (position, {**json.loads(text), "to_user_id": user_id, "to_device_id": device_id})
            for position, user_id, device_id, text in rows
            if self._service.owns_user(user_id)
        ], reached

    def _receipts(self, reached: int) -> tuple[list[dict[str, Any]], int]:
        found = receipts_since(self._tx, above=self._above, upto=reached, most=RECEIPTS_MAX)
        if len(found) == RECEIPTS_MAX:
            reached = found[-1].position
        by_room: dict[str, list[Receipt]] = {}
        for receipt in found:
            if self._is_in_room(receipt.room_id):
                by_room.setdefault(receipt.room_id, []).append(receipt)
        return [
            {"type": "m.receipt", "room_id": room_id, "content": content}
            for room_id, receipts in by_room.items()
            for content in receipt_contents(receipts)
        ], reached

    def _fleeting(self, live: Live) -> list[dict[str, Any]]:
        typing = [
            {"type": "m.typing", "room_id": room_id, "content": {"user_ids": users}}
            for room_id, users in live.typing.items()
            if self._is_in_room(room_id)
        ]
        presence = [
            {"type": "m.presence", "sender": user_id, "content": content}
            for user_id, content in live.presence.items()
            if self._service.has_user(user_id) or any(map(self._is_in_room, rooms_joined_by(self._tx, user_id)))
        ]
        return [*typing, *presence][:LIVE_MAX]

    def _add_encryption(self, body: dict[str, Any], reached: int) -> None:
        """Whose devices changed for users of the service that have keys, and with any news what keys its devices have.

        A device without keys is told of too: mautrix uploads the first ones when it hears that there are none.
        """
        devices = [each for each in own_devices(self._tx) if self._service.owns_user(each[0])][:DEVICES_MAX]
        changed: set[str] = set()
        left: set[str] = set()
        for user_id in sorted({user_id for user_id, _, has_keys in devices if has_keys}):
            more_changed, more_left = device_list_changes(self._tx, user_id, self._above, reached)
            changed |= set(more_changed)
            left |= set(more_left)
        if changed or left:
            body["org.matrix.msc3202.device_lists"] = {"changed": sorted(changed), "left": sorted(left - changed)}
        if not devices or (not body["events"] and len(body) == 1):
            return
        counts: dict[str, dict[str, Any]] = {}
        unused: dict[str, dict[str, Any]] = {}
        for user_id, device_id, _ in devices:
            counts.setdefault(user_id, {})[device_id] = otk_counts(self._tx, user_id, device_id)
            unused.setdefault(user_id, {})[device_id] = unused_fallback(self._tx, user_id, device_id)
        body["org.matrix.msc3202.device_one_time_keys_count"] = counts
        body["org.matrix.msc3202.device_unused_fallback_key_types"] = unused


class _Members:
    """Which users of a service were in a room at a position: who is there now, and the changes since, taken back."""

    def __init__(self, tx: Tx, service: AppService, room_id: str, *, above: int) -> None:
        own = server_of(service.sender)
        self.now = {user_id for user_id in local_members(tx, room_id) if service.has_user(user_id)}
        self._changes = [
            (position, user_id, _was_joined(tx, before))
            for position, user_id, before in members_changed_since(tx, room_id, above=above)
            if server_of(user_id) == own and service.has_user(user_id)
        ]
        """(position, user, whether he was there before), newest first."""

    def were_there(self, position: int) -> bool:
        there = set(self.now)
        for changed_at, user_id, was_joined in self._changes:
            if changed_at <= position:
                break
            if was_joined:
                there.add(user_id)
            else:
                there.discard(user_id)
        return bool(there)


def _was_joined(tx: Tx, event_id: str | None) -> bool:
    member = None if event_id is None else events.pdu(tx, event_id)
    return member is not None and member.content.get("membership") == "join"
