"""Access tokens: 256 random bits, of which the store holds the SHA-256; and those of application services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from p2pserver.errors import Forbidden, MissingToken, UnknownDevice, UnknownToken
from p2pserver.http_api.routing import Auth
from p2pserver.rooms.app_services import AppService
from p2pserver.store.app_services import acting_user, service_itself
from p2pserver.store.database import Database
from p2pserver.store.tokens import TokenOwner, owner_of_token


def token_in(headers: Mapping[str, str], query: Mapping[str, list[str]]) -> str | None:
    """The access token: from `Authorization: Bearer`, or from `?access_token=`, which older clients send."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = query.get("access_token", [""])[0]
    return token.strip() or None


async def authenticate(database: Database, auth: Auth, token: str | None, *, now_ms: int) -> TokenOwner | None:
    """Who asks.

    Raises: MissingToken, on a route that requires one; UnknownToken, also where a token is optional: with `soft_logout`
    if it has expired. A store that cannot answer raises what it raises: clients that are told M_UNKNOWN_TOKEN without
    `soft_logout` delete their keys.
    """
    if auth is Auth.NONE:
        return None
    if token is None:
        if auth is Auth.OPTIONAL:
            return None
        raise MissingToken("an access token is required")
    owner: TokenOwner | None = await database.look_up(lambda tx: owner_of_token(tx, token))
    if owner is None:
        raise UnknownToken("this access token is not known", soft_logout=False)
    if owner.expires_ms is not None and owner.expires_ms <= now_ms:
        raise UnknownToken("this access token has expired", soft_logout=True)
    return owner


async def act_for(
    database: Database, auth: Auth, service: AppService, query: Mapping[str, list[str]]
) -> TokenOwner | None:
    """The user for whom a service asks: `user_id`, with the device `device_id`, or else its sender.

    Raises: Forbidden, if he is not in its namespaces or has no account; UnknownDevice.
    Source: application service API, "Identity assertion"; MSC3202, MSC4326.
    """
    if auth is Auth.NONE:
        return None
    user_id = query.get("user_id", [service.sender])[0]
    if not service.may_act_as(user_id):
        raise Forbidden("this application service cannot act as that user")
    device_id = query.get("device_id", query.get("org.matrix.msc3202.device_id", [None]))[0]
    owner = await database.read(lambda tx: acting_user(tx, user_id, device_id))
    if owner is None and user_id != service.sender:
        raise Forbidden("this application service has not registered that user")
    if device_id is not None and (owner is None or owner.last_seen_ms is None):
        raise UnknownDevice("that user has no such device")
    if owner is None:
        return service_itself(user_id)
    return replace(owner, admin=owner.admin and service.owns_user(user_id))
