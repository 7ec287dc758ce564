"""Push rules, compiled once for a user and held against events: whether he is to be notified, and how loudly.

Pure: what rules ask of the room comes with the event. Of each kind of rule the first that matches decides.
Source: client-server API, "Push Rules"; MSC3758, MSC3873, MSC3952, MSC3966.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from p2pserver.rooms.push_patterns import literal_words, whole_text, words

MASTER: Final = ".m.rule.master"
ONLY_WITHOUT_MENTIONS: Final = (
    ".m.rule.contains_display_name",
    ".m.rule.contains_user_name",
    ".m.rule.roomnotif",
)
"""Rules for clients that write no `m.mentions`: they do not apply to events that have it. Source: MSC3952."""
TYPES_KEPT_MAX: Final = 200

_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,9})", re.ASCII)
_COMPARE: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": int.__eq__,
    "<": int.__lt__,
    ">": int.__gt__,
    "<=": int.__le__,
    ">=": int.__ge__,
}


class RoomFacts(Protocol):
    """What rules ask about the room; asked for only where a rule does."""

    def member_count(self) -> int: ...

    def display_name(self) -> str | None:
        """Of the user whose rules they are, in the room."""

    def may_notify(self, sender: str, key: str) -> bool:
        """Whether the sender has the level that `notifications` of the power levels asks for `key`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of an event."""

    rule_id: str
    actions: tuple[Any, ...]
    notify: bool
    highlight: bool

    def tweaks(self) -> dict[str, Any]:
        """What is told to a push gateway beside the event."""
        return {
            action["set_tweak"]: action.get("value", True)
            for action in self.actions
            if isinstance(action, Mapping) and isinstance(action.get("set_tweak"), str)
        }


Event = Mapping[str, Any]
"""An event in client or federation format."""
Condition = Callable[[Event, RoomFacts], bool]


@dataclass(frozen=True, slots=True)
class _Rule:
    verdict: Verdict
    conditions: tuple[Condition, ...]
    event_type: str | None
    """The only type, in lower case, of which it can match events; None: of any."""
    without_mentions: bool


class PushRules:
    """All rules of a user that are switched on, in the order in which they are tried."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        """`content` is that of the account data `m.push_rules`. What in it is no rule is left out."""
        self._rules = list(_compile(content.get("global")))
        self._of_type: dict[str, list[_Rule]] = {}

    def judge(self, event: Event, facts: RoomFacts) -> Verdict | None:
        """What the first rule that matches says; None, if none does. Never ask about the user's own events."""
        event_type = event.get("type")
        content = event.get("content")
        mentions = isinstance(content, Mapping) and "m.mentions" in content
        for rule in self._for_type(event_type if isinstance(event_type, str) else ""):
            if rule.without_mentions and mentions:
                continue
            if all(condition(event, facts) for condition in rule.conditions):
                return rule.verdict
        return None

    def _for_type(self, event_type: str) -> list[_Rule]:
        known = self._of_type.get(event_type)
        if known is None:
            if len(self._of_type) >= TYPES_KEPT_MAX:
                self._of_type.clear()
            folded = event_type.lower()
            known = [rule for rule in self._rules if rule.event_type is None or rule.event_type == folded]
            self._of_type[event_type] = known
        return known


def _compile(rules: object) -> Iterator[_Rule]:
    if not isinstance(rules, Mapping):
        return
    yield from _conditional(sorted(_of_kind(rules, "override"), key=lambda rule: rule["rule_id"] != MASTER))
    for rule in _of_kind(rules, "content"):
        pattern = rule.get("pattern")
        if isinstance(pattern, str):
            yield _rule(rule, (_body_matches(pattern),))
    for rule in _of_kind(rules, "room"):
        yield _rule(rule, (_equals("room_id", rule["rule_id"]),))
    for rule in _of_kind(rules, "sender"):
        yield _rule(rule, (_equals("sender", rule["rule_id"]),))
    yield from _conditional(_of_kind(rules, "underride"))


