"""Trailers, both ways: passed on as trailers where they are announced, and never as anything else."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.actors import Line, Stage, chunked, dead, ok, route_to, stage
from tests.proxy.test_refusals import TE, get, posted
from tokenproxy.proxy.chunks import BrokenChunksError, ChunkedBody, ChunkReader
from tokenproxy.proxy.side import Side

CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
FORBIDDEN = (
    b"Authorization: Bearer stolen",
    b"X-Access-Token: stolen",
    b"Host: evil.example",
    b"Connection: close",
    b"Keep-Alive: timeout=9",
    b"Upgrade: websocket",
    b"TE: gzip",
    b"Trailer: X-More",
    b"Set-Cookie: a=b",
    b"Content-Type: text/html",
    b"Content-Encoding: gzip",
    b"Cache-Control: public",
    b"If-Match: *",
    b"Proxy-Authorization: Basic x",
    b"Tokenproxy-Key: k",
    b"X_Access_Token: stolen",
    b"X-Mine: 1",
)
"""Fields that must not come behind the content, and one that Connection names (RFC 9110 sections 6.5.1 and 7.6.1)."""


async def raw_body(line: Line) -> bytes:
    """Chunks and trailers as the upstream got them."""
    whole = b""
    while not whole.endswith(b"\r\n\r\n"):
        whole += await line.reader.readuntil(b"\r\n")
    line.seen.body = whole
    return whole


async def echo(line: Line) -> None:
    await raw_body(line)
    await line.send(ok(b"hello"))


@pytest.mark.parametrize("cut", range(0, 120, 7))
async def test_trailers_of_a_request_are_passed_on_behind_its_body(cut: int) -> None:
    """RFC 9110 sections 6.5 and 6.6.2, RFC 9112 section 7.1.2; wherever the segments end."""
    data = posted(TE, b"Trailer: X-Sum") + chunked(b"abc", trailer=b"X-Sum: 9 \r\nX-Sum: \xff\r\n")
    async with stage(echo) as s:
        caller = await s.caller()
        await caller.send(data[:cut])
        await asyncio.sleep(0)
        await caller.send(data[cut:])
        assert (await caller.answer()).body == b"hello"
        (seen,) = s.upstream.seen
        assert seen.values(b"trailer") == [b"X-Sum"]
        assert seen.body == b"3\r\nabc\r\n0\r\nX-Sum: 9\r\nX-Sum: \xff\r\n\r\n"


async def test_trailers_behind_a_body_that_streams() -> None:
    """The head goes up before they are known (RFC 9112 section 7.1.2)."""
    async with stage(echo) as s:
        caller = await s.caller()
        await caller.send(posted(TE, b"trailer: x-sum"))
        await caller.send(b"3\r\nabc\r\n")
        while not s.upstream.seen:
            await asyncio.sleep(0.002)
        await caller.send(b"2;a=b\r\nde\r\n000\r\nx-sum: 9\r\n\r\n")
        assert (await caller.answer()).status == 200
        assert s.upstream.seen[0].body == b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 9\r\n\r\n"


async def test_trailers_that_nobody_announced_stay_here() -> None:
    """A recipient may discard them (RFC 9110 section 6.5.1); and nothing is announced that does not come."""
    async with stage(echo) as s:
        caller = await s.caller()
        await caller.send(posted(TE) + chunked(b"abc", trailer=b"X-Sum: 9\r\n"))
        assert (await caller.answer()).status == 200
        await caller.send(posted(b"Trailer: X-Sum", b"Content-Length: 4") + b"\r\n\r\n")
        assert (await caller.answer()).status == 200
        first, second = s.upstream.seen
        assert first.body == b"3\r\nabc\r\n0\r\n\r\n"
        assert first.values(b"trailer") == second.values(b"trailer") == []


async def test_what_no_trailer_may_be_is_dropped_from_a_request() -> None:
    """RFC 9110 section 6.5.1: framing, routing, authentication, and what Connection names; and our token's places."""
    names = b", ".join(field.partition(b":")[0] for field in FORBIDDEN)
    trailer = b"".join(field + b"\r\n" for field in FORBIDDEN) + b"X-Sum: 9\r\n"
    async with stage(echo, routes=lambda port: [route_to(port, header="x-access-token")]) as s:
        caller = await s.caller()
        await caller.send(
            posted(TE, b"Connection: X-Mine", b"Trailer: " + names + b", X-Sum") + chunked(trailer=trailer)
        )
        assert (await caller.answer()).status == 200
        (seen,) = s.upstream.seen
        assert seen.values(b"trailer") == [b"X-Sum"]
        assert seen.body == b"0\r\nX-Sum: 9\r\n\r\n"


