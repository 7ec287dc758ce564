"""The octets of media: one file for each content, beside the database, named by its SHA-256.

    media/ab/cdef…        a whole file; `ab` and `cdef…` are the hexadecimal digits of its SHA-256
    media/incoming/…      being uploaded; what a crash left there is removed at the next start
    media/parts/…         being fetched from other nodes; kept over a restart
    media/thumbnails/ab/cdef…/   made on demand

A file is whole and durable before its name appears in the database, and leaves the database before it is removed. Work
on the disk runs in threads, off the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from p2pserver.wire.chunks import chunk_hash, chunk_octets

T = TypeVar("T")

BLOCK_OCTETS = 256 * 1024
"""Of what is read or written at a time."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds. `chunks`: the joined `chunk_hash`es of its chunks, where there is more than one."""

    sha256: bytes
    size: int
    chunks: bytes


class Incoming:
    """A file while it is being written. Exactly one of `MediaFiles.keep` and `discard` ends it."""

    def __init__(self, files: MediaFiles, path: Path) -> None:
        self._files = files
        self._path = path
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self.size = 0

    async def write(self, octets: bytes) -> None:
        """Raises: OSError, when the disk is full."""
        self._waiting += octets
        self.size += len(octets)
        if len(self._waiting) >= BLOCK_OCTETS:
            await self._files.run(self._flush)

    def _flush(self) -> None:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._path.open("x+b")
        self._hash.update(self._waiting)
        self._file.write(self._waiting)
        self._waiting.clear()

    def finish(self) -> Content:
        """Writes the rest, durably. Runs in a thread."""
        self._flush()
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        chunks = hashes_of_chunks(self._file, self.size)
        self._file.close()
        return Content(self._hash.digest(), self.size, chunks)

    @property
    def path(self) -> Path:
        return self._path

    async def discard(self) -> None:
        await self._files.run(self._remove)

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


class MediaFiles:
    """The folder. Nothing is made in it before there is something to keep."""

    def __init__(self, folder: Path, *, threads: bool = True) -> None:
        """`threads`: whether work on the disk runs in threads; a simulation on virtual time cannot wait for one."""
        self._folder = folder
        self._threads = threads

    async def run(self, work: Callable[[], T]) -> T:
        """Runs work on the disk off the event loop."""
        return await asyncio.to_thread(work) if self._threads else work()

    def path(self, sha256: bytes) -> Path:
        digits = sha256.hex()
        return self._folder / digits[:2] / digits[2:]

    def part_path(self, sha256: bytes) -> Path:
        return self._folder / "parts" / sha256.hex()

    def thumbnail_path(self, sha256: bytes, name: str) -> Path:
        digits = sha256.hex()
        return self._folder / "thumbnails" / digits[:2] / digits[2:] / name

    def incoming(self, name: str) -> Incoming:
        """A new file, under a name that nothing else has."""
        return Incoming(self, self._folder / "incoming" / name)

    def keep(self, path: Path, content: Content) -> None:
        """Gives a whole and durable file its place; one with the same content may be there. Runs in a thread."""
        target = self.path(content.sha256)
        if target.exists() and target.stat().st_size == content.size:
            path.unlink()
            return
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.replace(target)
        for folder in (target.parent, self._folder):
            _sync_folder(folder)

    def remove(self, sha256: bytes) -> None:
        """Removes a content and its thumbnails. Runs in a thread."""
        self.path(sha256).unlink(missing_ok=True)
        shutil.rmtree(self.thumbnail_path(sha256, "x").parent, ignore_errors=True)

    async def read(self, path: Path, start: int, octets: int) -> bytes:
        """Raises: OSError."""

        def work() -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(octets)

        return await self.run(work)

    def sweep(self, known: Collection[bytes], parts: Collection[bytes]) -> int:
        """Removes what no row names: unfinished uploads, files of units that did not commit. Returns how many files.

        For the start, before anything is uploaded. Runs in a thread.
        """
        removed = 0
        incoming = self._folder / "incoming"
        for path in incoming.iterdir() if incoming.is_dir() else ():
            path.unlink(missing_ok=True)
            removed += 1
        for path in self._stray(known, parts):
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    def _stray(self, known: Collection[bytes], parts: Collection[bytes]) -> Iterator[Path]:
        if not self._folder.is_dir():
            return
        for folder in list(self._folder.iterdir()):
            if folder.name == "parts":
                yield from (path for path in list(folder.iterdir()) if _octets_of(path.name) not in parts)
            elif len(folder.name) == 2 and folder.is_dir():
                yield from (path for path in list(folder.iterdir()) if _octets_of(folder.name + path.name) not in known)


def hashes_of_chunks(file: IO[bytes], size: int) -> bytes:
    """The joined hashes of the chunks of a file; b"" if there is one only, whose hash is that of the file."""
    octets = chunk_octets(size)
    if size <= octets:
        return b""
    file.seek(0)
    hashes = []
    while chunk := file.read(octets):
        hashes.append(chunk_hash(chunk))
    return b"".join(hashes)


def _octets_of(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can do that."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems of phones cannot
        os.fsync(number)
    os.close(number)
