"""Connections to upstreams: kept, and repeated over only where nothing can have been executed twice."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from tests.proxy.actors import QUICK, Line, chunked, ok, post, route_to, stage, until
from tokenproxy.core.settings import Deadlines
from tokenproxy.core.tokens import TokenSet
from tokenproxy.proxy.pool import Pool


async def test_connections_are_kept_for_the_next_request() -> None:
    """Whatever the caller: a TLS handshake for each request would cost more than all the rest."""
    async with stage() as s:
        for _ in range(5):
            caller = await s.caller()
            await caller.get()
            await caller.post(b"x" * 100_000)
        assert s.upstream.connections == 1


async def test_requests_at_once_have_a_connection_each() -> None:
    async def script(line: Line) -> None:
        await until(lambda: len(s.upstream.seen) >= 5)
        await line.send(ok(b"all here"))

    async with stage(script) as s:
        callers = [await s.caller() for _ in range(5)]
        answers = await asyncio.gather(*(caller.get() for caller in callers))
        assert {answer.body for answer in answers} == {b"all here"}
        assert s.upstream.connections == 5


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"x", b"Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx",
    ],
)
async def test_an_upstream_that_says_close_is_believed(answer: bytes) -> None:
    async with stage(answer) as s:
        caller = await s.caller()
        for _ in range(3):
            assert (await caller.get()).body == b"x"
        assert s.upstream.connections == 3


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_what_may_be_repeated_is_repeated_once(method: bytes) -> None:
    """A kept connection that dies under the request: RFC 9110 section 9.2.2 allows it for idempotent methods."""

    async def script(line: Line) -> None:
        if len([seen for seen in s.upstream.seen if seen.connection == line.seen.connection]) > 1:
            line.cut()
        else:
            await line.send(ok(b"fine"))

    async with stage(script) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 200
        assert (await caller.get(method=method)).status == 200
        assert [seen.connection for seen in s.upstream.seen] == [1, 1, 2]


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_what_may_have_been_executed_is_not_repeated(method: bytes) -> None:
    """The upstream may have booked the order and died before it could say so."""

    async def script(line: Line) -> None:
        await line.body()
        if len(s.upstream.seen) > 1:
            line.cut()
        else:
            await line.send(ok(b"fine"))

    async with stage(script) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 200
        await caller.send(post(b"order").replace(b"POST", method))
        answer = await caller.answer()
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert len(s.upstream.seen) == 2


async def test_a_fresh_connection_is_never_a_reason_to_repeat() -> None:
    """Only age explains why a connection died unasked; a new one that closes is the upstream's answer."""

    async def script(line: Line) -> None:
        line.cut()

    async with stage(script) as s:
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert len(s.upstream.seen) == 1


async def test_nothing_is_repeated_after_a_byte_of_an_answer() -> None:
    async def script(line: Line) -> None:
        if len(s.upstream.seen) == 2:
            await line.send(b"HTTP/1.1 2")
            line.cut()
        else:
            await line.send(ok())

    async with stage(script) as s:
        caller = await s.caller()
        await caller.get()
        assert (await caller.get()).code == "upstream_invalid"
        assert len(s.upstream.seen) == 2


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_connection_that_the_upstream_closed_is_not_used(method: bytes) -> None:
    """Closed before a byte was written: any method may go over a new connection."""

    async def script(line: Line) -> None:
        await line.body()
        await line.send(ok(b"fine"))
        line.close()

    async with stage(script) as s:
        caller = await s.caller()
        for _ in range(3):
            await caller.send(post(b"abc").replace(b"POST", method))
            assert (await caller.answer()).body == b"fine"


