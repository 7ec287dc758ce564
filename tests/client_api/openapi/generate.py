"""Values for schemas: what a name means (`room_id`) comes from a pool, the rest is made up."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.client_api.openapi.schemas import definitions

Pool = Mapping[str, Sequence[Any]]
"""Candidates by the name of a field or parameter."""

TEXTS = ("", "a", "word", "two words", "é ☃ 😀", "x" * 300, "m.room.message", "0", "a.b", "%2F")
DEPTH_MAX = 6


def value_for(schema: Any, rng: random.Random, pool: Pool, name: str = "", depth: int = 0) -> Any:
    """A value that a schema allows."""
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema:
        return value_for(definitions()[schema["$ref"].rpartition("/")[2]], rng, pool, name, depth)
    candidates = pool.get(name, ())
    if candidates and (schema.get("type") != "array" or isinstance(candidates[0], list)):
        return rng.choice(candidates)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return value_for(rng.choice(schema[several]), rng, pool, name, depth)
    kinds = schema.get("type", "object" if "properties" in schema or "allOf" in schema else "string")
    match rng.choice(kinds) if isinstance(kinds, list) else kinds:
        case "object":
            return _object(schema, rng, pool, depth)
        case "array":
            if depth > DEPTH_MAX:
                return []
            count = max(schema.get("minItems", 0), rng.randrange(3))
            return [value_for(schema.get("items"), rng, pool, name, depth + 1) for _ in range(count)]
        case "boolean":
            return rng.random() < 0.5
        case "integer":
            return rng.choice((0, 1, 7, 50, 2**31, 2**53 - 1, schema.get("minimum", 3)))
        case "number":
            return rng.choice((0, 1, 0.25, 1.0))
        case "null":
            return None
        case _:
            return _string(schema, rng, pool)


def _object(schema: dict[str, Any], rng: random.Random, pool: Pool, depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part in schema.get("allOf", ()):
        made.update(value_for(part, rng, pool, "", depth))
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        if name in required or (rng.random() < 0.5 and depth <= DEPTH_MAX):
            made[name] = value_for(each, rng, pool, name, depth + 1)
    for pattern, each in schema.get("patternProperties", {}).items():
        for _ in range(rng.randrange(3)):
            made[_string({"pattern": pattern}, rng, pool)] = value_for(each, rng, pool, "", depth + 1)
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        for _ in range(rng.randrange(3)):
            made[rng.choice(TEXTS)] = value_for(others, rng, pool, "", depth + 1)
    return made


BY_FORMAT = {
    "mx-user-id": "user_id",
    "mx-room-id": "room_id",
    "mx-event-id": "event_id",
    "mx-room-alias": "room_alias",
    "mx-server-name": "server_name",
    "mx-mxc-uri": "mxc_uri",
}
BY_PATTERN = {"^@": "user_id", "^!": "room_id", "^\\$": "event_id", "^#": "room_alias"}


def _string(schema: dict[str, Any], rng: random.Random, pool: Pool) -> str:
    name = BY_FORMAT.get(schema.get("format", "")) or BY_PATTERN.get(schema.get("pattern", ""), "")
    if name in pool:
        text: str = rng.choice(pool[name])
        return text
    if schema.get("format") == "uri":
        return "https://example.org/"
    return rng.choice(TEXTS)
