"""Room aliases: of this node in a table, of other nodes by asking them.

Source: client-server API, "Room aliases"; server-server API, `query/directory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import AliasInUse, BadAlias, InvalidParam, NotFound, PeerUnreachable
from p2pserver.identifiers import InvalidIdentifier, is_room_id, is_server_name, server_of, split_identifier
from p2pserver.store.tx import Tx

LOOKUP_S = 10.0


@dataclass(frozen=True, slots=True)
class ResolvedAlias:
    room_id: str
    servers: list[str]


def check_alias(alias: str) -> None:
    """Raises: InvalidParam, unless the text is a room alias."""
    try:
        localpart, _ = split_identifier(alias, "#")
    except InvalidIdentifier as error:
        raise InvalidParam("that is not a room alias") from error
    if not localpart or any(character.isspace() for character in localpart):
        raise InvalidParam("that is not a room alias")


def local_alias(tx: Tx, alias: str) -> str | None:
    """The room that an alias of this node points to."""
    row = tx.one("SELECT room_id FROM aliases WHERE alias = ?", (alias,))
    return None if row is None else row[0]


def put_alias(tx: Tx, alias: str, room_id: str, creator: str) -> None:
    """Raises: AliasInUse."""
    if local_alias(tx, alias) is not None:
        raise AliasInUse(f"the alias {alias} is taken")
    tx.execute("INSERT INTO aliases (alias, room_id, creator) VALUES (?, ?, ?)", (alias, room_id, creator))


def aliases_of(tx: Tx, room_id: str) -> list[str]:
    """This node's aliases of a room."""
    return [alias for (alias,) in tx.all("SELECT alias FROM aliases WHERE room_id = ? ORDER BY alias", (room_id,))]


async def resolve_alias(api: ClientApi, alias: str) -> ResolvedAlias:
    """The room behind any alias, and servers that know the room.

    Raises: InvalidParam; NotFound; PeerUnreachable, if the alias is of a server that cannot be asked now.
    """
    check_alias(alias)
    server = server_of(alias)
    if server == api.server_name:

        def look_up(tx: Tx) -> ResolvedAlias | None:
            room_id = local_alias(tx, alias)
            if room_id is None:
                return None
            return ResolvedAlias(room_id, sorted(api.rooms.member_servers(tx, room_id) | {api.server_name}))

        found = await api.database.read(look_up)
        if found is None:
            raise NotFound(f"there is no alias {alias}")
        return found
    answer = await api.remote.ask(server, "directory", {"alias": alias}, timeout_s=LOOKUP_S)
    room_id, servers = answer.get("room_id"), answer.get("servers")
    if not isinstance(room_id, str) or not is_room_id(room_id):
        raise PeerUnreachable("the server of the alias gave no sensible answer")
    listed = servers if isinstance(servers, list) else []
    names = [name for name in listed[:50] if isinstance(name, str) and is_server_name(name)]
    return ResolvedAlias(room_id, list(dict.fromkeys((*names, server))))


def check_canonical_alias(api: ClientApi, tx: Tx, room_id: str, content: Mapping[str, Any]) -> None:
    """Checks the aliases that a new `m.room.canonical_alias` event adds; those of other servers by their grammar only.

    Raises: BadAlias, if an alias of ours does not point to this room; InvalidParam, if one is no alias.
    """
    current = api.rooms.current_event(tx, room_id, "m.room.canonical_alias")
    known = [] if current is None else _aliases_in(current.content)
    for alias in _aliases_in(content):
        if alias in known:
            continue
        if not isinstance(alias, str):
            raise InvalidParam("an alias is not a string")
        check_alias(alias)
        if server_of(alias) == api.server_name and local_alias(tx, alias) != room_id:
            raise BadAlias(f"the alias {alias} does not point to this room")


def _aliases_in(content: Mapping[str, Any]) -> list[Any]:
    main, others = content.get("alias"), content.get("alt_aliases")
    return [*([main] if main else []), *(others if isinstance(others, list) else [])]
