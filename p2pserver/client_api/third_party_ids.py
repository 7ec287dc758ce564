"""E-mail addresses and telephone numbers: this node knows none, and says so in the words of the specification.

Source: client-server API, "Adding Account Administrative Contact Information".
"""

from __future__ import annotations

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import Forbidden, MatrixError
from p2pserver.http_api.routing import ApiRequest, ApiResponse, Routes

routes = Routes()


class MediumNotSupported(MatrixError):
    errcode = "M_THREEPID_MEDIUM_NOT_SUPPORTED"


@routes.route("POST", "/register/{medium}/requestToken", auth="none", pace="login")
@routes.route("POST", "/account/password/{medium}/requestToken", auth="none", pace="login")
@routes.route("POST", "/account/3pid/{medium}/requestToken", auth="none", pace="login")
async def request_token(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """No message is sent to anybody."""
    raise MediumNotSupported("this server sends no mail and no text messages")


@routes.route("POST", "/account/3pid")
@routes.route("POST", "/account/3pid/add")
@routes.route("POST", "/account/3pid/bind")
@routes.route("POST", "/account/3pid/delete")
@routes.route("POST", "/account/3pid/unbind")
async def change(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """As the capability `m.3pid_changes` says."""
    raise Forbidden("accounts of this server have no third-party IDs")
