"""Run all of it, or some; prints a table and exits with 1 where anything was not as it must be."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.reliability import faults, holders, kills, outages, singly, stampede
from benchmarks.reliability.result import Result, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of it: what is published, or what fits into every check of a change."""

    random_kills: int
    kills_each: int
    promptly: float
    fault_codes: Sequence[str] = tuple(faults.CODES)
    crowd: int
    """Requests that wait for one renewal in one process."""
    crowd_expiries: int
    crowd_waits: float
    """Seconds that callers may wait longer than the provider takes."""
    replica_waits: float
    """Over replicas: seconds that a renewal may add to what the same requests take with a live token."""
    replicas: Sequence[tuple[int, int, int]]
    """Processes, callers at each, expiries."""
    holders_each: int
    """Ends of a lease's holder at each point, by each signal."""
    outages: int
    """Of each kind."""


WHOLE: Final = Size(
    random_kills=1000,
    kills_each=125,
    promptly=kills.PROMPTLY,
    crowd=1000,
    crowd_expiries=50,
    crowd_waits=0.15,
    replica_waits=0.1,
    replicas=((10, 100, 50), (25, 40, 30)),
    holders_each=200,
    outages=30,
)
SMALL: Final = Size(
    random_kills=100,
    kills_each=10,
    promptly=30.0,
    crowd=1000,
    crowd_expiries=2,
    crowd_waits=5.0,
    replica_waits=5.0,
    replicas=((4, 100, 5),),
    holders_each=5,
    outages=1,
)


async def _r1(folder: Path, size: Size) -> list[Result]:
    return [await kills.random_kills(folder, kills=size.random_kills, promptly=size.promptly)]


async def _r2(folder: Path, size: Size) -> list[Result]:
    return await kills.kills_at_every_step(folder, each=size.kills_each, promptly=size.promptly)


async def _r3(folder: Path, size: Size) -> list[Result]:
    return [await faults.every_call_fails(folder, codes=size.fault_codes)]


async def _r7(folder: Path, size: Size) -> list[Result]:
    return await stampede.in_one_process(
        folder, callers=size.crowd, expiries=size.crowd_expiries, most=size.crowd_waits
    )


async def _r10(folder: Path, size: Size) -> list[Result]:
    return [
        await stampede.over_replicas(
            folder / str(processes),
            processes=processes,
            callers=callers,
            expiries=expiries,
            most=size.replica_waits,
        )
        for processes, callers, expiries in size.replicas
    ]


async def _r11(folder: Path, size: Size) -> list[Result]:
    return await holders.holders_end(folder, each=size.holders_each)


async def _r12(folder: Path, size: Size) -> list[Result]:
    return await outages.outages(folder, rounds=size.outages)


TESTS: Final[dict[str, Callable[[Path, Size], Awaitable[list[Result]]]]] = {
    "R1": _r1,
    "R2": _r2,
    "R3": _r3,
    "R7": _r7,
    "R10": _r10,
    "R11": _r11,
    "R12": _r12,
}
"""In the order of the table; ``R7`` brings R8 with it."""


async def run(names: list[str], size: Size, *, save: bool = False) -> list[Result]:
    results: list[Result] = []
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tokenproxy-reliability-") as folder:
            found = await TESTS[name](Path(folder), size)
        results += found
        seconds = time.monotonic() - began
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)
        if save:
            date = datetime.now(UTC).date().isoformat()
            report.keep(
                {
                    "scenario": f"reliability-{name}",
                    "date": date,
                    "seconds": round(seconds),
                    "results": [each.as_dict() for each in found],
                }
            )
    return results


async def _sized(folder: Path, size: Size, *, test: singly.Test) -> list[Result]:
    return await test(folder, whole=size is WHOLE)


TESTS.update((name, partial(_sized, test=test)) for name, test in singly.TESTS.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(TESTS), default=list(TESTS), metavar="TEST")
    parser.add_argument("--small", action="store_true", help="numbers that take minutes, not an hour")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="keep what was found in benchmarks/results/")
    chosen = parser.parse_args()
    logging.getLogger("tokenproxy").addHandler(logging.NullHandler())
    logging.getLogger("tokenproxy").propagate = False
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a caller that was killed is no news
    results = asyncio.run(run(chosen.only, SMALL if chosen.small else WHOLE, save=chosen.save))
    print(json.dumps([each.as_dict() for each in results], indent=2) if chosen.json else table(results))
    if not all(each.good for each in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
