"""R3: the n-th call of the store fails, for every n, with every error that SQLite has for a disk."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.reliability.result import Result
from tests.oauth.house import ROUTE, House
from tests.simulators import AskaraProvider
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError, StoreError

CODES: Final = {
    "SQLITE_FULL": sqlite3.SQLITE_FULL,
    "SQLITE_IOERR": sqlite3.SQLITE_IOERR,
    "SQLITE_READONLY": sqlite3.SQLITE_READONLY,
    "SQLITE_BUSY": sqlite3.SQLITE_BUSY,
}
FOR_GOOD: Final = 10**6
HANG: Final = 5.0
"""Seconds that nothing may take, whatever fails."""


class Failing:
    """A connection of aiosqlite whose calls from ``first`` on fail, ``times`` of them."""

    def __init__(self, connection: Any, code: int, *, first: int, times: int) -> None:
        self._connection = connection
        self._code = code
        self._first = first
        self._last = first + times
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute_fetchall(self, sql: str, parameters: Any = None) -> Any:
        self.calls += 1
        if self._first <= self.calls < self._last:
            error = sqlite3.OperationalError("a fault that was asked for")
            error.sqlite_errorcode = self._code
            raise error
        return await self._connection.execute_fetchall(sql, parameters)


class Story:
    """A login is used, renewed, has worked and is renewed once more, while the store's disk fails; then it mends."""

    def __init__(self, folder: Path, code: int, *, first: int, times: int) -> None:
        self._folder = folder
        self._code = code
        self._first = first
        self._times = times
        self.calls = 0
        self.lost = 0
        self.slowest = 0.0
        self.faults: list[str] = []

    async def run(self) -> None:
        async with AskaraProvider() as provider, House(provider, path=self._folder / "t.db") as house:
            await house.login()
            store: Any = house.store.store
            disk = store._engine  # noqa: SLF001 - below the store is where disks fail
            sound = disk._connection  # noqa: SLF001
            failing = disk._connection = Failing(sound, self._code, first=self._first, times=self._times)  # noqa: SLF001
            for _ in range(2):
                await self._renewal(provider, house)
            self.calls = failing.calls
            disk._connection = sound  # noqa: SLF001
            await self._mended(provider, house)

    async def _renewal(self, provider: AskaraProvider, house: House) -> None:
        began = time.monotonic()
        try:
            held = await house.source.current("books")
            provider.revoke_access(held.access_token)
            newer = await house.source.renew("books", held, route=ROUTE)
            if isinstance(newer, TokenSet):
                house.source.worked("books", newer)
        except (AccountError, StoreError):
            pass  # told to whoever asked; what counts is what is left
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def _mended(self, provider: AskaraProvider, house: House) -> None:
        async with asyncio.timeout(HANG):
            while house.source.unstored:
                if house.clock.sleeping:
                    await house.clock.advance(house.clock.next_wake() or 0.0)
                else:  # a thread is at the disk
                    await asyncio.sleep(0.001)
        await house.clock.advance(3600)
        try:
            tokens = await house.source.current("books")
            provider.revoke_access(tokens.access_token)
            newer = await house.source.renew("books", tokens, route=ROUTE)
        except AccountError as error:
            self.lost = 1
            self._fault(f"lost: {error.reason}")
            return
        if not isinstance(newer, TokenSet) or newer.refresh_token != provider.latest()["refresh_token"]:
            self._fault("the newest tokens are not the provider's newest")
        if await house.kept() != newer:
            self._fault("the store has other tokens than memory")
        if provider.reuses:
            self._fault("a spent refresh token was sent")
        if self.slowest > HANG:
            self._fault(f"a call took {self.slowest:.1f} s")

    def _fault(self, text: str) -> None:
        name = next(name for name, code in CODES.items() if code == self._code)
        times = "from then on" if self._times == FOR_GOOD else "once"
        self.faults.append(f"{name} at call {self._first}, {times}: {text}")


async def every_call_fails(folder: Path, *, codes: Iterable[str] = CODES) -> Result:
    """R3. The provider is strict: a spent refresh token that comes again ends the login."""
    stories, lost, slowest, faults = 0, 0, 0.0, list[str]()
    for name in codes:
        for times in (1, FOR_GOOD):
            first = 1
            while True:
                place = folder / f"{name}-{times}-{first}"
                place.mkdir(parents=True)
                story = Story(place, CODES[name], first=first, times=times)
                await story.run()
                stories += 1
                lost += story.lost
                slowest = max(slowest, story.slowest)
                faults += story.faults
                if first > story.calls:  # nothing failed any more
                    break
                first += 1
    figures = {"stories": stories, "lost": lost, "slowest call, s": round(slowest, 2)}
    return Result("R3", "the n-th store call fails, for every n, once and for good", figures, faults)
