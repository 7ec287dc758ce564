"""Other nodes' media that are wanted here. Rows live until the media is here, or nobody wanted it for long."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx

TOPIC = "media_transfers"
HOPS = 2
"""Over how many neighbors a file is looked for that nobody in reach has."""
TRANSFERS_MAX = 500
"""Of users of this node; the one asked for longest ago gives way, but none that was asked for by name."""
RELAYED_MAX = 64
RELAYED_PER_SERVER_MAX = 8
LOOKING, HELD_BACK, UNDER_WAY = "looking", "held back", "under way"

_COLUMNS = (
    "origin, media_id, requested_ms, asked, hops, for_server, manifest, chunks, state, source, octets, size, "
    "seconds_left"
)


@dataclass(frozen=True, slots=True)
class TransferRow:
    """`state`: `looking` (nobody in reach has it), `held back` (it takes so long that somebody must ask for it),
    `under way`."""

    origin: str
    media_id: str
    requested_ms: int
    asked: bool
    hops: int
    for_server: str | None
    manifest: str | None
    chunks: bytes | None
    state: str
    source: str | None
    octets: int
    size: int
    seconds_left: int | None

    @property
    def uri(self) -> str:
        return f"mxc://{self.origin}/{self.media_id}"

    def to_json(self) -> dict[str, Any]:
        """For people: without the manifest."""
        fields = ("requested_ms", "asked", "for_server", "state", "source", "octets", "size", "seconds_left")
        return {"uri": self.uri} | {name: getattr(self, name) for name in fields}

    @property
    def part_name(self) -> bytes:
        return part_name(self.origin, self.media_id)


def part_name(origin: str, media_id: str) -> bytes:
    """What the file is called in which the parts are collected: 32 octets."""
    return hashlib.sha256(f"{origin}/{media_id}".encode()).digest()


def want_media(
    tx: Tx,
    *,
    origin: str,
    media_id: str,
    now_ms: int,
    hops: int,
    asked: bool = False,
    for_server: str | None = None,
) -> bool:
    """Somebody wants it. A user's wish is more than a neighbor's, and what was asked for stays so.

    False, if too much is wanted by neighbors already.
    """
    known = tx.one("SELECT 1 FROM media_transfers WHERE origin = ? AND media_id = ?", (origin, media_id))
    if known is None and for_server is not None and not _room_for(tx, for_server):
        return False
    tx.execute(
        "INSERT INTO media_transfers (origin, media_id, requested_ms, asked, hops, for_server, state)"
        f" VALUES (?, ?, ?, ?, ?, ?, '{LOOKING}') ON CONFLICT (origin, media_id) DO UPDATE SET"
        " requested_ms = excluded.requested_ms, asked = MAX(asked, excluded.asked), hops = MAX(hops, excluded.hops),"
        " for_server = CASE WHEN excluded.for_server IS NULL THEN NULL ELSE for_server END",
        (origin, media_id, now_ms, asked, hops, for_server),
    )
    tx.execute(
        "DELETE FROM media_transfers WHERE asked = 0 AND for_server IS NULL AND (origin, media_id) NOT IN"
        " (SELECT origin, media_id FROM media_transfers WHERE for_server IS NULL ORDER BY asked DESC, requested_ms DESC"
        " LIMIT ?)",
        (TRANSFERS_MAX,),
    )
    tx.notify(TOPIC)
    return True


def _room_for(tx: Tx, server: str) -> bool:
    row = tx.one(
        "SELECT COUNT(*), COALESCE(SUM(for_server = ?), 0) FROM media_transfers WHERE for_server IS NOT NULL", (server,)
    )
    return row is None or (row[0] < RELAYED_MAX and row[1] < RELAYED_PER_SERVER_MAX)


def transfer(tx: Tx, origin: str, media_id: str) -> TransferRow | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM media_transfers WHERE origin = ? AND media_id = ?", (origin, media_id))
    return None if row is None else _of(row)


def list_transfers(tx: Tx) -> list[TransferRow]:
    """All of them, what users want first, in the order of asking."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM media_transfers ORDER BY for_server IS NOT NULL, asked DESC, requested_ms, media_id"
    )
    return [_of(row) for row in rows]


def note_manifest(tx: Tx, origin: str, media_id: str, *, manifest: str, size: int) -> None:
    tx.execute(
        "UPDATE media_transfers SET manifest = ?, size = ? WHERE origin = ? AND media_id = ?",
        (manifest, size, origin, media_id),
    )


def note_chunks(tx: Tx, origin: str, media_id: str, chunks: bytes) -> None:
    tx.execute("UPDATE media_transfers SET chunks = ? WHERE origin = ? AND media_id = ?", (chunks, origin, media_id))


def note_state(
    tx: Tx, origin: str, media_id: str, *, state: str, source: str | None, octets: int, seconds_left: int | None
) -> None:
    """How far it is, for people."""
    tx.execute(
        "UPDATE media_transfers SET state = ?, source = ?, octets = ?, seconds_left = ?"
        " WHERE origin = ? AND media_id = ?",
        (state, source, octets, seconds_left, origin, media_id),
    )


def drop_transfer(tx: Tx, origin: str, media_id: str) -> bool:
    """Whether it was wanted."""
    gone = tx.execute("DELETE FROM media_transfers WHERE origin = ? AND media_id = ?", (origin, media_id)).rowcount > 0
    tx.notify(TOPIC)
    return gone


def drop_transfers_before(tx: Tx, *, requested_ms: int, asked_ms: int, relayed_ms: int) -> None:
    """Gives up what nobody asked for since, each kind after a time of its own."""
    tx.execute(
        "DELETE FROM media_transfers WHERE requested_ms < CASE WHEN asked THEN ? WHEN for_server IS NULL THEN ? ELSE ?"
        " END",
        (asked_ms, requested_ms, relayed_ms),
    )


def _of(row: tuple[Any, ...]) -> TransferRow:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return TransferRow(**{**fields, "asked": bool(fields["asked"])})
