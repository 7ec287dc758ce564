"""Power levels: who may do what, and which changes to them are allowed.

Before version 10 a level may also be what Python's `int` makes an integer of, because the first server did so: a float
(cut off at the point), `true`, a string of digits with a sign, white space around and single underscores between them.
Only ASCII counts in strings, so that the answer does not depend on the version of Unicode.

Source: room versions 1 to 12, "Authorization rules" (rule 9 or 10 of each); client-server API, `m.room.power_levels`;
room version 1, "`m.room.power_levels` events accept values as strings".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from p2pserver.events.canonical import INTEGER_MAX
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import is_user_id
from p2pserver.meg.state import NotAllowed

Level: TypeAlias = int | float
"""A user's power: an integer, or `CREATOR_LEVEL`. Totally ordered; a creator is above every integer, not above another
creator."""

CREATOR_LEVEL: Final[Level] = math.inf
CREATOR_LEVEL_BEFORE_12: Final = 100
"""What the creator has in rooms before version 12 as long as there is no power levels event."""

DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
"""The value of each single level where the event, or its property, is missing."""


_DIGITS = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+(?:_[0-9]+)*)[ \t\n\r\v\f]*")
_DIGITS_MAX: Final = 4_000
"""Python refuses to read integers of more than 4,300."""


def is_integer(value: object) -> bool:
    """Whether a JSON value is an integer: `true` is not, although Python calls it an `int`."""
    return type(value) is int


def readable_level(value: object) -> int | None:
    """What a value is as a level before version 10; None, if it is none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    if isinstance(value, str):
        digits = _DIGITS.fullmatch(value)
        return int(digits[1]) if digits is not None and len(value) <= _DIGITS_MAX else None
    return None


def as_integers(content: Mapping[str, Any]) -> dict[str, Any]:
    """A power levels content of any version with nothing but integers where levels belong, for a room of any version.

    What cannot be read as a level, and what is no user ID in `users`, is left out.
    """
    levels = {name: readable_level(content[name]) for name in DEFAULTS if name in content}
    tables = {
        name: {key: readable_level(level) for key, level in _table(content, name).items()}
        for name in ("users", "events", "notifications")
        if name in content
    }
    others = {key: value for key, value in content.items() if key not in levels and key not in tables}
    kept = {
        name: {
            key: level
            for key, level in table.items()
            if _is_json_integer(level) and (name != "users" or is_user_id(key))
        }
        for name, table in tables.items()
    }
    return {**others, **{name: level for name, level in levels.items() if _is_json_integer(level)}, **kept}


def _is_json_integer(level: int | None) -> bool:
    return level is not None and -INTEGER_MAX <= level <= INTEGER_MAX


