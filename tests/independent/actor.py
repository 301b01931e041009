"""Authorization servers that nobody of ours wrote, each in a process of its own, and somebody's browser."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 40.0
"""Seconds until it listens: it makes its database first."""
TOOLKIT = Path(__file__).with_name("toolkit.py")
NODE = Path(__file__).parent / "node"
SECRET_OF_40 = "0123456789-of-nobody-0123456789-abcdefgh"
"""HS256 needs 32 bytes (RFC 7518 section 3.2)."""
SECRET = "a secret: 100%+/="
"""Its form-encoding differs from it, so that the two readings of RFC 6749 section 2.3.1 cannot be mixed up unseen."""


class Server:
    """An authorization server, and ana's browser, which is logged in there."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def browse(self, address: str) -> tuple[int, str]:
        """Open an address as her browser does, redirects and all; status and text of the page where it ends."""
        async with self._session.get(address) as page:
            return page.status, await page.text()


class Toolkit(Server):
    """Django OAuth Toolkit, see ``toolkit.py``."""

    @property
    def issuer(self) -> str:
        return f"{self.url}/o"

    async def control(self, **what: str) -> dict[str, Any]:
        """``do``: ``expire`` (every access token), ``agree`` and ``deny`` (with a device's ``code``); counts what lives."""
        async with self._session.get(f"{self.url}/control/", params=what) as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            return found


class OpenID(Server):
    """oidc-provider, see ``node/server.mjs``."""

    async def approve(self, user_code: str) -> None:
        """Ana agrees to a device."""
        await self._control(f"approve?code={user_code}")

    async def expire(self) -> None:
        """Every access token so far is dead."""
        await self._control("expire")

    async def _control(self, what: str) -> None:
        async with self._session.get(f"{self.url}/control/{what}") as answer:
            assert answer.status == 200


@asynccontextmanager
async def toolkit(*redirect_uris: str) -> AsyncIterator[Toolkit]:
    program = (sys.executable, str(TOOLKIT), *redirect_uris)
    async with _running(program, environ={"TOOLKIT_SECRET": SECRET}) as (said, session):
        yield Toolkit(f"http://localhost:{said['port']}", session)


@asynccontextmanager
async def openid(*, callback: str, jwk: Mapping[str, Any], life: int = 3600) -> AsyncIterator[OpenID]:
    """``jwk``: the public key of the client ``signed``; ``life`` of access tokens in seconds."""
    told = {"callback": callback, "jwk": jwk, "secret": SECRET_OF_40, "life": life}
    async with _running(("node", str(NODE / "server.mjs")), given=told) as (said, session):
        yield OpenID(said["issuer"], session)


@asynccontextmanager
async def _running(
    program: Sequence[str], *, environ: Mapping[str, str] | None = None, given: Any = None
) -> AsyncIterator[tuple[dict[str, Any], aiohttp.ClientSession]]:
    """A program that says in one line of JSON where it listens; ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *program,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | (environ or {}),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(given).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            said = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            yield said, session
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
