"""The tests of one process on its own, by name: how each is run whole, and how in every check of a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.reliability import disks, keys, leaving, lives, schemas, times
from benchmarks.reliability.result import Result


async def _disk(folder: Path, *, whole: bool, test: str) -> list[Result]:
    return await disks.disk_fails(folder, test, times=5 if whole else 1)


async def _r6(folder: Path, *, whole: bool) -> list[Result]:
    return [*await _disk(folder / "running", whole=whole, test="R6"), await disks.starts_read_only(folder)]


async def _r9(folder: Path, *, whole: bool) -> list[Result]:
    return [await leaving.only_waiter_leaves(folder, times=100 if whole else 5)]


async def _r13(_: Path, *, whole: bool) -> list[Result]:
    return await times.outage(times=5) if whole else await times.outage(times=2, kinds=["503"])


async def _r14(folder: Path, *, whole: bool) -> list[Result]:  # noqa: ARG001 - 15 s take 15 s
    return await leaving.late_answers(folder)


async def _r15(folder: Path, *, whole: bool) -> list[Result]:
    return [await times.day(folder) if whole else await times.day(folder, hours=4)]


async def _r23(folder: Path, *, whole: bool) -> list[Result]:
    return [
        *await times.clock_steps(logins=200 if whole else 20),
        await times.store_of_the_future(folder),
    ]


async def _r24(_: Path, *, whole: bool) -> list[Result]:
    return [await lives.any_lives(2000 if whole else 100)]


async def _r27(folder: Path, *, whole: bool) -> list[Result]:
    return [await keys.rotation(folder, rows=10_000 if whole else 1000, kills=20 if whole else 2)]


async def _r28(folder: Path, *, whole: bool) -> list[Result]:  # noqa: ARG001 - there are only so many schemas
    return [await schemas.every_schema(folder)]


Test = Callable[..., Awaitable[list[Result]]]

TESTS: Final[dict[str, Test]] = {
    "R4": partial(_disk, test="R4"),
    "R5": partial(_disk, test="R5"),
    "R6": _r6,
    "R9": _r9,
    "R13": _r13,
    "R14": _r14,
    "R15": _r15,
    "R23": _r23,
    "R24": _r24,
    "R27": _r27,
    "R28": _r28,
}
