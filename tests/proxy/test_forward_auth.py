"""Another proxy keeps the data path and asks for tokens: what it is told, and what it is not believed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.actors import QUICK, Answer, Caller, Stage, route_to, stage, until
from tests.proxy.test_callers import basic, by_key, by_password, with_key
from tokenproxy.core import forward_auth
from tokenproxy.core.allow import Allow, Entry
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.provider import Inject
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import Deadlines, Limits, Listen, TLSFiles
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError, LoginRequiredError
from tokenproxy.proxy import Refusal

ASK = Listen(address="127.0.0.1:0", asks=True)
ALLOW = Allow((Entry.of("GET /v2/**"), Entry.of("POST /v2/users")))


@asynccontextmanager
async def asking(route: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[tuple[Stage, Caller]]:
    """A stage, and another proxy that is connected to it."""
    settings.setdefault("asked", frozenset({"books"}))
    async with stage(route=route, **settings) as s:
        other = await Caller.connect(await s.plane.listen(ASK))
        s.callers.append(other)
        yield s, other


def ticket(answer: Answer) -> bytes:
    (found,) = answer.values(b"tokenproxy-generation")
    return found


def refused(answer: Answer) -> bytes:
    """The line that tells that an upstream refused the token of this answer."""
    return b"Tokenproxy-Generation: " + ticket(answer)


def told(answer: Answer) -> tuple[list[bytes], list[bytes]]:
    return answer.values(b"authorization"), answer.values(b"tokenproxy-answer")


# what is given


async def test_a_question_is_answered_with_the_header() -> None:
    """And with nothing that a cache might keep; the log, where it is wanted, has the caller's request."""
    async with asking(hosts=("app.example",)) as (s, other):
        for target, fields in (
            (b"/auth/books", [b"X-Forwarded-Method: POST", b"X-Forwarded-Uri: /books/x?secret=1"]),
            (b"/auth", [b"X-Forwarded-Host: app.example", b"X-Forwarded-Uri: /books/x"]),
            (b"/ext-authz/books/books/x?y", []),
            (b"/auth/books?left=over", []),
        ):
            answer = await other.get(target, *fields)
            assert (answer.status, answer.body) == (200, b"")
            assert told(answer) == ([b"Bearer token-1"], [b"token"])
            assert answer.values(b"cache-control") == [b"no-store"]
        assert s.metrics.asked == {("books", "token"): 4}
        assert (s.logged[0].method, s.logged[0].path, s.logged[0].status) == ("POST", "/books/x", 200)
    assert not s.upstream.seen


async def test_the_profile_s_header_and_others_are_given() -> None:
    inject = Inject(header="x-access-token", value="{access_token}", headers={"X-Tenant": "acme"})
    async with asking({"inject": inject}) as (_, other):
        answer = await other.get(b"/ext-authz/books/books/x")
        assert answer.values(b"x-access-token") == [b"token-1"]
        assert answer.values(b"x-tenant") == [b"acme"]
        # What Envoy is to take out: never what was just given.
        assert answer.values(b"x-envoy-auth-headers-to-remove") == [b"authorization,tokenproxy-key"]


@pytest.mark.parametrize("callers", [(), (by_password("app"),)], ids=["nobody", "callers"])
async def test_a_caller_s_own_credential_goes_no_further(callers: tuple[Any, ...]) -> None:
    """Whatever ``pass`` says, which is about tokenproxy's own sending: it may be what the caller proved itself with."""
    inject = Inject(header="x-access-token", value="{access_token}")
    route = {"inject": inject, "passed": frozenset({"authorization"})}
    async with asking(route, callers=callers) as (_, other):
        answer = await other.get(b"/ext-authz/books/books/x", basic("app"))
        assert answer.values(b"x-access-token") == [b"token-1"]
        assert answer.values(b"x-envoy-auth-headers-to-remove") == [b"authorization,tokenproxy-key"]
    async with asking(callers=callers) as (_, other):  # the token takes its place
        answer = await other.get(b"/ext-authz/books/books/x", basic("app"))
        assert answer.values(b"x-envoy-auth-headers-to-remove") == [b"tokenproxy-key"]


