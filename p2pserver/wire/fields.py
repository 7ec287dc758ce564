"""One field of a message, checked as it is read: its type, its size, its range."""

from __future__ import annotations

from typing import Final

from p2pserver.identifiers import is_room_id
from p2pserver.wire.cbor import Cbor

NUMBER_MAX: Final = 2**53 - 1


class WireError(ValueError):
    """Octets that are no message, or a message that cannot be written; the text says what is wrong with them."""


def text_of(value: Cbor, length_max: int) -> str:
    if type(value) is not str or len(value) > length_max:
        raise WireError("a text is missing or too long")
    return value


def octets_of(value: Cbor, octets_max: int, *, octets_min: int = 0) -> bytes:
    if type(value) is not bytes or not octets_min <= len(value) <= octets_max:
        raise WireError("a byte string is missing or of a wrong length")
    return value


def number_of(value: Cbor, number_max: int = NUMBER_MAX) -> int:
    if type(value) is not int or not 0 <= value <= number_max:
        raise WireError("a number is missing or out of range")
    return value


def flag_of(value: Cbor) -> bool:
    if type(value) is not bool:
        raise WireError("a truth value is missing")
    return value


def list_of(value: Cbor, length_max: int) -> list[Cbor]:
    if type(value) is not list or len(value) > length_max:
        raise WireError("a list is missing or too long")
    return value


def room_id_of(value: Cbor) -> str:
    if not is_room_id(value):
        raise WireError("not a room ID")
    return str(value)
