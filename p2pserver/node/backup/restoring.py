"""Reading a backup: checking it, and making a data folder of it, which is there whole or is none that a node runs on.

    DIR/.restoring/           everything is written here first, and checked
    DIR/media, p2pserver.db, domain, signing.key        moved to their places when all is durable, the key last

While `.restoring` is there nothing runs on the folder, and another restore begins anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, cast

from p2pserver.node.backup.container import BackupError, BackupReader, Header
from p2pserver.node.backup.contents import (
    DATABASE,
    MANIFEST,
    MANIFEST_OCTETS_MAX,
    Manifest,
    is_expected,
    media_meant,
)
from p2pserver.node.backup.making import Progress, require_space
from p2pserver.node.identity import (
    DOMAIN_FILE,
    KEY_FILE,
    LOCK_FILE,
    RESTORING_FOLDER,
    IdentityError,
    identity_in,
    identity_of,
    locked,
    sync_folder,
    write_identity,
)
from p2pserver.rooms.anew import give_up_overdue, go_on_anew
from p2pserver.store.media import delete_media
from p2pserver.store.migrations import SchemaTooNew, migrate
from p2pserver.store.runs import begin_life, last_run_went_on
from p2pserver.store.tx import Tx

BLOCK_OCTETS: Final = 256 * 1024
_PLACES: Final = ("media", DATABASE, DOMAIN_FILE, KEY_FILE)
"""In the order in which they get their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a backup holds, as it was read to the end. `missing`: contents of media that its database names in vain."""

    manifest: Manifest
    media: int
    missing: int
    users: int
    rooms: int


def restore(
    file: IO[bytes],
    data_dir: Path,
    *,
    passphrase: Callable[[Header], str],
    progress: Progress = lambda what, done, of: None,
    now_ms: int,
) -> Found:
    """Makes a data folder of a backup. `passphrase` is asked if it is encrypted.

    Raises: BackupError; IdentityError, if a node runs there; SchemaTooNew; OSError. Nothing has changed then.
    """
    staging = _begin(data_dir)
    with locked(data_dir):
        try:
            found = _unpack(file, staging, passphrase, progress, partial(settle, now_ms=now_ms))
        except BaseException:  # whatever it is, what was begun is undone, and it is raised again
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _give_places(staging, data_dir)
    return found


def check(
    file: IO[bytes],
    scratch: Path,
    *,
    passphrase: Callable[[Header], str],
    progress: Progress = lambda what, done, of: None,
) -> Found:
    """Reads a backup to its end, as `restore` does, into a folder that can be thrown away.

    Raises: BackupError; SchemaTooNew; OSError.
    """
    return _unpack(file, scratch, passphrase, progress, lambda tx, manifest: None, keep_media=False)


def restore_key(data_dir: Path, seed: bytes, domain: str | None) -> None:
    """Makes a data folder of a key alone. Raises: BackupError, IdentityError, OSError."""
    staging = _begin(data_dir)
    with locked(data_dir):
        server_name = identity_of(seed, domain=domain).server_name
        with closing(sqlite3.connect(staging / DATABASE, isolation_level=None)) as conn:
            conn.execute("PRAGMA synchronous = FULL")
            migrate(conn)
            tx = Tx(conn, {})
            tx.execute("INSERT INTO node (name, value) VALUES ('server_name', ?)", (server_name,))
            begin_life(tx)
        (staging / DATABASE).chmod(0o600)
        write_identity(staging, seed, domain)
        _give_places(staging, data_dir)


def settle(tx: Tx, manifest: Manifest, *, now_ms: int) -> None:
    """What the node did after the backup is not known here. After a move there is nothing that is not."""
    if manifest.kind == "backup":
        last_run_went_on(tx)
        go_on_anew(tx)
        give_up_overdue(tx, now_ms)


def _give_places(staging: Path, data_dir: Path) -> None:
    for name in _PLACES:
        if (staging / name).exists():
            (staging / name).replace(data_dir / name)
    sync_folder(data_dir)
    shutil.rmtree(staging)
    sync_folder(data_dir)


def _begin(data_dir: Path) -> Path:
    """The folder to write to first. Raises: BackupError, if there is something in the data folder."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = data_dir / RESTORING_FOLDER
    if staging.exists():  # what else is there was moved out of it
        with locked(data_dir):
            for name in (*_PLACES, RESTORING_FOLDER):
                path = data_dir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if any(path.name != LOCK_FILE for path in data_dir.iterdir()):
        raise BackupError(f"{data_dir} is not empty: nothing was changed; name another --data-dir, or empty this one")
    staging.mkdir(mode=0o700)
    sync_folder(data_dir)
    return staging


