"""`p2pserver room …`: one room's event graph, looked at from the stored events alone, with a node or without."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from p2pserver.commands.settings import (
    Failure,
    failures_told,
    load_config,
    require_database,
    setting_options,
    show_qr,
)
from p2pserver.config import Config

if TYPE_CHECKING:
    from p2pserver.store.tx import Tx

T = TypeVar("T")
EVENTS_SHOWN = 300
VIA_MAX = 3
"""Servers that a link to a room names. Source: Matrix appendices, "Routing"."""
SERVERS_MAX = 10_000


@click.group(short_help="Shows, draws and checks one room.")
def room() -> None:
    """Looks at one room: what is known of it, its event graph, whether all of it is right.

    ROOM is a room ID, an alias of this node, the beginning of a room ID (without the `!`, if you like), a name, or a
    link (matrix: or https://matrix.to), as long as it means one room. Only the stored events are read, whether or not
    the node runs; nothing is written.
    """


def on_room(config: Config, text: str, read: Callable[[Tx, str], T]) -> T:
    """Runs `read(tx, room_id)` on one moment of the node's database, which is not changed in any way.

    Raises: Failure.
    """
    from p2pserver.store.read_only import snapshot
    from p2pserver.store.room_names import NoSuchRoom, room_meant

    require_database(config)
    with failures_told(config), snapshot(config.database_path) as tx:
        try:
            return read(tx, room_meant(tx, text))
        except NoSuchRoom as error:
            raise Failure(str(error)) from None


@room.command()
@click.argument("room_", metavar="ROOM")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all that is known.")
@setting_options(["data_dir"])
def show(config_file: Path | None, room_: str, as_json: bool, **flags: Any) -> None:
    """Shows one room: alarms, events by verdict, width, servers, and what is missing."""
    from p2pserver.commands.room_lines import lines_of_room
    from p2pserver.graph_view.text import printable
    from p2pserver.store.room_report import room_report

    found = on_room(load_config(config_file, flags), room_, room_report)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for line in lines_of_room(found):
        click.echo(printable(line))


@room.command()
@click.argument("room_", metavar="ROOM")
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "dot", "json"]),
    default="svg",
    show_default=True,
    help="svg: a picture that any browser shows; dot: for Graphviz; json: everything that is drawn.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
@click.option(
    "--last", type=click.IntRange(min=1), default=EVENTS_SHOWN, show_default=True, help="How many events, the deepest."
)
@click.option("--all", "everything", is_flag=True, help="All events, however many.")
@setting_options(["data_dir"])
def graph(
    config_file: Path | None, room_: str, form: str, output: Path | None, last: int, everything: bool, **flags: Any
) -> None:
    """Draws a room's event graph: forks, merges, what was rejected and why, what is missing.

    Time goes to the right, each server has a lane, each event a tooltip. A graph of more than 300 events is drawn with
    rows of plain events as one.
    """
    from p2pserver.store.room_graph import room_graph

    config = load_config(config_file, flags)
    found = on_room(config, room_, lambda tx, room_id: room_graph(tx, room_id, last=None if everything else last))
    if form == "svg":
        from p2pserver.graph_view.svg import as_svg

        text = as_svg(found)
    elif form == "dot":
        from p2pserver.graph_view.dot import as_dot

        text = as_dot(found)
    else:
        text = json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        with failures_told(config):
            output.write_text(text, encoding="utf-8")
    shown = sum(not event.outlier for event in found.events)
    if shown < found.events_held:
        click.echo(f"the last {shown:,} of {found.events_held:,} events; --all draws all", err=True)


@room.command()
@click.argument("room_", metavar="ROOM")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@setting_options(["data_dir"])
def verify(config_file: Path | None, room_: str, as_json: bool, **flags: Any) -> None:
    """Checks a room again, from the stored events alone.

    Every signature, hash and event ID, what the auth rules say of each event, the state before and after it, its depth
    and place, then the leaves, the forward extremities and the current state: all computed anew, from the create event
    up, and compared with what is stored. Exit status 0: all is as it should be; 1: the first difference is shown.

    Not checked are what only the order of arrival decides (whether an event came too late: soft failure) and, in a room
    whose history is not complete, the states that other servers claimed; the events above them are checked against the
    claims, and counted.
    """
    from p2pserver.events.signing import SelfCertifyingKeys
    from p2pserver.rooms.verification import verify as check

    config = load_config(config_file, flags)
    with _progress() as progress:
        began = time.monotonic()
        found = on_room(config, room_, lambda tx, room_id: check(tx, room_id, SelfCertifyingKeys(), progress))
        seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps({**asdict(found), "seconds": round(seconds, 3)}))
    else:
        from p2pserver.commands.room_lines import lines_of_verification
        from p2pserver.graph_view.text import printable

        for line in lines_of_verification(found, seconds):
            click.echo(printable(line))
    if found.difference is not None:
        raise SystemExit(1)


@room.command()
@click.argument("room_", metavar="ROOM")
@click.option("--event", "event_id", help="A link to this event of the room.")
@click.option("--qr", is_flag=True, help="Show the link as a QR code too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@setting_options(["data_dir"])
def link(config_file: Path | None, room_: str, event_id: str | None, qr: bool, as_json: bool, **flags: Any) -> None:
    """Shows links with which others find a room: for an app on a device, and for a web page that offers apps.

    They name this node and up to two more that are in the room, since the ID of a new room does not say where to ask.
    """
    from p2pserver.matrix_uri import MatrixLink
    from p2pserver.store.events import stored
    from p2pserver.store.memberships import largest_servers

    config = load_config(config_file, flags)

    def read(tx: Tx, room_id: str) -> MatrixLink:
        event = None if event_id is None else stored(tx, event_id)
        if event_id is not None and (event is None or event.pdu.room_id != room_id):
            raise Failure(f"there is no event {event_id} in this room")
        servers = largest_servers(tx, room_id, SERVERS_MAX)
        own = tx.one("SELECT value FROM node WHERE name = 'server_name'")
        via = sorted(servers, key=lambda server: own is None or server != own[0])
        return MatrixLink(target=room_id, event_id=event_id, via=tuple(via[:VIA_MAX]))

    found = on_room(config, room_, read)
    if as_json:
        click.echo(json.dumps({"uri": found.uri(), "matrix_to": found.matrix_to(), "via": list(found.via)}))
        return
    if qr:
        show_qr(found.uri())
    click.echo(found.uri())
    click.echo(found.matrix_to())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on a terminal; for everybody else nothing."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.percentage:3.0f} %"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("events", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
