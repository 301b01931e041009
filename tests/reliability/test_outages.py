"""PostgreSQL crashes, is cut off or comes back as an older copy, in the middle of renewals: no login is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import outages


@pytest.mark.timeout(180)
async def test_a_database_that_goes_away_in_a_renewal_costs_no_login(tmp_path: Path) -> None:
    """The provider forgives nothing but where one replica cannot know of the other. More of it is in ``.ci/run``."""
    found = await outages.outages(tmp_path, rounds=1, stories=outages.STORIES[1:])

    for each in found:
        assert each.good, (each.what, each.faults)
        assert (each.figures["lost"], each.figures["reuses"]) == (0, 0)
    assert [each.figures["alerts"] for each in found] == [1, 0, 1, 0]
