"""The full-text index over what people wrote, by SQLite's FTS5.

An event is noted in the commit that keeps it; its words are taken in together with those of others, when somebody
searches or when there are many. A redaction takes the words out at once. Messages are found by their newest text, room
names and topics by theirs. Encrypted events have no words here. Source: client-server API, "Server Side Search".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.store.relations import newest_edit
from p2pserver.store.tx import Tx

TEXT_CHARACTERS_MAX = 8_000
"""Of one event; what comes after is not found."""
PENDING_MAX = 256
"""Events that wait for being taken in."""
WORDS_MAX = 32
"""Of one search."""
KEYS = {"m.room.message": "content.body", "m.room.name": "content.name", "m.room.topic": "content.topic"}
"""Which part of which event is searched. Source: `keys` of `POST /search`."""
_KEY = (
    "CASE type WHEN 'm.room.message' THEN 'content.body' WHEN 'm.room.name' THEN 'content.name'"
    " ELSE 'content.topic' END"
)
_REL_TYPE = """json_extract(CAST(events.raw AS TEXT), '$.content."m.relates_to".rel_type')"""
_RELATED_TARGET = """json_extract(CAST(related.raw AS TEXT), '$.content."m.relates_to".event_id')"""
_SHOWN = "outlier = 0 AND redacted_copy = 0 AND redacted_by IS NULL AND verdict != 'rejected'"
_WORDY = (
    f"{_SHOWN} AND ifnull(state_key, '-') = CASE type WHEN 'm.room.message' THEN '-' ELSE '' END"
    f" AND json_type(CAST(raw AS TEXT), '$.' || {_KEY}) = 'text'"
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Found:
    event_id: str
    rank: float
    """The greater, the better it fits."""


def note(tx: Tx, event_id: str, event_type: str) -> None:
    """After an event was placed or replaced by another copy."""
    if event_type not in KEYS:
        return
    noted = tx.execute("INSERT INTO search_pending (event_id) VALUES (?)", (event_id,))
    if noted.lastrowid is not None and noted.lastrowid >= PENDING_MAX:
        take_in(tx)


def take_in(tx: Tx) -> None:
    """Brings the index up to date. To be called before a search, where `is_behind` says so.

    What is neither an edit nor edited nor known already, which is nearly all, goes in at once.
    """
    others = tx.all(
        f"SELECT DISTINCT event_id FROM search_pending JOIN events USING (event_id) WHERE {_REL_TYPE} = 'm.replace'"
        " OR EXISTS (SELECT 1 FROM search_entries WHERE search_entries.event_id = search_pending.event_id)"
        " OR EXISTS (SELECT 1 FROM events AS related WHERE related.room_id = events.room_id AND"
        f" {_RELATED_TARGET} = events.event_id || '') ORDER BY number"  # without affinity, or the index is not used
    )
    newest = tx.one("SELECT max(number) FROM search_entries")
    tx.execute(
        "INSERT OR IGNORE INTO search_entries (event_id, room_id, key, origin_server_ts)"
        f" SELECT event_id, room_id, {_KEY}, origin_server_ts FROM search_pending JOIN events USING (event_id)"
        f" WHERE {_WORDY} AND {_REL_TYPE} IS NOT 'm.replace' ORDER BY search_pending.number"
    )
    tx.execute(
        "INSERT INTO search_texts (rowid, text)"
        f" SELECT number, substr(json_extract(CAST(raw AS TEXT), '$.' || key), 1, {TEXT_CHARACTERS_MAX})"
        " FROM search_entries JOIN events USING (event_id) WHERE number > ?",
        (0 if newest is None or newest[0] is None else newest[0],),
    )
    for (event_id,) in others:
        _refresh(tx, event_id)
    tx.execute("DELETE FROM search_pending")


def is_behind(tx: Tx) -> bool:
    return tx.one("SELECT 1 FROM search_pending LIMIT 1") is not None


def forget(tx: Tx, event_id: str, event_type: str, content: Mapping[str, Any]) -> None:
    """After an event was redacted: its words are gone. `content` is what it said; an edit gives the older text back."""
    if event_type not in KEYS:
        return
    _refresh(tx, event_id)
    edited = edited_by(event_type, content)
    if edited is not None:
        _refresh(tx, edited)


def forget_user(tx: Tx, user_id: str) -> None:
    """The words of all that a user said are gone."""
    said = "(SELECT event_id FROM events WHERE sender = ? AND state_key IS NULL)"
    tx.execute(
        f"DELETE FROM search_texts WHERE rowid IN (SELECT number FROM search_entries WHERE event_id IN {said})",
        (user_id,),
    )
    for table in ("search_entries", "search_pending"):
        tx.execute(f"DELETE FROM {table} WHERE event_id IN {said}", (user_id,))


def edited_by(event_type: str, content: Mapping[str, Any]) -> str | None:
    """The event that a message replaces, as it says."""
    relation = content.get("m.relates_to")
    if event_type != "m.room.message" or not isinstance(relation, Mapping) or relation.get("rel_type") != "m.replace":
        return None
    target = relation.get("event_id")
    return target if isinstance(target, str) else None


def words_of(term: str) -> list[str]:
    """The words of a search term, lower-cased, each once."""
    return list(dict.fromkeys(word.casefold() for word in _WORD.findall(term)))[:WORDS_MAX]


def search(
    tx: Tx, words: Collection[str], *, rooms: Collection[str], keys: Collection[str], recent: bool, most: int, skip: int
) -> list[Found]:
    """Events of these rooms that hold all words, the last one also as the beginning of a word.

    The best first, or the newest by their own clock. At most `most`, after the first `skip`.
    """
    if not words or not rooms or not keys:
        return []
    match = " ".join(f'"{word}"' for word in words) + "*"
    order = "search_entries.origin_server_ts DESC, number DESC" if recent else "relevance, number DESC"
    rows = tx.all(
        "SELECT event_id, bm25(search_texts) AS relevance FROM search_texts"
        " JOIN search_entries ON number = search_texts.rowid WHERE search_texts MATCH ?"
        " AND room_id IN (SELECT value FROM json_each(?)) AND key IN (SELECT value FROM json_each(?))"
        f" ORDER BY {order} LIMIT ? OFFSET ?",
        (match, json.dumps(list(rooms)), json.dumps(list(keys)), most, skip),
    )
    return [Found(event_id, -relevance) for event_id, relevance in rows]


def _refresh(tx: Tx, event_id: str, *, follow: bool = True) -> None:
    """Writes the words of an event as they are now; of an edit, those of the event that it edits."""
    row = tx.one(
        "SELECT room_id, type, state_key, sender, origin_server_ts, CAST(raw AS TEXT) FROM events"
        f" WHERE event_id = ? AND {_SHOWN}",
        (event_id,),
    )
    text = None
    if row is not None:
        room_id, event_type, state_key, sender, _, raw = row
        content = json.loads(raw).get("content")
        content = content if isinstance(content, dict) else {}
        edited = edited_by(event_type, content)
        if edited is not None and follow:
            _refresh(tx, edited, follow=False)
        elif edited is None and state_key == (None if event_type == "m.room.message" else ""):
            text = _text(tx, event_id, room_id, event_type, sender, content)
    known = tx.one("SELECT number FROM search_entries WHERE event_id = ?", (event_id,))
    if row is None or text is None:
        if known is not None:
            tx.execute("DELETE FROM search_texts WHERE rowid = ?", known)
            tx.execute("DELETE FROM search_entries WHERE number = ?", known)
    elif known is not None:
        tx.execute("UPDATE search_texts SET text = ? WHERE rowid = ?", (text, *known))
    else:
        made = tx.execute(
            "INSERT INTO search_entries (event_id, room_id, key, origin_server_ts) VALUES (?, ?, ?, ?)",
            (event_id, row[0], KEYS[row[1]], row[4]),
        )
        tx.execute("INSERT INTO search_texts (rowid, text) VALUES (?, ?)", (made.lastrowid, text))


def _text(tx: Tx, event_id: str, room_id: str, event_type: str, sender: str, content: Mapping[str, Any]) -> str | None:
    """What an event that is held says now; None, if it has no words."""
    if event_type == "m.room.message":
        content = newest_edit(tx, room_id, event_id, sender=sender, event_type=event_type) or content
    text = content.get(KEYS[event_type].removeprefix("content."))
    return text[:TEXT_CHARACTERS_MAX] if isinstance(text, str) and text else None
