"""`p2pserver backup`, `restore`, `move`, `recovery-key`: one file there and back, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from p2pserver.cli import cli
from p2pserver.config import Config
from p2pserver.node.backup import container, making, restoring
from p2pserver.node.backup.container import FRAME_OCTETS, BackupError, BackupReader, BackupWriter
from p2pserver.node.backup.contents import Manifest, media_name
from p2pserver.node.backup.making import make_backup
from p2pserver.node.identity import IdentityError, load_identity
from p2pserver.node.recovery_key import RecoveryKeyError, decode_recovery_key, encode_recovery_key
from p2pserver.store import migrations

PICTURE = bytes(range(256)) * 600
"""Over two frames, so that a cut falls into it."""


def p2pserver(*arguments: str | Path, typed: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], input=typed)


def done(*arguments: str | Path, typed: str | None = None) -> str:
    result = p2pserver(*arguments, typed=typed)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path, typed: str | bytes | None = None) -> str:
    result = p2pserver(*arguments, typed=typed)
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1, result.output
    assert result.output.startswith("p2pserver: ")
    return result.output


def put_media(folder: Path, octets: bytes, origin: str) -> str:
    """As if somebody had uploaded it; returns the name of its file."""
    sha256 = hashlib.sha256(octets).digest()
    path = folder / media_name(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)
    with closing(sqlite3.connect(folder / "p2pserver.db")) as conn:
        conn.execute("INSERT INTO media_blobs (sha256, size, chunks) VALUES (?, ?, '')", (sha256, len(octets)))
        conn.execute(
            "INSERT INTO media (origin, media_id, sha256, size, created_ms, read_ms, needs_token)"
            " VALUES (?, ?, ?, ?, 1, 1, 1)",
            (origin, sha256.hex(), sha256, len(octets)),
        )
        conn.commit()
    return media_name(sha256)


@pytest.fixture(scope="module")
def a_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node") / "anna"
    done("register", "anna", "--password=secret", f"--data-dir={folder}")
    put_media(folder, PICTURE, load_identity(folder).server_name)
    put_media(folder, b"of another node", "other.example.org")
    return folder


@pytest.fixture
def anna(a_node: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(a_node, tmp_path / "anna"))


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "p2pserver.db")) as conn:
        return conn.execute(query).fetchall()


def test_everything_comes_back_from_one_file(anna: Path, tmp_path: Path) -> None:
    file, ben = tmp_path / "file", tmp_path / "ben"
    name = load_identity(anna).server_name
    assert name in done("backup", file, f"--data-dir={anna}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "the backup is whole" in done("restore", "--check", file)
    told = done("restore", file, f"--data-dir={ben}")
    assert "1 account, 0 rooms" in told
    assert f"run --data-dir {ben}" in told, "`run` alone would make another node elsewhere"
    assert load_identity(ben).server_name == name
    assert rows(ben, "SELECT user_id FROM users") == [(f"@anna:{name}",)]
    for octets in (PICTURE, b"of another node"):
        assert (ben / media_name(hashlib.sha256(octets).digest())).read_bytes() == octets
    for path in (ben / "signing.key", ben / "p2pserver.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "exists already" in refused("backup", file, f"--data-dir={anna}")
    done("backup", file, "--replace", f"--data-dir={anna}")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert not list(anna.glob(".backup-*"))


def test_it_goes_through_a_pipe(anna: Path, tmp_path: Path) -> None:
    octets = p2pserver("backup", "-", f"--data-dir={anna}").stdout_bytes
    result = p2pserver("restore", "-", f"--data-dir={tmp_path / 'ben'}", typed=octets)
    assert result.exit_code == 0, result.output
    assert load_identity(tmp_path / "ben").server_name == load_identity(anna).server_name


def test_a_passphrase_keeps_it_from_others(anna: Path, tmp_path: Path) -> None:
    file, passphrase, other = tmp_path / "file", tmp_path / "passphrase", tmp_path / "other"
    passphrase.write_text("correct horse\n")
    other.write_text("wrong horse\n")
    done("backup", file, f"--passphrase-file={passphrase}", f"--data-dir={anna}")
    octets = file.read_bytes()
    seed = (anna / "signing.key").read_bytes()
    assert seed not in octets
    assert PICTURE[:256] not in octets
    assert "passphrase is wrong" in refused("restore", "--check", file, f"--passphrase-file={other}")
    assert "a passphrase is needed" in refused("restore", "--check", file)
    assert "whole" in done("restore", "--check", file, f"--passphrase-file={passphrase}")
    done("restore", file, f"--passphrase-file={passphrase}", f"--data-dir={tmp_path / 'ben'}")
    assert (tmp_path / "ben" / "signing.key").read_bytes() == seed


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_wrong_bit_or_a_lost_end_is_found_and_nothing_is_restored(
    anna: Path, tmp_path: Path, passphrase: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MEMORY_OCTETS", 1 << 20)  # the key is made for each try
    made = io.BytesIO()
    make_backup(Config(data_dir=anna), made, passphrase=passphrase)
    whole = made.getvalue()
    ben = tmp_path / "ben"
    ends = [30, 300, FRAME_OCTETS + 7, len(whole) - 40, len(whole) - 1]
    for at in ends:
        flipped = bytearray(whole)
        flipped[at] ^= 4
        for damaged in (bytes(flipped), whole[:at]):
            with pytest.raises(BackupError):
                restoring.restore(io.BytesIO(damaged), ben, passphrase=lambda header: passphrase or "", now_ms=1)
            assert [path.name for path in ben.iterdir()] == ["lock"]
    with pytest.raises(BackupError, match="behind its end"):
        restoring.restore(io.BytesIO(whole + b"x"), ben, passphrase=lambda header: passphrase or "", now_ms=1)
    restoring.restore(io.BytesIO(whole), ben, passphrase=lambda header: passphrase or "", now_ms=1)


def test_a_node_that_writes_does_not_disturb_the_snapshot(anna: Path) -> None:
    """Two counters that change together in each commit are equal in each backup that is made meanwhile."""
    with closing(sqlite3.connect(anna / "p2pserver.db")) as conn:
        conn.executescript("CREATE TABLE one (n, filler); CREATE TABLE two (n)")
        conn.executescript("INSERT INTO one VALUES (0, ''); INSERT INTO two VALUES (0)")
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(anna / "p2pserver.db", isolation_level=None)) as conn:
            while not stop.is_set():
                conn.execute("BEGIN IMMEDIATE")
                conn.execute("UPDATE one SET n = n + 1, filler = hex(randomblob(20000))")
                conn.execute("UPDATE two SET n = n + 1")
                conn.execute("COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = []
        while len(seen) < 5 or (seen[0] == seen[-1] and len(seen) < 200):
            with making._snapshot(Config(data_dir=anna), lambda what, done, of: None) as path:
                with closing(sqlite3.connect(path)) as conn:
                    assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    one, two = (conn.execute(f"SELECT n FROM {table}").fetchone()[0] for table in ("one", "two"))
                assert one == two
                seen.append(one)
    finally:
        stop.set()
        writer.join()
    assert seen[-1] > seen[0]


def test_a_folder_with_something_in_it_is_left_alone(anna: Path, tmp_path: Path) -> None:
    file, ben = tmp_path / "file", tmp_path / "ben"
    done("backup", file, f"--data-dir={anna}")
    ben.mkdir()
    (ben / "letter").write_text("dear Anna")
    assert "not empty" in refused("restore", file, f"--data-dir={ben}")
    assert [path.name for path in ben.iterdir()] == ["letter"]
    assert "not empty" in refused("restore", "--recovery-key", f"--data-dir={anna}", typed=recovery_key(anna))


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_power_cut_while_restoring_leaves_no_half_node(
    anna: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """After any number of files have got their place, no node starts, and the next restore does it all."""
    file, ben = tmp_path / "file", tmp_path / "ben"
    done("backup", file, f"--data-dir={anna}")
    count = 0

    class PowerCut(BaseException):
        pass

    def replace(path: Path, target: Path) -> Path:
        nonlocal count
        if count == moved:
            raise PowerCut
        count += 1
        path.rename(target)
        return target

    with monkeypatch.context() as patch, file.open("rb") as opened:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(PowerCut):
            restoring.restore(opened, ben, passphrase=lambda header: "", now_ms=1)
    with pytest.raises(IdentityError, match="did not finish"):
        load_identity(ben)
    done("restore", file, f"--data-dir={ben}")
    assert load_identity(ben).server_name == load_identity(anna).server_name
    assert (ben / media_name(hashlib.sha256(PICTURE).digest())).exists()


def test_a_backup_is_made_before_an_upgrade_and_restored_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, ben = tmp_path / "anna", tmp_path / "ben"
    load_identity(anna)
    files = migrations._files()
    with monkeypatch.context() as patch, closing(sqlite3.connect(anna / "p2pserver.db", isolation_level=None)) as conn:
        patch.setattr(migrations, "_files", lambda: [file for file in files if file[0] < 100])
        migrations.migrate(conn)
    done("backup", tmp_path / "file", f"--data-dir={anna}")
    done("restore", tmp_path / "file", f"--data-dir={ben}")
    assert rows(ben, "SELECT COUNT(*) FROM schema_migrations") == [(len(files),)]


def test_a_full_disk_is_told_beforehand(anna: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    done("backup", file, f"--data-dir={anna}")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert "not enough space" in refused("backup", tmp_path / "other", f"--data-dir={anna}")
    assert not (tmp_path / "other").exists()
    assert "not enough space" in refused("restore", file, f"--data-dir={tmp_path / 'ben'}")


def test_media_that_are_not_there_are_told_and_those_of_others_forgotten(anna: Path, tmp_path: Path) -> None:
    name = load_identity(anna).server_name
    (anna / put_media(anna, b"gone", name)).unlink()
    ben, cleo = tmp_path / "ben", tmp_path / "cleo"
    assert "1 files of media are not in it" in done("backup", tmp_path / "file", f"--data-dir={anna}")
    assert "1 files of media were not" in done("restore", tmp_path / "file", f"--data-dir={ben}")
    assert rows(ben, "SELECT COUNT(*) FROM media") == [(3,)]
    done("backup", tmp_path / "small", "--without-media", f"--data-dir={anna}")
    assert "3 files of media were not" in done("restore", tmp_path / "small", f"--data-dir={cleo}")
    assert rows(cleo, "SELECT DISTINCT origin FROM media") == [(name,)]


# What somebody else may have made


def forged(files: list[tuple[tarfile.TarInfo, bytes]], *, manifest: bool = True) -> io.BytesIO:
    file = io.BytesIO()
    writer = BackupWriter(file, created_ms=1, passphrase=None)
    with tarfile.open(fileobj=writer, mode="w|") as tar:  # type: ignore[call-overload]
        if manifest:
            text = Manifest(
                server_name="x", created_ms=1, software="", kind="backup", position=1, files=0, octets=10
            ).encode()
            entry = tarfile.TarInfo("manifest.json")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
        for entry, octets in files:
            entry.size = len(octets)
            tar.addfile(entry, io.BytesIO(octets))
    writer.finish()
    file.seek(0)
    return file


def link(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: forged([(tarfile.TarInfo("../outside"), b"x")]), "no file of a node"),
        (lambda: forged([(tarfile.TarInfo("/etc/outside"), b"x")]), "no file of a node"),
        (lambda: forged([(link("signing.key"), b"")]), "no file of a node"),
        (lambda: forged([(tarfile.TarInfo("retired"), b"x")]), "no file of a node"),
        (lambda: forged([(tarfile.TarInfo(f"media/ab/{'c' * 62}"), b"x")]), "not what it was"),
        (lambda: forged([(tarfile.TarInfo("signing.key"), b"x")]), "no key in it"),
        (lambda: forged([]), "no key in it"),
        (lambda: forged([], manifest=False), "does not say what it holds"),
        (lambda: io.BytesIO(b"hello"), "no backup"),
        (lambda: io.BytesIO(b"p2pserver backup 2\n{}"), "newer"),
        (lambda: io.BytesIO(b"p2pserver backup 1\n" + b"[" * 9000), "damaged"),
        (lambda: io.BytesIO(b'p2pserver backup 1\n{"created_ms": 1, "encryption": {"passes": 1e9}}\n'), "damaged"),
    ],
)
def test_what_somebody_else_made_writes_nothing_outside(
    tmp_path: Path, make: Callable[[], io.BytesIO], reason: str
) -> None:
    with pytest.raises(BackupError, match=reason):
        restoring.restore(make(), tmp_path / "ben", passphrase=lambda header: "x", now_ms=1)
    assert {path.name for path in tmp_path.rglob("*")} == {"ben", "lock"}


def test_a_backup_is_read_a_frame_at_a_time() -> None:
    file = io.BytesIO()
    writer = BackupWriter(file, created_ms=1, passphrase=None)
    for _ in range(40):
        writer.write(b"x" * 10_000)
    writer.finish()
    file.seek(0)
    reader = BackupReader(file)
    assert reader.read(1) == b"x"
    assert file.tell() < FRAME_OCTETS + 200
    assert len(reader.read(1 << 20)) == 399_999
    reader.finish()


# Moving


def test_the_node_that_moved_away_does_not_run_any_more(anna: Path, tmp_path: Path) -> None:
    file, ben = tmp_path / "file", tmp_path / "ben"
    assert "does not run here any more" in done("move", file, f"--data-dir={anna}")
    told = refused("run", f"--data-dir={anna}")
    assert "was moved to another device" in told
    assert f"`p2pserver move --cancel --data-dir {anna}`" in told
    assert "was moved away already" in refused("move", tmp_path / "other", f"--data-dir={anna}")
    assert "moved on" in done("restore", "--check", file)
    done("restore", file, f"--data-dir={ben}")
    assert load_identity(ben).server_name

    assert "the node stays here" in done("move", "--cancel", f"--data-dir={anna}")
    assert load_identity(anna).server_name
    assert "was not moved away" in refused("move", "--cancel", f"--data-dir={anna}")


def test_a_move_that_fails_retires_nothing(anna: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_write", lambda *arguments: 1 / 0)
    assert isinstance(p2pserver("move", tmp_path / "file", f"--data-dir={anna}").exception, ZeroDivisionError)
    assert load_identity(anna).server_name
    assert not (tmp_path / "file").exists()


# The recovery key


def recovery_key(folder: Path) -> str:
    return done("recovery-key", "show", f"--data-dir={folder}")


def test_the_key_on_paper_makes_the_same_name(tmp_path: Path) -> None:
    for domain in (None, "mesh.example.org"):
        anna, ben = tmp_path / f"anna {domain}", tmp_path / f"ben {domain}"
        name = load_identity(anna, domain=domain).server_name
        text = recovery_key(anna)
        assert name in done("restore", "--recovery-key", f"--data-dir={ben}", typed=text.upper())
        assert load_identity(ben).server_name == name
        assert "█" in done("recovery-key", "show", "--qr", f"--data-dir={anna}")


def a_wrong_character(text: str) -> Iterator[str]:
    for at, letter in enumerate(text):
        if letter.isalnum():
            yield text[:at] + ("a" if letter != "a" else "b") + text[at + 1 :]


def looking_alike(text: str) -> str:
    letters, dot, domain = text.partition(".")
    return letters.replace("o", "0").replace("l", "1").replace("b", "8").replace("-", "\n") + dot + domain


def test_a_mistake_in_the_recovery_key_is_found() -> None:
    seed = bytes(range(32))
    for domain in (None, "example.org"):
        text = encode_recovery_key(seed, domain)
        assert decode_recovery_key(looking_alike(text)) == (seed, domain)
        for wrong in a_wrong_character(text):
            with pytest.raises(RecoveryKeyError):
                decode_recovery_key(wrong)
    swapped = text[5:10] + text[:5] + text[10:]
    for wrong in (swapped, text[5:], text + "a", "", "é" * 56, text.replace("example", "..")):
        with pytest.raises(RecoveryKeyError):
            decode_recovery_key(wrong)
