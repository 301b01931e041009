"""A disk that hangs: whoever asks is told soon, the loop's own threads stay free, and what it does late harms nobody."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.stores.test_spool import KEY, spool, unstored
from tests.stores.values import LEASE, NOW, adopt, claim, commit
from tokenproxy.core.interfaces import Store
from tokenproxy.errors import StoreError
from tokenproxy.stores import disk, open_store
from tokenproxy.stores.hanging import Mount

SOON = 0.05
"""Seconds of patience here."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "PATIENCE", SOON)


class Hanging:
    """The thread of a store's SQLite at a call that does not come back."""

    def __init__(self, store: Store) -> None:
        self._back = threading.Event()
        whole: Any = store
        self._connection = whole._engine._connection
        self._connection._tx.put_nowait((None, self._back.wait))

    def ends(self) -> None:
        self._back.set()

    async def gone(self) -> None:
        """The thread, whose store was closed."""
        self._back.set()
        await asyncio.to_thread(self._connection._thread.join)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:{folder}/t.db", [KEY])
    try:
        yield store
    finally:
        await store.close()


async def test_a_call_ends_where_the_disk_hangs_and_the_next_ones_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await adopt(store)
        hanging = Hanging(store)
        with pytest.raises(StoreError, match="does not answer") as told:
            await store.load("crm/anna")
        assert told.value.next_step
        began = monotonic()
        for _ in range(100):
            with pytest.raises(StoreError, match="does not answer"):
                await store.check()
        assert monotonic() - began < 1
        hanging.ends()

        async with asyncio.timeout(5):
            while not await answers(store):
                pass
        await commit(store, await claim(store))


async def answers(store: Store) -> bool:
    try:
        await store.check()
    except StoreError:
        await asyncio.sleep(0)
        return False
    return True


async def test_a_claim_that_the_disk_takes_late_holds_nobody_up(tmp_path: Path) -> None:
    """Its mark stays, since nobody knows better; the lease is nobody's."""
    async with opened(tmp_path) as store:
        await adopt(store)
        hanging = Hanging(store)
        with pytest.raises(StoreError, match="does not answer"):
            await claim(store)
        hanging.ends()
        async with asyncio.timeout(5):
            while not await answers(store):
                pass

        assert await store.abandoned(now=NOW, limit=-1) == ["crm/anna"]
        again = await store.claim("crm/anna", generation=1, now=NOW, lease=LEASE)
        assert again is not None
        assert again.found_in_flight == NOW


async def test_closing_does_not_wait_for_it(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:{tmp_path}/t.db", [KEY])
    hanging = Hanging(store)
    async with asyncio.timeout(1):
        await store.close()
    await hanging.gone()


async def test_works_that_hang_leave_the_threads_that_resolve_names_alone() -> None:
    mount = Mount("a share", patience=SOON, next_step="look at it")
    back = threading.Event()
    hung = await asyncio.gather(*(mount.run(back.wait) for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in hung} == {StoreError}
    async with asyncio.timeout(1):
        assert await asyncio.to_thread(lambda: 7) == 7
    with pytest.raises(StoreError, match="a share does not answer"):
        await mount.run(lambda: 7)
    back.set()
    async with asyncio.timeout(5):
        while 7 not in await asyncio.gather(mount.run(lambda: 7), return_exceptions=True):
            pass


async def test_what_the_disk_itself_says_is_passed_on() -> None:
    """An NFS server that gives up says so by ETIMEDOUT, which Python calls ``TimeoutError`` as well."""
    mount = Mount("a share", patience=1, next_step="look at it")

    def fail() -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await mount.run(fail)
    assert await mount.run(lambda: 7) == 7


async def test_where_the_first_folder_of_the_spool_hangs_the_second_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies beside the store, whose disk hangs; a read of a pipe that nobody writes to hangs as truly."""
    monkeypatch.setattr("tokenproxy.stores.spool.PATIENCE_AT_START", SOON)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(mode=0o700)
    os.mkfifo(first / "0.sealed")
    one, kept = spool(first, second), unstored()
    with pytest.raises(StoreError, match="does not answer"):
        await one.waiting()

    await one.put(kept)

    assert await spool(second).waiting() == [kept]
    with pytest.raises(StoreError, match="does not answer"):
        await one.drop(kept.claim.account)
    assert await spool(second).waiting() == []
    with (first / "0.sealed").open("wb"):  # lets the thread go
        pass
