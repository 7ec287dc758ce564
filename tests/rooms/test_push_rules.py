"""Push rules held against events: every condition of the specification, and the rules that an account starts with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.rooms.push_patterns import whole_text, words
from p2pserver.rooms.push_rules import PushRules, Verdict, path_of
from p2pserver.store.push_rules import default_push_rules

ALICE, BOB = "@alice:x", "@bob:x"


@dataclass
class Room:
    members: int = 3
    name: str | None = "Alice W."
    loud: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def member_count(self) -> int:
        self.asked.append("members")
        return self.members

    def display_name(self) -> str | None:
        self.asked.append("name")
        return self.name

    def may_notify(self, sender: str, key: str) -> bool:
        self.asked.append(key)
        return key == "room" and sender in self.loud


def message(body: str = "hi", /, **content: Any) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body, **content}
    return {"type": "m.room.message", "sender": BOB, "room_id": "!r", "content": content}


def judge(
    event: Mapping[str, Any], *, facts: Room | None = None, conditions: list[Any] | None = None, **rules: Any
) -> Verdict | None:
    if conditions is not None:
        rules["override"] = [{"rule_id": "r", "conditions": conditions, "actions": ["notify"]}]
    return PushRules({"global": rules}).judge(event, facts or Room())


def matches(event: Mapping[str, Any], *conditions: Any, room: Room | None = None) -> bool:
    return judge(event, conditions=list(conditions), facts=room) is not None


def event_match(key: str, pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


# Patterns


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("a*a", "a", False),
        ("a*b*c", "aXbYbZc", True),
        ("a*b*c", "acb", False),
        ("?", "ü", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
    ],
)
def test_a_pattern_spells_the_whole_text(pattern: str, text: str, expected: bool) -> None:
    assert whole_text(pattern)(text) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "complex apples", False),
        ("cake", "pancakes", False),
        ("cake", "a cake!", True),
        ("cake", "pancake cake", True),
        ("cake", "cake_", False),
        ("@room", "@room look", True),
        ("@room", "hey @room", True),
        ("@room", "bla@room", False),
        ("@room", "@rooms", False),
        ("ki?e", "a kite", True),
        ("*", "", True),
        ("a*", "b a", True),
        ("*a", "ba", True),
        ("*a b", "cca b c", True),
        ("*a b", "cca bc", False),
        ("über", "Überall über", True),
    ],
)
def test_a_pattern_spells_words_of_a_body(pattern: str, text: str, expected: bool) -> None:
    assert words(pattern)(text) is expected


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=12))
def test_patterns_are_what_the_slow_way_says(pattern: str, text: str) -> None:
    def slow(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(slow(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and slow(pattern[1:], text[1:])

    assert whole_text(pattern)(text) == slow(pattern, text)


@given(st.text("a *?", min_size=1, max_size=6), st.text("a ", max_size=10))
def test_words_are_what_the_slow_way_says(pattern: str, text: str) -> None:
    edges = [at for at in range(len(text) + 1) if at in (0, len(text)) or text[at - 1] != "a" or text[at] != "a"]
    starts = [at for at in edges if at == 0 or text[at - 1] != "a"]
    ends = [at for at in edges if at == len(text) or text[at] != "a"]
    expected = any(whole_text(pattern)(text[start:end]) for start in starts for end in ends if start <= end)
    assert words(pattern)(text) == expected


def test_a_hostile_pattern_costs_no_more_than_its_length() -> None:
    assert not words("a*" * 400 + "b")("a" * 60_000)
    assert not whole_text("?*" * 400 + "b")("a" * 60_000)
    assert not whole_text("a" * 1_001)("a" * 1_001), "too long to be tried"


# Conditions


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.mentions.user_ids", ("content", "m.mentions", "user_ids")),
        (r"a\\b.c", ("a\\b", "c")),
        (r"a\b", ("a\\b",)),
        ("a\\", ("a\\",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_paths_have_dots_and_escapes(key: str, path: tuple[str, ...]) -> None:
    assert path_of(key) == path


def test_event_match_needs_a_string_at_the_path() -> None:
    event = message(n=5, deep={"a.b": "x"})
    assert matches(event, event_match("content.body", "hi"))
    assert matches(event, event_match("type", "M.ROOM.*"))
    assert matches(event, event_match(r"content.deep.a\.b", "x"))
    for key in ("content.n", "content", "content.none", "state_key", "content.deep.a.b"):
        assert not matches(event, event_match(key, "*")), key
    assert matches({**event, "state_key": ""}, event_match("state_key", ""))


def test_event_property_is_compares_values_and_types() -> None:
    def is_(key: str, value: Any) -> dict[str, Any]:
        return {"kind": "event_property_is", "key": key, "value": value}

    event = message(yes=True, one=1, none=None, some="X", items=[1])
    assert matches(event, is_("content.yes", True))
    assert matches(event, is_("content.one", 1))
    assert matches(event, is_("content.none", None))
    assert matches(event, is_("content.some", "X"))
    for key, value in (("yes", 1), ("one", True), ("some", "x"), ("items", [1]), ("gone", None), ("one", 1.0)):
        assert not matches(event, is_(f"content.{key}", value)), key


def test_event_property_contains_looks_into_lists() -> None:
    def contains(value: Any, key: str = "content.items") -> dict[str, Any]:
        return {"kind": "event_property_contains", "key": key, "value": value}

    event = message(items=["a", 1, None, {"b": 1}], text="a")
    assert matches(event, contains("a"))
    assert matches(event, contains(1))
    assert matches(event, contains(None))
    assert not matches(event, contains("A"))
    assert not matches(event, contains(True))
    assert not matches(event, contains({"b": 1}))
    assert not matches(event, contains("a", "content.text"))


def test_contains_display_name_finds_the_name_as_words() -> None:
    condition = {"kind": "contains_display_name"}
    assert matches(message("hey ALICE W."), condition)
    assert not matches(message("hey malice W."), condition)
    assert not matches(message("hey"), condition, room=Room(name=None))
    assert not matches(message("hey"), condition, room=Room(name=""))
    assert matches(message("oh *x*"), condition, room=Room(name="*x*"))
    assert not matches(message("oh yxy"), condition, room=Room(name="*x*"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        *[("3", True), ("==3", True), ("<3", False), (">3", False), ("<=3", True), (">=3", True), ("<4", True)],
        *[("", False), ("=3", False), ("3 ", False), ("x", False), (3, False), (None, False)],
    ],
)
def test_room_member_count_compares(asked: Any, expected: bool) -> None:
    assert matches(message(), {"kind": "room_member_count", "is": asked}) is expected


def test_sender_notification_permission_asks_the_power_levels() -> None:
    condition = {"kind": "sender_notification_permission", "key": "room"}
    assert matches(message(), condition, room=Room(loud=(BOB,)))
    assert not matches(message(), condition)
    assert not matches(message(), {"kind": "sender_notification_permission"}, room=Room(loud=(BOB,)))


def test_what_is_not_known_never_matches() -> None:
    assert not matches(message(), {"kind": "x.y"})
    assert not matches(message(), {"kind": "event_match", "key": "type"})
    assert not matches(message(), "event_match")
    assert judge(message(), override=[{"rule_id": "r", "conditions": "all", "actions": ["notify"]}]) is None
    assert judge(message(), override="nonsense") is None
    assert PushRules({}).judge(message(), Room()) is None


# Order


def test_kinds_and_rules_are_tried_in_their_order() -> None:
    rules: dict[str, Any] = {
        "override": [{"rule_id": "o", "conditions": [event_match("content.body", "o")], "actions": []}],
        "content": [{"rule_id": "c", "pattern": "c", "actions": ["notify"]}],
        "room": [{"rule_id": "!r", "actions": []}],
        "sender": [{"rule_id": BOB, "actions": ["notify"]}],
        "underride": [{"rule_id": "u", "actions": ["notify"]}],
    }

    def first(body: str, **fields: Any) -> str | None:
        found = judge({**message(body), **fields}, **rules)
        return None if found is None else found.rule_id

    assert first("o c") == "o"
    assert first("c") == "c"
    assert first("x") == "!r"
    assert first("x", room_id="!other") == BOB
    assert first("x", room_id="!other", sender="@carol:x") == "u"
    rules["room"][0]["enabled"] = False
    assert first("x") == BOB


def test_the_master_rule_silences_even_the_users_own_rules() -> None:
    content = default_push_rules(ALICE)
    content["global"]["override"].insert(0, {"rule_id": "mine", "conditions": [], "actions": ["notify"]})
    assert verdict(message(), content=content) == ("mine", True, False)
    for rule in content["global"]["override"]:
        rule["enabled"] = True
    assert verdict(message(), content=content) == ("master", False, False)


def test_old_actions_are_ignored_and_highlight_has_a_value() -> None:
    def actions(*actions: Any) -> tuple[bool, bool]:
        found = judge(message(), underride=[{"rule_id": "u", "actions": list(actions)}])
        assert found is not None
        return found.notify, found.highlight

    assert actions("dont_notify") == actions() == actions("coalesce") == (False, False)
    assert actions("notify", {"set_tweak": "highlight"}) == (True, True)
    assert actions("notify", {"set_tweak": "highlight", "value": False}) == (True, False)
    found = judge(message(), underride=[{"rule_id": "u", "actions": ["notify", {"set_tweak": "x", "value": 5}]}])
    assert found is not None
    assert found.tweaks() == {"x": 5}


# The rules of a new account


def verdict(
    event: Mapping[str, Any], *, room: Room | None = None, content: dict[str, Any] | None = None
) -> tuple[str, bool, bool] | None:
    found = PushRules(content or default_push_rules(ALICE)).judge(event, room or Room())
    return None if found is None else (found.rule_id.removeprefix(".m.rule."), found.notify, found.highlight)


MEMBER = {"type": "m.room.member", "sender": BOB, "room_id": "!r"}
TO_ALICE = {"m.mentions": {"user_ids": [ALICE]}}
TO_ROOM = {"m.mentions": {"room": True}}


@pytest.mark.parametrize(
    ("event", "room", "expected"),
    [
        (message(), Room(), ("message", True, False)),
        (message(), Room(members=2), ("room_one_to_one", True, False)),
        (message(msgtype="m.notice"), Room(), ("suppress_notices", False, False)),
        (message("alice?"), Room(), ("contains_user_name", True, True)),
        (message("Alice W. knows"), Room(), ("contains_display_name", True, True)),
        (message("alice?", **{"m.mentions": {}}), Room(), ("message", True, False)),
        (message("x", **TO_ALICE), Room(), ("is_user_mention", True, True)),
        (message("x", **TO_ROOM), Room(loud=(BOB,)), ("is_room_mention", True, True)),
        (message("x", **TO_ROOM), Room(), ("message", True, False)),
        (message("@room"), Room(loud=(BOB,)), ("roomnotif", True, True)),
        (message("@room", **{"m.mentions": {}}), Room(loud=(BOB,)), ("message", True, False)),
        (message("* x", **{"m.relates_to": {"rel_type": "m.replace"}}), Room(), ("suppress_edits", False, False)),
        ({**MEMBER, "state_key": BOB, "content": {"membership": "join"}}, Room(), ("member_event", False, False)),
        ({**MEMBER, "state_key": ALICE, "content": {"membership": "invite"}}, Room(), ("invite_for_me", True, False)),
        ({**message(), "type": "m.reaction"}, Room(), ("reaction", False, False)),
        ({**message(), "type": "m.room.tombstone", "state_key": ""}, Room(), ("tombstone", True, True)),
        ({**message(), "type": "m.room.server_acl", "state_key": ""}, Room(), ("room.server_acl", False, False)),
        ({**message(), "type": "m.room.encrypted"}, Room(), ("encrypted", True, False)),
        ({**message(), "type": "m.room.encrypted"}, Room(members=2), ("encrypted_room_one_to_one", True, False)),
        ({**message(), "type": "m.call.invite"}, Room(), ("call", True, False)),
        ({**message("hi"), "type": "m.room.topic", "state_key": ""}, Room(), None),
    ],
)
def test_the_predefined_rules_say_what_they_should(
    event: dict[str, Any], room: Room, expected: tuple[str, bool, bool] | None
) -> None:
    found = verdict(event, room=room)
    assert found == (None if expected is None else (f"{expected[0]}", *expected[1:]))


def test_the_room_is_asked_only_where_a_rule_asks() -> None:
    room = Room()
    assert verdict({**message(), "type": "m.reaction"}, room=room) == ("reaction", False, False)
    assert room.asked == ["name"], "nothing is counted for what is suppressed"
