"""JSON as it is sent to clients: compact UTF-8, by orjson where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def _compiled_encoder() -> Callable[[Any], bytes] | None:
    try:
        import orjson
    except ImportError:
        return None
    return orjson.dumps


_encode = _compiled_encoder()


def encode_json(value: Any) -> bytes:
    """Raises: UnicodeEncodeError, on lone surrogates; TypeError, on what JSON has no place for."""
    if _encode is not None:
        try:
            return _encode(value)
        except TypeError:  # an integer beyond 64 bits, which events of old rooms may hold, or what fails below as well
            pass
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
