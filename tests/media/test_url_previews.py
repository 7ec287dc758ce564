"""Previews of web pages: what they show, and where a node does not go for anybody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from p2pserver.client_api import public_pages
from p2pserver.client_api.app import ClientApiConfig
from p2pserver.client_api.public_pages import Page, is_public
from p2pserver.client_api.url_previews import said_by
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.openapi.schemas import operations, response_faults
from tests.media.asking import LEGACY, V1, get

CONFIG = ClientApiConfig(rate_limits=False, url_previews=True)
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100
PAGE = b"""<!doctype html><html><head><TITLE>The &amp; title</TITLE>
<meta property="og:title" content="A harbor &lt;at night&gt;"><meta property='og:image' content='/pictures/a.png'>
<meta content="Ships   and
more" name=description><meta property="og:image:width" content="640"><meta property="og:url" content="http://lie/">
<meta property="og:evil" content=""><meta property="other" content="x"></head><body>...</body></html>"""

Answer = tuple[int, dict[str, str], bytes]


class Web:
    """The whole web: every name leads to one server here, but for those in `addresses`."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.addresses: dict[str, list[str]] = {}
        self.private: set[str] = set()

    async def addresses_of(self, host: str, port: int) -> list[str]:
        return self.addresses.get(host, ["127.0.0.1"])

    def is_public(self, address: str) -> bool:
        return is_public(address) or (address == "127.0.0.1" and address not in self.private)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        [host] = [line[6:] for line in head.split("\r\n") if line.lower().startswith("host: ")]
        self.asked.append(host + path)
        status, headers, body = self.pages.get(host + path, (404, {}, b""))
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()


@asynccontextmanager
async def web_and_node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Web, Node, Client]]:
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(public_pages, "PORTS", {"http": port, "https": 443})
    monkeypatch.setattr(public_pages, "addresses_of", web.addresses_of)
    monkeypatch.setattr(public_pages, "is_public", web.is_public)
    async with running_node(config=CONFIG) as node:
        yield web, node, await node.register("alice")
    server.close()


async def preview(client: Client, url: str, path: str = f"{V1}/preview_url") -> Any:
    return await client.get(path, url=url)


