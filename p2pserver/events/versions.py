"""Room versions as data, each a small step from the one before.

Source: specification, "Room Versions"; MSC4289, MSC4291, MSC4297 (version 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from p2pserver.errors import UnsupportedRoomVersion


class StateRes(Enum):
    """The state resolution algorithm of a room version."""

    V1 = "v1"
    V2 = "v2"
    V2_1 = "v2.1"


class EventIds(Enum):
    """How an event gets its ID, and so how events name each other."""

    CHOSEN = "$opaque:server"
    """By its author; the event carries it, and others cite it as `[ID, {"sha256": reference hash}]` (versions 1, 2)."""
    HASH = "$hash"
    """The reference hash in standard base64, with `/` and `+` (version 3)."""
    HASH_URL_SAFE = "$hash, URL-safe"
    """The reference hash in URL-safe base64 (version 4 and later)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RedactionRules:
    """What the redaction algorithm leaves of an event."""

    top_level: frozenset[str]
    content: Mapping[str, tuple[str, ...]]
    """Of each event type that keeps some of its content, which keys."""
    whole_create: bool
    """All content of `m.room.create` stays."""
    signed_invite: bool
    """`signed` of a third-party invite in `m.room.member` stays."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoomVersionRules:
    """What differs between room versions, by the name of the thing that differs. There is one instance per version."""

    version: str
    event_ids: EventIds
    state_res: StateRes
    redaction: RedactionRules
    strict_json: bool
    """Events hold only what canonical JSON can express; before, floats and integers of up to 64 bits too (6)."""
    key_validity: bool
    """A key counts only if it was valid at the event's `origin_server_ts` (5)."""
    redactions_authorized: bool
    """The auth rules say who may redact; from version 3 on that is asked when a redaction is applied."""
    aliases_authorized: bool
    """Any server may set the `m.room.aliases` of its own name, whatever the levels (until 5)."""
    notifications_limited: bool
    """Nobody may set a level in `power_levels.notifications` that is above his own (6)."""
    join_rules: frozenset[str]
    """The values of `join_rule` by which somebody can become a member."""
    integer_levels: bool
    """A power level is an integer; before, whatever Python's `int` makes one of (10)."""
    creator_in_content: bool
    """`m.room.create` must carry `content.creator`; from version 11 the sender is the creator."""
    redacts_in_content: bool
    """`m.room.redaction` names its target in `content.redacts`, not at the top level (11)."""
    room_id_is_create_hash: bool
    """The room ID is `!` + the create event's reference hash; create has no `room_id`; nobody cites it (12)."""
    creators_privileged: bool
    """Creators have infinite power and may not be listed in `power_levels.users` (12)."""

    @property
    def redaction_cleaned(self) -> bool:
        """The redaction algorithm of version 11: nothing that the auth rules read is lost."""
        return self.redaction.whole_create

    @property
    def knocking(self) -> bool:
        """The membership `knock` exists (7)."""
        return "knock" in self.join_rules

    @property
    def restricted_joins(self) -> bool:
        """A member's server can let somebody in who is not invited, and signs for it (8)."""
        return "restricted" in self.join_rules


_REDACTION_1 = RedactionRules(
    top_level=frozenset(
        {
            "event_id",
            "type",
            "room_id",
            "sender",
            "state_key",
            "content",
            "hashes",
            "signatures",
            "depth",
            "prev_events",
            "prev_state",
            "auth_events",
            "origin",
            "origin_server_ts",
            "membership",
        }
    ),
    content={
        "m.room.member": ("membership",),
        "m.room.create": ("creator",),
        "m.room.join_rules": ("join_rule",),
        "m.room.power_levels": (
            "ban",
            "events",
            "events_default",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
        ),
        "m.room.aliases": ("aliases",),
        "m.room.history_visibility": ("history_visibility",),
    },
    whole_create=False,
    signed_invite=False,
)
_REDACTION_6 = replace(
    _REDACTION_1, content={kind: keys for kind, keys in _REDACTION_1.content.items() if kind != "m.room.aliases"}
)
_REDACTION_8 = replace(_REDACTION_6, content={**_REDACTION_6.content, "m.room.join_rules": ("join_rule", "allow")})
_REDACTION_9 = replace(
    _REDACTION_8,
    content={**_REDACTION_8.content, "m.room.member": ("membership", "join_authorised_via_users_server")},
)
_REDACTION_11 = RedactionRules(
    top_level=_REDACTION_9.top_level - {"origin", "membership", "prev_state"},
    content={
        **_REDACTION_9.content,
        "m.room.power_levels": (*_REDACTION_9.content["m.room.power_levels"], "invite"),
        "m.room.redaction": ("redacts",),
    },
    whole_create=True,
    signed_invite=True,
)

V1 = RoomVersionRules(
    version="1",
    event_ids=EventIds.CHOSEN,
    state_res=StateRes.V1,
    redaction=_REDACTION_1,
    strict_json=False,
    key_validity=False,
    redactions_authorized=True,
    aliases_authorized=True,
    notifications_limited=False,
    join_rules=frozenset({"public", "invite"}),
    integer_levels=False,
    creator_in_content=True,
    redacts_in_content=False,
    room_id_is_create_hash=False,
    creators_privileged=False,
)
V2 = replace(V1, version="2", state_res=StateRes.V2)
V3 = replace(V2, version="3", event_ids=EventIds.HASH, redactions_authorized=False)
V4 = replace(V3, version="4", event_ids=EventIds.HASH_URL_SAFE)
V5 = replace(V4, version="5", key_validity=True)
V6 = replace(
    V5, version="6", strict_json=True, aliases_authorized=False, notifications_limited=True, redaction=_REDACTION_6
)
V7 = replace(V6, version="7", join_rules=V6.join_rules | {"knock"})
V8 = replace(V7, version="8", join_rules=V7.join_rules | {"restricted"}, redaction=_REDACTION_8)
V9 = replace(V8, version="9", redaction=_REDACTION_9)
V10 = replace(V9, version="10", join_rules=V9.join_rules | {"knock_restricted"}, integer_levels=True)
V11 = replace(V10, version="11", creator_in_content=False, redacts_in_content=True, redaction=_REDACTION_11)
V12 = replace(V11, version="12", state_res=StateRes.V2_1, room_id_is_create_hash=True, creators_privileged=True)

ROOM_VERSIONS: dict[str, RoomVersionRules] = {
    rules.version: rules for rules in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
}
DEFAULT_ROOM_VERSION = "12"


def rules_of(version: str) -> RoomVersionRules:
    """The rules of a room version.

    Raises: UnsupportedRoomVersion; nothing is ever guessed about a version that is not in the table.
    """
    rules = ROOM_VERSIONS.get(version)
    if rules is None:
        raise UnsupportedRoomVersion(f"room version {version!r} is not supported here")
    return rules
