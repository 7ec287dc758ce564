"""`POST /rooms/{roomId}/upgrade`: the new room, and what local users keep about the old one.

Source: client-server API, "Room Upgrades".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.member_events import profile_content
from p2pserver.client_api.room_access import require_joined
from p2pserver.errors import InvalidParam
from p2pserver.events.versions import rules_of
from p2pserver.http_api.body_fields import optional_list, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id
from p2pserver.store.account_data import get_account_data, put_account_data
from p2pserver.store.own_rooms import local_members
from p2pserver.store.tx import Tx

routes = Routes()

CREATORS_MAX = 100


@routes.route("POST", "/rooms/{room_id}/upgrade")
async def upgrade_room(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, user_id = request.params["room_id"], request.requester.user_id
    version = required_string(request.body, "new_version")
    rules_of(version)
    creators = optional_list(request.body, "additional_creators")
    if len(creators) > CREATORS_MAX or not all(is_user_id(creator) for creator in creators):
        raise InvalidParam(f"additional_creators is not a list of at most {CREATORS_MAX} user IDs")

    def unit(tx: Tx) -> str:
        require_joined(tx, user_id, room_id)
        new_id = api.rooms.upgrade(
            tx,
            room_id=room_id,
            user_id=user_id,
            version=version,
            additional_creators=creators,
            user_profile=profile_content(api, tx, user_id),
        )
        for member in local_members(tx, room_id):
            carry_over(tx, member, room_id, new_id)
        return new_id

    return {"replacement_room": await api.database.write(unit)}


def carry_over(tx: Tx, user_id: str, room_id: str, new_id: str) -> None:
    """A local member's tags, direct chats and push rule of the old room, for the new one too."""
    tags = get_account_data(tx, user_id, room_id, "m.tag")
    if tags is not None:
        put_account_data(tx, user_id, new_id, "m.tag", tags)
    direct = get_account_data(tx, user_id, None, "m.direct") or {}
    changed = {
        other: [*rooms, new_id] for other, rooms in direct.items() if isinstance(rooms, list) and room_id in rooms
    }
    if changed:
        put_account_data(tx, user_id, None, "m.direct", {**direct, **changed})
    rules = get_account_data(tx, user_id, None, "m.push_rules") or {}
    of_rooms = rules.get("global", {}).get("room", [])
    copies = [{**rule, "rule_id": new_id} for rule in of_rooms if rule.get("rule_id") == room_id]
    if copies:
        content = {**rules, "global": {**rules["global"], "room": [*copies, *of_rooms]}}
        put_account_data(tx, user_id, None, "m.push_rules", content)
