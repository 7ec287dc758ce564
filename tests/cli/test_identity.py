from pathlib import Path

import pytest

from p2pserver.identifiers import public_key_of
from p2pserver.node.identity import IdentityError, load_identity, locked


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "new" / "folder")
    again = load_identity(tmp_path / "new" / "folder")
    assert first.is_new
    assert not again.is_new
    assert first.seed == again.seed
    assert public_key_of(again.server_name) == again.signer.verify_key
    assert (tmp_path / "new" / "folder" / "signing.key").stat().st_mode & 0o777 == 0o600
    assert repr(first.seed) not in repr(first)


def test_the_domain_is_chosen_at_the_first_start_and_never_changed(tmp_path: Path) -> None:
    name = load_identity(tmp_path, domain="mesh.example.org").server_name
    assert name.endswith(".mesh.example.org")
    assert load_identity(tmp_path).server_name == name
    assert load_identity(tmp_path, domain="mesh.example.org").server_name == name
    with pytest.raises(IdentityError, match="never changes"):
        load_identity(tmp_path, domain="other.example.org")


def test_a_node_without_domain_does_not_get_one_later(tmp_path: Path) -> None:
    load_identity(tmp_path)
    with pytest.raises(IdentityError, match="never changes"):
        load_identity(tmp_path, domain="mesh.example.org")


@pytest.mark.parametrize(
    "content", ["", "ed25519:1", "ed25519:1 AAAA", "ed25519:2 " + "A" * 43, "\xff\xfe", "ed25519:1 ***"]
)
def test_a_damaged_key_is_told_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "signing.key").write_text(content, encoding="latin-1")
    with pytest.raises(IdentityError, match="damaged"):
        load_identity(tmp_path)
    assert (tmp_path / "signing.key").read_text(encoding="latin-1") == content


def test_a_database_without_its_key_gets_no_new_key(tmp_path: Path) -> None:
    (tmp_path / "p2pserver.db").touch()
    with pytest.raises(IdentityError, match="missing"):
        load_identity(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="cannot use the data folder"):
        load_identity(tmp_path / "file" / "data")


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(IdentityError, match="another node"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
