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
from pathlib import Path
from typing import Final

from benchmarks.reliability import faults, kills
from benchmarks.reliability.result import Result, table


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it: what is published, or what fits into every check of a change."""

    random_kills: int
    kills_each: int
    promptly: float
    fault_codes: Sequence[str] = tuple(faults.CODES)


WHOLE: Final = Size(random_kills=1000, kills_each=125, promptly=kills.PROMPTLY)
SMALL: Final = Size(random_kills=100, kills_each=10, promptly=30.0)


async def _r1(folder: Path, size: Size) -> list[Result]:
    return [await kills.random_kills(folder, kills=size.random_kills, promptly=size.promptly)]


async def _r2(folder: Path, size: Size) -> list[Result]:
    return await kills.kills_at_every_step(folder, each=size.kills_each, promptly=size.promptly)


async def _r3(folder: Path, size: Size) -> list[Result]:
    return [await faults.every_call_fails(folder, codes=size.fault_codes)]


TESTS: Final[dict[str, Callable[[Path, Size], Awaitable[list[Result]]]]] = {"R1": _r1, "R2": _r2, "R3": _r3}


async def run(names: list[str], size: Size) -> list[Result]:
    results: list[Result] = []
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tokenproxy-reliability-") as folder:
            found = await TESTS[name](Path(folder), size)
        results += found
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(TESTS), default=list(TESTS), metavar="TEST")
    parser.add_argument("--small", action="store_true", help="numbers that take minutes, not an hour")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    chosen = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a caller that was killed is no news
    results = asyncio.run(run(chosen.only, SMALL if chosen.small else WHOLE))
    print(json.dumps([each.as_dict() for each in results], indent=2) if chosen.json else table(results))
    if not all(each.good for each in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