def _of_kind(rules: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    of_kind = rules.get(kind)
    return [
        rule
        for rule in (of_kind if isinstance(of_kind, list) else ())
        if isinstance(rule, Mapping) and isinstance(rule.get("rule_id"), str) and rule.get("enabled", True)
    ]


def _conditional(rules: list[Mapping[str, Any]]) -> Iterator[_Rule]:
    for rule in rules:
        asked = rule.get("conditions") or []
        if not isinstance(asked, list):
            continue
        conditions = [_condition(each) for each in asked]
        if all(condition is not None for condition in conditions):
            types = [_literal_type(each) for each in asked]
            yield _rule(
                rule,
                tuple(condition for condition in conditions if condition is not None),
                event_type=next((each for each in types if each is not None), None),
            )


def _rule(rule: Mapping[str, Any], conditions: tuple[Condition, ...], *, event_type: str | None = None) -> _Rule:
    actions = rule.get("actions")
    actions = actions if isinstance(actions, list) else []
    kept = tuple(action for action in actions if action == "notify" or isinstance(action, Mapping))
    highlight = any(
        isinstance(action, Mapping) and action.get("set_tweak") == "highlight" and action.get("value", True) is True
        for action in kept
    )
    rule_id = rule["rule_id"]
    return _Rule(
        Verdict(rule_id, kept, notify="notify" in kept, highlight=highlight),
        conditions,
        event_type,
        without_mentions=rule_id in ONLY_WITHOUT_MENTIONS,
    )


# Conditions


def _condition(value: object) -> Condition | None:
    """None for one that is not known or has no sense: a rule with it never matches."""
    if not isinstance(value, Mapping):
        return None
    kind, key = value.get("kind"), value.get("key")
    match kind:
        case "event_match":
            pattern = value.get("pattern")
            return _event_match(key, pattern) if isinstance(key, str) and isinstance(pattern, str) else None
        case "event_property_is" | "event_property_contains":
            if not isinstance(key, str) or "value" not in value or not _is_plain(value["value"]):
                return None
            return (_property_is if kind == "event_property_is" else _property_contains)(key, value["value"])
        case "contains_display_name":
            return _contains_display_name
        case "room_member_count":
            return _member_count(value.get("is"))
        case "sender_notification_permission":
            return _may_notify(key) if isinstance(key, str) else None
        case _:
            return None


def _literal_type(condition: object) -> str | None:
    if isinstance(condition, Mapping) and condition.get("kind") == "event_match" and condition.get("key") == "type":
        pattern = condition.get("pattern")
        if isinstance(pattern, str) and "*" not in pattern and "?" not in pattern:
            return pattern.lower()
    return None


def path_of(key: str) -> tuple[str, ...]:
    r"""The names in a dot-separated path, in which `\.` and `\\` stand for themselves.

    Source: Matrix appendices, "Dot-separated property paths".
    """
    names, name, escaped = [], "", False
    for character in key:
        if escaped:
            name += character if character in ".\\" else "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ".":
            names.append(name)
            name = ""
        else:
            name += character
    return (*names, name + ("\\" if escaped else ""))


_ABSENT: Final = object()


def _at(event: Event, path: tuple[str, ...]) -> object:
    value: object = event
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _event_match(key: str, pattern: str) -> Condition:
    path = path_of(key)
    matches = words(pattern) if path == ("content", "body") else whole_text(pattern)

    def condition(event: Event, facts: RoomFacts) -> bool:
        value = _at(event, path)
        return isinstance(value, str) and matches(value)

    return condition


def _body_matches(pattern: str) -> Condition:
    return _event_match("content.body", pattern)


def _equals(key: str, wanted: str) -> Condition:
    return lambda event, facts: event.get(key) == wanted


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int)


def _same(one: object, other: object) -> bool:
    """Equal and of one type: `1` is not `true`."""
    return type(one) is type(other) and one == other


def _property_is(key: str, wanted: object) -> Condition:
    path = path_of(key)
    return lambda event, facts: _same(_at(event, path), wanted)


def _property_contains(key: str, wanted: object) -> Condition:
    path = path_of(key)

    def condition(event: Event, facts: RoomFacts) -> bool:
        value = _at(event, path)
        return isinstance(value, list | tuple) and any(_same(each, wanted) for each in value)

    return condition


def _contains_display_name(event: Event, facts: RoomFacts) -> bool:
    body = _at(event, ("content", "body"))
    if not isinstance(body, str):
        return False
    name = facts.display_name()
    return name is not None and name != "" and literal_words(name)(body)


def _member_count(asked: object) -> Condition | None:
    found = _COUNT.fullmatch(asked) if isinstance(asked, str) else None
    if found is None:
        return None
    compare, count = _COMPARE[found[1] or "=="], int(found[2])
    return lambda event, facts: compare(facts.member_count(), count)


def _may_notify(key: str) -> Condition:
    def condition(event: Event, facts: RoomFacts) -> bool:
        sender = event.get("sender")
        return isinstance(sender, str) and facts.may_notify(sender, key)

    return condition
