"""
Work at a disk that may hang: a mount whose server is gone blocks whatever touches it, for ever and beyond any signal.

Each work has a thread of its own: the loop's executor resolves names too, and a disk that took all of its threads would
stop the traffic with it. While one hangs, the next ones fail at once instead of joining it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, Generic, TypeVar

from tokenproxy.errors import StoreError

T = TypeVar("T")


class Mount:
    """What lies on one disk; ``name`` says to people what that is."""

    def __init__(self, name: str, *, patience: float, next_step: str) -> None:
        """``patience`` in seconds."""
        self._name = name
        self._patience = patience
        self._next_step = next_step
        self._hung: Thread | None = None

    async def run(self, work: Callable[[], T], *, patience: float | None = None) -> T:
        """What ``work`` gives or raises; ``StoreError`` where it hangs, and it may be done later all the same."""
        if self._hung is not None and self._hung.is_alive():
            raise self._hangs()
        ended = _Ended[T]()
        # A daemon, since the process could not exit otherwise.
        thread = Thread(target=ended.run, args=(work,), name="tokenproxy-disk", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(patience or self._patience):
                return await ended.result
        except TimeoutError:
            if not ended.result.cancelled():  # its own: what the disk said
                raise
            self._hung = thread
            raise self._hangs() from None

    def _hangs(self) -> StoreError:
        return StoreError(f"the disk of {self._name} does not answer", next_step=self._next_step)


class _Ended(Generic[T]):
    """Brings a thread's result to the loop that waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self._loop.create_future()

    def run(self, work: Callable[[], T]) -> None:
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits is to have it
            self._tell(self._fail, error)
        else:
            self._tell(self._succeed, found)

    def _tell(self, how: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop ended meanwhile
            self._loop.call_soon_threadsafe(how, what)

    def _succeed(self, found: T) -> None:
        if not self.result.done():
            self.result.set_result(found)

    def _fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)
