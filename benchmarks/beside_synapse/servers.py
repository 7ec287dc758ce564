"""The servers under measurement: whole processes on data folders of their own, with rate limits off."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from benchmarks.beside_synapse.load import AnswerRefused, Connection, request_of

SHARED_SECRET = "a secret of the benchmark"
PASSWORD = "a password of the benchmark"
START_WITHIN_S = 60.0
PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Server(ABC):
    """One server on one data folder; may be started many times."""

    kind: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.url = ""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        """Byte code is kept from one start to the next, as it is where software is installed."""
        variables = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "beside-synapse-bytecode")}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        return variables

    async def start(self) -> float:
        """Starts the process; seconds until `/versions` is answered 200."""
        self._log = (self.folder / "log").open("ab")
        command = self.command()
        started = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: ASYNC220  # until it runs there is nothing else to do
            command, stdout=self._log, stderr=self._log, env=self.environment(), cwd=self.folder
        )
        request = request_of("GET", "/_matrix/client/versions")
        while time.perf_counter() < started + START_WITHIN_S:
            try:
                connection = await Connection.open(self.url)
                status, _ = await connection.ask(request)
                connection.close()
                if status == 200:
                    return time.perf_counter() - started
            except OSError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.kind} ended; see {self.folder / 'log'}")
            await asyncio.sleep(0.005)
        raise TimeoutError(f"{self.kind} does not answer")

    async def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()

    def resident_octets(self) -> int:
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE_OCTETS

    def cpu_s(self) -> float:
        """User and system time of the process so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def register(self, connection: Connection, name: str) -> tuple[str, str]:
        """(user ID, access token) of a new user, made with the shared secret."""
        path = "/_synapse/admin/v1/register"
        nonce = json.loads((await connection.ask(request_of("GET", path)))[1])["nonce"]
        mac = hmac.new(SHARED_SECRET.encode(), digestmod=hashlib.sha1)
        mac.update(b"\0".join([nonce.encode(), name.encode(), PASSWORD.encode(), b"notadmin"]))
        body = {"nonce": nonce, "username": name, "password": PASSWORD, "admin": False}
        status, answer = await connection.ask(request_of("POST", path, body={**body, "mac": mac.hexdigest()}))
        if status != 200:
            raise AnswerRefused(status, answer)
        made: dict[str, Any] = json.loads(answer)
        return made["user_id"], made["access_token"]


class P2pServer(Server):
    """`p2pserver run` as it is started by people, with the LAN unless told otherwise."""

    kind = "p2pserver"

    def __init__(self, folder: Path, *, transport: str = "none") -> None:
        super().__init__(folder)
        self._transport = transport
        port = free_port()
        self._listen = f"127.0.0.1:{port}"
        self.url = f"http://{self._listen}"

    def version(self) -> str:
        return version("p2pserver")

    def command(self) -> list[str]:
        settings = ["--data-dir", str(self.folder / "data"), "--listen", self._listen, "--transport", self._transport]
        secret = ["--registration-shared-secret", SHARED_SECRET, "--no-rate-limits"]
        return [sys.executable, "-m", "p2pserver", "run", *settings, *secret]

    def environment(self) -> dict[str, str]:
        root = Path(__file__).parents[2]
        return {**super().environment(), "PYTHONPATH": str(root)}


class Synapse(Server):
    """Synapse on SQLite with one process and its defaults, but for limits of rates and the cost of passwords."""

    kind = "synapse"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def version(self) -> str:
        return version("matrix-synapse")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "SYNAPSE_CACHE_FACTOR": "0.5"}

    def command(self) -> list[str]:
        config = self.folder / "homeserver.yaml"
        config.write_text(json.dumps(self._settings()))
        self._make_keys(config)
        return [sys.executable, "-m", "synapse.app.homeserver", "-c", str(config)]

    def _make_keys(self, config: Path) -> None:
        if not (self.folder / "signing.key").exists():
            subprocess.run(
                [sys.executable, "-m", "synapse.app.homeserver", "-c", str(config), "--generate-keys"],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def _settings(self) -> dict[str, Any]:
        limit = {"per_second": 100_000, "burst_count": 100_000}
        return {
            "server_name": "localhost",
            "pid_file": str(self.folder / "pid"),
            "listeners": [
                {
                    "port": self._port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "tls": False,
                    "resources": [{"names": ["client"], "compress": False}],
                }
            ],
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}},
            "log_config": str(self._log_config()),
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": str(self.folder / "signing.key"),
            "registration_shared_secret": SHARED_SECRET,
            "macaroon_secret_key": "a macaroon key of the benchmark",
            "form_secret": "a form secret of the benchmark",
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "bcrypt_rounds": 4,
            "rc_message": limit,
            "rc_registration": limit,
            "rc_login": {"address": limit, "account": limit, "failed_attempts": limit},
            "rc_joins": {"local": limit, "remote": limit},
            "rc_joins_per_room": limit,
            "rc_invites": {"per_room": limit, "per_user": limit, "per_issuer": limit},
            "rc_room_creation": limit,
            "rc_presence": {"per_user": limit},
        }

    def _log_config(self) -> Path:
        path = self.folder / "log.yaml"
        handler = {"class": "logging.StreamHandler"}
        settings = {
            "version": 1,
            "handlers": {"console": handler},
            "root": {"level": "WARNING", "handlers": ["console"]},
        }
        path.write_text(json.dumps({**settings, "disable_existing_loggers": False}))
        return path


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
