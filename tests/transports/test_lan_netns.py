"""The LAN transport between two hosts with a real cable, real multicast and the real zeroconf."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.transports.netns import Host, Network, two_hosts, two_hosts_without_multicast

pytestmark = pytest.mark.netns


@pytest.fixture
def net() -> Iterator[Network]:
    with two_hosts() as made:
        yield made


class Program:
    """One of `lan_programs.py`, running on a host, and what it said."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self._process = host.popen(
            [sys.executable, "-m", "tests.transports.lan_programs", *arguments], stdout=subprocess.PIPE, text=True
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._events.put(json.loads(line))

    def wait(self, event: str, within_s: float, such_that: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """The next event of this name for which `such_that` holds; earlier ones are forgotten."""
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                said = self._events.get(timeout=max(0.01, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event!r} within {within_s} s") from None
            if said["event"] == event and such_that(said):
                return said

    def forget(self) -> None:
        """What was said until now."""
        while not self._events.empty():
            self._events.get()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def comes_from(host: Host) -> Callable[[dict[str, Any]], bool]:
    return lambda said: host.address + ":" in said["remote"]


def test_found_by_mdns_and_again_after_the_cable_was_out(net: Network) -> None:
    a, b = Program(net.a, "peer", ""), Program(net.b, "peer", "")
    a.wait("got", 10)
    b.wait("got", 10)
    net.down()
    a.wait("down", 10)
    b.wait("down", 10)
    a.forget()
    b.forget()
    time.sleep(2)
    net.up()
    a.wait("got", 12)
    b.wait("got", 12)


def test_a_cable_that_is_plugged_in_late(net: Network) -> None:
    net.down()
    a, b = Program(net.a, "peer", ""), Program(net.b, "peer", "")
    time.sleep(4)
    net.up()
    a.wait("got", 12)
    b.wait("got", 12)


def test_a_new_address_is_found(net: Network) -> None:
    a = Program(net.a, "peer", "listen=0.0.0.0:0")
    Program(net.b, "peer", "listen=0.0.0.0:0")
    a.wait("got", 10, comes_from(net.b))
    net.b.readdress("10.77.0.99")
    a.wait("got", 15, comes_from(net.b))


def test_a_restart_is_found_at_once(net: Network) -> None:
    a, b = Program(net.a, "peer", ""), Program(net.b, "peer", "")
    a.wait("got", 10)
    b.kill()
    a.wait("down", 5)
    a.forget()
    Program(net.b, "peer", "")
    a.wait("got", 8)


def test_a_named_peer_is_found_without_multicast(net: Network) -> None:
    a = Program(net.a, "peer", "listen=0.0.0.0:4001,mdns=off")
    b = Program(net.b, "peer", f"mdns=off,peer={net.a.address}:4001")
    a.wait("got", 10)
    b.wait("got", 10)
    net.down()
    a.wait("down", 10)
    b.wait("down", 10)
    a.forget()
    b.forget()
    net.up()
    a.wait("got", 12)


def test_only_ipv6_is_enough(net: Network) -> None:
    for host in net:
        host.remove_ipv4()
    time.sleep(2)  # a link-local address is not usable in its first second or two
    a = Program(net.a, "peer", "")
    Program(net.b, "peer", "")
    assert "[fe80::" in a.wait("got", 20)["remote"]


def test_mdns_that_cannot_work_is_a_note_and_the_rest_works(net: Network) -> None:
    Program(net.a, "occupy").wait("occupied", 10)
    a = Program(net.a, "peer", "listen=0.0.0.0:4001")
    note = a.wait("status", 10, lambda said: said["notes"])["notes"][0]
    assert "mDNS" in note
    assert "in use" in note
    Program(net.b, "peer", f"peer={net.a.address}:4001")
    a.wait("got", 10)


def test_hundreds_of_impostors_do_not_hide_a_neighbor(net: Network) -> None:
    Program(net.b, "impostors", "400").wait("announced", 30)
    a = Program(net.a, "peer", "")
    a.wait("status", 20, lambda said: said["services"] > 200)
    a.forget()
    Program(net.b, "peer", "")
    a.wait("got", 40)
    a.forget()
    assert a.wait("status", 5)["services"] <= 256


def test_a_network_that_isolates_its_clients_is_told_from_one_that_blocks_multicast(net: Network) -> None:
    for host in net:
        host.remove_ipv6()
    net.a.block_unicast_to(net.b)
    net.b.block_unicast_to(net.a)
    a, b = Program(net.a, "peer", ""), Program(net.b, "peer", "")
    for program in (a, b):
        said = program.wait("status", 30, lambda said: bool(said["notes"]))
        assert "passes multicast and blocks connections" in said["notes"][0]
    doctor = [sys.executable, "-m", "p2pserver", "doctor", "--json"]
    found = json.loads(net.a.run(doctor, timeout=60, stdout=subprocess.PIPE).stdout)["lan"]
    assert any("passes multicast and blocks connections" in each["what"] for each in found), found


def test_a_network_that_blocks_multicast_is_told() -> None:
    with two_hosts_without_multicast() as net:
        a = Program(net.a, "peer", "listen=0.0.0.0:4001")
        Program(net.b, "peer", f"peer={net.a.address}:4001")
        a.wait("got", 10)
        said = a.wait("status", 45, lambda said: bool(said["notes"]))
        assert "passes connections and blocks multicast" in said["notes"][-1]


def test_a_second_cable_takes_over(net: Network) -> None:
    net.a.cable_to(net.b, "eth1", ("10.78.0.1", "10.78.0.2"))
    time.sleep(2)
    a, b = Program(net.a, "peer", ""), Program(net.b, "peer", "")
    first = a.wait("got", 10)["remote"]
    b.wait("got", 10)
    other = "eth1" if "10.77." in first or "%eth0" in first else "eth0"
    net.a.down("eth0" if other == "eth1" else "eth1")
    a.wait("got", 20, lambda said: said["remote"] != first)
    b.wait("down", 5)
    b.wait("got", 20)


def test_a_flood_of_changing_announcements_hides_nobody_and_aims_at_nobody(net: Network) -> None:
    """The flood announces the address of its own host, on which a program counts who comes."""
    counter = Program(net.b, "counter")
    counter.wait("counting", 10)
    Program(net.b, "flood", "300", net.b.address).wait("announced", 60)
    a = Program(net.a, "peer", "")
    a.wait("status", 30, lambda said: said["services"] > 100)
    counter.forget()
    before = counter.wait("count", 5)["connections"]
    Program(net.b, "peer", "")
    a.wait("got", 60)
    time.sleep(10)
    counter.forget()
    assert counter.wait("count", 5)["connections"] - before <= 60
    assert a.wait("status", 5)["services"] <= 256


def test_conformance_by_mdns_alone(net: Network) -> None:
    about_finding = "next_link or get_a_link or starts or replaced"  # the others say nothing of how they were found
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "-k", about_finding]
    command.append("tests/transports/mdns_conformance.py")
    done = net.a.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
