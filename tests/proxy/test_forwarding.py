"""What goes upstream: the caller's bytes, minus what is the connection's, plus one token."""

from __future__ import annotations

import pytest

from tests.proxy.actors import Caller, Line, ScriptedUpstream, chunked, ok, post, route_to, stage, until


async def test_a_request_goes_through_byte_for_byte() -> None:
    """Order, case, duplicates and odd bytes are the caller's business, and upstreams depend on them (RFC 9110 5.3)."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(
            b"GET /books/a HTTP/1.1\r\nx-lower: 1\r\nHOST: LocalHost:1\r\nX-UPPER:  two  words \r\n"
            b"Accept: a\r\nX-Bytes: \x80\xff\t\xe9\r\nAccept: b\r\nX-Empty:\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
        )
        assert (await caller.answer()).body == b"hello"
        assert s.upstream.seen[0].head == (
            b"GET /a HTTP/1.1\r\nHost: api.example\r\nx-lower: 1\r\nX-UPPER: two  words\r\nAccept: a\r\n"
            b"X-Bytes: \x80\xff\t\xe9\r\nAccept: b\r\nX-Empty: \r\nCookie: a=1\r\nCookie: b=2\r\n"
            b"Via: 1.1 tokenproxy\r\nAuthorization: Bearer token-1\r\n\r\n"
        )


@pytest.mark.parametrize(
    ("path", "sent", "seen"),
    [
        ("", b"/books", b"/"),
        ("", b"/books/", b"/"),
        ("", b"/books?x", b"/?x"),
        ("", b"/books/?", b"/?"),
        ("", b"/books?", b"/?"),
        ("", b"/books/a%2Fb//c;d=1?e=%2f&f=a+b?&&", b"/a%2Fb//c;d=1?e=%2f&f=a+b?&&"),
        ("", b"/books//x", b"//x"),
        ("", b"/books/v1.0/.well-known/a..b/...", b"/v1.0/.well-known/a..b/..."),
        ("", b"/books/x?to=../../y", b"/x?to=../../y"),
        ("", b"/books/%41%zz%7e", b"/%41%zz%7e"),
        ("/api/v2", b"/books", b"/api/v2/"),
        ("/api/v2", b"/books/a?b", b"/api/v2/a?b"),
        ("", b"http://localhost/books/x?y", b"/x?y"),
        ("", b"HTTP://127.0.0.1:99/books", b"/"),
    ],
)
async def test_what_follows_the_prefix_is_kept(path: str, sent: bytes, seen: bytes) -> None:
    """Decoding or tidying a path changes what it names, and signatures over it (RFC 9110 section 7.7)."""
    async with stage(route={"path": path}) as s:
        caller = await s.caller()
        assert (await caller.get(sent)).status == 200
        assert s.upstream.seen[0].target == seen


@pytest.mark.parametrize("sent", [b"/bookshelf", b"/book", b"/Books/x", b"/", b"/x/books/"])
async def test_a_prefix_ends_at_a_segment(sent: bytes) -> None:
    """``/books/`` must not lend its token to ``/bookshelf``."""
    async with stage() as s:
        answer = await (await s.caller()).get(sent)
        assert (answer.status, answer.code) == (404, "no_route")
        assert not s.upstream.seen


async def test_the_longest_prefix_and_the_host_decide() -> None:
    """Each route has its own token, so that a request must never take the wrong one."""

    def routes(port: int) -> list[object]:
        return [
            route_to(port, name="a", prefix="/", account="everything"),
            route_to(port, name="b", prefix="/books/", account="books"),
            route_to(port, name="c", prefix="/books/rare/", account="rare"),
            route_to(port, name="d", prefix="/", host="roster.local", account="roster"),
        ]

    async with stage(routes=routes) as s:  # type: ignore[arg-type]
        for account, generation in (("everything", 1), ("books", 2), ("rare", 3), ("roster", 4)):
            s.source.generations[account] = generation
        caller = await s.caller()
        await caller.get(b"/other")
        await caller.get(b"/books/x")
        await caller.get(b"/books/rare")
        await caller.get(b"http://Roster.local:80/books/x", b"X-Host: other")
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-2", b"token-3", b"token-4"]


async def test_hop_by_hop_fields_stay_here() -> None:
    """RFC 9110 section 7.6.1; all Connection lines count, the first one empty or not (CVE-2021-33197)."""
    async with stage() as s:
        answer = await (await s.caller()).get(
            b"/books/x",
            b"Connection:",
            b"Connection: X-Mine, keep-alive ,x-yours",
            b"X-Mine: 1",
            b"x-Yours: 2",
            b"X-Theirs: 3",
            b"Keep-Alive: timeout=5",
            b"TE: trailers;q=0.5, gzip",
            b"Trailer: X-T",
            b"Proxy-Authorization: Basic eDp5",
            b"Proxy-Connection: keep-alive",
            b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
            b"Content_Length: 5",
            b"Transfer_Encoding: chunked",
        )
        assert answer.status == 200
        assert s.upstream.seen[0].fields == [
            b"Host: api.example",
            b"X-Theirs: 3",
            b"Via: 1.1 tokenproxy",
            b"Authorization: Bearer token-1",
        ]


async def test_connection_cannot_nominate_away_what_we_add() -> None:
    """Strip first, add ours last: else ``Connection: Authorization`` would send requests without a token."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(post(b"abc", b"/books/x", b"Connection: authorization, host, content-length, via"))
        assert (await caller.answer()).status == 200
        (seen,) = s.upstream.seen
        assert (seen.token, seen.body) == (b"token-1", b"abc")
        assert seen.values(b"host") == [b"api.example"]