def _unpack(
    file: IO[bytes],
    folder: Path,
    passphrase: Callable[[Header], str],
    progress: Progress,
    settled: Callable[[Tx, Manifest], None],
    *,
    keep_media: bool = True,
) -> Found:
    reader = BackupReader(file)
    if reader.header.is_encrypted:
        reader.unlock(passphrase(reader.header))
    media: set[bytes] = set()
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as tar:
            manifest = _manifest(tar, tar.next())
            require_space(folder, manifest.octets)
            done = 0

            def told(octets: int) -> None:
                nonlocal done
                done += octets
                progress("reading", done, manifest.octets)

            while (entry := tar.next()) is not None:
                cast("Any", tar).members.clear()  # a list of all of them is of no use here
                content = media_meant(entry.name)
                if not entry.isreg() or not is_expected(entry.name):
                    raise BackupError(f"the backup holds {entry.name!r}, which is no file of a node")
                target = folder / entry.name if content is None or keep_media else None
                _extract(tar, entry, target, content, told)
                if content is not None:
                    media.add(content)
    except (tarfile.TarError, UnicodeError) as error:
        raise BackupError(f"the backup is damaged: {error}") from None
    reader.finish()
    try:
        if identity_in(folder).server_name != manifest.server_name:
            raise BackupError("the key in the backup is not of the node that it says")
    except IdentityError:
        raise BackupError("the backup is damaged: there is no key in it") from None
    return _look_through(folder, manifest, media, settled)


def _manifest(tar: tarfile.TarFile, entry: tarfile.TarInfo | None) -> Manifest:
    if entry is None or entry.name != MANIFEST or not entry.isreg() or entry.size > MANIFEST_OCTETS_MAX:
        raise BackupError("the backup is damaged: it does not say what it holds")
    opened = tar.extractfile(entry)
    assert opened is not None
    return Manifest.decode(opened.read())


def _extract(
    tar: tarfile.TarFile,
    entry: tarfile.TarInfo,
    target: Path | None,
    content: bytes | None,
    told: Callable[[int], None],
) -> None:
    """Writes a file durably; of media, checks that it is what its name says. `target` None: checks only."""
    opened = tar.extractfile(entry)
    assert opened is not None
    digest = hashlib.sha256()
    if target is not None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    else:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        while octets := opened.read(BLOCK_OCTETS):
            digest.update(octets)
            file.write(octets)
            told(len(octets))
        if target is not None:
            file.flush()
            os.fsync(file.fileno())
    if target is not None:
        sync_folder(target.parent)
    if content is not None and digest.digest() != content:
        raise BackupError(f"the backup is damaged: {entry.name} is not what it was")


def _look_through(
    folder: Path, manifest: Manifest, media: set[bytes], settled: Callable[[Tx, Manifest], None]
) -> Found:
    """The database is a sound one of this node, brought up to date, and names no media that are not there."""
    path = folder / DATABASE
    if not path.exists():
        raise BackupError("the backup is damaged: there is no database in it")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA synchronous = FULL")
            if (found := conn.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise BackupError(f"the database in the backup is damaged: {found}")
            migrate(conn)
            conn.execute("BEGIN IMMEDIATE")
            tx = Tx(conn, {})
            name = tx.one("SELECT value FROM node WHERE name = 'server_name'")
            if name is not None and name[0] != manifest.server_name:
                raise BackupError("the database in the backup is of another node than the key")
            missing = _forget_missing(tx, manifest.server_name, media)
            settled(tx, manifest)
            conn.execute("UPDATE stream SET position = ?", (tx.position(),))
            counts = [int((tx.one(f"SELECT COUNT(*) FROM {table}") or (0,))[0]) for table in ("users", "rooms")]
            conn.execute("COMMIT")
    except SchemaTooNew:
        raise
    except sqlite3.Error as error:
        raise BackupError(f"the database in the backup is damaged: {error}") from None
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return Found(manifest=manifest, media=len(media), missing=missing, users=counts[0], rooms=counts[1])


def _forget_missing(tx: Tx, server_name: str, held: set[bytes]) -> int:
    """Media of other nodes whose files are not here are fetched again; returns how many contents are missing in all."""
    missing = [sha256 for (sha256,) in tx.all("SELECT sha256 FROM media_blobs") if sha256 not in held]
    for sha256 in missing:
        rows = tx.all("SELECT number FROM media WHERE sha256 = ? AND origin != ?", (sha256, server_name))
        delete_media(tx, [number for (number,) in rows])
    return len(missing)
