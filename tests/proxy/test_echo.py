"""An upstream that repeats our token: it stays with us, always where an answer leads on, everywhere by choice."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.proxy.actors import Line, Stage, chunked, dead, ok, stage
from tests.proxy.test_flow import peak_kib
from tokenproxy import log
from tokenproxy.core.echoes import Echoes
from tokenproxy.core.headers import HeaderChanges
from tokenproxy.core.provider import Inject
from tokenproxy.core.settings import MIB
from tokenproxy.core.tokens import TokenSet
from tokenproxy.proxy.answer import LEADING, LINES
from tokenproxy.proxy.echo import without_echo

REDACTS = {"redact_echo": True}
STARS = b"*******"
GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n"


def counted(s: Stage) -> int:
    return s.metrics.route("books").echoes


async def echo(line: Line) -> None:
    """What httpbin's ``/anything`` does."""
    await line.body()
    await line.send(ok(line.seen.head, b"X-Seen: " + line.seen.token, b'ETag: "1"', b"Content-MD5: abc"))


async def test_head_and_body_come_back_without_the_token() -> None:
    """Byte for byte otherwise: lengths and validators stay as they are."""
    async with stage(echo, route=REDACTS) as s:
        answer = await (await s.caller()).get()
        assert answer.values(b"x-seen") == [STARS]
        assert b"Authorization: Bearer " + STARS + b"\r\n" in answer.body
        assert answer.values(b"content-length") == [b"%d" % len(s.upstream.seen[0].head)]
        assert (answer.values(b"etag"), answer.values(b"content-md5")) == ([b'"1"'], [b"abc"])
        assert b"token-1" not in answer.head + answer.body
        assert counted(s) == 1


async def test_unasked_a_body_is_none_of_our_business() -> None:
    async with stage(echo) as s:
        answer = await (await s.caller()).get(b"/books/x", b"Accept-Encoding: gzip")
        assert answer.values(b"x-seen") == [b"token-1"]
        assert b"token-1" in answer.body
        assert s.upstream.seen[0].values(b"accept-encoding") == [b"gzip"]
        assert counted(s) == 0


async def test_an_echo_is_told_of_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(echo, route=REDACTS) as s:
        caller = await s.caller()
        for _ in range(3):
            await caller.get()
        assert counted(s) == 3
        told = [log.JsonFormatter().format(record) for record in caplog.records]
        told = [line for line in told if '"token_echoed"' in line]
        assert len(told) == 1
        assert '"route":"books","place":"head","times":1' in told[0]
        assert "token-1" not in told[0]


@pytest.mark.parametrize("size", [1, 3, 7, 64])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_a_token_that_is_cut_is_found(size: int, framing: str) -> None:
    """Each piece in a segment of its own."""
    body = b'{"a": "token-1", "b": "tok", "c": "ttoken-1token-1tok'
    pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def script(line: Line) -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        if framing == "chunked":
            head += b"Transfer-Encoding: chunked\r\n"
        elif framing == "length":
            head += b"Content-Length: %d\r\n" % len(body)
        await line.send(head + b"\r\n")
        for piece in pieces:
            await asyncio.sleep(0)
            await line.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if framing == "chunked":
            await line.send(b"0\r\n\r\n")
        elif framing == "close":
            line.close()

    async with stage(script, route=REDACTS) as s:
        answer = await (await s.caller()).get()
        assert answer.body == body.replace(b"token-1", STARS)
        assert counted(s) == 1


async def test_an_event_arrives_before_the_next_is_made() -> None:
    """Nothing is held back but what may be the beginning of the token."""
    go = asyncio.Event()

    async def script(line: Line) -> None:
        first = b"data: token-1\n\n"
        await line.send(
            CHUNKED % b"Content-Type: text/event-stream\r\n" + b"%x\r\n%b\r\n" % (len(first), first)
        )
        await go.wait()
        await line.send(b"8\r\ndata: to\r\n")
        await line.send(b"2\r\nk!\r\n0\r\n\r\n")

    async with stage(script, route=REDACTS) as s:
        caller = await s.caller()
        await caller.send(GET)
        await caller.head()
        first = b"f\r\ndata: " + STARS + b"\n\n\r\n"
        async with asyncio.timeout(5):
            assert await caller.reader.readexactly(len(first)) == first
        go.set()
        rest = await caller.reader.readuntil(b"0\r\n\r\n")
        assert b"".join(rest.split(b"\r\n")[1::2]) == b"data: tok!"


