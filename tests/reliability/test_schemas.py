"""Upgrades, and the way back from one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reliability import schemas


async def test_every_earlier_schema_opens_and_a_newer_one_is_left_alone(tmp_path: Path) -> None:
    found = await schemas.every_schema(tmp_path)

    assert found.good, found.faults
    assert int(found.figures["earlier schemas opened"]) >= 3
