"""The guard lets noise through and holds a change that costs more than a fifth."""

from __future__ import annotations

import json

from benchmarks import guard


def test_a_fall_by_more_than_a_fifth_is_said_with_both_figures_and_the_next_step() -> None:
    assert guard.judge(3.25, kept=4.0) is None
    assert guard.judge(5.0, kept=4.0) is None

    said = guard.judge(3.15, kept=4.0) or ""
    assert "3.15" in said
    assert "4.00" in said
    assert "--keep" in said


def test_a_ratio_is_kept_for_each_load_generator() -> None:
    kept = json.loads(guard.KEPT.read_text())

    assert {name: one["ratio"] > 1 for name, one in kept.items()} == {"wrk": True, "own": True}
