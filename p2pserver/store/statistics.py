"""Sums over what is stored, for operators."""

from __future__ import annotations

from typing import Any

from p2pserver.store.tx import Tx


def media_by_user(tx: Tx, *, since_ms: int, until_ms: int, part: str) -> list[dict[str, Any]]:
    """user_id, displayname, media_count, media_length (octets) of each user who uploaded something between two times.

    `part`: of the user ID or of the display name.
    """
    rows = tx.all(
        "SELECT m.user_id, u.displayname, count(*), sum(m.size) FROM media AS m"
        " LEFT JOIN users AS u ON u.user_id = m.user_id WHERE m.user_id IS NOT NULL AND m.sha256 IS NOT NULL"
        " AND m.created_ms BETWEEN ? AND ? AND (instr(lower(m.user_id), lower(?))"
        " OR instr(lower(coalesce(u.displayname, '')), lower(?))) GROUP BY m.user_id ORDER BY m.user_id",
        (since_ms, until_ms, part, part),
    )
    names = ("user_id", "displayname", "media_count", "media_length")
    return [dict(zip(names, row, strict=True)) for row in rows]


def room_sizes(tx: Tx, *, most: int) -> list[dict[str, Any]]:
    """room_id and estimated_size (octets of its events) of the largest rooms."""
    rows = tx.all(
        "SELECT room_id, sum(length(raw)) AS octets FROM events GROUP BY room_id ORDER BY octets DESC, room_id LIMIT ?",
        (most,),
    )
    return [{"room_id": room_id, "estimated_size": octets} for room_id, octets in rows]
