"""Whether two servers that hold the same events of a room make the same of them.

When the beacons of a complete room are equal, each side tells digests of what follows from the events: of every event
with its verdict and states (SEC), which must be equal, and of the current state, which the order of arrival can sway.
Said once for the same leaves and contact. What the peer says is only what it says: it leads to an alarm that names the
peer, or to a healing event if there is something to heal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p2pserver.federation.beacons import BeaconKey
from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import Diverged, ReadStandings, RoomStanding, RoomView, StatesDiffer
from p2pserver.link.limits import Priority
from p2pserver.wire.messages import DIGESTS_MAX, Digests, RoomDigests


class Standings:
    """The rooms of one pair of servers."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._key: BeaconKey | None = None
        self._settled: dict[str, bytes] = {}
        """By room, the leaves for which we told the peer, or heard from it what we would have told."""

    def contact(self, key: BeaconKey) -> None:
        self._key = key
        self._settled.clear()

    def only(self, room_ids: Iterable[str]) -> None:
        """We are in these rooms and no others."""
        kept = set(room_ids)
        self._settled = {room_id: leaves for room_id, leaves in self._settled.items() if room_id in kept}

    def equal(self, views: Iterable[RoomView]) -> None:
        """Both sides hold the same leaves of these rooms."""
        if self._key is None:
            return
        key = self._key
        news = [
            view.room_id
            for view in views
            if view.complete and self._settled.get(view.room_id) != key.digest(view.room_id, view.leaves)
        ]
        if news:
            self._channel.emit(ReadStandings(dict.fromkeys(news)))

    def told(self, message: Digests, rooms_of_tag: Mapping[bytes, Sequence[str]]) -> None:
        told = {room_id: room for room in message.rooms for room_id in rooms_of_tag.get(room.tag, ())}
        if told:
            self._channel.emit(ReadStandings(told))

    def read(self, effect: ReadStandings, standings: Iterable[RoomStanding]) -> None:
        if self._key is None or not self._channel.talking:
            return
        say: list[RoomDigests] = []
        for standing in standings:
            room_id = standing.room_id
            ours = self._key.digests(room_id, standing.leaves, sec=standing.sec, current=standing.current)
            theirs = effect.told[room_id]
            if theirs is not None and theirs.leaves != ours.leaves:
                continue  # one of us has got news since
            if theirs is not None and theirs.sec != ours.sec:
                self._channel.emit(Diverged(room_id, ours.sec, theirs.sec))
            elif theirs is not None and theirs.current != ours.current:
                self._channel.emit(StatesDiffer(room_id))
            if theirs != ours and self._settled.get(room_id) != ours.leaves:
                say.append(ours)
            self._settled[room_id] = ours.leaves
        for start in range(0, len(say), DIGESTS_MAX):
            self._channel.say(Digests(tuple(say[start : start + DIGESTS_MAX])), Priority.STATE)
