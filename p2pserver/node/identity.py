"""The node's key and name in its data folder, and the lock that keeps a second node away from it.

The secret is one file, `signing.key`, that only its owner may read: a line with the key ID and the Ed25519 seed in
base64. The domain, if any, is a second file, `domain`, written once with the key and never changed.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from p2pserver.events.signing import Signer
from p2pserver.identifiers import KEY_ID, InvalidIdentifier, server_name_of

KEY_FILE = "signing.key"
DOMAIN_FILE = "domain"
LOCK_FILE = "lock"
RUN_FILE = "run"
"""Names the newest run of the node, so that an older database beside it is noticed."""
RETIRED_FILE = "retired"
"""There, once the node was moved to another device: it must not run here any more."""
RESTORING_FOLDER = ".restoring"
"""There, while a backup is being restored into the data folder."""
SEED_OCTETS = 32


class IdentityError(Exception):
    """The data folder cannot be used as asked; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is: its Ed25519 seed (32 octets, secret) and its server name, for ever."""

    seed: bytes
    server_name: str
    signer: Signer
    is_new: bool

    def __repr__(self) -> str:
        return f"Identity({self.server_name!r})"


def identity_of(seed: bytes, *, domain: str | None = None, is_new: bool = False) -> Identity:
    """The identity that a seed and a domain make."""
    public_key = Signer("", KEY_ID, seed).verify_key
    server_name = server_name_of(public_key, domain)
    return Identity(seed=seed, server_name=server_name, signer=Signer(server_name, KEY_ID, seed), is_new=is_new)


def load_identity(
    data_dir: Path, *, domain: str | None = None, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> Identity:
    """Reads the identity in `data_dir`; at the first start, makes it, with `domain` in its name.

    Raises: IdentityError, if the folder cannot be used, a file in it is damaged, or `domain` is not the one that the
    node was made with.
    """
    key_file = data_dir / KEY_FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_may_run(data_dir)
        if not key_file.exists():
            if (data_dir / "p2pserver.db").exists():
                raise IdentityError(f"{key_file} is missing but the database is there: put the key back from a backup")
            seed = random_bytes(SEED_OCTETS)
            write_identity(data_dir, seed, domain)
            return identity_of(seed, domain=domain, is_new=True)
    except OSError as error:
        raise IdentityError(f"cannot use the data folder {data_dir}: {error.strerror}") from None
    identity = identity_in(data_dir)
    made_with = identity.server_name.partition(".")[2] or None
    if domain is not None and domain != made_with:
        was = f"{made_with!r}" if made_with else "none"
        raise IdentityError(
            f"--domain {domain!r} differs from the domain this node was made with ({was}); a name never changes: "
            "leave the option out, or start a new node with another --data-dir"
        )
    return identity


def identity_in(data_dir: Path) -> Identity:
    """The identity that is kept in a data folder, whether or not the node may run there.

    Raises: IdentityError, if there is none, or a file of it is damaged.
    """
    key_file, domain_file = data_dir / KEY_FILE, data_dir / DOMAIN_FILE
    if not key_file.exists():
        raise IdentityError(f"no node in {data_dir} yet: start one with `p2pserver run`, or name its --data-dir")
    try:
        seed = _parse_key(key_file)
        domain = domain_file.read_text(encoding="utf-8").strip() if domain_file.exists() else None
        return identity_of(seed, domain=domain)
    except OSError as error:
        raise IdentityError(f"cannot use the data folder {data_dir}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise IdentityError(f"{domain_file} is damaged: put it back from a backup") from None
    except InvalidIdentifier as error:
        raise IdentityError(f"{domain_file} is damaged ({error}): put it back from a backup") from None


def write_identity(data_dir: Path, seed: bytes, domain: str | None) -> None:
    """Keeps a key and a domain in a data folder that has none, durably; the key last. Raises: OSError."""
    if domain is not None:
        write_durably(data_dir / DOMAIN_FILE, f"{domain}\n", mode=0o644)
    else:
        (data_dir / DOMAIN_FILE).unlink(missing_ok=True)
    line = f"{KEY_ID} {base64.b64encode(seed).decode('ascii').rstrip('=')}\n"
    write_durably(data_dir / KEY_FILE, line, mode=0o600)


def _check_may_run(data_dir: Path) -> None:
    """Raises: IdentityError, where a node was moved away from, or has not wholly arrived."""
    if (data_dir / RESTORING_FOLDER).exists():
        raise IdentityError(
            f"a restore into {data_dir} did not finish: run it again,"
            f" `p2pserver restore FILE --data-dir {quote(str(data_dir))}`"
        )
    if is_retired(data_dir):
        raise IdentityError(
            f"the node in {data_dir} was moved to another device and must not run here too: restore the file there, or,"
            f" if that was never done, take it back with `p2pserver move --cancel --data-dir {quote(str(data_dir))}`"
        )


def newest_run(data_dir: Path) -> bytes | None:
    """The run that was written down last; None, if there is none or it cannot be read."""
    try:
        return bytes.fromhex((data_dir / RUN_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def write_run(data_dir: Path, run: bytes) -> None:
    """Raises: OSError."""
    write_durably(data_dir / RUN_FILE, f"{run.hex()}\n", mode=0o600)


def is_retired(data_dir: Path) -> bool:
    """Whether the node was moved away from here."""
    return (data_dir / RETIRED_FILE).exists()


def retire(data_dir: Path, *, now_ms: int) -> None:
    """From now on no node runs here: this one goes on elsewhere. Raises: OSError."""
    write_durably(data_dir / RETIRED_FILE, f"moved to another device at {now_ms} ms since 1970\n", mode=0o644)


def cancel_retirement(data_dir: Path) -> bool:
    """The node runs here again; False, if it was not moved away. Raises: OSError."""
    if not is_retired(data_dir):
        return False
    (data_dir / RETIRED_FILE).unlink()
    sync_folder(data_dir)
    return True


def _parse_key(path: Path) -> bytes:
    try:
        key_id, text = path.read_text(encoding="ascii").split()
        seed = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        key_id, seed = "", b""
    if key_id != KEY_ID or len(seed) != SEED_OCTETS:
        raise IdentityError(f"{path} is damaged: put it back from a backup")
    return seed


def write_durably(path: Path, text: str, *, mode: int) -> None:
    """The file is there whole or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable, where the system can do that."""
    with suppress(OSError):  # Windows does not open folders
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Holds the data folder for this process; the lock ends with the process, however it ends.

    Raises: IdentityError, if another node runs on this folder, or if it cannot be written to.
    """
    try:
        opened = (data_dir / LOCK_FILE).open("a+")
    except OSError as error:
        raise IdentityError(f"cannot use the data folder {data_dir}: {error.strerror}") from None
    with opened as file:
        try:
            _lock(file.fileno())
        except OSError:
            raise IdentityError(f"another node is running on {data_dir}: stop it, or use another --data-dir") from None
        yield


def is_running(data_dir: Path) -> bool:
    """Whether a node runs on this folder now. True also where this cannot be found out."""
    try:
        with locked(data_dir):
            return False
    except IdentityError:
        return True


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
