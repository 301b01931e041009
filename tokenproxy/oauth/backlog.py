"""What providers issued and the store has not taken yet: written again and again until it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tokenproxy import log
from tokenproxy.core.interfaces import Clock, Store
from tokenproxy.core.schedule import backoff
from tokenproxy.errors import StoreError
from tokenproxy.oauth.entry import Entry, Unstored
from tokenproxy.oauth.tasks import Tasks

_log = logging.getLogger("tokenproxy.oauth")


class Backlog:
    """Entries whose newest pair is in memory alone; they stay known here when the config drops the account."""

    def __init__(self, *, store: Store, clock: Clock, tasks: Tasks, jitter: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._jitter = jitter
        self._entries: dict[str, Entry] = {}
        self._closing = asyncio.Event()

    def __contains__(self, account: str) -> bool:
        return account in self._entries

    def __len__(self) -> int:
        """0 is the only good value."""
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Write what the entry has ``unstored``, until the store takes it."""
        self._entries[entry.name] = entry
        self._tasks.start(self._store_later(entry), name=f"store {entry.name}")

    def forget(self, account: str) -> None:
        """An import or a logout took the place of what was to be written."""
        self._entries.pop(account, None)

    def close(self) -> None:
        """Try once more, now, and then no longer."""
        self._closing.set()

    async def _store_later(self, entry: Entry) -> None:
        fails = 1
        while (kept := entry.unstored) is not None:
            await self._pause(backoff(fails, jitter=self._jitter()).total_seconds())
            try:
                stored = await self._store.commit(
                    kept.claim,
                    kept.tokens,
                    previous=kept.previous,
                    standing=kept.standing,
                    now=self._clock.now(),
                )
            except StoreError as error:
                fails += 1
                log.event(_log, "store_failed", account=entry.name, detail=error.message, fails=fails)
                if self._closing.is_set():
                    return
                continue
            self._taken(entry, kept)
            if stored:  # else an import or a logout has taken its place
                log.event(_log, "store_recovered", account=entry.name, generation=kept.tokens.generation)

    async def _pause(self, seconds: float) -> None:
        """Until then, or until the process is about to end."""
        closing = self._tasks.start(self._closing.wait(), name="closing")
        pause = self._tasks.start(self._clock.sleep(seconds), name="pause")
        await asyncio.wait({closing, pause}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        pause.cancel()

    def _taken(self, entry: Entry, kept: Unstored) -> None:
        entry.unstored = None
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        if entry.tokens is kept.tokens:
            entry.settled = kept.previous is None  # what ``worked`` said before was not for the store's row
