"""Room versions as data, each a small step from the one before.

Source: specification, "Room Versions"; MSC4289, MSC4291, MSC4297 (version 12).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from p2pserver.errors import UnsupportedRoomVersion


class StateRes(Enum):
    """The state resolution algorithm of a room version."""

    V2 = "v2"
    V2_1 = "v2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomVersionRules:
    """What differs between room versions, by the name of the thing that differs."""

    version: str
    state_res: StateRes
    creator_in_content: bool
    """`m.room.create` must carry `content.creator`; from version 11 the sender is the creator."""
    redacts_in_content: bool
    """`m.room.redaction` names its target in `content.redacts`, not at the top level (11)."""
    redaction_cleaned: bool
    """The redaction algorithm of version 11: all of create is kept, `origin`, `membership`, `prev_state` are not."""
    room_id_is_create_hash: bool
    """The room ID is `!` + the create event's reference hash; create has no `room_id`; nobody cites it (12)."""
    creators_privileged: bool
    """Creators have infinite power and may not be listed in `power_levels.users` (12)."""


V10 = RoomVersionRules(
    version="10",
    state_res=StateRes.V2,
    creator_in_content=True,
    redacts_in_content=False,
    redaction_cleaned=False,
    room_id_is_create_hash=False,
    creators_privileged=False,
)
V11 = replace(V10, version="11", creator_in_content=False, redacts_in_content=True, redaction_cleaned=True)
V12 = replace(V11, version="12", state_res=StateRes.V2_1, room_id_is_create_hash=True, creators_privileged=True)

ROOM_VERSIONS: dict[str, RoomVersionRules] = {rules.version: rules for rules in (V10, V11, V12)}
DEFAULT_ROOM_VERSION = "12"


def rules_of(version: str) -> RoomVersionRules:
    """The rules of a room version.

    Raises: UnsupportedRoomVersion; nothing is ever guessed about a version that is not in the table.
    """
    rules = ROOM_VERSIONS.get(version)
    if rules is None:
        raise UnsupportedRoomVersion(f"room version {version!r} is not supported here")
    return rules
