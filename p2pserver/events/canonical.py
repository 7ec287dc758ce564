"""Canonical JSON, both ways: the bytes that are hashed and signed, and a parser that accepts nothing they could not be.

Values are the six JSON types with plain Python types: None, bool, int, str, list, dict (float only where `decode_body`
and the loose form say so).

Events of room versions 1 to 5 need not be canonical JSON, and yet are hashed and signed as text. Their *loose* form is
what Synapse makes of them: finite floats as Python spells them (shortest digits that give the same double) and integers
as they are, here of up to 64 bits, so that they survive CBOR. What the loose form cannot express is refused.

Source: Matrix appendices, "Canonical JSON"; RFC 8259 for names that occur twice.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from canonicaljson import encode_canonical_json

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

INTEGER_MAX = 2**53 - 1
"""The largest integer; the smallest is its negative."""

LOOSE_INTEGER_MAX = 2**64 - 1
"""The largest integer of the loose form; the smallest is its negative."""

NESTING_MAX = 100
"""How many lists and objects may lie inside each other. The specification has no limit; recursion has."""

_STRINGS = frozenset((str,))
_SCALARS = frozenset((str, bool, type(None)))
_DIGITS_MAX = len(str(-LOOSE_INTEGER_MAX))
_QUOTED = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_A_BRACKET = re.compile(rb"[^\[\]{}]++")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class NotCanonical(ValueError):
    """A value or a text that canonical JSON cannot express; the message says what."""


def encode_canonical(value: object, *, loose: bool = False) -> bytes:
    """The canonical JSON of a value, in UTF-8; or its loose form.

    Raises: NotCanonical, on a float, an integer beyond ±(2^53 - 1), a key that is not a string, a lone surrogate, more
    than `NESTING_MAX` levels, or anything that is not JSON. Loose: NaN, infinities, integers beyond ±(2^64 - 1), and
    the rest likewise.
    """
    check_canonical(value, loose=loose)
    return encode_checked(value, loose=loose)


def _compiled_encoder() -> Callable[[object], bytes] | None:
    """orjson, where it is installed: the same octets as canonicaljson, but for the loose form."""
    try:
        import orjson
    except ImportError:
        return None
    return partial(orjson.dumps, option=orjson.OPT_SORT_KEYS)


_encode_strict = _compiled_encoder()


def encode_checked(value: object, *, loose: bool = False) -> bytes:
    """`encode_canonical` for a value that `check_canonical` has passed.

    Raises: NotCanonical, on a lone surrogate, which that check leaves to the encoder.
    """
    if _encode_strict is not None and not loose:
        try:
            return _encode_strict(value)
        except TypeError:  # of a lone surrogate; canonicaljson says so below
            pass
    try:
        return encode_canonical_json(value)
    except UnicodeEncodeError as error:
        raise NotCanonical("lone surrogate") from error


def check_canonical(value: object, *, inside: int = 0, values_max: int | None = None, loose: bool = False) -> None:
    """Check types, integers and nesting of a value; with `values_max`, also that it holds no more values than that.

    `inside` is how many lists and objects it lies in already. The count bounds the work on a value that did not come
    from a text of bounded size, such as one with shared parts.

    Raises: NotCanonical. Lone surrogates are found by `encode_checked`.
    """
    integer_max = LOOSE_INTEGER_MAX if loose else INTEGER_MAX
    level: list[Any] = [value] if type(value) is dict or type(value) is list else [[value]]
    seen = 0
    for _ in range(NESTING_MAX - inside):
        deeper: list[Any] = []
        for container in level:
            seen += len(container)
            if values_max is not None and seen > values_max:
                raise NotCanonical("too many values")
            if type(container) is dict:
                if not _STRINGS.issuperset(map(type, container)):
                    raise NotCanonical("a key is not a string")
                members = container.values()
            else:
                members = container
            if _SCALARS.issuperset(map(type, members)):
                continue
            for member in members:
                kind = type(member)
                if kind is str:
                    continue
                if kind is int:
                    if not -integer_max <= member <= integer_max:
                        raise NotCanonical("integer out of range")
                elif kind is dict or kind is list:
                    deeper.append(member)
                elif kind not in _SCALARS and not (loose and kind is float and math.isfinite(member)):
                    raise NotCanonical(f"{kind.__name__} has no canonical form")
        if not deeper:
            return
        level = deeper
    raise NotCanonical("nested too deeply")


def is_flat_text(value: dict[Any, Any]) -> bool:
    """Whether `check_canonical` passes an object because it holds strings, booleans and nulls only. Most are such."""
    return _SCALARS.issuperset(map(type, value.values())) and _STRINGS.issuperset(map(type, value))


def decode_strict(data: bytes) -> Json:
    """Parse event JSON: only what canonical JSON can express, in any spelling of white space, escapes and key order.

    Raises: NotCanonical, on text that is not UTF-8 JSON (a byte order mark included), floats, exponents, `-0`, NaN,
    integers out of range, a name that occurs twice in an object, lone surrogates, more than `NESTING_MAX` levels.
    """
    return _decode(data, _EVENT_DECODER)


def decode_body(data: bytes) -> Json:
    """Parse the body of an HTTP request: as `decode_strict`, but finite floats, exponents and `-0` are numbers too.

    Raises: NotCanonical.
    """
    return _decode(data, _BODY_DECODER)


def decode_loose(data: bytes) -> Json:
    """Parse what may hold events of any room version: as `decode_body`, but integers may have 64 bits.

    Raises: NotCanonical.
    """
    return _decode(data, _LOOSE_DECODER)


def _decode(data: bytes, decoder: json.JSONDecoder) -> Json:
    _check_nesting(data)
    try:
        value: Json = decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotCanonical("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise NotCanonical(f"not JSON: {error}") from error
    if _ESCAPED_SURROGATE.search(data):
        _check_encodable(value)
    return value


def _check_encodable(value: Json) -> None:
    """Only an escape can bring a lone surrogate into a text that is UTF-8, so few texts come here."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotCanonical("lone surrogate") from error


