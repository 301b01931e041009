"""Tokens in query parameters, no token at all, and what a profile puts beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from tests.proxy.actors import Line, ok, stage, until
from tokenproxy import log
from tokenproxy.core.provider import Inject
from tokenproxy.core.routes import Route, Upstream
from tokenproxy.core.tokens import TokenSet
from tokenproxy.proxy.card import Card, around_token

IN_QUERY = {"inject": Inject(header="", query="access_token")}


async def test_the_token_is_a_query_parameter() -> None:
    """RFC 6750 section 2.3: percent-encoded, not to be kept on the way; and in no field."""
    async with stage(route=IN_QUERY) as s:
        caller = await s.caller()
        await caller.get(b"/books/x?q=a%20b&&c", b"Cache-Control: max-age=0")
        (seen,) = s.upstream.seen
        assert seen.target == b"/x?q=a%20b&&c&access_token=token-1"
        assert seen.values(b"cache-control") == [b"max-age=0", b"no-store"]
        assert seen.values(b"authorization") == []
        await caller.get(b"/books")
        assert s.upstream.seen[1].target == b"/?access_token=token-1"


SPELLINGS = [
    b"access_token=evil",
    b"ACCESS_TOKEN=evil",
    b"access%5Ftoken=evil",
    b"%61ccess_token=evil",
    b"access.token=evil",
    b"access+token=evil",
    b"+access_token=evil",
    b"access_token%00x=evil",
    b"access_token[]=evil",
    b"access_token%5Ba%5D=evil",
    b"access_token",
    b"access_token==evil",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("separator", [b"&", b";"])
async def test_no_parameter_of_the_callers_stands_in_its_place(spelling: bytes, separator: bytes) -> None:
    """However an upstream may read it; what is beside it stays byte for byte."""
    async with stage(route=IN_QUERY) as s:
        caller = await s.caller()
        query = separator.join((b"a=1", spelling, b"my_access_token=2"))
        await caller.get(b"/books/x?" + query)
        assert s.upstream.seen[0].target == b"/x?a=1" + separator + b"my_access_token=2&access_token=token-1"


async def test_a_dead_token_in_a_query_is_replaced() -> None:
    """One renewal, and the new token in the same place."""

    async def script(line: Line) -> None:
        good = line.seen.target.endswith(b"=token-2")
        await line.send(ok(b"hello") if good else ok(b"", status=b"401 Unauthorized"))

    async with stage(script, route=IN_QUERY) as s:
        caller = await s.caller()
        assert (await caller.get(b"/books/x?a=1")).body == b"hello"
        assert [seen.target for seen in s.upstream.seen] == [
            b"/x?a=1&access_token=token-1",
            b"/x?a=1&access_token=token-2",
        ]
        assert s.source.renewals == ["books"]


async def test_a_redirect_does_not_hand_the_token_to_the_caller() -> None:
    """An upstream that adds a slash quotes the whole address; the caller follows it through us, where it gets its own."""

    async def script(line: Line) -> None:
        where = line.seen.target.replace(b"/x?", b"/x/?")
        await line.send(ok(b"", b"Location: " + where, b"Link: <" + where + b">", status=b"301 Moved"))

    async with stage(script, route=IN_QUERY) as s:
        caller = await s.caller()
        answer = await caller.get(b"/books/x?a=1")
        assert b"token-1" not in answer.head
        assert answer.values(b"location") == [b"/x/?a=1&access_token="]
        assert answer.status == 301


async def test_a_token_in_a_query_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nor in what a failing upstream is told about."""
    caplog.set_level(logging.DEBUG)

    async def script(line: Line) -> None:
        line.cut()

    async with stage(script, route=IN_QUERY) as s:
        caller = await s.caller()
        answer = await caller.get()
        assert answer.code == "upstream_unreachable"
        await until(lambda: s.logged)
        told = [log.JsonFormatter().format(record) for record in caplog.records] + [repr(s.logged)]
        assert "token-1" not in "".join(told) + repr(answer)
        assert any("upstream_failed" in line for line in told)


