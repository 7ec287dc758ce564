"""Where a server stands in a room, in few octets that say nothing to strangers.

All values are keyed with the names and the salts of the two servers, so that the beacons of one pair mean nothing to
another and differ at each conversation. A tag is computed from the room ID, which only who has been told of the room
knows. The digest is over the sorted IDs of all leaves, never an XOR of them: for an XOR colliding sets are found in
milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from p2pserver.wire.messages import DIGEST_OCTETS, TAG_OCTETS, Beacon, RoomDigests

_PERSON_KEY = b"p2p beacon key"
_PERSON_TAG = b"p2p room tag"
_PERSON_DIGEST = b"p2p leaves"
_PERSON_SEC = b"p2p SEC"
_PERSON_CURRENT = b"p2p current"


class BeaconKey:
    """What one pair of servers computes tags and digests with; the same on both sides."""

    __slots__ = ("_key",)

    def __init__(self, one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
        """(server name, salt) of both, in any order."""
        both = b"".join(name.encode() + b"\0" + salt for name, salt in sorted((one, other)))
        self._key = hashlib.blake2b(both, digest_size=32, person=_PERSON_KEY).digest()

    @classmethod
    def of_network(cls, network_key: bytes) -> BeaconKey:
        """For beacons that are broadcast: the same for all who have the key of the network."""
        made = cls(("", b""), ("", b""))
        made._key = hashlib.blake2b(network_key, digest_size=32, person=_PERSON_KEY).digest()
        return made

    def tag(self, room_id: str) -> bytes:
        """4 octets that stand for the room."""
        room = room_id.encode()
        return hashlib.blake2b(room, key=self._key, digest_size=TAG_OCTETS, person=_PERSON_TAG).digest()

    def digest(self, room_id: str, leaves: Iterable[str]) -> bytes:
        """8 octets that stand for the set of leaves."""
        state = hashlib.blake2b(key=self._key, digest_size=DIGEST_OCTETS, person=_PERSON_DIGEST)
        state.update(room_id.encode())
        for event_id in sorted(leaves):
            state.update(b"\0" + event_id.encode())
        return state.digest()

    def beacon(self, room_id: str, leaves: Iterable[str]) -> Beacon:
        return Beacon(self.tag(room_id), self.digest(room_id, leaves))

    def digests(self, room_id: str, leaves: Iterable[str], *, sec: bytes, current: bytes) -> RoomDigests:
        return RoomDigests(
            tag=self.tag(room_id),
            leaves=self.digest(room_id, leaves),
            sec=self._of(room_id, sec, _PERSON_SEC),
            current=self._of(room_id, current, _PERSON_CURRENT),
        )

    def _of(self, room_id: str, digest: bytes, person: bytes) -> bytes:
        both = digest + room_id.encode()
        return hashlib.blake2b(both, key=self._key, digest_size=DIGEST_OCTETS, person=person).digest()
