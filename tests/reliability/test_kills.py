"""``kill -9`` in the middle of renewals: what only the provider can give again is asked for at once, and nothing else is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import kills

SOON = 30.0
"""Seconds; the whole run asks for 5, on a machine of its own."""


@pytest.mark.timeout(180)
async def test_kills_at_random_moments_lose_no_login(tmp_path: Path) -> None:
    found = await kills.random_kills(tmp_path, kills=3, lanes=1, promptly=SOON)

    assert found.good, found.faults
    assert (found.figures["kills"], found.figures["lost"]) == (3, 0)


@pytest.mark.timeout(180)
async def test_a_kill_at_each_step_loses_only_what_no_client_could_keep(tmp_path: Path) -> None:
    """The provider forgives nothing. Those that do are in the whole run, and in ``.ci/run``."""
    (found,) = await kills.kills_at_every_step(
        tmp_path, each=1, rules=[kills.RULES[-1]], lanes=1, promptly=SOON
    )

    assert found.good, found.faults
    assert found.figures["lost"] == len(kills.BETWEEN_SEND_AND_STORE)
    assert found.figures["kills"] == len(kills.STEPS)
