"""`p2pserver doctor`: what this machine can do for each transport, and what to change."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from transports.ble import diagnosis
from transports.finding import Finding, Weight
from transports.lan import diagnosis as lan_diagnosis


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(*, as_json: bool) -> None:
    """Tells what this machine can do for each transport, and what to change.

    Takes some seconds, in which it listens who else is on the network. Changes nothing; needs no rights. The exit
    status is 1 when something keeps a transport from working.
    """
    found = {"lan": asyncio.run(_lan()), "ble": asyncio.run(_bluetooth())}
    if as_json:
        click.echo(json.dumps({kind: [_as_json(each) for each in findings] for kind, findings in found.items()}))
    else:
        for kind, findings in found.items():
            for each in findings:
                click.echo(line_of(kind, each))
    bad = any(each.weight is Weight.BAD for findings in found.values() for each in findings)
    sys.exit(1 if bad else 0)


async def _lan() -> tuple[Finding, ...]:
    return lan_diagnosis.judge(await lan_diagnosis.gather())


async def _bluetooth() -> tuple[Finding, ...]:
    return diagnosis.judge(await diagnosis.gather())


def line_of(kind: str, finding: Finding) -> str:
    """`ble   fix   hci0 is switched off: bluetoothctl power on`"""
    remedy = f": {finding.remedy}" if finding.remedy else ""
    return f"{kind:<6}{finding.weight:<6}{finding.what}{remedy}"


def _as_json(finding: Finding) -> dict[str, str]:
    return {"weight": finding.weight, "what": finding.what, "remedy": finding.remedy}
