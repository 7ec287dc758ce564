"""The redaction algorithm: what of an event its signature and its ID protect.

Source: specification, "Redactions" of room versions 9 (kept by 10) and 11 (kept by 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.events.versions import RoomVersionRules

_KEPT = frozenset(
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
        "auth_events",
        "origin_server_ts",
    }
)
_KEPT_V10 = _KEPT | {"origin", "membership", "prev_state"}

_CONTENT_KEPT_V10: dict[str, tuple[str, ...]] = {
    "m.room.member": ("membership", "join_authorised_via_users_server"),
    "m.room.create": ("creator",),
    "m.room.join_rules": ("join_rule", "allow"),
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
    "m.room.history_visibility": ("history_visibility",),
}
_CONTENT_KEPT_V11: dict[str, tuple[str, ...]] = {
    **_CONTENT_KEPT_V10,
    "m.room.power_levels": (*_CONTENT_KEPT_V10["m.room.power_levels"], "invite"),
    "m.room.redaction": ("redacts",),
}


def redact(raw: Mapping[str, Any], rules: RoomVersionRules) -> dict[str, Any]:
    """The redacted form of an event, without `unsigned`; values are shared with `raw`, which is not changed."""
    kept = _KEPT if rules.redaction_cleaned else _KEPT_V10
    redacted = {key: value for key, value in raw.items() if key in kept}
    redacted["content"] = redact_content(raw.get("type"), raw.get("content"), rules)
    return redacted


def redact_content(event_type: object, content: object, rules: RoomVersionRules) -> dict[str, Any]:
    """What remains of the content of an event of this type."""
    if not isinstance(content, dict) or not isinstance(event_type, str):
        return {}
    if not rules.redaction_cleaned:
        return {key: content[key] for key in _CONTENT_KEPT_V10.get(event_type, ()) if key in content}
    if event_type == "m.room.create":
        return dict(content)
    kept = {key: content[key] for key in _CONTENT_KEPT_V11.get(event_type, ()) if key in content}
    if event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            kept["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}
    return kept
