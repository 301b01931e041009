"""What comes back: the upstream's answer, whole or visibly cut, and nothing of another one."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.actors import Line, Script, chunked, ok, stage, until


async def test_an_answer_comes_back_byte_for_byte() -> None:
    """Cookies are never merged (RFC 9110 section 5.3); reason, order and odd bytes are the upstream's."""
    answer = (
        b"HTTP/1.1 207 Multi \xe9tat\r\nServer: one\r\nset-cookie: a=1\r\nX-Odd: \x80\t\xff\r\nSet-Cookie: b=2\r\n"
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nX-Empty:\r\n\r\nnot"
    )
    async with stage(answer) as s:
        caller = await s.caller()
        got = await caller.get()
        assert got.head + got.body == answer.replace(b"X-Empty:\r\n", b"X-Empty: \r\n")


async def test_hop_by_hop_fields_of_the_upstream_stay_there() -> None:
    """RFC 9110 section 7.6.1, for answers; and only we say what Tokenproxy-Error says."""
    answer = ok(
        b"x",
        b"Connection: X-Mine, keep-alive",
        b"X-Mine: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"Tokenproxy-Error: login_required",
        b"X-Theirs: 2",
    )
    async with stage(answer) as s:
        got = await (await s.caller()).get()
        assert got.fields[:2] == [b"Content-Length: 1", b"X-Theirs: 2"]
        assert len(got.fields) == 3
        assert got.fields[2].startswith(b"Date: ")


async def test_a_redirect_is_the_callers_business() -> None:
    """Followed by us it would carry the token to wherever it points."""
    answer = ok(b"", b"Location: https://evil.example/x", status=b"302 Found")
    async with stage(answer) as s:
        got = await (await s.caller()).get()
        assert (got.status, got.values(b"location")) == (302, [b"https://evil.example/x"])
        assert len(s.upstream.seen) == 1


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_leave_both_connections_in_step(method: bytes, answer: bytes) -> None:
    """RFC 9112 section 6.3: whatever the fields say; a parser that waits for a body would eat the next answer."""
    async with stage() as s:
        caller = await s.caller()
        for _ in range(2):
            s.upstream.script = answer
            got = await caller.get(method=method)
            assert got.status == int(answer[9:12])
            assert got.values(b"transfer-encoding") == []
            assert (b"Content-Length: 1000" in got.fields) is (b"Content-Length: 1000" in answer)
            s.upstream.script = ok(b"next")
            assert (await caller.get()).body == b"next"


async def test_a_head_answer_with_a_body_spoils_nothing() -> None:
    """Its bytes are never the next answer (RFC 9112 section 6.3); the connection is dropped."""
    async with stage() as s:
        caller = await s.caller()
        s.upstream.script = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        )
        assert (await caller.get(method=b"HEAD")).status == 200
        s.upstream.script = ok(b"good")
        assert (await caller.get()).body == b"good"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"one", b"two", b"three"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n"
        + chunked(b"onetwothree", trailer=b"X: y\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\none\r\n8\r\ntwothree\r\n0\r\n\r\n",
    ],
)
async def test_chunked_answers_are_chunked_again(answer: bytes) -> None:
    async with stage(answer) as s:
        caller = await s.caller()
        for _ in range(3):
            got = await caller.get()
            assert (got.body, got.values(b"transfer-encoding")) == (b"onetwothree", [b"chunked"])
        assert s.upstream.connections == 1