@pytest.mark.parametrize(
    "field",
    [
        b"X-Access-Token: mine",
        b"x-access-token: mine",
        b"X_ACCESS_TOKEN: mine",
        b"X.Access_Token: mine",
        b"x-Access_token: mine",
    ],
)
async def test_only_our_token_stands_in_its_place(field: bytes) -> None:
    """WSGI and CGI read ``X_Access_Token`` and ``X-Access-Token`` as one: no spelling of a caller may win over ours."""
    async with stage(route={"header": "x-access-token"}) as s:
        assert (await (await s.caller()).get(b"/books/x", field, field, b"X-Other: 1")).status == 200
        assert s.upstream.seen[0].fields == [
            b"Host: api.example",
            b"X-Other: 1",
            b"Via: 1.1 tokenproxy",
            b"x-access-token: token-1",
        ]


async def test_a_callers_authorization_goes_on_only_where_the_route_says_so() -> None:
    """A caller's own credential is not for everybody's upstream; where our token takes its place, never."""
    mine = b"Authorization: Basic eDp5"

    def routes(port: int) -> list[object]:
        return [
            route_to(port, name="plain", header="x-key"),
            route_to(port, name="passes", header="x-key", passed=frozenset({"authorization"})),
            route_to(port, name="wrong", passed=frozenset({"authorization"})),
        ]

    async with stage(routes=routes) as s:  # type: ignore[arg-type]
        caller = await s.caller()
        for name in (b"plain", b"passes", b"wrong"):
            assert (await caller.get(b"/" + name, mine)).status == 200
        values = [seen.values(b"authorization") for seen in s.upstream.seen]
        assert values == [[], [b"Basic eDp5"], [b"Bearer token-1"]]


