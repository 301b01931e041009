"""What a hostile caller or upstream tried, each attack as the bytes on the wire that it is made of."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import pytest

from tests.proxy.actors import Caller, Line, Stage, chunked, dead, ok, reset, route_to, stage, unless, until
from tokenproxy.core.settings import Replay
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import LoginRequiredError

HEAD = b" /books/x HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = b"GET /books/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOON = 0.5
"""Seconds after which an answer that has not come will not come."""


class Recorder:
    """An upstream that keeps every byte of each connection, and answers each write with the same bytes."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer or ok(b"hello")
        self.lines: list[bytearray] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        line = bytearray()
        self.lines.append(line)
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                line += data
                writer.write(self.answer)

    @property
    def written(self) -> bytes:
        return b"".join(self.lines)


async def said(caller: Caller, data: bytes, *, within: float = SOON) -> bytes:
    """Everything that comes back for some bytes, until the proxy closes or falls silent."""
    found = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        await caller.send(data)
        while piece := await asyncio.wait_for(caller.reader.read(1 << 16), within):
            found += piece
            within = 0.05
    return found


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def to(recorder: Recorder, **changes: Any) -> dict[str, Any]:
    return {"routes": lambda _: [route_to(recorder.port, **changes)]}


# one request in, one request out


async def test_an_empty_chunked_body_ends_once() -> None:
    """A second last chunk is the first line of the next caller's request (RFC 9112 section 7.1)."""
    async with Recorder() as upstream, stage(**to(upstream)) as st:
        caller = await st.caller()
        await said(caller, b"POST" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        head, _, rest = upstream.written.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert rest == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "length",
    [b"18446744073709551615", b"0018446744073709551615", b"18446744073709551616", b"0" * 5000 + b"5"],
)
async def test_an_impossible_length_is_refused(length: bytes) -> None:
    """2**64-1 is the parser's word for "no length": the body would vanish, and the next request be taken for it."""
    async with Recorder() as upstream, stage(**to(upstream)) as st:
        answer = await said(
            await st.caller(), b"POST" + HEAD + b"Content-Length: " + length + b"\r\n\r\n" + SMUGGLED
        )
        assert status(answer) == 400
        assert not upstream.written


@pytest.mark.parametrize(
    "line",
    [
        b"DESCRIBE /books/x RTSP/1.0",
        b"SOURCE /books/x ICE/1.0",
        b"GET /books/x HTTP/0.9",
        b"GET /books/x HTTP/2.0",
        b"GET /books/x\tHTTP/1.1",
        b"GET /books/.\t./x HTTP/1.1",
        b"GET http://localhost@evil/books/x HTTP/1.1",
        b"GET http://localhost\\@evil/books/x HTTP/1.1",
        b"GET /books/..;/x HTTP/1.1",
        b"GET /books/%2e%2E%5cx HTTP/1.1",
        b"GET /books/a%2f..%2fx HTTP/1.1",
    ],
)
async def test_another_protocol_or_path_never_leaves(line: bytes) -> None:
    """What is not HTTP/1.0 or 1.1 to a plain path is refused before a token is touched."""
    async with Recorder() as upstream, stage(**to(upstream)) as st:
        assert status(await said(await st.caller(), line + b"\r\nHost: localhost\r\n\r\n")) == 400
        assert not upstream.written


FRAMINGS = [
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Content-Length: 5\r\nTransfer-Encoding:",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length : 5",
    b"Content-Length: 5\r\n 0",
    b"Content-Length: \x0b5",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "bytewise"])
async def test_a_disguised_framing_is_refused(framing: bytes, piece: int) -> None:
    """RFC 9112 section 6.3: two readings of one request are two requests, and the second has our token."""
    async with Recorder() as upstream, stage(**to(upstream)) as st:
        caller = await st.caller()
        data = b"POST" + HEAD + framing + b"\r\n\r\n0\r\n\r\n" + SMUGGLED
        if piece:
            with contextlib.suppress(ConnectionError):
                for byte in data[:-1]:
                    await caller.send(bytes([byte]))
        answer = await said(caller, data[-1:] if piece else data)
        assert status(answer) == 400
        assert b"smuggled" not in upstream.written


async def test_a_request_that_began_behind_a_chunked_one_costs_no_answer() -> None:
    """Half a head, and then nothing more: its end must not eat the answer before it."""
    async with stage() as st:
        caller = await st.caller()
        answer = await said(
            caller, b"POST" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED[:31]
        )
        assert status(answer) == 200
        assert answer.endswith(b"hello")


# the body that is sent again


@pytest.mark.parametrize("framed", ["length", "chunks"])
async def test_a_replay_sends_what_is_on_disk_too(framed: str) -> None:
    """One piece in memory and the rest on disk is the whole; sent without the rest it looks complete and is not."""
    first, rest = b"a" * 40_000, b"b" * 20_000
    async with stage(unless(b"token-1"), route={"replay": Replay(memory=50_000, disk=400_000)}) as st:
        caller = await st.caller()
        head = b"PUT" + HEAD
        if framed == "length":
            await caller.send(head + b"Content-Length: 60000\r\n\r\n" + first)
        else:
            await caller.send(
                head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(first) + first + b"\r\n"
            )
        await _kept(st, len(first))
        await caller.send(rest if framed == "length" else chunked(rest))
        answer = await asyncio.wait_for(caller.answer(), 3)
        assert answer.status == 200
        assert [seen.body == first + rest for seen in st.upstream.seen] == [True, True]


async def _kept(st: Stage, size: int) -> None:
    async with asyncio.timeout(3):
        while st.plane.vault.memory < size:
            await asyncio.sleep(0.005)


