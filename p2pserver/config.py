"""What can be set, in one table: each option is a flag, a TOML key and an environment variable of the same name.

The command line wins over the environment, that over the file given with `--config`, that over the default.
`docs/configuration.md` and `p2pserver run --help` are made from `OPTIONS`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from p2pserver.identifiers import InvalidIdentifier, check_domain, is_user_id

ENVIRONMENT_PREFIX = "P2PSERVER_"
REGISTRATION_MODES = ("open", "token", "closed")
DEFAULT_ROOM_VERSION = "12"
SIZES = ("media_upload_max", "media_per_user", "media_own", "media_cache")
ROOM_VERSIONS = tuple(str(number) for number in range(1, 13))


class ConfigError(ValueError):
    """A setting cannot be used; the message is one line that says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting. `name` is the TOML key; the flag and the variable follow from it."""

    name: str
    help: str
    metavar: str
    default_text: str
    many: bool = False
    flag: str | None = None
    """Where the flag is not `--name`: a switch that turns a default off."""

    @property
    def cli_flag(self) -> str:
        return self.flag or "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return self.metavar == ""


OPTIONS: tuple[Option, ...] = (
    Option(
        name="data_dir",
        metavar="DIR",
        default_text="the platform's data folder",
        help="Where the key, the database and the lock are kept.",
    ),
    Option(
        name="listen",
        metavar="HOST:PORT",
        default_text="127.0.0.1:8008",
        help="Where clients reach this node. Beyond loopback, registration is by token unless you say otherwise.",
    ),
    Option(
        name="registration",
        metavar="|".join(REGISTRATION_MODES),
        default_text="open on loopback, token beyond",
        help="Who may make an account through a client.",
    ),
    Option(
        name="registration_token",
        metavar="TOKEN",
        default_text="made at first need and printed",
        help="The token that clients must present when registration is `token`.",
    ),
    Option(
        name="registration_shared_secret",
        metavar="SECRET",
        default_text="none",
        help="Who knows it may make accounts, also of admins, by the admin API (HMAC-SHA1 over a nonce).",
    ),
    Option(
        name="rate_limits",
        metavar="",
        flag="--no-rate-limits",
        default_text="true",
        help="Whether clients that ask too often are slowed down; the flag turns it off.",
    ),
    Option(
        name="transport",
        metavar="KIND[:PARAMETERS]",
        default_text="lan",
        many=True,
        help="A way to reach other nodes; may be repeated. `lan`, `lan:listen=HOST:PORT,peer=HOST:PORT`, `ble`, "
        "`serial:/dev/ttyUSB0?baud=9600`, `none`.",
    ),
    Option(
        name="default_room_version",
        metavar="VERSION",
        default_text=DEFAULT_ROOM_VERSION,
        help="The room version of new rooms: 1 to 12.",
    ),
    Option(
        name="domain",
        metavar="DOMAIN",
        default_text="none",
        help="Goes behind the key in the server name, as in <key>.mesh.example.org. Only at the first start, for ever.",
    ),
    Option(
        name="private",
        metavar="",
        default_text="false",
        help="Does not show this node's users and public rooms to nodes nearby.",
    ),
    Option(
        name="media_upload_max",
        metavar="SIZE",
        default_text="100M",
        help="The largest file that is taken, from a client or from another node: octets, or with K, M or G behind.",
    ),
    Option(
        name="media_per_user",
        metavar="SIZE",
        default_text="2G",
        help="What one user may upload in all.",
    ),
    Option(
        name="media_own",
        metavar="SIZE",
        default_text="10G",
        help="What all users of this node may upload. It is never removed without your word.",
    ),
    Option(
        name="media_cache",
        metavar="SIZE",
        default_text="1G",
        help="How much of other nodes' media is kept; beyond it, what was not looked at for longest goes.",
    ),
    Option(
        name="media_slow_seconds",
        metavar="SECONDS",
        default_text="60",
        help="Other nodes' media that would take longer than this over the best link are fetched only when somebody "
        "asks for them by name.",
    ),
    Option(
        name="media_slow_types",
        metavar="TYPES",
        default_text="*/*",
        help="Of what takes longer than 5 seconds, only these types are fetched without being asked for by name: "
        "`image/*,audio/*`.",
    ),
    Option(
        name="legacy_media",
        metavar="",
        default_text="false",
        help="Shows media stored from now on to whoever knows their address, as clients from before 2024 need.",
    ),
    Option(
        name="url_previews",
        metavar="",
        default_text="false",
        help="Fetches the web pages that messages link to, for clients that ask for a preview. Others then see what is "
        "read here.",
    ),
    Option(
        name="app_service",
        metavar="FILE",
        default_text="none",
        many=True,
        help="The registration of an application service, a bridge or a bot, as for Synapse; may be repeated.",
    ),
    Option(
        name="support",
        metavar="@USER:SERVER|MAIL|URL",
        default_text="none",
        many=True,
        help="Whom users of this node may turn to, as clients show it; may be repeated.",
    ),
    Option(
        name="ready_file",
        metavar="PATH",
        default_text="none",
        help="A JSON file with client_url, server_name and pid, written once requests are answered.",
    ),
    Option(
        name="log_level",
        metavar="LEVEL",
        default_text="warning",
        help="debug, info, warning or error; logs go to standard error.",
    ),
    Option(
        name="log_json",
        metavar="",
        default_text="false",
        help="Writes logs as one JSON object per line.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one node, checked. Parts of the node are handed only the values that they use."""

    data_dir: Path
    listen_host: str = "127.0.0.1"
    listen_port: int = 8008
    registration: str = "open"
    registration_token: str | None = None
    registration_shared_secret: str | None = None
    rate_limits: bool = True
    transports: tuple[str, ...] = ("lan",)
    default_room_version: str = DEFAULT_ROOM_VERSION
    domain: str | None = None
    private: bool = False
    media_upload_max: int = 100 << 20
    media_per_user: int = 2 << 30
    media_own: int = 10 << 30
    media_cache: int = 1 << 30
    media_slow_seconds: float = 60.0
    media_slow_types: tuple[str, ...] = ("*/*",)
    legacy_media: bool = False
    url_previews: bool = False
    app_services: tuple[Path, ...] = ()
    support: tuple[str, ...] = ()
    ready_file: Path | None = None
    log_level: str = "warning"
    log_json: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    """For each option that was set, by whom: `flag`, `variable` or `file`."""

    @property
    def listens_beyond_loopback(self) -> bool:
        return not is_loopback(self.listen_host)

    @property
    def database_path(self) -> Path:
        return self.data_dir / "p2pserver.db"

    @property
    def media_path(self) -> Path:
        return self.data_dir / "media"

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Config:
        """Reads the file, the environment and the flags (by option name; None means not given).

        Raises: ConfigError.
        """
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        sources = (
            ("file", _from_file(file) if file is not None else {}),
            ("variable", _from_environment(os.environ if environment is None else environment)),
            ("flag", {name: value for name, value in (flags or {}).items() if value not in (None, ())}),
        )
        for source, given in sources:
            values.update(given)
            origins.update(dict.fromkeys(given, source))
        return _build(values, origins)


