"""Outages, a soak and clocks that are set, on a clock of our own."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reliability import times


async def test_a_clock_that_is_set_costs_one_token_call_and_prolongs_no_pause() -> None:
    """Set back an hour, a pause of seconds once lasted that hour, for requests whose token was refused."""
    for found in await times.clock_steps(logins=3):
        assert found.good, found.faults


async def test_two_hours_leave_nothing_behind(tmp_path: Path) -> None:
    found = await times.day(tmp_path, logins=20, hours=2)

    assert not [fault for fault in found.faults if "refreshes" not in fault], found.faults
    assert int(found.figures["refreshes"]) > 20
