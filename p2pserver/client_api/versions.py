"""What this server is and can do, and what it does not have: what clients ask before and right after they log in."""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import NotFound
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.http_api.routing import ApiRequest, Routes

routes = Routes()

VERSIONS = ["r0.6.1", *(f"v1.{minor}" for minor in range(1, 13))]
"""Without holes, since clients test for single ones. docs/client-api.md says what of them is missing."""

UNSTABLE_FEATURES = {
    "org.matrix.msc3916.stable": True,
    "org.matrix.e2e_cross_signing": True,
    "org.matrix.msc3912": True,
    "org.matrix.msc3814": True,
    "org.matrix.msc4140": True,
    "org.matrix.simplified_msc3575": True,
    "org.matrix.msc3026.busy_presence": True,
    "uk.half-shot.msc2666.query_mutual_rooms": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "uk.timedout.msc4323": True,
    "fi.mau.msc2659.stable": True,
    "uk.tcpip.msc4133": True,
    "uk.tcpip.msc4133.stable": True,
}


@routes.route("GET", "/versions", versions=("",), auth="optional")
async def versions(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /versions`."""
    return {"versions": VERSIONS, "unstable_features": UNSTABLE_FEATURES}


@routes.route("GET", "/client", versions=("",), base="/.well-known/matrix", auth="none")
async def well_known_client(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /.well-known/matrix/client`: the address by which the client came here is the one that works for it."""
    return well_known(request)


def well_known(request: ApiRequest) -> dict[str, Any]:
    """The discovery object, also part of the answer to a login."""
    return {"m.homeserver": {"base_url": request.base_url}}


@routes.route("GET", "/support", versions=("",), base="/.well-known/matrix", auth="none")
async def support(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /.well-known/matrix/support`: what the operator has said, of which one page can be named."""
    contacts: list[dict[str, str]] = []
    pages: list[str] = []
    for each in api.config.support:
        if each.startswith(("http://", "https://")):
            pages.append(each)
        else:
            contacts.append({"matrix_id" if each.startswith("@") else "email_address": each, "role": "m.role.admin"})
    if not contacts and not pages:
        raise NotFound("whom to ask is not said here")
    return {**({"contacts": contacts} if contacts else {}), **({"support_page": pages[0]} if pages else {})}


@routes.route("GET", "/capabilities")
async def capabilities(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /capabilities`."""
    moderation = {"m.account_moderation": {"suspend": True, "lock": True}} if request.requester.admin else {}
    return {
        "capabilities": {
            **moderation,
            "m.room_versions": {
                "default": api.config.default_room_version,
                "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            },
            "m.change_password": {"enabled": True},
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.profile_fields": {"enabled": True},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": True},
            "m.forget_forced_upon_leave": {"enabled": False},
        }
    }


@routes.route("GET", "/voip/turnServer")
async def turn_server(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /voip/turnServer`: none."""
    return {}
