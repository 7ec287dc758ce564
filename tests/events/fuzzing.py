"""Mutation of valid PDUs, by seed, and what must hold for every verdict."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from p2pserver.events import receipt
from p2pserver.events.build import build_event
from p2pserver.events.canonical import NotCanonical, decode_loose, decode_strict, encode_canonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import SelfCertifyingKeys, Signer
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules
from p2pserver.identifiers import KEY_ID, server_name_of

TWELVE_TYPES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**53,
    1.5,
    "",
    "$__proto__",
    [],
    [{"a": [None]}],
    {},
    {"__proto__": {"a": "b"}},
)
EXTREMES: tuple[Any, ...] = ("\ud800", "\0", "é" * 128, "x" * 70_000, [["$" + "a" * 43]], {1: 2}, b"x", float("nan"))


def signer_of(text: str) -> Signer:
    seed = hashlib.sha256(text.encode()).digest()
    server_name = server_name_of(Signer("", KEY_ID, seed).verify_key)
    return Signer(server_name, KEY_ID, seed)


@cache
def valid_pdus() -> tuple[Pdu, ...]:
    """A create, a join, power levels, a message and a redaction in each room version."""
    signer = signer_of("fuzzed")
    user = f"@alice:{signer.server_name}"
    pdus = []
    for rules in ROOM_VERSIONS.values():
        content: dict[str, Any] = {"room_version": rules.version}
        if rules.creator_in_content:
            content["creator"] = user
        before_v12 = not rules.room_id_is_create_hash
        common: dict[str, Any] = {"rules": rules, "sender": user, "signer": signer}
        create = build_event(
            **common,
            room_id=f"!room:{signer.server_name}" if before_v12 else None,
            event_type="m.room.create",
            state_key="",
            content=content,
            prev_events=[],
            auth_events=[],
            depth=1,
            origin_server_ts=1_700_000_000_000,
        )
        pdus.append(create)
        cited = [create.event_id] if before_v12 else []
        for event_type, state_key, content, redacts in (
            ("m.room.member", user, {"membership": "join", "displayname": "Alice"}, None),
            ("m.room.power_levels", "", {"users": {} if not before_v12 else {user: 100}, "invite": 0}, None),
            ("m.room.message", None, {"msgtype": "m.text", "body": "héllo 😀", "n": [1, {"a": None}]}, None),
            ("m.room.redaction", None, {"reason": "spam"}, create.event_id),
        ):
            pdus.append(
                build_event(
                    **common,
                    room_id=create.room_id,
                    event_type=event_type,
                    state_key=state_key,
                    content=content,
                    prev_events=[pdus[-1].event_id],
                    auth_events=cited,
                    depth=len(pdus),
                    origin_server_ts=1_700_000_000_000 + len(pdus),
                    redacts=redacts,
                )
            )
    return tuple(pdus)


@dataclass
class Tally:
    """What a run saw; `failures` must be empty."""

    cases: int = 0
    reached_field_checks: int = 0
    dropped: int = 0
    redacted: int = 0
    accepted: int = 0
    failures: list[str] = field(default_factory=list)


def fuzz(*, seed: int, cases: int, every_field: bool = False) -> Tally:
    """With `every_field` every field of every valid PDU with every replacement; random mutations up to `cases`."""
    rng = random.Random(seed)
    tally = Tally()
    for base in valid_pdus() if every_field else ():
        for mutated in _with_replaced_fields(base.raw):
            _judge_object(mutated, base, tally)
    while tally.cases < cases:
        base = rng.choice(valid_pdus())
        if rng.random() < 0.5:
            _judge_text(rng.choice(_TEXT_MUTATIONS)(_text_of(base.raw), rng), base, tally)
        else:
            mutated = copy.deepcopy(dict(base.raw))
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                rng.choice(_OBJECT_MUTATIONS)(mutated, rng)
            _judge_object(mutated, base, tally)
    return tally


def _judge_text(text: bytes, base: Pdu, tally: Tally) -> None:
    try:
        obj = decode_strict(text) if base.rules.strict_json else decode_loose(text)
    except NotCanonical:
        tally.cases += 1
        tally.dropped += 1
        return
    except Exception as error:  # noqa: BLE001 the point is that there is no other
        tally.cases += 1
        tally.failures.append(f"{type(error).__name__} from decoding {text[:80]!r}")
        return
    _judge_object(obj, base, tally)


def _judge_object(obj: Any, base: Pdu, tally: Tally) -> None:
    tally.cases += 1
    tally.reached_field_checks += isinstance(obj, dict)
    before = copy.deepcopy(obj)
    try:
        pdu = receipt.check_on_receipt(obj, base.rules, SelfCertifyingKeys())
    except receipt.PduDropped as dropped:
        tally.dropped += 1
        if not dropped.reason:
            tally.failures.append("dropped without a reason")
        return
    except Exception as error:  # noqa: BLE001 the point is that there is no other
        tally.failures.append(f"{type(error).__name__}: {error} from {str(obj)[:200]}")
        return
    if obj != before:
        tally.failures.append("the object was changed")
    if pdu.redacted_copy:
        tally.redacted += 1
        if pdu.raw != redact(pdu.raw, base.rules):
            tally.failures.append(f"a redacted copy is not redacted: {str(obj)[:200]}")
    else:
        tally.accepted += 1
        if _hashed(pdu.raw, base.rules) != _hashed(base.raw, base.rules):
            tally.failures.append(f"hash-verified with other content: {str(obj)[:200]}")
    if _protected(pdu.raw, base.rules) != _protected(base.raw, base.rules) or pdu.event_id != base.event_id:
        tally.failures.append(f"other protected content: {str(obj)[:200]}")


def _hashed(raw: Any, rules: RoomVersionRules) -> bytes:
    hashed = {key: raw[key] for key in raw if key not in {"unsigned", "signatures"}}
    return encode_canonical(hashed, loose=not rules.strict_json)


def _protected(raw: Any, rules: RoomVersionRules) -> bytes:
    redacted = redact(raw, rules)
    del redacted["signatures"]
    return encode_canonical(redacted, loose=not rules.strict_json)


def _text_of(raw: Any) -> bytes:
    return json.dumps(dict(raw), ensure_ascii=False).encode()


def _with_replaced_fields(raw: Any) -> Iterator[dict[str, Any]]:
    for name in (*raw, "unsigned", "event_id", "redacts", "state_key", "__proto__"):
        for value in TWELVE_TYPES + EXTREMES:
            yield {**raw, name: value}
        yield {key: value for key, value in raw.items() if key != name}


def _flip_bit(text: bytes, rng: random.Random) -> bytes:
    changed = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _change_letter(text: bytes, rng: random.Random) -> bytes:
    """Another letter or digit for one: most of these stay JSON."""
    places = [place for place, octet in enumerate(text) if chr(octet).isalnum() and octet < 128]
    changed = bytearray(text)
    changed[rng.choice(places)] = rng.choice(b"abcXYZ0123456789_-")
    return bytes(changed)


def _truncate(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text))]


def _insert(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    piece = rng.choice(
        (b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"[", b"{", b'"', b"-0", b"e9", b".0", b"9" * 400)
    )
    return text[:place] + piece + text[place:]


def _repeat_part(text: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randrange(len(text)), rng.randrange(len(text))))
    return text[:end] + text[start:end] + text[end:]


def _nest(text: bytes, rng: random.Random) -> bytes:
    levels = rng.choice((1, 90, 97, 98, 99, 100, 101, 5_000, 30_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return b'{"extra":' + opening * levels + b"1" + closing * levels + b"," + text[1:]


def _respell(text: bytes, rng: random.Random) -> bytes:
    """The same value in another spelling."""
    return json.dumps(json.loads(text), indent=rng.choice((None, 1)), ensure_ascii=True).encode()


_TEXT_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bit,
    _change_letter,
    _change_letter,
    _truncate,
    _insert,
    _repeat_part,
    _nest,
    _respell,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of every value inside."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found.extend(_places(value[key]))
    return found


def _replace_any(obj: dict[str, Any], rng: random.Random) -> None:
    places = _places(obj)
    if places:
        container, key = rng.choice(places)
        container[key] = copy.deepcopy(rng.choice(TWELVE_TYPES + EXTREMES))


def _delete_any(obj: dict[str, Any], rng: random.Random) -> None:
    places = _places(obj)
    if places:
        container, key = rng.choice(places)
        del container[key]


def _add_key(obj: dict[str, Any], rng: random.Random) -> None:
    target = rng.choice([obj, *[value for value in obj.values() if isinstance(value, dict)]])
    target[rng.choice(("x", "", "unsigned", "age_ts", "ed25519:2", "origin", "membership"))] = copy.deepcopy(
        rng.choice(TWELVE_TYPES)
    )


def _change_a_little(obj: dict[str, Any], rng: random.Random) -> None:
    places = [(container, key) for container, key in _places(obj) if isinstance(container[key], str | int)]
    if not places:
        return
    container, key = rng.choice(places)
    value = container[key]
    if isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        container[key] = value[:place] + rng.choice("aA1=:\0é") + value[place + rng.randrange(2) :]
    else:
        container[key] = int(value) + rng.choice((-1, 1, 2**53))


def _rename_key(obj: dict[str, Any], rng: random.Random) -> None:
    if obj:
        key = rng.choice(list(obj))
        obj[rng.choice((f"{key}x", str(key)[:-1], "content", "type", 7))] = obj.pop(key)  # type: ignore[index]


def _take_from_another(obj: dict[str, Any], rng: random.Random) -> None:
    other = rng.choice(valid_pdus()).raw
    key = rng.choice(list(other))
    obj[key] = copy.deepcopy(other[key])


def _wrap(obj: dict[str, Any], rng: random.Random) -> None:
    places = _places(obj)
    if not places:
        return
    container, key = rng.choice(places)
    for _ in range(rng.choice((1, 2, 97, 98, 99, 100))):
        container[key] = [container[key]]


_OBJECT_MUTATIONS: tuple[Callable[[dict[str, Any], random.Random], None], ...] = (
    _replace_any,
    _delete_any,
    _add_key,
    _change_a_little,
    _change_a_little,
    _rename_key,
    _take_from_another,
    _wrap,
)
