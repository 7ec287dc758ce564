"""Files that somebody hands over: read whole, and wrong in one line."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pserver.events.signing import SelfCertifyingKeys


class BadFile(ValueError):
    """The file is not what is asked for; the message says what is wrong and where."""


def read_json(path: str) -> Any:
    """The JSON value in a file, or on standard input for `-`. Raises: BadFile."""
    name = "standard input" if path == "-" else path
    try:
        octets = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return json.loads(octets.decode("utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise BadFile(f"{name}: {error.strerror}") from None
    except RecursionError:
        raise BadFile(f"{name}: nested too deeply") from None
    except UnicodeDecodeError:
        raise BadFile(f"{name} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadFile(f"{name} is not JSON: {error}") from None
    except ValueError as error:  # a name that occurs twice, a number of thousands of digits
        raise BadFile(f"{name}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An event with a name that occurs twice is none: which value counts would be anybody's guess."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice!r} occurs twice in an object")
    return members


class FileKeys:
    """The keys of the servers in a file; servers that are not in it may have a name that is a key."""

    def __init__(self, servers: Mapping[str, Mapping[str, bytes]]) -> None:
        """`servers`: by name and key ID the Ed25519 key, 32 octets; the key ID `*` stands for any."""
        self._servers = servers
        self._by_name = SelfCertifyingKeys()

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        own = self._servers.get(server_name)
        if own is None:
            return self._by_name.verify_key(server_name, key_id)
        return own.get(key_id, own.get("*"))


def keys_of(data: Mapping[str, Any]) -> FileKeys:
    """The keys in `servers` (`{name: {key_id, verify_key}}`), or in `server` and `verify_key`. Raises: BadFile."""
    servers: dict[str, dict[str, bytes]] = {}
    listed = data.get("servers", {})
    if not isinstance(listed, dict):
        raise BadFile("`servers` is not an object")
    for name, entry in listed.items():
        if not isinstance(entry, dict):
            raise BadFile(f"`servers`: the entry of {name} is not an object")
        servers[name] = {str(entry.get("key_id", "*")): _key(name, entry.get("verify_key"))}
    if isinstance(data.get("server"), str) and "verify_key" in data:
        servers[data["server"]] = {"*": _key(data["server"], data["verify_key"])}
    return FileKeys(servers)


def _key(server: str, text: object) -> bytes:
    try:
        key = base64.b64decode(str(text) + "==", validate=False)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BadFile(f"the verify_key of {server} is not 32 octets in base64")
    return key
