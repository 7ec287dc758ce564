"""The key that the nodes on a shared medium have in common, and the line of text in which it travels.

    P2PNET1:<base32 of: network id 8 | epoch 4 | key 32 | name in UTF-8 | checksum 4>

The line fits a QR code in its alphanumeric mode. Case, spaces and line breaks do not matter to who reads it. The
checksum is BLAKE2b of all octets before it: it finds what was mistyped or cut, and proves nothing. See
docs/shared-medium.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

NETWORK_ID_OCTETS: Final = 8
KEY_OCTETS: Final = 32
HANDLE_OCTETS: Final = 2
NAME_OCTETS_MAX: Final = 32
EPOCH_MAX: Final = (1 << 32) - 1
_CHECKSUM_OCTETS = 4
_LINE = re.compile(r"P2PNET(\d+):([A-Z2-7]+)")


class NetworkKeyError(ValueError):
    """What should be a network key is none; the text is one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkKey:
    """One epoch of one network. Epoch 0 is that of the open network, whose key everybody has."""

    network_id: bytes
    name: str
    epoch: int
    key: bytes

    @property
    def is_open(self) -> bool:
        return self.network_id == OPEN_NETWORK.network_id

    def sender_key(self, node_key: bytes, salt: bytes) -> bytes:
        """What a process of a node seals with: of this epoch, this node and this process, so that no two can share a
        nonce. `salt`: 8 octets that the process drew at its start.
        """
        return hashlib.blake2b(node_key + salt, key=self.key, person=b"p2p net sender", digest_size=KEY_OCTETS).digest()

    def handle(self, node_key: bytes) -> bytes:
        """The short name of a node in the datagrams of this network, in every epoch."""
        return handle_of(self.network_id, node_key)

    def __repr__(self) -> str:
        return f"NetworkKey({self.name!r}, epoch {self.epoch})"


def handle_of(network_id: bytes, node_key: bytes) -> bytes:
    """Two octets: several nodes may have the same, so it is a hint which keys to try, and nothing more."""
    return hashlib.blake2b(node_key, key=network_id, person=b"p2p net handle", digest_size=HANDLE_OCTETS).digest()


OPEN_NETWORK: Final = NetworkKey(
    network_id=b"p2p open",
    name="open",
    epoch=0,
    key=hashlib.blake2b(b"the open network of p2pserver: everybody has this key").digest()[:KEY_OCTETS],
)


def check_name(name: str) -> str:
    """The name of a network, for people: 1 to 32 octets of printable text.

    Raises: NetworkKeyError.
    """
    if not name.isprintable() or not name.strip() or len(name.encode()) > NAME_OCTETS_MAX:
        raise NetworkKeyError(f"a network's name is printable text of 1 to {NAME_OCTETS_MAX} octets")
    return name


def encode_network_key(network: NetworkKey) -> str:
    """One line of text."""
    body = network.network_id + network.epoch.to_bytes(4, "big") + network.key + check_name(network.name).encode()
    return "P2PNET1:" + base64.b32encode(body + _checksum(body)).decode("ascii").rstrip("=")


def decode_network_key(text: str) -> NetworkKey:
    """The key in a text: a file with one, or what a camera read. Lines that begin with # are left out.

    Raises: NetworkKeyError.
    """
    joined = "".join("".join(line.split()) for line in text.splitlines() if not line.lstrip().startswith("#")).upper()
    found = _LINE.fullmatch(joined)
    if found is None:
        raise NetworkKeyError("this is no network key: such a text begins with P2PNET1:")
    if found[1] != "1":
        raise NetworkKeyError(f"this network key has version {found[1]}: run a newer p2pserver")
    encoded = found[2]
    try:
        octets = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
    except binascii.Error:
        octets = b""
    body, checksum = octets[:-_CHECKSUM_OCTETS], octets[-_CHECKSUM_OCTETS:]
    if len(body) < NETWORK_ID_OCTETS + 4 + KEY_OCTETS or _checksum(body) != checksum:
        raise NetworkKeyError("this network key is damaged or incomplete: copy it again")
    name_at = NETWORK_ID_OCTETS + 4 + KEY_OCTETS
    try:
        name = check_name(body[name_at:].decode("utf-8"))
    except UnicodeDecodeError:
        raise NetworkKeyError("this network key has a name that is no text") from None
    network = NetworkKey(
        network_id=body[:NETWORK_ID_OCTETS],
        name=name,
        epoch=int.from_bytes(body[NETWORK_ID_OCTETS : NETWORK_ID_OCTETS + 4], "big"),
        key=body[NETWORK_ID_OCTETS + 4 : name_at],
    )
    if network.is_open or network.epoch == 0:
        raise NetworkKeyError("this is the key of the open network, which every node has")
    return network


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_OCTETS, person=b"p2p net checksum").digest()
