"""Token sets in memory, gone when the process is: for the demo and for tests, and the contract in its plainest form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from types import MappingProxyType

from tokenproxy.core.account import Standing, State
from tokenproxy.core.interfaces import MOST_STATE, Claim, Idle, Record, Replica, StateValue, Summary, Unstored
from tokenproxy.core.provider import table_of
from tokenproxy.core.tokens import TokenSet


@dataclass(slots=True)
class _Row:
    account: str
    bound_to: str
    generation: int
    standing: Standing
    tokens: TokenSet | None = field(repr=False)
    previous: str | None = field(default=None, repr=False)
    renewed_at: datetime | None = None
    lease_until: datetime | None = None
    fence: int = 0
    in_flight_since: datetime | None = None

    def waits(self, now: datetime) -> bool:
        """For a person, or for its back-off to end."""
        standing = self.standing
        return standing.state is State.LOGIN_REQUIRED or (
            standing.retry_at is not None and standing.retry_at > now
        )

    def end_lease(self) -> None:
        self.lease_until = None
        self.in_flight_since = None


class MemoryStore:
    """``core.interfaces.Store`` without a disk. No method awaits anything, so each is one step by itself."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._state: dict[str, dict[str, StateValue]] = {}

    async def load(self, account: str) -> Record | None:
        row = self._rows.get(account)
        return None if row is None else _record(row)

    async def summary(self, account: str) -> Summary | None:
        row = self._rows.get(account)
        return None if row is None else _summary(row)

    async def summaries(self, *, table: str = "", after: str = "", limit: int = -1) -> Sequence[Summary]:
        names = sorted(name for name in self._rows if name > after and table in {"", table_of(name)})
        return [_summary(self._rows[name]) for name in (names if limit < 0 else names[:limit])]

    async def in_states(self, table: str, states: Collection[State], *, limit: int) -> Sequence[Summary]:
        found = [
            _summary(row)
            for name, row in self._rows.items()
            if table_of(name) == table and row.standing.state in states
        ]
        return found[:limit]

    async def tally(self) -> Mapping[str, Mapping[State, int]]:
        counts: dict[str, Counter[State]] = {}
        for name, row in self._rows.items():
            counts.setdefault(table_of(name), Counter())[row.standing.state] += 1
        return counts

    async def idle(
        self, table: str, *, before: datetime | None, now: datetime, limit: int, after: Idle | None = None
    ) -> Sequence[Idle]:
        found = [_idle(row) for row in self._rows.values() if table_of(row.account) == table]
        aged = [
            idle
            for idle in found
            if idle is not None
            and (after is None or _by_age(idle) > _by_age(after))
            and not self._rows[idle.account].waits(now)
            and (idle.renewed_at < before if before is not None else _half_spent(idle, now))
        ]
        return sorted(aged, key=_by_age)[:limit]

    async def in_doubt(self) -> Sequence[str]:
        marked = [row for _, row in sorted(self._rows.items()) if row.in_flight_since is not None]
        return [row.account for row in sorted(marked, key=attrgetter("in_flight_since"), reverse=True)]

    async def abandoned(self, *, now: datetime, limit: int) -> Sequence[str]:
        found = [self._rows[name] for name in await self.in_doubt()]
        free = [row for row in found if row.lease_until is None or row.lease_until <= now]
        ripe = [row for row in free if row.standing.retry_at is None or row.standing.retry_at <= now]
        return [row.account for row in (ripe if limit < 0 else ripe[:limit])]

    def watch(self, on_change: Callable[[str, int], None]) -> None:
        """Nobody else has this memory: nothing is ever called."""

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        row = self._rows.get(account)
        if row is None or row.generation != generation:
            return None
        if row.lease_until is not None and row.lease_until > now:
            return None
        found = row.in_flight_since
        row.fence += 1
        row.lease_until = now + lease
        row.in_flight_since = now
        return Claim(account, generation, row.fence, found)

    async def prolong(self, claim: Claim, *, now: datetime, lease: timedelta) -> bool:
        row = self._rows.get(claim.account)
        if row is None or row.fence != claim.fence or row.generation != claim.generation:
            return False
        row.lease_until = now + lease
        return True

    async def commit(
        self, claim: Claim, tokens: TokenSet, *, previous: str | None, standing: Standing, now: datetime
    ) -> bool:
        """A repeat of the same commit, after an answer that never came, is True again."""
        if tokens.generation != claim.generation + 1:
            raise ValueError(f"generation {tokens.generation} does not succeed {claim.generation}")
        row = self._rows.get(claim.account)
        if (
            row is None
            or row.fence != claim.fence
            or row.generation not in {claim.generation, tokens.generation}
        ):
            return False
        row.generation = tokens.generation
        row.tokens, row.previous, row.standing, row.renewed_at = tokens, previous, standing, now
        row.end_lease()
        return True

    async def give_up(self, claim: Claim, *, standing: Standing, keep_mark: bool) -> bool:
        row = self._rows.get(claim.account)
        if row is None or row.fence != claim.fence or row.generation != claim.generation:
            return False
        mark = row.in_flight_since
        row.end_lease()
        row.in_flight_since = mark if keep_mark else None
        row.standing = standing
        return True

    async def adopt(
        self, account: str, tokens: TokenSet, *, bound_to: str, standing: Standing, now: datetime
    ) -> bool:
        row = self._rows.get(account)
        if tokens.generation != (row.generation if row else 0) + 1:
            return False
        self._rows[account] = _Row(
            account,
            bound_to,
            tokens.generation,
            standing,
            tokens,
            renewed_at=now,
            fence=row.fence + 1 if row else 0,
        )
        return True

    async def stand(self, account: str, standing: Standing) -> None:
        """An account without a row stays without one: only tokens make rows."""
        if row := self._rows.get(account):
            row.standing = standing

    async def prepare(self, account: str, *, bound_to: str, standing: Standing) -> None:
        row = self._rows.get(account)
        if row is None:
            self._rows[account] = _Row(account, bound_to, 0, standing, None)
        elif row.tokens is None:
            row.bound_to, row.standing = bound_to, standing
            row.fence += 1
            row.end_lease()

    async def rebind(self, account: str, *, bound_to: str, standing: Standing) -> None:
        if row := self._rows.get(account):
            row.bound_to = bound_to
            row.standing = standing

    async def settled(self, account: str, *, generation: int) -> None:
        row = self._rows.get(account)
        if row is not None and row.generation == generation:
            row.previous = None

    async def forget(self, account: str, *, standing: Standing) -> bool:
        state = self._state.pop(account, None)
        row = self._rows.get(account)
        if row is None or (row.tokens is None and row.in_flight_since is None):
            return state is not None
        row.tokens = row.previous = None
        row.standing = standing
        row.fence += 1
        row.end_lease()
        return True

    async def state(self, account: str) -> Mapping[str, StateValue]:
        return MappingProxyType(dict(sorted(self._state.get(account, {}).items())))

    async def put_state(self, account: str, path: str, value: StateValue | None) -> bool:
        values = self._state.get(account, {})
        if value is None:
            gone = values.pop(path, None)
            if not values:
                self._state.pop(account, None)
            return gone is not None
        if path not in values and len(values) >= MOST_STATE:
            return False
        self._state.setdefault(account, {})[path] = value
        return True

    async def use_keys(self, keys: Sequence[bytes]) -> None:
        """Nothing is sealed here."""

    async def reseal(self, progress: Callable[[int, int], None] | None = None) -> int:  # noqa: ARG002 - the contract's
        """Nothing is sealed here: 0."""
        return 0

    async def check(self) -> None:
        """Memory can always be read and written."""

    async def replicas(self) -> Sequence[Replica]:
        return ()

    async def holder(self, account: str) -> str:  # noqa: ARG002 - one process, which knows it itself
        return ""

    async def close(self) -> None:
        self._rows.clear()
        self._state.clear()


