"""Who holds a lease is killed, or stopped and continued: another replica takes over, and nothing newer is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import holders


@pytest.mark.timeout(180)
async def test_another_replica_takes_over_from_a_holder_that_is_killed_or_stopped(tmp_path: Path) -> None:
    """At two of the points; all of them are in ``.ci/run``."""
    found = await holders.holders_end(tmp_path, each=1, lanes=1, points=holders.POINTS[1:])

    for each in found:
        assert each.good, (each.what, each.faults)
        assert (each.figures["rounds"], each.figures["lost"]) == (1, 0)