async def test_an_empty_chunked_answer_ends_properly() -> None:
    async with stage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as s:
        caller = await s.caller()
        assert (await caller.get()).body == b""
        assert (await caller.get()).body == b""


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_until_close_becomes_chunked(version: bytes) -> None:
    """The caller's connection lives on although the upstream's ends."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/" + version + b" 200 OK\r\nX: y\r\n\r\nfirst ")
        await asyncio.sleep(0.01)
        await line.send(b"second")
        line.close()

    async with stage(script) as s:
        caller = await s.caller()
        for _ in range(2):
            got = await caller.get()
            assert (got.head[:15], got.body) == (b"HTTP/1.1 200 OK", b"first second")
        assert s.upstream.connections == 2


CUT: dict[str, bytes] = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
    "no-last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "no-trailer-end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    "broken-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_a_cut_answer_is_never_whole(answer: bytes, how: str) -> None:
    """Half a document with a clean end is worse than an error (RFC 9112 section 8; Go's issue 23643)."""

    async def script(line: Line) -> None:
        start, _, rest = answer.partition(b"\r\n\r\n")
        await line.send(start + b"\r\n\r\n")
        await asyncio.sleep(0.01)
        await line.send(rest)
        await asyncio.sleep(0.01)
        line.close() if how == "close" else line.cut()

    async with stage(script) as s:
        caller = await s.caller()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.get()


async def test_a_cut_answer_until_close_is_never_whole() -> None:
    """Here only the manner of the end tells: a reset is no end, and goes on as a reset to who knows no chunks."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.02)
        line.cut()

    async with stage(script) as s:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await (await s.caller()).get()
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with pytest.raises(ConnectionError):
            await caller.answer()


async def test_a_cut_answer_of_one_segment_is_a_502_or_cut() -> None:
    """Head and half a body at once: the head may have gone already, the end never comes."""

    async def script(line: Line) -> None:
        await line.send(CUT["length"])
        line.close()

    async with stage(script) as s:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await (await s.caller()).get()


INVALID = {
    "no-http": b"hello\r\n\r\n",
    "version-2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version-0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status-two-digits": b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n",
    "status-word": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "lf-only": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "control": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bare-cr": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "blank-before-colon": b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    "length-word": b"HTTP/1.1 200 OK\r\nContent-Length: foo\r\n\r\n",
    "length-twice": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length-twice-same": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
    "length-plus": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
    "length-and-te": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-and-length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "te-gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    "te-foo": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: foo\r\n\r\nxx",
    "te-twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-empty": b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nxx",
    "te-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nxx",
    "switch-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "head-too-large": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "interim-flood": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000,
    "duplicate-and-folded": b"HTTP/1.1 200 OK\r\nServer: a\r\nServer: b\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "duplicate-and-lf": b"HTTP/1.1 200 OK\r\nServer: a\r\nServer: b\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", INVALID.values(), ids=INVALID)
async def test_an_answer_that_is_not_proper_http_is_a_502(answer: bytes) -> None:
    """A hostile upstream must not write what a caller reads as two answers, nor poison the next one."""
    async with stage(answer) as s:
        caller = await s.caller()
        got = await caller.get()
        assert (got.status, got.code) == (502, "upstream_invalid")
        s.upstream.script = ok(b"next")
        assert (await caller.get()).body == b"next"
        assert s.upstream.connections == 2


async def test_an_answer_that_is_only_half_a_head_is_a_502() -> None:
    """The parser's end-of-file makes up a message with status 200 from it."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        line.close()

    async with stage(script) as s:
        got = await (await s.caller()).get()
        assert (got.status, got.code) == (502, "upstream_invalid")


async def test_doubled_harmless_fields_are_let_through() -> None:
    """Google's APIs send Server twice; the strict parser refuses that, and the caller must not suffer."""
    answer = ok(b"fine", b"Server: a", b"Server: b", b"Content-Type: x", b"Content-Type: y")
    async with stage(answer) as s:
        caller = await s.caller()
        for _ in range(2):
            got = await caller.get()
            assert (got.status, got.body, got.values(b"server")) == (200, b"fine", [b"a", b"b"])


@pytest.mark.parametrize(
    "behind",
    [b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"HT", b"\r\n\r\nX", b"\x00"],
)
@pytest.mark.parametrize(
    "answer",
    [ok(b"good"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"good")],
    ids=["length", "chunked"],
)
async def test_what_follows_an_answer_is_nobodys(answer: bytes, behind: bytes) -> None:
    """RFC 9112 section 6.3: extra bytes are never the next answer, and do not cost the one before them."""
    async with stage(answer + behind) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"good"
        s.upstream.script = ok(b"mine")
        assert (await caller.get()).body == b"mine"
        assert s.upstream.connections == 2


async def test_bytes_on_an_idle_connection_are_nobodys() -> None:
    """An upstream that speaks unasked would answer the next caller's question with this one's words."""

    async def script(line: Line) -> None:
        await line.send(ok(b"good"))
        if len(s.upstream.seen) == 1:
            await asyncio.sleep(0.02)
            await line.send(ok(b"evil"))

    async with stage(script) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"good"
        await until(lambda: s.upstream.open == 0)
        assert (await caller.get()).body == b"good"
        assert (await caller.get()).body == b"good"


async def test_a_close_with_more_behind_it_is_a_good_answer() -> None:
    """``Connection: close`` and then bytes: the parser calls that an error and forgets the answer."""
    async with stage(ok(b"good", b"Connection: close") + b"more") as s:
        assert (await (await s.caller()).get()).body == b"good"


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_trailer_does_not_become_a_field_of_the_next_answer(*, in_pieces: bool) -> None:
    """The parser keeps the last trailer line: another caller's cookie in the shared pool (RFC 9110 section 6.5.1)."""
    first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = chunked(b"one", trailer=b"X-A: 1\r\nSet-Cookie: sid=victim\r\n")

    async def script(line: Line) -> None:
        if line.seen.target == b"/first":
            await line.send(first + (b"" if in_pieces else rest))
            if in_pieces:
                await asyncio.sleep(0.01)
                await line.send(rest)
        else:
            await line.send(ok(b"two"))

    async with stage(script) as s:
        one, two = await s.caller(), await s.caller()
        got = await one.get(b"/books/first")
        assert (got.body, got.values(b"set-cookie")) == (b"one", [])
        got = await two.get(b"/books/second")
        assert (got.body, got.values(b"set-cookie")) == (b"two", [])
        assert s.upstream.connections == 1


INTERIM = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n"
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"
)


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_interim_answers_are_passed_on(*, in_pieces: bool) -> None:
    """RFC 9110 section 15.2, and the final fields are their own (Go's Test1xxResponses)."""

    async def script(line: Line) -> None:
        data = INTERIM + ok(b"done")
        for at in range(0, len(data), 7 if in_pieces else len(data)):
            await line.send(data[at : at + (7 if in_pieces else len(data))])

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heads = [(await caller.head()).head for _ in range(3)]
        assert heads == [
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n",
        ]
        got = await caller.answer()
        assert (got.body, got.values(b"link")) == (b"done", [])


