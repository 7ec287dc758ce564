"""Which room an operator means by what was typed."""

from __future__ import annotations

from p2pserver.matrix_uri import InvalidLink, is_link, read_link
from p2pserver.store.room_list import list_rooms
from p2pserver.store.tx import Tx


class NoSuchRoom(LookupError):
    """No room here, or more than one, is meant by what was typed."""


def room_meant(tx: Tx, text: str) -> str:
    """The ID of the room that is meant by an ID, the beginning of one, an alias of this node, a name, or a link.

    The `!` of an ID and the server of an alias may be left out. A link to an event means its room.

    Raises: NoSuchRoom.
    """
    if is_link(text):
        text = _target(text)
    if tx.one("SELECT 1 FROM rooms WHERE room_id = ?", (text,)) is not None:
        return text
    aliases = tx.all("SELECT a.alias, a.room_id FROM aliases AS a JOIN rooms AS r ON r.room_id = a.room_id")
    found = {room_id for alias, room_id in aliases if text in (alias, alias.partition(":")[0])}
    if len(found) == 1:
        return str(found.pop())
    if text.startswith("#"):
        raise NoSuchRoom(f"{text} is no alias of a room that is held here; `p2pserver rooms` shows the rooms")
    held = list_rooms(tx)
    meant = [row for row in held if row["name"] == text]
    meant = meant or [row for row in held if (row["name"] or "").casefold() == text.casefold()]
    if text:
        meant = meant or [row for row in held if row["room_id"].startswith((text, f"!{text}"))]
    if not meant:
        raise NoSuchRoom(
            f"no room here is called {text!r}, and no room ID begins so; `p2pserver rooms` shows the rooms"
        )
    if len(meant) > 1:
        some = ", ".join(f"{row['room_id']} ({row['name'] or 'no name'})" for row in meant[:3])
        raise NoSuchRoom(f"{text!r} may mean {len(meant)} rooms, such as {some}: type more of the room ID")
    return str(meant[0]["room_id"])


def _target(link: str) -> str:
    """The room ID or alias in a link. Raises: NoSuchRoom."""
    try:
        target = read_link(link).target
    except InvalidLink as error:
        raise NoSuchRoom(str(error)) from None
    if target.startswith("@"):
        raise NoSuchRoom(f"the link is to the user {target}, not to a room")
    return target
