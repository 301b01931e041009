"""The comparison itself works: what it starts answers, and what it finds is whole. How fast, no test says."""

from __future__ import annotations

import os

from benchmarks.load import Load
from benchmarks.peers import PEERS
from benchmarks.scenarios import Effort, under_load
from benchmarks.stage import Stage


def test_tokenproxy_and_a_plain_proxy_are_measured_in_turn() -> None:
    """With the load generator of our own, which needs nothing installed."""
    sent = Load(connections=4, fields=8, body=70_000, own=True)
    programs = {name: path for name in ("tokenproxy", "plain") if (path := PEERS[name].path())}
    cores = os.sched_getaffinity(0)
    try:
        with Stage.built(programs) as stage:
            rounds = list(under_load("a test", sent).measure(stage, Effort(rounds=1, seconds=0.2)))
    finally:
        os.sched_setaffinity(0, cores)

    assert [set(one) for one in rounds] == [{"tokenproxy", "plain"}]
    for figures in rounds[0].values():
        assert figures["per_second"] > 1
        assert figures["p99_ms"] >= figures["p50_ms"] > 0
