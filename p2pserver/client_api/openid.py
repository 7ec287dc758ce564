"""Proving to a third party who one is: a widget is given a token, and asks this node whose it is.

Source: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.login import new_token
from p2pserver.errors import Forbidden, MissingToken, UnknownToken
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.tokens import add_short_lived_token, user_of_short_lived_token

routes = Routes()

TOKEN_S = 3600


@routes.route("POST", "/user/{user_id}/openid/request_token")
async def request_token(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /user/{userId}/openid/request_token`."""
    user_id, token = request.requester.user_id, new_token(api)
    if request.params["user_id"] != user_id:
        raise Forbidden("that is another user")
    await api.database.write(
        lambda tx: add_short_lived_token(tx, "openid", user_id, token, now_ms=api.wall_ms(), lifetime_ms=TOKEN_S * 1000)
    )
    return {
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": api.server_name,
        "expires_in": TOKEN_S,
    }


@routes.route("GET", "/openid/userinfo", versions=("v1",), base="/_matrix/federation", auth="none", pace="login")
async def user_info(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /_matrix/federation/v1/openid/userinfo`, which whoever was given the token asks."""
    if "access_token" not in request.query:
        raise MissingToken("query parameter 'access_token' is missing")
    token = request.query["access_token"]
    user_id = await api.database.read(lambda tx: user_of_short_lived_token(tx, "openid", token, now_ms=api.wall_ms()))
    if user_id is None:
        raise UnknownToken("this token is not known or has expired")
    return {"sub": user_id}
