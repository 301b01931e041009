"""Bodies stream, and nobody's slowness or leaving costs anybody else."""

from __future__ import annotations

import asyncio
import os
import resource

from tests.proxy.actors import Line, chunked, ok, post, stage, until
from tokenproxy.core.settings import MIB

PIECE = b"x" * 65536


def peak_kib() -> int:
    """The most that this process ever held in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_the_first_byte_arrives_before_the_last_is_made() -> None:
    """Server-sent events and logs are no use when they come at the end."""
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await go.wait()
        await line.send(b"4\r\nlast\r\n0\r\n\r\n")

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.head()
        assert await caller.reader.readexactly(10) == b"5\r\nfirst\r\n"
        go.set()
        assert await caller.reader.readexactly(14) == b"4\r\nlast\r\n0\r\n\r\n"


async def test_the_body_reaches_the_upstream_as_it_comes() -> None:
    async with stage() as s:
        got = asyncio.Event()

        async def script(line: Line) -> None:
            assert await line.reader.readexactly(5) == b"first"
            got.set()
            assert await line.reader.readexactly(4) == b"last"
            await line.send(ok(b"both"))

        s.upstream.script = script
        caller = await s.caller()
        await caller.send(b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nfirst")
        await got.wait()
        await caller.send(b"last")
        assert (await caller.answer()).body == b"both"


async def test_a_caller_that_does_not_read_stops_the_upstream() -> None:
    """Within a bounded buffer: a slow reader of a large answer must not fill our memory."""
    sent = 0

    async def script(line: Line) -> None:
        nonlocal sent
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 * MIB))
        for _ in range(200 * MIB // len(PIECE)):
            await line.send(PIECE)
            sent += len(PIECE)

    async with stage(script) as s:
        caller = await s.caller()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40 * MIB
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await caller.head()
        left = 200 * MIB
        while left:
            left -= len(await caller.reader.read(1 << 20))


async def test_an_upstream_that_does_not_read_stops_the_caller() -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await go.wait()
        await line.body()
        await line.send(ok(b"%d" % len(line.seen.body)))

    async with stage(script) as s:
        caller = await s.caller()
        caller.writer.write(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (60 * MIB)
        )
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < 60 * MIB:
                await caller.send(PIECE)
                sent += len(PIECE)

        task = asyncio.create_task(send())
        await until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40 * MIB
        go.set()
        await task
        assert (await caller.answer()).body == b"%d" % (60 * MIB)


async def test_memory_stays_flat_while_a_lot_flows() -> None:
    """Both ways at once; the process of this test holds caller, proxy and upstream together."""
    size = 256 * MIB

    async def script(line: Line) -> None:
        if line.seen.line.startswith(b"POST"):
            left = size
            while left:
                left -= len(await line.reader.read(1 << 16))
            await line.send(ok(b"taken"))
            return
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            await line.send(PIECE)

    async with stage(script) as s:
        down, up = await s.caller(), await s.caller()

        async def download() -> None:
            await down.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await down.head()
            left = size
            while left:
                left -= len(await down.reader.read(1 << 16))

        async def upload() -> None:
            await up.send(b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(PIECE)):
                await up.send(PIECE)
            assert (await up.answer()).body == b"taken"

        before = peak_kib()
        await asyncio.gather(download(), upload())
        assert peak_kib() - before < 16 * 1024


async def test_a_caller_that_leaves_ends_the_upstreams_work() -> None:
    """Before the answer, in its middle, and while it sends: nobody works for somebody who is gone."""
    hold = asyncio.Event()

    async def script(line: Line) -> None:
        if line.seen.target == b"/middle":
            await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await hold.wait()

    async with stage(script) as s:
        for start in (
            b"GET /books/before HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /books/middle HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /books/sends HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        ):
            for how in ("close", "cut"):
                seen = len(s.upstream.seen)
                caller = await s.caller()
                await caller.send(start)
                await until(lambda seen=seen: len(s.upstream.seen) > seen)  # type: ignore[misc]
                if b"middle" in start:
                    await caller.head()
                caller.close() if how == "close" else caller.cut()
                await until(lambda: s.plane.in_flight == 0)
                hold.set()
                await until(lambda: s.upstream.open == 0)
                hold.clear()
        assert len(s.upstream.seen) == 6
        requests = s.metrics.routes["books"].requests
        assert requests[4, "client_gone"] + requests[2, "client_gone"] == 6


async def test_many_at_once_with_bodies_of_all_sizes() -> None:
    """A hundred callers, each with its own bytes: nobody gets another's."""

    async def script(line: Line) -> None:
        body = await line.body()
        if len(body) % 2:
            await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body))
        else:
            await line.send(ok(body))

    async with stage(script) as s:

        async def talk(number: int) -> None:
            caller = await s.caller()
            for size in (1, 10, 1000, 70_000 + number, 200_001):
                body = os.urandom(size)
                caller.writer.write(post(body))
                assert (await caller.answer()).body == body

        await asyncio.gather(*(talk(number) for number in range(100)))
        assert s.plane.in_flight == 0
        assert s.plane.vault.memory == 0
