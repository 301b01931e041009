"""The X-Proxy form: where a request may say itself where it goes, and everything that must not get through."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.actors import Answer, Line, Stage, ok, route_to, stage, unless, until
from tests.simulators import FakeClock
from tokenproxy.core.callers import Caller, Login
from tokenproxy.core.interfaces import StateValue
from tokenproxy.core.provider import Account, Provider, Registration, Setting, Signal
from tokenproxy.core.routes import Target, Upstream
from tokenproxy.core.settings import TLSFiles
from tokenproxy.core.signals import Signals
from tokenproxy.oauth.state import LoginState
from tokenproxy.stores.memory import MemoryStore

ACCOUNT = Account(
    name="books",
    provider=Provider(name="plain", token_url="https://login.example/token"),
    registration=Registration(client_id="c"),
    settings={"secret": Setting(value="planted", backend=True)},
)
PAGE = b"Origin: https://apps.example"


class Names:
    """A resolver that says what the test says, and remembers who was asked for."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = {name.replace("_", "."): list(found) for name, found in known.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError("no such name")
        return self.known[host]


class Desk:
    """A stage whose one route has targets."""

    def __init__(self, s: Stage, state: LoginState, names: Names) -> None:
        self.s = s
        self.state = state
        self.names = names

    async def ask(
        self,
        url: str,
        *fields: bytes,
        method: str | None = None,
        headers: Any = None,
        body: bytes = b"",
        outer: bytes = b"POST",
    ) -> Answer:
        """As the app SDK does it: a POST to the prefix, whatever is asked for."""
        lines = [outer + b" /books/ HTTP/1.1", b"Host: localhost", f"X-Proxy-Url: {url}".encode()]
        if method is not None:
            lines.append(f"X-Proxy-Method: {method}".encode())
        if headers is not None:
            lines.append(f"X-Proxy-Headers: {json.dumps(headers)}".encode())
        if outer != b"GET":
            lines.append(b"Content-Length: %d" % len(body))
        caller = await self.s.caller()
        await caller.send(b"\r\n".join([*lines, *fields]) + b"\r\n\r\n" + body)
        return await caller.answer(headless=outer == b"HEAD")

    @property
    def url(self) -> str:
        """Of the upstream, by its address, which the entries name."""
        return f"http://127.0.0.1:{self.s.upstream.port}"


def entry(port: int, path: str = "/api/**", *, host: str = "127.0.0.1", **more: Any) -> Target:
    upstream = Upstream(scheme="http", host=host, port=port, authority=f"{host}:{port}")
    return Target(upstream=upstream, path=path, **more)


@asynccontextmanager
async def desk(
    script: Any = b"",
    *entries: dict[str, Any],
    names: Names | None = None,
    route: Any = None,
    **settings: Any,
) -> AsyncIterator[Desk]:
    state = LoginState(MemoryStore(), clock=FakeClock(), accounts=lambda: {"books": ACCOUNT})
    found = names or Names()
    parts: dict[str, Any] = {"values": state} | ({"resolve": found} if names else {})

    def routes(port: int) -> list[Any]:
        targets = tuple(entry(port, **each) for each in entries or ({},))
        chosen = {"placeholders": True, "origins": frozenset({"https://apps.example"}), **(route or {})}
        return [route_to(port, targets=targets, **chosen)]

    async with stage(script or ok(b"hello"), routes=routes, parts=parts, **settings) as s:
        yield Desk(s, state, found)