async def test_the_account_may_be_the_caller_s_choice() -> None:
    async with asking({"account": "crm/{header:x-user}"}) as (_, other):
        assert told(await other.get(b"/auth/books", b"X-User: anna"))[0] == [b"Bearer token-anna1"]
        assert (await other.get(b"/auth/books")).code == "login_required"


async def test_only_the_routes_that_are_listed(tmp_path: Path) -> None:
    """By name and by host and prefix; and other addresses are nothing."""

    def routes(port: int) -> list[Any]:
        return [route_to(port), route_to(port, name="roster")]

    async with stage(routes=routes, asked=frozenset({"books"})) as s:
        other = await Caller.connect(await s.plane.listen(ASK))
        s.callers.append(other)
        by_host = b"X-Forwarded-Host: localhost"
        for target, fields in (
            (b"/auth/roster", []),
            (b"/auth/", [by_host, b"X-Forwarded-Uri: /roster/x"]),
            (b"/auth", [by_host, b"X-Forwarded-Uri: /roster/x"]),
            (b"/ext-authz/roster/roster/x", []),
            (b"/refused/roster", []),
            (b"/auth/books/books/x", []),
            (b"/auth/../auth/books", []),
            (b"/auth/%62ooks", []),
            (b"/ext-authz/books", []),
            (b"/books/x", []),
            (b"//auth/books", []),
        ):
            answer = await other.get(target, *fields)
            assert (answer.status, answer.code) == (404, "no_route"), target
            assert not answer.values(b"authorization")


# after the upstream has refused


async def test_many_who_tell_of_one_dead_token_get_the_same_new_one() -> None:
    async with asking() as (s, other):
        first = await other.get(b"/auth/books")
        s.source.gate = asyncio.Event()
        others = [await Caller.connect(_address(s)) for _ in range(16)]
        s.callers += others
        waiting = [asyncio.create_task(each.get(b"/auth/books", refused(first))) for each in others]
        await until(lambda: s.plane.turns.taken == 16)
        s.source.gate.set()
        for answer in await asyncio.gather(*waiting):
            assert told(answer) == ([b"Bearer token-2"], [b"newer"])
        assert s.source.renewals == ["books"]
        late = await other.get(b"/auth/books", refused(first))
        assert told(late) == ([b"Bearer token-2"], [b"newer"])
        assert s.source.renewals == ["books"]


async def test_a_caller_who_writes_the_field_sets_off_nothing() -> None:
    """Whoever has not been given the token cannot say which one it was."""
    async with asking({"account": "crm/{header:x-user}"}) as (s, other):
        anna = b"X-User: anna"
        others = refused(await other.get(b"/auth/books", b"X-User: ben"))
        for forged in (
            others,
            b"Tokenproxy-Generation: 1",
            b"Tokenproxy-Generation: 1." + b"0" * 32,
            b"Tokenproxy-Generation: 2." + b"0" * 32,
            b"Tokenproxy-Generation: 99999999999999999999." + b"0" * 32,
            b"Tokenproxy-Generation: \xff",
        ):
            answer = await other.get(b"/auth/books", anna, forged)
            assert told(answer) == ([b"Bearer token-anna1"], [b"token"])
        assert s.source.renewals == []
        answer = await other.get(b"/auth/books", anna, others, others)
        assert answer.code == "bad_request"


async def test_a_token_that_lives_is_said_to_live() -> None:
    """The upstream's own 401 then reaches the caller, by whatever the other proxy does with it."""
    async with asking() as (s, other):
        first = await other.get(b"/auth/books")
        for keep, word in ((KeepAnswer.LIVE, b"live"), (KeepAnswer.HELD, b"held")):
            s.source.keep = keep
            assert told(await other.get(b"/auth/books", refused(first))) == ([b"Bearer token-1"], [word])


async def test_a_second_refusal_in_a_row_holds_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells us of the upstream's second 401 but the next question; long after, a token may have died again."""
    async with asking() as (s, other):
        first = await other.get(b"/auth/books")
        second = await other.get(b"/auth/books", refused(first))
        assert not s.source.held
        third = await other.get(b"/auth/books", refused(second))
        assert s.source.held == [("books", 2, "books")]
        monkeypatch.setattr(forward_auth, "PROBATION", 0.0)
        assert told(await other.get(b"/auth/books", refused(third)))[0] == [b"Bearer token-4"]
        assert len(s.source.held) == 1


