"""Operations of the specification, and what is wrong with an answer or an event by its schemas."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

BUNDLE = Path(__file__).parent / "client_server.json"

SERVER_NAME = r"[A-Za-z0-9.:\[\]-]{1,230}"
FORMATS = {
    "mx-user-id": rf"@[^:]+:{SERVER_NAME}",
    "mx-room-id": rf"![A-Za-z0-9_-]{{43}}|![^:]+:{SERVER_NAME}",
    "mx-room-alias": rf"#[^:]+:{SERVER_NAME}",
    "mx-event-id": r"\$.{1,254}",
    "mx-server-name": SERVER_NAME,
    "mx-mxc-uri": rf"mxc://{SERVER_NAME}/[A-Za-z0-9_-]+",
    "mx-unpadded-base64": r"[A-Za-z0-9+/]*",
    "mx-urlsafe-unpadded-base64": r"[A-Za-z0-9_-]*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:\S+",
}
CHECKER = FormatChecker(formats=())


def _has_format(name: str, pattern: str) -> None:
    CHECKER.checks(name)(lambda value: not isinstance(value, str) or re.fullmatch(pattern, value) is not None)


for _name, _pattern in FORMATS.items():
    _has_format(_name, _pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: full path template, parameters with their schemas, schemas of bodies by content type."""

    id: str
    method: str
    path: str
    parameters: tuple[dict[str, Any], ...]
    body: dict[str, Any]
    responses: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@cache
def _bundle() -> dict[str, Any]:
    bundle: dict[str, Any] = json.loads(BUNDLE.read_text())
    return bundle


@cache
def operations() -> dict[str, Operation]:
    """By `METHOD path`. Two are written twice in the specification, for two forms of a body: the first counts."""
    found: dict[str, Operation] = {}
    for each in _bundle()["operations"]:
        operation = Operation(**{**each, "parameters": tuple(each["parameters"])})
        found.setdefault(operation.name, operation)
    return found


def definitions() -> dict[str, Any]:
    """What `#/$defs/...` in the schemas of operations and events means."""
    defs: dict[str, Any] = _bundle()["$defs"]
    return defs


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "$defs": definitions()}, format_checker=CHECKER)


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    """Where and how a value is not what the schema says; empty where it is."""
    found = _validator(json.dumps(schema)).iter_errors(value)
    return [f"{error.json_path}: {_shortened(error.message)}" for error in found]


def _shortened(text: str) -> str:
    return text if len(text) < 300 else f"{text[:150]} … {text[-150:]}"


def response_faults(operation: Operation, status: int, body: Any) -> list[str]:
    """What is wrong with an answer. An error that the specification does not list must be a standard error."""
    content = operation.responses.get(str(status))
    if status // 100 == 2:
        if content is None:
            return [f"the specification knows no {status} here"]
        return faults(content.get("application/json", {}), body)
    if content is not None and status == 401 and isinstance(body, dict) and "flows" in body:
        return faults(content["application/json"], body)
    return faults({"$ref": "#/$defs/definitions.errors.error"}, body)


def event_faults(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event by the schema of its type; nothing where the type is not the specification's."""
    ref = _bundle()["events"].get(event["type"])
    return [] if ref is None else faults({"$ref": ref}, event)