async def test_a_request_goes_where_it_says() -> None:
    """Method, headers and body are those of the request inside; nothing of the form goes further."""
    async with desk(b"", {"methods": frozenset({"PUT"})}) as d:
        answer = await d.ask(
            f"{d.url}/api/notes?x=1",
            b"X-Proxy-Authorization: Bearer outer",
            b"X-Proxy-Whatever: 1",
            b"Authorization: Bearer outer",
            b"Cookie: outer=1",
            b"Referer: https://apps.example/secret",
            b"X-Own: outer",
            b"User-Agent: outer",
            b"Content-Type: text/plain;charset=UTF-8",
            method="put",
            headers={"Content-Type": "application/json", "X-Thing": "7", "Authorization": "Bearer inner"},
            body=b'{"a": 1}',
        )

        (seen,) = d.s.upstream.seen
        assert answer.body == b"hello"
        assert (seen.line, seen.body) == (b"PUT /api/notes?x=1 HTTP/1.1", b'{"a": 1}')
        assert sorted(seen.fields) == sorted(
            [
                f"Host: 127.0.0.1:{d.s.upstream.port}".encode(),
                b"Content-Type: application/json",
                b"X-Thing: 7",
                b"Authorization: Bearer inner",
                b"User-Agent: outer",
                b"Content-Length: 8",
                b"Via: 1.1 tokenproxy",
            ]
        )
        await until(lambda: d.s.logged)
        assert (d.s.logged[0].route, d.s.logged[0].path) == ("books", "/books/")


async def test_the_method_is_the_request_s_own_where_nothing_is_said() -> None:
    """And the content's type that the browser gave it, where the form says none."""
    async with desk(b"", {"methods": frozenset({"POST"})}, {"methods": frozenset({"GET"})}) as d:
        await d.ask(f"{d.url}/api/a", b"Content-Type: text/plain", body=b"x")
        await d.ask(f"{d.url}/api/b", outer=b"GET")
        await d.ask(f"{d.url}/api/c", b"Content-Type: text/plain", method="GET")

        first, second, third = d.s.upstream.seen
        assert (third.line, third.values(b"content-type")) == (b"GET /api/c HTTP/1.1", [])
        assert (first.line, first.values(b"content-type")) == (b"POST /api/a HTTP/1.1", [b"text/plain"])
        assert (second.line, second.values(b"content-length")) == (b"GET /api/b HTTP/1.1", [])


async def test_what_a_request_inside_may_not_say_is_left_out() -> None:
    """It cannot frame itself, name another host, or reach past this hop."""
    never = [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "TE",
        "Upgrade",
        "Expect",
        "Trailer",
    ]
    never += [
        "Tokenproxy-Key",
        "X-Proxy-Url",
        "Proxy-Authorization",
        "Sec-Fetch-Site",
        "content_length",
        "Keep-Alive",
    ]
    async with desk() as d:
        answer = await d.ask(f"{d.url}/api/", method="GET", headers=dict.fromkeys(never, "7") | {"X-A": "1"})

        (seen,) = d.s.upstream.seen
        assert answer.status == 200
        assert seen.fields == [
            f"Host: 127.0.0.1:{d.s.upstream.port}".encode(),
            b"X-A: 1",
            b"Via: 1.1 tokenproxy",
        ]


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ([b"X-Proxy-Headers: nothing"], "not a JSON object"),
        ([b"X-Proxy-Headers: [1]"], "not a JSON object"),
        ([b"X-Proxy-Headers: " + b"[" * 5000], "not a JSON object"),
        ([b'X-Proxy-Headers: {"a": 1}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"a b": "1"}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"": "1"}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"a": "1\\r\\nX-Admin: 1"}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"a\\r\\nX-Admin": "1"}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"a": "\\u0000"}'], "a field that no request can have"),
        ([b'X-Proxy-Headers: {"a": "\\u20ac"}'], "a field that no request can have"),
        ([b"X-Proxy-Method: POST"], "twice"),
        ([b"X_Proxy_Url: https://evil.example/"], "twice"),
    ],
)
async def test_a_form_that_makes_no_sense(fields: list[bytes], detail: str) -> None:
    """One sentence, and nothing is sent."""
    async with desk() as d:
        answer = await d.ask(f"{d.url}/api/", b"X-Proxy-Method: GET", *fields)

        assert (answer.status, answer.code) == (400, "bad_request")
        assert detail in answer.problem["detail"]
        assert d.s.upstream.seen == []


async def test_a_request_without_the_form_is_told() -> None:
    """Such a route has no upstream of its own."""
    async with desk() as d:
        caller = await d.s.caller()
        answer = await caller.get(b"/books/api/x")
        assert (answer.code, answer.problem["detail"][:31]) == (
            "bad_request",
            "The request has no X-Proxy-Url,",
        )


