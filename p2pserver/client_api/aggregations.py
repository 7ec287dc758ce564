"""What relates to an event, put together for whoever is shown the event: `m.relations` of `unsigned`.

Edits, threads and references; reactions are counted by clients. Nothing of ignored users counts, nor what the user may
not see. Source: client-server API, "Aggregations of child events", "Event replacements", "Threading", "References".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.rooms.service import Rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.relations import edits_of, references_of, relation_types, thread_summary
from p2pserver.store.tx import Tx

REFERENCES_MAX = 50

Show = Callable[[StoredEvent], dict[str, Any]]


def aggregations(
    tx: Tx, rooms: Rooms, events: Sequence[StoredEvent], *, user_id: str, show: Show
) -> dict[str, dict[str, Any]]:
    """By event, what relates to it. `show`: an event in client format."""
    by_room: dict[str, list[StoredEvent]] = {}
    for event in events:
        if event.pdu.state_key is None and not event.outlier:
            by_room.setdefault(event.pdu.room_id, []).append(event)
    found: dict[str, dict[str, Any]] = {}
    for room_id, several in by_room.items():
        types = relation_types(tx, room_id, [event.pdu.event_id for event in several])
        if not types:
            continue
        gathering = _Gathering(tx, rooms, user_id, show)
        for event in several:
            related = gathering.related_to(event, types.get(event.pdu.event_id, frozenset()))
            if related:
                found[event.pdu.event_id] = related
    return found


class _Gathering:
    def __init__(self, tx: Tx, rooms: Rooms, user_id: str, show: Show) -> None:
        self._tx, self._rooms, self._user_id, self._show = tx, rooms, user_id, show
        self._ignored = ignored_users(tx, user_id)

    def related_to(self, event: StoredEvent, types: frozenset[str]) -> dict[str, Any]:
        own_type = relation_type_of(event.pdu)
        related: dict[str, Any] = {}
        if "m.replace" in types and own_type != "m.replace" and event.redacted_by is None:
            edit = self._edit_of(event.pdu)
            if edit is not None:
                related["m.replace"] = self._show(edit)
        if "m.thread" in types and own_type is None:
            thread = self._thread_on(event.pdu)
            if thread is not None:
                related["m.thread"] = thread
        if "m.reference" in types:
            chunk = self._references_to(event.pdu)
            if chunk:
                related["m.reference"] = {"chunk": chunk}
        return related

    def _edit_of(self, pdu: Pdu) -> StoredEvent | None:
        """The edit that counts: by the same sender, of the same type, the newest, with a content for its place."""
        for event_id in edits_of(self._tx, pdu.room_id, pdu.event_id, sender=pdu.sender, event_type=pdu.type):
            edit = self._visible(event_id)
            if edit is not None and (pdu.type == "m.room.encrypted" or "m.new_content" in edit.pdu.content):
                return edit
        return None

    def _thread_on(self, pdu: Pdu) -> dict[str, Any] | None:
        summary = thread_summary(self._tx, pdu.room_id, pdu.event_id, self._user_id, ignored=self._ignored)
        latest = None if summary is None else self._visible(summary.latest_event_id)
        if summary is None or latest is None:
            return None
        return {
            "count": summary.count,
            "current_user_participated": summary.participated,
            "latest_event": self._show(latest),
        }

    def _references_to(self, pdu: Pdu) -> list[dict[str, str]]:
        found = (
            self._visible(each) for each in references_of(self._tx, pdu.room_id, pdu.event_id, most=REFERENCES_MAX)
        )
        return [
            {"event_id": event.pdu.event_id}
            for event in found
            if event is not None and event.pdu.sender not in self._ignored
        ]

    def _visible(self, event_id: str) -> StoredEvent | None:
        event = self._rooms.stored(self._tx, event_id)
        return event if event is not None and self._rooms.visible_to(self._tx, self._user_id, [event])[0] else None


def relation_type_of(pdu: Pdu) -> str | None:
    """How the event relates to another; a plain reply does not."""
    relation = pdu.content.get("m.relates_to")
    kind = relation.get("rel_type") if isinstance(relation, Mapping) else None
    return kind if isinstance(kind, str) else None
