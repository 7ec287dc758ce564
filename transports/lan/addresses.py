"""IP addresses: as parameters, as this machine's own, and as something that may be dialed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import ifaddr

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

_DOWN = frozenset({"down", "lowerlayerdown", "notpresent"})
"""What Linux says of an interface whose addresses are still listed but reach nobody."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this machine on an interface that is up."""

    interface: str
    index: int
    ip: IpAddress
    prefix: int


def parse_host_port(text: str, what: str) -> tuple[str, int]:
    """`10.0.0.2:4001`, `[fe80::1%eth0]:4001`, `nas.local:4001`; an empty host means all addresses.

    Raises: ValueError with one clear line that begins with `what`.
    """
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{what}: an IPv6 address is written in brackets, as in [fe80::1]:4001, not {text!r}")
    if not colon or not (port_text.isascii() and port_text.isdigit()) or int(port_text) > 65_535:
        raise ValueError(f"{what}: {text!r} is not of the form HOST:PORT")
    return host, int(port_text)


def shown(host: str, port: int) -> str:
    """HOST:PORT for people, with brackets around IPv6 and without the disguise of IPv4 on a dual-stack socket."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bare(host: str) -> str:
    """An address without its scope: `fe80::1%eth0` and `fe80::1%2` may be the same."""
    return host.partition("%")[0]


def local_addresses(interfaces: Collection[str] = ()) -> frozenset[LocalAddress]:
    """The addresses of the interfaces that are up; of the named ones only, when any are named.

    Raises: OSError where the system does not tell (Android forbids it to some).
    """
    return frozenset(
        LocalAddress(adapter.name, adapter.index or 0, ip, address.network_prefix)
        for adapter in ifaddr.get_adapters()
        if (not interfaces or adapter.nice_name in interfaces or adapter.name in interfaces) and _is_up(adapter.name)
        for address in adapter.ips
        for ip in (ipaddress.ip_address(address.ip if isinstance(address.ip, str) else address.ip[0]),)
        if ip.version == 4 or _is_usable(ip, adapter.index or 0)
    )


def _is_up(interface: str) -> bool:
    """Whether the interface carries anything, as far as the system says (only Linux does)."""
    try:
        return Path("/sys/class/net", interface, "operstate").read_text().strip() not in _DOWN
    except (OSError, ValueError):
        return True


def is_near(text: str, local: Iterable[LocalAddress]) -> bool:
    """Whether an address that a stranger announced may be dialed.

    An announcement must not be able to send us to any host of the Internet: what is dialed is a private, a link-local
    or a loopback address, or one on a network that we have an address on.
    """
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified:
        return False
    if ip.is_link_local:
        return ip.version == 4 or "%" in text
    return ip.is_private or ip.is_loopback or is_on_link(text, local)


def is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def is_on_link(text: str, local: Iterable[LocalAddress]) -> bool:
    """Whether an address is on a network that we have an address on."""
    ip = ipaddress.ip_address(text)
    return any(
        ip.version == own.ip.version and ip in ipaddress.ip_network((int(own.ip), own.prefix), strict=False)
        for own in local
    )


def _is_usable(ip: IpAddress, index: int) -> bool:
    """Whether an IPv6 address can be bound yet: for its first second or two it is checked for duplicates (RFC 4862)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0, 0, index if ip.is_link_local else 0))
        except OSError:
            return False
    return True


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """What to connect to. A name that must be looked up never holds up the end of the program.

    Raises: OSError when there is no such name.
    """
    try:
        return _lookup(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, ValueError):
        pass
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[tuple[socket.AddressFamily, SocketAddress]]] = loop.create_future()

    def settle(found: list[tuple[socket.AddressFamily, SocketAddress]] | OSError) -> None:
        if answer.done():
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look_up() -> None:
        found: list[tuple[socket.AddressFamily, SocketAddress]] | OSError
        try:
            found = _lookup(host, port, 0)
        except OSError as error:
            found = error
        except ValueError as error:
            found = OSError(f"not a host name: {error}")
        try:
            loop.call_soon_threadsafe(settle, found)
        except RuntimeError:
            return  # the loop was closed meanwhile: nobody asks any more

    # not the loop's executor: a lookup can take half a minute without a network, and asyncio.run waits for its threads
    threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
    return await answer


def _lookup(host: str, port: int, flags: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Raises: OSError, when there is no such name; ValueError, for what is no name."""
    name: str | bytes = host
    if host.isascii():  # a str brings the tables of Unicode in, half a megabyte
        name = host.encode()
        if not all(0 < len(label) < 64 for label in name.removesuffix(b".").split(b".")):
            raise ValueError("a label is empty or too long")
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    return [
        (family, (str(address[0]), int(address[1]), *address[2:]))
        for family, _, _, _, address in found
        if family in {socket.AF_INET, socket.AF_INET6}
    ]