async def test_a_page_says_what_it_is_and_its_picture_is_media_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_and_node(monkeypatch) as (web, _, alice):
        web.pages["harbor.example/?a=b"] = (301, {"Location": "//www.harbor.example/p"}, b"")
        web.pages["www.harbor.example/p"] = (200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
        web.pages["www.harbor.example/pictures/a.png"] = (200, {"Content-Type": "image/png"}, PNG)
        answer = await preview(alice, "http://harbor.example/?a=b#part")
        picture = answer["og:image"]
        assert answer.body == {
            "og:url": "http://www.harbor.example/p",
            "og:title": "A harbor <at night>",
            "og:description": "Ships and more",
            "og:image:width": 640,
            "og:image": picture,
            "og:image:type": "image/png",
            "matrix:image:size": len(PNG),
        }
        [operation] = [each for each in operations().values() if each.path == f"{V1}/preview_url"]
        assert response_faults(operation, 200, answer.body) == []
        assert (await get(alice, f"/download/{picture.removeprefix('mxc://')}")).body == PNG
        asked = len(web.asked)
        assert (await preview(alice, "http://harbor.example/?a=b#part", f"{LEGACY}/preview_url")).body == answer.body
        assert len(web.asked) == asked, "kept"


async def test_what_is_no_page_has_little_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_and_node(monkeypatch) as (web, _, alice):
        web.pages["a.example/p.png"] = (200, {"Content-Type": "image/png"}, PNG)
        assert (await preview(alice, "http://a.example/p.png"))["matrix:image:size"] == len(PNG)
        web.pages["a.example/x.zip"] = (200, {"Content-Type": "application/zip"}, b"PK")
        assert (await preview(alice, "http://a.example/x.zip")).body == {}
        web.pages["a.example/bare"] = (200, {"Content-Type": "text/html"}, b"<title>Bare</title>")
        assert (await preview(alice, "http://a.example/bare"))["og:title"] == "Bare"
        web.pages["a.example/lost"] = (200, {"Content-Type": "text/html"}, b'<meta property="og:image" content="/no">')
        assert (await preview(alice, "http://a.example/lost")).body == {"og:url": "http://a.example/lost"}


@pytest.mark.parametrize(
    ("url", "errcode"),
    [
        ("ftp://a.example/", "M_INVALID_PARAM"),
        ("file:///etc/passwd", "M_INVALID_PARAM"),
        ("http://a.example:22/", "M_INVALID_PARAM"),
        ("http://user:secret@a.example/", "M_INVALID_PARAM"),
        ("http://", "M_INVALID_PARAM"),
        ("http://[::1", "M_INVALID_PARAM"),
        ("nothing", "M_INVALID_PARAM"),
        ("http://a.example/" + "x" * 3_000, "M_INVALID_PARAM"),
        ("http://inside.example/", "M_FORBIDDEN"),
        ("http://both.example/", "M_FORBIDDEN"),
        ("http://mapped.example/", "M_FORBIDDEN"),
        ("http://leads-inside.example/", "M_FORBIDDEN"),
        ("http://leads-to-a-file.example/", "M_INVALID_PARAM"),
    ],
)
async def test_a_node_does_not_go_there(monkeypatch: pytest.MonkeyPatch, url: str, errcode: str) -> None:
    async with web_and_node(monkeypatch) as (web, _, alice):
        web.addresses |= {
            "inside.example": ["192.168.1.1"],
            "both.example": ["127.0.0.1", "10.0.0.1"],
            "mapped.example": ["::ffff:10.0.0.1"],
        }
        web.pages["leads-inside.example/"] = (302, {"Location": "http://inside.example/"}, b"")
        web.pages["leads-to-a-file.example/"] = (302, {"Location": "file:///etc/passwd"}, b"")
        answer = await preview(alice, url)
        assert answer.errcode == errcode
        assert not [asked for asked in web.asked if not asked.startswith("leads-")]


async def test_pages_that_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_and_node(monkeypatch) as (web, _, alice):
        web.pages["a.example/round"] = (302, {"Location": "/round"}, b"")
        web.pages["a.example/big.png"] = (200, {"Content-Type": "image/png"}, bytes(6 << 20))
        web.pages["a.example/packed"] = (200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b"x")
        for name in ("round", "big.png", "packed", "none"):
            answer = await preview(alice, f"http://a.example/{name}")
            assert (answer.status, answer.errcode) == (502, "M_UNKNOWN"), name
        assert len(web.asked) < 12
        web.pages["a.example/long"] = (200, {"Content-Type": "text/html"}, b"<title>t</title>" + bytes(3 << 20))
        assert (await preview(alice, "http://a.example/long"))["og:title"] == "t"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::"),
        *("255.255.255.255", "192.0.2.1", "240.0.0.1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


async def test_a_check_that_is_skipped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web_and_node(monkeypatch) as (web, _, alice):
        monkeypatch.setattr(public_pages, "is_public", lambda address: True)
        web.addresses["inside.example"] = ["127.0.0.1"]
        web.pages["inside.example/"] = (200, {"Content-Type": "text/html"}, b"<title>secret</title>")
        assert (await preview(alice, "http://inside.example/"))["og:title"] == "secret"
        web.private.add("127.0.0.1")
        monkeypatch.setattr(public_pages, "is_public", web.is_public)
        assert (await preview(alice, "http://inside.example/other")).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    "part", [b"<meta", b"<meta ", b"<", b"<!--", b"<title", b'<meta content="', b"&#", b"<meta x>"]
)
def test_a_hostile_page_costs_little(part: bytes) -> None:
    octets = part * ((1 << 20) // len(part))
    began_s = time.process_time()
    said_by(Page("http://a.example/", "text/html", None, octets))
    assert time.process_time() - began_s < 5


def test_charsets() -> None:
    octets = "<title>Grüße</title>".encode("latin-1")
    assert said_by(Page("", "text/html", "iso-8859-1", octets))["og:title"] == "Grüße"
    assert said_by(Page("", "text/html", "no-such-charset", octets))["og:title"].startswith("Gr")
