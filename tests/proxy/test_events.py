"""Server-sent events: each as it is made, however long nothing is, and nobody's token ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.proxy.actors import QUICK, Line, ok, stage, until
from tokenproxy.core.settings import Deadlines

GET = b"GET /books/events HTTP/1.%d\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
FIRST, SECOND = b"data: 1\n\n", b": still here\n\ndata: 2\n\n"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def endless(head: bytes = HEAD) -> Callable[[Line], Awaitable[None]]:
    """One event, and then none until the proxy has gone."""

    async def script(line: Line) -> None:
        await line.send(head + chunk(FIRST))
        if not await line.reader.read():
            raise ConnectionResetError

    return script


def events(go: asyncio.Event) -> Callable[[Line], Awaitable[None]]:
    async def script(line: Line) -> None:
        if b"events" not in line.seen.target:
            await line.send(ok(b"ordinary"))
            return
        await line.send(HEAD + chunk(FIRST))
        await go.wait()
        await line.send(chunk(SECOND) + b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("minor", [1, 0])
async def test_each_event_arrives_before_the_next_is_made(minor: int) -> None:
    """Comments too, which some send to keep a stream alive; a caller of HTTP/1.0 gets them without chunks."""
    go = asyncio.Event()
    async with stage(events(go)) as s:
        caller = await s.caller()
        await caller.send(GET % minor)
        answer = await caller.head()
        assert answer.values(b"content-type") == [b"text/event-stream; charset=utf-8"]
        assert bool(answer.values(b"transfer-encoding")) is bool(minor)
        first = chunk(FIRST) if minor else FIRST
        assert await caller.reader.readexactly(len(first)) == first
        go.set()
        rest = chunk(SECOND) + b"0\r\n\r\n" if minor else SECOND
        assert await caller.reader.readexactly(len(rest)) == rest


async def test_silence_is_no_fault_of_an_event_stream() -> None:
    """Where nothing happens nothing is said: the limit of other answers passes several times here."""
    go = asyncio.Event()
    async with stage(events(go), deadlines=QUICK) as s:
        caller = await s.caller()
        await caller.send(GET % 1)
        await caller.head()
        assert await caller.reader.readexactly(len(chunk(FIRST))) == chunk(FIRST)
        await asyncio.sleep(3 * QUICK.upstream_idle)
        go.set()
        assert (await caller.reader.readuntil(b"0\r\n\r\n")).startswith(chunk(SECOND))


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/plain"])
async def test_the_limit_of_event_streams_is_theirs_alone(kind: bytes) -> None:
    head = HEAD.replace(b"text/event-stream", kind)
    plain = kind == b"text/plain"
    deadlines = Deadlines(upstream_idle=0.1 if plain else 10, events=10 if plain else 0.1)
    async with stage(endless(head), deadlines=deadlines) as s:
        caller = await s.caller()
        await caller.send(GET % 1)
        await caller.head()
        assert b"0\r\n\r\n" not in await asyncio.wait_for(caller.rest(), 5)
        await until(lambda: not s.upstream.open)


async def test_no_limit_at_all() -> None:
    go = asyncio.Event()
    async with stage(events(go), deadlines=Deadlines(upstream_idle=0.05, events=0)) as s:
        caller = await s.caller()
        await caller.send(GET % 1)
        await caller.head()
        await asyncio.sleep(0.2)
        go.set()
        assert (await caller.reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


async def test_a_stream_outlives_its_token() -> None:
    """It was good when the stream began; a renewal for others ends nothing, and nothing is asked again."""
    go = asyncio.Event()
    inner = events(go)

    async def script(line: Line) -> None:
        if line.seen.token == b"token-1" and b"events" not in line.seen.target:
            await line.send(ok(b"", status=b"401 Unauthorized"))
        else:
            await inner(line)

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(GET % 1)
        await caller.head()
        assert (await (await s.caller()).get()).body == b"ordinary"
        assert s.source.renewals == ["books"]
        go.set()
        assert SECOND in await caller.reader.readuntil(b"0\r\n\r\n")
        assert len([seen for seen in s.upstream.seen if b"events" in seen.target]) == 1


async def test_a_caller_that_leaves_ends_the_stream_at_its_source() -> None:
    """Though nothing is written to it: nobody may have to wait for the next event."""
    async with stage(endless()) as s:
        caller = await s.caller()
        await caller.send(GET % 1)
        await caller.head()
        caller.close()
        await until(lambda: not s.upstream.open, within=2)
        await until(lambda: s.plane.in_flight == 0)
