"""The push rules that every account starts with. They are kept as the account data type `m.push_rules`.

Source: client-server API, "Push Rules: Predefined Rules". Rules about mentions come in both forms, since clients that
write no `m.mentions` are still in use.
"""

from __future__ import annotations

from typing import Any

KINDS = ("override", "content", "room", "sender", "underride")
"""In the order in which they are tried."""

_SOUND = {"set_tweak": "sound", "value": "default"}
_RING = {"set_tweak": "sound", "value": "ring"}
_HIGHLIGHT = {"set_tweak": "highlight"}
_TWO_MEMBERS = {"kind": "room_member_count", "is": "2"}
_MAY_NOTIFY_ROOM = {"kind": "sender_notification_permission", "key": "room"}


def default_push_rules(user_id: str) -> dict[str, Any]:
    """The content of `m.push_rules` for a new account: `{"global": {kind: [rule, …]}}`, each in order of priority."""
    localpart = user_id[1:].partition(":")[0]
    return {
        "global": {
            "override": [
                _rule("master", [], [], enabled=False),
                _rule("suppress_notices", [_match("content.msgtype", "m.notice")], []),
                _rule(
                    "invite_for_me",
                    [
                        _match("type", "m.room.member"),
                        _match("content.membership", "invite"),
                        _match("state_key", user_id),
                    ],
                    ["notify", _SOUND],
                ),
                _rule("member_event", [_match("type", "m.room.member")], []),
                _rule(
                    "is_user_mention",
                    [{"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id}],
                    ["notify", _SOUND, _HIGHLIGHT],
                ),
                _rule("contains_display_name", [{"kind": "contains_display_name"}], ["notify", _SOUND, _HIGHLIGHT]),
                _rule(
                    "is_room_mention",
                    [
                        {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                        _MAY_NOTIFY_ROOM,
                    ],
                    ["notify", _HIGHLIGHT],
                ),
                _rule("roomnotif", [_match("content.body", "@room"), _MAY_NOTIFY_ROOM], ["notify", _HIGHLIGHT]),
                _rule(
                    "tombstone", [_match("type", "m.room.tombstone"), _match("state_key", "")], ["notify", _HIGHLIGHT]
                ),
                _rule("reaction", [_match("type", "m.reaction")], []),
                _rule("room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")], []),
                _rule(
                    "suppress_edits",
                    [
                        {
                            "kind": "event_property_is",
                            "key": r"content.m\.relates_to.rel_type",
                            "value": "m.replace",
                        }
                    ],
                    [],
                ),
            ],
            "content": [
                {
                    "rule_id": ".m.rule.contains_user_name",
                    "default": True,
                    "enabled": True,
                    "pattern": localpart,
                    "actions": ["notify", _SOUND, _HIGHLIGHT],
                }
            ],
            "room": [],
            "sender": [],
            "underride": [
                _rule("call", [_match("type", "m.call.invite")], ["notify", _RING]),
                _rule(
                    "encrypted_room_one_to_one", [_TWO_MEMBERS, _match("type", "m.room.encrypted")], ["notify", _SOUND]
                ),
                _rule("room_one_to_one", [_TWO_MEMBERS, _match("type", "m.room.message")], ["notify", _SOUND]),
                _rule("message", [_match("type", "m.room.message")], ["notify"]),
                _rule("encrypted", [_match("type", "m.room.encrypted")], ["notify"]),
            ],
        }
    }


def _match(key: str, pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(name: str, conditions: list[Any], actions: list[Any], *, enabled: bool = True) -> dict[str, Any]:
    return {
        "rule_id": f".m.rule.{name}",
        "default": True,
        "enabled": enabled,
        "conditions": conditions,
        "actions": actions,
    }