async def test_64_mib_take_no_memory() -> None:
    size, piece = 64 * MIB, b"token-1 and token-" * 4096

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            await line.send(piece[:left])
            left -= min(len(piece), left)

    async with stage(script, route=REDACTS) as s:
        caller = await s.caller()
        await caller.send(GET)
        await caller.head()
        before, left = peak_kib(), size
        while left:
            data = await caller.reader.read(1 << 16)
            assert b"token-1" not in data
            left -= len(data)
        assert peak_kib() - before < 16 * 1024


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\nX-Seen: token-1\r\n\r\n"),
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\nX-Seen: token-1\r\n\r\n",
        ),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Encoding: gzip\r\nX-Seen: token-1\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nX-Seen: token-1\r\n\r\n"),
    ],
)
async def test_answers_without_a_body(method: bytes, answer: bytes) -> None:
    async with stage(answer, route=REDACTS) as s:
        caller = await s.caller()
        for _ in range(2):
            got = await caller.get(method=method)
            assert got.values(b"x-seen") == [STARS]
        assert s.upstream.connections == 1


async def test_a_part_of_a_body_is_looked_through_as_it_is() -> None:
    """A token that lies over the end of a range cannot be known; one within is found."""
    answer = ok(b"ken-1 token-1 tok", b"Content-Range: bytes 2-18/99", status=b"206 Partial Content")
    async with stage(answer, route=REDACTS) as s:
        got = await (await s.caller()).get(b"/books/x", b"Range: bytes=2-18")
        assert (got.status, got.body) == (206, b"ken-1 " + STARS + b" tok")
        assert got.values(b"content-range") == [b"bytes 2-18/99"]


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"identity, deflate", b"x-new"])
async def test_a_body_that_nobody_can_read_is_refused(coding: bytes) -> None:
    """It was asked for a plain one."""
    async with stage(ok(b"\x1f\x8b...", b"Content-Encoding: " + coding), route=REDACTS) as s:
        got = await (await s.caller()).get(b"/books/x", b"Accept-Encoding: gzip, br")
        assert (got.status, got.code) == (502, "upstream_invalid")
        assert "redact_echo" in got.problem["next_step"]
        assert s.upstream.seen[0].values(b"accept-encoding") == [b"identity"]


async def test_identity_said_aloud_is_plain() -> None:
    async with stage(ok(b"token-1", b"Content-Encoding: identity"), route=REDACTS) as s:
        assert (await (await s.caller()).get()).body == STARS