async def test_the_account_may_come_from_a_header_that_goes_no_further() -> None:
    """One registration, many people: each request carries its own person's token."""
    route = {"account": "crm/{header:x-user}"}
    async with stage(route=route) as s:
        s.source.accounts = {"crm/anna", "crm/ben@x.example"}
        caller = await s.caller()
        assert (await caller.get(b"/books/x", b"X-User: anna", b"X_User: ben")).status == 200
        assert (await caller.get(b"/books/x", b"x-user: ben@x.example")).status == 200
        assert [seen.token for seen in s.upstream.seen] == [b"token-anna1", b"token-ben@x.example1"]
        assert not any(b"user" in field.lower() for seen in s.upstream.seen for field in seen.fields)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"X-User: a/b",),
        (b"X-User: {x}",),
        (b"X-User:",),
        (b"X-User: anna", b"X-User: ben"),
        (b"X-User: eve",),
    ],
)
async def test_an_unknown_person_gets_503_and_leaves_nothing(fields: tuple[bytes, ...]) -> None:
    """Names come from callers: kept state per name would let them fill the memory."""
    async with stage(route={"account": "crm/{header:x-user}"}) as s:
        s.source.accounts = {"crm/anna"}
        answer = await (await s.caller()).get(b"/books/x", *fields)
        assert answer.status == 503
        assert not s.upstream.seen
        assert set(s.metrics.routes) == {"books"}


async def test_bodies_keep_their_framing() -> None:
    """A length stays a length, chunks stay chunks; pieces may be cut anew."""
    async with stage() as s:
        caller = await s.caller()
        assert (await caller.post(b"x" * 1000, b"/books/x", b"X-After: 1")).status == 200
        await caller.send(
            b"PUT /books/y HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
            + chunked(b"one", b"two", trailer=b"X-T: 1\r\n")
        )
        assert (await caller.answer()).status == 200
        first, second = s.upstream.seen
        assert (first.body, first.values(b"content-length"), first.values(b"transfer-encoding")) == (
            b"x" * 1000,
            [b"1000"],
            [],
        )
        assert (second.body, second.values(b"content-length"), second.values(b"transfer-encoding")) == (
            b"onetwo",
            [],
            [b"chunked"],
        )


async def test_a_get_without_a_body_stays_without() -> None:
    """Some upstreams refuse a GET that says anything about a body; and no User-Agent of ours is added."""
    async with stage() as s:
        await (await s.caller()).get()
        assert s.upstream.seen[0].fields == [
            b"Host: api.example",
            b"Via: 1.1 tokenproxy",
            b"Authorization: Bearer token-1",
        ]


async def test_content_length_zero_stays() -> None:
    """Some upstreams answer 411 to a POST that does not say that its body is empty."""
    async with stage() as s:
        caller = await s.caller()
        assert (await caller.post(b"")).status == 200
        assert s.upstream.seen[0].values(b"content-length") == [b"0"]


async def test_an_old_caller_is_answered_in_its_own_way() -> None:
    """HTTP/1.0: no chunks, closed unless it asks for keep-alive (RFC 9112 sections 6.1 and 9.3)."""
    async with stage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c")) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = await caller.answer()
        assert answer.body == b"abc"
        assert answer.values(b"connection") == [b"close"]
        assert s.upstream.seen[0].line == b"GET /x HTTP/1.1"

        s.upstream.script = ok(b"sized")
        caller = await s.caller()
        for _ in range(2):
            await caller.send(b"GET /books/x HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n")
            answer = await caller.answer()
            assert (answer.body, answer.values(b"connection")) == (b"sized", [b"keep-alive"])


async def test_a_caller_that_says_close_is_closed() -> None:
    """And sees that in the answer (RFC 9112 section 9.6)."""
    async with stage() as s:
        caller = await s.caller()
        answer = await caller.get(b"/books/x", b"Connection: close")
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""


