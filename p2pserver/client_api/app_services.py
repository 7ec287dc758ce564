"""What application services ask of the node besides acting as users: pings, and their directories of rooms.

Source: client-server API, "Application service room directory management", `POST /appservice/{appserviceId}/ping`.
"""

from __future__ import annotations

import time
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.app_service_calls import CallFailed
from p2pserver.client_api.app_service_delivery import back_topic
from p2pserver.client_api.login import service_of
from p2pserver.errors import Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.store.app_services import set_listed
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

routes = Routes()


class UrlNotSet(MatrixError):
    errcode = "M_URL_NOT_SET"


class BadStatus(MatrixError):
    errcode, http_status = "M_BAD_STATUS", 502


class ConnectionFailed(MatrixError):
    errcode, http_status = "M_CONNECTION_FAILED", 502


class ConnectionTimeout(MatrixError):
    errcode, http_status = "M_CONNECTION_TIMEOUT", 504


@routes.route("POST", "/appservice/{service_id}/ping", versions=("v1",))
@routes.route("POST", "/fi.mau.msc2659/appservice/{service_id}/ping", versions=("unstable",))
async def ping(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /v1/appservice/{appserviceId}/ping`: asks the service that asks; what waits for it is tried again."""
    service = _own_service(request)
    if request.params["service_id"] != service.service_id:
        raise Forbidden("this is the token of another application service")
    transaction_id = optional_string(request.body, "transaction_id")
    if service.url is None:
        raise UrlNotSet("the registration has no url")
    began_s = time.monotonic()
    try:
        await api.app_service_calls.ping(service, transaction_id)
    except CallFailed as failed:
        if failed.status is not None:
            raise BadStatus(str(failed), status=failed.status, body=failed.body) from None
        raise (ConnectionTimeout if failed.timed_out else ConnectionFailed)(str(failed)) from None
    api.database.wake([back_topic(service)])
    return {"duration_ms": round((time.monotonic() - began_s) * 1000)}


@routes.route("PUT", "/directory/list/appservice/{network_id}/{room_id}")
async def set_network_visibility(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /directory/list/appservice/{networkId}/{roomId}`."""
    service = _own_service(request)
    network_id, room_id = request.params["network_id"], request.params["room_id"]
    visibility = required_string(request.body, "visibility")
    if visibility not in ("public", "private"):
        raise InvalidParam("visibility is neither public nor private")

    def unit(tx: Tx) -> None:
        if not is_room_id(room_id) or room(tx, room_id) is None:
            raise NotFound("there is no such room")
        set_listed(tx, service.service_id, network_id, room_id, visibility == "public")

    await api.database.write(unit)
    return {}


def _own_service(request: ApiRequest) -> Any:
    """Raises: Forbidden, if it is a user who asks."""
    if request.app_service is None:
        raise Forbidden("only application services may ask this")
    return service_of(request)
