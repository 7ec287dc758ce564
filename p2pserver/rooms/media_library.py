"""Media use cases: uploads, finding and reading files, quotas, pruning, and what an operator does with them.

Files and rows change together: a file has its place before its row is committed, and loses it after its row is gone.
One lock keeps the two steps of one from falling between the two steps of another with the same content.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2pserver.errors import CannotOverwriteMedia, Forbidden, LimitExceeded, NoSpaceLeft, NotFound, TooLarge
from p2pserver.events.signing import Signer
from p2pserver.federation.media_manifest import Manifest, make_manifest, thumbnail_id, thumbnail_meant
from p2pserver.store import media as rows
from p2pserver.store.database import Database
from p2pserver.store.media import Media
from p2pserver.store.media_files import BLOCK_OCTETS, Content, Incoming, MediaFiles
from p2pserver.store.media_transfers import drop_transfer, list_transfers
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

MEDIA_ID_OCTETS = 18
"""Random: 24 characters. Whoever knows an ID can get the file, so it must not be guessed."""
ANNOUNCED_MS = 24 * 3600 * 1000
"""How long an ID waits for its upload. Source: client-server API, `POST /media/v1/create`."""
ANNOUNCED_PER_USER_MAX = 10
QUOTA_LOOK_OCTETS = 4 << 20
"""How often, in octets, it is looked whether an upload that says no length is still within the quotas."""
READ_NOTED_MS = 3600 * 1000
UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """Octets, but for `needs_token`."""

    upload_octets: int = 100 << 20
    """The largest file, uploaded here or fetched from another node."""
    user_octets: int = 2 << 30
    """What one user may upload in all."""
    own_octets: int = 10 << 30
    """What all users of this node may upload, each content counted once."""
    cache_octets: int = 1 << 30
    """Copies of other nodes' files: beyond this, the longest unread go."""
    needs_token: bool = True
    """Whether what is stored from now on is kept from the endpoints of old clients, which send no token."""


