"""R24: lives of an account in any order of events, against a model (``tests/oauth/test_life.py``)."""

from __future__ import annotations

import asyncio

from benchmarks.reliability.result import Result
from tests.oauth import test_life


async def any_lives(number: int) -> Result:
    """In one process; the tests have two replicas on one PostgreSQL as well."""
    faults = []
    try:
        await asyncio.to_thread(test_life.live, test_life.Life, number)
    except Exception as error:  # noqa: BLE001 - whatever it is, hypothesis has found it
        faults.append("\n".join([str(error), *getattr(error, "__notes__", ())]))
    return Result("R24", "an account's life in any order, against a model", {"lives": number}, faults)
