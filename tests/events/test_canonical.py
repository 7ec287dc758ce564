"""Canonical JSON: round trips, limits, what is refused."""

from __future__ import annotations

import json
import sys

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.events import canonical
from p2pserver.events.canonical import (
    INTEGER_MAX,
    NESTING_MAX,
    NotCanonical,
    check_canonical,
    decode_body,
    decode_strict,
    encode_canonical,
)
from tests.events.properties import steady

scalars = st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


def nested_lists(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@steady
@given(values)
def test_round_trip(value):
    encoded = encode_canonical(value)
    assert decode_strict(encoded) == value
    assert encode_canonical(decode_strict(encoded)) == encoded


@steady
@given(values)
def test_spelling_does_not_matter(value):
    assert encode_canonical(decode_strict(json.dumps(value, indent=2).encode())) == encode_canonical(value)


@steady
@given(st.dictionaries(st.text(), st.integers(0, 9), min_size=2))
def test_keys_are_in_order_of_code_points(members):
    # UTF-8 sorts as code points do, which UTF-16 does not.
    keys = list(json.loads(encode_canonical(members)))
    assert keys == sorted(keys, key=lambda key: key.encode("utf-8"))


@steady
@given(st.binary(max_size=60))
def test_any_octets_parse_or_are_refused(data):
    for decode in (decode_strict, decode_body):
        try:
            value = decode(data)
        except NotCanonical:
            continue
        assert value == json.loads(data)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        10**5000,
        "\ud800",
        {"\udc00": 1},
        {1: 2},
        {None: 2},
        (1, 2),
        b"x",
        {"a": {1, 2}},
        [object()],
        nested_lists(NESTING_MAX + 1),
    ],
    ids=lambda value: (
        f"{type(value).__name__} {str(value)[:12]!r}"
        if not isinstance(value, int)
        else f"{value:.3e}"
        if abs(value) < 2**60
        else "5000 digits"
    ),
)
def test_what_has_no_canonical_form(value):
    with pytest.raises(NotCanonical):
        encode_canonical(value)


def test_limits_are_inside():
    assert encode_canonical([INTEGER_MAX, -INTEGER_MAX]) == b"[9007199254740991,-9007199254740991]"
    deepest = nested_lists(NESTING_MAX)
    assert decode_strict(encode_canonical(deepest)) == deepest


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"b":'])
@pytest.mark.parametrize("decode", [decode_strict, decode_body])
def test_nesting_is_refused_before_it_is_parsed(decode, opening):
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"b":': b"}]"}[opening]
    for levels in (NESTING_MAX + 1, 1_000, 200_000):
        with pytest.raises(NotCanonical, match="nested too deeply"):
            decode(opening * levels + b"1" + closing * levels)
        with pytest.raises(NotCanonical, match="nested too deeply"):
            decode(opening * levels)


def test_brackets_in_strings_are_no_nesting():
    text = "[{" * 1_000 + '"\\'
    assert decode_strict(json.dumps([text, {text: text}]).encode()) == [text, {text: text}]


def test_many_brackets_side_by_side_are_no_nesting():
    assert decode_strict(b"[" + b"[]," * 1_000 + b"{}]") == [[] for _ in range(1_000)] + [{}]


@pytest.mark.parametrize("text", [b'["' + b'\\"' * 100_000, b'"\\' * 100_000 + b"[" * 101, b'"' * 99_999 + b"[" * 101])
def test_unclosed_strings_take_linear_time(text):
    with pytest.raises(NotCanonical):
        decode_strict(text + b"[" * NESTING_MAX)


def test_bodies_hold_floats_but_only_finite_ones():
    assert decode_body(b'{"a":1.5,"b":-0,"c":1e3,"d":-0.0}') == {"a": 1.5, "b": 0, "c": 1000.0, "d": 0.0}
    for text in (b"1e400", b"-1e400", b"NaN", b"Infinity", b"9007199254740992", b"1" * 5_000):
        with pytest.raises(NotCanonical):
            decode_body(text)


@steady
@given(values)
def test_the_compiled_encoder_and_the_other_make_the_same_octets(value):
    assert canonical._encode_strict is not None
    assert canonical._encode_strict(value) == encode_canonical_json(value)


def test_both_encoders_spell_every_character_alike(monkeypatch):
    """All of them, as keys and as values: escapes, controls, what lies beyond the BMP, halves of pairs."""
    text = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    keys = dict.fromkeys(text[:3000] + text[-3000:] + "\ue000\uffff\U00010000")
    compiled = [encode_canonical(value) for value in (text, keys)]
    with pytest.raises(NotCanonical):
        encode_canonical({"\udfff": "\ud83d"})
    monkeypatch.setattr(canonical, "_encode_strict", None)
    assert [encode_canonical(value) for value in (text, keys)] == compiled
    with pytest.raises(NotCanonical):
        encode_canonical({"\udfff": "\ud83d"})


def test_surrogate_pairs_are_fine_and_halves_are_not():
    assert decode_strict(b'"\\ud83d\\ude00"') == "😀"
    assert decode_strict(b'"\\\\ud83d"') == "\\ud83d"
    for half in (b'"\\ud83d"', b'"\\ude00\\ud83d"', b'{"\\uDFFF":1}'):
        with pytest.raises(NotCanonical):
            decode_strict(half)
        with pytest.raises(NotCanonical):
            decode_body(half)


def test_shared_parts_are_counted_each_time():
    """A value that is small in memory and astronomically large as text."""
    value: object = "x"
    for _ in range(NESTING_MAX - 1):
        value = [value, value]
    with pytest.raises(NotCanonical, match="too many values"):
        check_canonical(value, values_max=65_536)


def test_a_cycle_is_refused():
    value: list[object] = []
    value.append(value)
    with pytest.raises(NotCanonical, match="nested too deeply"):
        encode_canonical(value)
    assert sys.getrecursionlimit() > 3 * NESTING_MAX
