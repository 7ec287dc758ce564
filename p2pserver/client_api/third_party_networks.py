"""What bridges tell of their networks, as they are asked for it.

Source: client-server API, "Third-party Networks"; application service API, "Third-party networks".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.app_service_calls import CallFailed
from p2pserver.errors import MissingParam, NotFound
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.app_services import AppService

log = logging.getLogger(__name__)

routes = Routes()


@routes.route("GET", "/thirdparty/protocols")
async def protocols(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /thirdparty/protocols`; `{}` where there are no bridges, or none that answers."""
    names = dict.fromkeys(name for service in api.app_services.all for name in service.protocols)
    found = await asyncio.gather(*(_protocol(api, name) for name in names))
    return {name: protocol for name, protocol in zip(names, found, strict=True) if protocol is not None}


@routes.route("GET", "/thirdparty/protocol/{protocol}")
async def protocol(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /thirdparty/protocol/{protocol}`."""
    found = await _protocol(api, request.params["protocol"])
    if found is None:
        raise NotFound("no application service tells of this protocol")
    return found


async def _protocol(api: ClientApi, name: str) -> dict[str, Any] | None:
    """What the services of a protocol say of it, with the networks of all of them."""
    merged: dict[str, Any] | None = None
    for service, answer in await _ask(api, _of(api, name), f"/protocol/{quote(name, safe='')}", {}):
        if not isinstance(answer, dict):
            continue
        networks = answer.get("instances")
        instances = (
            [_named(service, each) for each in networks if isinstance(each, dict)] if isinstance(networks, list) else []
        )
        if merged is None:
            merged = {**answer, "instances": instances}
        else:
            merged["instances"] += instances
    return merged


def _named(service: AppService, instance: dict[str, Any]) -> dict[str, Any]:
    """A network with the name by which `/publicRooms` is asked for its rooms."""
    network_id = instance.get("network_id")
    named = {"instance_id": f"{service.service_id}|{network_id}"} if isinstance(network_id, str) else {}
    return {**instance, **named}


@routes.route("GET", "/thirdparty/location/{protocol}")
@routes.route("GET", "/thirdparty/user/{protocol}")
async def by_protocol(api: ClientApi, request: ApiRequest) -> list[Any]:
    """`GET /thirdparty/location/{protocol}` and `/user/{protocol}`: portal rooms, or users, by the network's fields."""
    name = request.params["protocol"]
    services = _of(api, name)
    if not services:
        raise NotFound("no application service tells of this protocol")
    kind = request.path.split("/")[2]
    fields = {key: value for key, value in request.query.items() if key not in ("access_token", "user_id", "device_id")}
    return _merged(await _ask(api, services, f"/{kind}/{quote(name, safe='')}", fields))


@routes.route("GET", "/thirdparty/location")
async def location_of_alias(api: ClientApi, request: ApiRequest) -> list[Any]:
    """`GET /thirdparty/location`: what portal an alias leads to."""
    alias = _required(request, "alias")
    services = [service for service in api.app_services.all if service.has_alias(alias)]
    return _merged(await _ask(api, services, "/location", {"alias": alias}))


@routes.route("GET", "/thirdparty/user")
async def user_of_id(api: ClientApi, request: ApiRequest) -> list[Any]:
    """`GET /thirdparty/user`: whom of a network a user ID stands for."""
    user_id = _required(request, "userid")
    services = [service for service in api.app_services.all if service.has_user(user_id)]
    return _merged(await _ask(api, services, "/user", {"userid": user_id}))


def _required(request: ApiRequest, name: str) -> str:
    if name not in request.query:
        raise MissingParam(f"query parameter {name!r} is missing")
    return request.query[name]


def _of(api: ClientApi, protocol: str) -> list[AppService]:
    return [service for service in api.app_services.all if protocol in service.protocols]


async def _ask(
    api: ClientApi, services: Iterable[AppService], path: str, fields: Mapping[str, str]
) -> list[tuple[AppService, Any]]:
    """What those of the services answer that answer."""

    async def answer_of(service: AppService) -> Any:
        try:
            return await api.app_service_calls.third_party(service, path, fields)
        except CallFailed as failed:
            log.info("third-party lookup failed", extra={"service": service.service_id, "reason": str(failed)})
            return None

    asked = [service for service in services if service.url is not None]
    answers = await asyncio.gather(*map(answer_of, asked))
    return list(zip(asked, answers, strict=True))


def _merged(answers: Iterable[tuple[AppService, Any]]) -> list[Any]:
    return [each for _, answer in answers if isinstance(answer, list) for each in answer if isinstance(each, dict)]
