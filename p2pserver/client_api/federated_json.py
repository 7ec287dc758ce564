"""JSON of clients that goes on to other servers has to survive the way: canonical, and not too deep to be wrapped."""

from __future__ import annotations

from typing import Any

from p2pserver.errors import BadJson
from p2pserver.events.canonical import NotCanonical, encode_canonical

ENVELOPE_LEVELS = 10
"""At least as many objects as keys and messages lie in on their way, in a body, an EDU or an answer."""


def octets_on_the_way(value: object) -> int:
    """The size as canonical JSON.

    Raises: BadJson, on what other servers could not be sent: floats, and nesting that leaves no room for an envelope.
    """
    wrapped: Any = value
    for _ in range(ENVELOPE_LEVELS):
        wrapped = [wrapped]
    try:
        return len(encode_canonical(wrapped)) - 2 * ENVELOPE_LEVELS
    except NotCanonical as error:
        raise BadJson(str(error)) from error
