"""Very many requests with a dead token are one token call, in one process and over several."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import stampede

SOON = 10.0
"""Seconds; the whole run asks for 0.15 and 0.45, on a machine of its own."""


@pytest.mark.timeout(120)
async def test_requests_that_learn_of_it_at_once_and_late_share_one_token_call(tmp_path: Path) -> None:
    at_once, late = await stampede.in_one_process(tmp_path, callers=200, expiries=1, most=SOON)

    assert at_once.good, at_once.faults
    assert late.good, late.faults


@pytest.mark.timeout(120)
async def test_replicas_share_one_token_call(tmp_path: Path) -> None:
    found = await stampede.over_replicas(tmp_path, processes=2, callers=30, expiries=2, most=SOON)

    assert found.good, found.faults
    assert (found.figures["token calls"], found.figures["reuses"]) == (2, 0)