@pytest.mark.parametrize("whole", [True, False], ids=["at-once", "in-pieces"])
async def test_a_replay_sends_the_trailers_again(whole: bool) -> None:
    """They are part of the request (RFC 9110 section 6.5): sent again after the renewal as the body is."""

    async def script(line: Line) -> None:
        await raw_body(line)
        await line.send(dead() if line.seen.token == b"token-1" else ok(b"hello"))

    async with stage(script) as s:
        caller = await s.caller()
        data = posted(TE, b"Trailer: X-Sum") + chunked(b"abc", trailer=b"X-Sum: 9\r\n")
        await caller.send(data if whole else data[:-14])
        if not whole:
            while not s.upstream.seen:
                await asyncio.sleep(0.002)
            await caller.send(data[-14:])
        assert (await caller.answer()).body == b"hello"
        first, second = s.upstream.seen
        assert first.body == second.body == b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
        assert second.token == b"token-2"


@pytest.mark.parametrize(
    "trailer",
    [
        b"X-Sum : 9\r\n",
        b" X-Sum: 9\r\n",
        b"X-Sum: 9\r\n folded\r\n",
        b"X-Sum: a\x00b\r\n",
        b"X-Sum: a\rb\r\n",
        b"X-Sum: a\nX-B: c\r\n",
        b"X-Sum\r\n",
        b": 9\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X-Long: " + b"x" * 40_000 + b"\r\n",
        b"X: y\r\n" * 200,
    ],
)
async def test_broken_trailers_end_the_request(trailer: bytes) -> None:
    """RFC 9112 section 7.1.2 with the fields' grammar of section 5, and within the bounds of a head."""
    async with stage(echo) as s:
        caller = await s.caller()
        await caller.send(posted(TE, b"Trailer: X-Sum") + b"3\r\nabc\r\n")
        await caller.send(b"0\r\n" + trailer + b"\r\n")
        assert (await caller.answer()).code == "bad_request"
        assert all(b"0\r\n" not in seen.body for seen in s.upstream.seen)


@pytest.mark.parametrize(
    ("te", "sent"),
    [
        (b"trailers", [b"trailers"]),
        (b"trailers, gzip", [b"trailers"]),
        (b"gzip, Trailers", [b"trailers"]),
        (b"gzip", []),
        (b"trailers;q=0.5", []),
        (b"", []),
    ],
)
async def test_te_says_whether_the_caller_takes_trailers(te: bytes, sent: list[bytes]) -> None:
    """RFC 9110 section 10.1.4: ``trailers`` alone holds for the next hop, and Connection says so."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(get(b"Host: localhost", b"Connection: TE", b"TE: " + te))
        assert (await caller.answer()).status == 200
        (seen,) = s.upstream.seen
        assert seen.values(b"te") == sent
        assert seen.values(b"connection") == [b"TE"] * len(sent)


async def test_te_of_an_old_caller_means_nothing() -> None:
    """An HTTP/1.0 caller cannot be sent chunks, so no trailers either (RFC 9112 section 6.1)."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.0\r\nHost: localhost\r\nTE: trailers\r\n\r\n")
        await caller.answer()
        assert s.upstream.seen[0].values(b"te") == s.upstream.seen[0].values(b"connection") == []


