"""
What the dashboard shows of the past: requests and errors minute by minute, events, and the last requests one by one.

All of it is in memory and bounded. Minutes are differences of the metrics, taken once a minute, so that a request pays
nothing for them; for the last requests it pays one append.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from tokenproxy.core.interfaces import Clock
from tokenproxy.core.provider import table_of
from tokenproxy.log import redact
from tokenproxy.metrics import Metrics

MINUTES: Final = 60
REQUESTS: Final = 200
"""Last requests that are kept."""
EVENTS: Final = 2000
"""Events that are kept, renewals that went well apart from the others, so that routine pushes no trouble out."""
_LONGEST: Final = 500
"""Characters of one field of an event."""

NO_ROUTE: Final = ""
"""The series of requests that were refused before a route was found."""
_FAULTS: Final = frozenset({"upstream_error", "proxy_error", "login_required", "overload"})
"""Of ``metrics.RESULTS``, those that count as errors whatever their status."""


# -- minute by minute --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hour:
    """The last sixty minutes, the oldest first; the last one is still under way."""

    requests: tuple[int, ...] = (0,) * MINUTES
    errors: tuple[int, ...] = (0,) * MINUTES

    @property
    def total(self) -> int:
        return sum(self.requests)

    @property
    def failed(self) -> int:
        return sum(self.errors)


class _Ring:
    """One route's; made when it has its first request."""

    __slots__ = ("at", "before", "errors", "requests")

    def __init__(self) -> None:
        self.requests = array("Q", bytes(8 * MINUTES))
        self.errors = array("Q", bytes(8 * MINUTES))
        self.at = 0
        self.before = (0, 0)

    def push(self, counts: tuple[int, int]) -> None:
        self.requests[self.at] = counts[0] - self.before[0]
        self.errors[self.at] = counts[1] - self.before[1]
        self.before = counts
        self.at = (self.at + 1) % MINUTES

    def hour(self, counts: tuple[int, int]) -> Hour:
        """``counts``: as they are now."""
        return Hour(
            (*self._past(self.requests), counts[0] - self.before[0]),
            (*self._past(self.errors), counts[1] - self.before[1]),
        )

    def _past(self, ring: array[int]) -> Iterable[int]:
        return [*ring[self.at + 1 :], *ring[: self.at]]


class Minutes:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rings: dict[str, _Ring] = {}

    def sample(self) -> None:
        """Once a minute."""
        for name, counts in self._counts():
            if counts[0] and name not in self._rings:
                self._rings[name] = _Ring()
            if name in self._rings:
                self._rings[name].push(counts)

    def of(self, routes: Iterable[str]) -> Hour:
        """Of these routes together."""
        found = [self._hour(name) for name in routes]
        if len(found) == 1:
            return found[0]
        requests = tuple(map(sum, zip(*(each.requests for each in found), strict=True))) if found else ()
        errors = tuple(map(sum, zip(*(each.errors for each in found), strict=True))) if found else ()
        return Hour(requests, errors) if found else Hour()

    def _hour(self, name: str) -> Hour:
        counts = self._now(name)
        return self._rings.get(name, _Ring()).hour(counts) if counts[0] else Hour()

    def _now(self, name: str) -> tuple[int, int]:
        if name == NO_ROUTE:
            refused = sum(self._metrics.refused.values())
            return refused, refused
        route = self._metrics.routes.get(name)
        return _counted(route.requests) if route is not None else (0, 0)

    def _counts(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for name in [NO_ROUTE, *self._metrics.routes]:
            yield name, self._now(name)


def _counted(requests: Mapping[tuple[int, str], int]) -> tuple[int, int]:
    total = errors = 0
    for (hundreds, result), count in requests.items():
        total += count
        if hundreds == 5 or result in _FAULTS:
            errors += count
    return total, errors


# -- events ------------------------------------------------------------------------------------------------------------

ROUTINE: Final = frozenset({"token_renewed"})
HEARD: Final = ROUTINE | {
    "config_reloaded",
    "config_reload_failed",
    "renewal_failed",
    "renewal_in_doubt",
    "renewal_recovered",
    "renewals_held",
    "validate_live",
    "validate_failed",
    "discovery_failed",
    "provider_rate_limited",
    "login_required",
    "misconfigured",
    "registration_changed",
    "token_imported",
    "account_forgotten",
    "revocation_failed",
    "account_rebound",
    "login_begun",
    "login_succeeded",
    "login_failed",
    "store_failed",
    "spool_failed",
    "store_rolled_back",
    "store_recovered",
    "key_rotated",
}
"""Events of ``log.EVENTS`` that a timeline tells."""


@dataclass(frozen=True, slots=True)
class Happening:
    at: datetime
    name: str
    account: str
    """Empty where it concerns all of them."""
    fields: Mapping[str, Any]


class Timeline:
    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._routine: deque[Happening] = deque(maxlen=EVENTS)
        self._others: deque[Happening] = deque(maxlen=EVENTS)
        self.count = 0
        """Grows with every event."""

    def hear(self, name: str, fields: Mapping[str, object]) -> None:
        """What ``log`` tells; from any thread."""
        if name not in HEARD:
            return
        told = {key: _plain(value) for key, value in fields.items() if value is not None}
        account = str(told.pop("account", ""))
        kept = self._routine if name in ROUTINE else self._others
        kept.append(Happening(self._now(), name, account, told))
        self.count += 1

    def of(self, account: str, *, most: int) -> list[Happening]:
        """The newest of this account and of what concerns all, newest first."""
        found = [
            each
            for kept in (self._routine, self._others)
            for each in list(kept)
            if each.account in {account, ""}
        ]
        return sorted(found, key=lambda each: each.at, reverse=True)[:most]


def _plain(value: object) -> Any:
    if isinstance(value, bool | int | float):
        return value
    return redact(str(value)[:_LONGEST])


# -- the last requests -------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One request, as the data plane leaves it behind: a plain tuple of these."""

    began: float
    """Monotonic seconds."""
    route: str
    """Empty where it was refused before a route was found."""
    account: str
    caller: str
    """Of ``[callers.*]``, or empty."""
    method: str
    path: str
    """Without the query."""
    status: int
    """0 where the caller left before any answer."""
    code: str
    """What ``Tokenproxy-Error`` said, or empty."""
    seconds: float
    upstream_seconds: float
    attempts: int


class Recent:
    """The last requests, the newest last; the data plane appends to ``rows``."""

    def __init__(self) -> None:
        self.rows: deque[tuple[float, str, str, str, str, str, int, str, float, float, int]] = deque(
            maxlen=REQUESTS
        )

    def newest(self) -> object:
        """Another object with every request."""
        return self.rows[-1] if self.rows else None

    def seen(self) -> list[Seen]:
        """The newest first."""
        return [Seen(*row) for row in reversed(self.rows)]


class History:
    """All three."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._clock = clock
        self.minutes = Minutes(metrics)
        self.timeline = Timeline(clock.now)
        self.recent = Recent()

    async def run(self) -> None:
        while True:
            await self._clock.sleep(60.0)
            self.minutes.sample()

    def moment(self, monotonic: float) -> datetime:
        """The wall time of a moment of the clock."""
        return self._clock.now() - timedelta(seconds=self._clock.monotonic() - monotonic)


def routes_by_table(routes: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Account table -> its routes; given as (route, account)."""
    found: dict[str, list[str]] = {}
    for route, account in routes:
        found.setdefault(table_of(account), []).append(route)
    return found