def _check_nesting(data: bytes) -> None:
    """Count brackets outside strings, in one pass and without recursion, so that the parser never meets deep text."""
    if data.count(b"[") + data.count(b"{") <= NESTING_MAX:
        return
    depth = 0
    for bracket in _NOT_A_BRACKET.sub(b"", _QUOTED.sub(b"", data)):
        if bracket in b"[{":
            depth += 1
            if depth > NESTING_MAX:
                raise NotCanonical("nested too deeply")
        else:
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("a name occurs twice in an object")
    return members


def _integer_of_loose(digits: str) -> int:
    if len(digits) <= _DIGITS_MAX:
        value = int(digits)
        if -LOOSE_INTEGER_MAX <= value <= LOOSE_INTEGER_MAX:
            return value
    raise NotCanonical("integer out of range")


def _integer_of_body(digits: str) -> int:
    value = _integer_of_loose(digits)
    if -INTEGER_MAX <= value <= INTEGER_MAX:
        return value
    raise NotCanonical("integer out of range")


def _integer_of_event(digits: str) -> int:
    if digits == "-0":
        raise NotCanonical("negative zero")
    return _integer_of_body(digits)


def _float_of_body(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotCanonical("number out of range")
    return value


def _no_float(digits: str) -> float:
    raise NotCanonical(f"not an integer: {digits[:32]}")


def _no_constant(name: str) -> float:
    raise NotCanonical(f"{name} is not JSON")


_EVENT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer_of_event, parse_float=_no_float, parse_constant=_no_constant
)
_BODY_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer_of_body, parse_float=_float_of_body, parse_constant=_no_constant
)
_LOOSE_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer_of_loose, parse_float=_float_of_body, parse_constant=_no_constant
)
