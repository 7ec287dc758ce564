"""The two forms in which clients speak sliding sync, from and to one set of values.

- *deployed*: `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`, as Element X speaks it.
- *accepted*: `POST /_matrix/client/v4/sync`, the proposal as it was accepted; its extensions are other proposals.

Unknown keys are ignored; a known key of the wrong type is an error. Source: MSC4186, and its changelog.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from p2pserver.client_api.event_filter import LIMIT_MAX
from p2pserver.client_api.sliding_sync.answer import SlidingAnswer
from p2pserver.client_api.sliding_sync.request import (
    MEMBER,
    Extensions,
    ListConfig,
    RoomConfig,
    RoomExtension,
    RoomFilters,
    SlidingRequest,
    StatePattern,
    StateRule,
    ToDevice,
)
from p2pserver.client_api.sliding_sync.rooms import RoomResult
from p2pserver.client_api.sync import PRESENCES
from p2pserver.errors import BadJson, InvalidParam
from p2pserver.http_api.routing import ApiRequest
from p2pserver.meg.state import StateSlot

T = TypeVar("T")

TIMEOUT_MS_MAX = 600_000
LISTS_MAX = 100
SUBSCRIPTIONS_MAX = 1_000
PATTERNS_MAX = 200
RANGES_MAX = 100
TO_DEVICE_MAX = 100

_CONN_ID = re.compile(r"[0-9A-Za-z._~-]{0,255}", re.ASCII)
_LIST_KEY = re.compile(r"[0-9A-Za-z._~-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one of them reads and writes."""

    read: Callable[[ApiRequest], SlidingRequest]
    write: Callable[[str, SlidingAnswer], dict[str, Any]]


# Reading


def _read_deployed(request: ApiRequest) -> SlidingRequest:
    """Raises: BadJson, InvalidParam."""
    body, own_id = request.body, request.requester.user_id
    return SlidingRequest(
        conn_id=_conn_id(body),
        pos=request.query.get("pos") or None,
        timeout_ms=request.query_integer("timeout", default=0, most=TIMEOUT_MS_MAX),
        set_presence=_presence(request.query.get("set_presence")),
        wants_counts=True,
        lists=_lists(body, lambda value: _deployed_list(value, own_id)),
        subscriptions=_subscriptions(body, lambda value: _deployed_config(value, own_id)),
        extensions=_extensions(body),
    )


def _read_accepted(request: ApiRequest) -> SlidingRequest:
    """Raises: BadJson, InvalidParam."""
    body = request.body
    timeout_ms = body.get("timeout", 0)
    if type(timeout_ms) is not int or timeout_ms < 0:
        raise BadJson("`timeout` is not a positive integer")
    return SlidingRequest(
        conn_id=_conn_id(body),
        pos=_text(body, "pos"),
        timeout_ms=min(timeout_ms, TIMEOUT_MS_MAX),
        set_presence=_presence(_text(body, "set_presence")),
        wants_counts=False,
        lists=_lists(body, _accepted_list),
        subscriptions=_subscriptions(body, _accepted_config),
        extensions=_extensions(body),
    )


def _conn_id(body: Mapping[str, Any]) -> str:
    conn_id = _text(body, "conn_id") or ""
    if not _CONN_ID.fullmatch(conn_id):
        raise InvalidParam("`conn_id` is not an opaque identifier")
    return conn_id


def _presence(text: str | None) -> str:
    if text is not None and text not in PRESENCES:
        raise InvalidParam("set_presence is none of online, offline, unavailable")
    return text or "online"


def _lists(body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], ListConfig]) -> dict[str, ListConfig]:
    lists = _object(body, "lists")
    if len(lists) > LISTS_MAX:
        raise InvalidParam(f"more than {LISTS_MAX} lists")
    if not all(_LIST_KEY.fullmatch(key) for key in lists):
        raise InvalidParam("the key of a list is not an opaque identifier")
    return {key: read(_is_object(value, "a list")) for key, value in lists.items()}


def _subscriptions(body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], RoomConfig]) -> dict[str, RoomConfig]:
    subscriptions = _object(body, "room_subscriptions")
    if len(subscriptions) > SUBSCRIPTIONS_MAX:
        raise InvalidParam(f"more than {SUBSCRIPTIONS_MAX} rooms subscribed to")
    return {room_id: read(_is_object(value, "a subscription")) for room_id, value in subscriptions.items()}


