"""Heads of the common form: whatever is read without the parser, the parser reads too, and finds the same in it."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.proxy.actors import ok, post, stage, until
from tokenproxy.core.routes import RouteTable
from tokenproxy.proxy.answer import LINES, read_answer
from tokenproxy.proxy.parsers import request_parser, response_parser
from tokenproxy.proxy.plain import KNOWN, LONGEST, Field, Lines
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.request import Gate
from tokenproxy.proxy.side import Side

FIELDS = (
    b"Host: localhost",
    b"host: a.example:80",
    b"Accept: */*",
    b"User-Agent: curl/8",
    b"Content-Type: text/plain",
    b"content-type: application/json; charset=\xfctf-8",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"content-length: 007",
    b"Content-Length: 1234567890123456789",
    b"Content-Length: +5",
    b"Content_Length: 5",
    b"Connection: keep-alive",
    b"Connection: Close",
    b"Connection: x-thing",
    b"Proxy-Connection: close",
    b"Keep-Alive: timeout=5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"TE: trailers",
    b"Sec-WebSocket-Key1: x",
    b"Server: a",
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
    b"Cookie: a=b; c=d",
    b"Set-Cookie: a=b",
    b"Origin: http://localhost",
    b"X-Empty: ",
    b"X-Bare:",
    b"X-Tight:a",
    b"X-Wide:  a\t ",
    b"X-Colons: a: b: c",
    b"X-Tab: a\tb",
    b"X Blank: a",
    b"X-Blank : a",
    b" X-Folded: a",
    b"\tmore",
    b"no colon",
    b": nameless",
    b"X-Bad: a\x00b",
    b"X-Bad: a\rb",
    b"X-Bad: a\nb",
    b"X-Bad: a\x7f",
    b"X\xe9: a",
    b"",
)
BLANK = b"\r\n\r\n"
STARTS = (
    b"GET / HTTP/1.1",
    b"GET /a/b?c=d&e HTTP/1.1",
    b"POST /books/ HTTP/1.1",
    b"PATCH //x/../y HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET http://localhost/ HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"GET /a#b HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET / HTTP/2.0",
    b"GET /",
    b"get / HTTP/1.1",
    b"CONNECT a:80 HTTP/1.1",
    b"SOURCE / HTTP/1.1",
    b"GET / RTSP/1.1",
    b"\r\nGET / HTTP/1.1",
)
STATUSES = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 299 ",
    b"HTTP/1.1 200",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 200 \xfcber",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 103 Early Hints",
    b"HTTP/1.1 099 x",
    b"HTTP/1.1 999 x",
    b"HTTP/1.0 200 OK",
    b"HTTP/2.0 200 OK",
    b"http/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK",
)
LINE = st.sampled_from(FIELDS) | st.builds(
    lambda name, value: name + b": " + value,
    st.text("abc-XYZ_09!~", min_size=1, max_size=9).map(str.encode),
    st.binary(max_size=9),
)
TARGET = st.text("".join(map(chr, range(0x21, 0x7F))), max_size=12).map(
    lambda text: b"GET /" + text.encode() + b" HTTP/1.1"
)


def heads(starts: tuple[bytes, ...], *, needed: bytes) -> st.SearchStrategy[bytes]:
    """Heads that end with their only blank line, most with what is needed; one byte of some is another."""
    start = st.just(starts[0]) | st.sampled_from(starts)
    lines = st.builds(
        lambda first, more: [first, needed, *more] if more[-1:] != [b""] else [first, *more[:-1]],
        start | TARGET if starts is STARTS else start,
        st.lists(LINE, max_size=4),
    )
    whole = lines.map(lambda found: b"\r\n".join(found) + b"\r\n\r\n")
    spoiled = st.tuples(whole, st.integers(0, 120), st.binary(min_size=1, max_size=1)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
    )
    return whole | spoiled


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def gate_lines() -> Lines:
    return Gate(RouteTable.of([]), lanes={}, hosts=[]).lines


def parsed(parser: Any, head: bytes) -> tuple[Any, Any]:
    """What the parser finds in a head; fails where it refuses what was read without it."""
    try:
        messages, upgraded, tail = parser.feed_data(head)
    except HttpProcessingError as error:
        pytest.fail(f"The parser refuses {head!r}: {error!r}")
    assert not upgraded
    assert not tail
    ((message, payload),) = messages
    return message, payload


def going_on(fields: Iterable[Field]) -> list[tuple[int, bytes, bytes, bytes]]:
    """Without the bits; of a Connection field no line goes on (RFC 9110 section 7.6.1)."""
    return [
        (kind, name, value, b"" if name.lower() == b"connection" else line)
        for kind, name, value, line, _ in fields
    ]


REQUESTS = gate_lines()


@settings(max_examples=700, deadline=None)
@given(heads(STARTS, needed=b"Host: localhost"))
@example(b"GET /a?b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a\r\nUser-Agent: b\r\n\r\n")
def test_a_plain_request_is_what_the_parser_says(loop: asyncio.AbstractEventLoop, head: bytes) -> None:
    plain = REQUESTS.request(head)
    event("plain" if plain is not None else "not plain")
    if plain is None or not head.endswith(BLANK) or head.find(BLANK) != len(head) - 4:
        return
    message, payload = parsed(request_parser(Side(loop), loop, line=8192), head)
    assert (plain.method, plain.path, plain.version) == (message.method, message.path, message.version)
    assert plain.raw_headers == message.raw_headers
    assert (plain.should_close, plain.chunked) == (message.should_close, bool(message.chunked))
    assert not message.upgrade
    assert bool(plain.length) is (payload is not EMPTY_PAYLOAD)
    assert plain.length is None or plain.length == int(message.headers["Content-Length"])
    assert [field[:4] for field in plain.fields] == going_on(REQUESTS.of(message.raw_headers))


@settings(max_examples=700, deadline=None)
@given(heads(STATUSES, needed=b"Content-Length: 5"))
@example(b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 1\r\nServer: b\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\nDate: then\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nDate: now\r\nX-Empty: \r\nContent-Length: 1\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\nConnection: close\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\nDate: now\r\n\r\n")
def test_a_plain_answer_is_what_the_parser_says(loop: asyncio.AbstractEventLoop, head: bytes) -> None:
    plain = LINES.answer(head[:-4])
    event("plain" if plain is not None else "not plain")
    if plain is None or not head.endswith(BLANK) or head.find(BLANK) != len(head) - 4:
        return
    message, payload = parsed(response_parser(Side(loop), loop, line=8192), head)
    assert (plain.code, plain.reason, plain.version) == (message.code, message.reason, message.version)
    assert plain.raw_headers == message.raw_headers
    assert (plain.should_close, plain.chunked) == (message.should_close, bool(message.chunked))
    assert not message.upgrade
    assert plain.length == int(message.headers["Content-Length"])
    assert payload.is_eof() is (plain.length == 0)
    one, other = [
        read_answer(each, headless=False, date=lambda: b"Date: ours\r\n") for each in (plain, message)
    ]
    assert (one.status_line, one.fields, one.sized) == (other.status_line, other.fields, other.sized)
    assert [field[:4] for field in plain.fields] == going_on(LINES.of(message.raw_headers))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /books/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /books/1?a=b%20c HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
        b"POST /books HTTP/1.1\r\nhost: localhost\r\nContent-Length: 12\r\nCookie: a=b\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_callers_send_is_of_the_common_form(head: bytes) -> None:
    lines = gate_lines()
    for _ in range(2):  # the second time its lines are known
        plain = lines.request(head)
        assert plain is not None
        assert plain.version == HttpVersion11
        onward = b"".join(line for _, _, _, line, _ in plain.fields)
        assert onward == head.partition(b"\r\n")[2][:-2].replace(b"Connection: close\r\n", b"")


def test_a_line_that_may_hold_a_secret_is_not_remembered() -> None:
    lines = gate_lines()
    secret = b"4f9d1c"
    fields = (b"Cookie", b"Authorization", b"Tokenproxy-Key", b"X-Api-Key", b"Referer", b"Any-Name")
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n"
    head += b"".join(b"%b: %b\r\n" % (name, secret) for name in fields) + b"\r\n"
    assert lines.request(head) is not None
    assert sorted(lines.remembered) == [b"Accept: text/html", b"Host: localhost"]


def test_what_is_remembered_is_bounded() -> None:
    lines = gate_lines()
    for number in range(3 * KNOWN):
        head = b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: 1\r\n\r\n" % (number, number)
        assert lines.request(head) is not None
        assert len(lines.remembered) <= KNOWN
    long = b"h" * (LONGEST + 1)
    assert lines.request(b"GET / HTTP/1.1\r\nHost: %b\r\n%b: 1\r\n\r\n" % (long, long)) is not None
    assert lines.of([(long, b"1")])
    assert max(map(len, lines.remembered)) <= LONGEST
    assert max(map(len, lines.names)) <= LONGEST


def test_a_long_host_or_reason_is_not_remembered() -> None:
    """Under a name with a star, and in answers, their number is bounded and would be their peers' choice."""
    gate = Gate(RouteTable.of([]), lanes={}, hosts=["*.internal"])
    tracemalloc.start()
    try:
        for number in range(100):
            word = b"%d" % number + b"h" * 10_000
            request = gate.lines.request(b"GET / HTTP/1.1\r\nHost: %b.internal\r\n\r\n" % word)
            assert request is not None
            with pytest.raises(ProblemError, match="No route"):
                gate.admit(request, EMPTY_PAYLOAD)
            answer = LINES.answer(b"HTTP/1.1 200 %b\r\nContent-Length: 0" % word)
            assert answer is not None
            assert word in read_answer(answer, headless=False, date=bytes).status_line
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


async def test_a_caller_of_the_common_form_needs_no_parser() -> None:
    async with stage(ok(b"hello")) as s:
        caller = await s.caller()
        for size in (0, 3, 300_000):
            await caller.send(post(b"x" * size))
            assert (await caller.answer()).body == b"hello"
            assert len(s.upstream.seen[-1].body) == size
        (side,) = s.plane.callers
        assert side.parser is None
        await caller.send(b"GET /books/a HTTP/1.1\r\nHost: localhost\r\nX-Wide:  a\r\n\r\n")
        assert (await caller.answer()).body == b"hello"
        assert side.parser is not None


async def test_a_body_that_is_counted_ends_where_its_length_says() -> None:
    """What follows is the next request, however the segments are cut."""
    async with stage(ok(b"hello")) as s:
        caller = await s.caller()
        first = post(b"x" * 5000)
        await caller.send(first[:-1000])
        await until(lambda: s.upstream.seen)
        await caller.send(first[-1000:] + b"GET /books/next HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(2):
            assert (await caller.answer()).body == b"hello"
        assert [seen.target for seen in s.upstream.seen] == [b"/x", b"/next"]
