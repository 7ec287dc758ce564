"""The rooms of a user in the order of their last event, kept in memory and brought up to date from the stream.

What an answer costs so depends on what happened, not on how many rooms there are. Source: MSC4186, "Lists".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from p2pserver.client_api.room_access import end_of_membership
from p2pserver.client_api.sliding_sync.request import RoomFilters
from p2pserver.client_api.sync_rooms import outside_state
from p2pserver.rooms.service import Rooms
from p2pserver.store.account_data import contents_of_type
from p2pserver.store.memberships import LocalMembership, local_membership
from p2pserver.store.own_rooms import memberships_of
from p2pserver.store.room_stream import (
    current_event_id,
    has_news,
    newest_position,
    rooms_with_news,
    slots_of_type,
)
from p2pserver.store.tx import Tx

ENCRYPTION = ("m.room.encryption", "")


class RoomFacts:
    """What lists ask about one room; what costs more than a look is found when it is asked for."""

    __slots__ = ("_encrypted", "_room_type", "_was_in", "newest", "own")

    def __init__(self, own: LocalMembership, newest: int) -> None:
        self.own = own
        self.newest = newest
        """The position by which rooms are ordered."""
        self._room_type: tuple[str | None] | None = None
        self._encrypted: bool | None = None
        self._was_in: bool | None = None

    @property
    def membership(self) -> str:
        return self.own.membership

    def grew(self, newest: int) -> None:
        self.newest = newest
        self._encrypted = None

    def room_type(self, tx: Tx, rooms: Rooms) -> str | None:
        if self._room_type is None:
            content = self._content(tx, rooms, "m.room.create")
            kind = None if content is None else content.get("type")
            self._room_type = (kind if isinstance(kind, str) else None,)
        return self._room_type[0]

    def is_encrypted(self, tx: Tx, rooms: Rooms) -> bool:
        if self._encrypted is None:
            if self.membership == "join":
                self._encrypted = current_event_id(tx, self.own.room_id, ENCRYPTION) is not None
            else:
                self._encrypted = self._content(tx, rooms, ENCRYPTION[0]) is not None
        return self._encrypted

    def was_in(self, tx: Tx, rooms: Rooms) -> bool:
        """Whether a user who is not in the room any more was so before."""
        if self._was_in is None:
            self._was_in = end_of_membership(tx, rooms, self.own.user_id, self.own.room_id) is not None
        return self._was_in

    def _content(self, tx: Tx, rooms: Rooms, event_type: str) -> Mapping[str, Any] | None:
        if self.membership in ("invite", "knock"):
            for event in outside_state(tx, rooms, self.own.user_id, self.own.room_id, event_id=self.own.event_id):
                if event["type"] == event_type and event["state_key"] == "":
                    found: Mapping[str, Any] = event["content"]
                    return found
            return None
        held = rooms.current_event(tx, self.own.room_id, event_type)
        return None if held is None else held.content


class RoomIndex:
    """All rooms of one user, as of `position`. Used from one thread."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.position = -1
        self.rooms: dict[str, RoomFacts] = {}
        self.joined: frozenset[str] = frozenset()
        self._order: list[RoomFacts] | None = None

    def update(self, tx: Tx) -> None:
        """Brings it to the newest position of the snapshot."""
        upto = tx.position()
        if upto == self.position:
            return
        if upto < self.position:
            self.position, self.rooms = -1, {}
        rows = memberships_of(tx, self.user_id, above=None if self.position < 0 else self.position)
        for row in rows:
            self.rooms[row.room_id] = RoomFacts(row, _newest(tx, row))
        if rows:
            self.joined = frozenset(room_id for room_id, facts in self.rooms.items() if facts.membership == "join")
        elsewhere = self.joined - {row.room_id for row in rows}
        news = changed_rooms(tx, elsewhere, above=self.position, upto=upto) if self.position >= 0 else ()
        for room_id in news:
            facts = self.rooms[room_id]
            facts.grew(_newest(tx, facts.own))
        if rows or news:
            self._order = None
        self.position = upto

    def in_order(self) -> list[RoomFacts]:
        """The room with the newest event first."""
        if self._order is None:
            self._order = sorted(self.rooms.values(), key=lambda facts: (-facts.newest, facts.own.room_id))
        return self._order