def is_loopback(host: str) -> bool:
    """Whether a listening address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[IPV6]:PORT`.

    Raises: ConfigError.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:8008 or [::1]:8008")
    return match[1] or match[2], int(match[3])


def size_of(text: str, name: str) -> int:
    """The octets of a size: `500`, `500K`, `20M`, `2G`, in powers of 1,024.

    Raises: ConfigError.
    """
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text)
    if match is None:
        raise ConfigError(f"{name} is a size such as 500K, 20M or 2G, not {text!r}")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def options_markdown() -> str:
    """The table of `docs/configuration.md`."""
    rows = ["| flag | TOML key | variable | default | what it does |", "| --- | --- | --- | --- | --- |"]
    for option in OPTIONS:
        value = f" {option.metavar}" if option.metavar else ""
        flag = f"{option.cli_flag}{value}".replace("|", "\\|")
        help_text = option.help.replace("|", "\\|")
        rows.append(f"| `{flag}` | `{option.name}` | `{option.variable}` | {option.default_text} | {help_text} |")
    return "\n".join(rows) + "\n"


def _from_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = {option.name: option for option in OPTIONS}
    for name, value in found.items():
        if name not in known:
            raise ConfigError(f"{path}: unknown key {name!r}; known are {', '.join(sorted(known))}")
        option = known[name]
        if option.many and isinstance(value, list) and all(isinstance(item, str) for item in value):
            continue
        expected = bool if option.is_switch else str
        if not isinstance(value, expected):
            kind = "true or false" if expected is bool else "a list of strings" if option.many else "a string"
            raise ConfigError(f"{path}: {name} must be {kind}")
    return {name: [value] if known[name].many and isinstance(value, str) else value for name, value in found.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if text is None or text == "":
            continue
        if option.is_switch:
            if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
                raise ConfigError(f"{option.variable} must be 1 or 0, not {text!r}")
            found[option.name] = text.lower() in ("1", "true", "yes")
        elif option.many:
            found[option.name] = text.split()
        else:
            found[option.name] = text
    return found


def default_data_dir() -> Path:
    """The platform's folder for application data."""
    from platformdirs import user_data_path

    return user_data_path("p2pserver", appauthor=False)


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    settings: dict[str, Any] = {"origins": dict(origins)}
    known = {one.name for one in fields(Config)}
    for name, value in values.items():
        if name == "listen":
            settings["listen_host"], settings["listen_port"] = split_address(value)
        elif name == "transport":
            settings["transports"] = _transports(tuple(value))
        elif name == "app_service":
            settings["app_services"] = tuple(Path(each).expanduser() for each in value)
        elif name == "support":
            settings[name] = _support(tuple(value))
        elif name in ("data_dir", "ready_file"):
            settings[name] = Path(value).expanduser()
        elif name == "media_slow_seconds":
            settings[name] = _seconds(value)
        elif name == "media_slow_types":
            settings[name] = _media_types(value)
        elif name in SIZES:
            settings[name] = size_of(value, name)
        elif name in known:
            settings[name] = value
        else:
            raise ConfigError(f"unknown option {name!r}")
    settings.setdefault("data_dir", None)
    if settings["data_dir"] is None:
        settings["data_dir"] = default_data_dir()
    config_host = settings.get("listen_host", "127.0.0.1")
    settings.setdefault("registration", "open" if is_loopback(config_host) else "token")
    _check(settings)
    return Config(**settings)