async def test_an_upgrade_is_not_passed_on_and_ends_the_connection() -> None:
    """RFC 9931: after a refused upgrade nobody knows what the next bytes are."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(
            b"GET /books/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            b"GET /books/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = await caller.answer()
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""
        assert [seen.target for seen in s.upstream.seen] == [b"/x"]
        assert not s.upstream.seen[0].values(b"upgrade")


async def test_requests_that_came_at_once_are_answered_in_order() -> None:
    """Pipelining (RFC 9112 section 9.3.2): one at a time, whatever the upstream's speed."""

    async def script(line: Line) -> None:
        await line.body()
        await line.send(ok(line.seen.target))

    async with stage(script) as s:
        caller = await s.caller()
        requests = [b"GET /books/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(10)]
        requests.insert(5, post(b"abc", b"/books/post"))
        await caller.send(b"".join(requests))
        bodies = [(await caller.answer()).body for _ in requests]
        assert bodies == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/post", b"/5", b"/6", b"/7", b"/8", b"/9"]


async def test_a_flood_of_early_requests_is_held_back() -> None:
    """What comes ahead of its turn is bounded: the caller is not read from until its turn has come."""
    async with stage() as s:
        caller = await s.caller()
        one = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1000 + b"\r\n\r\n"
        caller.writer.write(one * 500)
        for _ in range(500):
            assert (await caller.answer()).status == 200


async def test_a_request_may_come_byte_by_byte() -> None:
    """Segments fall where they like."""
    async with stage() as s:
        caller = await s.caller()
        for byte in post(b"abc", b"/books/x", b"X-A: b"):
            await caller.send(bytes([byte]))
        assert (await caller.answer()).body == b"hello"
        assert s.upstream.seen[0].body == b"abc"


async def test_several_upstreams_have_several_pools() -> None:
    """A connection, and with it a token, belongs to one origin."""
    other = await ScriptedUpstream(ok(b"other")).start()

    def routes(port: int) -> list[object]:
        return [route_to(port), route_to(other.port, name="other")]

    async with stage(routes=routes) as s:  # type: ignore[arg-type]
        caller = await s.caller()
        for _ in range(3):
            assert (await caller.get(b"/books/x")).body == b"hello"
            assert (await caller.get(b"/other/x")).body == b"other"
        assert (s.upstream.connections, other.connections) == (1, 1)
    await other.stop()


async def test_what_happened_is_told_once_a_request() -> None:
    """The log hook gets words and numbers, never a query or a token."""
    async with stage() as s:
        caller = await s.caller()
        await caller.get(b"/books/x?token=secret")
        await caller.get(b"/nope?token=secret")
        await until(lambda: len(s.logged) == 2)
        first, second = s.logged
        assert (first.route, first.account, first.method, first.path) == ("books", "books", "GET", "/books/x")
        assert (first.status, first.code, first.attempts) == (200, "", 1)
        assert 0 < first.upstream_seconds < first.seconds
        assert (second.route, second.path, second.status, second.code) == ("", "/nope", 404, "no_route")
        found = s.metrics.routes["books"]
        assert (found.requests[2, "ok"], found.in_flight, found.bytes_down) == (1, 0, 5)
        assert (sum(found.overhead.counts), sum(found.upstream.counts)) == (1, 1)
        assert s.metrics.refused == {"no_route": 1}


async def test_expect_is_passed_on_and_so_is_the_100() -> None:
    """RFC 9110 section 10.1.1: the upstream may refuse before the body is sent; the caller waits for its word."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await line.body()
        await line.send(ok(line.seen.body))

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await caller.answer()).head == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"abc")
        assert (await caller.answer()).body == b"abc"
        assert (await caller.get()).body == b""


async def test_an_upstream_that_ignores_expect_does_not_stop_the_request() -> None:
    """The caller would wait for a 100 that never comes."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
        )
        assert (await caller.answer()).status == 100
        await caller.send(b"abc")
        assert (await caller.answer()).body == b"hello"


async def test_a_final_answer_instead_of_100_closes_the_connection() -> None:
    """The body was never sent, so that what comes next on either connection is unclear (CVE-2024-24791)."""

    async def script(line: Line) -> None:
        await line.send(ok(b"too big", status=b"413 Content Too Large"))

    async with stage(script) as s:
        caller: Caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = await caller.answer()
        assert (answer.status, answer.body, answer.values(b"connection")) == (413, b"too big", [b"close"])
        assert await caller.rest() == b""
        await until(lambda: s.upstream.open == 0)
