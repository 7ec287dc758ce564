from pathlib import Path

import pytest

from p2pserver.config import OPTIONS, Config, ConfigError, options_markdown, split_address
from p2pserver.events.versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS


def load(tmp_path: Path, toml: str = "", environment: dict[str, str] | None = None, **flags: object) -> Config:
    file = tmp_path / "node.toml"
    file.write_text(toml)
    return Config.load(file, environment=environment or {}, flags={"data_dir": str(tmp_path), **flags})


def test_with_nothing_set_a_node_is_open_on_loopback_only(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.listen_host, config.listen_port) == ("127.0.0.1", 8008)
    assert config.registration == "open"
    assert config.transports == ("lan",)
    assert config.default_room_version == "12"
    assert not config.listens_beyond_loopback


def test_registration_is_not_open_by_default_beyond_loopback(tmp_path: Path) -> None:
    assert load(tmp_path, listen="0.0.0.0:8008").registration == "token"
    assert load(tmp_path, listen="[::]:8008").registration == "token"
    assert load(tmp_path, listen="[::1]:8008").registration == "open"
    assert load(tmp_path, listen="0.0.0.0:8008", registration="open").registration == "open"


def test_a_flag_wins_over_a_variable_and_that_over_the_file(tmp_path: Path) -> None:
    toml = 'registration = "closed"\nlog_level = "error"\nlisten = "127.0.0.1:1"\n'
    environment = {"P2PSERVER_REGISTRATION": "token", "P2PSERVER_LISTEN": "127.0.0.1:2"}
    config = load(tmp_path, toml, environment, listen="127.0.0.1:3")
    assert (config.registration, config.log_level, config.listen_port) == ("token", "error", 3)


def test_transports_may_be_repeated_and_none_stands_alone(tmp_path: Path) -> None:
    assert load(tmp_path, 'transport = ["lan:peer=10.0.0.2:4001", "lan"]').transports == (
        "lan:peer=10.0.0.2:4001",
        "lan",
    )
    assert load(tmp_path, environment={"P2PSERVER_TRANSPORT": "lan lan:mdns=off"}).transports == ("lan", "lan:mdns=off")
    assert load(tmp_path, transport=("none",)).transports == ()
    with pytest.raises(ConfigError, match="none"):
        load(tmp_path, transport=("none", "lan"))


@pytest.mark.parametrize(
    ("toml", "word"),
    [
        ('liste = "x"', "unknown key 'liste'"),
        ("rate_limits = 3", "true or false"),
        ("listen = 8008", "must be a string"),
        ('listen = "8008"', "HOST:PORT"),
        ('listen = "127.0.0.1:99999"', "HOST:PORT"),
        ('registration = "maybe"', "open, token, closed"),
        ('default_room_version = "99"', "room version"),
        ('domain = "Mesh.Example"', "lower-case"),
        ('transport = "!"', "kind:parameters"),
        ('registration_token = "a b"', "registration_token"),
        ('support = ["somebody"]', "support is"),
        ("= 1", "TOML"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_that_names_it(tmp_path: Path, toml: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        load(tmp_path, toml)
    assert "\n" not in str(caught.value)


def test_split_address_takes_ipv6_in_brackets() -> None:
    assert split_address("[::1]:8008") == ("::1", 8008)
    with pytest.raises(ConfigError):
        split_address("::1:8008")


def test_the_documentation_lists_every_option_as_the_code_has_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert options_markdown() in page
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS)


def test_the_room_versions_offered_are_those_that_the_node_knows(tmp_path: Path) -> None:
    for version in ROOM_VERSIONS:
        assert load(tmp_path, default_room_version=version).default_room_version == version
    assert load(tmp_path).default_room_version == DEFAULT_ROOM_VERSION