async def answered(s: Stage, pieces: list[bytes], *, version: bytes = b"1.1") -> tuple[bytes, bytes]:
    """Head and body, raw, of an answer that the upstream sends in these pieces."""

    async def script(line: Line) -> None:
        for piece in pieces:
            await line.send(piece)
            await asyncio.sleep(0.002)

    s.upstream.script = script
    caller = await s.caller()
    await caller.send(b"GET /books/x HTTP/" + version + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = (await caller.rest()).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("cut", range(0, 130, 9))
async def test_trailers_of_an_answer_are_passed_on_behind_its_body(cut: int) -> None:
    """RFC 9110 section 6.5, RFC 9112 section 7.1.2; and the upstream's connection is kept."""
    data = CHUNKS + b"Trailer: X-Sum\r\n\r\n" + chunked(b"abc", trailer=b"X-Sum: 9\r\nX-Other: \xff\r\n")
    async with stage() as s:
        for _ in range(2):
            head, body = await answered(s, [data[:cut], data[cut:]])
            assert b"\r\nTrailer: X-Sum" in head
            assert body == b"3\r\nabc\r\n0\r\nX-Sum: 9\r\nX-Other: \xff\r\n\r\n"
        assert s.upstream.connections == 1


async def test_trailers_behind_interim_answers() -> None:
    """Several heads in one segment (RFC 9110 section 15.2): the body begins behind the last."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with stage() as s:
        data = early * 2 + CHUNKS + b"Trailer: X-Sum\r\n\r\n" + chunked(b"abc", trailer=b"X-Sum: 9\r\n")
        _, rest = await answered(s, [data])
        assert rest.endswith(b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n")
        data = early + CHUNKS + b"Server: a\r\nServer: b\r\nTrailer: X-Sum\r\n\r\n"  # read a second time
        _, rest = await answered(s, [data + chunked(b"abc", trailer=b"X-Sum: 9\r\n")])
        assert rest.endswith(b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n")


async def test_what_no_trailer_may_be_is_dropped_from_an_answer() -> None:
    """RFC 9110 section 6.5.1: above all no cookie, no credential, nothing that says what the content is."""
    trailer = (
        b"".join(field + b"\r\n" for field in FORBIDDEN if not field.startswith(b"X")) + b"X-Mine: 1\r\n"
    )
    async with stage() as s:
        head, body = await answered(
            s,
            [
                CHUNKS + b"Connection: X-Mine\r\nTrailer: Set-Cookie, X-Mine\r\n\r\n",
                chunked(trailer=trailer + b"X-Sum: 9\r\n"),
            ],
        )
        assert b"Trailer" not in head
        assert body == b"0\r\nX-Sum: 9\r\n\r\n"


async def test_an_old_caller_gets_no_trailers() -> None:
    """HTTP/1.0 knows neither chunks nor trailers (RFC 9112 section 6.1)."""
    async with stage() as s:
        data = CHUNKS + b"Trailer: X-Sum\r\n\r\n" + chunked(b"abc", trailer=b"X-Sum: 9\r\n")
        head, body = await answered(s, [data], version=b"1.0")
        assert b"Trailer" not in head
        assert body == b"abc"


@pytest.mark.parametrize("in_pieces", [True, False])
async def test_a_passed_trailer_does_not_become_a_field_of_the_next_answer(in_pieces: bool) -> None:
    """RFC 9110 section 6.5.1, where our own reader reads the body and the parser has seen the beginning of it."""
    data = (
        CHUNKS
        + b"Trailer: X-Sum\r\n\r\n"
        + chunked(b"abc", trailer=b"X-Sum: 9\r\nSet-Cookie: sid=victim\r\n")
    )
    async with stage() as s:
        await answered(s, [data[:70], data[70:]] if in_pieces else [data])
        head, body = await answered(s, [ok(b"next")])
        assert b"victim" not in head
        assert body == b"next"
        assert s.upstream.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabc\r\n0\r\nX-Sum : 1\r\n\r\n",
        b"ffffffffffffffffff\r\nabc",
    ],
)
async def test_a_broken_body_with_trailers_is_cut_or_502(body: bytes) -> None:
    """RFC 9112 section 7.1; half a body never gets a clean end (section 8)."""
    async with stage() as s:
        head, sent = await answered(s, [CHUNKS + b"Trailer: X-Sum\r\n\r\n", body])
        assert b" 502 " in head or not sent.endswith(b"0\r\n\r\n")
        assert b"X-Sum: " not in sent


async def test_a_body_with_trailers_that_is_cut_is_never_whole() -> None:
    """RFC 9112 section 8."""

    async def script(line: Line) -> None:
        await line.send(CHUNKS + b"Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n")
        line.close()

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(get(b"Host: localhost"))
        assert not (await caller.rest()).endswith(b"\r\n\r\n")


async def test_bytes_behind_trailers_are_nobodys() -> None:
    """RFC 9112 section 6.3: never the next answer."""
    data = CHUNKS + b"Trailer: X-Sum\r\n\r\n" + chunked(b"abc", trailer=b"X-Sum: 9\r\n")
    async with stage() as s:
        _, body = await answered(s, [data + ok(b"stray")])
        assert body == b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
        _, body = await answered(s, [ok(b"next")])
        assert body == b"next"
        assert s.upstream.connections == 2


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_trailers_announced_for_no_body_come_to_nothing(status: bytes) -> None:
    """RFC 9112 section 6.3: no body, whatever the fields say; both connections stay in step."""
    async with stage() as s:
        head, body = await answered(
            s, [b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"]
        )
        assert (b"Trailer" in head, body) == (False, b"")


async def fed(data: bytes, *, longest: int = 1000) -> tuple[ChunkedBody, bytes]:
    body = ChunkedBody(Side(asyncio.get_running_loop()), 1 << 16, loop=asyncio.get_running_loop())
    return body, ChunkReader(body, longest=longest).feed(data)


async def test_what_is_behind_the_body_is_given_back() -> None:
    """RFC 9112 section 9.3.2: it is the next message's."""
    body, rest = await fed(b"3\r\nabc\r\n0\r\n\r\nGET /")
    assert (body.read_nowait(), body.at_eof(), rest) == (b"abc", True, b"GET /")


@pytest.mark.parametrize(
    "data",
    [
        b"1;" + b"x" * 2000,
        b"1;" + b"x" * 2000 + b"\r\n",
        b"0\r\nX: " + b"x" * 2000,
        b"0\r\n" + b"X: y\r\n" * 200,
    ],
)
async def test_lines_between_chunks_are_bounded(data: bytes) -> None:
    """RFC 9112 section 7.1.1: what is ignored must not be free work."""
    with pytest.raises(BrokenChunksError):
        await fed(data)
