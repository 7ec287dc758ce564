"""What is shown of a room to somebody who is not in it, and who may see that.

Source: client-server API, "Published room directory" (`PublishedRoomsChunk`), "Room summary", "Spaces"; server-server
API, "Spaces".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from p2pserver.errors import NotFound
from p2pserver.events.pdu import Pdu
from p2pserver.identifiers import is_alias, is_media_uri, is_room_id, is_server_name, is_user_id
from p2pserver.rooms import reading
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.restricted import opening_rooms
from p2pserver.rooms.sending import room_of
from p2pserver.store import memberships, rooms
from p2pserver.store.own_rooms import joined_rooms_of
from p2pserver.store.room_stream import member_counts
from p2pserver.store.tx import Tx

CHILDREN_MAX = 500
"""Children of one space that are looked at."""
CHILD_SUMMARIES_MAX = 50
"""Of these, how many are described in one answer to another server. Source: as Synapse answers."""
ANSWER_OCTETS_MAX = 256 * 1024
"""Children that would make an answer larger are left out: whoever asks, asks for them."""
OPEN_RULES = ("public", "knock", "knock_restricted")
"""Join rules under which anybody may see what a room is called."""
_SHOWN = (
    ("m.room.name", "name", "name"),
    ("m.room.topic", "topic", "topic"),
    ("m.room.canonical_alias", "alias", "canonical_alias"),
    ("m.room.avatar", "url", "avatar_url"),
    ("m.room.create", "type", "room_type"),
    ("m.room.encryption", "algorithm", "encryption"),
)
_NOT_PUBLISHED = ("room_version", "encryption", "allowed_room_ids", "children_state")
_TEXTS = (*(name for _, _, name in _SHOWN), "join_rule", "room_version")
_TEXT_CHARACTERS_MAX = 2_000
"""Of what another server says of a room: longer names and topics are cut."""
_VIA_MAX = 10
_ORDER_CHARACTERS_MAX = 50


def _can_be(name: str, text: str) -> bool:
    """Whether a text is of use in this field of a summary: clients take an address for one."""
    if name == "avatar_url":
        return is_media_uri(text)
    if name == "canonical_alias":
        return is_alias(text)
    return text != ""


def public_entry(tx: Tx, room_id: str) -> dict[str, Any]:
    """A room as the list of public rooms has it."""
    return as_public_entry(room_summary(tx, room_id))


def as_public_entry(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Only the fields of `PublishedRoomsChunk`: some clients fail on others."""
    return {name: value for name, value in summary.items() if name not in _NOT_PUBLISHED}


def room_summary(tx: Tx, room_id: str) -> dict[str, Any]:
    """What a room that is held says of itself now.

    Raises: NotFound.
    """
    version = room_of(tx, room_id).rules.version
    joined = member_counts(tx, room_id).get("join", 0)
    return summary_of(
        lambda event_type: reading.current_event(tx, room_id, event_type, ""),
        room_id=room_id,
        room_version=version,
        joined=joined,
    )


def summary_of(state: Callable[[str], Pdu | None], *, room_id: str, room_version: str, joined: int) -> dict[str, Any]:
    """A summary from the state events with an empty state key, by type."""

    def value(event_type: str, key: str) -> object:
        event = state(event_type)
        return None if event is None else event.content.get(key)

    rules = state("m.room.join_rules")
    join_rule = None if rules is None else rules.content.get("join_rule")
    summary: dict[str, Any] = {
        "room_id": room_id,
        "num_joined_members": joined,
        "world_readable": value("m.room.history_visibility", "history_visibility") == "world_readable",
        "guest_can_join": value("m.room.guest_access", "guest_access") == "can_join",
        "join_rule": join_rule if isinstance(join_rule, str) else "invite",
        "room_version": room_version,
    }
    for event_type, key, name in _SHOWN:
        text = value(event_type, key)
        if isinstance(text, str) and _can_be(name, text):
            summary[name] = text
    opening = [] if rules is None else opening_rooms(rules.content)
    if opening:
        summary["allowed_room_ids"] = opening
    return summary


def space_children(tx: Tx, room_id: str, *, suggested_only: bool) -> list[dict[str, Any]]:
    """The `m.space.child` events of a room, stripped, in the order in which clients show them."""
    found = []
    rows = tx.all(
        "SELECT state_key FROM current_state WHERE room_id = ? AND type = 'm.space.child' ORDER BY state_key LIMIT ?",
        (room_id, CHILDREN_MAX),
    )
    for (child,) in rows:
        event = reading.current_event(tx, room_id, "m.space.child", child)
        if event is not None:
            found.append({**reading.strip(event), "origin_server_ts": event.origin_server_ts})
    return in_order([child for child in map(sane_child, found) if child is not None], suggested_only=suggested_only)


def in_order(children: Collection[dict[str, Any]], *, suggested_only: bool) -> list[dict[str, Any]]:
    """Children of a space with a valid `order` first. Source: "Ordering of children within a space"."""
    chosen = [each for each in children if not suggested_only or each["content"].get("suggested") is True]
    return sorted(chosen, key=_order_of)


