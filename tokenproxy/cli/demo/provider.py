"""
A provider and its API on loopback, over real HTTP, as strict as the strictest real ones.

Every refresh spends the refresh token and gives a new one; a spent one that comes back ends the whole login. So a
second refresh by mistake would not go unnoticed here.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self

from aiohttp import web

LOOPBACK: Final = "127.0.0.1"
CLIENT_ID: Final = "demo"
HEADER: Final = "x-access-token"
"""Where this API wants its token: no scheme word, as at Deskera."""
LIFETIME: Final = 3600
API_DELAY: Final = 0.05
TOKEN_DELAY: Final = 0.2
"""Seconds that a call takes, so that a crowd of requests is really under way at once."""


@dataclass(slots=True)
class Counters:
    """What the provider and its API have seen."""

    api: Counter[int] = field(default_factory=Counter)
    """Answers of the API by status."""
    validate: Counter[str] = field(default_factory=Counter)
    """Answers of the validate call: live, dead."""
    refreshes: int = 0
    reuses: int = 0
    """Spent refresh tokens that came back; each ends the login."""


class DemoProvider:
    """For ``async with``; ``on_event`` is told in words what happens."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self.url = ""
        self.client_secret = secrets.token_urlsafe(24)
        self.counters = Counters()
        self._tell = on_event
        self._access: dict[str, int] = {}
        """Live access token -> which one it is, counted from 1."""
        self._issued = 0
        self._refresh = ""
        self._spent: set[str] = set()
        self._ended = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/token", self._token)
        app.router.add_get("/validate", self._validate)
        app.router.add_post("/revoke", self._revoke)
        app.router.add_route("*", "/api/{rest:.*}", self._api)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, LOOPBACK, 0)
        await site.start()
        self.url = f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def log_in(self) -> dict[str, Any]:
        """What a person's login would have brought: a token answer."""
        return self._issue()

    def revoke(self) -> None:
        """Kill every access token; the refresh token works on."""
        self._access.clear()

    def _issue(self) -> dict[str, Any]:
        access, self._refresh = secrets.token_urlsafe(48), secrets.token_urlsafe(48)
        self._issued += 1
        self._access = {access: self._issued}
        return {"access_token": access, "refresh_token": self._refresh, "expires_in": LIFETIME}

    async def _token(self, request: web.Request) -> web.Response:
        """RFC 6749 section 6, with the rotation of RFC 9700 section 4.14.2."""
        form = await request.post()
        given = str(form.get("refresh_token", ""))
        expected = b64encode(f"{CLIENT_ID}:{self.client_secret}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return web.json_response({"error": "invalid_client"}, status=401)
        if form.get("grant_type") != "refresh_token":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if given in self._spent:
            self.counters.reuses += 1
            self._ended = True
            self._access.clear()
            self._tell("provider  a spent refresh token came back: the login is over")
        if self._ended or given != self._refresh:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self._spent.add(given)
        self.counters.refreshes += 1
        answer = self._issue()
        self._tell(f"provider  refresh: token {self._issued} given out, the refresh token before it is spent")
        await asyncio.sleep(TOKEN_DELAY)
        return web.json_response(answer)

    async def _validate(self, request: web.Request) -> web.Response:
        live = request.headers.get(HEADER) in self._access
        self.counters.validate["live" if live else "dead"] += 1
        self._tell(f"provider  validate: {'live' if live else 'dead'}")
        return web.json_response({"valid": live}, status=200 if live else 401)

    async def _revoke(self, _: web.Request) -> web.Response:
        self.revoke()
        self._tell("provider  the access token is revoked")
        return web.json_response({"revoked": True, "now": "send the request again"})

    async def _api(self, request: web.Request) -> web.Response:
        number = self._access.get(request.headers.get(HEADER, ""))
        await asyncio.sleep(API_DELAY)
        status = 200 if number is not None else 401
        self.counters.api[status] += 1
        self._tell(f"api       {request.method} {request.path}   {status}")
        if number is None:
            return web.json_response({"error": "the token is dead or missing"}, status=401)
        return web.json_response({"hello": "you sent no credential", "token": number})
