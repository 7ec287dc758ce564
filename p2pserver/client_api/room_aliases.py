"""Room aliases: of this node in a table, of other nodes by asking them.

Source: client-server API, "Room aliases"; server-server API, `query/directory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.app_service_questions import ask_for_alias
from p2pserver.errors import AliasInUse, BadAlias, Exclusive, InvalidParam, NotFound, PeerUnreachable
from p2pserver.identifiers import InvalidIdentifier, is_room_id, is_server_name, server_of, split_identifier
from p2pserver.rooms.app_services import AppService
from p2pserver.store.aliases import alias, insert_alias
from p2pserver.store.tx import Tx

LOOKUP_S = 10.0


@dataclass(frozen=True, slots=True)
class ResolvedAlias:
    room_id: str
    servers: list[str]


def check_alias(name: str) -> None:
    """Raises: InvalidParam, unless the text is a room alias."""
    try:
        localpart, _ = split_identifier(name, "#")
    except InvalidIdentifier as error:
        raise InvalidParam("that is not a room alias") from error
    if not localpart or any(character.isspace() for character in localpart):
        raise InvalidParam("that is not a room alias")


def local_alias(tx: Tx, name: str) -> str | None:
    """The room that an alias of this node points to."""
    found = alias(tx, name)
    return None if found is None else found.room_id


def check_is_free_alias(api: ClientApi, name: str, service: AppService | None) -> None:
    """Raises: Exclusive, if the alias belongs to another application service than the one that asks."""
    if api.app_services.is_taken_alias(name, by=service):
        raise Exclusive("this alias belongs to an application service")


def put_alias(tx: Tx, name: str, room_id: str, creator: str) -> None:
    """Raises: AliasInUse."""
    if alias(tx, name) is not None:
        raise AliasInUse(f"the alias {name} is taken")
    insert_alias(tx, name, room_id, creator)


async def resolve_alias(api: ClientApi, name: str) -> ResolvedAlias:
    """The room behind any alias, and servers that know the room.

    Raises: InvalidParam; NotFound; PeerUnreachable, if the alias is of a server that cannot be asked now.
    """
    check_alias(name)
    server = server_of(name)
    if server == api.server_name:

        def look_up(tx: Tx) -> ResolvedAlias | None:
            room_id = local_alias(tx, name)
            if room_id is None:
                return None
            return ResolvedAlias(room_id, sorted(api.rooms.member_servers(tx, room_id) | {api.server_name}))

        found = await api.database.read(look_up)
        if found is None and await ask_for_alias(api, name):
            found = await api.database.read(look_up)
        if found is None:
            raise NotFound(f"there is no alias {name}")
        return found
    answer = await api.remote.ask(server, "directory", {"alias": name}, timeout_s=LOOKUP_S)
    room_id, servers = answer.get("room_id"), answer.get("servers")
    if not isinstance(room_id, str) or not is_room_id(room_id):
        raise PeerUnreachable("the server of the alias gave no sensible answer")
    listed = servers if isinstance(servers, list) else []
    names = [each for each in listed[:50] if isinstance(each, str) and is_server_name(each)]
    return ResolvedAlias(room_id, list(dict.fromkeys((*names, server))))


def check_canonical_alias(api: ClientApi, tx: Tx, room_id: str, content: Mapping[str, Any]) -> None:
    """Checks the aliases that a new `m.room.canonical_alias` event adds; those of other servers by their grammar only.

    Raises: BadAlias, if an alias of ours does not point to this room; InvalidParam, if one is no alias.
    """
    current = api.rooms.current_event(tx, room_id, "m.room.canonical_alias")
    known = [] if current is None else _aliases_in(current.content)
    for name in _aliases_in(content):
        if name in known:
            continue
        if not isinstance(name, str):
            raise InvalidParam("an alias is not a string")
        check_alias(name)
        if server_of(name) == api.server_name and local_alias(tx, name) != room_id:
            raise BadAlias(f"the alias {name} does not point to this room")


def _aliases_in(content: Mapping[str, Any]) -> list[Any]:
    main, others = content.get("alias"), content.get("alt_aliases")
    return [*([main] if main else []), *(others if isinstance(others, list) else [])]
