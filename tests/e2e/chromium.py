"""One page in headless Chromium, driven by the DevTools protocol: what a person sees, clicks and types."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

LISTENING = re.compile(rb"DevTools listening on ws://([^/]+)/")
PATIENCE_S = 240.0


class Page:
    """The page of one browser; `requests` are the URLs asked for, by kind, with the status of the answer."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self.answered: list[tuple[str, str, int]] = []
        """(kind, URL, status) of each answer, as the browser names kinds: Preflight, Fetch, Script…"""
        self.complaints: list[str] = []
        """What the page threw, and what the browser itself says is wrong: a request that CORS forbids."""

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Network.responseReceived":
                response = told["params"]["response"]
                self.answered.append((told["params"]["type"], response["url"], response["status"]))
            elif told["method"] == "Runtime.exceptionThrown":
                details = told["params"]["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                entry = told["params"]["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            self._news.set()
        for waiting in self._answers.values():
            waiting.set_exception(ConnectionError("the browser is gone"))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol. Raises: RuntimeError, if the browser refuses it."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await answer
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression on the page. Raises: RuntimeError, if it throws."""
        told = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def until(self, script: str, *, patience_s: float = PATIENCE_S) -> None:
        """Until the expression is true. Raises: AssertionError, with what the page shows."""
        end = asyncio.get_running_loop().time() + patience_s
        while not await self.evaluate(f"!!({script})"):
            if asyncio.get_running_loop().time() > end:
                shown = await self.evaluate("document.body.innerText")
                raise AssertionError(f"never on the page: {script}\n{shown}\n{self.complaints}")
            await asyncio.sleep(0.1)

    async def told(self, enough: Callable[[], bool]) -> None:
        """Until what the browser has reported is enough; it may come after the page changed. Raises: TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not enough():
                self._news.clear()
                await self._news.wait()

    async def click(self, selector: str) -> None:
        """Clicks on an element, once it is there and enabled."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"{element} && !{element}.disabled && ({element}.click(), true)")

    async def type(self, selector: str, text: str, *, key: str | None = None) -> None:
        """Types into a field in place of what it holds; then perhaps presses Enter or Tab."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"{element} && !{element}.disabled && ({element}.focus(), {element}.select(), true)")
        await self.call("Input.insertText", text=text)
        if key is not None:
            code = {"Enter": 13, "Tab": 9}[key]
            press: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            await self.call("Input.dispatchKeyEvent", type="keyDown", **press, **({"text": "\r"} if code == 13 else {}))
            await self.call("Input.dispatchKeyEvent", type="keyUp", **press)


@asynccontextmanager
async def chromium(url: str, profile: Path) -> AsyncIterator[Page]:
    """Headless Chromium at `url`, with `profile` as its folder; nothing but the loopback exists for it."""
    program = shutil.which("chromium")
    assert program is not None, "these tests need Chromium: apt-get install chromium"
    browser = await asyncio.create_subprocess_exec(
        program,
        *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
        *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--mute-audio", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        "--no-sandbox",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert browser.stderr is not None
    drained: asyncio.Task[bytes] | None = None
    try:
        said = b""
        while (listening := LISTENING.search(said)) is None:
            line = await asyncio.wait_for(browser.stderr.readline(), PATIENCE_S)
            assert line, f"chromium did not start: {said.decode(errors='replace')}"
            said += line
        drained = asyncio.create_task(browser.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{listening[1].decode()}/json/list") as answer:
                [target] = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Runtime", "Network", "Log", "Page"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=url)
                yield page
    finally:
        if browser.returncode is None:
            os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()
        if drained is not None:
            await drained
