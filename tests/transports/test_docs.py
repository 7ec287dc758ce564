"""`docs/transports.md` is true: its example runs, its options are the ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transports.lan import LanParameters, LanTransport

PAGE = (Path(__file__).parents[2] / "docs" / "transports.md").read_text()


def test_the_simulator_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "run_virtual" in block]
    exec(compile(example, "docs/transports.md", "exec"), {})
    assert re.fullmatch(r"out of reach after 6\d s\n", capsys.readouterr().out)


def test_the_lan_commands_and_options_are_understood() -> None:
    commands = re.findall(r"--transport lan:?(\S*)", PAGE)
    assert len(commands) >= 2
    for parameters in commands:
        LanTransport.from_parameters(parameters.rstrip("`"))
    table = PAGE.partition("## The LAN")[2]
    documented = set(re.findall(r"^\| `(\w+)=", table, re.MULTILINE))
    with pytest.raises(ValueError) as raised:
        LanParameters.parse("unheard-of=1")
    known = set(str(raised.value).rpartition("known are ")[2].split(", "))
    assert documented == known