async def test_an_answer_during_the_replay_spoils_the_connection() -> None:
    """The rest of the body is still owed: whoever came next on that connection would be read as its bytes."""
    size = 16_000_000

    async def script(line: Line) -> None:
        if line.seen.target == b"/victim":
            await line.send(ok(b"for the victim"))
        elif line.seen.token == b"token-1":
            await line.body()
            await line.send(dead())
        else:
            await line.send(ok(b"early"))
            await asyncio.sleep(5)  # the body is left in the line, as nginx does for a while

    async with stage(script) as st:
        caller = await st.caller()
        sending = asyncio.create_task(
            caller.send(b"PUT" + HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        )
        assert (await caller.answer()).body == b"early"
        await sending
        victim = await st.caller()
        answer = await asyncio.wait_for(victim.get(b"/books/victim"), 2)
        assert answer.body == b"for the victim"


async def test_a_reset_that_the_loop_cannot_see_is_no_mistake_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While a body is held back nobody reads the caller's line; the half-close after an early answer finds out."""
    gone = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
        await gone.wait()
        await line.send(b"0\r\n\r\n")
        await asyncio.sleep(5)

    async with stage(script) as st:
        caller = await st.caller()
        head = b"PUT /books/x HTTP/1.0\r\nHost: localhost\r\nContent-Length: 64000000\r\n\r\n"
        caller.writer.write(head + bytes(32_000_000))
        await caller.reader.readuntil(b"early")
        await until(lambda: any(side.reading_paused for side in st.plane.callers))
        caller.cut()
        gone.set()
        await until(lambda: not st.plane.callers)
    assert "unexpected_error" not in caplog.text


# answers


async def _poisoned(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """What a caller gets for two requests, where the first answer prepares the line for the second."""
    answers = [first, second]

    async def script(line: Line) -> None:
        await line.send(answers[len(st.upstream.seen) - 1])

    async with stage(script) as st:
        caller = await st.caller()
        one = await said(caller, b"GET" + HEAD + b"\r\n", within=1)
        if caller.reader.at_eof():
            caller = await st.caller()
        return one, await said(caller, b"GET" + HEAD + b"\r\n", within=1)


TWICE = b"Server: a\r\nServer: b\r\n"


@pytest.mark.parametrize(
    "field",
    [b"X: a\r\n b", b"X: a\x01b", b"X: a\nSet-Cookie: evil=1", b"X: a\x7f", b"X: a\x1b[31m"],
)
async def test_leniency_ends_with_the_answer_it_was_for(field: bytes) -> None:
    """A doubled Server is read leniently; the next answer on that connection must be read strictly again."""
    _, second = await _poisoned(
        b"HTTP/1.1 200 OK\r\n" + TWICE + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + field + b"\r\nContent-Length: 2\r\n\r\nok",
    )
    assert status(second) == 502


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + TWICE + b"Content-Length : 2\r\n\r\nok",
        b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 O\x1b[31mK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
        b"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nok",
    ],
)
async def test_a_malformed_answer_does_not_reach_the_caller(answer: bytes) -> None:
    """The caller may be laxer than we are: half-proper bytes with our name on them are a trap for it."""
    found, after = await _poisoned(answer, ok(b"next"))
    assert status(found) == 502
    assert after.endswith(b"next")


async def test_half_an_answer_too_much_costs_only_the_connection() -> None:
    """The first answer is whole and goes to its caller, however wrong the beginning behind it is."""
    more = ok(b"hello") + b"HTTP/1.1 200 OK\r\nServer: a\r\nServer: b"
    async with Recorder(more) as upstream, stage(**to(upstream)) as st:
        for _ in range(2):
            assert (await said(await st.caller(), b"GET" + HEAD + b"\r\n")).endswith(b"hello")
        assert len(upstream.lines) == 2


# floods


@pytest.mark.parametrize("answered", ["200", "503"])
async def test_pipelining_is_held_back(answered: str) -> None:
    """Whoever sends faster than it is answered must wait in the kernel, not in our memory."""
    async with stage() as st:
        if answered == "503":
            st.source.error = LoginRequiredError("Nobody is logged in.", account="books")
        caller = await st.caller()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        flood = (b"GET" + HEAD + b"\r\n") * 2000
        sent = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while sent < 400 * len(flood):
                    await caller.send(flood)
                    sent += len(flood)
        taken = len(st.logged) * (len(flood) // 2000)
        waiting = sum(side.transport.get_write_buffer_size() for side in st.plane.callers)
        reset(caller.writer)
        assert waiting < 1_000_000
        # What is neither answered nor in the two kernels' buffers (a few MB on loopback) is in the proxy.
        assert sent - taken < 8_000_000


async def test_a_pipelined_burst_leaves_the_loop_to_others() -> None:
    """Refusals need no upstream to wait for: thousands of them in one segment must not be one step of the loop."""
    async with stage() as st:
        st.source.error = LoginRequiredError("Nobody is logged in.", account="books")
        st.source.current = _refuse_at_once(st.source.error)  # type: ignore[method-assign]
        caller = await st.caller()
        reading = asyncio.create_task(said(caller, (b"GET" + HEAD + b"\r\n") * 3000))
        most = 0
        while len(st.logged) < 3000:
            before = len(st.logged)
            await asyncio.sleep(0)
            most = max(most, len(st.logged) - before)
        await reading
        assert most < 10


def _refuse_at_once(error: LoginRequiredError) -> Any:
    async def current(account: str) -> TokenSet:
        raise error

    return current
