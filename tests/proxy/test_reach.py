"""How far a request goes: OPTIONS with its own rules, a proxy that calls itself; and what goes through untouched."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.actors import Line, ok, route_to, stage
from tokenproxy.core.settings import Limits

STAR = b"OPTIONS * HTTP/1.1\r\nHost: %s\r\n\r\n"


@pytest.mark.parametrize(("given", "sent"), [(b"1", b"0"), (b"10", b"9"), (b"007", b"6")])
async def test_max_forwards_counts_down(given: bytes, sent: bytes) -> None:
    """RFC 9110 section 7.6.2: one less for each hop."""
    async with stage() as s:
        answer = await (await s.caller()).get(b"/books/x", b"max-forwards: " + given, method=b"OPTIONS")
        assert answer.body == b"hello"
        assert s.upstream.seen[0].fields[1] == b"max-forwards: " + sent


async def test_max_forwards_0_ends_here() -> None:
    """RFC 9110 section 7.6.2: we are the final recipient; the connection goes on."""
    async with stage() as s:
        caller = await s.caller()
        answer = await caller.get(b"/books/x", b"Max-Forwards: 0", method=b"OPTIONS")
        assert (answer.status, answer.values(b"connection")) == (204, [])
        assert (await caller.get()).body == b"hello"
        assert [seen.line for seen in s.upstream.seen] == [b"GET /x HTTP/1.1"]


async def test_max_forwards_of_other_methods_goes_through() -> None:
    """RFC 9110 section 7.6.2 lets it be ignored there."""
    async with stage() as s:
        await (await s.caller()).get(b"/books/x", b"Max-Forwards: 0")
        assert s.upstream.seen[0].values(b"max-forwards") == [b"0"]


@pytest.mark.parametrize(
    "fields", [(b"Max-Forwards: -1",), (b"Max-Forwards: 1", b"Max-Forwards: 2"), (b"Max-Forwards:",)]
)
async def test_an_odd_max_forwards_is_refused(fields: tuple[bytes, ...]) -> None:
    """RFC 9110 section 7.6.2: one number."""
    async with stage() as s:
        answer = await (await s.caller()).get(b"/books/x", *fields, method=b"OPTIONS")
        assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize(
    "data", [STAR % b"localhost", b"OPTIONS http://localhost HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_options_star_is_answered_here(data: bytes) -> None:
    """RFC 9110 section 9.3.7: it asks about the server as a whole, and where routes are paths that is us."""
    async with stage() as s:
        caller = await s.caller()
        for _ in range(2):
            await caller.send(data)
            answer = await caller.answer()
            assert (answer.status, len(answer.values(b"date"))) == (204, 1)
        assert s.upstream.seen == []


@pytest.mark.parametrize("line", [b"OPTIONS * HTTP/1.1", b"OPTIONS http://books.example HTTP/1.1"])
async def test_options_star_reaches_a_route_that_is_a_whole_server(line: bytes) -> None:
    """RFC 9112 section 3.2.4; an absolute form without path and query means the same."""
    async with stage(route={"host": "books.example", "prefix": "/"}) as s:
        caller = await s.caller()
        await caller.send(line + b"\r\nHost: books.example\r\n\r\n")
        assert (await caller.answer()).body == b"hello"
        assert s.upstream.seen[0].line == b"OPTIONS * HTTP/1.1"
        assert s.upstream.seen[0].token == b"token-1"


async def test_options_star_needs_a_host_and_a_key_like_all_others() -> None:
    """Else a page could find out that we are here (RFC 9112 section 3.2)."""
    async with stage(caller_keys=("k",)) as s:
        for host, status in ((b"evil.example", 403), (b"localhost", 401)):
            caller = await s.caller()
            await caller.send(STAR % host)
            assert (await caller.answer()).status == status


async def test_a_route_that_leads_back_to_us_ends() -> None:
    """RFC 9110 section 7.6: a message is not forwarded to ourselves without end."""
    async with stage(limits=Limits(in_flight=50)) as s:
        host, _, port = s.address.rpartition(":")
        changed = route_to(int(port), authority="localhost", path="/books", to=host)
        s.swap(routes=type(s.settings.routes).of([changed]))
        answer = await (await s.caller()).get()
        assert answer.status == 508
        assert b"leads back to this proxy" in answer.body
        await asyncio.sleep(0)
        assert s.plane.in_flight == 0


async def test_other_proxies_on_the_way_are_no_loop() -> None:
    """RFC 9110 section 7.6.3: Via is appended to, whoever is in it; a few of us in a row are legitimate."""
    async with stage() as s:
        fields = (b"Via: 1.1 a, 1.0 b (Squid)", b"Via: 1.1 tokenproxy, 1.1 tokenproxy")
        assert (await (await s.caller()).get(b"/books/x", *fields)).status == 200
        assert s.upstream.seen[0].values(b"via")[:2] == [field[5:] for field in fields]


@pytest.mark.parametrize(
    "line", [b"GET http://LOCALHOST:8080/books/x?y HTTP/1.1", b"GET HTTP://localhost/books/x?y HTTP/1.1"]
)
async def test_absolute_form_is_taken_and_its_authority_counts(line: bytes) -> None:
    """RFC 9112 section 3.2.2: Host is not looked at beside it, and the upstream gets its own."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(line + b"\r\nHost: evil.example\r\n\r\n")
        assert (await caller.answer()).status == 200
        assert s.upstream.seen[0].target == b"/x?y"
        assert s.upstream.seen[0].values(b"host") == [b"api.example"]


