"""What operators' tools are told of each room that is held: numbers of members, names, rules."""

from __future__ import annotations

import json
from typing import Any

from p2pserver.store.tx import Tx

_CONTENTS = {
    "m.room.name": "name",
    "m.room.canonical_alias": "alias",
    "m.room.encryption": "algorithm",
    "m.room.join_rules": "join_rule",
    "m.room.guest_access": "guest_access",
    "m.room.history_visibility": "history_visibility",
    "m.room.topic": "topic",
    "m.room.avatar": "url",
}
_CREATE = "m.room.create"


def room_summaries(tx: Tx, server_name: str, room_id: str | None = None) -> list[dict[str, Any]]:
    """One object per room, or of the one named, in the order of IDs: Synapse's "List Room API" and `topic`, `avatar`.

    Costs a step for each of a dozen state events of every room.
    """
    one, values = ("", ()) if room_id is None else (" AND r.room_id = ?", (room_id,))
    found: dict[str, dict[str, Any]] = {}
    for held, version, published in tx.execute(
        f"SELECT r.room_id, r.version, r.published FROM rooms AS r WHERE 1{one} ORDER BY r.room_id", values
    ):
        found[held] = {
            "room_id": held,
            "name": None,
            "canonical_alias": None,
            "joined_members": 0,
            "joined_local_members": 0,
            "version": version,
            "creator": None,
            "encryption": None,
            "federatable": True,
            "public": bool(published),
            "join_rules": None,
            "guest_access": None,
            "history_visibility": None,
            "state_events": 0,
            "room_type": None,
            "topic": None,
            "avatar": None,
        }
    _count(tx, found, server_name, one, values)
    marks = ",".join(f"'{event_type}'" for event_type in (*_CONTENTS, _CREATE))
    for held, event_type, raw in tx.execute(
        "SELECT r.room_id, r.type, CAST(e.raw AS TEXT) FROM current_state AS r JOIN events AS e"
        f" ON e.event_id = r.event_id WHERE r.state_key = '' AND r.type IN ({marks}){one}",
        values,
    ):
        if held in found:
            _fill(found[held], event_type, json.loads(raw))
    return list(found.values())


def _count(tx: Tx, found: dict[str, dict[str, Any]], server_name: str, one: str, values: tuple[str, ...]) -> None:
    for held, state_events, joined, local in tx.execute(
        "SELECT r.room_id, count(*), total(r.membership = 'join'),"
        " total(r.membership = 'join' AND substr(r.state_key, instr(r.state_key, ':') + 1) = ?)"
        f" FROM current_state AS r WHERE 1{one} GROUP BY r.room_id",
        (server_name, *values),
    ):
        if held in found:
            found[held] |= {
                "state_events": state_events,
                "joined_members": int(joined),
                "joined_local_members": int(local),
            }


def _fill(summary: dict[str, Any], event_type: str, raw: dict[str, Any]) -> None:
    content = raw.get("content", {})
    if event_type == _CREATE:
        kind = content.get("type")
        summary["creator"] = raw.get("sender")
        summary["federatable"] = content.get("m.federate") is not False
        summary["room_type"] = kind if isinstance(kind, str) else None
        return
    name = {
        "m.room.canonical_alias": "canonical_alias",
        "m.room.join_rules": "join_rules",
    }.get(event_type, event_type.removeprefix("m.room."))
    value = content.get(_CONTENTS[event_type])
    summary[name] = value if isinstance(value, str) else None