async def test_a_token_that_nobody_complains_about_has_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking() as (s, other):
        for _ in range(3):
            await other.get(b"/auth/books")
        assert s.source.confirmed == []
        monkeypatch.setattr(forward_auth, "PROBATION", 0.0)
        for _ in range(3):
            await other.get(b"/auth/books")
        assert s.source.confirmed == [("books", 1)]
        s.source.keep = KeepAnswer.HELD
        s.source.generations["books"] = 2
        second = await other.get(b"/auth/books")
        await other.get(b"/auth/books", refused(second))
        await other.get(b"/auth/books")
        assert s.source.confirmed == [("books", 1)]


async def test_who_cannot_send_again_only_tells() -> None:
    """No token is in that answer, so that it may end up anywhere."""
    async with asking({"allow": ALLOW}) as (s, other):
        first = await other.get(b"/ext-authz/books/books/v2/x")
        answer = await other.get(b"/refused/books", refused(first))
        assert (answer.status, told(answer)) == (204, ([], [b"newer"]))
        assert not answer.values(b"tokenproxy-generation")
        assert s.source.renewals == ["books"]


# why none is given


async def test_refusals_are_problems() -> None:
    """As a document, and in one header for nginx, which drops the document."""
    async with asking() as (s, other):
        s.source.error = LoginRequiredError(
            "Nobody is logged in.", account="books", next_step="tokenproxy login books"
        )
        answer = await other.get(b"/auth/books")
        assert (answer.status, answer.code) == (503, "login_required")
        assert answer.problem["next_step"] == "tokenproxy login books"
        assert answer.values(b"tokenproxy-problem") == [answer.body.strip()]
        assert answer.values(b"cache-control") == [b"no-store"]
        assert not answer.values(b"authorization")
        s.source.error = None
        s.source.renew_error = AccountError("The provider is down.", account="books", retry_after=7)
        answer = await other.get(b"/auth/books", refused(await other.get(b"/auth/books")))
        assert (answer.status, answer.values(b"retry-after")) == (503, [b"7"])
        assert s.metrics.asked["books", "provider_unavailable"] == 1
        head = await other.get(b"/ext-authz/books/nowhere", method=b"HEAD")
        assert head.status == 403
        assert (await other.get(b"/auth/books")).status == 200


@pytest.mark.parametrize(
    ("method", "uri", "status"),
    [
        (b"GET", b"/books/v2/x", 200),
        (b"GET", b"/books/v2/x?y=/../", 200),
        (b"POST", b"/books/v2/users", 200),
        (b"POST", b"/books/v2/x", 403),
        (b"GET", b"/books/v1/x", 403),
        (b"GET", b"/v2/x", 403),
        (b"GET", b"/booksv2/x", 403),
        (b"GET", b"//books/v2/x", 403),
        (b"GET", b"/books//v2/x", 403),
        (b"GET", b"/books/v2%2fx", 403),
        (b"GET", b"/books/v2/%252e%252e/x", 403),
        (b"GET", b"/books/v2/..;/x", 400),
        (b"GET", b"/books/v2/../v1", 400),
        (b"GET", b"/books/v2/%2e%2E/v1", 400),
        (b"GET", b"/books/v2\\..\\v1", 400),
        (b"GET", b"/books/v2/x#y", 400),
        (b"GET", b"http://elsewhere/books/v2/x", 400),
        (b"GET", b"", 403),
        (b"get", b"/books/v2/x", 400),
        (b"TRACE", b"/books/v2/x", 400),
        (b"CONNECT", b"/books/v2/x", 400),
        (b"", b"/books/v2/x", 400),
    ],
)
async def test_the_route_s_list_is_about_the_caller_s_request(method: bytes, uri: bytes, status: int) -> None:
    """In the raw form that the other proxy got it in."""
    async with asking({"allow": ALLOW}) as (_, other):
        answer = await other.get(b"/auth/books", b"X-Forwarded-Method: " + method, b"X-Forwarded-Uri: " + uri)
        assert answer.status == status
        if uri[:1] == b"/" and method.isupper() and b"#" not in uri and method not in {b"TRACE", b"CONNECT"}:
            answer = await other.get(b"/ext-authz/books" + uri, method=method)
            assert answer.status == status


