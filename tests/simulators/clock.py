"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
_SETTLE = 20
"""Turns of the loop that woken tasks get; a longer chain of awaits between two sleeps asks for ``advance(0)`` again."""


class FakeClock:
    """``core.interfaces.Clock`` on a time of its own."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return 1000.0 + self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._count, waiter))
        await waiter

    @property
    def sleeping(self) -> int:
        """How many tasks sleep on this clock now."""
        return sum(not waiter.done() for _, _, waiter in self._sleepers)

    def next_wake(self) -> float | None:
        """Seconds until the first sleeper wakes; None: nobody sleeps."""
        wakes = [wake for wake, _, waiter in self._sleepers if not waiter.done()]
        return min(wakes) - self._elapsed if wakes else None

    async def advance(self, seconds: float) -> None:
        """Move time on; sleepers wake in the order of their time, and each runs before the next one wakes."""
        until = self._elapsed + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            wake, _, waiter = heapq.heappop(self._sleepers)
            if waiter.done():  # its task was cancelled
                continue
            self._elapsed = max(self._elapsed, wake)
            waiter.set_result(None)
            await _settle()
        self._elapsed = until
        await _settle()

    async def until_sleeping(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Wait (in real time) until at least ``count`` tasks sleep here, however many threads they need to get there."""
        async with asyncio.timeout(timeout):
            while self.sleeping < count:
                await asyncio.sleep(0.001)


async def _settle() -> None:
    for _ in range(_SETTLE):
        await asyncio.sleep(0)
