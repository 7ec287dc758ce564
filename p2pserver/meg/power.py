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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from p2pserver.events.canonical import INTEGER_MAX
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import are_user_ids, is_user_id
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

_SINGLE_LEVELS: Final = frozenset(DEFAULTS)
_INTEGER_ONLY: Final = frozenset((int,))
_NOTHING: Final[Mapping[str, Any]] = {}
NOBODY: Final = frozenset[str]()

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
class Creators:
    """Who made a room, and whether that puts them above all levels (12)."""

    users: frozenset[str]
    privileged: bool

    @classmethod
    def of(cls, create: Pdu | None) -> Creators:
        return cls(NOBODY, False) if create is None else cls(creators_of(create), create.rules.creators_privileged)


@dataclass(slots=True)
class LevelTables:
    """What the content of a power levels event sets, read once; nothing but integers. Not to be changed.

    What is no level is left out. `fault` says what is not an integer, or not a user ID, where version 10 and later want
    one.
    """

    singles: Mapping[str, int]
    events: Mapping[str, int]
    notifications: Mapping[str, int]
    users: Mapping[str, int]
    fault: str | None

    @classmethod
    def of(cls, event: Pdu) -> LevelTables:
        content = event.content if event.rules.integer_levels else readable_levels(event.content)
        faults: list[str] = []
        singles = events = notifications = users = _NOTHING
        if not _SINGLE_LEVELS.isdisjoint(content):
            singles = _integers_of("the content", {name: content[name] for name in DEFAULTS if name in content}, faults)
        if "events" in content:
            events = _integers_of("events", content["events"], faults)
        if "notifications" in content:
            notifications = _integers_of("notifications", content["notifications"], faults)
        if "users" in content:
            users = _integers_of("users", content["users"], faults)
        if not faults and event.rules.integer_levels and not are_user_ids(users):
            faults.append("a key of users is not a user ID")
        return cls(singles, events, notifications, users, faults[0] if faults else None)

    @property
    def entries(self) -> int:
        return len(self.events) + len(self.notifications) + len(self.users)

    def single(self, name: str) -> int:
        level = self.singles.get(name)
        return DEFAULTS[name] if level is None else level


def _integers_of(name: str, table: object, faults: list[str]) -> Mapping[str, int]:
    if not (type(table) is dict or isinstance(table, Mapping)):
        faults.append(f"{name} is not an object of integers")
        return _NOTHING
    if _INTEGER_ONLY.issuperset(map(type, table.values())):
        return table
    integers = {key: level for key, level in table.items() if is_integer(level)}
    if len(integers) < len(table):
        faults.append(f"{name} has a level that is not an integer")
    return integers


@dataclass(slots=True)
class PowerLevels:
    """The power levels of one state of a room. Made by `PowerLevels.of`; looking up a level is O(1). Not to be changed.

    Values that are no levels count as missing: from version 10 on an accepted event has none.
    """

    tables: LevelTables
    creators: frozenset[str]
    """The users whose power this state's event cannot change: all creators (12), or the creator of a room that has no
    power levels event."""
    creator_level: Level

    @classmethod
    def of(cls, create: Pdu | None, power_levels: Pdu | None) -> PowerLevels:
        """The levels that a power levels event sets, or the defaults where there is none.

        `create` may be missing only where events of a damaged auth chain are compared; nobody is a creator then.
        """
        return cls.by(None if power_levels is None else LevelTables.of(power_levels), Creators.of(create))

    @classmethod
    def by(cls, tables: LevelTables | None, creators: Creators) -> PowerLevels:
        """`of`, for who has read the events."""
        if creators.privileged:
            return cls(tables or DEFAULT_LEVELS, creators.users, CREATOR_LEVEL)
        return cls(tables or DEFAULT_LEVELS, creators.users if tables is None else NOBODY, CREATOR_LEVEL_BEFORE_12)

    def of_user(self, user_id: str) -> Level:
        if user_id in self.creators:
            return self.creator_level
        level = self.tables.users.get(user_id)
        return self.tables.single("users_default") if level is None else level

    def needed_for(self, event_type: str, is_state: bool) -> int:
        """The required power level of an event type."""
        level = self.tables.events.get(event_type)
        return self.tables.single("state_default" if is_state else "events_default") if level is None else level

    @property
    def invite(self) -> int:
        return self.tables.single("invite")

    @property
    def kick(self) -> int:
        return self.tables.single("kick")

    @property
    def ban(self) -> int:
        return self.tables.single("ban")

    @property
    def redact(self) -> int:
        return self.tables.single("redact")

    def may_redact(self, user_id: str) -> bool:
        """Whether the user may redact events of others ("Handling redactions"; the auth rules do not ask this)."""
        return self.of_user(user_id) >= self.redact


