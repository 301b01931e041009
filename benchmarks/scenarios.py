"""What is measured, each in a short function: rounds in turn, every proxy in every round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks import load
from benchmarks.load import Load
from benchmarks.running import busy_seconds
from benchmarks.stage import Proxy, Stage, Upstream

Figures = dict[str, float]
Round = dict[str, Figures]
"""What was found of each proxy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    rounds: int
    seconds: float
    """Of load, for each proxy and round."""


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    measure: Callable[[Stage, Effort], Iterator[Round]]


def under_load(title: str, sent: Load, *, size: int = 908, tls: bool = False) -> Scenario:
    """Requests as fast as they are answered."""

    def measure(stage: Stage, effort: Effort) -> Iterator[Round]:
        with stage.all(Upstream(size=size, tls=tls, reading=bool(sent.body))) as proxies:
            others = [proxy.process for proxy in proxies.values()]
            for proxy in proxies.values():  # connections, caches, first imports
                with proxy.process.alone(others):
                    load.send(sent, proxy.port, min(1.0, effort.seconds))
            for _ in range(effort.rounds):
                found = {}
                for name, proxy in proxies.items():
                    with proxy.process.alone(others):
                        found[name] = loaded(stage, proxy, sent, effort.seconds)
                yield found

    return Scenario(title, measure)


def loaded(stage: Stage, proxy: Proxy, sent: Load, seconds: float) -> Figures:
    """Rates, latencies, the proxy's CPU time for a request, and how busy it and the core of the load were."""
    began, cpu, other = time.perf_counter(), proxy.process.cpu_seconds(), busy_seconds(stage.cores.other)
    found = load.send(sent, proxy.port, seconds)
    took = time.perf_counter() - began
    spent = proxy.process.cpu_seconds() - cpu
    print(f"  {proxy.name}: {found.per_second:,.0f}/s", file=sys.stderr)
    return {
        "per_second": found.per_second,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
        "cpu_us": spent / found.count * 1e6,
        "proxy_busy": spent / took,
        "other_busy": (busy_seconds(stage.cores.other) - other) / took,
        "resident_mb": proxy.process.resident(),
    }


KB64: Final = 64 * 1024
SCENARIOS: Final[dict[str, Scenario]] = {
    "http-32": under_load("http, 32 connections, Host only", Load()),
    "http-32-fields": under_load("http, 32 connections, eight fields", Load(fields=8)),
    "http-1": under_load("http, 1 connection", Load(connections=1)),
    "http-256": under_load("http, 256 connections", Load(connections=256)),
    "http-32-same": under_load("http, 32 connections, the same request over and over", Load(same=True)),
    "https-32": under_load("https upstream, 32 connections", Load(), tls=True),
    "https-32-fields": under_load("https upstream, 32 connections, eight fields", Load(fields=8), tls=True),
    "https-1": under_load("https upstream, 1 connection", Load(connections=1), tls=True),
    "https-256": under_load("https upstream, 256 connections", Load(connections=256), tls=True),
    "answer-64k": under_load("answers of 64 kB, 32 connections", Load(), size=KB64),
    "post-1k": under_load("POST with 1 kB, 32 connections", Load(body=1024)),
    "post-64k": under_load("POST with 64 kB, 32 connections", Load(body=KB64)),
}
