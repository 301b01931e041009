"""
``/metrics``: turns the plain numbers of ``metrics.Metrics`` into Prometheus text when somebody scrapes.

Labels are names of the config file, never a login (``NAME/SUB``): 10,000 series would block the loop for 86 ms.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tokenproxy import __version__
from tokenproxy.core.account import State
from tokenproxy.core.problems import PROBLEMS
from tokenproxy.log import EVENTS
from tokenproxy.metrics import AccountGauge, Histogram, Metrics

STORE_OPERATIONS: Final = ("load", "claim", "commit")
STORE_ERRORS: Final = ("full", "readonly", "locked", "io", "unreachable", "decrypt")


class Exposition:
    """Everything that one scrape gets; nothing is computed between scrapes."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        accounts: Callable[[], Sequence[AccountGauge]],
        spooled: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        """``spooled``: tokens that the provider issued and the store has not taken."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Ours(metrics, accounts, spooled, ready))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type: OpenMetrics where ``accept`` asks for it, else Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Ours(Collector):
    def __init__(
        self,
        metrics: Metrics,
        accounts: Callable[[], Sequence[AccountGauge]],
        spooled: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._accounts = accounts
        self._spooled = spooled
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "tokenproxy_build",
            "Which tokenproxy this is.",
            value={"version": __version__, "python": platform.python_version()},
        )
        yield GaugeMetricFamily(
            "tokenproxy_ready", "1 where /readyz says ok, else 0.", value=float(self._ready())
        )
        yield from _requests(self._metrics)
        yield from _renewals(self._metrics)
        yield from _standing(self._accounts())
        yield from _store(self._metrics)
        yield GaugeMetricFamily(
            "tokenproxy_spooled_tokens",
            "Token sets that the provider issued and the store has not taken yet; 0 is the only good value.",
            value=self._spooled(),
        )
        yield from _config(self._metrics)
        yield _counter(
            "tokenproxy_audit_lines",
            "Lines of the audit log; lost ones came while it could not be written.",
            ("result",),
            (((result,), count) for result, count in self._metrics.audit.items()),
        )
        yield _counter(
            "tokenproxy_log_events",
            "Events by name, also those that the log level keeps quiet.",
            ("event",),
            (((name,), self._metrics.log_events.get(name, 0)) for name in EVENTS),
        )


def _requests(metrics: Metrics) -> Iterator[Metric]:
    routes = metrics.routes.values()
    yield _counter(
        "tokenproxy_requests",
        'Requests answered, by route; route="" was refused before a route was found.',
        ("route", "code_class", "result"),
        [
            *(
                ((each.route, _code_class(hundreds), result), count)
                for each in routes
                for (hundreds, result), count in each.requests.items()
            ),
            *((("", *kind), count) for kind, count in _refused(metrics.refused).items()),
        ],
    )
    yield _gauge(
        "tokenproxy_requests_in_flight",
        "Requests under way.",
        ("route",),
        (((each.route,), each.in_flight) for each in routes),
    )
    yield _gauge(
        "tokenproxy_tunnels",
        "Tunnels that are open: WebSockets, other upgrades, CONNECT.",
        ("route",),
        (((each.route,), each.tunnels) for each in routes),
    )
    yield _histogram(
        "tokenproxy_overhead_seconds",
        "Time of a request inside tokenproxy, the upstream's excluded.",
        ("route",),
        (((each.route,), each.overhead) for each in routes),
    )
    yield _histogram(
        "tokenproxy_upstream_seconds",
        "Time from sending a request to the first byte of the upstream's answer.",
        ("route",),
        (((each.route,), each.upstream) for each in routes),
    )
    yield _counter(
        "tokenproxy_body_bytes",
        "Bytes of bodies: up to the upstream, down to the caller.",
        ("route", "direction"),
        [
            *(((each.route, "up"), each.bytes_up) for each in routes),
            *(((each.route, "down"), each.bytes_down) for each in routes),
        ],
    )
    yield _counter(
        "tokenproxy_retries",
        "Second tries after a dead-token answer.",
        ("route", "result"),
        (((each.route, result), count) for each in routes for result, count in each.retries.items()),
    )
    yield _counter(
        "tokenproxy_upstream_retries",
        "Further tries after a passing failure of the upstream, and those that its budget forbade.",
        ("route", "result"),
        (((each.route, result), count) for each in routes for result, count in each.upstream_retries.items()),
    )
    yield _counter(
        "tokenproxy_caller_requests",
        "Requests of callers that the config names, and whether they were let in.",
        ("caller", "result"),
        (
            ((name, result), count)
            for name, counts in metrics.callers.items()
            for result, count in counts.items()
        ),
    )
    yield _counter(
        "tokenproxy_echoes",
        "Answers in which the upstream repeated our token, which was hidden.",
        ("route",),
        (((each.route,), each.echoes) for each in routes),
    )
    yield _counter(
        "tokenproxy_forward_auth",
        'Questions of other proxies, by what they were told; route="" was refused before a route was found.',
        ("route", "answer"),
        metrics.asked.items(),
    )
    yield GaugeMetricFamily(
        "tokenproxy_callers_connected",
        "Connections of callers that are open.",
        value=metrics.callers_connected,
    )


def _renewals(metrics: Metrics) -> Iterator[Metric]:
    accounts = metrics.accounts.values()
    yield _counter(
        "tokenproxy_refreshes",
        "Renewals, by what asked for them and how they ended.",
        ("account", "trigger", "result"),
        (
            ((each.account, trigger, result), count)
            for each in accounts
            for (trigger, result), count in each.refreshes.items()
        ),
    )
    yield _histogram(
        "tokenproxy_refresh_seconds",
        "Time from taking the right to renew until the new token set is on disk.",
        ("account",),
        (((each.account,), each.refresh_seconds) for each in accounts),
    )
    yield _histogram(
        "tokenproxy_refresh_waiters",
        "Requests that one renewal released.",
        ("account",),
        (((each.account,), each.waiters) for each in accounts),
    )
    yield _gauge(
        "tokenproxy_last_refresh_success_timestamp_seconds",
        "When a renewal of the account last succeeded.",
        ("account",),
        (((each.account,), each.last_success) for each in accounts),
    )


def _standing(accounts: Sequence[AccountGauge]) -> Iterator[Metric]:
    yield _gauge(
        "tokenproxy_accounts",
        "Logins by state.",
        ("account", "state"),
        (
            ((each.account, state.value), each.states.get(state.value, 0))
            for each in accounts
            for state in State
        ),
    )
    yield _gauge(
        "tokenproxy_token_expiry_timestamp_seconds",
        "When the first access token among the logins used in the last hour runs out.",
        ("account",),
        (((each.account,), each.token_expiry) for each in accounts),
    )
    yield _gauge(
        "tokenproxy_refresh_token_expiry_timestamp_seconds",
        "When the first login ends, where the provider tells.",
        ("account",),
        (((each.account,), each.refresh_token_expiry) for each in accounts),
    )
    yield _gauge(
        "tokenproxy_refresh_overdue",
        "Logins past the moment at which they were due to be renewed.",
        ("account",),
        (((each.account,), each.overdue) for each in accounts),
    )


def _store(metrics: Metrics) -> Iterator[Metric]:
    yield _histogram(
        "tokenproxy_store_operation_seconds",
        "Time of the store's operations.",
        ("operation",),
        (((operation,), histogram) for operation, histogram in metrics.store.seconds.items()),
    )
    known = dict.fromkeys(((operation, kind) for operation in STORE_OPERATIONS for kind in STORE_ERRORS), 0)
    yield _counter(
        "tokenproxy_store_errors",
        "Operations that the store could not do.",
        ("operation", "kind"),
        (known | metrics.store.errors).items(),
    )


def _config(metrics: Metrics) -> Iterator[Metric]:
    yield _counter(
        "tokenproxy_config_reloads",
        "Reloads of the config file.",
        ("result",),
        (((result,), count) for result, count in metrics.reloads.items()),
    )
    yield _gauge(
        "tokenproxy_config_last_reload_success_timestamp_seconds",
        "When the config file was last read and taken.",
        (),
        [((), metrics.last_reload_success)],
    )


def _code_class(hundreds: int) -> str:
    return f"{hundreds}xx" if 1 <= hundreds <= 5 else "none"


def _refused(codes: dict[str, int]) -> dict[tuple[str, str], int]:
    """``(code_class, result)`` -> requests that were refused before a route was found."""
    counts = {("4xx", "refused"): 0}
    for code, count in codes.items():
        kind = PROBLEMS.get(code, PROBLEMS["bad_request"])
        key = (_code_class(kind.status // 100), kind.result)
        counts[key] = counts.get(key, 0) + count
    return counts


def _counter(
    name: str, about: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(
    name: str, about: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float | None]]
) -> Metric:
    """A sample whose value is None is left out: nobody knows it, and 0 would be a lie (1970, for a timestamp)."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _histogram(
    name: str, about: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for values, histogram in samples:
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        counts = (float(count) for count in accumulate(histogram.counts))
        family.add_metric(values, list(zip(bounds, counts, strict=True)), histogram.total)
    return family