async def test_interim_answers_survive_the_second_look() -> None:
    """Interim, final and broken bytes in one segment: each is told apart."""
    async with stage(INTERIM + ok(b"done") + b"\x00\x00") as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            assert (await caller.head()).status < 200
        assert (await caller.answer()).body == b"done"


async def test_old_callers_get_no_interim_answers() -> None:
    """HTTP/1.0 knows none: it would take the first for the answer."""
    async with stage(INTERIM + ok(b"done")) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert (await caller.answer()).body == b"done"


async def test_an_unasked_100_is_swallowed() -> None:
    async with stage(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"done")) as s:
        assert (await (await s.caller()).get()).body == b"done"


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_bodies_of_every_size_arrive(size: int, framing: str) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    def script() -> Script:
        async def length(line: Line) -> None:
            await line.send(ok(body))

        async def chunks(line: Line) -> None:
            pieces = [body[at : at + 70_000] for at in range(0, size, 70_000)]
            await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*pieces))

        async def close(line: Line) -> None:
            await line.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            line.close()

        return {"length": length, "chunked": chunks, "close": close}[framing]

    async with stage(script()) as s:
        caller = await s.caller()
        assert (await caller.get()).body == body
        assert (await caller.get()).body == body
        assert s.metrics.routes["books"].bytes_down == 2 * size
