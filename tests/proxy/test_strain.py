"""Crowds: slow callers hold up nobody else, and more callers than may be served cost those who are nothing."""

from __future__ import annotations

import asyncio

from benchmarks import crowd
from tests.proxy.actors import Line, ok, stage, until
from tokenproxy.core.settings import Limits

BENCH = {"name": "bench"}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_callers_who_never_end_what_they_began_hold_up_nobody() -> None:
    """A hundred half heads and a hundred bodies that drip, beside one caller who asks as ever."""
    async with stage(ok(b"hello"), route=BENCH) as s:
        slow = asyncio.create_task(crowd.slow(port_of(s.address), 200, seconds=60, pause=0.1))
        await until(lambda: s.plane.in_flight == 100)
        caller = await s.caller()
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = [await caller.get(b"/bench/x") for _ in range(100)]
        took = loop.time() - began
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await until(lambda: s.plane.in_flight == 0)

    assert {answer.status for answer in answers} == {200}
    assert took < 10


async def test_more_callers_than_may_be_served_leave_those_who_are_alone() -> None:
    """Four times the limit: what it allows is served, the rest is told when to come again, and afterwards all is well."""

    async def takes_a_while(line: Line) -> None:
        await asyncio.sleep(0.05)
        await line.send(ok(b"hello"))

    limits = Limits(in_flight=10, queue=0.02)
    async with stage(takes_a_while, route=BENCH, limits=limits) as s:
        tally = await crowd.many(port_of(s.address), 40, seconds=1)
        await until(lambda: s.plane.in_flight == 0)
        answer = await (await s.caller()).get(b"/bench/x")

    assert tally.other == {}
    assert tally.served > 50  # of 200
    assert tally.refused > 10
    assert answer.status == 200