async def test_what_the_caller_adds_is_not_believed() -> None:
    """Envoy passes a caller's X-Forwarded-Uri on: its own request line is what counts. Two lines are none."""
    async with asking({"allow": ALLOW}) as (_, other):
        good = (b"X-Forwarded-Method: GET", b"X-Forwarded-Uri: /books/v2/x")
        assert (await other.get(b"/ext-authz/books/books/v1/x", *good)).status == 403
        assert (await other.get(b"/auth/books", *good, b"X-Forwarded-Uri: /books/v1/x")).status == 400
        assert (await other.get(b"/auth/books", *good, b"X-Forwarded-Method: DELETE")).status == 400
        assert (await other.get(b"/auth/books", *good, b"X_Forwarded_Uri: /books/v1/x")).status == 200
        assert (await other.get(b"/auth/books", *good, b"X-HTTP-Method-Override: DELETE")).status == 403


async def test_the_data_plane_believes_no_such_header() -> None:
    """Neither does it give anything out."""
    async with asking({"allow": ALLOW}) as (s, _):
        caller = await s.caller()
        answer = await caller.get(b"/books/v1/x", b"X-Forwarded-Uri: /books/v2/x")
        assert (answer.status, answer.code) == (403, "not_allowed")
        caller = await s.caller()
        assert (await caller.get(b"/auth/books")).code == "no_route"


async def test_pages_of_others_are_refused() -> None:
    origins = frozenset({"https://intranet.example"})
    async with asking({"origins": origins}, hosts=("app.example",)) as (_, other):
        own = (b"X-Forwarded-Host: app.example", b"X-Forwarded-Proto: https")
        for fields, status in (
            ((b"Origin: https://evil.example",), 403),
            ((b"Origin: https://evil.example", *own), 403),
            ((b"Origin: https://app.example",), 403),
            ((b"Origin: http://app.example", *own), 403),
            ((b"Origin: https://app.example", *own), 200),
            ((b"Origin: https://intranet.example",), 200),
            ((b"Sec-Fetch-Site: cross-site", *own), 403),
            ((b"Sec-Fetch-Site: same-origin", *own), 200),
        ):
            answer = await other.get(b"/auth/books", *fields)
            assert answer.status == status, fields
        answer = await other.get(b"/ext-authz/books/books/x", b"Origin: http://localhost")
        assert answer.status == 200