@pytest.mark.parametrize(
    ("url", "method", "detail"),
    [
        ("http://127.0.0.2:{port}/api/", "GET", "No entry of targets has this scheme, host and port."),
        ("https://127.0.0.1:{port}/api/", "GET", "No entry of targets has this scheme, host and port."),
        ("http://localhost:{port}/api/", "GET", "No entry of targets has this scheme, host and port."),
        ("http://2130706433:{port}/api/", "GET", "No entry of targets has this scheme, host and port."),
        (
            "http://[::ffff:127.0.0.1]:{port}/api/",
            "GET",
            "No entry of targets has this scheme, host and port.",
        ),
        (
            "http://127.0.0.1:{port}/admin",
            "GET",
            "The entries of targets for this host do not have this path.",
        ),
        (
            "http://127.0.0.1:{port}/api/",
            "DELETE",
            "The entry of targets for this address does not have this method.",
        ),
        (
            "http://127.0.0.1:{port}/api/../admin",
            "GET",
            "X-Proxy-Url has a dot segment in its path, plain or encoded.",
        ),
        ("http://127.0.0.1:{port}@evil.example/api/", "GET", "X-Proxy-Url has a user name."),
        ("http://127.0.0.1:{port}/api/#x", "GET", "X-Proxy-Url has a backslash or a fragment."),
        ("http://__secret__:{port}/api/", "GET", "X-Proxy-Url has a placeholder in its host or port."),
        ("http://127.0.0.1:__secret__/api/", "GET", "X-Proxy-Url has a placeholder in its host or port."),
    ],
)
async def test_what_the_list_does_not_have_is_refused(url: str, method: str, detail: str) -> None:
    """With a sentence that says which part did not match; more of them in tests/core/test_targets.py."""
    async with desk() as d:
        answer = await d.ask(url.format(port=d.s.upstream.port), method=method)

        assert (answer.status, answer.code, answer.problem["detail"]) == (403, "not_allowed", detail)
        assert d.s.upstream.connections == 0
        assert "planted" not in answer.body.decode()


async def test_placeholders_in_the_form() -> None:
    """In path, query, headers and body, once the target has been let in."""
    entries = {"path": "/api/*/x", "methods": frozenset({"POST"})}
    async with desk(b"", entries) as d:
        await d.state.put("books", "oauth2/token", StateValue("tok", backend=True))
        await d.state.put("books", "who", StateValue("a b"))
        answer = await d.ask(
            f"{d.url}/api/[user[who]]/x?s=__secret__",
            headers={"Authorization": "Bearer [user[oauth2/token]]", "Content-Type": "application/json"},
            body=b'{"t": "[user[oauth2/token]]"}',
        )

        (seen,) = d.s.upstream.seen
        assert answer.status == 200
        assert (seen.target, seen.token, seen.body) == (b"/api/a%20b/x?s=planted", b"tok", b'{"t": "tok"}')


@pytest.mark.parametrize("value", ["..", "a/b", "../../admin", "%2e%2e", ""])
async def test_a_value_cannot_leave_the_list(value: str) -> None:
    """What is forwarded must match the entry, too."""
    async with desk(b"", {"path": "/api/v*/x"}) as d:
        await d.state.put("books", "who", StateValue(value))
        answer = await d.ask(f"{d.url}/api/[user[who]]/x", method="GET")

        assert answer.code in {"not_allowed", "placeholder_unresolved"}
        assert d.s.upstream.seen == []
        answer = await d.ask(f"{d.url}/api/v[user[who]]/x", method="GET")
        sent = [seen.target for seen in d.s.upstream.seen]
        assert sent in ([], [b"/api/v%252e%252e/x"], [b"/api/v/x"], [b"/api/v../x"])


@pytest.mark.parametrize("placeholders", [True, False])
async def test_an_address_is_sent_as_a_browser_would_send_it(*, placeholders: bool) -> None:
    """Applications write quotes and braces in addresses; an upstream may refuse them raw."""
    async with desk(route={"placeholders": placeholders}) as d:
        await d.ask(f'{d.url}/api/{{x}}?where=Type=="ACCPAY"|<1>', method="GET")
        assert d.s.upstream.seen[0].target == b"/api/%7Bx%7D?where=Type==%22ACCPAY%22%7C%3C1%3E"


