"""Fields that a route sets, adds and removes, on the wire."""

from __future__ import annotations

from tests.proxy.actors import ok, stage
from tests.simulators import FakeClock
from tokenproxy.core.headers import HeaderChanges
from tokenproxy.core.provider import Account, Provider, Registration, Setting
from tokenproxy.oauth.state import LoginState
from tokenproxy.stores.memory import MemoryStore

CHANGES = HeaderChanges(
    replaced=(("X-Api-Key", "ours"),), added=(("X-Tag", "two"),), removed=("Cookie",), secrets=("ours",)
)


async def test_what_a_request_gets_and_loses() -> None:
    async with stage(ok(b"hello"), route={"request_headers": CHANGES}) as s:
        caller = await s.caller()
        await caller.get(
            b"/books/x", b"X_Api_Key: theirs", b"x-api-key: theirs", b"X-Tag: one", b"Cookie: a=b"
        )

        (seen,) = s.upstream.seen
        assert seen.values(b"x-api-key") == [b"ours"]
        assert sorted(seen.values(b"x-tag")) == [b"one", b"two"]
        assert seen.values(b"cookie") == seen.values(b"x_api_key") == []
        assert seen.token == b"token-1"


async def test_a_renewed_request_has_them_again() -> None:
    async with stage(ok(b"x", status=b"401 Unauthorized"), route={"request_headers": CHANGES}) as s:
        await (await s.caller()).post(b"body")

        assert [seen.values(b"x-api-key") for seen in s.upstream.seen] == [[b"ours"], [b"ours"]]


async def test_a_placeholder_gets_nothing_past_them() -> None:
    """A dropped field that names a value goes on otherwise: whoever wrote it means it."""
    account = Account(
        name="books",
        provider=Provider(name="plain", token_url="https://login.example/token"),
        registration=Registration(client_id="c"),
        settings={"key": Setting(value="theirs")},
    )
    state = LoginState(MemoryStore(), clock=FakeClock(), accounts=lambda: {"books": account})
    route = {"request_headers": CHANGES, "placeholders": True}
    async with stage(ok(b"hello"), route=route, parts={"values": state}) as s:
        await (await s.caller()).get(
            b"/books/x", b"X-Api-Key: __key__", b"Cookie: a=__key__", b"X-More: __key__"
        )

        (seen,) = s.upstream.seen
        assert seen.values(b"x-api-key") == [b"ours"]
        assert (seen.values(b"cookie"), seen.values(b"x-more")) == ([], [b"theirs"])


async def test_what_an_answer_gets_and_loses() -> None:
    changes = HeaderChanges(
        replaced=(("Cache-Control", "no-store"),), added=(("Set-Cookie", "b=2"),), removed=("Server",)
    )
    answer = ok(
        b"hello", b"Server: x", b"cache-control: public", b"Set-Cookie: a=1", b"Connection: X-Y, Set-Cookie"
    )
    async with stage(answer, route={"answer_headers": changes}) as s:
        got = await (await s.caller()).get()

        assert got.body == b"hello"
        assert got.values(b"server") == []
        assert got.values(b"cache-control") == [b"no-store"]
        assert got.values(b"set-cookie") == [b"b=2"], (
            "the upstream's Connection takes its own field away, not ours"
        )


async def test_the_upstream_sees_the_host_that_the_route_says() -> None:
    async with stage(ok(b"hello"), route={"host_header": "shop.internal:81"}) as s:
        await (await s.caller()).get()

        assert s.upstream.seen[0].values(b"host") == [b"shop.internal:81"]


async def test_redirects_and_cookies_stay_within_the_proxy() -> None:
    answer = ok(
        b"",
        b"Location: http://api.example/v2/users/7?x=1",
        b"Link: </v2/users?page=2>; rel=next",
        b"Set-Cookie: sid=1; Domain=api.example; Path=/v2",
        status=b"302 Found",
    )
    how = {
        "rewrite_location": True,
        "rewrite_cookies": True,
        "path": "/v2",
        "to": "127.0.0.1",
        "host_header": "api.example",
    }
    async with stage(answer, route=how) as s:
        got = await (await s.caller()).get()

        assert got.values(b"location") == [b"/books/users/7?x=1"]
        assert got.values(b"link") == [b"</books/users?page=2>; rel=next"]
        assert got.values(b"set-cookie") == [b"sid=1; Path=/books/"]


async def test_unasked_nothing_is_rewritten() -> None:
    fields = (b"Location: http://api.example/v2", b"Set-Cookie: sid=1; Domain=api.example")
    async with stage(ok(b"", *fields, status=b"302 Found")) as s:
        got = await (await s.caller()).get()

        assert set(fields) <= set(got.fields)
