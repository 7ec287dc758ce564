"""Two whole nodes whose only way to each other is Bluetooth LE, on a virtual air, with real matrix-nio clients."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.devices import ROOT, Lines, NodeProcess
from tests.e2e.story import Device, Story

pytestmark = pytest.mark.timeout(240)


class Air:
    """The air program, and who is where."""

    def __init__(self, *places: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.transports.ble.air_program", *places],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.output, self.errors = Lines(self.process.stdout), Lines(self.process.stderr)
        self.ports: dict[str, int] = json.loads(self._line())

    def transport(self, place: str, *, mtu: int = 247) -> str:
        return f"ble:hci=tcp-client:127.0.0.1:{self.ports[place]},mtu={mtu}"

    def say(self, line: str) -> dict[str, int]:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def _line(self) -> str:
        line = self.output.next(20)
        assert line is not None, self.errors.drain()
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


def free_port() -> int:
    """A port that a node may have again after a restart, where its clients expect it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def air() -> Iterator[Air]:
    made = Air("ann", "ben")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def devices(air: Air, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Device]]:
    mtu = getattr(request, "param", 247)
    started: list[Device] = []
    try:
        for name in ("ann", "ben"):
            home = tmp_path / name
            home.mkdir()
            arguments = [f"--listen=127.0.0.1:{free_port()}", f"--transport={air.transport(name, mtu=mtu)}"]
            started.append(Device(NodeProcess(subprocess.Popen, home, arguments).start()))
        yield started
    finally:
        for device in started:
            device.close()


@pytest.fixture
def story(devices: list[Device]) -> Story:
    here, there = devices
    told = Story(
        ann=here.client(subprocess.Popen, "ann"),
        ben=there.client(subprocess.Popen, "ben"),
        cal=here.client(subprocess.Popen, "cal"),
    )
    told.begin()
    return told


def test_two_phones_chat_part_and_merge(air: Air, devices: list[Device], story: Story) -> None:
    story.both_send("together", 10)
    story.wait_for_all()
    carried = air.say("part ann ben")["octets"]
    story.both_send("apart", 10)
    story.disagree()
    time.sleep(0.5)
    assert air.say("count")["octets"] == carried, "there is another way between the two"
    air.say("meet ann ben")
    story.wait_for_all()
    view = story.check_equal()
    assert len(view["messages"]) == 40
    assert view["name"] in ("ann's harbor", "ben's harbor")
    assert view["members"] == sorted([story.ann.user_id, story.ben.user_id])


@pytest.mark.parametrize("devices", [23], indirect=True)
def test_a_phone_that_is_switched_off_comes_back_though_datagrams_have_20_octets(
    devices: list[Device], story: Story
) -> None:
    story.both_send("before", 3)
    story.wait_for_all()
    devices[1].node.kill()
    bodies = [f"alone {number}" for number in range(3)]
    sent = story.ann.do("send_many", room=story.room, bodies=bodies, pause=0.0)
    story.acknowledged.update(zip(bodies, sent, strict=True))
    devices[1].node.start()
    story.wait_for_all()
    assert len(story.check_equal()["messages"]) == 9


def test_the_example_tells_the_story() -> None:
    told = subprocess.run(
        [sys.executable, "examples/offline_phones.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "both have the same five messages" in told.stdout
