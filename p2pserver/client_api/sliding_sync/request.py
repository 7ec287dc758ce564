"""What a client asks for, as values: the same for both dialects.

Source: MSC4186, "Request Body"; of the extensions MSC3884 (e2ee), MSC3885 (to-device), MSC3959 (account data), MSC3960
(receipts), MSC3961 (typing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from p2pserver.meg.state import StateSlot

MEMBER = "m.room.member"


@dataclass(frozen=True, slots=True)
class StatePattern:
    """State events by type and state key; None matches any."""

    type: str | None
    state_key: str | None

    def matches(self, slot: StateSlot, *, lazy: bool) -> bool:
        """`lazy`: members are matched by their own type only, not by a pattern for any type."""
        if self.type is None:
            if lazy and slot[0] == MEMBER:
                return False
        elif self.type != slot[0]:
            return False
        return self.state_key is None or self.state_key == slot[1]


@dataclass(frozen=True, slots=True)
class StateRule:
    """What one `required_state` includes and excludes."""

    include: frozenset[StatePattern]
    exclude: frozenset[StatePattern] = frozenset()
    lazy_members: bool = False

    def matches(self, slot: StateSlot) -> bool:
        if not any(pattern.matches(slot, lazy=self.lazy_members) for pattern in self.include):
            return False
        return not any(pattern.matches(slot, lazy=False) for pattern in self.exclude)


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What is sent of a room: the union of all rules, each with its own exceptions."""

    timeline_limit: int
    rules: frozenset[StateRule]

    @property
    def lazy_members(self) -> bool:
        return any(rule.lazy_members for rule in self.rules)

    def wants(self, slot: StateSlot) -> bool:
        return any(rule.matches(slot) for rule in self.rules)

    def patterns(self) -> Iterator[StatePattern]:
        for rule in self.rules:
            yield from rule.include

    @classmethod
    def union(cls, configs: Iterable[RoomConfig]) -> RoomConfig:
        several = list(configs)
        if len(several) == 1:
            return several[0]
        return cls(
            max(config.timeline_limit for config in several), frozenset().union(*(config.rules for config in several))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFilters:
    """Which rooms a list holds; None: whatever they are. A room type of None is that of an ordinary room."""

    is_dm: bool | None = None
    spaces: frozenset[str] | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListConfig:
    """A list: `ranges` of indexes, both ends included, among the rooms that pass the filters; None: all of them."""

    config: RoomConfig
    ranges: tuple[tuple[int, int], ...] | None
    filters: RoomFilters


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomExtension:
    """An extension that tells of rooms: those in these lists and these subscriptions; None: in all of them."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDevice:
    """`since`: the messages up to this position have arrived and are deleted."""

    since: int | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """The extensions that are switched on; None: this one is not."""

    to_device: ToDevice | None = None
    e2ee: bool = False
    account_data: RoomExtension | None = None
    receipts: RoomExtension | None = None
    typing: RoomExtension | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingRequest:
    conn_id: str
    pos: str | None
    timeout_ms: int
    set_presence: str
    wants_counts: bool
    """Whether the dialect has counts of unread messages."""
    lists: Mapping[str, ListConfig] = field(default_factory=dict)
    subscriptions: Mapping[str, RoomConfig] = field(default_factory=dict)
    extensions: Extensions = field(default_factory=Extensions)
