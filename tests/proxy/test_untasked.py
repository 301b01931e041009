"""A request that waits for its answer alone has no task, and nobody can tell."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.proxy.actors import Caller, Line, Stage, dead, ok, stage, until
from tokenproxy.core.settings import Limits
from tokenproxy.proxy.caller import CallerSide
from tokenproxy.proxy.untasked import Rest, tasked
from tokenproxy.proxy.upstream import UpstreamSide

GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Gate:
    """Before the upstream's second answer and all later ones."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.answers: list[list[bytes]] = []
        """Each in its pieces, two at most; one without any ends the connection. Then ``second``."""
        self.come: Callable[[], bool] = lambda: True
        """Whether the first piece has come."""

    async def script(self, line: Line) -> None:
        if line.seen.target == b"/warm":
            await line.send(ok(b"first"))
            return
        self.reached.set()
        await self.opened.wait()
        pieces = self.answers.pop(0) if self.answers else [ok(b"second")]
        if not pieces:
            line.cut()
        for number, piece in enumerate(pieces):
            if number:  # each is a segment of its own
                await until(self.come)
            await line.send(piece)


@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[Stage, Caller, Gate]]:
    """A caller whose second request waits at the upstream; its first has left a connection there."""
    gate = Gate()
    async with stage(gate.script) as s:
        caller = await s.caller()
        assert (await caller.get(b"/books/warm")).body == b"first"
        await caller.send(GET)
        await gate.reached.wait()
        yield s, caller, gate


def side_of(s: Stage) -> CallerSide:
    [side] = s.plane.callers
    return side


def upstream_of(s: Stage) -> UpstreamSide:
    """The connection that is in use."""
    [found] = [side for pool in s.plane._pools.values() for side in pool.sides if side.busy]
    return found


@pytest.fixture
def unswept() -> Iterator[None]:
    """What is left behind stays: the search for cycles would end it, some time."""
    gc.disable()
    yield
    gc.enable()


def serves(side: CallerSide) -> bool:
    return side.serving is not None


def spoken(upstream: UpstreamSide) -> bool:
    return not upstream.silent


def idle(s: Stage) -> bool:
    return not serves(side_of(s))


async def test_it_goes_through_without_a_task() -> None:
    async with waiting() as (s, caller, gate):
        side = side_of(s)
        assert serves(side)
        assert side.task is None
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        assert not serves(side)
        assert s.upstream.connections == 1


async def test_an_answer_in_pieces_is_whole() -> None:
    whole = ok(b"0123456789", b"Content-Type: text/plain")
    for cut in (5, len(whole) - 10, len(whole) - 3):
        async with waiting() as (s, caller, gate):
            upstream = upstream_of(s)
            gate.come = partial(spoken, upstream)
            gate.answers = [[whole[:cut], whole[cut:]], [whole]]
            gate.opened.set()
            assert (await caller.answer()).body == b"0123456789"
            await until(partial(idle, s))
            assert (await caller.get()).body == b"0123456789"
            assert s.upstream.connections == 1


async def test_what_follows_the_answer_is_nobodys() -> None:
    async with waiting() as (s, caller, gate):
        gate.answers = [[ok(b"second") + ok(b"nobody asked")], [ok(b"third")]]
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        assert (await caller.get()).body == b"third"
        assert s.upstream.connections == 2


async def test_a_caller_that_leaves_ends_the_upstreams_work() -> None:
    async with waiting() as (s, caller, gate):
        side = side_of(s)
        caller.cut()
        await until(lambda: not s.plane.callers)
        assert side.serving is None
        assert s.metrics.route("books").requests[4, "client_gone"] == 1
        assert s.plane.in_flight == 0
        assert s.metrics.route("books").in_flight == 0
        gate.opened.set()
        await until(lambda: s.upstream.open == 0)


async def test_a_connection_that_ends_meanwhile_is_replaced() -> None:
    async with waiting() as (s, caller, gate):
        gate.answers = [[]]
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        assert s.upstream.connections == 2


async def test_a_dead_token_is_renewed() -> None:
    async with waiting() as (s, caller, gate):
        gate.answers = [[dead()]]
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-1", b"token-2"]
        assert s.source.renewals == ["books"]