async def test_a_name_that_somebody_points_at_the_other_proxy_gets_nothing() -> None:
    """DNS rebinding: by its own name such a page is of the same origin, and no page rule would stop it."""
    async with asking(hosts=("app.example", "*.internal")) as (s, other):
        page = (b"Sec-Fetch-Site: same-origin", b"X-Forwarded-Uri: /books/x")
        for host, status in (
            (b"evil.example:8081", 403),
            (b"app.example.evil.example", 403),
            (b"internal", 403),
            (b"192.0.2.1", 403),
            (b"evil.example, localhost", 400),
            (b"localhost@evil.example", 400),
            (b"localhost:8081", 200),
            (b"127.0.0.1:8081", 200),
            (b"[::1]:8081", 200),
            (b"APP.example.", 200),
            (b"crm.internal", 200),
        ):
            for target in (b"/auth", b"/auth/books"):
                answer = await other.get(
                    target, b"X-Forwarded-Host: " + host, b"Origin: http://" + host, *page
                )
                assert answer.status == status, (target, host)
                assert bool(answer.values(b"authorization")) is (status == 200)
                if status == 403:
                    assert answer.code == "host_refused"
            await other.send(b"GET /ext-authz/books/books/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            assert (await other.answer()).status == status, host
        assert (await other.get(b"/auth/books", *page)).status == 200
        assert s.source.renewals == []


async def test_a_route_that_is_named_keeps_its_own_host() -> None:
    """Whichever other hosts are known."""

    def routes(port: int) -> list[Any]:
        return [route_to(port, host="books.example"), route_to(port, name="wild", host="*.books.example")]

    async with asking(routes=routes, asked=frozenset({"books", "wild"}), hosts=("app.example",)) as (
        _,
        other,
    ):
        for name, host, status in (
            (b"books", b"books.example:8081", 200),
            (b"books", b"app.example", 403),
            (b"books", b"localhost", 403),
            (b"books", b"x.books.example", 403),
            (b"wild", b"x.books.example", 200),
            (b"wild", b"books.example", 403),
        ):
            answer = await other.get(b"/auth/" + name, b"X-Forwarded-Host: " + host)
            assert answer.status == status, (name, host)
            if status == 403:
                assert (answer.code, answer.problem["route"]) == ("host_refused", name.decode())
            await other.send(b"GET /ext-authz/%b/%b/x HTTP/1.1\r\nHost: %b\r\n\r\n" % (name, name, host))
            assert (await other.answer()).status == status, (name, host)
        assert (await other.get(b"/auth/books")).status == 200


async def test_a_key_is_asked_for_where_callers_need_one() -> None:
    async with asking(caller_keys=("k" * 20,)) as (_, other):
        answer = await other.get(b"/auth/books")
        assert (answer.status, answer.code) == (401, "caller_unauthorized")
        assert answer.values(b"www-authenticate") == [b"Tokenproxy-Key"]
        key = b"Tokenproxy-Key: " + b"k" * 20
        assert (await other.get(b"/auth/books", key)).status == 200
        assert (await other.get(b"/auth/books", key, key)).status == 401
        assert (await other.get(b"/refused/books")).status == 401


async def test_whoever_refusals_are_kept_for_hears_of_them() -> None:
    """As of requests that come here themselves; who asked is named also where it was not let through to the end."""
    heard: list[Refusal] = []
    app = by_key("app", routes=frozenset({"roster"}))
    async with asking(callers=(app, by_key("other", "another-key-of-length"))) as (s, other):
        s.plane.on_refused = heard.append
        await other.get(b"/auth/books")
        await other.get(b"/auth/books", with_key())
        known = with_key("another-key-of-length")
        await other.get(b"/auth/nowhere", known)
        await other.get(b"/auth/books", known, b"X-Forwarded-Host: evil.example")
        await other.get(b"/auth/books", known, b"Origin: https://evil.example")
        assert [(each.code, each.route, each.peer, each.caller) for each in heard] == [
            ("caller_unauthorized", "", "127.0.0.1", ""),
            ("not_allowed", "books", "127.0.0.1", "app"),
            ("no_route", "", "127.0.0.1", ""),
            ("host_refused", "", "127.0.0.1", ""),
            ("origin_refused", "", "127.0.0.1", ""),
        ]
        assert [(each.code, each.route, each.caller) for each in s.logged] == [
            (each.code, each.route, each.caller) for each in heard
        ]
        assert s.metrics.asked["books", "not_allowed"] == 1
        s.source.error = AccountError("The provider is down.", account="books")
        assert (await other.get(b"/auth/books", known)).status == 503
        assert s.logged[-1].caller == "other"
        assert len(heard) == 5  # that is how things stand, and not a refusal


# connections


async def test_questions_have_no_bodies() -> None:
    """What a mistaken proxy sends of one ends the connection: it is nobody's next question."""
    async with asking() as (s, other):
        await other.send(b"POST /auth/books HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nGET /auth/books")
        answer = await other.answer()
        assert answer.status == 200
        assert answer.values(b"connection") == [b"close"]
        assert await other.rest() == b""
        again = await Caller.connect(_address(s))
        s.callers.append(again)
        await again.send(
            b"POST /auth/books HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert (await again.answer()).status == 400


async def test_a_slow_head_is_cut_off() -> None:
    async with asking(deadlines=QUICK) as (_, other):
        await other.send(b"GET /auth/books HTTP/1.1\r\nHo")
        assert (await other.answer()).code == "body_timeout"


async def test_questions_that_wait_take_turns() -> None:
    """A flood of them behind a slow provider is bounded like requests are."""
    async with asking(limits=Limits(in_flight=1, queue=0.05)) as (s, other):
        first = await other.get(b"/auth/books")
        s.source.gate = asyncio.Event()
        waiting = asyncio.create_task(other.get(b"/auth/books", refused(first)))
        await until(lambda: s.source.renewals)
        more = await Caller.connect(_address(s))
        s.callers.append(more)
        assert (await more.get(b"/auth/books", refused(first))).code == "overloaded"
        assert (await more.get(b"/auth/books")).status == 200
        s.source.gate.set()
        assert told(await waiting)[1] == [b"newer"]


async def test_a_drain_lets_questions_end() -> None:
    async with asking(deadlines=Deadlines(drain=5)) as (s, other):
        first = await other.get(b"/auth/books")
        s.source.gate = asyncio.Event()
        waiting = asyncio.create_task(other.get(b"/auth/books", refused(first)))
        await until(lambda: s.source.renewals)
        closing = asyncio.create_task(s.plane.close(drain=5))
        await until(lambda: s.plane.draining)
        s.source.gate.set()
        answer = await waiting
        assert (told(answer)[1], answer.values(b"connection")) == ([b"newer"], [b"close"])
        await closing


async def test_a_reload_changes_what_may_be_asked() -> None:
    """At once, for connections that are open too; who was told what is remembered."""
    async with asking() as (s, other):
        first = await other.get(b"/auth/books")
        second = await other.get(b"/auth/books", refused(first))
        s.swap(routes=RouteTable.of([route_to(s.upstream.port, allow=ALLOW)]))
        assert (await other.get(b"/auth/books")).status == 400
        assert (await other.get(b"/ext-authz/books/books/v2/x", refused(second))).status == 200
        assert s.source.held == [("books", 2, "books")]
        s.swap(asked=frozenset())
        assert (await other.get(b"/auth/books")).status == 404


async def test_an_address_that_changes_its_kind_is_another_one() -> None:
    """Nobody who came for the data plane is served as another proxy, nor the other way round."""
    async with asking() as (s, _):
        change = s.plane.prepared([Listen(address="127.0.0.1:0")])
        (address,) = await s.plane.open(change)
        caller = await Caller.connect(address)
        s.callers.append(caller)
        assert (await caller.get(b"/auth/books")).code == "no_route"
        assert s.plane.asked_at == []


async def test_certificates_say_who_may_ask(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    files = TLSFiles(
        **{f"{name}_file": str(tmp_path / f"{name}.pem") for name in ("cert", "key", "ca")},
    )
    async with stage(asked=frozenset({"books"})) as s:
        address = await s.plane.listen(Listen(address="127.0.0.1:0", asks=True, tls=files))
        context = ssl.create_default_context()
        authority.configure_trust(context)
        port = int(address.rpartition(":")[2])

        async def ask() -> Answer:
            way = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            other = Caller(*way)
            try:
                return await other.get(b"/auth/books")
            finally:
                other.close()

        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask()
        authority.issue_cert("nginx").configure_cert(context)
        assert (await ask()).status == 200


async def test_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with asking() as (s, other):
        first = await other.get(b"/auth/books")
        await other.get(b"/auth/books", refused(first))
        await other.get(b"/auth/nowhere", refused(first))
        assert "token-" not in caplog.text + repr(s.logged) + repr(s.metrics.asked)
        assert ticket(first).decode() not in caplog.text + repr(s.logged)


def test_a_ticket_is_of_one_token_route_and_account() -> None:
    one, other = (TokenSet(token, generation=7, issued_at=datetime.now(UTC)) for token in ("abc", "abd"))
    tickets = {
        forward_auth.ticket(tokens, account, route)
        for tokens in (one, other)
        for account in ("a", "b")
        for route in ("x", "y")
    }
    assert len(tickets) == 8
    assert {forward_auth.generation_of(each) for each in tickets} == {7}


def test_the_history_forgets_the_oldest() -> None:
    history = forward_auth.History()
    for number in range(forward_auth.MOST_KEPT + 10):
        history.gave("r", f"a/{number}", 1, 0.0, after_refusal=True)
    assert not history.refused("r", "a/0", 1, 1.0)
    assert history.refused("r", f"a/{forward_auth.MOST_KEPT}", 1, 1.0)


def _address(s: Stage) -> str:
    (address,) = s.plane.asked_at
    return address
