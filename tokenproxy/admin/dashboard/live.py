"""
News for open pages, as server-sent events: "something has changed", and nothing else.

A page then asks for itself again and takes over what is different; so there is one way in which things are shown, and a
stream cannot tell more than the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

MOST: Final = 16
"""Streams at once; a page that gets none looks again by itself now and then."""
LOOK: Final = 1.0
"""Seconds between two looks at what may have changed; no page is told of news more often."""
TICK: Final = 15.0
"""Seconds after which a page looks again in any case: time goes by, and other replicas change things too."""

Stamp = Callable[[], Awaitable[object]]
"""Another object with every change."""


class Live:
    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining
        self._closing = asyncio.Event()
        self._open = 0

    async def close(self, _: web.Application) -> None:
        self._closing.set()

    async def stream(
        self, request: web.Request, stamp: Stamp, lives: Callable[[], bool]
    ) -> web.StreamResponse:
        """Until the page is closed, its session ends, or we do."""
        if self._open >= MOST or self._ends():
            return web.Response(status=503, headers={"Retry-After": "30"}, text="No more streams now.\n")
        self._open += 1
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await answer.prepare(request)
            await self._tell(request, answer, stamp, lives)
        except ConnectionError:  # the page was closed
            pass
        finally:
            self._open -= 1
        return answer

    async def _tell(
        self, request: web.Request, answer: web.StreamResponse, stamp: Stamp, lives: Callable[[], bool]
    ) -> None:
        await answer.write(b"retry: 5000\nevent: hello\ndata:\n\n")
        known, silent = await stamp(), 0.0
        while not self._ends() and lives() and not _has_left(request):
            await self._pause()
            silent += LOOK
            now = await stamp()
            if now != known:
                await answer.write(b"event: change\ndata:\n\n")
            elif silent >= TICK:
                await answer.write(b"event: tick\ndata:\n\n")
            else:
                continue
            known, silent = now, 0.0

    def _ends(self) -> bool:
        return self._closing.is_set() or self._draining()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK):
                await self._closing.wait()
        except TimeoutError:
            pass


def _has_left(request: web.Request) -> bool:
    if request.transport is None or request.transport.is_closing():
        return True
    return getattr(request.protocol, "leaving", False)  # its certificate counts no more
