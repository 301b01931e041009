"""What providers issued and the store has not taken yet: offered again and again until it does, and kept in the spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tokenproxy import log
from tokenproxy.core.interfaces import Clock, Record, Spool, Store, Unstored
from tokenproxy.core.schedule import backoff
from tokenproxy.errors import StoreError
from tokenproxy.oauth.entry import Entry
from tokenproxy.oauth.tasks import Tasks

_log = logging.getLogger("tokenproxy.oauth")


class Backlog:
    """Entries whose newest pair the store does not have; they stay known here when the config drops the account."""

    def __init__(
        self,
        *,
        store: Store,
        spool: Spool,
        clock: Clock,
        tasks: Tasks,
        jitter: Callable[[], float],
        on_overtaken: Callable[[Entry, Record | None], None],
    ) -> None:
        """``on_overtaken`` hears of an entry whose pair is not wanted any more, and what the store has instead."""
        self._store = store
        self._spool = spool
        self._clock = clock
        self._tasks = tasks
        self._jitter = jitter
        self._on_overtaken = on_overtaken
        self._entries: dict[str, Entry] = {}
        self._closing = asyncio.Event()
        self._hurried = asyncio.Event()

    def __contains__(self, account: str) -> bool:
        return account in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        """0 is the only good value."""
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Write what the entry has ``unstored``, until the store takes it."""
        self._entries[entry.name] = entry
        self._tasks.start(self._store_later(entry), name=f"store {entry.name}")

    async def forget(self, account: str) -> None:
        """An import or a logout took the place of what was to be written."""
        if self._entries.pop(account, None) is not None:
            await self._drop(account)

    async def restore(self) -> Sequence[Unstored]:
        """
        Give the store what an earlier process left in the spool; those that it does not take now either.

        Before anything is renewed, since what the store has of these logins is spent. Raises ``StoreError`` where
        nobody can tell what is in the spool.
        """
        left = []
        for kept in await self._spool.waiting():
            try:
                taken = await self._given(kept, await self._store.load(kept.claim.account))
            except StoreError as error:
                log.event(_log, "store_failed", account=kept.claim.account, detail=error.message)
                left.append(kept)
                continue
            await self._drop(kept.claim.account)
            if taken:
                self._tell_taken(kept)
        return left

    def hurry(self) -> None:
        """The store can be reached: what waits is offered now, before another process takes its renewal for lost."""
        self._hurried.set()
        self._hurried = asyncio.Event()

    def close(self) -> None:
        """Try once more, now, and then no longer."""
        self._closing.set()
        self._hurried.set()

    async def _given(self, kept: Unstored, record: Record | None) -> bool:
        """Whether the store has it now, in the place of ``record``; False: an import, a logout or another process came after it."""
        account, tokens, now = kept.claim.account, kept.tokens, self._clock.now()
        if record is None:  # another store than the one that did not take it
            tokens = replace(tokens, generation=1)
        elif record.tokens is None or record.generation > kept.claim.generation:
            return False
        elif await self._commit(kept):
            return True
        return await self._store.adopt(
            account, tokens, bound_to=kept.bound_to, standing=kept.standing, now=now
        )

    async def _commit(self, kept: Unstored) -> bool:
        return await self._store.commit(
            kept.claim,
            kept.tokens,
            previous=kept.previous,
            standing=kept.standing,
            now=self._clock.now(),
        )

    async def _store_later(self, entry: Entry) -> None:
        fails = 1
        while (kept := entry.unstored) is not None:
            await self._pause(backoff(fails, jitter=self._jitter()).total_seconds())
            record = None
            try:
                stored = await self._commit(kept)
                if not stored:
                    # Whoever took the lease over may have been refused: then ours is the only pair that there is.
                    record = await self._store.load(entry.name)
                    stored = record is not None and await self._given(kept, record)
            except StoreError as error:
                fails += 1
                log.event(_log, "store_failed", account=entry.name, detail=error.message, fails=fails)
                if self._closing.is_set():
                    return
                continue
            if not stored:
                self._on_overtaken(entry, record)
            await self._taken(entry, kept)
            if stored:
                self._tell_taken(kept)

    async def _pause(self, seconds: float) -> None:
        """Until then, or until the store can be reached again, or the process is about to end."""
        if self._closing.is_set():
            return
        hurried = self._tasks.start(self._hurried.wait(), name="hurried")
        pause = self._tasks.start(self._clock.sleep(seconds), name="pause")
        await asyncio.wait({hurried, pause}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        pause.cancel()

    async def _taken(self, entry: Entry, kept: Unstored) -> None:
        entry.unstored = None
        if entry.tokens is kept.tokens:
            entry.settled = kept.previous is None  # what ``worked`` said before was not for the store's row
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
            await self._drop(entry.name)

    async def _drop(self, account: str) -> None:
        """A file that stays is no harm: its generation tells the next start that the store has it."""
        try:
            await self._spool.drop(account)
        except StoreError as error:
            log.event(_log, "spool_failed", account=account, detail=error.message, next_step=error.next_step)

    def _tell_taken(self, kept: Unstored) -> None:
        log.event(_log, "store_recovered", account=kept.claim.account, generation=kept.tokens.generation)
