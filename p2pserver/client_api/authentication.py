"""Access tokens: 256 random bits, of which the store holds the SHA-256."""

from __future__ import annotations

from collections.abc import Mapping

from p2pserver.errors import MissingToken, UnknownToken
from p2pserver.http_api.routing import Auth
from p2pserver.store.database import Database
from p2pserver.store.tokens import TokenOwner, owner_of_token


async def authenticate(
    database: Database, auth: Auth, headers: Mapping[str, str], query: Mapping[str, list[str]], *, now_ms: int
) -> TokenOwner | None:
    """Who asks: by `Authorization: Bearer`, or by the query parameter `access_token`, which older clients send.

    Raises: MissingToken, on a route that requires one; UnknownToken, also where a token is optional: with `soft_logout`
    if it has expired. A store that cannot answer raises what it raises: clients that are told M_UNKNOWN_TOKEN without
    `soft_logout` delete their keys.
    """
    if auth is Auth.NONE:
        return None
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = query.get("access_token", [""])[0]
    token = token.strip()
    if not token:
        if auth is Auth.OPTIONAL:
            return None
        raise MissingToken("an access token is required")
    owner: TokenOwner | None = await database.read(lambda tx: owner_of_token(tx, token))
    if owner is None:
        raise UnknownToken("this access token is not known", soft_logout=False)
    if owner.expires_ms is not None and owner.expires_ms <= now_ms:
        raise UnknownToken("this access token has expired", soft_logout=True)
    return owner
