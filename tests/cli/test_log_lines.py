"""What other nodes say ends up in log lines: it must not make lines of its own, nor move the cursor."""

from __future__ import annotations

import json
import logging

from p2pserver.cli import JsonLines, PlainLines

FORGED = "no such room\nerror p2pserver: the disk is full\x1b[2J\x9b2J\u202e"


def record() -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "p2pserver.node", "levelname": "INFO", "msg": "no state claim"})
    made.reason = FORGED
    return made


def test_a_plain_line_is_one_line_without_control_characters() -> None:
    line = PlainLines().format(record())
    assert line.startswith("info p2pserver.node: no state claim reason=no such room error p2pserver")
    assert line.isprintable()


def test_a_json_line_is_one_line_that_says_it_all() -> None:
    line = JsonLines().format(record())
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["reason"] == FORGED
