"""
Hears what other replicas change in the PostgreSQL store.

``LISTEN`` on a connection of its own wakes at once. It may be cut, and then nothing is heard: whatever was changed since
the last moment that all was well is read in one query as soon as it is back. Behind a transaction pooler there is no
``LISTEN``, and that query is asked again and again.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from tokenproxy.errors import StoreError
from tokenproxy.stores.server import FAILED, PATIENCE, Server, settings_of

_POLL: Final = 0.75
"""Seconds between two looks where nobody may listen, give or take a third."""
_LATE: Final = timedelta(seconds=PATIENCE + 1)
"""A change may carry a time so much older than the moment at which it can be seen: its statement ran so long."""
_NOW: Final = "SELECT clock_timestamp() AS now"
_NEWS: Final = re.compile(r"(account|state) ([0-9]{1,18}) (.+)", re.DOTALL)
"""What is said on the channel; nothing else counts, as whoever may use the database may speak there, and so may a later release."""
_CHANGED: Final = """
SELECT account, gen, changed_at, clock_timestamp() AS now FROM account WHERE changed_at > :since ORDER BY changed_at
"""


class Listening:
    """Calls ``on_account`` with account and generation, ``on_state`` with a name or None for all of them."""

    def __init__(
        self,
        server: Server,
        dsn: str,
        *,
        channel: str,
        every: float,
        pooled: bool,
        on_account: Callable[[str, int], None],
        on_state: Callable[[str | None], None],
    ) -> None:
        """``every`` so many seconds the connection must show that it lives."""
        self._server = server
        self._dsn = dsn
        self._channel = channel
        self._every = every
        self._pooled = pooled
        self._on_account = on_account
        self._on_state = on_state
        self._since: datetime | None = None
        """By the database's clock: all that was changed before was told."""
        self._told: dict[str, datetime] = {}
        self.live = False
        """Whether what others change is heard at once."""

    async def run(self) -> None:
        """For ever."""
        while True:
            with suppress(StoreError, *FAILED):
                await (self._look() if self._pooled else self._listen())
            await asyncio.sleep(_POLL * random.uniform(2 / 3, 4 / 3))  # noqa: S311 - spreads load

    async def _listen(self) -> None:
        lost = asyncio.Event()
        connection = await asyncpg.connect(self._dsn, **settings_of(pooled=False))
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._channel, self._heard)
            await self._look()
            self._on_state(None)
            self.live = True
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await lost.wait()
                if not lost.is_set():  # a connection that nobody cut may be dead all the same
                    self._since = await connection.fetchval(_NOW)
        finally:
            self.live = False
            self._on_state(None)
            connection.terminate()

    def _heard(self, _: Any, pid: int, __: str, payload: object) -> None:
        news = _NEWS.fullmatch(str(payload))
        if news is None:
            return
        kind, generation, name = news.groups()
        if kind == "state":
            self._on_state(name)
        elif pid not in self._server.pids:
            self._on_account(name, int(generation))

    async def _look(self) -> None:
        """Tell what was changed since the last look, each change once."""
        if self._since is None:
            rows = await self._server.run("changes", _NOW)
            self._since = rows[0]["now"]
            return
        seen = dict[str, datetime]()
        for row in await self._server.run("changes", _CHANGED, {"since": self._since - _LATE}):
            seen[row["account"]] = row["changed_at"]
            if self._told.get(row["account"]) != row["changed_at"]:
                self._on_account(row["account"], row["gen"])
            self._since = row["now"]
        self._told = seen
