"""What is known of media: who uploaded it, what it is, which file holds it. One row for each `mxc://origin/media_id`.

All functions run inside a unit of work. Files are removed by `rooms.media_library`, after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.errors import CannotOverwriteMedia
from p2pserver.store.media_files import Content
from p2pserver.store.tx import Tx

_COLUMNS = (
    "number, origin, media_id, user_id, sha256, size, content_type, filename, manifest, created_ms, expires_ms, "
    "read_ms, needs_token, quarantined_by, protected"
)


@dataclass(frozen=True, slots=True)
class Media:
    """A row. `sha256` is None while only the ID was given out, until `expires_ms`."""

    number: int
    origin: str
    media_id: str
    user_id: str | None
    sha256: bytes | None
    size: int
    content_type: str | None
    filename: str | None
    manifest: str | None
    created_ms: int
    expires_ms: int | None
    read_ms: int
    needs_token: bool
    quarantined_by: str | None
    protected: bool

    @property
    def uri(self) -> str:
        return f"mxc://{self.origin}/{self.media_id}"

    def to_json(self) -> dict[str, Any]:
        """The fields that Synapse's admin API gives."""
        return {
            "media_id": self.media_id,
            "origin": self.origin,
            "user_id": self.user_id,
            "media_type": self.content_type,
            "media_length": self.size,
            "upload_name": self.filename,
            "created_ts": self.created_ms,
            "last_access_ts": self.read_ms,
            "quarantined_by": self.quarantined_by,
            "safe_from_quarantine": self.protected,
        }


def topic(origin: str, media_id: str) -> str:
    """Notified when the content is here."""
    return f"media:{origin}/{media_id}"


def media(tx: Tx, origin: str, media_id: str) -> Media | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM media WHERE origin = ? AND media_id = ?", (origin, media_id))
    return None if row is None else _of(row)


def media_numbered(tx: Tx, number: int) -> Media | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM media WHERE number = ?", (number,))
    return None if row is None else _of(row)


def announce_media(
    tx: Tx, *, origin: str, media_id: str, user_id: str, now_ms: int, expires_ms: int, needs_token: bool
) -> None:
    """An ID for something that will be uploaded."""
    tx.execute(
        "INSERT INTO media (origin, media_id, user_id, created_ms, expires_ms, read_ms, needs_token)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (origin, media_id, user_id, now_ms, expires_ms, now_ms, needs_token),
    )


def put_media(
    tx: Tx,
    *,
    origin: str,
    media_id: str,
    user_id: str | None,
    content: Content,
    content_type: str,
    filename: str | None,
    manifest: str,
    now_ms: int,
    needs_token: bool,
    thumbnail_of: str | None = None,
) -> None:
    """The content is in its file: it has the ID from now on, which may have been announced. What an ID names never
    changes.

    Raises: CannotOverwriteMedia.
    """
    tx.execute(
        "INSERT OR IGNORE INTO media_blobs (sha256, size, chunks) VALUES (?, ?, ?)",
        (content.sha256, content.size, content.chunks),
    )
    put = tx.execute(
        "INSERT INTO media (origin, media_id, user_id, sha256, size, content_type, filename, manifest, created_ms,"
        " read_ms, needs_token, thumbnail_of) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (origin, media_id) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size,"
        " content_type = excluded.content_type, filename = excluded.filename, manifest = excluded.manifest,"
        " expires_ms = NULL, read_ms = excluded.read_ms WHERE media.sha256 IS NULL",
        (
            origin,
            media_id,
            user_id,
            content.sha256,
            content.size,
            content_type,
            filename,
            manifest,
            now_ms,
            now_ms,
            needs_token,
            thumbnail_of,
        ),
    )
    if put.rowcount == 0:
        raise CannotOverwriteMedia("there is something under this ID already")
    tx.notify(topic(origin, media_id))


def drop_expired(tx: Tx, now_ms: int) -> None:
    """Forgets IDs under which nothing was uploaded in time."""
    tx.execute("DELETE FROM media WHERE sha256 IS NULL AND expires_ms <= ?", (now_ms,))


def announced_by(tx: Tx, user_id: str) -> tuple[int, int]:
    """(how many IDs wait for an upload of this user, when the first of them expires or 0)."""
    row = tx.one("SELECT COUNT(*), MIN(expires_ms) FROM media WHERE user_id = ? AND sha256 IS NULL", (user_id,))
    assert row is not None
    return row[0], row[1] or 0


def chunks_of(tx: Tx, sha256: bytes) -> bytes | None:
    """The hashes of the chunks of a content, b"" for one of one chunk; None, if it is not held."""
    row = tx.one("SELECT chunks FROM media_blobs WHERE sha256 = ?", (sha256,))
    return None if row is None else bytes(row[0])


def is_held(tx: Tx, sha256: bytes) -> bool:
    return tx.one("SELECT 1 FROM media_blobs WHERE sha256 = ?", (sha256,)) is not None


def contents(tx: Tx) -> set[bytes]:
    """The SHA-256 of everything that is held."""
    return {row[0] for row in tx.all("SELECT sha256 FROM media_blobs")}


def octets_of_user(tx: Tx, user_id: str) -> int:
    """What a user uploaded, each upload counted."""
    row = tx.one("SELECT COALESCE(SUM(size), 0) FROM media WHERE user_id = ?", (user_id,))
    return 0 if row is None else int(row[0])


