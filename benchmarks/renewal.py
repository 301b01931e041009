"""
Token calls and added wait where very many requests wait for one renewal: ``python -m benchmarks.renewal``.

The real ``serve``, one on SQLite and ten on one PostgreSQL, and a provider that takes each refresh token once. It answers when
the API has refused all requests, so that all of them wait; *added wait* is from the provider's answer to the caller's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.machine import cpu
from benchmarks.reliability.stampede import stampede

SIZES: Final = ((1, 1), (1, 1000), (10, 100))
"""Processes, callers at each."""
EXPIRIES: Final = 20


async def measure(folder: Path, processes: int, callers: int, expiries: int) -> dict[str, Any]:
    async with stampede(folder, processes=processes, callers=callers) as crowd:
        await crowd.expiry()  # the first one opens the connections to the API
        crowd.tally.waits.clear()
        before = crowd.tally.token_calls
        for _ in range(expiries):
            await crowd.expiry()
        if crowd.tally.faults:
            raise SystemExit("; ".join(crowd.tally.faults))
        figures = crowd.tally.figures
        return {
            "processes": processes,
            "waiting": processes * callers,
            "expiries": expiries,
            "token_calls": crowd.tally.token_calls - before,
            "p50_ms": figures["added wait p50, ms"],
            "p99_ms": figures["p99"],
            "max_ms": figures["max"],
        }


async def run(expiries: int) -> list[dict[str, Any]]:
    found = []
    for processes, callers in SIZES:
        with tempfile.TemporaryDirectory(prefix="tokenproxy-renewal-") as folder:
            found.append(await measure(Path(folder), processes, callers, expiries))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.renewal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--expiries", type=int, default=EXPIRIES)
    parser.add_argument(
        "--save", action="store_true", help="keep what was found, and write it into the README"
    )
    chosen = parser.parse_args()
    found = asyncio.run(run(chosen.expiries))
    result = {
        "scenario": "renewal",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs ({cpu()})",
        "sizes": found,
    }
    print(json.dumps(result, indent=2))
    if chosen.save:
        report.keep(result)
        report.README.write_text(report.filled(report.README.read_text()))


if __name__ == "__main__":
    main()
