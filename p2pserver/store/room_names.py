"""Which room an operator means by what was typed."""

from __future__ import annotations

from p2pserver.store.room_list import list_rooms
from p2pserver.store.tx import Tx


class NoSuchRoom(LookupError):
    """No room here, or more than one, is meant by what was typed."""


def room_meant(tx: Tx, text: str) -> str:
    """The room ID that an ID, an alias of this node, the beginning of an ID (`!` may be left out) or a name means.

    Raises: NoSuchRoom.
    """
    if tx.one("SELECT 1 FROM rooms WHERE room_id = ?", (text,)) is not None:
        return text
    if text.startswith("#"):
        alias = tx.one(
            "SELECT a.room_id FROM aliases AS a JOIN rooms AS r ON r.room_id = a.room_id WHERE a.alias = ?", (text,)
        )
        if alias is None:
            raise NoSuchRoom(f"{text} is no alias of a room that is held here; `p2pserver rooms` shows the rooms")
        return str(alias[0])
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
