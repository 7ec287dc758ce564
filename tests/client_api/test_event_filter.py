"""Filters: what passes, what is refused, and what a hostile pattern costs."""

import time

import pytest

from p2pserver.client_api.event_filter import EventFilter, SyncFilter, glob_matches
from p2pserver.errors import BadJson


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("m.room.message", "m.room.message", True),
        ("m.room.message", "m.room.messages", False),
        ("m.room.*", "m.room.message", True),
        ("*", "", True),
        ("*.message", "m.room.message", True),
        ("m.*.mess*ge", "m.room.message", True),
        ("m.*.mess*gee", "m.room.message", False),
        ("ab*ba", "aba", False),
        ("a**c", "abc", True),
        ("a.c", "abc", False),
    ],
)
def test_a_star_stands_for_any_text(pattern: str, text: str, matches: bool) -> None:
    assert glob_matches(pattern, text) is matches


def test_a_pattern_of_many_stars_costs_little() -> None:
    began = time.monotonic()
    assert not glob_matches("*a" * 10_000 + "b", "a" * 255)
    assert time.monotonic() - began < 0.5


def test_not_wins_over_yes() -> None:
    chosen = EventFilter.of({"types": ["m.room.*"], "not_types": ["m.room.member"], "not_senders": ["@b:x"]})
    assert chosen.wants("m.room.name", "@a:x", {})
    assert not chosen.wants("m.room.member", "@a:x", {})
    assert not chosen.wants("m.room.name", "@b:x", {})
    assert not chosen.wants("org.other", "@a:x", {})


def test_contains_url() -> None:
    assert EventFilter.of({"contains_url": True}).wants("t", "@a:x", {"url": "mxc://a/b"})
    assert not EventFilter.of({"contains_url": True}).wants("t", "@a:x", {"url": 5})
    assert EventFilter.of({"contains_url": False}).wants("t", "@a:x", {})
    assert EventFilter.of({}).wants("t", "@a:x", {"url": "mxc://a/b"})


def test_an_empty_list_lets_nothing_pass_and_an_absent_one_everything() -> None:
    assert not EventFilter.of({"types": []}).wants("t", "@a:x", {})
    assert not EventFilter.of({"rooms": []}).wants_room("!r")
    assert EventFilter.of({}).wants_room("!r")
    assert not EventFilter.of({"not_rooms": ["!r"], "rooms": ["!r"]}).wants_room("!r")


def test_unknown_keys_are_ignored_and_the_limit_is_bounded() -> None:
    chosen = SyncFilter.of({"room": {"timeline": {"limit": 10**9, "org.new": 1}, "org.other": []}, "x": {}})
    assert chosen.timeline.limit == 1000
    assert SyncFilter.of({}).timeline.limit == 10


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"room": []},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"timeline": {"limit": True}}},
        {"room": {"timeline": {"limit": -1}}},
        {"room": {"state": {"types": "m.room.name"}}},
        {"room": {"state": {"lazy_load_members": "yes"}}},
        {"room": {"rooms": [1]}},
        {"room": {"include_leave": 1}},
        {"presence": 5},
        {"event_format": "other"},
        {"event_fields": "content"},
    ],
)
def test_a_known_key_of_a_wrong_type_is_refused(wrong: object) -> None:
    with pytest.raises(BadJson):
        SyncFilter.of(wrong)
