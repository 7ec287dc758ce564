"""Two hosts joined by a cable, on one Linux machine: network namespaces and a veth pair, for tests marked `netns`.

    with two_hosts() as net:
        a, b = net
        node = a.popen([sys.executable, "-m", "p2pserver", "run"])     # runs on host a, whose address is a.address
        port = a.forward(8008)                                        # 127.0.0.1:port here is 127.0.0.1:8008 on a
        net.down()                                                    # somebody pulls the cable
        net.up()

As root this works as it is; without, inside a user namespace of our own where the kernel allows that. Nothing is left
behind: the namespaces live as long as one process each, which ends with its standard input, and whoever was started on
a host is killed at the end of the `with` block.

Each such process is this file run as a program: `keeper` makes a namespace and obeys one JSON line at a time;
`forward` carries TCP connections from the caller's namespace into another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000

_INTERFACE = "eth0"
_PREFIX = 24
_ANSWER_S = 10.0
_NUD_PERMANENT = 0x80
"""Of `linux/neighbour.h`."""


class Host:
    """A network namespace with one network card, `eth0`."""

    def __init__(self, name: str, address: str, users_of: Host | None) -> None:
        self.name = name
        self.address = address
        self.net: Network
        self._children: list[subprocess.Popen[Any]] = []
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, "keeper", str(users_of.pid if users_of is not None else 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    @property
    def pid(self) -> int:
        """Of a process that lives on this host, in whose /proc entry its namespaces are."""
        return self._keeper.pid

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a program on this host; `options` as for `subprocess.Popen`. It is killed when the test is over."""
        child = subprocess.Popen([sys.executable, __file__, "run", str(self.pid), *argv], **options)
        self._children.append(child)
        return child

    def run(self, argv: Sequence[str], *, timeout: float = 60.0, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Runs a program on this host to its end; `options` as for `subprocess.run`."""
        command = [sys.executable, __file__, "run", str(self.pid), *argv]
        return subprocess.run(command, timeout=timeout, check=options.pop("check", False), **options)

    def forward(self, port: int) -> int:
        """A TCP port on loopback here that leads to loopback port `port` on this host, cable or no cable."""
        child = subprocess.Popen(
            [sys.executable, __file__, "forward", str(self.pid), str(port)], stdout=subprocess.PIPE, text=True
        )
        self._children.append(child)
        return int(_read_line(child.stdout))

    def down(self, interface: str = _INTERFACE) -> None:
        """Switches the network card off. Both ends of the cable notice, as with a real one."""
        self._do("down", interface)

    def up(self) -> None:
        self._do("up", _INTERFACE)

    def readdress(self, address: str) -> None:
        """Gives the network card another IPv4 address, as a new DHCP lease does."""
        self.remove_ipv4()
        self._do("address", _INTERFACE, address, _PREFIX)
        self.address = address

    def remove_ipv4(self) -> None:
        """Leaves the network card with its link-local IPv6 address alone, as where there is no DHCP."""
        self._do("flush", _INTERFACE)

    def remove_ipv6(self) -> None:
        self._do("flush6", _INTERFACE)

    def block_unicast_to(self, other: Host) -> None:
        """What is for the other host alone arrives nowhere, as where an access point isolates its clients."""
        self._do("misdirect", _INTERFACE, other.address)

    def cable_to(self, other: Host, interface: str = _INTERFACE, addresses: tuple[str, str] | None = None) -> None:
        self._do("cable", interface, other.pid)
        for host, address in zip((self, other), addresses or (self.address, other.address), strict=True):
            host._do("address", interface, address, _PREFIX)
            host._do("up", interface)

    def close(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        if self._keeper.stdin is not None and self._keeper.stdout is not None:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper.stdout.close()

    def _do(self, *command: str | int) -> None:
        if self._keeper.stdin is None:
            raise RuntimeError("the keeper has no standard input")
        print(json.dumps(command), file=self._keeper.stdin, flush=True)
        self._answer()

    def _answer(self) -> None:
        answer = _read_line(self._keeper.stdout)
        if answer != "ok":
            raise OSError(f"host {self.name}: {answer or 'its keeper died'}")


class Network:
    """Two hosts and the cable between them."""

    def __init__(self, a: Host, b: Host) -> None:
        self.a, self.b = a, b
        a.net = b.net = self

    def __iter__(self) -> Iterator[Host]:
        return iter((self.a, self.b))

    def down(self) -> None:
        """Pulls the cable."""
        self.a.down()

    def up(self) -> None:
        """Plugs it in again."""
        self.a.up()


@contextlib.contextmanager
def two_hosts() -> Iterator[Network]:
    """Two hosts that reach each other and nobody else.

    Raises: OSError where the system does not allow to make network namespaces.
    """
    with contextlib.ExitStack() as stack:
        a = Host("a", "10.77.0.1", None)
        stack.callback(a.close)
        b = Host("b", "10.77.0.2", a)
        stack.callback(b.close)
        a.cable_to(b)
        yield Network(a, b)


@contextlib.contextmanager
def two_hosts_without_multicast() -> Iterator[Network]:
    """Two hosts at a switch that carries broadcast and unicast, and no multicast.

    Raises: OSError where the system does not allow to make network namespaces.
    """
    with contextlib.ExitStack() as stack:
        a = Host("a", "10.77.0.1", None)
        stack.callback(a.close)
        b, switch = Host("b", "10.77.0.2", a), Host("switch", "", a)
        stack.callback(b.close)
        stack.callback(switch.close)
        for host in (a, b):
            switch._do("bridge", f"to{host.name}", host.pid)
            host._do("address", _INTERFACE, host.address, _PREFIX)
            host._do("up", _INTERFACE)
            host.remove_ipv6()
        yield Network(a, b)


def _read_line(stream: IO[str] | None) -> str:
    if stream is None:
        return ""
    ready, _, _ = select.select([stream], [], [], _ANSWER_S)
    return stream.readline().strip() if ready else f"no answer within {_ANSWER_S} s"


# what follows runs in processes of its own


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _enter(pid: int, *, users: bool, network: bool) -> None:
    """Moves this process into namespaces of another; into its users' namespace only where that is not ours already."""
    libc = _libc()
    theirs = Path(f"/proc/{pid}/ns")
    if users and not (theirs / "user").samefile("/proc/self/ns/user"):
        with (theirs / "user").open() as namespace:
            _checked(libc.setns(namespace.fileno(), CLONE_NEWUSER), "setns to the user namespace")
    if network:
        with (theirs / "net").open() as namespace:
            _checked(libc.setns(namespace.fileno(), CLONE_NEWNET), "setns to the network namespace")


def _new_namespace(users_of: int) -> None:
    libc = _libc()
    if users_of:
        _enter(users_of, users=True, network=False)
    elif os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        _checked(libc.unshare(CLONE_NEWUSER), "unshare of the user namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _checked(libc.unshare(CLONE_NEWNET), "unshare of the network namespace")


def _keep(users_of: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _new_namespace(users_of)
        from pyroute2 import IPRoute
    except (OSError, ImportError) as error:
        print(error, flush=True)
        return
    with IPRoute() as ip:

        def index(name: str) -> int:
            return int(ip.link_lookup(ifname=name)[0])

        ip.link("set", index=index("lo"), state="up")
        print("ok", flush=True)
        for line in sys.stdin:
            match json.loads(line):
                case ["cable", name, pid]:
                    ip.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_pid": pid})
                case ["address", name, address, prefix]:
                    ip.addr("add", index=index(name), address=address, prefixlen=prefix)
                case ["flush", name]:
                    ip.flush_addr(index=index(name), family=socket.AF_INET)
                case ["flush6", name]:
                    ip.flush_addr(index=index(name), family=socket.AF_INET6)
                case ["misdirect", name, address]:
                    nobody = "02:00:00:00:00:99"
                    ip.neigh("replace", dst=address, lladdr=nobody, ifindex=index(name), state=_NUD_PERMANENT)
                case ["bridge", name, pid]:
                    ip.link("add", ifname=name, kind="veth", peer={"ifname": _INTERFACE, "net_ns_pid": pid})
                    if not ip.link_lookup(ifname="br0"):
                        ip.link("add", ifname="br0", kind="bridge", br_mcast_snooping=0)
                        ip.link("set", index=index("br0"), state="up")
                    ip.link("set", index=index(name), master=index("br0"), state="up")
                    ip.brport("set", index=index(name), mcast_flood=0)
                case ["up" | "down" as state, name]:
                    ip.link("set", index=index(name), state=state)
            print("ok", flush=True)


def _run(pid: int, argv: list[str]) -> None:
    _enter(pid, users=True, network=True)
    os.execvp(argv[0], argv)


def _forward(pid: int, port: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0))  # a socket stays in the namespace that it was made in
    _enter(pid, users=True, network=True)
    print(listener.getsockname()[1], flush=True)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(65_536):
                writer.write(octets)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        writer.close()
        far_writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(carry, sock=listener)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keeper", users_of]:
            _keep(int(users_of))
        case ["run", pid, *argv]:
            _run(int(pid), argv)
        case ["forward", pid, port]:
            _forward(int(pid), int(port))
        case _:
            sys.exit(f"{time.asctime()}: not a command: {sys.argv[1:]}")