def _order_of(child: Mapping[str, Any]) -> tuple[bool, str, int, str]:
    order = child["content"].get("order")
    valid = order is not None and all("\x20" <= character <= "\x7e" for character in order)
    return (not valid, order if valid else "", child["origin_server_ts"], child["state_key"])


def sane_child(event: object) -> dict[str, Any] | None:
    """A stripped `m.space.child` event as it should be; None, if it is none or says that there is no such child."""
    if not isinstance(event, Mapping) or event.get("type") != "m.space.child" or not is_room_id(event.get("state_key")):
        return None
    content, sender, timestamp = event.get("content"), event.get("sender"), event.get("origin_server_ts")
    if not isinstance(content, Mapping) or not isinstance(sender, str) or not is_user_id(sender):
        return None
    via = content.get("via")
    servers = [each for each in via if isinstance(each, str) and is_server_name(each)] if isinstance(via, list) else []
    if not servers or type(timestamp) is not int:
        return None
    shown: dict[str, Any] = {"via": servers[:_VIA_MAX]}
    if isinstance(content.get("order"), str) and len(content["order"]) <= _ORDER_CHARACTERS_MAX:
        shown["order"] = content["order"]
    if isinstance(content.get("suggested"), bool):
        shown["suggested"] = content["suggested"]
    return {
        "type": "m.space.child",
        "state_key": event["state_key"],
        "content": shown,
        "sender": sender,
        "origin_server_ts": timestamp,
    }


def sane_summary(value: object) -> dict[str, Any] | None:
    """Another server's summary with the fields of the specification and nothing else; None if it is none."""
    if not isinstance(value, Mapping) or not is_room_id(value.get("room_id")):
        return None
    members, opening, children = (
        value.get(name) for name in ("num_joined_members", "allowed_room_ids", "children_state")
    )
    sane: dict[str, Any] = {
        "room_id": value["room_id"],
        "num_joined_members": members if type(members) is int and 0 <= members < 2**53 else 0,
        "world_readable": value.get("world_readable") is True,
        "guest_can_join": value.get("guest_can_join") is True,
    }
    for name in _TEXTS:
        text = value.get(name)
        if isinstance(text, str) and _can_be(name, text):
            sane[name] = text[:_TEXT_CHARACTERS_MAX]
    if isinstance(opening, list):
        sane["allowed_room_ids"] = [each for each in opening[:CHILDREN_MAX] if is_room_id(each)]
    if isinstance(children, list):
        found = [sane_child(each) for each in children[:CHILDREN_MAX]]
        sane["children_state"] = [each for each in found if each is not None]
    return sane


def is_open(summary: Mapping[str, Any]) -> bool:
    """Whether anybody may see this of the room."""
    return summary.get("join_rule") in OPEN_RULES or summary["world_readable"] is True


def user_sees(tx: Tx, user_id: str, summary: Mapping[str, Any]) -> bool:
    """Whether a user of this node may see the room that a summary describes."""
    own = memberships.local_membership(tx, user_id, summary["room_id"])
    if is_open(summary) or (own is not None and own.membership in ("join", "invite", "knock")):
        return True
    return not set(summary.get("allowed_room_ids", ())).isdisjoint(joined_rooms_of(tx, user_id))


def server_sees(tx: Tx, server: str, summary: Mapping[str, Any]) -> bool:
    """Whether some user of another server may see the room, as far as this node knows."""
    room_id = summary["room_id"]
    if is_open(summary) or memberships.is_concerned(tx, room_id, server):
        return True
    return any(memberships.is_joined(tx, each, server) for each in summary.get("allowed_room_ids", ()))


def described(tx: Tx, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
    """A room of which a user of this node is a member, with its children. Raises: NotFound."""
    return {**room_summary(tx, room_id), "children_state": space_children(tx, room_id, suggested_only=suggested_only)}


def hierarchy(context: RoomContext, tx: Tx, *, origin: str, room_id: str, suggested_only: bool) -> dict[str, Any]:
    """What another server is told of a room and of its children: those that its users may see and we know.

    Raises: NotFound, if this server is not in the room or the other one may not see it.
    """
    if rooms.room(tx, room_id) is None or not memberships.is_joined(tx, room_id, context.server_name):
        raise NotFound("this server is not in the room")
    room = described(tx, room_id, suggested_only=suggested_only)
    if not server_sees(tx, origin, room):
        raise NotFound("there is no such room")
    children, hidden = [], []
    octets = len(json.dumps(room))
    for child in room["children_state"][:CHILD_SUMMARIES_MAX]:
        child_id = child["state_key"]
        if not memberships.is_joined(tx, child_id, context.server_name):
            continue
        summary = described(tx, child_id, suggested_only=suggested_only)
        if not server_sees(tx, origin, summary):
            hidden.append(child_id)
            continue
        octets += len(json.dumps(summary))
        if octets > ANSWER_OCTETS_MAX:
            break
        children.append(summary)
    return {"room": room, "children": children, "inaccessible_children": hidden}
