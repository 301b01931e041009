"""What is refused before a token is touched."""

from __future__ import annotations

import pytest

from tests.proxy.actors import Caller, Line, chunked, ok, route_to, stage, until
from tokenproxy.core.settings import Deadlines, Limits
from tokenproxy.proxy import caller as caller_side
from tokenproxy.proxy import side

HOST = b"Host: localhost\r\n"


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n"


def get(*fields: bytes) -> bytes:
    return head(b"GET /books/x HTTP/1.1", *fields)


def posted(*fields: bytes, body: bytes = b"") -> bytes:
    return head(b"POST /books/x HTTP/1.1", b"Host: localhost", *fields) + body


HIDDEN = b"GET /books/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
TE = b"Transfer-Encoding: chunked"

MALFORMED = {
    # RFC 9112 section 2.3: the version
    "version-0.9": b"GET /books/x\r\n\r\n",
    "version-2.0": head(b"GET /books/x HTTP/2.0", b"Host: localhost"),
    "version-1.2": head(b"GET /books/x HTTP/1.2", b"Host: localhost"),
    "version-1.01": head(b"GET /books/x HTTP/1.01", b"Host: localhost"),
    "version-words": head(b"GET /books/x HTTPS/1.1", b"Host: localhost"),
    "h2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    # RFC 9112 section 3.2: Host
    "no-host": get(),
    "no-host-1.0": head(b"GET /books/x HTTP/1.0"),
    "two-hosts": get(b"Host: localhost", b"Host: localhost"),
    "host-empty": get(b"Host:"),
    "host-list": get(b"Host: localhost, localhost"),
    "host-path": get(b"Host: localhost/x"),
    "host-user": get(b"Host: me@localhost"),
    "host-blank": get(b"Host: local host"),
    "host-port": get(b"Host: localhost:http"),
    "host-two-ports": get(b"Host: localhost:1:2"),
    "host-bytes": get(b"Host: localhost\xff"),
    "absolute-user": head(b"GET http://me:pw@localhost/books/x HTTP/1.1", b"Host: localhost"),
    # RFC 9112 section 6: framing
    "te-and-length": posted(TE, b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "length-and-te": posted(b"Content-Length: 5", TE, body=b"0\r\n\r\n" + HIDDEN),
    "te-empty-and-length": posted(b"Transfer-Encoding:", b"Content-Length: 3", body=b"abc"),
    "te-empty": posted(b"Transfer-Encoding:"),
    "te-gzip": posted(b"Transfer-Encoding: gzip"),
    "te-gzip-chunked": posted(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "te-chunked-gzip": posted(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "te-identity": posted(b"Transfer-Encoding: identity"),
    "te-twice": posted(TE, TE, body=b"0\r\n\r\n"),
    "te-chunked-chunked": posted(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "te-quoted": posted(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "te-tab": posted(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "te-parameter": posted(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"),
    "te-1.0": head(b"POST /books/x HTTP/1.0", b"Host: localhost", TE) + b"0\r\n\r\n",
    "length-twice": posted(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "length-twice-same": posted(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "length-list": posted(b"Content-Length: 3, 3", body=b"abc"),
    "length-plus": posted(b"Content-Length: +3", body=b"abc"),
    "length-minus": posted(b"Content-Length: -3", body=b"abc"),
    "length-hex": posted(b"Content-Length: 0x3", body=b"abc"),
    "length-empty": posted(b"Content-Length:", body=b"abc"),
    "length-word": posted(b"Content-Length: three", body=b"abc"),
    "length-huge": posted(b"Content-Length: 99999999999999999999999", body=b"abc"),
    "length-blank": posted(b"Content-Length: 1 1", body=b"abc"),
    # RFC 9112 sections 2.2 and 5
    "lf-only": b"GET /books/x HTTP/1.1\nHost: localhost\n\n",
    "lf-in-field": b"GET /books/x HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
    "bare-cr": get(b"Host: localhost", b"X: a\rb"),
    "nul": get(b"Host: localhost", b"X: a\x00b"),
    "control": get(b"Host: localhost", b"X: a\x01b"),
    "delete": get(b"Host: localhost", b"X: a\x7fb"),
    "blank-before-colon": get(b"Host: localhost", b"X : a"),
    "blank-before-te-colon": posted(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "folded": get(b"Host: localhost", b"X: a", b" b"),
    "folded-first": b"GET /books/x HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "no-name": get(b"Host: localhost", b": a"),
    "no-colon": get(b"Host: localhost", b"X"),
    "name-bytes": get(b"Host: localhost", b"X\xff: a"),
    "name-blank": get(b"Host: localhost", b"X Y: a"),
    # the target
    "target-control": head(b"GET /books/\x01 HTTP/1.1", b"Host: localhost"),
    "target-blank": head(b"GET /books/ x HTTP/1.1", b"Host: localhost"),
    "target-bytes": head(b"GET /books/\xff HTTP/1.1", b"Host: localhost"),
    "target-fragment": head(b"GET /books/x#y HTTP/1.1", b"Host: localhost"),
    "target-fragment-in-query": head(b"GET /books/x?a#y HTTP/1.1", b"Host: localhost"),
    "target-bare": head(b"GET books/x HTTP/1.1", b"Host: localhost"),
    "target-star": head(b"GET * HTTP/1.1", b"Host: localhost"),
    "target-https-user": head(b"GET https://me@localhost/books/x HTTP/1.1", b"Host: localhost"),
    "target-ftp": head(b"GET ftp://localhost/books/x HTTP/1.1", b"Host: localhost"),
    # methods
    "method-unknown": head(b"FOO /books/x HTTP/1.1", b"Host: localhost"),
    "method-lower": head(b"get /books/x HTTP/1.1", b"Host: localhost"),
    "method-brackets": head(b"G{}T /books/x HTTP/1.1", b"Host: localhost"),
    "connect-path": head(b"CONNECT /books/x HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-no-port": head(b"CONNECT localhost HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-empty-port": head(b"CONNECT localhost: HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-port-0": head(b"CONNECT localhost:0 HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-port-large": head(b"CONNECT localhost:65536 HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-user": head(b"CONNECT me@localhost:80 HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-url": head(b"CONNECT http://localhost:80 HTTP/1.1", b"Host: localhost") + HIDDEN,
    "connect-no-host": head(b"CONNECT localhost:80 HTTP/1.1") + HIDDEN,
    "connect-chunked": head(b"CONNECT localhost:80 HTTP/1.1", b"Host: localhost", TE) + HIDDEN,
    "connect-length": head(b"CONNECT localhost:80 HTTP/1.1", b"Host: localhost", b"Content-Length: 3") + HIDDEN,
    "trace": head(b"TRACE /books/x HTTP/1.1", b"Host: localhost"),
    "expect": posted(b"Expect: 200-ok", b"Content-Length: 3", body=b"abc"),
    # paths that a lax upstream may resolve out of the route
    "dots": head(b"GET /books/../crm/x HTTP/1.1", b"Host: localhost"),
    "dot": head(b"GET /books/./x HTTP/1.1", b"Host: localhost"),
    "dots-at-end": head(b"GET /books/x/.. HTTP/1.1", b"Host: localhost"),
    "dots-encoded": head(b"GET /books/%2e%2E/crm HTTP/1.1", b"Host: localhost"),
    "dots-half-encoded": head(b"GET /books/.%2e/crm HTTP/1.1", b"Host: localhost"),
    "dots-slash-encoded": head(b"GET /books/x%2F..%2fcrm HTTP/1.1", b"Host: localhost"),
    "dots-backslash": head(b"GET /books/x\\..\\crm HTTP/1.1", b"Host: localhost"),
    "dots-backslash-encoded": head(b"GET /books/%5c..%5Ccrm HTTP/1.1", b"Host: localhost"),
    "dots-parameter": head(b"GET /books/..;/crm HTTP/1.1", b"Host: localhost"),
    "dots-before-query": head(b"GET /books/..?x HTTP/1.1", b"Host: localhost"),
    "dots-absolute": head(b"GET http://localhost/books/../x HTTP/1.1", b"Host: localhost"),
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_not_proper_http_never_reaches_an_upstream(data: bytes) -> None:
    """Each of these is read differently by some server: passed on with a token it would be a weapon."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(data)
        answer = await caller.answer()
        assert (answer.status, answer.code) == (400, "bad_request")
        assert answer.head.startswith(b"HTTP/1.1 ")
        assert answer.values(b"connection") == [b"close"]
        assert answer.values(b"cache-control") == [b"no-store"]
        assert await caller.rest() == b""
        assert not s.upstream.seen
        assert s.metrics.refused == {"bad_request": 1}


async def test_connect_is_refused_with_a_clear_word() -> None:
    """RFC 9110 section 9.3.6: what a tunnel carries cannot be given a token, and nobody has allowed one."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n" + HIDDEN)
        answer = await caller.answer()
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert "CONNECT" in answer.problem["detail"]
        assert "http://" in answer.problem["next_step"]
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""
        assert not s.upstream.seen


async def test_connect_needs_the_caller_s_key_like_anything_else() -> None:
    async with stage(caller_keys=("let-me-in",)) as s:
        caller = await s.caller()
        await caller.send(b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n")
        assert (await caller.answer()).code == "caller_unauthorized"


BROKEN_BODIES = {
    "chunk-size-word": b"zz\r\n",
    "chunk-size-minus": b"-1\r\nabc\r\n",
    "chunk-size-blank": b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk-size-overflow": b"fffffffffffffffff\r\nabc",
    "chunk-size-prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk-longer": b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk-lf": b"3\nabc\r\n0\r\n\r\n",
    "chunk-data-lf": b"3\r\nabc\n0\r\n\r\n",
    "extension-control": b"3;a=\x00\r\nabc\r\n0\r\n\r\n",
    "trailer-length": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer-te": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer-broken": b"0\r\nX : y\r\n\r\n",
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "later"])
@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
async def test_a_broken_chunked_body_ends_the_request(body: bytes, *, at_once: bool) -> None:
    """RFC 9112 section 7.1; the upstream must see a body that is cut, never one that looks whole."""
    async with stage() as s:
        caller = await s.caller()
        start = posted(TE) + b"3\r\nxyz\r\n"
        if at_once:
            await caller.send(start + body)
        else:
            await caller.send(start)
            await caller.send(body)
        assert (await caller.answer()).code == "bad_request"
        assert await caller.rest() == b""
        assert not any(seen.body for seen in s.upstream.seen)


async def test_chunk_extensions_are_bounded() -> None:
    """RFC 9112 section 7.1.1: extensions are ignored here, and without a bound they are free work for us."""
    async with stage() as s:
        caller = await s.caller()
        caller.writer.write(posted(TE) + b"1;" + b"x" * 20_000 + b"\r\na\r\n")
        for _ in range(20):
            caller.writer.write(b"1;" + b"x" * 20_000 + b"\r\na\r\n")
        assert (await caller.answer()).code == "bad_request"


async def test_small_chunks_are_no_attack() -> None:
    """A body in chunks of one byte is six times its size on the wire, and legal."""
    async with stage() as s:
        caller = await s.caller()
        pieces = [b"x"] * 50_000
        await caller.send(posted(TE))
        await caller.send(chunked(*pieces))
        assert (await caller.answer()).status == 200
        assert s.upstream.seen[0].body == b"x" * 50_000


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "later"])
@pytest.mark.parametrize(
    "trailer", [b"Authorization: Bearer stolen", b"X-User: eve", b"Host: evil.example", b"Upgrade: websocket"]
)
async def test_a_trailer_does_not_become_a_field_of_the_next_request(
    trailer: bytes, *, at_once: bool
) -> None:
    """The parser keeps the last trailer line and puts it before the next message's fields (RFC 9110 section 6.5.1)."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(posted(TE) if not at_once else b"")
        await caller.send((posted(TE) if at_once else b"") + chunked(b"abc", trailer=trailer + b"\r\n"))
        assert (await caller.answer()).status == 200
        assert (await caller.get(b"/books/second")).status == 200
        first, second = s.upstream.seen
        assert first.body == b"abc"
        assert second.fields == [
            b"Host: api.example",
            b"Via: 1.1 tokenproxy",
            b"Authorization: Bearer token-1",
        ]


async def test_a_request_behind_a_chunked_one_in_the_same_segment_is_answered_without_its_trailer() -> None:
    """Pipelining (RFC 9112 section 9.3.2) after a trailer section (RFC 9110 section 6.5.1)."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(posted(TE) + chunked(b"abc", trailer=b"X-User: eve\r\n") + HIDDEN)
        for _ in range(2):
            assert (await caller.answer()).body == b"hello"
        assert [seen.target for seen in s.upstream.seen] == [b"/x", b"/hidden"]
        assert s.upstream.seen[1].fields == [
            b"Host: api.example",
            b"Via: 1.1 tokenproxy",
            b"Authorization: Bearer token-1",
        ]


@pytest.mark.parametrize(
    "fields",
    [
        (b"X-Long: " + b"x" * 40_000,),
        tuple(b"X-%d: y" % number for number in range(200)),
        tuple(b"X-%d: " % number + b"y" * 1000 for number in range(40)),
    ],
    ids=["one-long", "many", "all-together"],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-pieces"])
async def test_a_head_that_is_too_large_is_431(fields: tuple[bytes, ...], *, at_once: bool) -> None:
    """RFC 6585 section 5; and nobody's memory is filled by one caller's head."""
    async with stage() as s:
        caller = await s.caller()
        data = get(b"Host: localhost", *fields)
        if at_once:
            await caller.send(data)
        else:
            for at in range(0, len(data), 1000):
                caller.writer.write(data[at : at + 1000])
        answer = await caller.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
        assert not s.upstream.seen


async def test_an_early_head_that_is_too_large_is_431() -> None:
    """Pipelined behind another request it is held to the same limit."""
    async with stage() as s:
        caller = await s.caller()
        large = get(b"Host: localhost", *(b"X-%d: " % number + b"y" * 1000 for number in range(40)))
        await caller.send(get(b"Host: localhost"))
        await caller.send(large)
        assert (await caller.answer()).status == 200
        assert (await caller.answer()).code == "head_too_large"


async def test_a_target_that_is_too_long_is_431() -> None:
    async with stage(limits=Limits(head=2000)) as s:
        answer = await (await s.caller()).get(b"/books/" + b"x" * 2000)
        assert (answer.status, answer.code) == (431, "head_too_large")


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:80",
        b"127.0.0.1",
        b"127.9.8.7:1",
        b"[::1]:8080",
        b"proxy.internal",
        b"roster.local:1",
    ],
)
async def test_our_own_names_are_let_in(host: bytes) -> None:
    def routes(port: int) -> list[object]:
        return [route_to(port), route_to(port, name="r", prefix="/books/", host="roster.local")]

    async with stage(routes=routes, hosts=frozenset({"Proxy.internal"})) as s:  # type: ignore[arg-type]
        caller = await s.caller()
        await caller.send(get(b"Host: " + host))
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"128.0.0.1",
        b"[::2]",
        b"api.example",
        b"0.0.0.0",
    ],
)
async def test_foreign_names_are_refused(host: bytes) -> None:
    """DNS rebinding: a page's own name that points at 127.0.0.1 (Ollama, CVE-2024-28224)."""
    async with stage(hosts=frozenset({"proxy.internal"})) as s:
        for data, refusal in (
            (get(b"Host: " + host), (403, "host_refused")),
            (head(b"GET http://" + host + b"/books/x HTTP/1.1", b"Host: localhost"), (404, "no_route")),
        ):
            caller = await s.caller()
            await caller.send(data)
            answer = await caller.answer()
            assert (answer.status, answer.code) == refusal
            assert host not in answer.body
        assert not s.upstream.seen


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((b"Sec-Fetch-Site: none",), 200),
        ((b"Sec-Fetch-Site: same-origin", b"Origin: http://localhost"), 200),
        ((b"Origin: http://localhost",), 200),
        ((b"Sec-Fetch-Site: same-site",), 403),
        ((b"Sec-Fetch-Site: cross-site",), 403),
        ((b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: cross-site"), 403),
        ((b"Sec-Fetch-Site:",), 403),
        ((b"Origin: https://evil.example",), 403),
        ((b"Origin: null",), 403),
        ((b"Origin: https://localhost",), 403),
        ((b"Origin: http://localhost:81",), 403),
        ((b"Sec-Fetch-Site: same-origin", b"Origin: https://evil.example"), 403),
        ((b"Sec-Fetch-Site: cross-site", b"Origin: https://Intranet.example"), 200),
        ((b"Origin: https://intranet.example.evil.example",), 403),
    ],
)
async def test_web_pages_of_others_are_kept_out(fields: tuple[bytes, ...], status: int) -> None:
    """A page in somebody's browser can send requests to loopback; it must not do so with a token."""
    async with stage(route={"origins": frozenset({"https://intranet.example"})}) as s:
        answer = await (await s.caller()).get(b"/books/x", *fields)
        assert answer.status == status
        assert len(s.upstream.seen) == (1 if status == 200 else 0)
        if status == 403:
            assert answer.code == "origin_refused"


async def test_a_preflight_is_not_answered_with_leave() -> None:
    """The browser asks before it sends; saying nothing about CORS is a no."""
    async with stage() as s:
        answer = await (await s.caller()).get(
            b"/books/x",
            b"Origin: https://evil.example",
            b"Access-Control-Request-Method: DELETE",
            method=b"OPTIONS",
        )
        assert answer.code == "origin_refused"
        assert not answer.values(b"access-control-allow-origin")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((b"Tokenproxy-Key: one",), 200),
        ((b"tokenproxy-key: two",), 200),
        ((), 401),
        ((b"Tokenproxy-Key: ONE",), 401),
        ((b"Tokenproxy-Key:",), 401),
        ((b"Tokenproxy-Key: one", b"Tokenproxy-Key: two"), 401),
        ((b"Tokenproxy_Key: one",), 401),
    ],
)
async def test_callers_show_their_key_where_there_is_one(fields: tuple[bytes, ...], status: int) -> None:
    """The key opens every account behind the proxy, so that it goes no further than here."""
    async with stage(ok(b"in"), caller_keys=("one", "two")) as s:
        answer = await (await s.caller()).get(b"/books/x", *fields)
        assert answer.status == status
        if status == 401:
            assert answer.code == "caller_unauthorized"
            assert answer.values(b"www-authenticate") == [b"Tokenproxy-Key"]
            assert not s.upstream.seen
        else:
            assert not any(b"key" in field.lower() for field in s.upstream.seen[0].fields)


async def test_a_good_request_before_broken_bytes_is_answered() -> None:
    """In one segment: the parser would forget the good one (its messages are lost when it raises)."""
    async with stage() as s:
        caller: Caller = await s.caller()
        await caller.send(get(b"Host: localhost") + get(b"Host: localhost") + b"\x00garbage\r\n\r\n")
        assert (await caller.answer()).status == 200
        assert (await caller.answer()).status == 200
        answer = await caller.answer()
        assert (answer.status, answer.code) == (400, "bad_request")
        assert await caller.rest() == b""


async def test_a_refusal_leaves_time_to_read_the_answers_before_it() -> None:
    """RFC 9112 section 9.6: what the caller sends meanwhile must not make the connection be reset."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(get(b"Host: localhost") + get(b"Host: evil.example"))
        await until(lambda: any(each.lingering for each in s.plane.callers))
        await caller.send(HIDDEN)
        assert (await caller.answer()).body == b"hello"
        assert (await caller.answer()).code == "host_refused"
        assert await caller.reader.read() == b""


async def test_a_caller_that_stays_after_an_early_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload that its answer cut short must not lift the time that it has to read it."""
    monkeypatch.setattr(caller_side, "LINGER_SECONDS", 0.05)

    async def early(line: Line) -> None:
        await line.send(ok(b"early"))

    async with stage(early, deadlines=Deadlines(head=0.1)) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 200
        await caller.send(posted(b"Content-Length: 100") + b"abc")
        await until(lambda: any(each.lingering for each in s.plane.callers))
        await until(lambda: not s.plane.callers)


async def test_a_slow_caller_gets_all_of_an_early_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9112 section 9.6: the short wait for its last bytes begins when ours have gone."""
    monkeypatch.setattr(side, "WRITE_HIGH", 1 << 30)
    monkeypatch.setattr(caller_side, "LINGER_SECONDS", 0.01)
    size = 20 << 20

    async def early(line: Line) -> None:
        await line.send(ok(b"x" * size))

    async with stage(early, deadlines=Deadlines(head=0.1)) as s:  # so that the sweep is quick
        caller = await s.caller()
        await caller.send(posted(b"Content-Length: 100"))
        await until(lambda: any(each.lingering for each in s.plane.callers))
        before = s.plane.monotonic()
        await until(lambda: s.plane.monotonic() > before + 0.1)
        assert (await caller.answer()).body == b"x" * size


async def test_a_refusal_says_what_to_do_and_quotes_nothing() -> None:
    """RFC 9457; what came in is somebody's secret, or somebody's script."""
    async with stage() as s:
        answer = await (await s.caller()).get(b"/secret-path?secret-query", b"X-Secret: secret-value")
        assert answer.problem == {
            "type": "urn:tokenproxy:no_route",
            "title": "No route takes this request",
            "status": 404,
            "code": "no_route",
            "detail": "No route's host and prefix match this request.",
            "next_step": "Compare the path with the prefix of each [routes.NAME] in the config.",
        }
        assert b"secret" not in answer.head + answer.body


async def test_a_refused_head_request_has_no_body() -> None:
    """RFC 9110 section 9.3.2."""
    async with stage() as s:
        caller = await s.caller()
        await caller.send(b"HEAD /nope HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await caller.head()).status == 404
        assert await caller.rest() == b""
