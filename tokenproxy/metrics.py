"""Every metric named in one place: plain numbers that the hot path bumps, rendered only when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

OVERHEAD_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
UPSTREAM_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
REFRESH_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
WAITER_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0)
STORE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

RESULTS: Final = (
    "ok",
    "upstream_error",
    "proxy_error",
    "login_required",
    "refused",
    "client_gone",
    "overload",
)
"""Of a request, in ``tokenproxy_requests_total``."""
CALLER_RESULTS: Final = ("let_in", "not_allowed", "overloaded")
"""Of a named caller's request, in ``tokenproxy_caller_requests_total``."""


class Histogram:
    """Counts per bucket; 0.14 us an observation where prometheus-client takes 0.9."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class RouteMetrics:
    """One route's numbers; the data plane keeps it and writes to it directly."""

    __slots__ = (
        "bytes_down",
        "bytes_up",
        "echoes",
        "in_flight",
        "overhead",
        "requests",
        "retries",
        "route",
        "tunnels",
        "upstream",
        "upstream_retries",
    )

    def __init__(self, route: str) -> None:
        self.route = route
        self.requests: dict[tuple[int, str], int] = {(2, "ok"): 0, (4, "ok"): 0, (5, "proxy_error"): 0}
        """(status // 100, result) -> count."""
        self.in_flight = 0
        self.tunnels = 0
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        """Seconds inside tokenproxy, the upstream's time excluded."""
        self.upstream = Histogram(UPSTREAM_BUCKETS)
        """Seconds to the first byte of the answer."""
        self.bytes_up = 0
        self.bytes_down = 0
        self.retries: dict[str, int] = {"ok": 0, "still_401": 0, "not_replayable": 0}
        """The second try after a dead-token answer."""
        self.upstream_retries: dict[str, int] = {"ok": 0, "failed": 0, "over_budget": 0}
        """Further tries after a failure of the upstream (``retry``), and those that were not made."""
        self.echoes = 0
        """Answers in which the upstream repeated our token, which was hidden."""

    def count(self, status: int, result: str) -> None:
        key = (status // 100, result)
        self.requests[key] = self.requests.get(key, 0) + 1


class AccountMetrics:
    """One account table's renewals; ``oauth`` writes to it."""

    __slots__ = ("account", "last_success", "refresh_seconds", "refreshes", "waiters")

    def __init__(self, account: str) -> None:
        self.account = account
        self.refreshes: dict[tuple[str, str], int] = {
            ("on_401", "ok"): 0,
            ("due", "ok"): 0,
            ("on_demand", "ok"): 0,
        }
        """
        (trigger, result) -> count. Trigger: due, on_401, on_demand, keep_alive, recovery, manual. Result: ok,
        invalid_grant, client_refused, provider_error, rate_limited, network, timeout, lost_lease, store_error, ceiling.
        """
        self.refresh_seconds = Histogram(REFRESH_BUCKETS)
        self.waiters = Histogram(WAITER_BUCKETS)
        self.last_success: float | None = None
        """Wall time, seconds since the epoch."""

    def count(self, trigger: str, result: str) -> None:
        key = (trigger, result)
        self.refreshes[key] = self.refreshes.get(key, 0) + 1


@dataclass(frozen=True, slots=True)
class AccountGauge:
    """How the logins of one account table stand at the moment of a scrape."""

    account: str
    states: Mapping[str, int]
    """``core.account.State`` value -> logins in it; a state that is left out counts 0."""
    token_expiry: float | None
    """Seconds since the epoch; the earliest among the logins used in the last hour, None where nobody knows."""
    refresh_token_expiry: float | None
    """Seconds since the epoch; the earliest known end of a login."""
    overdue: int
    """Logins past the moment at which they were due to be renewed."""


class StoreMetrics:
    """The store's numbers; ``stores`` writes to it."""

    __slots__ = ("errors", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, Histogram] = {
            operation: Histogram(STORE_BUCKETS) for operation in ("load", "claim", "commit")
        }
        self.errors: dict[tuple[str, str], int] = {}
        """(operation, kind) -> count; kind: full, readonly, locked, io, unreachable, decrypt."""

    def error(self, operation: str, kind: str) -> None:
        self.errors[operation, kind] = self.errors.get((operation, kind), 0) + 1


class Metrics:
    """All of them; ``app`` makes one and hands out the parts."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteMetrics] = {}
        self.accounts: dict[str, AccountMetrics] = {}
        self.store = StoreMetrics()
        self.reloads: dict[str, int] = {"ok": 0, "failed": 0}
        self.last_reload_success: float | None = None
        self.log_events: dict[str, int] = {}
        self.audit: dict[str, int] = {"written": 0, "lost": 0}
        """Lines of the audit log, by result."""
        self.callers_connected = 0
        self.callers: dict[str, dict[str, int]] = {}
        """Named caller -> ``let_in``, ``not_allowed``, ``overloaded`` -> requests."""
        self.asked: dict[tuple[str, str], int] = {}
        """(route, ``Tokenproxy-Answer`` or error code) -> questions of other proxies (forward-auth)."""
        self.refused: dict[str, int] = {}
        """Requests refused before a route was found, by error code; exported with route=""."""

    def route(self, name: str) -> RouteMetrics:
        return self.routes.setdefault(name, RouteMetrics(name))

    def caller(self, name: str) -> dict[str, int]:
        return self.callers.setdefault(name, dict.fromkeys(CALLER_RESULTS, 0))

    def account(self, name: str) -> AccountMetrics:
        return self.accounts.setdefault(name, AccountMetrics(name))
