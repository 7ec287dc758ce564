"""What locked, suspended and shadow-banned accounts get to do: by route, before any handler runs.

Source: client-server API, "Account locking", "Account suspension". A shadow ban is not in the specification: who is
banned is answered as ever, and what he says goes nowhere, so that he does not come back under another name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from p2pserver.errors import UserLocked, UserSuspended
from p2pserver.http_api.routing import ApiRequest, Match, Route
from p2pserver.store.events import pdu
from p2pserver.store.own_rooms import is_joined
from p2pserver.store.tokens import TokenOwner

if TYPE_CHECKING:
    from p2pserver.client_api.app import ClientApi

LOCKED_MAY = {("POST", "/logout"), ("POST", "/logout/all")}

_REDACT = ("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}")
_CREATE = ("POST", "/createRoom")
_UPGRADE = ("POST", "/rooms/{room_id}/upgrade")
_EVENTS = {
    _REDACT,
    ("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}"),
    ("PUT", "/rooms/{room_id}/state/{event_type}"),
    ("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}"),
}
_ABOUT_OTHERS = {
    ("POST", "/rooms/{room_id}/invite"),
    ("POST", "/rooms/{room_id}/kick"),
    ("POST", "/rooms/{room_id}/ban"),
    ("POST", "/rooms/{room_id}/unban"),
}
SUSPENDED_MAY_NOT = {
    *(_EVENTS - {_REDACT}),
    *_ABOUT_OTHERS,
    _CREATE,
    ("POST", "/join/{room_id_or_alias}"),
    ("POST", "/rooms/{room_id}/join"),
    ("POST", "/knock/{room_id_or_alias}"),
    _UPGRADE,
    ("PUT", "/org.matrix.msc4140/rooms/{room_id}/delayed_event/{event_type}/{txn_id}"),
    ("PUT", "/directory/room/{alias}"),
    ("PUT", "/directory/list/room/{room_id}"),
    ("PUT", "/profile/{user_id}/{field}"),
    ("DELETE", "/profile/{user_id}/{field}"),
    ("PUT", "/uk.tcpip.msc4133/profile/{user_id}/{field}"),
    ("DELETE", "/uk.tcpip.msc4133/profile/{user_id}/{field}"),
}
SHADOWED = {
    *_EVENTS,
    *_ABOUT_OTHERS,
    ("PUT", "/rooms/{room_id}/typing/{user_id}"),
    _UPGRADE,
}


async def check_standing(api: ClientApi, owner: TokenOwner | None, match: Match) -> None:
    """Raises: UserLocked, on every route but those that log out; UserSuspended, on those that speak, join or invite.

    Who is suspended may still redact what he said himself.
    """
    if owner is None or not (owner.locked or owner.suspended):
        return
    operation = (match.route.method, match.route.path)
    if owner.locked and operation not in LOCKED_MAY:
        raise UserLocked("this account is locked; ask who runs this node")
    if owner.suspended and operation == _REDACT:
        event_id = match.params["event_id"]
        event = await api.database.read(lambda tx: pdu(tx, event_id))
        if event is not None and event.sender == owner.user_id:
            return
    elif operation not in SUSPENDED_MAY_NOT:
        return
    raise UserSuspended("this account is suspended: it may read and leave rooms; ask who runs this node")


async def answer_in_the_shadow(api: ClientApi, route: Route, request: ApiRequest) -> dict[str, Any] | None:
    """What a shadow-banned user is told instead of the truth; None, where nobody else would learn of it.

    The event ID is made of what was asked, so that a repeated request gets the same one.
    """
    if (route.method, route.path) == _CREATE:
        request.body.pop("invite", None)
    if (route.method, route.path) not in SHADOWED:
        return None
    user_id, room_id = request.requester.user_id, request.params["room_id"]
    if not await api.database.read(lambda tx: is_joined(tx, user_id, room_id)):
        return None
    if (route.method, route.path) not in (*_EVENTS, _UPGRADE):
        return {}
    text = json.dumps([user_id, request.path, request.body if "txn_id" not in request.params else None])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    name = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return {"replacement_room": "!" + name} if (route.method, route.path) == _UPGRADE else {"event_id": "$" + name}
