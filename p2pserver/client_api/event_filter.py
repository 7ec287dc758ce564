"""Filters: which events a client asked for.

Source: client-server API, "Filtering" (`Filter`, `RoomFilter`, `RoomEventFilter`, `EventFilter`). Unknown keys are
ignored; a known key of the wrong type is an error. `event_fields` is ignored (the specification lets a server send
more fields than asked for), and so is `event_format`: events are always in the client format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.errors import BadJson, InvalidParam
from p2pserver.events.canonical import NotCanonical, decode_body

LIMIT_DEFAULT = 10
LIMIT_MAX = 1000


def glob_matches(pattern: str, text: str) -> bool:
    """Whether `text` is spelled by `pattern`, in which `*` stands for any sequence of characters. Linear in both."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _matches_any(text: str, patterns: Sequence[str]) -> bool:
    return any(glob_matches(pattern, text) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """An `EventFilter` or `RoomEventFilter`; None where a list is absent."""

    limit: int = LIMIT_DEFAULT
    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: tuple[str, ...] | None = None
    not_senders: tuple[str, ...] = ()
    rooms: tuple[str, ...] | None = None
    not_rooms: tuple[str, ...] = ()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    related_by_senders: tuple[str, ...] | None = None
    related_by_rel_types: tuple[str, ...] | None = None

    @classmethod
    def of(cls, value: object, *, limit_default: int = LIMIT_DEFAULT) -> EventFilter:
        """Reads the JSON object of a filter.

        Raises: BadJson, if it is not an object or a known key has the wrong type.
        """
        source = _object(value, "filter")
        limit = source.get("limit", limit_default)
        if type(limit) is not int or limit < 0:
            raise BadJson("limit is not a positive integer")
        return cls(
            limit=min(limit, LIMIT_MAX),
            types=_strings(source, "types"),
            not_types=_strings(source, "not_types") or (),
            senders=_strings(source, "senders"),
            not_senders=_strings(source, "not_senders") or (),
            rooms=_strings(source, "rooms"),
            not_rooms=_strings(source, "not_rooms") or (),
            contains_url=_flag(source, "contains_url"),
            lazy_load_members=_flag(source, "lazy_load_members") or False,
            include_redundant_members=_flag(source, "include_redundant_members") or False,
            related_by_senders=_strings(source, "related_by_senders"),
            related_by_rel_types=_strings(source, "related_by_rel_types"),
        )

    def wants_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def wants_sender(self, sender: str) -> bool:
        return sender not in self.not_senders and (self.senders is None or sender in self.senders)

    @property
    def asks_for_relations(self) -> bool:
        """Whether only events are wanted to which others relate (`store.relations.is_related_to`)."""
        return self.related_by_senders is not None or self.related_by_rel_types is not None

    def wants(self, event_type: str, sender: str | None, content: Mapping[str, Any]) -> bool:
        """Whether an event passes; `sender` is None for account data, which has none."""
        if _matches_any(event_type, self.not_types):
            return False
        if self.types is not None and not _matches_any(event_type, self.types):
            return False
        if sender is not None and not self.wants_sender(sender):
            return False
        return self.contains_url is None or isinstance(content.get("url"), str) == self.contains_url


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFilter:
    """A `Filter`: what `/sync` is to leave out."""

    rooms: tuple[str, ...] | None = None
    not_rooms: tuple[str, ...] = ()
    include_leave: bool = False
    unread_thread_notifications: bool = False
    timeline: EventFilter = field(default_factory=EventFilter)
    state: EventFilter = field(default_factory=EventFilter)
    ephemeral: EventFilter = field(default_factory=EventFilter)
    room_account_data: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    presence: EventFilter = field(default_factory=EventFilter)

    @classmethod
    def of(cls, value: object) -> SyncFilter:
        """Reads the JSON object of a filter.

        Raises: BadJson, if it is not an object or a known key has the wrong type.
        """
        source = _object(value, "filter")
        room = _object(source.get("room", {}), "room")
        _strings(source, "event_fields")
        if source.get("event_format", "client") not in ("client", "federation"):
            raise BadJson("event_format is neither client nor federation")
        timeline = _object(room.get("timeline", {}), "timeline")
        return cls(
            rooms=_strings(room, "rooms"),
            not_rooms=_strings(room, "not_rooms") or (),
            include_leave=_flag(room, "include_leave") or False,
            unread_thread_notifications=_flag(timeline, "unread_thread_notifications") or False,
            timeline=EventFilter.of(timeline),
            state=EventFilter.of(room.get("state", {})),
            ephemeral=EventFilter.of(room.get("ephemeral", {})),
            room_account_data=EventFilter.of(room.get("account_data", {})),
            account_data=EventFilter.of(source.get("account_data", {})),
            presence=EventFilter.of(source.get("presence", {})),
        )

    def wants_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    @property
    def lazy_load_members(self) -> bool:
        """Only the `state` filter's flag counts for `/sync`; old clients set it on the timeline."""
        return self.state.lazy_load_members or self.timeline.lazy_load_members


def filter_text(text: str) -> Any:
    """The JSON of a filter that came in a query parameter.

    Raises: InvalidParam.
    """
    try:
        return decode_body(text.encode("utf-8"))
    except (NotCanonical, UnicodeEncodeError) as error:
        raise InvalidParam("the filter is not JSON") from error


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadJson(f"{name} is not an object")
    return value


def _strings(source: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = source.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadJson(f"{key} is not a list of strings")
    return tuple(value)


def _flag(source: Mapping[str, Any], key: str) -> bool | None:
    value = source.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadJson(f"{key} is not a boolean")
    return value
