"""The file that a backup is: a line that says so, a line of JSON, then the octets in frames, perhaps encrypted.

    p2pserver backup 1\\n
    {"created_ms": ..., "encryption": null or {"kdf": "argon2id", "passes", "memory_octets", "salt", "header"}}\\n
    frames: length 4, big-endian | that many octets
    0000 | BLAKE2b (32 octets) of everything before

With a passphrase a frame is a message of libsodium's secretstream (XChaCha20-Poly1305), under a key that argon2id makes
of the passphrase; the two lines are authenticated with the first frame, and the last one says that it is the last.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import IO, Any, Final

import nacl.bindings as sodium
import nacl.exceptions
import nacl.pwhash.argon2id as argon2id

MAGIC: Final = b"p2pserver backup 1\n"
FRAME_OCTETS: Final = 64 * 1024
"""Of what is in a frame, before encryption."""
HEADER_OCTETS_MAX: Final = 4096
DIGEST_OCTETS: Final = 32
PASSES: Final = 3
MEMORY_OCTETS: Final = 64 << 20
PASSES_MAX: Final = 16
MEMORY_OCTETS_MAX: Final = 1 << 30
"""What a file may ask for: its two lines are read before anything can be known of them."""
_TAG_OCTETS = sodium.crypto_secretstream_xchacha20poly1305_ABYTES
_MESSAGE = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_FINAL = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL


class BackupError(Exception):
    """A backup cannot be made or used; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What can be read of a backup without its passphrase."""

    created_ms: int
    is_encrypted: bool


def _key_of(passphrase: str, *, salt: bytes, passes: int, memory_octets: int) -> bytes:
    return argon2id.kdf(
        sodium.crypto_secretstream_xchacha20poly1305_KEYBYTES,
        passphrase.encode("utf-8"),
        salt,
        opslimit=passes,
        memlimit=memory_octets,
    )


class BackupWriter:
    """Takes the octets of a backup, as a file for `tarfile`; `finish` writes what closes it."""

    def __init__(self, file: IO[bytes], *, created_ms: int, passphrase: str | None) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=DIGEST_OCTETS)
        self._waiting = bytearray()
        self._state: sodium.crypto_secretstream_xchacha20poly1305_state | None = None
        self._lines = b""
        encryption: dict[str, Any] | None = None
        if passphrase is not None:
            salt = secrets.token_bytes(argon2id.SALTBYTES)
            key = _key_of(passphrase, salt=salt, passes=PASSES, memory_octets=MEMORY_OCTETS)
            self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
            header = sodium.crypto_secretstream_xchacha20poly1305_init_push(self._state, key)
            encryption = {
                "kdf": "argon2id",
                "passes": PASSES,
                "memory_octets": MEMORY_OCTETS,
                "salt": salt.hex(),
                "header": header.hex(),
            }
        text = json.dumps({"created_ms": created_ms, "encryption": encryption}).encode() + b"\n"
        self._lines = MAGIC + text
        self._put(self._lines)

    def write(self, octets: bytes) -> int:
        self._waiting += octets
        while len(self._waiting) > FRAME_OCTETS:  # one is kept back: the last is marked as such
            self._frame(bytes(self._waiting[:FRAME_OCTETS]), is_last=False)
            del self._waiting[:FRAME_OCTETS]
        return len(octets)

    def finish(self) -> None:
        self._frame(bytes(self._waiting), is_last=True)
        self._waiting.clear()
        self._put(bytes(4))
        self._file.write(self._digest.digest())

    def _frame(self, octets: bytes, *, is_last: bool) -> None:
        if self._state is not None:
            tag = _FINAL if is_last else _MESSAGE
            octets = sodium.crypto_secretstream_xchacha20poly1305_push(self._state, octets, self._lines, tag)
            self._lines = b""
        if octets:
            self._put(len(octets).to_bytes(4, "big") + octets)

    def _put(self, octets: bytes) -> None:
        self._digest.update(octets)
        self._file.write(octets)


class BackupReader:
    """Gives the octets of a backup, as a file for `tarfile`. Only after `finish` is it known that it was whole."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises: BackupError, if this is no backup."""
        self._file = file
        self._digest = hashlib.blake2b(digest_size=DIGEST_OCTETS)
        self._state: sodium.crypto_secretstream_xchacha20poly1305_state | None = None
        self._held = bytearray()
        self._at_end = self._final_seen = False
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            is_other = magic.startswith(b"p2pserver backup ")
            raise BackupError("made by a newer p2pserver" if is_other else "this is no backup of p2pserver")
        line = self._file.readline(HEADER_OCTETS_MAX)
        self._lines = magic + line
        self._digest.update(self._lines)
        try:
            header = json.loads(line)
            self._encryption: dict[str, Any] | None = header["encryption"]
            self.header = Header(int(header["created_ms"]), self._encryption is not None)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BackupError("the backup is damaged at its beginning") from None

    def unlock(self, passphrase: str) -> None:
        """Raises: BackupError."""
        found = self._encryption
        if found is None:
            return
        try:
            passes, memory_octets = int(found["passes"]), int(found["memory_octets"])
            salt, header = bytes.fromhex(found["salt"]), bytes.fromhex(found["header"])
            is_usable = found["kdf"] == "argon2id" and 1 <= passes <= PASSES_MAX and memory_octets <= MEMORY_OCTETS_MAX
            if not is_usable:
                raise ValueError
            key = _key_of(passphrase, salt=salt, passes=passes, memory_octets=memory_octets)
            self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
            sodium.crypto_secretstream_xchacha20poly1305_init_pull(self._state, header, key)
        except (KeyError, ValueError, TypeError, nacl.exceptions.CryptoError):
            raise BackupError("the backup is damaged at its beginning") from None

    def read(self, octets: int) -> bytes:
        """So many octets, or fewer at the end. Raises: BackupError; OSError."""
        while len(self._held) < octets and not self._at_end:
            self._held += self._frame()
        taken = bytes(self._held[:octets])
        del self._held[:octets]
        return taken

    def finish(self) -> None:
        """Reads the rest. Raises: BackupError, if the backup is cut off or a bit of it is wrong."""
        while not self._at_end:
            self._frame()
        if self._file.read(1):
            raise BackupError("the backup goes on behind its end")

    def _frame(self) -> bytes:
        length = int.from_bytes(self._take(4), "big")
        if length == 0:
            self._at_end = True
            expected = self._digest.digest()
            if self._file.read(DIGEST_OCTETS) != expected or (self._state is not None and not self._final_seen):
                raise BackupError("the backup is damaged: its checksum is wrong")
            return b""
        if length > FRAME_OCTETS + _TAG_OCTETS or self._final_seen:
            raise BackupError("the backup is damaged")
        octets = self._take(length)
        if self._encryption is None:
            return octets
        assert self._state is not None, "unlock comes first"
        try:
            octets, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(self._state, octets, self._lines)
        except (nacl.exceptions.CryptoError, ValueError):
            is_first = bool(self._lines)
            raise BackupError(
                "the passphrase is wrong, or the backup damaged" if is_first else "the backup is damaged"
            ) from None
        self._lines = b""
        self._final_seen = tag == _FINAL
        return bytes(octets)

    def _take(self, octets: int) -> bytes:
        taken = self._file.read(octets)
        if len(taken) != octets:
            raise BackupError("the backup is cut off")
        self._digest.update(taken)
        return taken
