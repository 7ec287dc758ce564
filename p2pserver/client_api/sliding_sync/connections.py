"""What each sliding sync connection has told its client, in memory.

After a restart, or when there are too many, a connection is forgotten: its client gets M_UNKNOWN_POS and begins anew.
What was told belongs to a position, so an answer that was lost is made again from the position before it. Positions are
values: a new one shares with the last what did not change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from p2pserver.client_api.sliding_sync.request import RoomConfig
from p2pserver.client_api.sliding_sync.room_index import RoomIndex
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.errors import MatrixError

CONNECTIONS_MAX = 1_000
CONNECTIONS_PER_DEVICE_MAX = 10
POSITIONS_MAX = 4
"""The one that the client has shown to have, and answers to it of which one may have arrived."""
ROOMS_MAX = 200_000
"""Rooms in all connections together."""
INDEXES_MAX = 64
"""Users whose rooms are kept in order."""
MEMBERS_MAX = 500
"""Members of one room that a connection is remembered to have been sent."""

Members = Mapping[str, str]
"""User ID to the ID of the member event that was sent."""
_NO_MEMBERS: Members = {}


class UnknownPos(MatrixError):
    """The position is of no connection of this device, or is not kept any more: the client begins anew."""

    errcode = "M_UNKNOWN_POS"


@dataclass(frozen=True, slots=True)
class RoomTold:
    """What the client knows of a room beside its events."""

    config: RoomConfig
    is_dm: bool
    members: Members = field(default_factory=lambda: _NO_MEMBERS)


@dataclass(frozen=True, slots=True)
class StreamTold:
    """Of which rooms a client was told something of one kind: up to its position, or less far if one fell behind."""

    current: frozenset[str] = frozenset()
    behind: Mapping[str, int] = field(default_factory=dict)

    def advance(
        self, relevant: frozenset[str], changed: Iterable[str], since: int
    ) -> tuple[dict[str, int | None], StreamTold]:
        """(what is to be told, what has been told then).

        The first has the rooms among `relevant` of which there may be news: each with the position up to which the
        client knows it, None if it knows nothing. `changed`: where something happened after `since`.
        """
        due: dict[str, int | None] = dict.fromkeys(relevant - self.current)
        for room_id in self.behind.keys() & due.keys():
            due[room_id] = self.behind[room_id]
        fallen: dict[str, int] = {}
        for room_id in changed:
            if room_id in self.current:
                if room_id in relevant:
                    due[room_id] = since
                else:
                    fallen[room_id] = since
        if not due and not fallen:
            return due, self
        behind = {room_id: position for room_id, position in self.behind.items() if room_id not in due} | fallen
        return due, StreamTold((self.current | due.keys()) - fallen.keys(), behind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """All that a client knows after one answer."""

    stream: int
    """The position in the stream up to which it was told."""
    live: int
    rooms: Mapping[str, RoomTold] = field(default_factory=dict)
    events: StreamTold = field(default_factory=StreamTold)
    account_data: StreamTold = field(default_factory=StreamTold)
    receipts: StreamTold = field(default_factory=StreamTold)
    typing: StreamTold = field(default_factory=StreamTold)
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of each list."""
    has_account_data: bool = False
    """Whether the client got the global account data on this connection."""


class _Connection:
    def __init__(self) -> None:
        self.positions: OrderedDict[str, Position] = OrderedDict()
        self.weight = 0


class Connections:
    """All connections, by user, device and the client's name for them; the one longest unused is forgotten first."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._kept: OrderedDict[tuple[str, str, str], _Connection] = OrderedDict()
        self._rooms = 0

    def __len__(self) -> int:
        return len(self._kept)

    def position(self, user_id: str, device_id: str, conn_id: str, pos: str) -> Position:
        """What the client knew at `pos`. It has shown now that it needs no position before that.

        Raises: UnknownPos.
        """
        key = (user_id, device_id, conn_id)
        connection = self._kept.get(key)
        found = None if connection is None else connection.positions.get(pos)
        if connection is None or found is None:
            raise UnknownPos("that position is not known (any more)")
        self._kept.move_to_end(key)
        while next(iter(connection.positions)) != pos:
            connection.positions.popitem(last=False)
        self._weigh(connection)
        return found

    def add(self, user_id: str, device_id: str, conn_id: str, pos: str | None, position: Position) -> str:
        """Keeps what the client will know after the answer to `pos`, and returns the name of the new position.

        Without `pos` the connection begins here: whatever was known of one with the same name is over.
        """
        key = (user_id, device_id, conn_id)
        connection = None if pos is None else self._kept.get(key)
        if connection is None:
            self._forget(key)
            connection = self._kept[key] = _Connection()
            self._prune(user_id, device_id)
        name = f"{StreamToken(position.stream)}-{self._random_bytes(8).hex()}"
        connection.positions[name] = position
        while len(connection.positions) > POSITIONS_MAX:
            del connection.positions[next(each for each in connection.positions if each != pos)]
        self._weigh(connection)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self._rooms > ROOMS_MAX:
            self._forget(next(iter(self._kept)))
        return name

    def _prune(self, user_id: str, device_id: str) -> None:
        own = [key for key in self._kept if key[:2] == (user_id, device_id)]
        for key in own[:-CONNECTIONS_PER_DEVICE_MAX]:
            self._forget(key)
        while len(self._kept) > CONNECTIONS_MAX:
            self._forget(next(iter(self._kept)))

    def _weigh(self, connection: _Connection) -> None:
        weight = max((len(position.rooms) for position in connection.positions.values()), default=0)
        self._rooms += weight - connection.weight
        connection.weight = weight

    def _forget(self, key: tuple[str, str, str]) -> None:
        connection = self._kept.pop(key, None)
        if connection is not None:
            self._rooms -= connection.weight


class SlidingSyncs:
    """What the node keeps in memory for all sliding syncs."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self.connections = Connections(random_bytes)
        self._indexes: OrderedDict[str, RoomIndex] = OrderedDict()

    def index(self, user_id: str) -> RoomIndex:
        """The user's rooms, perhaps not up to date."""
        index = self._indexes.setdefault(user_id, RoomIndex(user_id))
        self._indexes.move_to_end(user_id)
        while len(self._indexes) > INDEXES_MAX:
            self._indexes.popitem(last=False)
        return index
