"""Datagrams for all neighbors at once, under the key of a network: sealing and splitting, opening and joining.

    0x40 + epoch mod 64 | handle 2 | counter varint | ciphertext | tag 8

Encryption and tag are those of `sealing`, with a secret for each sender and epoch. A message that does not fit one
datagram goes in up to 16 with consecutive counters, and perhaps a parity that stands in for any one of them; if more
are lost, the message is, and the pairwise conversations bring what it said. Whoever has the key can send in anybody's
name, so what is heard here says nothing about who said it: only what proves itself may be believed. See
docs/shared-medium.md.

    broadcaster = Broadcaster(network, own_key, octets_max, salt)
    broadcaster.use_counters(start, count)               # reserved in the store, durably, before
    datagrams = broadcaster.seal(message)                # None: reserve more first
    listener = Listener(own_key); listener.use_networks([network, older]); listener.know(peer_key, salt)
    heard = listener.receive(datagram, now)              # a whole message, or None
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, NamedTuple

from p2pserver.link.errors import MessageSize, RemoteLinkError
from p2pserver.link.frames import decode_varint, encode_varint
from p2pserver.link.limits import COUNTER_MAX, REPLAY_WINDOW
from p2pserver.link.network_key import HANDLE_OCTETS, NetworkKey
from p2pserver.link.replay import ReplayWindow
from p2pserver.link.sealing import TAG_OCTETS, Keys

FIRST_OCTET: Final = 0x40
EPOCH_BITS: Final = 0x3F
DATAGRAM_OCTETS_MIN: Final = 48
"""Smaller datagrams would be mostly overhead: on such a medium nothing is broadcast."""
FRAGMENTS_MAX: Final = 16
SENDERS_MAX: Final = 256
"""Nodes whose datagrams are listened to; those that were met longest ago are forgotten first."""
JUMP_MAX: Final = 1 << 20
"""How far a sender's counter may be ahead of the last one heard: a forger cannot put it out of the sender's reach."""
ASSEMBLIES_MAX: Final = 32
"""Messages in assembly, of all senders together."""
ASSEMBLIES_OF_ONE_MAX: Final = 2
ASSEMBLY_S: Final = 300.0
STRANGERS_NOTED_MAX: Final = 16
_HEADER_OCTETS_MAX = 1 + HANDLE_OCTETS + 8
_FRAGMENT_OCTETS = 2
_LENGTH_OCTETS = 2
"""Of a part, within the parity."""
_DONE_MAX = 8


class Heard(NamedTuple):
    """A message under a network key, in the name of a node: perhaps of that node."""

    node_key: bytes
    message: bytes


def _part_octets_max(octets_max: int) -> int:
    """Of a fragment; a parity over such parts fits a datagram too."""
    return octets_max - _HEADER_OCTETS_MAX - TAG_OCTETS - _FRAGMENT_OCTETS - _LENGTH_OCTETS


def fragments_of(octets: int, octets_max: int) -> int:
    """How many datagrams of at most `octets_max` a message of so many octets takes, without parity."""
    if octets <= octets_max - _HEADER_OCTETS_MAX - TAG_OCTETS - 1:
        return 1
    return -(-octets // _part_octets_max(octets_max))


def message_octets_max(octets_max: int) -> int:
    """The largest message that can be broadcast in datagrams of at most `octets_max`; 0: none."""
    return FRAGMENTS_MAX * _part_octets_max(octets_max) if octets_max >= DATAGRAM_OCTETS_MIN else 0


def _sum(parts: Iterable[bytes], part_octets: int) -> bytes:
    """XOR of the parts, each with its length before it and zeros behind it."""
    total = 0
    for part in parts:
        total ^= int.from_bytes(len(part).to_bytes(_LENGTH_OCTETS, "big") + part.ljust(part_octets, b"\0"), "big")
    return total.to_bytes(_LENGTH_OCTETS + part_octets, "big")


class Broadcaster:
    """Seals what one node broadcasts under one epoch of a network."""

    def __init__(self, network: NetworkKey, own_key: bytes, octets_max: int, salt: bytes) -> None:
        """`octets_max`: of a datagram, at least DATAGRAM_OCTETS_MIN. `salt`: of this process, 8 octets."""
        self.network = network
        self.salt = salt
        self._keys = Keys(network.sender_key(own_key, salt))
        self._head = bytes([FIRST_OCTET | network.epoch & EPOCH_BITS]) + network.handle(own_key)
        self._octets_max = octets_max
        self._next = 0
        self._end = 0

    def use_counters(self, start: int, count: int) -> None:
        """Counters that nobody has used or will use: in the store they are spent already."""
        if start < self._next or start + count - 1 > COUNTER_MAX:
            raise ValueError(f"counters from {start} on were given out before, or are too large")
        self._next, self._end = start, start + count

    @property
    def next_counter(self) -> int:
        """What the next datagram will have, unless another block is taken before."""
        return self._next

    def seal(self, message: bytes, *, parity: bool = False) -> list[bytes] | None:
        """The datagrams of a message; None, if there are not enough counters for it.

        `parity`: one more fragment, where there are several, that stands in for any one of them.

        Raises: MessageSize.
        """
        if not 1 <= len(message) <= message_octets_max(self._octets_max):
            raise MessageSize(f"{len(message)} octets cannot be broadcast in datagrams of {self._octets_max}")
        count = fragments_of(len(message), self._octets_max)
        if self._next + count + parity > self._end:
            return None
        if count == 1:
            return [self._datagram(b"\0" + message)]
        size = -(-len(message) // count)
        parts = [message[index * size : (index + 1) * size] for index in range(count)]
        if parity:
            parts.append(_sum(parts, size))
        return [self._datagram(bytes([count, index]) + part) for index, part in enumerate(parts)]

    def _datagram(self, plaintext: bytes) -> bytes:
        counter, self._next = self._next, self._next + 1
        header = self._head + encode_varint(counter)
        ciphertext = self._keys.crypt(counter, plaintext)
        return header + ciphertext + self._keys.tag(counter, header, ciphertext)


@dataclass(slots=True)
class _Sender:
    node_key: bytes
    salt: bytes
    handle: bytes
    keys: dict[int, Keys]
    """What it seals with, by epoch."""
    window: dict[int, ReplayWindow] = field(default_factory=dict)
    assemblies: dict[tuple[int, int], _Assembly] = field(default_factory=dict)
    """By epoch and the counter of the first fragment."""
    done: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_DONE_MAX))
    """Messages that were whole before all of their fragments were here."""


@dataclass(slots=True)
class _Assembly:
    count: int
    began_at: float
    parts: dict[int, bytes] = field(default_factory=dict)
    """By index; the parity has the index behind the last."""

    def message(self) -> bytes | None:
        """The whole message, if it is known; empty, if a forger made a parity that fits nothing."""
        missing = [index for index in range(self.count) if index not in self.parts]
        parity = self.parts.get(self.count)
        if not missing:
            return b"".join(self.parts[index] for index in range(self.count))
        if len(missing) > 1 or parity is None:
            return None
        others = [part for index, part in self.parts.items() if index < self.count]
        octets = len(parity) - _LENGTH_OCTETS
        if octets < max(map(len, others)):
            return b""
        rest = int.from_bytes(_sum(others, octets), "big") ^ int.from_bytes(parity, "big")
        found = rest.to_bytes(len(parity), "big")
        length = int.from_bytes(found[:_LENGTH_OCTETS], "big")
        if length > octets:
            return b""
        self.parts[missing[0]] = found[_LENGTH_OCTETS : _LENGTH_OCTETS + length]
        return b"".join(self.parts[index] for index in range(self.count))


@dataclass(slots=True)
class ListenerCounts:
    """What became of datagrams."""

    messages: int = 0
    strange: int = 0
    """Of another format, of nobody that is known, or under a key that is not held."""
    replayed: int = 0
    forgotten: int = 0
    """Messages that were given up because a fragment was missing."""


class Listener:
    """Opens what others broadcast. Whatever arrives costs bounded memory, and is never an error."""

    def __init__(self, own_key: bytes) -> None:
        self._own_key = own_key
        self._networks: tuple[NetworkKey, ...] = ()
        self._senders: dict[bytes, _Sender] = {}
        self._by_handle: dict[bytes, list[_Sender]] = {}
        self._assembling: deque[tuple[_Sender, tuple[int, int]]] = deque()
        self._epochs_unread: dict[tuple[bytes, int], int] = {}
        self.counts = ListenerCounts()

    def use_networks(self, networks: Sequence[NetworkKey]) -> None:
        """Epochs of one network, of which all are read: the newest first."""
        self._networks = tuple(networks)
        senders, self._senders = list(self._senders.values()), {}
        self._by_handle.clear()
        self._assembling.clear()
        self._epochs_unread.clear()
        for sender in senders:
            self.know(sender.node_key, sender.salt)

    def know(self, node_key: bytes, salt: bytes, *, next_counter: int | None = None, epoch: int | None = None) -> None:
        """Listens to a node, or to its new process, by the salt that it told in a conversation of its own.

        `next_counter`: what it will broadcast next, as it said there.
        """
        if node_key == self._own_key or not self._networks:
            return
        known = self._senders.get(node_key)
        if known is not None and known.salt != salt:
            self._forget(node_key)
        sender = self._senders.pop(node_key, None)
        if sender is None:
            sender = _Sender(
                node_key,
                salt,
                self._networks[0].handle(node_key),
                {network.epoch: Keys(network.sender_key(node_key, salt)) for network in self._networks},
            )
            self._by_handle.setdefault(sender.handle, []).append(sender)
        self._senders[node_key] = sender
        if next_counter is not None and epoch is not None:
            window = sender.window.get(epoch)
            if window is None or not -REPLAY_WINDOW < next_counter - 1 - window.highest <= JUMP_MAX:
                sender.window[epoch] = ReplayWindow.beginning_at(next_counter)
        while len(self._senders) > SENDERS_MAX:
            self._forget(next(iter(self._senders)))

    def epochs_unread(self) -> dict[int, int]:
        """By epoch mod 64, how many datagrams that could not be read seem to come from nodes that are known: a hint."""
        unread: dict[int, int] = {}
        for (_, epoch_bits), count in self._epochs_unread.items():
            unread[epoch_bits] = unread.get(epoch_bits, 0) + count
        return unread

    def receive(self, datagram: bytes, now: float) -> Heard | None:
        """A message that is whole with this datagram."""
        self._give_up(now)
        opened = self._opened(datagram)
        if opened is None:
            return None
        sender, epoch, counter, plaintext = opened
        window = sender.window.setdefault(epoch, ReplayWindow())
        if not window.is_new(counter) or (window.highest >= 0 and counter > window.highest + JUMP_MAX):
            self.counts.replayed += 1
            return None
        window.mark(counter)
        message = self._joined(sender, epoch, counter, plaintext, now)
        if message is None:
            return None
        self.counts.messages += 1
        return Heard(sender.node_key, message)

    # Parts

    def _opened(self, datagram: bytes) -> tuple[_Sender, int, int, bytes] | None:
        if len(datagram) <= 1 + HANDLE_OCTETS + TAG_OCTETS or datagram[0] & ~EPOCH_BITS != FIRST_OCTET:
            self.counts.strange += 1
            return None
        try:
            counter, at = decode_varint(datagram, 1 + HANDLE_OCTETS)
        except RemoteLinkError:
            self.counts.strange += 1
            return None
        header, sealed = datagram[:at], datagram[at:]
        epoch_bits = datagram[0] & EPOCH_BITS
        senders = self._by_handle.get(datagram[1 : 1 + HANDLE_OCTETS], ())
        for sender in senders if len(sealed) > TAG_OCTETS else ():
            for epoch, keys in sender.keys.items():
                if epoch & EPOCH_BITS != epoch_bits:
                    continue
                ciphertext = sealed[:-TAG_OCTETS]
                if compare_digest(keys.tag(counter, header, ciphertext), sealed[-TAG_OCTETS:]):
                    return sender, epoch, counter, keys.crypt(counter, ciphertext)
        self.counts.strange += 1
        if senders and all(epoch_bits != network.epoch & EPOCH_BITS for network in self._networks):
            self._note_epoch(datagram[1 : 1 + HANDLE_OCTETS], epoch_bits)
        return None

    def _note_epoch(self, handle: bytes, epoch_bits: int) -> None:
        noted = (handle, epoch_bits)
        if noted in self._epochs_unread or len(self._epochs_unread) < STRANGERS_NOTED_MAX:
            self._epochs_unread[noted] = self._epochs_unread.get(noted, 0) + 1

    def _joined(self, sender: _Sender, epoch: int, counter: int, plaintext: bytes, now: float) -> bytes | None:
        if plaintext[0] == 0:
            return plaintext[1:] or None
        if len(plaintext) <= _FRAGMENT_OCTETS:
            return None
        count, index = plaintext[0], plaintext[1]
        if not 2 <= count <= FRAGMENTS_MAX or index > count or index > counter:
            return None
        name = (epoch, counter - index)
        if name in sender.done:
            return None
        assembly = sender.assemblies.get(name)
        if assembly is None:
            assembly = sender.assemblies[name] = _Assembly(count, now)
            self._assembling.append((sender, name))
            if len(sender.assemblies) > ASSEMBLIES_OF_ONE_MAX:
                self._drop(sender, next(iter(sender.assemblies)))
            if len(self._assembling) > ASSEMBLIES_MAX:
                self._drop(*self._assembling[0])
        if assembly.count != count:
            return None
        assembly.parts[index] = plaintext[_FRAGMENT_OCTETS:]
        message = assembly.message()
        if message is None:
            return None
        self._drop(sender, name, is_whole=True)
        sender.done.append(name)
        return message or None

    def _drop(self, sender: _Sender, name: tuple[int, int], *, is_whole: bool = False) -> None:
        if sender.assemblies.pop(name, None) is not None:
            self._assembling.remove((sender, name))
            self.counts.forgotten += not is_whole

    def _give_up(self, now: float) -> None:
        while self._assembling:
            sender, name = self._assembling[0]
            if now - sender.assemblies[name].began_at < ASSEMBLY_S:
                return
            self._drop(sender, name)

    def _forget(self, node_key: bytes) -> None:
        sender = self._senders.pop(node_key)
        for name in list(sender.assemblies):
            self._drop(sender, name)
        others = self._by_handle[sender.handle]
        others.remove(sender)
        if not others:
            del self._by_handle[sender.handle]
