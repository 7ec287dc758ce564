"""Two devices in network namespaces joined by veth: real mDNS, real matrix-nio clients, a partition that heals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.devices import NodeProcess
from tests.e2e.story import Device, Story, kills
from tests.transports.netns import Network, two_hosts

pytestmark = [pytest.mark.netns, pytest.mark.timeout(420)]
CLIENT_PORT = 8008


@pytest.fixture
def net() -> Iterator[Network]:
    with two_hosts() as hosts:
        yield hosts


def start_devices(net: Network, folder: Path) -> list[Device]:
    devices = []
    for number, host in enumerate((net.a, net.b)):
        home = folder / f"device{number}"
        home.mkdir()
        devices.append(Device(NodeProcess(host.popen, home).start()))
    return devices


@pytest.fixture
def devices(net: Network, tmp_path: Path) -> Iterator[list[Device]]:
    started = start_devices(net, tmp_path)
    try:
        yield started
    finally:
        for device in started:
            device.close()


@pytest.fixture
def story(net: Network, devices: list[Device]) -> Story:
    here, there = devices
    told = Story(
        ann=here.client(net.a.popen, "ann"), ben=there.client(net.b.popen, "ben"), cal=here.client(net.a.popen, "cal")
    )
    told.begin()
    return told


def test_two_devices_meet_part_and_merge(net: Network, story: Story) -> None:
    story.both_send("together", 50)
    story.wait_for_all()
    net.down()
    story.both_send("apart", 50)
    story.disagree()
    net.up()
    story.wait_for_all()
    view = story.check_equal()
    assert len(view["messages"]) == 200
    assert view["name"] in ("ann's harbor", "ben's harbor")
    assert view["members"] == sorted([story.ann.user_id, story.ben.user_id])


def test_a_killed_node_loses_nothing_that_it_acknowledged(net: Network, devices: list[Device], story: Story) -> None:
    lock = threading.Lock()
    with kills([device.node for device in devices], seed=7, every_s=(0.3, 1.2), lock=lock) as done:
        story.both_send("together", 50, pause=0.05)
    with lock:
        net.down()
    with kills([device.node for device in devices], seed=8, every_s=(0.3, 1.2), lock=lock) as more:
        story.both_send("apart", 50, pause=0.05)
        story.disagree()
    assert len(done) + len(more) >= 4, "the test killed too little to mean anything"
    net.up()
    story.wait_for_all()
    view = story.check_equal()
    assert len(view["messages"]) == 200


def test_a_burst_reaches_the_other_client_whole(story: Story) -> None:
    bodies = [f"burst {n}" for n in range(300)]
    halves = [bodies[n::6] for n in range(6)]
    sent = story.ann.do("send_concurrently", room=story.room, lists=halves)
    assert len(sent) == 300
    story.ben.do("wait_messages", room=story.room, count=300, seconds=90)
    assert story.ben.do("view", room=story.room)["messages"] == sorted(bodies)


def test_somebody_on_a_node_nearby_is_found_by_name(story: Story, devices: list[Device]) -> None:
    deadline = time.monotonic() + 20
    while story.ben.user_id not in (found := story.ann.do("search_users", term="ben")):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_the_node_says_who_was_found_and_ends_within_two_seconds(devices: list[Device], story: Story) -> None:
    here, there = devices
    said = here.node.said()
    assert f"http://127.0.0.1:{CLIENT_PORT}" in said
    assert there.node.server_name[:8] in said
    status, seconds = here.node.interrupt()
    assert status == 0
    assert seconds < 2.0
    assert not here.node.ready_file.exists()
