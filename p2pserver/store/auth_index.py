"""The index over auth graphs (`meg.auth_index`) in tables: written with each state event, read one row at a time."""

from __future__ import annotations

from collections.abc import Iterator

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth_index import AuthNode, NotIndexed, node_for
from p2pserver.meg.chains import EventFacts
from p2pserver.meg.state import StateSlot
from p2pserver.store import events
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

CACHED_NODES_MAX = 20_000
CACHED_CITING_MAX = 20_000
"""Events in lists of those that cite an event, about 150 octets each."""
_CITING = "citing"


class StoredAuthIndex:
    """The `AuthIndex` of all events that are held."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        cache: Lru[str, AuthNode] | None = tx.caches.get("auth_nodes")
        if cache is None:
            cache = tx.caches["auth_nodes"] = Lru(CACHED_NODES_MAX)
        self._cache = cache

    def node(self, event_id: str) -> AuthNode:
        known = self._cache.get(event_id)
        if known is None:
            row = self._tx.one("SELECT level, spine, depth, jump FROM auth_nodes WHERE event_id = ?", (event_id,))
            known = AuthNode(*row) if row is not None else self._computed(event_id)[event_id]
            self._cache.put(event_id, known)
        return known

    def citing(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        if not self._tx.told:
            return self._citing_read(event_id)
        cache = self._citing_cache()
        known = cache.get(event_id)
        if known is None:
            known = tuple(self._citing_read(event_id))
            cache.put(event_id, known)
        return iter(known)

    def _citing_read(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        for other, event_type, state_key in self._tx.execute(
            "SELECT a.event_id, e.type, e.state_key FROM auth_edges AS a JOIN events AS e ON e.event_id = a.event_id"
            " WHERE a.auth_event_id = ?",
            (event_id,),
        ):
            yield other, (event_type, state_key)

    def _citing_cache(self) -> Lru[str, tuple[tuple[str, StateSlot], ...]]:
        cache: Lru[str, tuple[tuple[str, StateSlot], ...]] | None = self._tx.caches.get(_CITING)
        if cache is None:
            cache = self._tx.caches[_CITING] = Lru(CACHED_CITING_MAX, lambda citing: 1 + len(citing))
        return cache

    def add(self, event: Pdu) -> None:
        """Indexes a state event that has just been kept; what it cites and is not in the tables yet, too."""
        if not event.is_state:
            return
        for cited in event.auth_events:
            self._citing_cache().drop(cited)
        self._tx.many(
            "INSERT OR IGNORE INTO auth_edges (auth_event_id, event_id) VALUES (?, ?)",
            [(cited, event.event_id) for cited in dict.fromkeys(event.auth_events)],
        )
        try:
            made = self._computed(event.event_id)
        except NotIndexed:
            return
        self._tx.many(
            "INSERT OR IGNORE INTO auth_nodes (event_id, level, spine, depth, jump) VALUES (?, ?, ?, ?, ?)",
            [(each, node.level, node.spine, node.depth, node.jump) for each, node in made.items()],
        )

    def _computed(self, event_id: str) -> dict[str, AuthNode]:
        """The node of an event that has no row, after those of all that it needs. Raises: NotIndexed."""
        made: dict[str, AuthNode] = {}
        path = [event_id]
        slots: dict[str, StateSlot | None] = {}
        while path:
            at = path[-1]
            event = events.pdu(self._tx, at)
            if event is None:
                raise NotIndexed(at)
            facts = EventFacts.of(event)
            slots[at] = facts.slot
            lacking = [cited for cited in facts.auth_ids if cited not in made and not self._has_row(cited)]
            if lacking:
                path += lacking
                continue
            path.pop()
            if at not in made:
                spine = next((each for each in facts.auth_ids if self._slot_of(each, slots) == facts.slot), None)
                made[at] = node_for(self, facts.auth_ids, spine)
                self._cache.put(at, made[at])
        return made

    def _has_row(self, event_id: str) -> bool:
        if self._cache.get(event_id) is not None:
            return True
        row = self._tx.one("SELECT level, spine, depth, jump FROM auth_nodes WHERE event_id = ?", (event_id,))
        if row is not None:
            self._cache.put(event_id, AuthNode(*row))
        return row is not None

    def _slot_of(self, event_id: str, known: dict[str, StateSlot | None]) -> StateSlot | None:
        if event_id not in known:
            event = events.pdu(self._tx, event_id)
            known[event_id] = None if event is None else event.state_slot
        return known[event_id]


def forget_outliers(tx: Tx, room_id: str) -> None:
    """To be called before the outliers of a room are dropped."""
    for (event_id,) in tx.all("SELECT event_id FROM events WHERE room_id = ? AND outlier = 1", (room_id,)):
        event = events.pdu(tx, event_id)
        tx.execute("DELETE FROM auth_nodes WHERE event_id = ?", (event_id,))
        tx.many(
            "DELETE FROM auth_edges WHERE auth_event_id = ? AND event_id = ?",
            [] if event is None else [(cited, event_id) for cited in event.auth_events],
        )
    tx.caches.pop("auth_nodes", None)
    tx.caches.pop(_CITING, None)
