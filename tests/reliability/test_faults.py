"""A disk that fails at any call whatever takes no login away."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reliability import faults


async def test_whichever_store_call_fails_no_login_is_lost(tmp_path: Path) -> None:
    found = await faults.every_call_fails(tmp_path, codes=["SQLITE_FULL"])

    assert found.good, found.faults
    assert int(found.figures["stories"]) > 10