def readable_levels(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a power levels event before version 10, with integers for what can be read as one."""
    return {
        **{name: readable_level(content[name]) for name in DEFAULTS if name in content},
        **{
            name: {key: readable_level(value) for key, value in _table(content, name).items()}
            for name in ("users", "events")
        },
    }


def creators_of(create: Pdu) -> frozenset[str]:
    """The room's creators: one user before version 12; from then on the sender and `additional_creators`."""
    if create.rules.creator_in_content:
        creator = create.content.get("creator")
        return frozenset((creator,)) if isinstance(creator, str) else frozenset()
    if not create.rules.creators_privileged:
        return frozenset((create.sender,))
    additional = create.content.get("additional_creators")
    listed = [user for user in additional if isinstance(user, str)] if isinstance(additional, list) else []
    return frozenset((create.sender, *listed))


@dataclass(frozen=True, slots=True)
class PowerLevels:
    """The power levels of one state of a room. Made by `PowerLevels.of`; looking up a level is O(1).

    Values that are no levels count as missing: from version 10 on an accepted event has none.
    """

    content: Mapping[str, Any]
    users: Mapping[str, Any]
    events: Mapping[str, Any]
    creators: frozenset[str]
    """The users whose power this state's event cannot change: all creators (12), or the creator of a room that has no
    power levels event."""
    creator_level: Level

    @classmethod
    def of(cls, create: Pdu | None, power_levels: Pdu | None) -> PowerLevels:
        """The levels that a power levels event sets, or the defaults where there is none.

        `create` may be missing only where events of a damaged auth chain are compared; nobody is a creator then.
        """
        content = {} if power_levels is None else power_levels.content
        if power_levels is not None and not power_levels.rules.integer_levels:
            content = readable_levels(content)
        users = content.get("users")
        events = content.get("events")
        privileged = create is not None and create.rules.creators_privileged
        return cls(
            content=content,
            users=users if type(users) is dict or isinstance(users, Mapping) else {},
            events=events if type(events) is dict or isinstance(events, Mapping) else {},
            creators=(
                creators_of(create) if create is not None and (privileged or power_levels is None) else frozenset()
            ),
            creator_level=CREATOR_LEVEL if privileged else CREATOR_LEVEL_BEFORE_12,
        )

    def of_user(self, user_id: str) -> Level:
        if user_id in self.creators:
            return self.creator_level
        level = self.users.get(user_id)
        return level if type(level) is int else self._single("users_default")

    def needed_for(self, event_type: str, is_state: bool) -> int:
        """The required power level of an event type."""
        level = self.events.get(event_type)
        if type(level) is int:
            return level
        return self._single("state_default" if is_state else "events_default")

    @property
    def invite(self) -> int:
        return self._single("invite")

    @property
    def kick(self) -> int:
        return self._single("kick")

    @property
    def ban(self) -> int:
        return self._single("ban")

    @property
    def redact(self) -> int:
        return self._single("redact")

    def may_redact(self, user_id: str) -> bool:
        """Whether the user may redact events of others ("Handling redactions"; the auth rules do not ask this)."""
        return self.of_user(user_id) >= self.redact

    def _single(self, name: str) -> int:
        level = self.content.get(name)
        return level if type(level) is int else DEFAULTS[name]


def check_power_levels(event: Pdu, create: Pdu, current: Pdu | None, level: Level) -> None:
    """The rule about `m.room.power_levels` events; `level` is the sender's by the `current` power levels.

    Raises: NotAllowed.
    """
    if event.rules.integer_levels:
        check_types(event)
    else:
        check_readable_users(event)
    if create.rules.creators_privileged:
        for user_id in sorted(creators_of(create)):
            if user_id in event.content.get("users", {}):
                raise NotAllowed(f"{user_id} is a creator of the room and has no entry in users")
    if current is not None:
        check_change(current.content, event.content, event.sender, level, event.rules)


def check_types(event: Pdu) -> None:
    """Integers where integers belong, user IDs as the keys of `users` (room version 10 and later).

    Raises: NotAllowed.
    """
    content = event.content
    for name in DEFAULTS:
        if name in content and not is_integer(content[name]):
            raise NotAllowed(f"{name} is not an integer")
    for name in ("events", "notifications", "users"):
        table = content.get(name, {})
        if type(table) is not dict and not isinstance(table, Mapping):
            raise NotAllowed(f"{name} is not an object of integers")
        if not all(type(level) is int for level in table.values()):
            raise NotAllowed(f"{name} is not an object of integers")
    for user_id in content.get("users", {}):
        if not is_user_id(user_id):
            raise NotAllowed("a key of users is not a user ID")


def check_readable_users(event: Pdu) -> None:
    """All that versions before 10 ask of the types, where there is nothing to compare with: `users` can be read.

    Raises: NotAllowed.
    """
    users = event.content.get("users", {})
    if not isinstance(users, Mapping) or not all(map(is_user_id, users)):
        raise NotAllowed("users is not an object with user IDs as keys")
    if any(readable_level(level) is None for level in users.values()):
        raise NotAllowed("a level in users is not a number")


def check_change(
    old: Mapping[str, Any], new: Mapping[str, Any], sender: str, level: Level, rules: RoomVersionRules
) -> None:
    """Nobody gives or takes more than he has: each altered value must not be above the sender's level, before or after.

    Before version 10, all values that are compared must be readable as levels.
    Raises: NotAllowed.
    """
    read, table_of = (_integer, _table) if rules.integer_levels else (_readable, _readable_table)
    for name in DEFAULTS:
        if rules.integer_levels and old.get(name) is new.get(name):
            continue
        _check_entry(name, read(old, name), read(new, name), level)
    for table in ("events", "notifications", "users") if rules.notifications_limited else ("events", "users"):
        before, after = table_of(old, table), table_of(new, table)
        names: Iterable[str] = before.keys() | after.keys()
        if rules.integer_levels:
            names = [
                name
                for name in names
                if before.get(name) is not after.get(name) and not _is_same_integer(before.get(name), after.get(name))
            ]
        for name in sorted(names):
            was, becomes = read(before, name), read(after, name)
            _check_entry(f"{table}: {name}", was, becomes, level)
            if table == "users" and name != sender and was is not None and was != becomes and was >= level:
                raise NotAllowed(f"{name} has a power level that is not below the sender's")


def _is_same_integer(one: object, other: object) -> bool:
    return one == other and type(one) is int and type(other) is int


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if type(table) is dict or isinstance(table, Mapping) else {}


def _integer(levels: Mapping[str, Any], name: str) -> int | None:
    value = levels.get(name)
    return value if type(value) is int else None


def _readable_table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, Mapping):
        raise NotAllowed(f"{name} is not an object")
    return table


def _readable(levels: Mapping[str, Any], name: str) -> int | None:
    if name not in levels:
        return None
    level = readable_level(levels[name])
    if level is None:
        raise NotAllowed(f"{name} is not a number")
    return level


def _check_entry(name: str, was: int | None, becomes: int | None, level: Level) -> None:
    if was == becomes:
        return
    if was is not None and was > level:
        raise NotAllowed(f"{name} is set higher than the sender's power level")
    if becomes is not None and becomes > level:
        raise NotAllowed(f"{name} would be higher than the sender's power level")
