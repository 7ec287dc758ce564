"""Fetching from the public web for somebody else, without becoming a way into the network that the node stands in.

The name is resolved here, every address of it must be public, and the connection goes to an address that was looked
at, so that a second answer of the name server changes nothing. Each redirect is judged like the first address. Only
http and https on their own ports; no proxy, cookies or credentials; bounded in octets, time and redirects.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin, urlsplit

from p2pserver.errors import Forbidden, InvalidParam, MatrixError

if TYPE_CHECKING:
    import httpx

URL_CHARACTERS_MAX: Final = 2_048
REDIRECTS_MAX: Final = 5
TIMEOUT_S: Final = 10.0
TEXT_OCTETS_MAX: Final = 1 << 20
AGENT: Final = "p2pserver (previews of links)"
PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class PageUnreachable(MatrixError):
    """The page could not be had: no such name, no answer in time, another status than 200, too large."""

    http_status = 502


@dataclass(frozen=True, slots=True)
class Page:
    url: str
    """Where it was found, after all redirects."""
    content_type: str
    """Lower case, without parameters."""
    charset: str | None
    octets: bytes


def is_public(text: str) -> bool:
    """Whether an IP address belongs to nobody's own network, neither itself nor the IPv4 address inside it."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            inside = ipaddress.IPv4Address(address.packed[-4:])
        if inside:
            return is_public(str(inside))
    return address.is_global and not address.is_multicast and not address.is_reserved


async def addresses_of(host: str, port: int) -> list[str]:
    """Raises: PageUnreachable."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PageUnreachable("there is no such host") from error
    return [str(address[0]) for *_, address in found]


async def fetch(http: httpx.AsyncClient, url: str, *, accept: str, octets_max: int) -> Page:
    """One page or file of at most `octets_max`; a text is cut at `TEXT_OCTETS_MAX`.

    Raises: InvalidParam, for what is no address of the web; Forbidden, for one that is not public; PageUnreachable.
    """
    import httpx

    try:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(REDIRECTS_MAX + 1):
                found = await _one(http, url, accept, octets_max)
                if isinstance(found, Page):
                    return found
                url = found
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PageUnreachable("the page does not answer") from error
    raise PageUnreachable("the page redirects without end")


async def _one(http: httpx.AsyncClient, url: str, accept: str, octets_max: int) -> Page | str:
    """The page, or where it redirects to."""
    import httpx

    scheme, host, port, target = parts_of(url)
    addresses = await addresses_of(host, port)
    if not addresses or not all(is_public(address) for address in addresses):
        raise Forbidden("this address is not of the public web")
    name = f"[{host}]" if ":" in host else host
    at = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    request = http.build_request(
        "GET",
        httpx.URL(f"{scheme}://{at}:{port}").copy_with(raw_path=target),
        headers={"Host": name, "Accept": accept, "Accept-Encoding": "identity", "User-Agent": AGENT},
        extensions={"sni_hostname": host},
    )
    response = await http.send(request, stream=True)
    try:
        if response.status_code in _REDIRECTS and "location" in response.headers:
            return urljoin(url, response.headers["location"])
        if response.status_code != 200:
            raise PageUnreachable(f"the page answers {response.status_code}")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PageUnreachable("the page is packed, which was not asked for")  # a small one may be huge
        is_text = kind.startswith(("text/", "application/xhtml"))
        octets = bytearray()
        async for part in response.aiter_raw(16_384):
            octets += part
            if is_text and len(octets) >= TEXT_OCTETS_MAX:
                del octets[TEXT_OCTETS_MAX:]
                break
            if len(octets) > octets_max:
                raise PageUnreachable("the file is too large")
        return Page(url, kind, response.charset_encoding, bytes(octets))
    finally:
        await response.aclose()


def parts_of(url: str) -> tuple[str, str, int, bytes]:
    """(scheme, host, port, path with query).

    Raises: InvalidParam.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
    except (ValueError, UnicodeError) as error:
        raise InvalidParam("this is no address of the web") from error
    wanted = PORTS.get(parts.scheme)
    if wanted is None or not host or parts.username is not None or parts.password is not None:
        raise InvalidParam("only http and https addresses without a name and password")
    if len(url) > URL_CHARACTERS_MAX or port not in (None, wanted):
        raise InvalidParam("the address is too long, or has a port of its own")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, wanted, quote(target, safe="/?&=%:@!$'()*+,;~[]").encode()