async def test_fields_that_a_profile_adds() -> None:
    """``Client-Id`` at Twitch, a tenant that the token answer named; the caller's own of these names go no further."""
    inject = Inject(headers={"Client-Id": "{client_id}", "xero-tenant-id": "{tenant}", "X-Version": "2"})
    async with stage(route={"inject": inject, "values": {"client_id": "app-1"}}) as s:
        s.source.more = {"captured": {"tenant": "t-9"}}
        caller = await s.caller()
        await caller.get(
            b"/books/x", b"CLIENT_ID: evil", b"Client-Id: evil", b"Xero.Tenant-Id: evil", b"X-Other: 1"
        )
        (seen,) = s.upstream.seen
        assert seen.values(b"client-id") == [b"app-1"]
        assert seen.values(b"xero-tenant-id") == [b"t-9"]
        assert seen.values(b"x-version") == [b"2"]
        assert seen.values(b"x-other") == [b"1"]
        assert b"evil" not in seen.head
        assert seen.token == b"token-1"


async def test_what_a_login_did_not_bring_is_said() -> None:
    """An import holds no tenant: better told than sent with a hole in it."""
    async with stage(route={"inject": Inject(headers={"xero-tenant-id": "{tenant}"})}) as s:
        caller = await s.caller()
        answer = await caller.get()
        assert (answer.status, answer.code) == (503, "misconfigured")
        assert answer.problem["detail"] == (
            "The account's tokens came without tenant, which this route's requests need."
        )
        assert (answer.problem["account"], answer.problem["next_step"]) == ("books", "tokenproxy login books")
        assert s.upstream.seen == []


async def test_an_account_may_inject_into_no_field() -> None:
    """What an application writes itself (placeholders) is then all there is; the caller's credential is dropped still."""
    async with stage(route={"inject": Inject(header="", headers={"X-Version": "2"})}) as s:
        caller = await s.caller()
        await caller.get(b"/books/x", b"Authorization: Bearer evil")
        assert s.upstream.seen[0].values(b"authorization") == []
        assert s.upstream.seen[0].values(b"x-version") == [b"2"]


@pytest.mark.parametrize("value", ["a\r\nb", "a\x00b"])
async def test_no_value_can_split_a_head(value: str) -> None:
    """RFC 9110 section 5.5."""
    async with stage(route={"inject": Inject(headers={"x-tenant": "{tenant}"})}) as s:
        s.source.more = {"captured": {"tenant": value}}
        caller = await s.caller()
        assert (await caller.get()).code == "misconfigured"
        assert s.upstream.seen == []


class AtRest:
    """A login at rest: its token is ready to be sent."""

    access_token = "t0k-en~"
    sendable = access_token.encode()
    generation = 1
    captured: Mapping[str, str] = MappingProxyType({})
    dpop_key = None


@pytest.mark.parametrize(
    ("inject", "joined"),
    [
        (Inject(), True),
        (Inject(header="X-Key", value="{access_token}"), True),
        (Inject(headers={"Client-Id": "{client_id}", "X-Api": "2"}), True),
        (Inject(headers={"X-Token": "{access_token}"}), False),  # twice
        (Inject(headers={"X-Shop": "{shop}"}), False),
        (Inject(headers={"X-Bad": "a\x01b"}), False),
        (Inject(header="", query="key"), False),
    ],
)
def test_a_token_line_is_the_same_joined_or_made(inject: Inject, joined: bool) -> None:
    """Where nothing of a login but its token is in it, the rest is made once for the route."""
    upstream = Upstream(scheme="https", host="api.example", port=443, authority="api.example")
    route = Route(
        name="a", prefix="/a/", upstream=upstream, account="crm", inject=inject, values={"client_id": "c1"}
    )
    around = around_token(route)
    assert (around is not None) is joined
    if joined:
        tokens = TokenSet("t0k-en~")
        card, made = Card(route, "crm", tokens, around), Card(route, "crm", tokens)
        assert (card.line, card.plain, card.query) == (made.line, made.plain, made.query)
        assert b"t0k-en~" in card.line
        assert Card(route, "crm", AtRest(), around).line == card.line
