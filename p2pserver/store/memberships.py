"""Who is in which room: the current state as rows, member servers, this node's users, and invites from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import rules_of
from p2pserver.meg.state import StateSlot
from p2pserver.store.events import encode_raw
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMembership:
    """A user of this node and a room; `position` is when it became so."""

    user_id: str
    room_id: str
    membership: str
    event_id: str
    sender: str
    position: int
    forgotten: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invite to a room that is not held here, or a knock on its door, with the room-state PDUs that came with it."""

    room_id: str
    user_id: str
    inviter: str
    """Who made the event `raw`: of a knock, the user himself."""
    membership: str
    version: str
    raw: dict[str, Any]
    room_state: list[dict[str, Any]]
    via: str


def write_current_state(
    tx: Tx, room_id: str, slot: tuple[str, str], *, event_id: str | None, membership: str | None
) -> None:
    if event_id is None:
        tx.execute("DELETE FROM current_state WHERE room_id = ? AND type = ? AND state_key = ?", (room_id, *slot))
    else:
        tx.execute(
            "INSERT OR REPLACE INTO current_state (room_id, type, state_key, event_id, membership)"
            " VALUES (?, ?, ?, ?, ?)",
            (room_id, *slot, event_id, membership),
        )


def current_state(tx: Tx, room_id: str) -> dict[StateSlot, str]:
    """The current state from its rows: what they say must be what the room's state group says."""
    rows = tx.all("SELECT type, state_key, event_id FROM current_state WHERE room_id = ?", (room_id,))
    return {(event_type, state_key): event_id for event_type, state_key, event_id in rows}


def write_delta(
    tx: Tx, position: int, room_id: str, slot: tuple[str, str], *, event_id: str | None, previous: str | None
) -> None:
    tx.execute(
        "INSERT INTO current_state_deltas (position, room_id, type, state_key, event_id, previous_event_id)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (position, room_id, *slot, event_id, previous),
    )


def count_member(tx: Tx, room_id: str, server: str, *, joined: int, invited: int) -> None:
    """Adds to the number of a server's joined and invited users."""
    tx.execute(
        "INSERT INTO member_servers (room_id, server, joined, invited, was_in) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (room_id, server) DO UPDATE SET joined = joined + excluded.joined,"
        " invited = invited + excluded.invited, was_in = max(was_in, excluded.was_in)",
        (room_id, server, joined, invited, int(joined > 0)),
    )


def joined_servers(tx: Tx, room_id: str) -> set[str]:
    rows = tx.all("SELECT server FROM member_servers WHERE room_id = ? AND joined > 0", (room_id,))
    return {server for (server,) in rows}


def largest_servers(tx: Tx, room_id: str, most: int) -> list[str]:
    """The servers with the most joined users."""
    rows = tx.all(
        "SELECT server FROM member_servers WHERE room_id = ? AND joined > 0 ORDER BY joined DESC, server LIMIT ?",
        (room_id, most),
    )
    return [server for (server,) in rows]


def is_joined(tx: Tx, room_id: str, server: str) -> bool:
    return (
        tx.one("SELECT 1 FROM member_servers WHERE room_id = ? AND server = ? AND joined > 0", (room_id, server))
        is not None
    )


def is_concerned(tx: Tx, room_id: str, server: str) -> bool:
    """Whether a user of the server is joined or invited."""
    row = tx.one(
        "SELECT 1 FROM member_servers WHERE room_id = ? AND server = ? AND (joined > 0 OR invited > 0)",
        (room_id, server),
    )
    return row is not None


def was_in(tx: Tx, room_id: str, server: str) -> bool:
    """Whether a user of the server is or was joined."""
    return (
        tx.one("SELECT 1 FROM member_servers WHERE room_id = ? AND server = ? AND was_in = 1", (room_id, server))
        is not None
    )


def names_of_key(tx: Tx, room_id: str, server: str) -> list[str]:
    """The names, sorted, by which servers with the key of this one are or were in the room."""
    label = server.partition(".")[0]
    rows = tx.all(
        "SELECT server FROM member_servers WHERE room_id = ? AND server >= ? AND server < ? AND was_in = 1"
        " ORDER BY server",
        (room_id, label, label + "/"),
    )
    return [name for (name,) in rows if name.partition(".")[0] == label]


def shared_rooms(tx: Tx, ours: str, theirs: str) -> list[str]:
    """Rooms with joined users of `ours` and joined or invited users of `theirs`."""
    rows = tx.all(
        "SELECT t.room_id FROM member_servers AS t JOIN member_servers AS o ON o.room_id = t.room_id AND o.server = ?"
        " WHERE t.server = ? AND o.joined > 0 AND (t.joined > 0 OR t.invited > 0) ORDER BY t.room_id",
        (ours, theirs),
    )
    return [room_id for (room_id,) in rows]


def current_membership(tx: Tx, room_id: str, user_id: str) -> str | None:
    row = tx.one(
        "SELECT membership FROM current_state WHERE room_id = ? AND type = 'm.room.member' AND state_key = ?",
        (room_id, user_id),
    )
    return None if row is None else row[0]


def local_membership(tx: Tx, user_id: str, room_id: str) -> LocalMembership | None:
    row = tx.one(
        "SELECT membership, event_id, sender, position, forgotten FROM local_memberships"
        " WHERE user_id = ? AND room_id = ?",
        (user_id, room_id),
    )
    if row is None:
        return None
    membership, event_id, sender, position, forgotten = row
    return LocalMembership(
        user_id=user_id,
        room_id=room_id,
        membership=membership,
        event_id=event_id,
        sender=sender,
        position=position,
        forgotten=bool(forgotten),
    )


