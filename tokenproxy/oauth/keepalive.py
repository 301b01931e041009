"""
Which logins that nobody uses are renewed, so that their grants do not die of disuse.

There is no timer per login and nothing of them in memory: the store is asked, table by table, for those that have
been idle for half of what the provider allows. They are gone through slowly: all logins of a table within a quarter of
what the oldest one has left. So a mass login does not come back as a mass renewal, and neither does a restart after a
long pause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from tokenproxy.core.grants import traits_of
from tokenproxy.core.interfaces import Clock, Idle, Store
from tokenproxy.core.provider import ACCESS_TOKEN, Account
from tokenproxy.core.schedule import KEEP_ALIVE_LOOK, keep_alive_pause


def may_die_idle(account: Account) -> bool:
    """Whether a login of this table ends when nobody uses it."""
    provider = account.provider
    return traits_of(account).person and (
        provider.refresh_idle is not None or provider.refresh_with == ACCESS_TOKEN
    )


@dataclass(slots=True)
class _Round:
    """How far one table was gone through."""

    next_at: float
    """Monotonic seconds."""
    count: int = 1
    """How many the next look takes."""
    last: Idle | None = None
    last_late: Idle | None = None
    """Of those that are past their limit, and come when all others were seen to."""


class KeepAlive:
    """Asks the store who is idle, at each table's own pace."""

    def __init__(self, *, store: Store, clock: Clock, jitter: Callable[[], float]) -> None:
        """``jitter`` gives numbers from -1 to 1."""
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._rounds: dict[str, _Round] = {}

    def ripe(self, accounts: Mapping[str, Account]) -> Iterator[Account]:
        """Tables whose next look is now."""
        now = self._clock.monotonic()
        self._rounds = {name: round_ for name, round_ in self._rounds.items() if name in accounts}
        for account in accounts.values():
            if not may_die_idle(account):
                continue
            if account.name not in self._rounds:
                soon = KEEP_ALIVE_LOOK * (1 + self._jitter()) / 2
                self._rounds[account.name] = _Round(now + soon)
            if now >= self._rounds[account.name].next_at:
                yield account

    async def look(self, account: Account, *, logins: int) -> list[str]:
        """
        Whom to renew now, and when to look again; ``logins`` is how many this table has.

        Raises ``StoreError``.
        """
        now, round_ = self._clock.now(), self._rounds[account.name]
        round_.next_at = self._clock.monotonic() + KEEP_ALIVE_LOOK  # also where the store cannot be asked
        found = await self._find(account, now, round_)
        if not found:
            round_.count = 1
            return []
        pause = keep_alive_pause(account.provider, found[0], logins=logins, now=now, jitter=self._jitter())
        round_.count = min(ceil(1.0 / pause), account.provider.limits.concurrent)
        round_.next_at = self._clock.monotonic() + pause * round_.count
        return [idle.account for idle in found]

    async def _find(self, account: Account, now: datetime, round_: _Round) -> list[Idle]:
        limit = account.provider.refresh_idle
        if account.provider.refresh_with == ACCESS_TOKEN or limit is None:
            found = await self._ask(account, None, now, round_.count, round_.last)
            round_.last = found[-1] if found else None
            return found
        ended = Idle("", now - limit, None)
        found = await self._ask(account, now - limit / 2, now, round_.count, round_.last or ended)
        round_.last = found[-1] if found else None
        if found:
            return found
        found = await self._ask(account, now - limit, now, round_.count, round_.last_late)
        round_.last_late = found[-1] if found else None
        return found

    async def _ask(
        self, account: Account, before: datetime | None, now: datetime, count: int, after: Idle | None
    ) -> list[Idle]:
        return [*await self._store.idle(account.name, before=before, now=now, limit=count, after=after)]
