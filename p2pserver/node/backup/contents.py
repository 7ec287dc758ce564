"""What is in a backup: a tar of the manifest, the key, the database and the files of media, in this order."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Final, Literal

from p2pserver.node.backup.container import BackupError
from p2pserver.node.identity import DOMAIN_FILE, KEY_FILE

MANIFEST: Final = "manifest.json"
DATABASE: Final = "p2pserver.db"
MANIFEST_OCTETS_MAX: Final = 65_536
_MEDIA_NAME: Final = re.compile(r"media/([0-9a-f]{2})/([0-9a-f]{62})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the backup says of itself."""

    server_name: str
    created_ms: int
    software: str
    kind: Literal["backup", "move"]
    """A move: the node that it was made of has been retired, so that nothing happened there since."""
    position: int
    """Of the stream, in the snapshot."""
    files: int
    """Of media."""
    octets: int
    """Of all files together, but for this one."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def decode(cls, text: bytes) -> Manifest:
        """Raises: BackupError."""
        try:
            found = json.loads(text)
            manifest = cls(**{name: found[name] for name in cls.__slots__})
        except (ValueError, KeyError, TypeError):
            raise BackupError("the backup is damaged: it does not say what it holds") from None
        numbers = (manifest.created_ms, manifest.position, manifest.files, manifest.octets)
        if not all(type(number) is int and number >= 0 for number in numbers) or manifest.kind not in (
            "backup",
            "move",
        ):
            raise BackupError("the backup is damaged: it does not say what it holds")
        return manifest


def media_name(sha256: bytes) -> str:
    digits = sha256.hex()
    return f"media/{digits[:2]}/{digits[2:]}"


def media_meant(name: str) -> bytes | None:
    """The SHA-256 of the content of a file of media; None for another file."""
    found = _MEDIA_NAME.fullmatch(name)
    return None if found is None else bytes.fromhex(found[1] + found[2])


def is_expected(name: str) -> bool:
    """Whether a file of this name may be in a backup, behind the manifest."""
    return name in (KEY_FILE, DOMAIN_FILE, DATABASE) or media_meant(name) is not None
