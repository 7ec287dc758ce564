"""Who has to be told that somebody's devices or cross-signing keys changed: local clients by position, servers by EDU.

Lost updates are the main cause of messages that cannot be decrypted, so a change, its position and the EDUs to all
servers that share a room are of one commit. A server that receives one forgets nothing: it marks what it has cached as
stale and asks again at the next need. Source: client-server API, "Tracking the device list for a user"; server-server
API, "Device Management".
"""

from __future__ import annotations

import json
from typing import Any

from p2pserver.identifiers import server_of
from p2pserver.store.outbox import queue_edu
from p2pserver.store.tx import Tx

_ROOM_MATES = (
    "SELECT DISTINCT their.state_key FROM current_state AS own"
    " JOIN current_state AS their ON their.room_id = own.room_id AND their.type = 'm.room.member'"
    "   AND their.membership = 'join'"
    " WHERE own.type = 'm.room.member' AND own.state_key = ? AND own.membership = 'join'"
)


def note_device_change(tx: Tx, user_id: str, device_id: str) -> None:
    """A device of a local user has new keys, another name, or is gone."""
    row = tx.one("SELECT keys FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    previous = tx.one("SELECT position FROM device_list_changes WHERE user_id = ?", (user_id,))
    content: dict[str, Any] = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": _note_position(tx, user_id),
        "prev_id": [previous[0]] if previous is not None else [],
    }
    if row is None:
        content["deleted"] = True
    elif row[0] is not None:
        content["keys"] = json.loads(row[0])
    _tell_servers(tx, user_id, "m.device_list_update", content)


def note_cross_signing_change(tx: Tx, user_id: str) -> None:
    """The master or self-signing key of a local user, or a signature on them, is new."""
    _note_position(tx, user_id)
    content: dict[str, Any] = {"user_id": user_id}
    for usage, text in tx.all(
        "SELECT usage, content FROM cross_signing_keys WHERE user_id = ? AND usage != 'user_signing'", (user_id,)
    ):
        content[f"{usage}_key"] = json.loads(text)
    _tell_servers(tx, user_id, "m.signing_key_update", content)


def note_remote_change(tx: Tx, user_id: str) -> None:
    """Another server said, or its answer showed, that the keys of its user changed."""
    tx.execute("UPDATE device_list_cache SET stale = 1 WHERE user_id = ?", (user_id,))
    cached = tx.one("SELECT 1 FROM device_list_cache WHERE user_id = ?", (user_id,))
    if cached is not None or local_room_mates(tx, user_id):
        _note_position(tx, user_id)


def local_room_mates(tx: Tx, user_id: str) -> list[str]:
    """Local users who share a room with `user_id`, without himself."""
    rows = tx.all(
        "SELECT DISTINCT own.user_id FROM current_state AS their"
        " JOIN local_memberships AS own ON own.room_id = their.room_id AND own.membership = 'join'"
        " WHERE their.type = 'm.room.member' AND their.state_key = ? AND their.membership = 'join'",
        (user_id,),
    )
    return [row[0] for row in rows if row[0] != user_id]


def device_list_changes(tx: Tx, user_id: str, since: int, upto: int) -> tuple[list[str], list[str]]:
    """(changed, left) for `device_lists` of a sync from `since` to `upto`, sorted.

    Changed: whose keys changed, among those who share a room with the user and himself; with whom he now shares a room
    and did not then; whose master key a device of his signed. Left: with whom he shares no room any more.
    """
    if not _anything_since(tx, user_id, since):
        return [], []
    changed = {row[0] for row in tx.all("SELECT user_id FROM device_list_changes WHERE position > ?", (since,))}
    met, parted = _membership_changes(tx, user_id, since, upto)
    mates = {other for other in changed | met | parted if share_a_room(tx, user_id, other)}
    own_keys = changed & {user_id}
    signed = tx.all(
        "SELECT target_user_id FROM user_signatures WHERE signer_user_id = ? AND position > ?", (user_id, since)
    )
    told = own_keys | {row[0] for row in signed} | (((changed | met) & mates) - {user_id})
    return sorted(told), sorted(parted - mates - {user_id})


