"""Tasks that nobody awaits, each with a name and a reference, so that none is lost half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    @property
    def running(self) -> frozenset[asyncio.Task[Any]]:
        return frozenset(self._running)

    async def finish(self, *, patience: float) -> int:
        """
        Wait up to ``patience`` seconds for all of them, then cancel the rest; how many those were.

        Waits as well for those that the running ones begin meanwhile.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + patience
        while self._running and (left := until - clock()) > 0:
            await asyncio.wait(self._running, timeout=left)
        late = set(self._running)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)
