"""Users and aliases that do not exist until somebody asks for them: application services make them when they are asked.

Source: application service API, "Querying".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pserver.client_api.app_service_calls import CallFailed
from p2pserver.identifiers import server_of
from p2pserver.store.accounts import is_name_taken
from p2pserver.store.aliases import alias

if TYPE_CHECKING:
    from p2pserver.client_api.app import ClientApi


async def ask_for_alias(api: ClientApi, name: str) -> bool:
    """Whether a service in whose namespaces an alias of this node is has just made a room for it."""
    for service in api.app_services.all:
        if service.url is not None and service.has_alias(name):
            try:
                if await api.app_service_calls.knows_alias(service, name):
                    return True
            except CallFailed:
                continue
    return False


async def ask_for_user(api: ClientApi, user_id: str) -> bool:
    """Whether the service that a user of this node belongs to has just made him."""
    for service in api.app_services.all:
        if service.url is not None and service.owns_user(user_id):
            try:
                return await api.app_service_calls.knows_user(service, user_id)
            except CallFailed:
                return False
    return False


async def ask_before_answering(api: ClientApi, question: str, body: Mapping[str, Any]) -> None:
    """Another node asks: what it asks for may be there only once a service was asked."""
    if not api.app_services.all:
        return
    wanted = body.get("alias" if question == "directory" else "user_id")
    if not isinstance(wanted, str) or server_of(wanted) != api.server_name:
        return
    if question == "directory" and await api.database.read(lambda tx: alias(tx, wanted)) is None:
        await ask_for_alias(api, wanted)
    elif question == "profile" and not await api.database.read(lambda tx: is_name_taken(tx, wanted)):
        await ask_for_user(api, wanted)
