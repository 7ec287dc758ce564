"""`p2pserver network …`: from one data folder to another, by file and by QR code; what is wrong is one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pserver.cli import cli
from p2pserver.link.network_key import decode_network_key


def network(folder: Path, *arguments: str, typed: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["network", *arguments, f"--data-dir={folder}"], input=typed)


def done(folder: Path, *arguments: str, typed: str | None = None) -> str:
    result = network(folder, *arguments, typed=typed)
    assert result.exit_code == 0, result.output
    return result.output


def refused(folder: Path, *arguments: str, typed: str | bytes | None = None) -> str:
    result = network(folder, *arguments, typed=typed)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1, result.output
    assert result.output.startswith("p2pserver: ")
    return result.output


def shown(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(folder, "show", "--json"))
    return found


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "anna", tmp_path / "ben"


def test_a_network_goes_from_node_to_node_by_file_and_is_rotated(folders: tuple[Path, Path], tmp_path: Path) -> None:
    anna, ben = folders
    assert "epoch 1" in done(anna, "create", "Village")
    file = tmp_path / "village.key"
    done(anna, "export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "epoch 1 of the network 'Village'" in done(ben, "import", str(file))
    assert shown(anna) == shown(ben)
    assert "already" in done(ben, "import", str(file))

    assert "epoch 2" in done(anna, "rotate")
    assert shown(anna) | {"also_reads": [1]} == shown(anna) != shown(ben)
    assert "epoch 1 is still read" in done(anna, "show")
    done(ben, "import", "-", typed=done(anna, "export", "-"))
    assert shown(anna) == shown(ben)
    assert "has epoch 2 already" in refused(ben, "import", str(file))

    done(ben, "leave")
    assert shown(ben)["open"]
    assert "public" in done(ben, "show")


def test_the_qr_code_holds_the_same_line(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import segno

    anna, _ = folders
    done(anna, "create", "Village")
    made: list[str] = []
    honest = segno.make

    def make(content: str, **options: Any) -> Any:
        made.append(content)
        return honest(content, **options)

    monkeypatch.setattr(segno, "make", make)
    picture = done(anna, "export", "--qr")
    assert len(picture.splitlines()) > 15
    assert segno.make(made[0], error="m", micro=False).mode == "alphanumeric"
    assert decode_network_key(made[0]) == decode_network_key(done(anna, "export", "-"))


def test_without_segno_it_is_told_what_to_install(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    done(folders[0], "create", "Village")
    monkeypatch.setitem(__import__("sys").modules, "segno", None)
    assert "p2pserver[qr]" in refused(folders[0], "export", "--qr")


def test_what_is_wrong_is_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    anna, ben = folders
    assert "no node in" in refused(anna, "show")
    done(anna, "create", "Village")
    assert "is in the network 'Village'" in refused(anna, "create", "Town")
    assert "printable text" in refused(ben, "create", "x" * 33)
    line = done(anna, "export", "-").strip()
    file = tmp_path / "key"
    for content, says in (
        (b"", "no network key"),
        (b"\xff\xfe", "no text"),
        (line[:-3].encode(), "damaged"),
        (line.replace("P2PNET1", "P2PNET9").encode(), "version 9"),
    ):
        file.write_bytes(content)
        assert says in refused(ben, "import", str(file))
        assert says in refused(ben, "import", "-", typed=content)
    assert "No such file" in refused(ben, "import", str(tmp_path / "nowhere"))
    assert "exists already" in refused(anna, "export", str(file))
    assert file.read_bytes() == line.replace("P2PNET1", "P2PNET9").encode()
    assert "cannot write" in refused(anna, "export", str(tmp_path / "nowhere" / "key"))
    done(ben, "create", "Town")
    done(ben, "leave")
    assert "nothing to export" in refused(ben, "export", "--qr")
    assert "public" in refused(ben, "rotate")
    assert "no network but the open one" in refused(ben, "leave")
    assert network(anna, "export").exit_code == 2
