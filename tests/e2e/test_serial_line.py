"""Two whole nodes with matrix-nio clients and nothing between them but a serial line of 1,200 bit/s."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.devices import ROOT, NodeProcess
from tests.e2e.story import Device
from tests.transports.serial_lines import WireModel, pty_line

BAUD = 1_200


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Device]]:
    with pty_line(WireModel(2, BAUD / 10)) as line:
        started: list[Device] = []
        try:
            for number, path in enumerate(line.paths):
                home = tmp_path / f"device{number}"
                home.mkdir()
                arguments = [f"--transport=serial:{path}?baud={BAUD}", "--listen=127.0.0.1:0"]
                started.append(Device(NodeProcess(subprocess.Popen, home, arguments).start()))
            yield started
        finally:
            for device in started:
                device.close()


def rooms_shown(device: Device) -> str:
    """What another terminal shows while the node runs."""
    command = [sys.executable, "-m", "p2pserver", "rooms", f"--data-dir={device.node.folder / 'data'}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout


def until(seen: Callable[[], bool], message: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, message


@pytest.mark.timeout(150)
def test_a_room_is_joined_and_used_at_1200_bit_s(devices: list[Device]) -> None:
    here, there = devices
    ann, ben = here.client(subprocess.Popen, "ann"), there.client(subprocess.Popen, "ben")
    until(lambda: all("connected to" in device.node.said() for device in devices), "the nodes did not meet")
    open_to_all = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "public"}}
    room = ann.do("create", initial_state=[open_to_all], room_version="12")
    joined = ben.start("join", room=room)
    shown: list[str] = []

    def is_shown() -> bool:
        shown.append(rooms_shown(there))
        return "octets, about" in shown[-1]

    until(is_shown, "the join was never shown")
    joined(60)
    said = there.node.said()
    told = re.findall(rf"joining {re.escape(room)}: (\d+) % of [\d,]+ octets, about \d+ s left", said)
    assert told
    assert f"joined {room}" in said
    assert re.search(r"\d+ % of [\d,]+ octets, about \d+ s left", shown[-1]), shown[-1]

    # what people write overtakes the history, which is still on its way
    ben.do("send_many", room=room, bodies=["can you hear me?"])
    ann.do("wait_messages", room=room, count=1)
    ann.do("send_many", room=room, bodies=["loud and clear"])
    ben.do("wait_messages", room=room, count=2)
    views = [client.do("view", room=room) for client in (ann, ben)]
    assert views[0] == views[1]
    assert views[0]["messages"] == ["can you hear me?", "loud and clear"]