async def test_placeholders_need_the_word_here_too() -> None:
    """Without it the text goes as it is."""
    async with desk(route={"placeholders": False}) as d:
        await d.ask(f"{d.url}/api/?s=__secret__", method="GET", headers={"X-A": "__secret__"})
        (seen,) = d.s.upstream.seen
        assert (seen.target, seen.values(b"x-a")) == (b"/api/?s=__secret__", [b"__secret__"])


async def test_our_token_goes_along_where_the_entry_says_so() -> None:
    """With renewal and replay as everywhere; what the caller says in its place is dropped, unless it names a value."""
    async with desk(unless(b"token-1"), {"token": True}) as d:
        await d.state.put("books", "mine", StateValue("mine"))
        plain = await d.ask(f"{d.url}/api/", method="GET", headers={"Authorization": "Bearer theirs"})
        named = await d.ask(f"{d.url}/api/", method="GET", headers={"Authorization": "Bearer [user[mine]]"})

        assert (plain.status, named.status) == (200, 200)
        assert [seen.token for seen in d.s.upstream.seen] == [b"token-1", b"token-2", b"mine"]


async def test_an_upstream_whose_bodies_are_read_is_asked_for_plain_ones_here_too() -> None:
    """Once: what the request inside accepts is not said beside it."""
    told = Signals(when=(Signal(status=(200,), body="token_expired"),))
    async with desk(b"", {"token": True}, route={"signals": told}) as d:
        await d.ask(f"{d.url}/api/", method="GET", headers={"Accept-Encoding": "gzip"})
        assert d.s.upstream.seen[0].values(b"accept-encoding") == [b"identity"]


async def test_without_the_entry_s_word_there_is_no_token_of_ours() -> None:
    """Nor is one needed."""
    async with desk() as d:
        d.s.source.fresh, d.s.source.accounts = False, set()
        answer = await d.ask(f"{d.url}/api/", method="GET")
        assert (answer.status, d.s.upstream.seen[0].values(b"authorization")) == (200, [])


async def test_redirects_are_not_followed() -> None:
    """Where they lead is not on the list."""
    moved = ok(b"", b"Location: http://127.0.0.1:9/", status=b"302 Found")
    async with desk(moved) as d:
        answer = await d.ask(f"{d.url}/api/", method="GET")
        assert (answer.status, answer.values(b"location")) == (302, [b"http://127.0.0.1:9/"])
        assert len(d.s.upstream.seen) == 1


async def test_a_head_inside_a_post_has_no_body_to_wait_for() -> None:
    """Its Content-Length is about a body that nobody sends."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nX-A: 1\r\n\r\n")

    async with desk(script, {"methods": frozenset({"HEAD"})}) as d:
        answer = await d.ask(f"{d.url}/api/", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert (answer.values(b"content-length"), answer.values(b"x-a")) == ([b"0"], [b"1"])
        outside = await d.ask(f"{d.url}/api/", outer=b"HEAD")
        assert outside.values(b"content-length") == [b"5000"]
        refused = await d.ask(f"{d.url}/api/", outer=b"HEAD", method="GET")
        assert refused.status == 400


@pytest.mark.parametrize("begun", [False, True])
async def test_an_entry_has_its_own_time(*, begun: bool) -> None:
    """The whole request's: an answer that drips for ever ends as well, and not as if it were whole."""

    async def script(line: Line) -> None:
        if begun:
            await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nhal")
        await line.reader.read()

    async with desk(script, {"timeout": 0.1}) as d:
        if begun:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await d.ask(f"{d.url}/api/", method="GET")
        else:
            answer = await d.ask(f"{d.url}/api/", method="GET")
            assert (answer.status, answer.code) == (504, "upstream_timeout")
        await until(lambda: d.s.upstream.open == 0)


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["fd00:ec2::254"],
        ["fe80::1%lo"],
    ],
)
async def test_a_name_must_not_lead_into_our_network(addresses: list[str]) -> None:
    """Not by one of its addresses either; and what was checked is what is connected to."""
    async with desk(b"", {"host": "api.example"}, names=Names(api_example=addresses)) as d:
        answer = await d.ask(f"http://api.example:{d.s.upstream.port}/api/", method="GET")

        assert (answer.status, answer.code) == (403, "not_allowed")
        assert answer.problem["detail"] == "The name api.example leads to an address that is not public."
        assert d.s.upstream.connections == 0