def _timeline_limit(value: Mapping[str, Any]) -> int:
    limit = value.get("timeline_limit")
    if type(limit) is not int or limit < 0:
        raise BadJson("`timeline_limit` is not a positive integer")
    return min(limit, LIMIT_MAX)


def _range(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or any(type(end) is not int for end in value):
        raise BadJson("a range is not two integers")
    start, end = value
    if not 0 <= start <= end:
        raise InvalidParam("a range is not from a smaller to a larger index")
    return start, end


def _deployed_list(value: Mapping[str, Any], own_id: str) -> ListConfig:
    ranges = value.get("ranges")
    if ranges is not None and (not isinstance(ranges, list) or len(ranges) > RANGES_MAX):
        raise BadJson("`ranges` is not a short list")
    return ListConfig(
        config=_deployed_config(value, own_id),
        ranges=None if ranges is None else tuple(_range(each) for each in ranges),
        filters=_filters(_object(value, "filters"), invite_key="is_invite"),
    )


def _deployed_config(value: Mapping[str, Any], own_id: str) -> RoomConfig:
    """`required_state` is a list of [type, state key], with `*` for any, `$ME`, and `$LAZY` for members."""
    include: set[StatePattern] = set()
    lazy = False
    for entry in _short_list(value, "required_state", PATTERNS_MAX):
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise BadJson("`required_state` is not a list of pairs of strings")
        kind, key = entry
        if key == "$LAZY":
            lazy = lazy or kind == MEMBER
            continue
        key = own_id if key == "$ME" else key
        include.add(StatePattern(None if kind == "*" else kind, None if key == "*" else key))
    return RoomConfig(_timeline_limit(value), frozenset({StateRule(frozenset(include), lazy_members=lazy)}))


def _accepted_list(value: Mapping[str, Any]) -> ListConfig:
    window = value.get("range")
    return ListConfig(
        config=_accepted_config(value),
        ranges=None if window is None else (_range(window),),
        filters=_filters(_object(value, "filters"), invite_key="is_invited"),
    )


def _accepted_config(value: Mapping[str, Any]) -> RoomConfig:
    required = _object(value, "required_state")
    rule = StateRule(
        frozenset(_pattern(each) for each in _short_list(required, "include", PATTERNS_MAX)),
        frozenset(_pattern(each) for each in _short_list(required, "exclude", PATTERNS_MAX)),
        _flag(required, "lazy_members") or False,
    )
    return RoomConfig(_timeline_limit(value), frozenset({rule}))


def _pattern(value: object) -> StatePattern:
    source = _is_object(value, "an element of `required_state`")
    return StatePattern(_text(source, "type"), _text(source, "state_key"))


def _filters(value: Mapping[str, Any], *, invite_key: str) -> RoomFilters:
    return RoomFilters(
        is_dm=_flag(value, "is_dm"),
        spaces=_strings(value, "spaces"),
        is_encrypted=_flag(value, "is_encrypted"),
        is_invite=_flag(value, invite_key),
        room_types=_types(value, "room_types"),
        not_room_types=_types(value, "not_room_types") or frozenset(),
        tags=_strings(value, "tags"),
        not_tags=_strings(value, "not_tags") or frozenset(),
    )


def _extensions(body: Mapping[str, Any]) -> Extensions:
    extensions = _object(body, "extensions")

    def enabled(name: str) -> Mapping[str, Any] | None:
        value = _object(extensions, name)
        return value if _flag(value, "enabled") else None

    to_device = enabled("to_device")
    return Extensions(
        to_device=None if to_device is None else _to_device(to_device),
        e2ee=enabled("e2ee") is not None,
        account_data=_room_extension(enabled("account_data")),
        receipts=_room_extension(enabled("receipts")),
        typing=_room_extension(enabled("typing")),
    )


def _to_device(value: Mapping[str, Any]) -> ToDevice:
    since, limit = _text(value, "since"), value.get("limit", TO_DEVICE_MAX)
    if type(limit) is not int or limit < 1:
        raise BadJson("`limit` is not an integer of at least 1")
    if since is not None and not re.fullmatch(r"[0-9]{1,18}", since, re.ASCII):
        raise InvalidParam("`since` is not a token of the to_device extension")
    return ToDevice(since=None if since is None else int(since), limit=min(limit, TO_DEVICE_MAX))


def _room_extension(value: Mapping[str, Any] | None) -> RoomExtension | None:
    if value is None:
        return None
    return RoomExtension(lists=_all_or(value, "lists"), rooms=_all_or(value, "rooms"))


def _all_or(value: Mapping[str, Any], key: str) -> frozenset[str] | None:
    names = _strings(value, key)
    return None if names is None or "*" in names else names


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return {} if value is None else _is_object(value, f"`{key}`")


def _is_object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadJson(f"{name} is not an object")
    return value


def _text(source: Mapping[str, Any], key: str) -> str | None:
    value = source.get(key)
    if value is not None and not isinstance(value, str):
        raise BadJson(f"`{key}` is not a string")
    return value


def _flag(source: Mapping[str, Any], key: str) -> bool | None:
    value = source.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadJson(f"`{key}` is not a boolean")
    return value


def _short_list(source: Mapping[str, Any], key: str, most: int) -> list[Any]:
    value = source.get(key, [])
    if not isinstance(value, list) or len(value) > most:
        raise BadJson(f"`{key}` is not a list of at most {most}")
    return value


def _strings(source: Mapping[str, Any], key: str) -> frozenset[str] | None:
    if source.get(key) is None:
        return None
    return frozenset(_each(_short_list(source, key, LIMIT_MAX), str, key))


def _types(source: Mapping[str, Any], key: str) -> frozenset[str | None] | None:
    """Room types; null is that of a room without one."""
    if source.get(key) is None:
        return None
    value = _short_list(source, key, LIMIT_MAX)
    return frozenset([*_each([each for each in value if each is not None], str, key), *([None] * (None in value))])


def _each(values: Iterable[object], kind: type[T], key: str) -> list[T]:
    checked = [value for value in values if isinstance(value, kind)]
    if len(checked) != len(list(values)):
        raise BadJson(f"`{key}` holds what is no string")
    return checked


# Writing


def _write_deployed(pos: str, answer: SlidingAnswer) -> dict[str, Any]:
    return {
        "pos": pos,
        "lists": {
            key: {"count": shown.count, "ops": [_op(window, room_ids) for window, room_ids in shown.windows]}
            for key, shown in answer.lists.items()
        },
        "rooms": {room_id: _deployed_room(room) for room_id, room in answer.rooms.items()},
        "extensions": answer.extensions,
    }


def _op(window: tuple[int, int], room_ids: list[str]) -> dict[str, Any]:
    return {"op": "SYNC", "range": list(window), "room_ids": room_ids}


def _deployed_room(room: RoomResult) -> dict[str, Any]:
    body = dict(room.fields)
    if room.stripped_state is not None:
        body["invite_state"] = room.stripped_state
    if room.expanded_timeline:
        body["unstable_expanded_timeline"] = True
    if room.timeline is not None:
        body["timeline"] = room.timeline
    if room.counts is not None:
        body["notification_count"], body["highlight_count"] = room.counts
    if room.required_state:
        body["required_state"] = room.required_state
    return body


def _write_accepted(pos: str, answer: SlidingAnswer) -> dict[str, Any]:
    return {
        "pos": pos,
        "lists": {key: {"count": shown.count} for key, shown in answer.lists.items()},
        "rooms": {room_id: _accepted_room(room) for room_id, room in answer.rooms.items()},
        "extensions": answer.extensions,
    }


def _accepted_room(room: RoomResult) -> dict[str, Any]:
    body = {**room.fields, "membership": room.membership}
    if room.lists:
        body["lists"] = room.lists
    if room.stripped_state is not None:
        body["stripped_state"] = room.stripped_state
    if room.expanded_timeline:
        body["expanded_timeline"] = True
    if room.timeline is not None:
        body["timeline_events"] = room.timeline
    if room.required_state or room.deleted_state:
        body["required_state"] = [*(_stub(slot) for slot in room.deleted_state), *room.required_state]
    return body


def _stub(slot: StateSlot) -> dict[str, str]:
    return {"type": slot[0], "state_key": slot[1]}


DEPLOYED = Dialect(read=_read_deployed, write=_write_deployed)
ACCEPTED = Dialect(read=_read_accepted, write=_write_accepted)
