"""What the auth rules read of an event's content, and what of that a redaction takes.

The redacted form of an event has the same ID, and mostly the same effect: redaction keeps what the auth rules need. Not
everywhere: before version 11 it takes the `invite` level, third-party invites, `m.federate` and the room version, and
in every version the levels of notifications and the keys of an invite by a third party. Two nodes that judge by
different copies of such an event come to different verdicts.

Source: "Redactions" and "Authorization rules" of each room version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact_content
from p2pserver.events.versions import RoomVersionRules

READ: Final[Mapping[str, tuple[str, ...]]] = {
    "m.room.create": ("room_version", "creator", "m.federate", "additional_creators"),
    "m.room.member": ("membership", "join_authorised_via_users_server", "third_party_invite"),
    "m.room.join_rules": ("join_rule", "allow"),
    "m.room.power_levels": (
        "ban",
        "events",
        "events_default",
        "invite",
        "kick",
        "notifications",
        "redact",
        "state_default",
        "users",
        "users_default",
    ),
    "m.room.third_party_invite": ("public_key", "public_keys"),
}
"""By event type, the keys of the content on which a verdict can depend."""


def redaction_takes_permissions(event: Pdu) -> bool:
    """Whether the redacted form of this event would be judged otherwise, or others by it."""
    if event.type == "m.room.redaction":
        return event.rules.redactions_authorized and "redacts" in event.raw
    keys = READ.get(event.type)
    if keys is None:
        return False
    kept = redact_content(event.type, dict(event.content), event.rules)
    return any(_read(event.content, key) != _read(kept, key) for key in keys)


def may_lack_permissions(event: Pdu) -> bool:
    """Whether the genuine copy of an event, of which only the redacted form is held, may be judged otherwise."""
    rules = event.rules
    if event.type == "m.room.redaction":
        return rules.redactions_authorized
    return not set(READ.get(event.type, ())) <= _kept(event.type, rules)


def _kept(event_type: str, rules: RoomVersionRules) -> set[str]:
    kept = set(rules.redaction.content.get(event_type, ()))
    if event_type == "m.room.create" and rules.redaction.whole_create:
        kept.update(READ[event_type])
    if not rules.creators_privileged:
        kept.add("additional_creators")
    if event_type == "m.room.member" and rules.redaction.signed_invite:
        kept.add("third_party_invite")
    if not rules.restricted_joins:
        kept.update(("join_authorised_via_users_server", "allow"))
    return kept


def _read(content: Mapping[str, Any], key: str) -> Any:
    value = content.get(key)
    if key == "third_party_invite":
        return value.get("signed") if isinstance(value, Mapping) else None
    return value
