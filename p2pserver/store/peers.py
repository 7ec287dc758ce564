"""Nodes that were met, nodes that are blocked, and what peering asks of the tables of rooms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from p2pserver.identifiers import server_name_of
from p2pserver.store.tx import Tx, chunks, marks

PEERS_MAX = 10_000
"""Rows; those not seen for the longest time give way."""


def peer_connected(tx: Tx, key: bytes, *, server_name: str, agent: str, link: str, now_ms: int) -> None:
    """A node said who it is. Its name stays the first one."""
    tx.execute(
        "INSERT INTO peers (key, server_name, agent, link, connected, met_ms, last_seen_ms)"
        " VALUES (:key, :name, :agent, :link, 1, :now, :now) ON CONFLICT (key) DO UPDATE"
        " SET agent = :agent, link = :link, connected = 1, last_seen_ms = :now",
        {"key": key, "name": server_name, "agent": agent, "link": link, "now": now_ms},
    )
    tx.execute(
        "DELETE FROM peers WHERE connected = 0 AND key IN"
        " (SELECT key FROM peers ORDER BY connected DESC, last_seen_ms DESC LIMIT -1 OFFSET ?)",
        (PEERS_MAX,),
    )


def note_links(tx: Tx, key: bytes, links: Sequence[tuple[str, Sequence[str]]]) -> None:
    """The links that lead to a node at this moment, and the classes of messages that go over each."""
    tx.execute("DELETE FROM peer_links WHERE key = ?", (key,))
    tx.many(
        "INSERT OR REPLACE INTO peer_links (key, place, link, carries) VALUES (?, ?, ?, ?)",
        [(key, place, link, " ".join(carries)) for place, (link, carries) in enumerate(links)],
    )


def peers_seen(tx: Tx, keys: Collection[bytes], *, now_ms: int) -> None:
    """These nodes are connected at this moment."""
    tx.many("UPDATE peers SET last_seen_ms = ? WHERE key = ?", [(now_ms, key) for key in keys])


def peer_lost(tx: Tx, key: bytes, *, now_ms: int) -> None:
    tx.execute("DELETE FROM peer_links WHERE key = ?", (key,))
    tx.execute("UPDATE peers SET connected = 0, last_seen_ms = ? WHERE key = ?", (now_ms, key))


def all_peers_lost(tx: Tx) -> None:
    """At a start: whatever was connected belongs to the run before."""
    tx.execute("DELETE FROM peer_links")
    tx.execute("UPDATE peers SET connected = 0 WHERE connected = 1")


def peer_names(tx: Tx) -> list[tuple[bytes, str]]:
    """(key, server name) of all nodes that were met, the longest unseen first."""
    return [(key, name) for key, name in tx.all("SELECT key, server_name FROM peers ORDER BY last_seen_ms, key")]


def block_server(tx: Tx, key: bytes) -> bool:
    """False, if it was blocked already."""
    return tx.execute("INSERT OR IGNORE INTO blocked_servers (key) VALUES (?)", (key,)).rowcount == 1


def allow_server(tx: Tx, key: bytes) -> bool:
    """False, if it was not blocked."""
    return tx.execute("DELETE FROM blocked_servers WHERE key = ?", (key,)).rowcount == 1


def blocked_keys(tx: Tx) -> frozenset[bytes]:
    return frozenset(key for (key,) in tx.all("SELECT key FROM blocked_servers"))


def met_among(tx: Tx, server_names: Collection[str]) -> set[str]:
    """Those of the servers that were met, as far as is remembered."""
    met: set[str] = set()
    for part in chunks(sorted(server_names)):
        met.update(
            name for (name,) in tx.execute(f"SELECT server_name FROM peers WHERE server_name IN ({marks(part)})", part)
        )
    return met


@dataclass(frozen=True, slots=True)
class MetServer:
    server_name: str
    connected: bool
    last_seen_ms: int


def met_servers(tx: Tx) -> list[MetServer]:
    """The nodes that were met, by name."""
    rows = tx.all("SELECT server_name, connected, last_seen_ms FROM peers ORDER BY server_name")
    return [MetServer(name, bool(connected), last_seen_ms) for name, connected, last_seen_ms in rows]


def list_peers(tx: Tx) -> list[dict[str, Any]]:
    """For the operator, connected ones first: server_name, link, links (link and what it carries, of a connected one),
    connected, last_seen, queued, blocked, agent."""
    links: dict[bytes, list[dict[str, Any]]] = {}
    for key, link, carries in tx.all("SELECT key, link, carries FROM peer_links ORDER BY key, place"):
        links.setdefault(key, []).append({"link": link, "carries": carries.split()})
    rows = tx.all(
        """
        SELECT p.key, p.server_name, p.agent, p.link, p.connected, p.last_seen_ms, b.key IS NOT NULL,
               (SELECT count(*) FROM outbox AS o WHERE o.destination = p.server_name)
          FROM peers AS p LEFT JOIN blocked_servers AS b ON b.key = p.key
         ORDER BY p.connected DESC, p.last_seen_ms DESC, p.server_name
        """
    )
    met = [
        {
            "server_name": name,
            "link": link,
            "links": links.get(key, []) if connected else [],
            "connected": bool(connected),
            "last_seen": _time(last_seen_ms),
            "queued": queued,
            "blocked": bool(blocked),
            "agent": agent,
        }
        for key, name, agent, link, connected, last_seen_ms, blocked, queued in rows
    ]
    keys = {row[0] for row in rows}
    never_met: list[dict[str, Any]] = [
        {
            "server_name": server_name_of(key),
            "link": None,
            "links": [],
            "connected": False,
            "last_seen": None,
            "queued": 0,
            "blocked": True,
            "agent": None,
        }
        for key in sorted(blocked_keys(tx) - keys)
    ]
    return met + never_met


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def joined_rooms(tx: Tx) -> list[str]:
    """The rooms held here in which a user of this node is joined."""
    return [
        room_id
        for (room_id,) in tx.all(
            "SELECT DISTINCT m.room_id FROM local_memberships AS m JOIN rooms AS r ON r.room_id = m.room_id"
            " WHERE m.membership = 'join' ORDER BY m.room_id"
        )
    ]


def is_joined_room(tx: Tx, room_id: str) -> bool:
    """Whether a user of this node is joined in a room that is held here."""
    return (
        tx.one(
            "SELECT 1 FROM local_memberships AS m JOIN rooms AS r ON r.room_id = m.room_id"
            " WHERE m.room_id = ? AND m.membership = 'join' LIMIT 1",
            (room_id,),
        )
        is not None
    )


def events_owed(tx: Tx, destination: str, room_id: str) -> bool:
    """Whether the outbox holds events of the room for that server."""
    row = tx.one(
        "SELECT 1 FROM outbox WHERE destination = ? AND room_id = ? AND kind = 'pdu' LIMIT 1", (destination, room_id)
    )
    return row is not None


def not_in_graph(tx: Tx, event_ids: Sequence[str], *, or_parked: bool) -> list[str]:
    """Those of the events that have no place in the graph here; with `or_parked`, nor wait for one."""
    held: set[str] = set()
    for part in chunks(event_ids):
        held.update(
            event_id
            for (event_id,) in tx.execute(
                f"SELECT event_id FROM events WHERE outlier = 0 AND event_id IN ({marks(part)})", part
            )
        )
        if or_parked:
            held.update(
                event_id
                for (event_id,) in tx.execute(
                    f"SELECT event_id FROM parked_pdus WHERE event_id IN ({marks(part)})", part
                )
            )
    return [event_id for event_id in event_ids if event_id not in held]


def not_held_whole(tx: Tx, event_ids: Sequence[str], *, or_parked: bool) -> list[str]:
    """Those of the events that have no place in the graph here, or only as a redacted copy."""
    lacking = set(not_in_graph(tx, event_ids, or_parked=or_parked))
    for part in chunks(event_ids):
        lacking.update(
            event_id
            for (event_id,) in tx.execute(
                "SELECT event_id FROM events WHERE redacted_copy = 1 AND redacted_by IS NULL AND outlier = 0"
                f" AND event_id IN ({marks(part)})",
                part,
            )
        )
    return [event_id for event_id in event_ids if event_id in lacking]
