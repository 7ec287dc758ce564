"""`p2pserver run`: real files, sockets, clocks and signals around a `Node`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Final

from p2pserver.config import Config, ConfigError
from p2pserver.node.app_service_files import load_app_services
from p2pserver.node.http import HttpServer, write_ready_file
from p2pserver.node.identity import Identity, IdentityError, load_identity, locked, newest_run, write_run
from p2pserver.node.lines import device_addresses, line_of, lines_of_network, lines_of_transport, welcome
from p2pserver.node.node import Node
from p2pserver.node.process_memory import settle_garbage_collector, use_little_memory
from p2pserver.node.runs import notice_older_database
from p2pserver.rooms.app_services import AppServices
from p2pserver.store.database import SqliteDatabase
from p2pserver.store.tx import Tx
from transports.contract import Transport, TransportFactory

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "p2pserver.transports"
OWN_TRANSPORTS: Final = {
    "ble": "transports.ble:BleTransport",
    "lan": "transports.lan:LanTransport",
    "serial": "transports.serial:SerialTransport",
}
"""The entry points that come with this package: to search for them takes a megabyte, and longer than all else."""
NOTES_LOOK_S = 3.0
SWITCH_INTERVAL_S = 0.001
"""How long the database thread may keep the interpreter from the event loop; Python's 5 ms add up under load."""


async def run(config: Config, *, announce: Callable[[str], None], register: str) -> int:
    """Runs the node until SIGINT or SIGTERM; the exit status. `announce` prints a line for people.

    `register` is the command that makes an account on this node, told to people. Raises: IdentityError, ConfigError,
    OSError, with one line that says what to do; SchemaTooNew; sqlite3.Error.
    """
    use_little_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    transports = [transport_of(text) for text in config.transports]
    identity = load_identity(config.data_dir, domain=config.domain)
    app_services = load_app_services(config.app_services, identity.server_name)
    with locked(config.data_dir):
        database = await prepare_database(config, identity, keep_open=True)
        assert database is not None
        try:
            return await _serve(config, identity, database, transports, app_services, announce, register)
        finally:
            await database.close()


async def prepare_database(config: Config, identity: Identity, *, keep_open: bool = False) -> SqliteDatabase | None:
    """Makes or updates the database and holds it to the identity's name. Returns it, if it is to be kept open.

    Raises: IdentityError, if it belongs to another node; SchemaTooNew; sqlite3.Error.
    """
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = await SqliteDatabase.open(config.database_path)
    try:
        found = await database.read(_server_name)
        if found is None:
            await database.write(lambda tx: _keep_server_name(tx, identity.server_name))
        elif found != identity.server_name:
            raise IdentityError(
                f"{config.database_path} belongs to the node {found}, and the key to {identity.server_name}: "
                "put the matching file back from a backup"
            )
    except BaseException:  # whatever it is, what was begun is undone, and it is raised again
        await database.close()
        raise
    if keep_open:
        return database
    await database.close()
    return None


def _server_name(tx: Tx) -> str | None:
    row = tx.one("SELECT value FROM node WHERE name = 'server_name'")
    return None if row is None else str(row[0])


def _keep_server_name(tx: Tx, server_name: str) -> None:
    tx.execute("INSERT OR IGNORE INTO node (name, value) VALUES ('server_name', ?)", (server_name,))


def transport_of(text: str) -> Transport:
    """The transport that `kind:parameters` names, found by entry point.

    Raises: ConfigError.
    """
    kind, _, parameters = text.partition(":")
    try:
        return _factory(kind).from_parameters(parameters)
    except ImportError as error:
        raise ConfigError(f"transport {kind!r} needs a package that is not installed: {error.name}") from None
    except ValueError as error:
        raise ConfigError(f"--transport {text}: {error}") from None


def _factory(kind: str) -> TransportFactory:
    """Raises: ConfigError; ImportError."""
    if kind in OWN_TRANSPORTS:
        module, _, name = OWN_TRANSPORTS[kind].partition(":")
        own: TransportFactory = getattr(import_module(module), name)
        return own
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in found:
        known = sorted({*found, *OWN_TRANSPORTS})
        raise ConfigError(f"there is no transport {kind!r}; installed are {', '.join(known)}")
    factory: TransportFactory = found[kind].load()
    return factory


async def _serve(
    config: Config,
    identity: Identity,
    database: SqliteDatabase,
    transports: list[Transport],
    app_services: AppServices,
    announce: Callable[[str], None],
    register: str,
) -> int:
    token = None
    if config.registration == "token":
        token = config.registration_token or await database.write(_registration_token)
        config = replace(config, registration_token=token)
    newest = newest_run(config.data_dir)
    now_ms = time.time_ns() // 1_000_000
    if newest is not None and await notice_older_database(
        database, newest, server_name=identity.server_name, now_ms=now_ms
    ):
        announce("ALARM: the database is older than the data folder: it was put back alone; the node goes on anew")
    node = Node(
        config,
        identity=identity,
        database=database,
        transports=transports,
        app_services=app_services,
        tell=lambda event: announce(line_of(event)),
    )
    http = HttpServer(node.asgi_app(), host=config.listen_host, port=config.listen_port)
    stopping = _stop_signal()
    ready_written = False
    try:
        try:
            await node.start()
        except OSError as error:
            named = ", ".join(config.transports)
            raise OSError(f"cannot start --transport {named}: {error.strerror or error}") from None
        write_run(config.data_dir, node.mesh.run)
        await http.start()
        host = f"[{config.listen_host}]" if ":" in config.listen_host else config.listen_host
        listen = f"{host}:{http.url.rpartition(':')[2]}"
        await database.write(lambda tx: _keep_listen(tx, listen))
        for line in welcome(
            config,
            identity,
            http.url,
            token=token,
            register=register,
            device_addresses=device_addresses(config.listen_host),
        ):
            announce(line)
        if node.mesh.network is not None:
            for line in lines_of_network(node.mesh.network, before="Broadcasting on shared radios in "):
                announce(line)
        if config.ready_file is not None:
            write_ready_file(config.ready_file, client_url=http.url, server_name=identity.server_name)
            ready_written = True
        log.info("node started", extra={"server_name": identity.server_name, "client_url": http.url})
        settle_garbage_collector()
        notes = asyncio.create_task(_tell_notes(node, announce), name="notes")
        await stopping.wait()
        notes.cancel()
        announce("stopping")
    finally:
        if config.ready_file is not None and ready_written:
            with suppress(OSError):
                config.ready_file.unlink(missing_ok=True)
        await asyncio.gather(http.stop(), node.stop())
    return 0


def _keep_listen(tx: Tx, listen: str) -> None:
    """So that other commands know where this node is reached."""
    tx.execute("INSERT OR REPLACE INTO node (name, value) VALUES ('listen', ?)", (listen,))


def _registration_token(tx: Tx) -> str:
    """The token made at first need."""
    row = tx.one("SELECT value FROM node WHERE name = 'registration_token'")
    if row is not None:
        return str(row[0])
    token = secrets.token_urlsafe(12)
    tx.execute("INSERT INTO node (name, value) VALUES ('registration_token', ?)", (token,))
    return token


def _stop_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM; a second one ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stopping.set))
    return stopping


async def _tell_notes(node: Node, announce: Callable[[str], None]) -> None:
    """What transports have to say to people, each line once."""
    told: set[str] = set()
    while True:
        for status in node.mesh.status():
            for line in lines_of_transport(status):
                if line not in told and len(told) < 1000:
                    told.add(line)
                    announce(line)
        await asyncio.sleep(NOTES_LOOK_S)