async def test_a_name_may_lead_there_where_the_entry_says_so() -> None:
    """And Host stays the name, whatever address is connected to."""
    names = Names(api_example=["127.0.0.9", "127.0.0.1"])
    async with desk(b"", {"host": "api.example", "private": True}, names=names) as d:
        answer = await d.ask(f"http://api.example:{d.s.upstream.port}/api/", method="GET")

        assert answer.status == 200
        assert d.s.upstream.seen[0].values(b"host") == [f"api.example:{d.s.upstream.port}".encode()]


async def test_certificates_are_the_name_s(tmp_path: Path) -> None:
    """Connecting to a checked address must not mean that anybody's certificate will do."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    authority.issue_cert("api.example").configure_cert(context)
    names = Names(api_example=["127.0.0.1"], other_example=["127.0.0.1"])
    tls = TLSFiles(ca_file=str(tmp_path / "ca.pem"))

    def routes(port: int) -> list[Any]:
        targets = tuple(
            Target(
                upstream=Upstream(scheme="https", host=host, port=port, authority=host, tls=tls),
                path="/**",
                private=True,
            )
            for host in ("api.example", "other.example")
        )
        return [route_to(port, targets=targets)]

    async with stage(routes=routes, upstream_how={"ssl": context}, parts={"resolve": names}) as s:
        d = Desk(s, LoginState(MemoryStore(), clock=FakeClock(), accounts=dict), names)
        answer = await d.ask(f"https://api.example:{s.upstream.port}/", method="GET")
        wrong = await d.ask(f"https://other.example:{s.upstream.port}/", method="GET")

        assert answer.status == 200
        assert (wrong.status, wrong.code) == (502, "upstream_unreachable")
        assert asked == ["api.example", "other.example"]


async def test_a_name_is_asked_for_once() -> None:
    """A second look might see something else: DNS rebinding."""
    names = Names(api_example=["127.0.0.1"])
    async with desk(b"", {"host": "api.example", "private": True}, names=names) as d:
        for _ in range(3):
            await d.ask(f"http://api.example:{d.s.upstream.port}/api/", method="GET")
        assert names.asked == ["api.example"]


async def test_a_checked_pool_is_not_shared_with_one_that_is_not() -> None:
    """Another route may go to the same name wherever it leads; its connections are not for this one."""
    names = Names(api_example=["127.0.0.1"])
    state = LoginState(MemoryStore(), clock=FakeClock(), accounts=lambda: {"books": ACCOUNT})

    def routes(port: int) -> list[Any]:
        open_entry, shut = (entry(port, host="api.example", private=private) for private in (True, False))
        return [
            route_to(port, name="open", targets=(open_entry,)),
            route_to(port, targets=(shut,)),
        ]

    async with stage(routes=routes, parts={"values": state, "resolve": names}) as s:
        d = Desk(s, state, names)
        url = f"http://api.example:{s.upstream.port}/api/"
        caller = await s.caller()
        assert (await caller.get(b"/open/", f"X-Proxy-Url: {url}".encode())).status == 200
        assert (await d.ask(url, method="GET")).code == "not_allowed"


async def test_a_name_that_nobody_knows() -> None:
    """Is an upstream that cannot be reached, as on every route."""
    async with desk(b"", {"host": "api.example"}, names=Names()) as d:
        answer = await d.ask(f"http://api.example:{d.s.upstream.port}/api/", method="GET")
        assert (answer.status, answer.code) == (502, "upstream_unreachable")


async def test_localhost_is_meant_where_it_is_named() -> None:
    """With the real resolver."""
    async with desk(b"", {"host": "localhost"}) as d:
        answer = await d.ask(f"http://localhost:{d.s.upstream.port}/api/", method="GET")
        assert answer.status == 200


# --- pages --------------------------------------------------------------------------------------------------------------


async def test_a_listed_page_may_ask_and_read() -> None:
    """Preflight without a key, then the request with one; what the upstream says about origins is about another page."""
    own = ok(
        b"hello", b"Access-Control-Allow-Origin: *", b"access-control-allow-credentials: true", b"X-Total: 7"
    )
    async with desk(own, caller_keys=("k",)) as d:
        caller = await d.s.caller()
        asked = await caller.get(b"/books/", PAGE, b"Access-Control-Request-Method: POST", method=b"OPTIONS")
        assert asked.status == 204
        assert asked.values(b"access-control-allow-origin") == [b"https://apps.example"]
        assert b"X-Proxy-Url" in asked.values(b"access-control-allow-headers")[0]
        assert b"Tokenproxy-Key" in asked.values(b"access-control-allow-headers")[0]
        assert b"Authorization" not in asked.values(b"access-control-allow-headers")[0].split(b", ")
        assert asked.values(b"access-control-allow-credentials") == []
        assert asked.values(b"access-control-allow-private-network") == []
        near = b"Access-Control-Request-Private-Network: true"
        asked = await caller.get(
            b"/books/", PAGE, near, b"Access-Control-Request-Method: POST", method=b"OPTIONS"
        )
        assert asked.values(b"access-control-allow-private-network") == [b"true"]

        answer = await d.ask(f"{d.url}/api/", PAGE, b"Tokenproxy-Key: k", method="GET")
        assert answer.values(b"access-control-allow-origin") == [b"https://apps.example"]
        assert answer.values(b"access-control-allow-credentials") == []
        assert (answer.values(b"x-total"), answer.values(b"vary")) == ([b"7"], [b"Origin"])
        assert (await d.ask(f"{d.url}/api/", PAGE, method="GET")).code == "caller_unauthorized"


async def test_a_listed_page_may_show_a_caller_s_password() -> None:
    """Where callers have one: the field that shows it must be among those that the page may send."""
    caller = Caller(name="app", login=Login(username="app", passwords=("pw",)))
    async with desk(callers=(caller,)) as d:
        client = await d.s.caller()
        asked = await client.get(b"/books/", PAGE, b"Access-Control-Request-Method: POST", method=b"OPTIONS")
        assert b"Authorization" in asked.values(b"access-control-allow-headers")[0].split(b", ")
        shown = b"Authorization: Basic YXBwOnB3"
        assert (await d.ask(f"{d.url}/api/", PAGE, shown, method="GET")).status == 200
        assert d.s.upstream.seen[0].values(b"authorization") == []


async def test_a_listed_page_reads_our_refusals() -> None:
    """Else a person sees nothing but "network error" in the browser."""
    async with desk() as d:
        for url, code in (
            ("https://evil.example/", "not_allowed"),
            (f"{d.url}/api/?x=__no__", "placeholder_unresolved"),
        ):
            answer = await d.ask(url, PAGE, method="GET")
            assert answer.code == code
            assert answer.values(b"access-control-allow-origin") == [b"https://apps.example"]


async def test_other_pages_may_do_nothing() -> None:
    """As on every route; and no preflight lets them."""
    async with desk(caller_keys=("k",)) as d:
        caller = await d.s.caller()
        evil = b"Origin: https://evil.example"
        asked = await caller.get(b"/books/", evil, b"Access-Control-Request-Method: POST", method=b"OPTIONS")
        assert (asked.status, asked.code) == (401, "caller_unauthorized")
        answer = await d.ask(f"{d.url}/api/", evil, b"Tokenproxy-Key: k", method="GET")
        assert (answer.code, answer.values(b"access-control-allow-origin")) == ("origin_refused", [])
        nowhere = await (await d.s.caller()).get(b"/nowhere/", PAGE, method=b"OPTIONS")
        assert nowhere.code == "caller_unauthorized"
        assert d.s.upstream.seen == []


async def test_other_routes_have_no_cors_of_ours() -> None:
    """An OPTIONS of a listed page is the upstream's to answer there."""
    async with stage(route={"origins": frozenset({"https://apps.example"})}) as s:
        caller = await s.caller()
        answer = await caller.get(b"/books/", PAGE, b"Access-Control-Request-Method: PUT", method=b"OPTIONS")
        assert (answer.body, answer.values(b"access-control-allow-origin")) == (b"hello", [])
        assert s.upstream.seen[0].line == b"OPTIONS / HTTP/1.1"
