"""
A person's browser: the real Chromium without a window, told what to do over its DevTools.

What it sent, showed and complained of is kept, so that a story can ask what a referrer, a title or the address bar held.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.simulators.server import Changes

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium: Final = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PATIENCE: Final = 30.0
"""Seconds for anything that ought to happen soon, on a busy machine."""

_OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--mute-audio",
    "--remote-debugging-port=0",
)
_UNTIL: Final = (
    "new Promise(done => { const look = () => (%s) ? done(true) : setTimeout(look, 10); look(); })"
)


class Browser:
    """A profile with its cookies; ``tab`` opens pages in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._asked = 0
        self._profile = ""
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tabs: dict[str, Tab] = {}
        self._reading = asyncio.create_task(self._read(), name="devtools")

    async def begin(self) -> None:
        self._profile = (await self.ask("Target.createBrowserContext", disposeOnDetach=True))[
            "browserContextId"
        ]

    async def tab(self, *, dark: bool = False, width: int = 900, height: int = 600) -> Tab:
        made = await self.ask("Target.createTarget", url="about:blank", browserContextId=self._profile)
        target = made["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.ask(f"{domain}.enable")
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await tab.ask("Emulation.setEmulatedMedia", features=features)
        await tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return tab

    async def ask(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        answer = self._waiting[self._asked] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        async with asyncio.timeout(PATIENCE):
            found = await answer
        assert isinstance(found, dict)
        return found

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            answer = self._waiting.pop(told.get("id", 0), None)
            if answer is not None and not answer.done():
                if "error" in told:
                    answer.set_exception(BrowserError(told["error"]["message"]))
                else:
                    answer.set_result(told["result"])
            tab = self._tabs.get(told.get("sessionId", ""))
            if tab is not None and "method" in told:
                tab.happened(told["method"], told["params"])

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class BrowserError(Exception):
    pass


class Tab:
    """One page after the other."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._requests: list[tuple[str, dict[str, Any]]] = []
        self._headers: dict[str, list[dict[str, str]]] = {}
        self._events: dict[str, dict[str, Any]] = {}
        self._changes = Changes()
        self.complaints: list[str] = []
        """What the browser wrote to its console, refusals by a content security policy included."""

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was sent: url, method, body and the headers that the network saw; redirects are requests too."""
        seen = {key: iter(headers) for key, headers in self._headers.items()}
        return [
            {**asked, "headers": asked["headers"] | next(seen.get(key, iter(())), {})}
            for key, asked in self._requests
        ]

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.ask(method, session=self._session, **params)

    async def go(self, address: str) -> None:
        """As if a person had typed it, redirects and all."""
        await self.ask("Page.navigate", url=address)

    async def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true on the page that is then shown."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    found = await self.ask(
                        "Runtime.evaluate", expression=_UNTIL % condition, awaitPromise=True
                    )
                except BrowserError:  # another page has come meanwhile
                    continue
                if "exceptionDetails" not in found:
                    return

    async def value(self, expression: str) -> Any:
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def address(self) -> str:
        """What the address bar shows."""
        found = await self.value("location.href")
        assert isinstance(found, str)
        return found

    async def title(self) -> str:
        return str(await self.value("document.title"))

    async def text(self) -> str:
        """What a person reads."""
        return str(await self.value("document.body.innerText"))

    async def history(self) -> list[str]:
        """Addresses and titles to which the back button leads."""
        entries = (await self.ask("Page.getNavigationHistory"))["entries"]
        return [text for entry in entries for text in (entry["url"], entry["title"])]

    async def screenshot(self, path: Path) -> None:
        path.write_bytes(b64decode((await self.ask("Page.captureScreenshot", format="png"))["data"]))

    async def event(self, method: str) -> dict[str, Any]:
        """The first event of this kind, which may have come already."""
        await self._changes.until(lambda: method in self._events, what=method)
        return self._events[method]

    def happened(self, method: str, params: dict[str, Any]) -> None:
        self._events.setdefault(method, params)
        self._changes.happened()
        if method == "Network.requestWillBeSent":
            asked = params["request"]
            sent = {
                "url": asked["url"] + asked.get("urlFragment", ""),
                "method": asked["method"],
                "headers": dict(asked["headers"]),
                "body": asked.get("postData", ""),
            }
            self._requests.append((params["requestId"], sent))
        elif method == "Network.requestWillBeSentExtraInfo":
            self._headers.setdefault(params["requestId"], []).append(params["headers"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))


class Chromium:
    """The program, for as long as it is needed; each ``browsing`` is a profile of its own."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._home = tempfile.TemporaryDirectory(prefix="tp-chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={self._home.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": self._home.name},
            start_new_session=True,
        )
        self._devtools = self._listening()

    def _listening(self) -> str:
        """Where its DevTools are; what it says afterwards goes nowhere."""
        assert self._process.stderr is not None
        told = b""
        for line in self._process.stderr:
            told += line
            if b"DevTools listening on " in line:
                self._draining = threading.Thread(target=self._process.stderr.read, daemon=True)
                self._draining.start()
                return line.partition(b"DevTools listening on ")[2].decode().strip()
        raise AssertionError(f"chromium did not start:\n{told.decode(errors='replace')}")

    @asynccontextmanager
    async def browsing(self) -> AsyncIterator[Browser]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._devtools, max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            await browser.begin()
            yield browser
            await browser.close()

    def close(self) -> None:
        """The whole group: it is a family of processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._draining.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._home.cleanup()