async def test_trailers_interim_answers_and_the_reason() -> None:
    """Wherever an upstream can say something before it speaks another protocol."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 103 Early Hints\r\nLink: </token-1>\r\nX-Seen: token-1\r\n\r\n")
        head = b"HTTP/1.1 200 Hello token-1\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\nToken-token-1: x\r\n\r\n"
        await line.send(head + chunked(b"a", trailer=b"X-End: token-1\r\n"))

    async with stage(script, route=REDACTS) as s:
        caller = await s.caller()
        await caller.send(GET)
        hints, head = await caller.head(), await caller.head()
        rest = await caller.reader.readuntil(b"\r\n\r\n")
        assert (hints.values(b"link"), hints.values(b"x-seen")) == ([b"</" + STARS + b">"], [STARS])
        assert head.head.startswith(b"HTTP/1.1 200 Hello " + STARS + b"\r\n")
        assert head.values(b"token-" + STARS) == [b"x"]
        assert rest == b"1\r\na\r\n0\r\nX-End: " + STARS + b"\r\n\r\n"


async def test_after_a_renewal_it_is_the_new_token() -> None:
    async def script(line: Line) -> None:
        good = line.seen.token == b"token-2"
        await line.send(ok(b"you are token-2") if good else dead(b"no, token-1"))

    async with stage(script, route=REDACTS) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"you are " + STARS
        assert s.source.renewals == ["books"]


async def test_a_refusal_that_is_kept_does_not_hold_the_token() -> None:
    """What was read to find out about the token goes through the same sieve."""
    from tokenproxy.core.interfaces import KeepAnswer

    async with stage(dead(b"token-1 is not allowed to"), route=REDACTS) as s:
        s.source.keep = KeepAnswer.LIVE
        got = await (await s.caller()).get()
        assert (got.status, got.body) == (401, STARS + b" is not allowed to")


async def test_keys_of_the_config_are_hidden_too() -> None:
    changes = HeaderChanges(replaced=(("X-Api-Key", "planted-key"),), secrets=("planted-key",))
    async with stage(echo, route=REDACTS | {"request_headers": changes}) as s:
        got = await (await s.caller()).get()
        assert b"X-Api-Key: ***********\r\n" in got.body


async def test_a_token_in_the_query_comes_back_in_no_spelling() -> None:
    async def script(line: Line) -> None:
        await line.send(ok(b"you asked for " + line.seen.target))

    how = REDACTS | {"inject": Inject(header="", query="key")}
    async with stage(script, route=how) as s:
        s.source.sets["books", 1] = TokenSet("a+b/c=d&e")
        got = await (await s.caller()).get(b"/books/x")
        assert got.body == b"you asked for /x?key=" + b"*" * len(quote("a+b/c=d&e", safe=""))


# where an answer leads on


LEADS: dict[bytes, bytes] = {
    b"location": b"https://other.example/?token=%b",
    b"content-location": b"/x/%b",
    b"refresh": b"0; url=https://other.example/#%b",
    b"link": b'<https://other.example/?a=%b>; rel="next"',
}


@pytest.mark.parametrize("name", [*LEADS])
@pytest.mark.parametrize("status", [b"302 Found", b"200 OK", b"201 Created", b"401 Unauthorized"])
async def test_no_route_lets_an_answer_lead_on_with_our_token(name: bytes, status: bytes) -> None:
    """The caller would follow it, and hand the token to another host."""

    async def script(line: Line) -> None:
        value = LEADS[name] % line.seen.token
        await line.send(ok(b"", name.title() + b": " + value, b"X-Seen: " + line.seen.token, status=status))

    async with stage(script) as s:
        got = await (await s.caller()).get()
        assert [value.count(STARS) for value in got.values(name)] == [1]
        assert b"token-" not in b"".join(got.values(name))
        assert counted(s) == 1
        assert name in LEADING


async def test_an_answer_that_leads_on_without_it_is_left_alone() -> None:
    fields = (b"Link: </a>; rel=next", b"Link: </b>; rel=last", b"Location: https://other.example/")
    async with stage(ok(b"", *fields, status=b"302 Found")) as s:
        got = await (await s.caller()).get()
        assert set(fields) <= set(got.fields)
        assert counted(s) == 0


WRITTEN = [
    b"/login?return_to=https%%3A%%2F%%2Fapi.example%%2Fx%%3Fkey%%3D%b",
    b"/x/?a=1&key=%b",
    b"/x/?key=%b&a=1#top",
    b"//api.example/x?KEY=%b",
]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("spelt", ["raw", "once", "twice", "lower"])
async def test_a_query_s_token_is_in_no_field_of_an_answer(written: bytes, spelt: str) -> None:
    """However the upstream writes the address that it was asked for, and in whichever field."""
    secret = "s3cr3t/with+signs="
    once = quote(secret, safe="")
    spelling = {"raw": secret, "once": once, "twice": quote(once, safe=""), "lower": once.lower()}[
        spelt
    ].encode()

    async def script(line: Line) -> None:
        assert line.seen.target == b"/x?key=" + once.encode()
        value = written % spelling
        fields = (b"Location: " + value, b"X-Original-Url: " + value, b"Set-Cookie: last=" + value)
        await line.send(ok(b"", *fields, status=b"302 Found"))

    async with stage(script, route={"inject": Inject(header="", query="key")}) as s:
        s.source.sets["books", 1] = TokenSet(secret)
        got = await (await s.caller()).get(b"/books/x")
        assert spelling not in got.head
        assert b"s3cr3t" not in got.head
        assert got.status == 302


def test_a_length_that_a_password_happens_to_be_is_a_length() -> None:
    """What frames the answer stays as it is; starred, nobody could read it."""
    answer = LINES.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 123456\r\nX-Seen: 123456")
    assert answer is not None
    hidden = without_echo(answer, Echoes(["123456"]))

    assert dict(hidden.raw_headers)[b"Content-Length"] == b"123456"
    assert dict(hidden.raw_headers)[b"X-Seen"] == b"******"