async def test_a_close_that_the_loop_has_not_seen_costs_no_post() -> None:
    """The upstream's FIN waits in the kernel while the loop is busy with the caller's request."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with stage(routes=lambda _: [route_to(listener.getsockname()[1])]) as s:
        loop = asyncio.get_running_loop()

        def serve_one(*, close: bool) -> socket.socket:
            connection, _ = listener.accept()
            connection.settimeout(5)
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            connection.sendall(ok(b"fine"))
            if close:
                connection.close()
            return connection

        caller = await s.caller()
        await caller.send(post(b""))
        first = await loop.run_in_executor(None, lambda: serve_one(close=False))
        assert (await caller.answer()).body == b"fine"
        caller.writer.write(post(b""))
        first.close()  # request and FIN become readable in the same turn of the loop, in either order
        second = await loop.run_in_executor(None, lambda: serve_one(close=False))
        assert (await caller.answer()).body == b"fine"
        second.close()
    listener.close()


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_bytes_that_the_loop_has_not_seen_are_nobodys_answer(method: bytes) -> None:
    """A 408 for the idle connection, or the rest of a split answer: an earlier exchange's, and perhaps another account's."""
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        await line.send(ok(line.seen.target))

    async with stage(script) as s:
        caller = await s.caller()
        await caller.get(b"/books/first")
        ready = s.source.ready

        def late(account: str) -> TokenSet | None:  # the last moment before a connection is chosen
            s.source.ready = ready  # type: ignore[method-assign]
            transport = lines[0].writer.transport
            held = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            held.send(ok(b"poison"))
            held.close()
            return ready(account)

        s.source.ready = late  # type: ignore[method-assign]
        answer = await caller.get(b"/books/second", method=method)
        assert answer.body == b"/second"
        assert [line.seen.connection for line in lines] == [1, 2]


async def test_a_caller_that_leaves_while_we_connect_leaves_nothing_behind() -> None:
    """At whatever step: uvloop closes such a connection without a word to its protocol, which nobody would ever forget."""
    async with stage() as s:
        pool = Pool(route_to(s.upstream.port).upstream, tls=None)
        for steps in range(30):
            connecting = asyncio.create_task(pool.connect())
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait((connecting,))
            if not connecting.cancelled():
                connecting.result().abort()
        await until(lambda: not s.upstream.open)
        await until(lambda: not pool.sides, within=1)


async def test_a_body_that_streams_is_repeated_from_its_copy() -> None:
    """PUT over a dead kept connection, half of the body already read from the caller."""
    body = b"x" * 500_000

    async def script(line: Line) -> None:
        if line.seen.connection == 1 and len(s.upstream.seen) > 1:
            await line.reader.read(1000)
            line.cut()
            return
        await line.body()
        await line.send(ok(b"fine"))

    async with stage(script) as s:
        caller = await s.caller()
        await caller.get()
        caller.writer.write(post(body).replace(b"POST", b"PUT"))
        assert (await caller.answer()).body == b"fine"
        assert s.upstream.seen[-1].body == body


async def test_idle_connections_are_closed_after_their_time() -> None:
    async with stage(deadlines=Deadlines(upstream_idle=0.1)) as s:
        await (await s.caller()).get()
        assert s.upstream.open == 1
        await until(lambda: s.upstream.open == 0)
        assert (await (await s.caller()).get()).status == 200


async def test_the_newest_idle_connection_is_taken_first() -> None:
    """So that a pool that was large for a moment becomes small again."""
    async with stage() as s:
        callers = [await s.caller() for _ in range(4)]

        async def together(line: Line) -> None:
            await until(lambda: len(s.upstream.seen) >= 4)
            await line.send(ok())

        s.upstream.script = together
        await asyncio.gather(*(caller.get() for caller in callers))
        used = set()
        for _ in range(4):
            await callers[0].get()
            used.add(s.upstream.seen[-1].connection)
        assert len(used) == 1


async def test_an_upstream_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with stage(routes=lambda _: [route_to(port)]) as s:
        caller = await s.caller()
        for answer in (await caller.get(), await caller.post(b"abc")):
            assert (answer.status, answer.code) == (502, "upstream_unreachable")
            assert answer.problem["route"] == "books"
        await until(lambda: s.metrics.routes["books"].requests.get((5, "upstream_error")) == 2)


async def test_a_name_that_does_not_resolve() -> None:
    async with stage(route={"to": "nowhere.invalid"}) as s:
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (502, "upstream_unreachable")


async def test_an_answer_before_the_bodys_end_goes_on_and_closes() -> None:
    """RFC 9112 section 9.5: the caller learns at once; neither connection can be trusted afterwards."""

    async def script(line: Line) -> None:
        await line.reader.read(10)
        await line.send(ok(b"too big", status=b"413 Content Too Large"))
        await line.reader.read()

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100
        )
        answer = await caller.answer()
        assert (answer.status, answer.body, answer.values(b"connection")) == (413, b"too big", [b"close"])
        assert await caller.rest() == b""
        await until(lambda: s.upstream.open == 0)


async def test_both_bodies_may_flow_at_once() -> None:
    """An upstream that answers while it reads: stopping the upload at the answer's head would cut the answer."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            data = await line.reader.readexactly(10)
            await line.send(b"a\r\n" + data + b"\r\n")
        await line.send(b"0\r\n\r\n")

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n")
        assert (await caller.head()).status == 200
        for number in range(3):
            await caller.send(b"%d" % number * 10)
            assert await caller.reader.readexactly(15) == b"a\r\n" + b"%d" % number * 10 + b"\r\n"
        assert await caller.rest() == b"0\r\n\r\n"


async def test_a_chunked_answer_leaves_the_connection_usable() -> None:
    async with stage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 300_000)) as s:
        caller = await s.caller()
        for _ in range(3):
            assert len((await caller.get()).body) == 300_000
        assert s.upstream.connections == 1


async def test_each_way_to_fail_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The one does not hide the other, and an answer that breaks off is a failure too."""
    answers = [b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"]

    async def script(line: Line) -> None:
        if answers:
            await line.send(answers.pop(0))
            line.close()
        else:
            await asyncio.Event().wait()

    async with stage(script, deadlines=QUICK) as s:
        for status in (502, 200, 504):
            caller = await s.caller()
            await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await caller.head()).status == status
        told = [record.__dict__["fields"] for record in caplog.records if record.message == "upstream_failed"]

        assert [each["code"] for each in told] == ["upstream_invalid", "upstream_timeout"]
        await until(lambda: s.plane.in_flight == 0)
        assert [times for _, times in s.plane.gate._lanes["books"].told.values()] == [1, 0]


async def test_an_answer_with_a_large_head_says_which_limit_it_is() -> None:
    async with stage(ok(b"", b"X-Large: " + b"x" * 100_000)) as s:
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (502, "upstream_invalid")
        assert "head under [limits]" in answer.problem["next_step"]


async def test_an_outage_is_one_log_event_and_not_a_thousand(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log at night must see it, and see the rest as well."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with stage(routes=lambda _: [route_to(port)]) as s:
        caller = await s.caller()
        for _ in range(20):
            assert (await caller.get()).code == "upstream_unreachable"
        told = [record for record in caplog.records if record.message == "upstream_failed"]

        assert len(told) == 1
        assert told[0].__dict__["fields"]["code"] == "upstream_unreachable"