def _idle(row: _Row) -> Idle | None:
    if row.tokens is None or row.renewed_at is None:
        return None
    return Idle(row.account, row.renewed_at, row.tokens.expires_at)


def _by_age(idle: Idle) -> tuple[datetime, str]:
    return idle.renewed_at, idle.account


def _half_spent(idle: Idle, now: datetime) -> bool:
    return idle.expires_at is not None and now - idle.renewed_at >= idle.expires_at - now


def _record(row: _Row) -> Record:
    return Record(
        account=row.account,
        bound_to=row.bound_to,
        generation=row.generation,
        tokens=row.tokens,
        standing=row.standing,
        in_flight_since=row.in_flight_since,
        renewed_at=row.renewed_at,
        previous=row.previous,
    )


def _summary(row: _Row) -> Summary:
    return Summary(
        account=row.account,
        bound_to=row.bound_to,
        generation=row.generation,
        standing=row.standing,
        expires_at=row.tokens.expires_at if row.tokens else None,
        refresh_expires_at=row.tokens.refresh_expires_at if row.tokens else None,
        in_flight_since=row.in_flight_since,
        renewed_at=row.renewed_at,
        has_tokens=row.tokens is not None,
    )


class MemorySpool:
    """``core.interfaces.Spool`` for a store that a crash takes away as well."""

    def __init__(self) -> None:
        self._kept: dict[str, Unstored] = {}

    async def put(self, kept: Unstored) -> None:
        self._kept[kept.claim.account] = kept

    async def drop(self, account: str) -> None:
        self._kept.pop(account, None)

    async def waiting(self) -> Sequence[Unstored]:
        return list(self._kept.values())

    def use_keys(self, keys: Sequence[bytes]) -> None:
        """Nothing is sealed."""

    async def reseal(self) -> int:
        return 0