DEFAULT_LEVELS: Final = LevelTables(_NOTHING, _NOTHING, _NOTHING, _NOTHING, None)
"""Of a room without a power levels event."""


def check_power_levels(event: Pdu, proposed: LevelTables, current: Pdu | None, power: PowerLevels) -> None:
    """The rule about `m.room.power_levels` events; `proposed` is what the event sets, `power` what `current` does.

    Raises: NotAllowed.
    """
    if event.rules.integer_levels:
        check_types(proposed)
    else:
        check_readable_users(event)
    if event.rules.creators_privileged and not proposed.users.keys().isdisjoint(power.creators):
        raise NotAllowed("a creator of the room has an entry in users")
    if current is None:
        return
    level = power.of_user(event.sender)
    if event.rules.integer_levels:
        check_change(power.tables, proposed, event.sender, level)
    else:
        check_readable_change(current.content, event.content, event.sender, level, event.rules)


def check_types(proposed: LevelTables) -> None:
    """Integers where integers belong, user IDs as the keys of `users` (room version 10 and later).

    Raises: NotAllowed.
    """
    if proposed.fault is not None:
        raise NotAllowed(proposed.fault)


def check_readable_users(event: Pdu) -> None:
    """All that versions before 10 ask of the types, where there is nothing to compare with: `users` can be read.

    Raises: NotAllowed.
    """
    users = event.content.get("users", {})
    if not isinstance(users, Mapping) or not all(map(is_user_id, users)):
        raise NotAllowed("users is not an object with user IDs as keys")
    if any(readable_level(level) is None for level in users.values()):
        raise NotAllowed("a level in users is not a number")


def check_change(old: LevelTables, new: LevelTables, sender: str, level: Level) -> None:
    """Nobody gives or takes more than he has: each altered value must not be above the sender's level, before or after.

    Raises: NotAllowed.
    """
    if old.singles != new.singles:
        for name in DEFAULTS:
            _check_entry("", name, old.singles.get(name), new.singles.get(name), level)
    if old.events != new.events:
        _check_table("events", old.events, new.events, level)
    if old.notifications != new.notifications:
        _check_table("notifications", old.notifications, new.notifications, level)
    if old.users != new.users:
        for user_id in _check_table("users", old.users, new.users, level):
            if user_id != sender and old.users.get(user_id, -math.inf) >= level:
                raise NotAllowed(f"{user_id} has a power level that is not below the sender's")


def _check_table(table: str, before: Mapping[str, int], after: Mapping[str, int], level: Level) -> list[str]:
    """The names whose levels differ."""
    names = [name for name, becomes in after.items() if before.get(name) != becomes]
    if not before.keys() <= after.keys():
        names += [name for name in before if name not in after]
    names.sort()
    for name in names:
        _check_entry(table, name, before.get(name), after.get(name), level)
    return names


def check_readable_change(
    old: Mapping[str, Any], new: Mapping[str, Any], sender: str, level: Level, rules: RoomVersionRules
) -> None:
    """The same before version 10. All values that are compared must be readable as levels.

    Raises: NotAllowed.
    """
    for name in DEFAULTS:
        _check_entry("", name, _readable(old, name), _readable(new, name), level)
    for table in ("events", "notifications", "users") if rules.notifications_limited else ("events", "users"):
        before, after = _readable_table(old, table), _readable_table(new, table)
        for name in sorted(before.keys() | after.keys()):
            was, becomes = _readable(before, name), _readable(after, name)
            _check_entry(table, name, was, becomes, level)
            if table == "users" and name != sender and was is not None and was != becomes and was >= level:
                raise NotAllowed(f"{name} has a power level that is not below the sender's")


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if type(table) is dict or isinstance(table, Mapping) else {}


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


def _check_entry(table: str, name: str, was: int | None, becomes: int | None, level: Level) -> None:
    """`table` is "" for a single level."""
    if was == becomes:
        return
    if was is not None and was > level:
        raise NotAllowed(f"{_spelled(table, name)} is set higher than the sender's power level")
    if becomes is not None and becomes > level:
        raise NotAllowed(f"{_spelled(table, name)} would be higher than the sender's power level")


def _spelled(table: str, name: str) -> str:
    return f"{table}: {name}" if table else name
