"""How many logins are in which state, those that are only in the store included; and what a scrape is told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from tokenproxy.core.account import State
from tokenproxy.core.grants import traits_of
from tokenproxy.core.provider import Account, table_of
from tokenproxy.metrics import AccountGauge
from tokenproxy.oauth.entry import Entry
from tokenproxy.oauth.resting import Packed


class Census:
    """Counts logins by config table and state."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        """Of those that somebody looked at since the start: of 100,000 others their number is all we need."""
        self._counts: dict[str, Counter[State]] = {}

    def begin(
        self, tally: Mapping[str, Mapping[State, int]], here: Callable[[str], bool] = lambda _: False
    ) -> None:
        """With what the store counts; ``here``: whether a login is in memory, which is counted in it."""
        self._states = {name: state for name, state in self._states.items() if here(name)}
        self._counts = {table: Counter(counts) for table, counts in tally.items()}

    def seen(self, account: str, state: State) -> None:
        """The store has this row, which is counted already."""
        self._states.setdefault(account, state)

    def restate(self, account: str, state: State) -> None:
        """The login is in this state from now on; one that was never ``seen`` is a new one."""
        counts = self._counts.setdefault(table_of(account), Counter())
        before = self._states.get(account)
        if before is not None:
            counts[before] -= 1
        counts[state] += 1
        self._states[account] = state

    def total(self, table: str) -> int:
        """How many logins a table has, the forgotten left out."""
        counts = self._counts.get(table, Counter())
        return sum(counts.values()) - counts[State.NEW]

    def counted(self, spec: Account) -> Counter[State]:
        """An account without any login counts as one: nobody has logged in yet, or it will see to itself."""
        counted = +self._counts.get(spec.name, Counter())
        return counted or Counter({State.NEW if traits_of(spec).person else State.OK: 1})


def gauges(
    accounts: Mapping[str, Account],
    entries: Iterable[Entry],
    resting: Iterable[Packed],
    census: Census,
    *,
    now: float,
) -> list[AccountGauge]:
    """One for each account of the config; ``now`` in monotonic seconds."""
    expiry: dict[str, float] = {}
    refresh_expiry: dict[str, float] = {}
    overdue: Counter[str] = Counter()
    used = now - 3600
    for entry in entries:
        if entry.used_at < used:
            continue
        _earliest(expiry, entry.table, _seconds(entry.tokens.expires_at))
        _earliest(refresh_expiry, entry.table, _seconds(entry.tokens.refresh_expires_at))
        overdue[entry.table] += now >= entry.due_at
    for login in resting:
        if login.used_at < used:
            continue
        table = login.account.name
        _earliest(expiry, table, login.expires)
        _earliest(refresh_expiry, table, login.refresh_expires)
        overdue[table] += -math.inf < login.due_at <= now
    return [
        AccountGauge(
            account=table,
            states={state.value: count for state, count in census.counted(spec).items()},
            token_expiry=expiry.get(table),
            refresh_token_expiry=refresh_expiry.get(table),
            overdue=overdue[table],
        )
        for table, spec in accounts.items()
    ]


def _earliest(found: dict[str, float], table: str, at: float) -> None:
    if at < found.get(table, math.inf):
        found[table] = at


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at is not None else math.inf