def octets_held(tx: Tx, own_name: str) -> tuple[int, int]:
    """(octets of files with an upload of this node, octets of all others), each content counted once."""
    row = tx.one(
        "SELECT COALESCE(SUM(CASE WHEN own THEN size END), 0), COALESCE(SUM(CASE WHEN NOT own THEN size END), 0) FROM"
        " (SELECT size, EXISTS (SELECT 1 FROM media WHERE media.sha256 = media_blobs.sha256 AND origin = ?) AS own"
        " FROM media_blobs)",
        (own_name,),
    )
    assert row is not None
    return int(row[0]), int(row[1])


def note_read(tx: Tx, number: int, now_ms: int) -> None:
    """Somebody looked at it: the least used of other nodes' media go first."""
    tx.execute("UPDATE media SET read_ms = ? WHERE number = ?", (now_ms, number))


def list_media(tx: Tx, *, user_id: str | None = None, start: int = 0, limit: int = 100) -> tuple[list[Media], int]:
    """(a page of what was uploaded here, newest first, the number of all): of one user, or of all."""
    where, params = ("user_id = ?", [user_id]) if user_id is not None else ("user_id IS NOT NULL", [])
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM media WHERE {where} AND sha256 IS NOT NULL"
        " ORDER BY created_ms DESC, number DESC LIMIT ? OFFSET ?",
        (*params, limit, start),
    )
    count = tx.one(f"SELECT COUNT(*) FROM media WHERE {where} AND sha256 IS NOT NULL", params)
    return [_of(row) for row in rows], 0 if count is None else count[0]


def set_quarantined(tx: Tx, found: Sequence[Media], by: str | None) -> int:
    """Nobody can see these any more; `by` None: everybody can again. What is protected stays. Returns how many."""
    changed = 0
    for each in found:
        changed += tx.execute(
            "UPDATE media SET quarantined_by = ? WHERE number = ? AND (protected = 0 OR ? IS NULL)",
            (by, each.number, by),
        ).rowcount
        tx.execute(
            "UPDATE media SET quarantined_by = (SELECT quarantined_by FROM media WHERE number = ?)"
            " WHERE origin = ? AND thumbnail_of = ?",
            (each.number, each.origin, each.media_id),
        )
    return changed


def set_protected(tx: Tx, origin: str, media_id: str, protected: bool) -> bool:
    """Whether it may be quarantined; False, if there is no such media."""
    changed = tx.execute(
        "UPDATE media SET protected = ? WHERE origin = ? AND media_id = ?", (protected, origin, media_id)
    )
    return changed.rowcount > 0


def delete_media(tx: Tx, numbers: Sequence[int]) -> list[bytes]:
    """Deletes rows, and those of their thumbnails. Returns the contents that nothing names any more: their files are to
    be removed."""
    unused: list[bytes] = []
    thumbnails = [
        thumbnail
        for number in numbers
        for (thumbnail,) in tx.all(
            "SELECT other.number FROM media AS of JOIN media AS other"
            " ON other.origin = of.origin AND other.thumbnail_of = of.media_id WHERE of.number = ?",
            (number,),
        )
    ]
    for number in (*numbers, *thumbnails):
        row = tx.one("SELECT sha256 FROM media WHERE number = ?", (number,))
        tx.execute("DELETE FROM media WHERE number = ?", (number,))
        if row is None or row[0] is None or tx.one("SELECT 1 FROM media WHERE sha256 = ?", row) is not None:
            continue
        tx.execute("DELETE FROM media_blobs WHERE sha256 = ?", row)
        unused.append(row[0])
    return unused


def own_media(tx: Tx, own_name: str, *, before_ms: int, larger_than: int = 0, user_id: str | None = None) -> list[int]:
    """The numbers of uploads of this node that nobody read since `before_ms`, for an operator's cleanup."""
    rows = tx.all(
        "SELECT number FROM media WHERE origin = ? AND read_ms < ? AND size > ? AND sha256 IS NOT NULL"
        " AND protected = 0 AND (? IS NULL OR user_id = ?)",
        (own_name, before_ms, larger_than, user_id, user_id),
    )
    return [number for (number,) in rows]


def others_media(tx: Tx, own_name: str, *, before_ms: int) -> list[int]:
    """The numbers of copies of other nodes' media that nobody read since `before_ms`."""
    rows = tx.all(
        "SELECT number FROM media WHERE origin <> ? AND read_ms < ? AND quarantined_by IS NULL", (own_name, before_ms)
    )
    return [number for (number,) in rows]


def least_used(tx: Tx, own_name: str, octets: int) -> list[int]:
    """Copies of other nodes' media, the longest unread first, until they make up so many octets."""
    found: list[int] = []
    rows = tx.execute(
        "SELECT number, size FROM media WHERE origin <> ? AND quarantined_by IS NULL ORDER BY read_ms", (own_name,)
    )
    for number, size in rows:
        if octets <= 0:
            break
        found.append(number)
        octets -= size
    return found


def _of(row: tuple[Any, ...]) -> Media:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Media(**{**fields, "needs_token": bool(fields["needs_token"]), "protected": bool(fields["protected"])})
