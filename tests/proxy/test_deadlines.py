"""Nobody waits for ever: each phase of a request has its own deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import replace

import pytest

from tests.proxy.actors import QUICK, Line, ok, post, route_to, stage, until
from tokenproxy.core.settings import MIB, Deadlines

SLOW = Deadlines(head=30, body_idle=30, connect=30, first_byte=30, upstream_idle=30, keep_alive=30)
GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


def only(**one: float) -> Deadlines:
    """All deadlines long but these: a test must be ended by the one that it is about."""
    return replace(SLOW, **one)


async def test_a_head_that_drips_is_408() -> None:
    """Slowloris: a byte now and then does not buy time."""
    async with stage(deadlines=only(head=0.2)) as s:
        caller = await s.caller()
        began = time.monotonic()

        async def drip() -> None:
            while True:
                await caller.send(b"X")
                await asyncio.sleep(0.02)

        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n")
        task = asyncio.create_task(drip())
        answer = await caller.answer()
        assert (answer.status, answer.code) == (408, "body_timeout")
        assert time.monotonic() - began < 2
        task.cancel()


async def test_a_caller_that_says_nothing_is_closed() -> None:
    async with stage(deadlines=only(head=0.1)) as s:
        assert await (await s.caller()).rest() == b""


async def test_an_idle_caller_is_closed_without_a_word() -> None:
    """An answer nobody asked for would be taken for the next one's."""
    async with stage(deadlines=only(keep_alive=0.1)) as s:
        caller = await s.caller()
        await caller.get()
        assert await caller.rest() == b""


async def test_a_second_head_that_drips_is_408() -> None:
    async with stage(deadlines=only(head=0.1)) as s:
        caller = await s.caller()
        await caller.get()
        await asyncio.sleep(0.2)
        await caller.send(b"GET /books/x HT")
        assert (await caller.answer()).code == "body_timeout"


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_stops_is_408(framing: bytes) -> None:
    """The upstream sees a cut body, the caller why."""
    async with stage(deadlines=only(body_idle=0.1)) as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n"
        )
        answer = await caller.answer()
        assert (answer.status, answer.code) == (408, "body_timeout")
        await until(lambda: s.upstream.open == 0)
        assert s.upstream.seen[0].body == b""


async def test_a_body_that_drips_may_take_its_time() -> None:
    """Idle is between two pieces: a slow line is no fault."""
    async with stage(deadlines=only(body_idle=0.5)) as s:
        caller = await s.caller()
        await caller.send(b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await caller.send(b"x")
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("request_", [GET, post(b"abc"), post(b"x" * 200_000)], ids=["get", "post", "large"])
async def test_an_upstream_that_does_not_answer_is_504(request_: bytes) -> None:
    hold = asyncio.Event()

    async def script(line: Line) -> None:
        await line.body()
        await hold.wait()

    async with stage(script, deadlines=only(first_byte=0.1)) as s:
        caller = await s.caller()
        caller.writer.write(request_)
        answer = await caller.answer()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert len(s.upstream.seen) == 1
        hold.set()
        s.upstream.script = ok(b"next")
        assert (await caller.get()).body == b"next"


async def test_interim_answers_do_not_buy_time() -> None:
    async def script(line: Line) -> None:
        while True:
            await line.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.02)

    async with stage(script, deadlines=only(first_byte=0.2)) as s:
        caller = await s.caller()
        await caller.send(GET)
        while (answer := await caller.answer()).status < 200:
            pass
        assert answer.code == "upstream_timeout"


async def test_an_answer_that_stops_is_cut() -> None:
    hold = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await hold.wait()

    async with stage(script, deadlines=only(upstream_idle=0.1)) as s:
        caller = await s.caller()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.get()
        hold.set()


async def test_an_answer_that_drips_may_take_its_time() -> None:
    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await line.send(b"x")

    async with stage(script, deadlines=only(upstream_idle=0.5)) as s:
        assert (await (await s.caller()).get()).body == b"x" * 8


async def test_a_caller_that_does_not_read_is_dropped() -> None:
    """A held upstream connection for somebody who never reads is a way to use all of them up."""

    async def script(line: Line) -> None:
        await line.send(ok(b"x" * 30 * MIB))

    async with stage(script, deadlines=only(body_idle=0.2)) as s:
        caller = await s.caller()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(GET)
        await until(lambda: s.upstream.seen)
        await until(lambda: s.plane.in_flight == 0)
        await until(lambda: s.upstream.open == 0)


async def test_an_upstream_that_does_not_read_is_504() -> None:
    hold = asyncio.Event()

    async def script(line: Line) -> None:
        await hold.wait()

    async with stage(script, deadlines=only(upstream_idle=0.2)) as s:
        caller = await s.caller()
        caller.writer.write(post(b"x" * 30 * MIB))
        answer = await caller.answer()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        hold.set()


async def test_a_connect_that_hangs_is_504() -> None:
    """A firewall that drops: without a deadline the kernel tries for two minutes."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = full.getsockname()[1]
    clogs = []
    for _ in range(4):  # the accept queue is full, so that the kernel drops the next SYN
        clog = socket.socket()
        clog.setblocking(False)
        clog.connect_ex(("127.0.0.1", port))
        clogs.append(clog)
    async with stage(routes=lambda _: [route_to(port)], deadlines=only(connect=0.2)) as s:
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
    for clog in (*clogs, full):
        clog.close()


async def test_no_deadline_runs_during_a_renewal() -> None:
    """The caller waits for us, and the upstream has done its part."""
    async with stage(deadlines=QUICK) as s:

        async def script(line: Line) -> None:
            await line.send(
                ok(b"no", status=b"401 Unauthorized") if line.seen.token == b"token-1" else ok(b"yes")
            )

        s.upstream.script = script
        s.source.gate = asyncio.Event()
        caller = await s.caller()
        await caller.send(GET)
        await until(lambda: s.source.renewals)
        await asyncio.sleep(0.5)
        s.source.gate.set()
        assert (await caller.answer()).body == b"yes"


async def test_a_refused_caller_that_goes_on_sending_is_not_listened_to_for_ever() -> None:
    """The answer may be read first, but the discarding is bounded in bytes."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(b"BROKEN\r\n\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1000 * MIB:
                await caller.send(b"x" * 65536)
                sent += 65536
        assert sent < 100 * MIB
        await until(lambda: not s.plane.callers)