def set_local_membership(
    tx: Tx, user_id: str, room_id: str, *, membership: str, event_id: str, sender: str, position: int
) -> None:
    """What a user of this node is to a room, from `position` on; wakes whoever syncs for him."""
    tx.execute(
        "INSERT INTO local_memberships (user_id, room_id, membership, event_id, sender, position)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, room_id) DO UPDATE SET membership = excluded.membership,"
        " event_id = excluded.event_id, sender = excluded.sender, position = excluded.position,"
        " forgotten = CASE WHEN excluded.membership IN ('leave', 'ban') THEN forgotten ELSE 0 END",
        (user_id, room_id, membership, event_id, sender, position),
    )
    tx.notify(f"user:{user_id}")


def keep_invite(tx: Tx, event: Pdu, *, user_id: str, room_state: Sequence[Pdu], via: str, now_ms: int) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO invites"
        " (room_id, user_id, inviter, version, raw, room_state, via, received_ms, membership)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.room_id,
            user_id,
            event.sender,
            event.rules.version,
            encode_raw(event.raw),
            json.dumps([each.raw for each in room_state], ensure_ascii=False, separators=(",", ":")).encode(),
            via,
            now_ms,
            event.content.get("membership"),
        ),
    )
    tx.notify("invites")


def invite(tx: Tx, user_id: str, room_id: str) -> Invite | None:
    row = tx.one(
        "SELECT inviter, version, raw, room_state, via, membership FROM invites"
        " WHERE room_id = ? AND user_id = ? AND leave_event_id IS NULL",
        (room_id, user_id),
    )
    if row is None:
        return None
    inviter, version, raw, room_state, via, membership = row
    return Invite(
        room_id=room_id,
        user_id=user_id,
        inviter=inviter,
        membership=membership,
        version=version,
        raw=json.loads(raw),
        room_state=json.loads(room_state),
        via=via,
    )


def end_invite(tx: Tx, user_id: str, room_id: str, leave: Pdu) -> None:
    """Notes what ended an invite to a room that is not held: clients are shown that event."""
    tx.execute(
        "UPDATE invites SET leave_event_id = ?, leave_raw = ? WHERE room_id = ? AND user_id = ?",
        (leave.event_id, encode_raw(leave.raw), room_id, user_id),
    )
    tx.notify("invites")


def has_ended(tx: Tx, user_id: str, room_id: str, event: Pdu) -> bool:
    """Whether just this invite was refused or taken back before."""
    row = tx.one(
        "SELECT version, raw FROM invites WHERE room_id = ? AND user_id = ? AND leave_event_id IS NOT NULL",
        (room_id, user_id),
    )
    return row is not None and load_pdu(json.loads(row[1]), rules_of(row[0])).event_id == event.event_id


def ended_by(tx: Tx, leave_event_id: str) -> Pdu | None:
    """The event that ended an invite, which is in no room that is held."""
    row = tx.one("SELECT version, leave_raw FROM invites WHERE leave_event_id = ?", (leave_event_id,))
    return None if row is None else load_pdu(json.loads(row[1]), rules_of(row[0]), event_id=leave_event_id)


def invites_to(tx: Tx, room_id: str) -> list[Invite]:
    """The open invites to a room."""
    users = tx.all("SELECT user_id FROM invites WHERE room_id = ? ORDER BY user_id", (room_id,))
    found = [invite(tx, user_id, room_id) for (user_id,) in users]
    return [each for each in found if each is not None]


def evict_invite(tx: Tx) -> None:
    """Forgets the oldest invite of the server that delivered most, as if it had never come."""
    row = tx.one(
        "SELECT room_id, user_id FROM invites WHERE membership = 'invite'"
        " AND via = (SELECT via FROM invites WHERE membership = 'invite' GROUP BY via"
        " ORDER BY count(*) DESC, via LIMIT 1) ORDER BY received_ms, room_id, user_id LIMIT 1"
    )
    if row is None:
        return
    room_id, user_id = row
    tx.execute(
        "DELETE FROM local_memberships WHERE user_id = ? AND room_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM rooms WHERE rooms.room_id = local_memberships.room_id)",
        (user_id, room_id),
    )
    forget_invite(tx, user_id, room_id)


def forget_invite(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("DELETE FROM invites WHERE room_id = ? AND user_id = ?", (room_id, user_id))


def invites_held(tx: Tx, *, via: str | None = None, since_ms: int = 0) -> int:
    """How many invites are kept, or how many of them a server delivered since a time."""
    if via is None:
        row = tx.one("SELECT count(*) FROM invites WHERE membership = 'invite'")
    else:
        row = tx.one(
            "SELECT count(*) FROM invites WHERE membership = 'invite' AND via = ? AND received_ms >= ?", (via, since_ms)
        )
    return 0 if row is None else int(row[0])


def users_of_server(tx: Tx, room_id: str, server: str, *, most: int) -> list[tuple[str, str, str]]:
    """(user ID, membership, event ID) of joined and invited users of a server."""
    rows = tx.all(
        "SELECT state_key, membership, event_id FROM current_state WHERE room_id = ? AND type = 'm.room.member'"
        " AND membership IN ('join', 'invite') AND substr(state_key, instr(state_key, ':') + 1) = ?"
        " ORDER BY state_key LIMIT ?",
        (room_id, server, most),
    )
    return [(user_id, membership, event_id) for user_id, membership, event_id in rows]