class MediaLibrary:
    """The media of one node."""

    def __init__(
        self,
        *,
        database: Database,
        files: MediaFiles,
        signer: Signer,
        limits: MediaLimits,
        wall_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.files = files
        self.limits = limits
        self._database = database
        self._signer = signer
        self._wall_ms = wall_ms
        self._random_bytes = random_bytes
        self._placing = asyncio.Lock()
        self._arriving: dict[Incoming, tuple[str, int]] = {}
        """Uploads under way: whose, and how many octets they are said to have, or have if that is more."""

    @property
    def server_name(self) -> str:
        return self._signer.server_name

    async def start(self) -> None:
        """Removes what the last run left half done. Before anything is uploaded or fetched."""
        known, wanted = await self._database.read(lambda tx: (rows.contents(tx), list_transfers(tx)))
        parts = {row.part_name for row in wanted}
        async with self._placing:
            removed = await self.files.run(lambda: self.files.sweep(known, parts))
        if removed:
            log.info("unfinished media removed", extra={"files": removed})

    # Uploads

    async def announce(self, user_id: str) -> tuple[str, int]:
        """(media ID, until when it may be uploaded, in ms since 1970).

        Raises: LimitExceeded, if too many IDs of this user wait for their uploads.
        """
        media_id, now_ms = self._new_id(), self._wall_ms()

        def unit(tx: Tx) -> None:
            rows.drop_expired(tx, now_ms)
            waiting, first_ms = rows.announced_by(tx, user_id)
            if waiting >= ANNOUNCED_PER_USER_MAX:
                raise LimitExceeded("too many uploads are waited for", retry_after_ms=max(1, first_ms - now_ms))
            rows.announce_media(
                tx,
                origin=self.server_name,
                media_id=media_id,
                user_id=user_id,
                now_ms=now_ms,
                expires_ms=now_ms + ANNOUNCED_MS,
                needs_token=self.limits.needs_token,
            )

        await self._database.write(unit)
        return media_id, now_ms + ANNOUNCED_MS

    async def upload(
        self,
        parts: AsyncIterator[bytes],
        *,
        user_id: str,
        content_type: str | None,
        filename: str | None,
        announced: str | None = None,
        octets: int | None = None,
    ) -> str:
        """Stores a file and returns its media ID, once file and row are durable.

        `announced`: the ID that was given out for it. `octets`: how many are said to come.

        Raises: TooLarge; Forbidden, beyond a quota or for somebody else's ID; NotFound, for an ID that was not given
        out or has expired; CannotOverwriteMedia; NoSpaceLeft.
        """

        def may(tx: Tx) -> None:
            if announced is not None:
                self._check_announced(tx, announced, user_id)
            self._check_quotas(tx, user_id)

        self._check_size(octets or 0)
        incoming = self.files.incoming(self._random_bytes(16).hex())
        self._arriving[incoming] = (user_id, octets or 0)
        try:
            await self._database.read(may)
            looked_at = octets or 0
            async for part in parts:
                await incoming.write(part)
                self._check_size(incoming.size)
                self._arriving[incoming] = (user_id, max(octets or 0, incoming.size))
                if incoming.size >= looked_at + QUOTA_LOOK_OCTETS:
                    looked_at = incoming.size
                    await self._database.read(may)
            content = await self.files.run(incoming.finish)
            self._arriving[incoming] = (user_id, content.size)
            media_id = announced or self._new_id()

            def unit(tx: Tx) -> None:
                may(tx)
                self._put_own(tx, media_id, user_id, content, content_type, filename)

            await self._place(incoming.path, content, unit)
        except OSError as error:
            raise no_space_or(error) from error
        finally:
            del self._arriving[incoming]
            await incoming.discard()
        return media_id

    def _put_own(
        self,
        tx: Tx,
        media_id: str,
        user_id: str | None,
        content: Content,
        content_type: str | None,
        filename: str | None,
        *,
        thumbnail_of: str | None = None,
    ) -> None:
        kind = content_type or UNKNOWN_TYPE
        manifest = make_manifest(
            self._signer,
            media_id=media_id,
            digest=content.sha256,
            size=content.size,
            content_type=kind,
            filename=filename,
            chunks=content.chunks,
        )
        rows.put_media(
            tx,
            origin=self.server_name,
            media_id=media_id,
            user_id=user_id,
            content=content,
            content_type=kind,
            filename=filename,
            manifest=json.dumps(manifest, ensure_ascii=False, separators=(",", ":")),
            now_ms=self._wall_ms(),
            needs_token=self.limits.needs_token,
            thumbnail_of=thumbnail_of,
        )

    async def _place(self, path: Path, content: Content, unit: Callable[[Tx], object]) -> None:
        """Gives a durable file its place, then runs the unit that names it; undoes the first if that fails."""
        async with self._placing:
            await self.files.run(lambda: self.files.keep(path, content))
            try:
                await self._database.write(unit)
            except BaseException:  # whatever it is, what was begun is undone, and it is raised again
                if not await self._database.read(lambda tx: rows.is_held(tx, content.sha256)):
                    await self.files.run(lambda: self.files.remove(content.sha256))
                raise

    def _check_size(self, octets: int) -> None:
        if octets > self.limits.upload_octets:
            raise TooLarge(f"a file may have {self.limits.upload_octets} octets here")

    def _check_announced(self, tx: Tx, media_id: str, user_id: str) -> None:
        found = rows.media(tx, self.server_name, media_id)
        if found is None or (found.sha256 is None and (found.expires_ms or 0) <= self._wall_ms()):
            raise NotFound("this ID was not given out, or has expired")
        if found.user_id != user_id:
            raise Forbidden("this ID was given to somebody else")
        if found.sha256 is not None:
            raise CannotOverwriteMedia("this was uploaded already")

    def _check_quotas(self, tx: Tx, user_id: str) -> None:
        """With what is under way: many uploads at once must not fill the disk."""
        arriving = list(self._arriving.values())
        own = sum(octets for of, octets in arriving if of == user_id)
        if rows.octets_of_user(tx, user_id) + own > self.limits.user_octets:
            raise Forbidden("your room for media on this node is used up")
        if rows.octets_held(tx, self.server_name)[0] + sum(octets for _, octets in arriving) > self.limits.own_octets:
            raise Forbidden("this node's room for media is used up")

    def _new_id(self) -> str:
        return urlsafe_b64encode(self._random_bytes(MEDIA_ID_OCTETS)).decode("ascii")

    async def publish_thumbnail(self, of: Media, size: str, octets: bytes, content_type: str) -> None:
        """A thumbnail of an upload becomes a file of its own, which other nodes can fetch instead of the large one.

        Raises: NotFound, if the upload was deleted meanwhile.
        """
        media_id = thumbnail_id(of.media_id, size)
        incoming = self.files.incoming(self._random_bytes(16).hex())
        try:
            await incoming.write(octets)
            content = await self.files.run(incoming.finish)

            def unit(tx: Tx) -> None:
                if rows.media_numbered(tx, of.number) is None:
                    raise NotFound("it was deleted")
                if rows.media(tx, of.origin, media_id) is None:
                    self._put_own(tx, media_id, None, content, content_type, None, thumbnail_of=of.media_id)

            await self._place(incoming.path, content, unit)
        finally:
            await incoming.discard()

    # From other nodes

    async def take_copy(self, manifest: Manifest, text: str, chunks: bytes, part: Path | None) -> None:
        """Another node's file is here, whole and checked, in `part`; or its content was held already (None).

        `text`: the JSON text of the manifest. Ends the transfer, and makes room by forgetting what was not read for
        longest. Raises: OSError.
        """
        content = Content(manifest.sha256, manifest.size, chunks)
        thumbnail = thumbnail_meant(manifest.media_id)

        def unit(tx: Tx) -> None:
            if part is None and not rows.is_held(tx, content.sha256):
                raise FileNotFoundError(errno.ENOENT, "the content is gone")
            drop_transfer(tx, manifest.origin, manifest.media_id)
            rows.put_media(
                tx,
                origin=manifest.origin,
                media_id=manifest.media_id,
                user_id=None,
                content=content,
                content_type=manifest.content_type,
                filename=manifest.filename,
                manifest=text,
                now_ms=self._wall_ms(),
                needs_token=self.limits.needs_token,
                thumbnail_of=None if thumbnail is None else thumbnail[0],
            )

        if part is None:
            await self._database.write(unit)
        else:
            await self._place(part, content, unit)
        await self.prune()

    # Reading

    async def find(self, origin: str, media_id: str) -> Media | None:
        """The row, if there is one: its content may still have to be uploaded."""
        return await self._database.read(lambda tx: rows.media(tx, origin, media_id))

    async def note_read(self, media: Media) -> None:
        """Remembers, once an hour at most, that somebody looked at it."""
        now_ms = self._wall_ms()
        if now_ms - media.read_ms >= READ_NOTED_MS:
            await self._database.write(lambda tx: rows.note_read(tx, media.number, now_ms))

    async def octets(self, sha256: bytes, start: int, end: int) -> AsyncIterator[bytes]:
        """The octets of a file from `start` to before `end`.

        Raises: OSError, if the file is gone or damaged.
        """
        path = self.files.path(sha256)
        while start < end:
            part = await self.files.read(path, start, min(BLOCK_OCTETS, end - start))
            if not part:
                raise OSError(f"{path} is too short")
            yield part
            start += len(part)

    # What an operator does. Source: Synapse's admin API, "Media"

    async def delete(self, found: Sequence[Media]) -> int:
        """Removes media and their files for good. Returns how many."""
        await self._drop([media.number for media in found])
        return len(found)

    async def delete_own(self, *, before_ms: int, larger_than: int = 0, user_id: str | None = None) -> int:
        """Removes uploads of this node that nobody read since `before_ms`. Never done without an operator's word."""
        name = self.server_name
        return await self._drop_found(
            lambda tx: rows.own_media(tx, name, before_ms=before_ms, larger_than=larger_than, user_id=user_id)
        )

    async def purge_remote(self, *, before_ms: int) -> int:
        """Removes copies of other nodes' media that nobody read since `before_ms`. Returns how many."""
        return await self._drop_found(lambda tx: rows.others_media(tx, self.server_name, before_ms=before_ms))

    async def quarantine(self, found: Sequence[Media], *, by: str | None) -> int:
        """Nobody can see these any more, but what is protected; `by` None: everybody can again. Returns how many."""
        return await self._database.write(lambda tx: rows.set_quarantined(tx, found, by))

    async def protect(self, origin: str, media_id: str, protected: bool) -> bool:
        """Whether it may be quarantined; False, if there is no such media."""
        return await self._database.write(lambda tx: rows.set_protected(tx, origin, media_id, protected))

    async def list_uploads(
        self, *, user_id: str | None = None, start: int = 0, limit: int = 100
    ) -> tuple[list[Media], int]:
        """(a page of uploads, newest first, the number of all): of one user of this node, or of all."""
        return await self._database.read(lambda tx: rows.list_media(tx, user_id=user_id, start=start, limit=limit))

    # Pruning

    async def prune(self) -> int:
        """Removes copies of other nodes' media beyond the bound, the longest unread first. Returns how many."""

        def excess(tx: Tx) -> list[int]:
            too_much = rows.octets_held(tx, self.server_name)[1] - self.limits.cache_octets
            return rows.least_used(tx, self.server_name, too_much) if too_much > 0 else []

        return await self._drop_found(excess)

    async def _drop_found(self, query: Callable[[Tx], list[int]]) -> int:
        numbers = await self._database.read(query)
        if numbers:
            await self._drop(numbers)
        return len(numbers)

    async def _drop(self, numbers: Iterable[int]) -> None:
        given = list(numbers)
        async with self._placing:
            unused = await self._database.write(lambda tx: rows.delete_media(tx, given))
            for sha256 in unused:
                with suppress(OSError):  # the next start removes it
                    await self.files.run(lambda sha256=sha256: self.files.remove(sha256))  # type: ignore[misc]


def no_space_or(error: OSError) -> Exception:
    """What a client is told when a file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceLeft("there is no space left on this device")
    return error