def changed_rooms(tx: Tx, among: Collection[str], *, above: int, upto: int) -> set[str]:
    """The rooms with new events or changed state: found from the stream where that is short, else room by room."""
    if not among or upto <= above:
        return set()
    if upto - above > 4 * len(among):
        return {room_id for room_id in among if has_news(tx, room_id, above=above)}
    return rooms_with_news(tx, above=above, upto=upto).intersection(among)


def _newest(tx: Tx, own: LocalMembership) -> int:
    newest = newest_position(tx, own.room_id) if own.membership == "join" else None
    return own.position if newest is None else newest


class Selection:
    """Which rooms a list holds: filters, with what they need of the account data read once."""

    def __init__(
        self, tx: Tx, rooms: Rooms, index: RoomIndex, *, dms: Collection[str], ignored: Collection[str]
    ) -> None:
        self._tx, self._rooms, self._index, self._dms, self._ignored = tx, rooms, index, dms, ignored
        self._tags: dict[str, frozenset[str]] | None = None

    def select(self, filters: RoomFilters, *, leaving: Collection[str]) -> list[str]:
        """In order. `leaving`: rooms that the user has left, of which the client must be told so."""
        tests = self._tests(filters)
        return [
            facts.own.room_id
            for facts in self._index.in_order()
            if self._is_listed(facts, leaving) and all(test(facts) for test in tests)
        ]

    def _is_listed(self, facts: RoomFacts, leaving: Collection[str]) -> bool:
        own = facts.own
        if own.membership == "invite" and own.sender in self._ignored:
            return False
        if own.membership in ("join", "invite", "knock") or own.room_id in leaving:
            return True
        by_others = own.membership == "ban" or own.sender != own.user_id
        if not by_others or not facts.was_in(self._tx, self._rooms):
            return False
        present = local_membership(self._tx, own.user_id, own.room_id)  # forgetting has no position of its own
        return present is not None and not present.forgotten

    def _tests(self, filters: RoomFilters) -> list[Callable[[RoomFacts], bool]]:
        tx, rooms = self._tx, self._rooms
        tests: list[Callable[[RoomFacts], bool]] = []
        if filters.is_invite is not None:
            tests.append(lambda facts: (facts.membership == "invite") == filters.is_invite)
        if filters.is_dm is not None:
            tests.append(lambda facts: (facts.own.room_id in self._dms) == filters.is_dm)
        if filters.spaces is not None:
            children = self._children(filters.spaces)
            tests.append(lambda facts: facts.own.room_id in children)
        if filters.tags is not None or filters.not_tags:
            tests.append(lambda facts: self._passes_tags(facts.own.room_id, filters))
        if filters.room_types is not None or filters.not_room_types:
            tests.append(lambda facts: _passes_types(facts.room_type(tx, rooms), filters))
        if filters.is_encrypted is not None:
            tests.append(lambda facts: facts.is_encrypted(tx, rooms) == filters.is_encrypted)
        return tests

    def _children(self, spaces: Iterable[str]) -> frozenset[str]:
        """The rooms that the spaces name, of those that the user is in. Source: "m.space.child": without `via` it is
        no child."""
        found = set()
        for space_id in self._index.joined.intersection(spaces):
            for (_, child_id), event_id in slots_of_type(self._tx, space_id, "m.space.child").items():
                event = self._rooms.stored(self._tx, event_id)
                if event is not None and isinstance(event.pdu.content.get("via"), list):
                    found.add(child_id)
        return frozenset(found)

    def _passes_tags(self, room_id: str, filters: RoomFilters) -> bool:
        if self._tags is None:
            contents = contents_of_type(self._tx, self._index.user_id, "m.tag")
            self._tags = {
                tagged: frozenset(content["tags"])
                for tagged, content in contents.items()
                if isinstance(content.get("tags"), dict)
            }
        tags = self._tags.get(room_id, frozenset())
        return not tags & filters.not_tags and (filters.tags is None or bool(tags & filters.tags))


def _passes_types(room_type: str | None, filters: RoomFilters) -> bool:
    wanted = filters.room_types is None or room_type in filters.room_types
    return wanted and room_type not in filters.not_room_types
