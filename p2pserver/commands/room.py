"""`p2pserver room …`: one room's event graph, looked at from the stored events alone, with a node or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from p2pserver.commands.settings import Failure, failures_told, load_config, require_database, setting_options
from p2pserver.config import Config

if TYPE_CHECKING:
    from p2pserver.store.tx import Tx

T = TypeVar("T")
EVENTS_SHOWN = 300


@click.group()
def room() -> None:
    """Looks at one room: draws its event graph, checks it again.

    ROOM is a room ID, an alias of this node, the beginning of a room ID (without the `!`, if you like) or a name,
    as long as it means one room. Only the stored events are read, whether or not the node runs; nothing is written.
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
        import json

        text = json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        with failures_told(config):
            output.write_text(text, encoding="utf-8")
    shown = sum(not event.outlier for event in found.events)
    if shown < found.events_held:
        click.echo(f"the last {shown:,} of {found.events_held:,} events; --all draws all", err=True)