async def test_the_drain_waits_for_it() -> None:
    async with waiting() as (s, caller, gate):
        closing = asyncio.ensure_future(s.plane.close(drain=5))
        await asyncio.sleep(0)
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        await closing


@pytest.mark.parametrize("drain", [0.01, 0], ids=["in time", "by a second signal"])
async def test_the_end_of_the_drain_cuts_it_off(caplog: pytest.LogCaptureFixture, drain: float) -> None:
    async with waiting() as (s, caller, _gate):
        await s.plane.close(drain=drain)
        assert await caller.rest() == b""
        assert s.plane.in_flight == 0
        [told] = [record for record in caplog.records if record.message == "drain_cut"]
        assert told.__dict__["fields"]["requests"] == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with waiting() as (s, caller, gate):
        await caller.send(GET.replace(b"/x", b"/nowhere/../x") + GET)
        gate.opened.set()
        assert (await caller.answer()).body == b"second"
        assert (await caller.answer()).status == 400
        assert s.plane.in_flight == 0


@pytest.mark.parametrize(
    "piece", [dead(), ok(b"12345")[:-2]], ids=["what the token's death is told by", "half an answer"]
)
async def test_a_caller_that_leaves_as_a_task_takes_over_leaves_nothing_behind(
    piece: bytes, unswept: None
) -> None:
    """Both in one turn of the loop: a task that is cancelled before its first step is never run."""
    async with waiting() as (s, _caller, _gate):
        side, upstream = side_of(s), upstream_of(s)
        side.transport.abort()
        upstream.data_received(piece)
        await until(lambda: not s.plane.callers)
        await until(lambda: not serves(side))
        assert s.plane.in_flight == 0
        assert s.metrics.route("books").in_flight == 0
        counts = s.metrics.route("books").requests
        assert sum(count for (_, result), count in counts.items() if result == "client_gone") == 1


async def test_the_end_comes_as_a_task_takes_over(unswept: None) -> None:
    async with waiting() as (s, _caller, _gate):
        side_of(s).transport.abort()
        upstream_of(s).data_received(dead())
        async with asyncio.timeout(3):
            await s.plane.close(drain=0)


@pytest.mark.parametrize(
    "how",
    [
        {"limits": Limits(in_flight=1, queue=1.0)},
        {"route": {"in_flight": 1}, "limits": Limits(queue=1.0)},
    ],
    ids=["of all", "of the route"],
)
async def test_a_turn_that_becomes_free_as_a_task_takes_over_is_taken(how: dict[str, Any]) -> None:
    gate = Gate()
    async with stage(gate.script, **how) as s:
        one, other = await s.caller(), await s.caller()
        for caller in (one, other):
            assert (await caller.get(b"/books/warm")).status == 200
        await one.send(GET)
        await gate.reached.wait()
        [idle_side] = [side for side in s.plane.callers if not serves(side)]
        idle_side.data_received(GET)
        upstream_of(s).data_received(ok(b"second"))
        gate.opened.set()
        assert (await one.answer()).status == 200
        assert (await other.answer()).status == 200


# the coroutine's own side


async def test_a_task_that_takes_over_is_the_coroutines() -> None:
    """A cancellation, an exception of what it waits for, and values reach it as if it had had the task all along."""
    heard: list[object] = []
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    second: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def story() -> None:
        heard.append(await first)
        try:
            await second
        except OSError as error:
            heard.append(error)
        async with asyncio.timeout(None):
            try:
                await asyncio.sleep(60)
            finally:
                heard.append("ended")

    coroutine = story()
    task = asyncio.create_task(Rest(coroutine, coroutine.send(None)))
    first.set_result("value")
    error = OSError("broken")
    await asyncio.sleep(0)
    second.set_exception(error)
    await until(lambda: error in heard)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["value", error, "ended"]


async def test_a_task_is_taken_only_where_it_is_wanted() -> None:
    async def story(wanted: bool) -> None:
        await tasked(wanted)

    coroutine = story(True)
    assert coroutine.send(None) is None
    await asyncio.create_task(Rest(coroutine, None))
    with pytest.raises(StopIteration):
        story(False).send(None)
