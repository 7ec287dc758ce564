"""Registration files of application services: YAML as Synapse reads it, checked before the node starts.

A pattern is held against names that others choose, so its cost is bounded before it is ever used: by the number of ways
in which its repetitions can share out 255 characters. Source: application service API, "Registration".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from p2pserver.config import ConfigError
from p2pserver.identifiers import is_old_localpart
from p2pserver.rooms.app_services import IDENTIFIER_CHARACTERS_MAX, AppService, AppServices, Namespace

FILE_OCTETS_MAX: Final = 1 << 20
PATTERN_CHARACTERS_MAX: Final = 1_000
WAYS_MAX: Final = 256**3
"""Ways to match one pattern that may have to be tried; three free repetitions behind each other are the most."""


def load_app_services(paths: Sequence[Path], server_name: str) -> AppServices:
    """Raises: ConfigError, with one line that says which file and what is wrong."""
    services: list[AppService] = []
    for path in paths:
        try:
            service = registration_of(_read(path), server_name)
            for other in services:
                if other.service_id == service.service_id:
                    raise ConfigError(f"there is another service with the id {service.service_id!r}")
                if {other.as_token, other.hs_token} & {service.as_token, service.hs_token}:
                    raise ConfigError(
                        f"it has a token of the service {other.service_id!r}: each needs tokens of its own"
                    )
        except ConfigError as error:
            raise ConfigError(f"--app-service {path}: {error}") from None
        services.append(service)
    return AppServices(services)


def _read(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError("needs a package that is not installed: pip install 'p2pserver[app-services]'") from None
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_OCTETS_MAX + 1)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    if len(octets) > FILE_OCTETS_MAX:
        raise ConfigError("it is over 1 MiB")
    try:
        return yaml.safe_load(octets)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ConfigError(f"it is not YAML{where}") from None


def registration_of(found: Any, server_name: str) -> AppService:
    """The service that a registration describes. Raises: ConfigError."""
    if not isinstance(found, dict):
        raise ConfigError("it is no registration: a mapping with id, url, as_token, hs_token, sender_localpart")
    namespaces = found.get("namespaces") or {}
    if not isinstance(namespaces, dict):
        raise ConfigError("namespaces is not a mapping of users, rooms and aliases")
    service = AppService(
        service_id=_text(found, "id"),
        url=_url(found),
        as_token=_token(found, "as_token"),
        hs_token=_token(found, "hs_token"),
        sender=_sender(found, server_name),
        rate_limited=_flag(found, "rate_limited", default=True),
        users=_namespaces(namespaces, "users"),
        rooms=_namespaces(namespaces, "rooms"),
        aliases=_namespaces(namespaces, "aliases"),
        protocols=_protocols(found),
        wants_ephemeral=_flag(found, "receive_ephemeral") or _flag(found, "de.sorunome.msc2409.push_ephemeral"),
        wants_encryption=_flag(found, "org.matrix.msc3202"),
    )
    if service.as_token == service.hs_token:
        raise ConfigError("as_token and hs_token are the same")
    return service


def _text(found: dict[Any, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigError(f"{name} is missing, or is no text on one line")
    return value


def _token(found: dict[Any, Any], name: str) -> str:
    token = _text(found, name)
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"{name} has other characters than ASCII without spaces")
    return token


def _flag(found: dict[Any, Any], name: str, *, default: bool = False) -> bool:
    value = found.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is neither true nor false")
    return value


def _url(found: dict[Any, Any]) -> str | None:
    if "url" not in found:
        raise ConfigError("url is missing; null, if the service is to be sent nothing")
    url = found["url"]
    if url is None or url == "":
        return None
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts is None or parts.query or parts.fragment or not url.isprintable():
        raise ConfigError("url is no address such as http://127.0.0.1:29318")
    return str(url).rstrip("/")


def _sender(found: dict[Any, Any], server_name: str) -> str:
    """mautrix bridges make a random one of upper-case letters too, and act as another user of theirs."""
    localpart = _text(found, "sender_localpart")
    if not is_old_localpart(localpart) or len(localpart) + len(server_name) + 2 > IDENTIFIER_CHARACTERS_MAX:
        raise ConfigError("sender_localpart is what stands between @ and : in a user ID")
    return f"@{localpart}:{server_name}"


def _protocols(found: dict[Any, Any]) -> tuple[str, ...]:
    protocols = found.get("protocols")
    if protocols is None:
        return ()
    if not isinstance(protocols, list) or not all(isinstance(each, str) and each for each in protocols):
        raise ConfigError("protocols is not a list of names")
    return tuple(dict.fromkeys(protocols))


def _namespaces(found: dict[Any, Any], kind: str) -> tuple[Namespace, ...]:
    entries = found.get(kind)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise ConfigError(f"namespaces.{kind} is not a list")
    namespaces = []
    for number, entry in enumerate(entries, 1):
        where = f"namespaces.{kind}, entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("regex"), str):
            raise ConfigError(f"{where}: regex is missing")
        if not isinstance(entry.get("exclusive"), bool):
            raise ConfigError(f"{where}: exclusive is neither true nor false")
        namespaces.append(Namespace(pattern_of(entry["regex"], where), entry["exclusive"]))
    return tuple(namespaces)


def pattern_of(regex: str, where: str) -> re.Pattern[str]:
    """Raises: ConfigError, if it is no regular expression, or one that a hostile name could make slow."""
    if len(regex) > PATTERN_CHARACTERS_MAX:
        raise ConfigError(f"{where}: the regex is over {PATTERN_CHARACTERS_MAX} characters")
    try:
        pattern = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where}: {regex!r} is no regular expression: {error}") from None
    if ways_to_match(regex) > WAYS_MAX:
        raise ConfigError(
            f"{where}: {regex!r} could take for ever: have no repetition inside another, no reference to a group,"
            " and at most three of * and +"
        )
    return pattern


def ways_to_match(regex: str) -> int:
    """At most so many ways to match 255 characters: those of parts behind each other multiplied, of choices added."""
    from re import _parser  # type: ignore[attr-defined]  # the only way to see a pattern as a tree

    return _ways(_parser.parse(regex))


def _ways(parts: Any) -> int:
    ways = 1
    for operator, argument in parts:
        ways *= _ways_of(str(operator), argument)
        if ways > WAYS_MAX:
            return ways
    return ways


def _ways_of(operator: str, argument: Any) -> int:
    if operator in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inner = argument
        most = min(int(most), IDENTIFIER_CHARACTERS_MAX)
        within = _ways(inner)
        return within**most if within > 1 and most > 1 else within * (most - min(int(least), most) + 1)
    if operator == "BRANCH":
        return sum(_ways(each) for each in argument[1])
    if operator == "SUBPATTERN":
        return _ways(argument[-1])
    if operator in ("ASSERT", "ASSERT_NOT"):
        return _ways(argument[1])
    if operator == "ATOMIC_GROUP":
        return _ways(argument)
    return WAYS_MAX + 1 if operator.startswith("GROUPREF") else 1