def share_a_room(tx: Tx, one: str, other: str) -> bool:
    """Whether both are joined to some room that is held here."""
    row = tx.one(
        "SELECT 1 FROM current_state AS own JOIN current_state AS their"
        " ON their.room_id = own.room_id AND their.type = 'm.room.member' AND their.state_key = ?"
        "   AND their.membership = 'join'"
        " WHERE own.type = 'm.room.member' AND own.state_key = ? AND own.membership = 'join' LIMIT 1",
        (other, one),
    )
    return row is not None


def _anything_since(tx: Tx, user_id: str, since: int) -> bool:
    """Whether there is anything to look for: most syncs bring messages only, and then no room is looked at."""
    row = tx.one(
        "SELECT EXISTS (SELECT 1 FROM device_list_changes WHERE position > :since)"
        " OR EXISTS (SELECT 1 FROM user_signatures WHERE signer_user_id = :user AND position > :since)"
        " OR EXISTS (SELECT 1 FROM local_memberships WHERE user_id = :user AND position > :since)"
        " OR EXISTS (SELECT 1 FROM current_state_deltas WHERE position > :since AND type = 'm.room.member')",
        {"user": user_id, "since": since},
    )
    return row is not None and bool(row[0])


def _membership_changes(tx: Tx, user_id: str, since: int, upto: int) -> tuple[set[str], set[str]]:
    """(who joined, who left) a room of the user; everybody in a room that he himself joined or left."""
    met: set[str] = set()
    parted: set[str] = set()
    own_rooms = tx.all(
        "SELECT room_id, membership, position FROM local_memberships WHERE user_id = ? AND membership != 'invite'",
        (user_id,),
    )
    for room_id, membership, position in own_rooms:
        if since < position <= upto:
            joined = tx.all(
                "SELECT state_key FROM current_state"
                " WHERE room_id = ? AND type = 'm.room.member' AND membership = 'join'",
                (room_id,),
            )
            (met if membership == "join" else parted).update(row[0] for row in joined)
        elif membership != "join":
            continue
        for mate, before, after in _member_deltas(tx, room_id, since, upto):
            if after == "join" and before != "join":
                met.add(mate)
            elif before == "join" and after != "join":
                parted.add(mate)
    return met, parted


def _member_deltas(tx: Tx, room_id: str, since: int, upto: int) -> list[tuple[str, str | None, str | None]]:
    """(user, membership before, membership after) of each change of a member event in a span of the stream."""
    rows = tx.all(
        "SELECT delta.state_key, CAST(old.raw AS TEXT), CAST(new.raw AS TEXT) FROM current_state_deltas AS delta"
        " LEFT JOIN events AS old ON old.event_id = delta.previous_event_id"
        " LEFT JOIN events AS new ON new.event_id = delta.event_id"
        " WHERE delta.room_id = ? AND delta.position > ? AND delta.position <= ? AND delta.type = 'm.room.member'",
        (room_id, since, upto),
    )
    return [(mate, _membership(old), _membership(new)) for mate, old, new in rows]


def _membership(raw: str | None) -> str | None:
    membership = None if raw is None else json.loads(raw).get("content", {}).get("membership")
    return membership if isinstance(membership, str) else None


def _note_position(tx: Tx, user_id: str) -> int:
    position = tx.next_position()
    tx.execute(
        "INSERT OR REPLACE INTO device_list_changes (user_id, position) VALUES (?, ?)",
        (user_id, position),
    )
    for mate in [user_id, *local_room_mates(tx, user_id)]:
        tx.notify(f"user:{mate}")
    tx.notify("device_lists")
    return position


def _tell_servers(tx: Tx, user_id: str, edu_type: str, content: dict[str, Any]) -> None:
    own = server_of(user_id)
    for server in sorted({server_of(row[0]) for row in tx.all(_ROOM_MATES, (user_id,))} - {own}):
        queue_edu(tx, server, edu_type, content)