@pytest.mark.parametrize("given", [(), (b"Date: Thu, 01 Jan 1970 00:00:00 GMT",)])
async def test_an_answer_gets_a_date_where_it_has_none(given: tuple[bytes, ...]) -> None:
    """RFC 9110 section 6.6.1; one that is there stays."""
    async with stage(ok(b"hello", *given)) as s:
        found = (await (await s.caller()).get()).values(b"date")
        assert len(found) == 1
        assert not given or found == [given[0][6:]]


async def test_conditions_ranges_and_encodings_go_through_untouched() -> None:
    """RFC 9110 sections 7.7 and 13.2.1: they are between the caller and the origin."""
    asked = (b'If-None-Match: "a", W/"b"', b"If-Range: x", b"Range: bytes=1-2", b"Accept-Encoding: gzip;q=0")
    given = (b"Content-Encoding: gzip", b'ETag: W/"b"', b"Content-Range: bytes 1-2/9", b"Vary: *")

    async def script(line: Line) -> None:
        await line.send(ok(b"\x1f\x8b", *given, status=b"206 Partial Content"))

    async with stage(script) as s:
        answer = await (await s.caller()).get(b"/books/x", *asked)
        assert (answer.status, answer.body) == (206, b"\x1f\x8b")
        assert tuple(s.upstream.seen[0].fields[1:5]) == asked
        assert tuple(answer.fields[1:5]) == given


@pytest.mark.parametrize(
    "line",
    [
        b"GET  /books/x HTTP/1.1",
        b"GET /books/x  HTTP/1.1",
        b"\nGET /books/x HTTP/1.1",
        b"\rGET /books/x HTTP/1.1",
    ],
)
async def test_a_request_line_has_one_blank_between_its_words(line: bytes) -> None:
    """RFC 9112 section 3: what others may be lenient about is what makes two readings of one request."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(line + b"\r\nHost: localhost\r\n\r\n")
        assert (await caller.answer()).status == 400
        assert s.upstream.seen == []


async def test_empty_lines_before_a_request_are_nothing() -> None:
    """RFC 9112 section 2.2; wherever the segments end."""
    async with stage() as s:
        caller = await s.caller()
        for piece in (b"\r", b"\n\r\n", b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n"):
            await caller.send(piece)
            await asyncio.sleep(0.002)
        assert (await caller.answer()).body == b"hello"
        assert (await caller.get()).body == b"hello"