def _transports(given: tuple[str, ...]) -> tuple[str, ...]:
    if "none" in given:
        if len(given) > 1:
            raise ConfigError("--transport none cannot stand beside another transport")
        return ()
    for item in given:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*(:.*)?", item):
            raise ConfigError(
                f"{item!r} is not a transport: write kind or kind:parameters, as in lan:peer=10.0.0.2:4001"
            )
    return given


def _support(given: tuple[str, ...]) -> tuple[str, ...]:
    for item in given:
        if not (is_user_id(item) or re.fullmatch(r"https?://\S+|[^@\s:/]+@[^@\s:/]+", item)):
            raise ConfigError(f"support is a user ID, a mail address or the address of a page, not {item!r}")
    return given


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise ConfigError(f"media_slow_seconds is a number of seconds, not {text!r}")
    return float(text)


def _media_types(text: str) -> tuple[str, ...]:
    types = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for kind in types:
        if not re.fullmatch(r"[a-z*][a-z0-9!#$&^_.+*-]*/[a-z0-9!#$&^_.+*-]+", kind):
            raise ConfigError(f"media_slow_types is a list such as image/*,audio/ogg, and {kind!r} is no type")
    return types


def _check(settings: Mapping[str, Any]) -> None:
    if settings["registration"] not in REGISTRATION_MODES:
        raise ConfigError(f"registration must be one of {', '.join(REGISTRATION_MODES)}")
    if settings.get("default_room_version", DEFAULT_ROOM_VERSION) not in ROOM_VERSIONS:
        raise ConfigError("default_room_version must be one of 1 to 12: other room versions are not known here")
    if settings.get("domain") is not None:
        try:
            check_domain(settings["domain"])
        except InvalidIdentifier as error:
            raise ConfigError(f"--domain: {error}") from None
    if settings.get("log_level", "warning") not in ("debug", "info", "warning", "error"):
        raise ConfigError("log_level must be debug, info, warning or error")
    if settings.get("registration_shared_secret") == "":
        raise ConfigError("registration_shared_secret must not be empty")
    token = settings.get("registration_token")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{1,64}", token):
        raise ConfigError("registration_token must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")
