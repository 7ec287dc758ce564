"""Making a backup: a snapshot of the database of one moment, then everything into one file. The node may run."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Literal, cast

from p2pserver import __version__
from p2pserver.config import Config
from p2pserver.node.backup.container import BackupError, BackupWriter
from p2pserver.node.backup.contents import DATABASE, MANIFEST, Manifest, media_meant, media_name
from p2pserver.node.identity import DOMAIN_FILE, KEY_FILE, identity_in, sync_folder
from p2pserver.store.migrations import SchemaTooOld, check_is_current

SNAPSHOT_PREFIX = ".backup-"
PAGES_AT_ONCE = 512
SPACE_TO_SPARE_OCTETS = 8 << 20

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how many octets of it are, and how many there are in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was written. `missing`: files of media that the database names and that are gone."""

    manifest: Manifest
    missing: int


def make_backup(
    config: Config,
    target: Path | IO[bytes],
    *,
    kind: Literal["backup", "move"] = "backup",
    passphrase: str | None = None,
    replace: bool = False,
    with_media: bool = True,
    progress: Progress = lambda what, done, of: None,
    before_it_counts: Callable[[], None] = lambda: None,
) -> Made:
    """Writes a backup to a file, which is there whole or not at all, or to a stream.

    `before_it_counts` runs when everything is written durably, and before the file has its name.
    Raises: BackupError, IdentityError, SchemaTooNew, sqlite3.Error, OSError.
    """
    identity = identity_in(config.data_dir)
    if isinstance(target, Path) and target.exists() and not replace:
        raise BackupError(f"{target} exists already: nothing was written")
    with ExitStack() as stack:
        snapshot = stack.enter_context(_snapshot(config, progress))
        contents, position, server_name = _read_snapshot(snapshot)
        if server_name not in (None, identity.server_name):
            raise BackupError(f"{config.database_path} belongs to another node than the key beside it")
        sizes = [(config.data_dir / name, name) for name in (KEY_FILE, DOMAIN_FILE)]
        files = [(path, name) for path, name in sizes if path.exists()] + [(snapshot, DATABASE)]
        media, missing = _media_files(config.media_path, contents) if with_media else ([], 0)
        octets = sum(path.stat().st_size for path, _ in [*files, *media])
        manifest = Manifest(
            server_name=identity.server_name,
            created_ms=time.time_ns() // 1_000_000,
            software=f"p2pserver {__version__}",
            kind=kind,
            position=position,
            files=len(media),
            octets=octets,
        )
        if not isinstance(target, Path):
            missing += _write(target, manifest, [*files, *media], passphrase, progress)
            before_it_counts()
        else:
            require_space(target.absolute().parent, octets + octets // 50)
            with _whole_file(target, before_it_counts) as file:
                missing += _write(file, manifest, [*files, *media], passphrase, progress)
    return Made(manifest=manifest, missing=missing)


def require_space(folder: Path, octets: int) -> None:
    """Raises: BackupError, if so much does not fit on the disk; OSError, if there is no such folder."""
    free = shutil.disk_usage(folder).free
    if free < octets + SPACE_TO_SPARE_OCTETS:
        raise BackupError(
            f"not enough space in {folder}: {octets / 1e6:,.0f} MB are needed, and {free / 1e6:,.0f} MB are free"
        )


@contextmanager
def _snapshot(config: Config, progress: Progress) -> Iterator[Path]:
    """A copy of the database as of one moment, beside it, for as long as it is needed."""
    for left in config.data_dir.glob(f"{SNAPSHOT_PREFIX}*"):  # of a run that was killed
        left.unlink()
    path = config.data_dir / f"{SNAPSHOT_PREFIX}{os.getpid()}.db"
    address = config.database_path.absolute().as_uri()
    with closing(sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None)) as source:
        source.execute("PRAGMA busy_timeout = 10000")
        source.execute("BEGIN")  # from the first read on, all is of one moment, whatever the node writes meanwhile
        with suppress(SchemaTooOld):  # whoever restores it brings it up to date
            check_is_current(source)
        pages, page_octets = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        require_space(config.data_dir, pages * page_octets)

        def told(_status: int, remaining: int, total: int) -> None:
            progress("reading the database", (total - remaining) * page_octets, total * page_octets)

        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous = OFF")
                source.backup(copy, pages=PAGES_AT_ONCE, progress=told)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
            yield path
        finally:
            for name in (path.name, f"{path.name}-journal", f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)


def _read_snapshot(path: Path) -> tuple[list[tuple[bytes, int]], int, str | None]:
    """(SHA-256 and size of each content of media, the stream position, the server name)."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        has_media = conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'media_blobs'").fetchone() is not None
        contents = conn.execute("SELECT sha256, size FROM media_blobs ORDER BY sha256").fetchall() if has_media else []
        position = conn.execute("SELECT position FROM stream").fetchone()[0]
        name = conn.execute("SELECT value FROM node WHERE name = 'server_name'").fetchone()
    return contents, position, None if name is None else str(name[0])


def _media_files(folder: Path, contents: list[tuple[bytes, int]]) -> tuple[list[tuple[Path, str]], int]:
    """The files, and how many are gone: a node that runs may remove what nobody looked at for long."""
    found = [(folder.parent / media_name(sha256), media_name(sha256), size) for sha256, size in contents]
    there = [(path, name) for path, name, size in found if path.is_file() and path.stat().st_size == size]
    return there, len(found) - len(there)


@contextmanager
def _whole_file(path: Path, before_it_counts: Callable[[], None]) -> Iterator[IO[bytes]]:
    """A file that only its owner may read, and that has its name when everything in it is durable."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        before_it_counts()
        part.replace(path)
        sync_folder(path.absolute().parent)
    except BaseException:  # whatever it is, what was begun is undone, and it is raised again
        with suppress(OSError):
            part.unlink()
        raise


def _write(
    file: IO[bytes],
    manifest: Manifest,
    files: list[tuple[Path, str]],
    passphrase: str | None,
    progress: Progress,
) -> int:
    """Returns how many files were gone before they could be read: media that the node has removed meanwhile."""
    writer = BackupWriter(file, created_ms=manifest.created_ms, passphrase=passphrase)
    done = gone = 0

    def told(octets: int) -> None:
        nonlocal done
        done += octets
        progress("writing", done, manifest.octets)

    with tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        text = manifest.encode()
        tar.addfile(_entry(MANIFEST, len(text)), BytesIO(text))
        for path, name in files:
            try:
                opened = path.open("rb")
            except FileNotFoundError:
                if media_meant(name) is None:
                    raise
                gone += 1
                continue
            with opened:
                reading = cast("IO[bytes]", _Counted(opened, told))
                tar.addfile(_entry(name, os.fstat(opened.fileno()).st_size), reading)
    writer.finish()
    return gone


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


class _Counted:
    """A file of which it is told how much was read."""

    def __init__(self, file: IO[bytes], told: Callable[[int], None]) -> None:
        self._file, self._told = file, told

    def read(self, octets: int) -> bytes:
        taken = self._file.read(octets)
        self._told(len(taken))
        return taken
