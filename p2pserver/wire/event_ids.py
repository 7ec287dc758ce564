"""Event IDs as they travel: the 32 octets that they spell, many in one byte string.

IDs of room version 3 are spelled in standard base64, those before it are chosen by their server: these go in a list.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence

from p2pserver.identifiers import is_chosen_event_id
from p2pserver.wire.cbor import Cbor
from p2pserver.wire.fields import WireError, octets_of

_HASH_OCTETS = 32
_URL_SAFE_EVENT_ID = re.compile(r"\$[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""43 characters of base64 hold 258 bits: the last two must be 0."""
_STANDARD_EVENT_ID = re.compile(r"\$[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]")
"""Of room version 3."""


def is_canonical_event_id(event_id: str) -> bool:
    """Whether an event ID can be named on the wire, and ever exist.

    It is the one spelling of 32 octets, in URL-safe or (version 3) in standard base64, or `$opaque:server` (before).
    """
    return (
        _URL_SAFE_EVENT_ID.fullmatch(event_id) is not None
        or _STANDARD_EVENT_ID.fullmatch(event_id) is not None
        or is_chosen_event_id(event_id)
    )


def _hash_of(event_id: str) -> bytes:
    return base64.urlsafe_b64decode(event_id[1:] + "=")


def _spell(octets: bytes) -> str:
    return "$" + base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")


def _standard_hash_of(event_id: str) -> bytes:
    return base64.b64decode(event_id[1:] + "=")


def _spell_standard(octets: bytes) -> str:
    return "$" + base64.b64encode(octets).decode("ascii").rstrip("=")


def packed(event_ids: Iterable[str]) -> bytes | list[bytes | str]:
    """One byte string of hashes; where an ID is not one in URL-safe base64, a list (`_listed`)."""
    ids = tuple(event_ids)
    if all(map(_URL_SAFE_EVENT_ID.fullmatch, ids)):
        return b"".join(map(_hash_of, ids))
    return _listed(ids)


def _listed(ids: Sequence[str]) -> list[bytes | str]:
    """Two byte strings, hashes in URL-safe and in standard base64, then chosen IDs as texts.

    Where all are hashes of one alphabet, or all are chosen, as in one room, they keep their order.
    """
    if all(map(_STANDARD_EVENT_ID.fullmatch, ids)):
        return [b"", b"".join(map(_standard_hash_of, ids))]
    url_safe, standard, chosen = [], [], []
    for event_id in ids:
        if _URL_SAFE_EVENT_ID.fullmatch(event_id) is not None:
            url_safe.append(_hash_of(event_id))
        elif _STANDARD_EVENT_ID.fullmatch(event_id) is not None:
            standard.append(_standard_hash_of(event_id))
        elif is_chosen_event_id(event_id):
            chosen.append(event_id)
        else:
            raise WireError(f"not an event ID that can travel: {event_id[:64]!r}")
    return [b"".join(url_safe), b"".join(standard), *chosen]


def event_ids_of(value: Cbor, count_max: int) -> tuple[str, ...]:
    if type(value) is list:
        ids = _listed_ids(value, count_max)
    else:
        ids = [_spell(octets) for octets in _hashes(value, count_max)]
    if len(set(ids)) != len(ids):
        raise WireError("an event ID occurs twice")
    return tuple(ids)


def _listed_ids(value: list[Cbor], count_max: int) -> list[str]:
    if not 2 <= len(value) <= count_max + 2:
        raise WireError("too few or too many event IDs")
    ids = [_spell(octets) for octets in _hashes(value[0], count_max)]
    ids += [_spell_standard(octets) for octets in _hashes(value[1], count_max)]
    for text in value[2:]:
        if not isinstance(text, str) or not is_chosen_event_id(text):
            raise WireError("not an event ID")
        ids.append(text)
    if len(ids) > count_max:
        raise WireError("too many event IDs")
    return ids


def _hashes(value: Cbor, count_max: int) -> list[bytes]:
    packed = octets_of(value, count_max * _HASH_OCTETS)
    if len(packed) % _HASH_OCTETS:
        raise WireError("event IDs are cut off")
    return [packed[at : at + _HASH_OCTETS] for at in range(0, len(packed), _HASH_OCTETS)]
