"""Wakes whoever waits for what another process does to an account."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tokenproxy.core.interfaces import Clock
from tokenproxy.oauth.tasks import Tasks


class News:
    """A notice may be lost, so that nobody waits for one without an end."""

    def __init__(self, *, clock: Clock, tasks: Tasks) -> None:
        self._clock = clock
        self._tasks = tasks
        self._waiting: dict[str, list[asyncio.Event]] = {}

    def tell(self, account: str) -> None:
        """Its row was changed."""
        for heard in self._waiting.get(account, ()):
            heard.set()

    @contextmanager
    def of(self, account: str) -> Iterator[asyncio.Event]:
        """Set when the account's row is changed within the block."""
        heard = asyncio.Event()
        self._waiting.setdefault(account, []).append(heard)
        try:
            yield heard
        finally:
            self._waiting[account].remove(heard)
            if not self._waiting[account]:
                del self._waiting[account]

    async def wait(self, heard: asyncio.Event, seconds: float) -> None:
        """Until then at most."""
        hearing = self._tasks.start(heard.wait(), name="hear")
        pause = self._tasks.start(self._clock.sleep(seconds), name="pause")
        try:
            await asyncio.wait({hearing, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            pause.cancel()
