"""Fields of JSON bodies, checked: each function names the field in the error that it raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.errors import BadJson, InvalidParam, MissingParam
from p2pserver.identifiers import is_user_id

Body = Mapping[str, Any]


def required_string(body: Body, name: str) -> str:
    """Raises: MissingParam, BadJson."""
    value = optional_string(body, name)
    if value is None:
        raise MissingParam(f"`{name}` is missing")
    return value


def optional_string(body: Body, name: str) -> str | None:
    """None also for null. Raises: BadJson."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadJson(f"`{name}` is not a string")
    return value


def optional_boolean(body: Body, name: str, *, default: bool = False) -> bool:
    """Raises: BadJson."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadJson(f"`{name}` is not a boolean")
    return value


def optional_integer(body: Body, name: str, *, default: int, least: int = 0, most: int = 2**53 - 1) -> int:
    """Raised to `least`, cut to `most`. Raises: BadJson."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise BadJson(f"`{name}` is not an integer")
    return max(least, min(value, most))


def optional_object(body: Body, name: str) -> dict[str, Any]:
    """`{}` where it is absent or null. Raises: BadJson."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadJson(f"`{name}` is not an object")
    return value


def optional_list(body: Body, name: str) -> list[Any]:
    """`[]` where it is absent or null. Raises: BadJson."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadJson(f"`{name}` is not a list")
    return value


def required_user_id(body: Body, name: str) -> str:
    """Raises: MissingParam; BadJson, if it is not a string; InvalidParam, if it is no user ID."""
    value = required_string(body, name)
    if not is_user_id(value):
        raise InvalidParam(f"`{name}` is not a user ID")
    return value


def required_object(body: Body, name: str) -> dict[str, Any]:
    """Raises: MissingParam, BadJson."""
    if body.get(name) is None:
        raise MissingParam(f"`{name}` is missing")
    return optional_object(body, name)
