"""`p2pserver debug …`: the rules of the event graph on files alone, with no node."""

from __future__ import annotations

import json
from functools import wraps
from typing import Any

import click

from p2pserver.commands.settings import Command


@click.group(short_help="Resolves states and checks events in files.")
def debug() -> None:
    """Runs the rules of the event graph on files, with no node.

    Exit status 0: the file was understood, whatever the verdicts in it; 2: it was not.
    """


def _bad_files_told(command: Command) -> Command:
    """What is wrong with a file is one line and exit status 2."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from p2pserver.commands.json_files import BadFile

        try:
            return command(*arguments, **options)
        except BadFile as error:
            click.echo(f"p2pserver: {_one_line(str(error))}", err=True)
            raise SystemExit(2) from None

    return run


def _one_line(text: str) -> str:
    from p2pserver.graph_view.text import printable, shortened

    return shortened(printable(text), 500)


@debug.command()
@click.argument("file")
@click.option("--trace", is_flag=True, help="Every step too: verdicts, conflicted sets, orders, each auth decision.")
@_bad_files_told
def resolve(file: str, trace: bool) -> None:
    """Resolves the state sets of a room in FILE (`-`: standard input) and prints JSON.

    \b
    FILE: {"room_version", "servers": {name: {"key_id", "verify_key"}},
           "events": [{"pdu"}], "states": [{type: {state_key: event_id}}],
           "resolutions": [{"state_sets": [indexes into states]}]}
    Out:  {"resolutions": [{"state": {type: {state_key: event_id}}}, ...]}

    The verdict of every event is computed here: all that it cites must be in the file. A signature that is wrong makes
    the file invalid; where no key of a server is known (not in `servers`, and the name is no key), its signatures are
    not checked, and a line on standard error says so.

    With --trace each resolution also has its `name` and a `trace`: conflicted_keys, conflicted_set, auth_difference,
    conflicted_subgraph, full_conflicted_set, power_order, state_after_power, mainline, rest_order, as far as the
    room version has them (version 1: `passes`), and `auth_decisions`, each with its reason; `events` has each event's
    verdict with its reason and the states before and after it.
    """
    from p2pserver.commands.json_files import read_json
    from p2pserver.commands.scenario import Scenario

    scenario = Scenario.of(read_json(file))
    for warning in scenario.warnings:
        click.echo(f"p2pserver: {_one_line(warning)}", err=True)
    click.echo(json.dumps(scenario.answer(trace=trace), ensure_ascii=True))


@debug.command("check-event")
@click.argument("file")
@click.option("--room-version", help="Where neither the file nor a create event in it says so.")
@click.option("--auth", multiple=True, metavar="FILE", help="More events to judge by: a PDU, or a list of them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; a list for a file of cases.")
@_bad_files_told
def check_event(file: str, room_version: str | None, auth: tuple[str, ...], as_json: bool) -> None:
    """Prints what a node makes of the PDU in FILE (`-`: standard input), and why.

    \b
    FILE is one of
      a PDU, as it travels
      {"pdu", and any of: "room_version", "servers": {name: {"key_id", "verify_key"}},
       "auth_events": [PDUs], "state": [PDUs before it]}
      {"cases": [such objects]}

    \b
    accepted       signature and hash are right, and the auth rules allow it
    redacted copy  like accepted, but the content does not match its hash
    rejected       its auth events, or the state, do not allow it
    dropped        not an event of this room version, or not signed

    The line "auth" says how far the auth rules could be asked: for that all of its auth events must be given, and the
    create event. Keys are those in the file; a server whose name is a key needs none.
    """
    from p2pserver.commands.event_check import cases_of, check
    from p2pserver.commands.json_files import read_json
    from p2pserver.graph_view.text import printable

    data, beside = read_json(file), []
    for each in auth:
        more = read_json(each)
        beside += more if isinstance(more, list) else [more]
    cases, is_list = cases_of(data, version=room_version, beside=beside)
    results = [check(case) for case in cases]
    if as_json:
        found = [result.as_json() for result in results]
        click.echo(json.dumps(found if is_list else found[0]))
        return
    for number, result in enumerate(results):
        if number:
            click.echo()
        for line in result.lines():
            click.echo(printable(line))
