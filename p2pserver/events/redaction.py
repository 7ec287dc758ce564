"""The redaction algorithm: what of an event its signature and its ID protect.

Source: specification, "Redactions" of each room version; what they keep is data in `versions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.events.versions import RoomVersionRules


def redact(raw: Mapping[str, Any], rules: RoomVersionRules) -> dict[str, Any]:
    """The redacted form of an event, without `unsigned`; values are shared with `raw`, which is not changed."""
    kept = rules.redaction.top_level
    redacted = dict(raw) if kept.issuperset(raw) else {key: value for key, value in raw.items() if key in kept}
    redacted["content"] = redact_content(raw.get("type"), raw.get("content"), rules)
    return redacted


def redact_content(event_type: object, content: object, rules: RoomVersionRules) -> dict[str, Any]:
    """What remains of the content of an event of this type."""
    if not isinstance(content, dict) or not isinstance(event_type, str):
        return {}
    redaction = rules.redaction
    if redaction.whole_create and event_type == "m.room.create":
        return dict(content)
    names = redaction.content.get(event_type)
    if names is None:
        return {}
    kept = {key: content[key] for key in names if key in content}
    if redaction.signed_invite and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            kept["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}
    return kept
