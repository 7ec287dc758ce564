"""What a new room starts with: the state events that a `/createRoom` request asks for, in the specification's order.

Source: client-server API, "Creation" (`POST /createRoom`), with MSC4289 for creators of version 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.errors import BadJson, InvalidParam, InvalidRoomState
from p2pserver.events.versions import RoomVersionRules, rules_of
from p2pserver.http_api.body_fields import (
    optional_boolean,
    optional_list,
    optional_object,
    optional_string,
)
from p2pserver.identifiers import is_user_id

INVITES_MAX = 100

StateToSet = tuple[str, str, dict[str, Any]]
"""(type, state key, content)."""

_JOIN_RULE = {"private_chat": "invite", "trusted_private_chat": "invite", "public_chat": "public"}
_GUEST_ACCESS = {"private_chat": "can_join", "trusted_private_chat": "can_join", "public_chat": "forbidden"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRequest:
    """A checked `/createRoom` body."""

    rules: RoomVersionRules
    preset: str
    published: bool
    alias_localpart: str | None
    name: str | None
    topic: str | None
    invite: tuple[str, ...]
    is_direct: bool
    creation_content: dict[str, Any]
    power_levels: dict[str, Any]
    initial_state: tuple[StateToSet, ...]

    @classmethod
    def of(cls, body: dict[str, Any], *, default_version: str) -> RoomRequest:
        """Raises: BadJson, InvalidParam, UnsupportedRoomVersion."""
        visibility = optional_string(body, "visibility") or "private"
        if visibility not in ("public", "private"):
            raise InvalidParam("visibility is neither public nor private")
        preset = optional_string(body, "preset") or ("public_chat" if visibility == "public" else "private_chat")
        if preset not in _JOIN_RULE:
            raise InvalidParam("preset is none of private_chat, trusted_private_chat, public_chat")
        if optional_list(body, "invite_3pid"):
            raise InvalidParam("third-party invites are not supported by this server")
        alias_localpart = optional_string(body, "room_alias_name")
        if alias_localpart is not None and (
            not alias_localpart or ":" in alias_localpart or any(c.isspace() for c in alias_localpart)
        ):
            raise InvalidParam("room_alias_name is not the localpart of an alias")
        return cls(
            rules=rules_of(optional_string(body, "room_version") or default_version),
            preset=preset,
            published=visibility == "public",
            alias_localpart=alias_localpart,
            name=optional_string(body, "name"),
            topic=optional_string(body, "topic"),
            invite=_invited(body),
            is_direct=optional_boolean(body, "is_direct"),
            creation_content=_creation_content(body),
            power_levels=optional_object(body, "power_level_content_override"),
            initial_state=tuple(_initial_state(body)),
        )

    def create_content(self, creator: str) -> dict[str, Any]:
        """The content of `m.room.create`, less what follows from the room version."""
        content = dict(self.creation_content)
        if self.rules.creators_privileged and self.preset == "trusted_private_chat":
            listed = content.get("additional_creators", [])
            merged = dict.fromkeys((*(listed if isinstance(listed, list) else []), *self.invite))
            merged.pop(creator, None)
            if merged:
                content["additional_creators"] = list(merged)
        return content

    def state(self, creator: str, alias: str | None) -> list[StateToSet]:
        """The state events after the creator's join, before the invites; one for each slot."""
        name = [] if self.name is None else [("m.room.name", "", {"name": self.name})]
        topic = [] if self.topic is None else [("m.room.topic", "", topic_content(self.topic))]
        set_later = {(event_type, key) for event_type, key, _ in (*self.initial_state, *name, *topic)}
        named = {(event_type, key) for event_type, key, _ in (*name, *topic)}
        first: list[StateToSet] = [("m.room.power_levels", "", self.power_levels_content(creator))]
        if alias is not None:
            first.append(("m.room.canonical_alias", "", {"alias": alias}))
        defaults: list[StateToSet] = [
            ("m.room.join_rules", "", {"join_rule": _JOIN_RULE[self.preset]}),
            ("m.room.history_visibility", "", {"history_visibility": "shared"}),
            ("m.room.guest_access", "", {"guest_access": _GUEST_ACCESS[self.preset]}),
        ]
        return [
            *first,
            *(entry for entry in defaults if entry[:2] not in set_later),
            *(entry for entry in self.initial_state if entry[:2] not in named),
            *name,
            *topic,
        ]

    def power_levels_content(self, creator: str) -> dict[str, Any]:
        """The default power levels with the request's override on top."""
        users: dict[str, int] = {}
        if not self.rules.creators_privileged:
            users[creator] = 100
            if self.preset == "trusted_private_chat":
                users.update(dict.fromkeys(self.invite, 100))
        content: dict[str, Any] = {
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.name": 50,
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.power_levels": 100,
                "m.room.history_visibility": 100,
                "m.room.server_acl": 100,
                "m.room.encryption": 100,
                "m.room.tombstone": 150 if self.rules.creators_privileged else 100,
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": 0 if self.preset != "public_chat" else 50,
            **self.power_levels,
        }
        if self.rules.creators_privileged and isinstance(content["users"], dict):
            creators = {creator, *self.create_content(creator).get("additional_creators", ())}
            if creators & content["users"].keys():
                raise InvalidRoomState("the creators of a room of this version are not listed in its power levels")
        return content


def topic_content(topic: str) -> dict[str, Any]:
    """The content of `m.room.topic` for a plain text. Source: client-server API v1.15, `m.room.topic`; MSC3765."""
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic}]}}


def _invited(body: dict[str, Any]) -> tuple[str, ...]:
    invited = optional_list(body, "invite")
    if not all(is_user_id(user_id) for user_id in invited):
        raise InvalidParam("invite holds something that is no user ID")
    if len(invited) > INVITES_MAX:
        raise InvalidParam(f"more than {INVITES_MAX} invites at once")
    return tuple(dict.fromkeys(invited))


def _creation_content(body: dict[str, Any]) -> dict[str, Any]:
    content = optional_object(body, "creation_content")
    additional = content.get("additional_creators", [])
    if not isinstance(additional, list) or not all(is_user_id(user_id) for user_id in additional):
        raise InvalidParam("additional_creators is not a list of user IDs")
    return {key: value for key, value in content.items() if key not in ("creator", "room_version")}


def _initial_state(body: dict[str, Any]) -> Sequence[StateToSet]:
    found: dict[tuple[str, str], StateToSet] = {}
    for entry in optional_list(body, "initial_state"):
        if not isinstance(entry, dict):
            raise BadJson("initial_state holds something that is no object")
        event_type, state_key, content = entry.get("type"), entry.get("state_key", ""), entry.get("content")
        if not isinstance(event_type, str) or not isinstance(state_key, str) or not isinstance(content, dict):
            raise BadJson("an entry of initial_state lacks type, state_key or content")
        found.pop((event_type, state_key), None)
        found[event_type, state_key] = (event_type, state_key, content)
    return list(found.values())
