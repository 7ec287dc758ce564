"""Registration files: what is read of them, and one line for each that cannot be used."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from p2pserver.config import Config, ConfigError
from p2pserver.node.app_service_files import load_app_services, pattern_of

SERVER = "k" * 52
GOOD: dict[str, Any] = {
    "id": "irc",
    "url": "http://127.0.0.1:9898/",
    "as_token": "a1",
    "hs_token": "h1",
    "sender_localpart": "ircbot",
    "rate_limited": False,
    "namespaces": {
        "users": [{"regex": f"@irc_.*:{SERVER}", "exclusive": True}],
        "aliases": [{"regex": "#irc_.*", "exclusive": False}],
        "rooms": [],
    },
    "protocols": ["irc"],
}


def write(folder: Path, *registrations: Any) -> list[Path]:
    paths = []
    for number, registration in enumerate(registrations):
        path = folder / f"{number}.yaml"
        path.write_text(registration if isinstance(registration, str) else yaml.safe_dump(registration))
        paths.append(path)
    return paths


def test_what_is_read(tmp_path: Path) -> None:
    more = {**GOOD, "id": "b", "as_token": "a2", "hs_token": "h2", "sender_localpart": "Qd4_B-x", "url": ""}
    more |= {
        "de.sorunome.msc2409.push_ephemeral": True,
        "org.matrix.msc3202": True,
        "namespaces": {},
        "extra": {"x": 1},
    }
    services = load_app_services(write(tmp_path, GOOD, more), SERVER)
    irc, other = services.all
    assert (irc.service_id, irc.url, irc.sender) == ("irc", "http://127.0.0.1:9898", f"@ircbot:{SERVER}")
    assert (irc.rate_limited, irc.protocols, irc.wants_ephemeral, irc.wants_encryption) == (
        False,
        ("irc",),
        False,
        False,
    )
    assert (other.url, other.wants_ephemeral, other.wants_encryption) == (None, True, True)
    assert services.by_token("a1") is irc
    assert services.by_token("h1") is None
    assert irc.owns_user(f"@irc_x:{SERVER}")
    assert not irc.owns_user("@irc_x:elsewhere")
    assert irc.has_alias(f"#irc_x:{SERVER}")
    assert not irc.owns_alias(f"#irc_x:{SERVER}")


def changed(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **fields}.items() if value != "missing"}


def users(*regexes: Any) -> dict[str, Any]:
    return changed(namespaces={"users": [{"regex": regex, "exclusive": True} for regex in regexes]})


@pytest.mark.parametrize(
    ("registration", "told"),
    [
        ("- a\n- b", "it is no registration"),
        ("a: [", "it is not YAML in line"),
        ("a: !!python/object:os.system {}", "it is not YAML"),
        ("x: " + "y" * (1 << 20), "over 1 MiB"),
        *((changed(**{name: "missing"}), f"{name} is missing") for name in ("id", "url", "as_token", "hs_token")),
        (changed(id=5), "id is missing, or is no text"),
        (changed(url="localhost:1"), "url is no address"),
        (changed(url="http://[x"), "url is no address"),
        (changed(url="http://h:99999"), "url is no address"),
        (changed(as_token="a b"), "as_token has other characters"),
        (changed(as_token="h1"), "as_token and hs_token are the same"),
        (changed(sender_localpart="@a:b"), "sender_localpart is what stands between"),
        (changed(rate_limited="no"), "rate_limited is neither"),
        (changed(protocols="irc"), "protocols is not a list"),
        (changed(namespaces=[]) | {"namespaces": [1]}, "namespaces is not a mapping"),
        (changed(namespaces={"users": {}}), "namespaces.users is not a list"),
        (changed(namespaces={"users": [{"exclusive": True}]}), "entry 1: regex is missing"),
        (changed(namespaces={"rooms": [{"regex": "!x"}]}), "namespaces.rooms, entry 1: exclusive is neither"),
        (users("@ok", "@irc_("), "entry 2: '@irc_(' is no regular expression"),
        (users("x" * 1001), "the regex is over 1000"),
        (users("@(a+)+:x"), "could take for ever"),
        (users("@(a|b|ab)*:x"), "could take for ever"),
        (users("@(.*)x\\1"), "could take for ever"),
        (users("@.*a.*b.*c.*d"), "could take for ever"),
        (users("@" + "a?" * 40 + "a" * 40), "could take for ever"),
    ],
)
def test_a_bad_file_is_told_in_one_line(registration: Any, told: str, tmp_path: Path) -> None:
    [path] = write(tmp_path, registration)
    with pytest.raises(ConfigError) as caught:
        load_app_services([path], SERVER)
    message = str(caught.value)
    assert message.startswith(f"--app-service {path}: ")
    assert told in message
    assert "\n" not in message


def test_two_services_have_ids_and_tokens_of_their_own(tmp_path: Path) -> None:
    other = changed(id="b", as_token="a2", hs_token="h2")
    for fields, told in (
        ({"id": "irc"}, "another service with the id 'irc'"),
        ({"as_token": "a1"}, "token of the service 'irc'"),
        ({"hs_token": "h1"}, "token of the service 'irc'"),
        ({"hs_token": "a1"}, "token of the service 'irc'"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_app_services(write(tmp_path, GOOD, {**other, **fields}), SERVER)
    with pytest.raises(ConfigError, match="No such file"):
        load_app_services([tmp_path / "none.yaml"], SERVER)


@pytest.mark.parametrize(
    "regex",
    [
        "@irc_.*",
        f"^@(_irc_.*|irc_[^:]+|ircbot):{SERVER}$",
        "@telegram_[0-9]+:.+\\.example",
        "(?i)@x(?:[0-9]{1,3}\\.){3}y",
        "@(?!admin).*",
    ],
)
def test_what_bridges_write_is_taken(regex: str) -> None:
    assert pattern_of(regex, "here").pattern == regex


def test_the_slowest_pattern_that_is_taken_is_not_slow() -> None:
    pattern = pattern_of("@.*a.*b.*c$", "here")
    began = time.process_time()
    assert pattern.match("@" + "ab" * 127) is None
    assert time.process_time() - began < 5, "about 0.03 s on a laptop; one more repetition would take 85 times as long"


def test_files_come_from_every_source(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('app_service = ["a.yaml", "b.yaml"]')
    assert Config.load(file, environment={}).app_services == (Path("a.yaml"), Path("b.yaml"))
    assert Config.load(environment={"P2PSERVER_APP_SERVICE": "a b"}).app_services == (Path("a"), Path("b"))


def test_a_node_does_not_start_with_a_bad_one(tmp_path: Path) -> None:
    [path] = write(tmp_path, users("@("))
    done = subprocess.run(
        [sys.executable, "-m", "p2pserver", "run", "--data-dir", tmp_path / "data", "--app-service", path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert f"Error: --app-service {path}: namespaces.users, entry 1" in done.stderr
