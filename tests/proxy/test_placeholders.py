"""Requests that name settings and state: what the upstream gets, and what nobody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.actors import Line, Stage, chunked, dead, ok, post, stage, unless, until
from tests.simulators import FakeClock
from tokenproxy.core.interfaces import StateValue, Store
from tokenproxy.core.provider import Account, Inject, Provider, Registration, Setting
from tokenproxy.core.settings import KIB, Replay, ReplayBudget
from tokenproxy.errors import StoreError
from tokenproxy.oauth.state import LoginState
from tokenproxy.stores import open_store

PROVIDER = Provider(name="plain", token_url="https://login.example/token")
ACCOUNT = Account(
    name="books",
    provider=PROVIDER,
    registration=Registration(client_id="c"),
    settings={
        "client_key": Setting(value="app-1"),
        "secret": Setting(value="planted-&secret", backend=True),
        "big": Setting(value="x" * 5000),
    },
)
SMALL = Replay(memory=4 * KIB, disk=64 * KIB)


class Kept:
    """The real keeper of state, on a real store, with a clock that we move."""

    def __init__(self, store: Store) -> None:
        self.clock = FakeClock()
        self.store = store
        self.state = LoginState(store, clock=self.clock, accounts=lambda: {"books": ACCOUNT})

    async def put(
        self, path: str, value: str, *, account: str = "books", seconds: float | None = None
    ) -> None:
        ends = None if seconds is None else self.clock.now() + timedelta(seconds=seconds)
        await self.state.put(account, path, StateValue(value, ends, backend=True))


@asynccontextmanager
async def desk(script: Any = b"", url: str = "memory:", **route: Any) -> AsyncIterator[tuple[Stage, Kept]]:
    store = await open_store(url, [bytes(32)])
    kept = Kept(store)
    chosen = {"placeholders": True, "replay": SMALL, **route}
    try:
        async with stage(script or ok(b"hello"), route=chosen, parts={"values": kept.state}) as s:
            yield s, kept
    finally:
        await store.close()


def typed(kind: str) -> bytes:
    return f"Content-Type: {kind}".encode()


async def test_the_guide_s_requests() -> None:
    """Guide 002: an exchange with the secret and the code, then a request with the token, by an account without tokens."""
    async with desk(tokenless=True) as (s, kept):
        await kept.put("oauth2/mytoken", "29d2ef")
        caller = await s.caller()
        assert (
            await caller.get(b"/books/token?secret=__secret__&access_code=[user[oauth2/mytoken]]")
        ).status == 200
        await kept.put("oauth2/token", "tok", seconds=60)
        await caller.get(b"/books/api/some-resource", b"Authorization: Bearer [user[oauth2/token]]")

        exchange, use = s.upstream.seen
        assert exchange.target == b"/token?secret=planted-%26secret&access_code=29d2ef"
        assert exchange.values(b"authorization") == []
        assert (use.target, use.token) == (b"/api/some-resource", b"tok")
        assert s.source.confirmed == []


async def test_our_token_goes_along_where_nothing_stands_in_its_place() -> None:
    """Settings and state may be all that a request names, and the account's token is attached all the same."""
    async with desk(placeholders=True) as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/x?k=__client_key__", b"Authorization: Basic none", b"X-Key: __secret__")
        await caller.get(b'/books/x?b=__client_key+":".base64__&{"\'|}')

        seen, raw = s.upstream.seen
        assert raw.target == b"/x?b=YXBwLTE6&{\"'|}"
        assert (seen.target, seen.token) == (b"/x?k=app-1", b"token-1")
        assert seen.values(b"x-key") == [b"planted-&secret"]


async def test_a_callers_header_with_a_placeholder_takes_our_token_s_place() -> None:
    """Then ours is not added, and a 401 is about theirs: nothing is renewed for it."""
    async with desk(dead(), header="x-access-token") as (s, kept):
        await kept.put("mine", "theirs")
        caller = await s.caller()
        answer = await caller.get(b"/books/x", b"X-Access-Token: [user[mine]]")

        (seen,) = s.upstream.seen
        assert answer.status == 401
        assert seen.values(b"x-access-token") == [b"theirs"]
        assert s.source.renewals == []


async def test_without_the_word_nothing_is_replaced_or_kept() -> None:
    """A route without ``placeholders`` drops a caller's credential whatever is in it, and passes text on as it is."""
    async with desk(placeholders=False) as (s, kept):
        await kept.put("t", "planted")
        caller = await s.caller()
        await caller.get(b"/books/__secret__?x=[user[t]]", b"Authorization: Bearer [user[t]]", b"X-K: [[t]]")
        await caller.post(b'{"a": "__secret__"}', b"/books/x", typed("application/json"))

        first, second = s.upstream.seen
        assert (first.target, first.token) == (b"/__secret__?x=[user[t]]", b"token-1")
        assert first.values(b"x-k") == [b"[[t]]"]
        assert second.body == b'{"a": "__secret__"}'


@pytest.mark.parametrize("account", ["books", "books/anna"])
async def test_state_is_the_login_s_or_the_account_s(account: str) -> None:
    """``[user[...]]`` of the login that the route selects, ``[[...]]`` under the account's name; never another login's."""
    async with desk(account="books/{header:x-user}" if "/" in account else account) as (s, kept):
        for name in ("books", "books/anna", "books/bert"):
            await kept.put("t", f"of-{name}", account=name)
        caller = await s.caller()
        await caller.get(b"/books/?u=[user[t]]&a=[[t]]", b"X-User: anna")

        (seen,) = s.upstream.seen
        assert seen.target == f"/?u=of-{account.replace('/', '%2F')}&a=of-books".encode()


async def test_the_header_that_names_the_login_stays_here() -> None:
    """Even where its value looks like a placeholder."""
    async with desk(account="books/{header:x-user}") as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/", b"X-User: __secret__")

        (seen,) = s.upstream.seen
        assert seen.values(b"x-user") == []
        assert b"planted" not in seen.head


@pytest.mark.parametrize("framing", ["length", "chunked", "expect"])
async def test_a_body_s_length_is_that_of_what_is_sent(framing: str) -> None:
    """And the connection is good for the next request."""
    body = b'{"secret": "__secret__", "matrix": [[1]]}'
    async with desk() as (s, _):
        caller = await s.caller()
        if framing == "length":
            await caller.send(post(body, b"/books/x", typed("application/json")))
        elif framing == "chunked":
            head = b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            await caller.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:9], body[9:]))
        else:
            whole = post(body, b"/books/x", typed("application/json"), b"Expect: 100-continue")
            await caller.send(whole[: -len(body)])
            assert (await caller.head()).status == 100
            await caller.send(body)
        assert (await caller.answer()).status == 200
        assert (await caller.get()).status == 200

        seen = s.upstream.seen[0]
        assert json.loads(seen.body) == {"secret": "planted-&secret", "matrix": [[1]]}
        assert seen.values(b"content-length") == [str(len(seen.body)).encode()]
        assert seen.values(b"transfer-encoding") == seen.values(b"expect") == []
        assert s.plane.vault.memory == 0


async def test_a_body_that_takes_long_to_look_through_holds_nobody_up() -> None:
    """Half a million strings, one of which names a setting: another request goes its way meanwhile."""
    size = 1024 * KIB
    body = b'["__client_key__", ' + b'"' * (size - 19)
    async with desk(replay=Replay(memory=size, disk=size)) as (s, _):
        slow, quick = await s.caller(), await s.caller()
        await slow.send(post(body, b"/books/slow", typed("application/json")))
        await until(lambda: s.plane.vault.memory >= size)
        assert (await quick.get(b"/books/quick")).status == 200
        assert (await slow.answer()).status == 200

        assert [seen.target for seen in s.upstream.seen] == [b"/quick", b"/slow"]
        assert s.upstream.seen[1].body.startswith(b'["app-1", ')


async def test_a_request_behind_chunks_that_were_gathered_is_not_lost() -> None:
    """Nor does it get their trailer."""
    async with desk() as (s, _):
        caller = await s.caller()
        head = b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        first = (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"__secret__", trailer=b"X-User: anna\r\n")
        )
        await caller.send(first + b"GET /books/y HTTP/1.1\r\nHost: localhost\r\n\r\n")

        for _ in range(2):
            assert (await caller.answer()).status == 200
        assert [seen.body for seen in s.upstream.seen] == [b"planted-&secret", b""]
        assert s.upstream.seen[1].values(b"x-user") == []


@pytest.mark.parametrize(
    "fields", [[typed("image/png")], [], [typed("text/plain"), b"Content-Encoding: gzip"]]
)
async def test_what_is_no_text_streams_untouched(fields: list[bytes]) -> None:
    """Ten times what memory would keep, as on every route."""
    body = b"__secret__" * 4 * KIB
    async with desk() as (s, _):
        caller = await s.caller()
        assert (await caller.post(body, b"/books/x", *fields)).status == 200

        assert s.upstream.seen[0].body == body


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_text_that_is_too_long_is_refused(framing: str) -> None:
    """It would have to be in memory as a whole; the sentence says what to raise."""
    async with desk() as (s, _):
        caller = await s.caller()
        body = b"x" * 5000
        if framing == "length":
            await caller.send(post(body, b"/books/x", typed("text/plain")))
        else:
            head = b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            await caller.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, body))
        answer = await caller.answer()

        assert (answer.status, answer.code) == (413, "body_too_large")
        assert "4096 bytes" in answer.problem["detail"]
        assert s.upstream.seen == []
        await until(lambda: s.plane.vault.memory == 0)


async def test_no_memory_left_is_said() -> None:
    """Bodies that wait to be looked through share ``replay.total_memory``."""
    kept = Kept(await open_store("memory:", []))
    async with stage(
        route={"placeholders": True},
        replay=ReplayBudget(total_memory=1000),
        parts={"values": kept.state},
    ) as s:
        caller = await s.caller()
        head = b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        await caller.send(head + b"Content-Length: 4000\r\n\r\n" + b"x" * 500)
        await until(lambda: s.plane.vault.memory == 500)
        await caller.send(b"x" * 3500)

        assert (await caller.answer()).code == "overloaded"
        await until(lambda: s.plane.vault.memory == 0)


async def test_a_replay_resolves_nothing_anew() -> None:
    """The request that is sent again is the request that was sent: state may have changed meanwhile."""
    async with desk(unless(b"token-1")) as (s, kept):
        await kept.put("t", "one")
        s.source.gate = asyncio.Event()
        caller = await s.caller()
        await caller.send(
            post(b'{"t": "[user[t]]"}', b"/books/x?t=[user[t]]", typed("application/json"), b"X-T: [user[t]]")
        )
        await until(lambda: s.source.renewals)
        await kept.put("t", "two")
        s.source.gate.set()
        assert (await caller.answer()).status == 200

        first, second = s.upstream.seen
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-2"]
        assert first.body == second.body == b'{"t": "one"}'
        assert first.target == second.target == b"/x?t=one"
        assert first.values(b"x-t") == second.values(b"x-t") == [b"one"]


@pytest.mark.parametrize(
    ("target", "fields", "detail"),
    [
        (b"/books/?x=__nobody__", [], "no setting nobody"),
        (b"/books/?x=[user[a/b]]", [], "no state a/b of the login"),
        (b"/books/?x=[[a/b]]", [], "no state a/b of the account"),
        (b"/books/?x=[user[old]]", [], "has expired"),
        (b"/books/", [b"Authorization: Bearer [user[old]]"], "has expired"),
        (b"/books/", [b"X-A: [user[evil]]"], "no header may hold"),
        (b"/books/[user[dots]]/x", [], "dot segment"),
        (b"/books/?x=__secret.json('[a]')__", [], "is not JSON"),
    ],
)
async def test_what_stands_for_nothing_is_not_sent(target: bytes, fields: list[bytes], detail: str) -> None:
    """Told by kind and path, never by value."""
    async with desk() as (s, kept):
        await kept.put("old", "planted-1", seconds=1)
        await kept.put("evil", "planted-2\r\nX-Admin: yes")
        await kept.put("dots", "..")
        await kept.clock.advance(1)
        caller = await s.caller()
        answer = await caller.get(target, *fields)

        assert (answer.status, answer.code) == (400, "placeholder_unresolved")
        assert detail in answer.problem["detail"]
        assert "planted" not in answer.head.decode() + answer.body.decode()
        assert s.upstream.seen == []
        assert (await caller.get()).status == 200  # the connection is good for another
        assert all("planted" not in repr(each) for each in s.logged)


async def test_a_value_that_names_a_setting_is_text() -> None:
    """Who may put state must not read settings with it."""
    async with desk() as (s, kept):
        await kept.put("t", "__secret__ [[t]]")
        caller = await s.caller()
        await caller.post(
            b'["[user[t]]"]', b"/books/?x=[user[t]]", typed("application/json"), b"X-T: [user[t]]"
        )

        (seen,) = s.upstream.seen
        assert b"planted" not in seen.head + seen.body
        assert seen.values(b"x-t") == [b"__secret__ [[t]]"]
        assert json.loads(seen.body) == ["__secret__ [[t]]"]


async def test_a_hop_by_hop_field_goes_nowhere_with_a_placeholder_either() -> None:
    """RFC 9110 section 7.6.1 knows no exception."""
    async with desk() as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/", b"Connection: x-hop", b"X-Hop: __secret__", b"TE: __secret__")
        assert b"planted" not in s.upstream.seen[0].head


async def test_the_log_has_the_path_as_it_came() -> None:
    """A value must not get there by way of the path."""
    async with desk() as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/__secret__/x?y=__secret__")
        await until(lambda: s.logged)

        assert s.logged[0].path == "/books/__secret__/x"
        assert s.upstream.seen[0].target == b"/planted-%26secret/x?y=planted-%26secret"


async def test_a_store_that_fails_is_told(tmp_path: Path) -> None:
    """Not taken for a login without state."""
    async with desk(url=f"sqlite:{tmp_path / 'store.db'}") as (s, kept):
        await kept.store.close()
        caller = await s.caller()
        answer = await caller.get(b"/books/?x=[user[t]]")

        assert (answer.status, answer.code) == (503, "store_unavailable")
        with pytest.raises(StoreError):
            await kept.state.values("books")


async def test_what_a_profile_sets_stands_once_beside_our_token() -> None:
    """Even a placeholder of the caller's does not double ``Client-Id``; with a credential of its own it says its own."""
    inject = Inject(headers={"Client-Id": "ours"})
    async with desk(inject=inject) as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/x", b"Client_Id: __client_key__")
        await caller.get(b"/books/x", b"Client-Id: __client_key__", b"Authorization: Key __client_key__")
        first, second = s.upstream.seen
        assert (first.values(b"client-id"), first.token) == ([b"ours"], b"token-1")
        assert first.values(b"client_id") == []
        assert second.values(b"client-id") == [b"app-1"]
        assert second.values(b"authorization") == [b"Key app-1"]


async def test_a_credential_of_its_own_does_not_know_where_a_login_leads() -> None:
    """The token set says it; a request that goes without has nowhere to go, and is told."""
    async with desk(template="{instance_url}", hosts=("127.0.0.1",)) as (s, _):
        s.source.more = {"captured": {"instance_url": f"http://127.0.0.1:{s.upstream.port}"}}
        caller = await s.caller()
        assert (await caller.get(b"/books/x?k=__client_key__")).body == b"hello"
        assert s.upstream.seen[0].target == b"/x?k=app-1"
        answer = await caller.get(b"/books/x", b"Authorization: Key __client_key__")
        assert answer.code == "misconfigured"
        assert len(s.upstream.seen) == 1


async def test_a_parameter_of_the_callers_cannot_be_made_by_a_placeholder() -> None:
    """Our token's parameter is looked for in what is sent, not in what was written."""
    async with desk(inject=Inject(header="", query="app-1")) as (s, _):
        caller = await s.caller()
        await caller.get(b"/books/x?__client_key__=evil&a=1")
        assert s.upstream.seen[0].target == b"/x?a=1&app-1=token-1"


IN_QUERY = Inject(header="", query="access_token")


async def test_a_parameter_with_a_placeholder_takes_our_token_s_place() -> None:
    """As a header does; and without one it is dropped, whatever its spelling, and ours is put in."""
    async with desk(unless_in_query(b"token-9"), inject=IN_QUERY) as (s, kept):
        await kept.put("mine", "theirs")
        caller = await s.caller()
        for query in (
            b"access_token=[user[mine]]&a=1",
            b"a=1&access_token=x&Access-Token=%5Buser%5Bmine%5D%5D",
            b"a=__client_key__&access_token=x",
        ):
            assert (await caller.get(b"/books/x?" + query)).status == 200

        assert [seen.target for seen in s.upstream.seen] == [
            b"/x?access_token=theirs&a=1",
            b"/x?a=1&Access-Token=theirs",
            b"/x?a=app-1&access_token=token-1",
        ]


async def test_a_dead_token_beside_placeholders_in_a_query() -> None:
    """Renewed and sent again; what was resolved stays."""
    async with desk(unless_in_query(b"token-1"), inject=IN_QUERY) as (s, _):
        caller = await s.caller()
        assert (await caller.get(b"/books/x?s=__secret__")).status == 200
        assert [seen.target for seen in s.upstream.seen] == [
            b"/x?s=planted-%26secret&access_token=token-1",
            b"/x?s=planted-%26secret&access_token=token-2",
        ]


def unless_in_query(*bad: bytes) -> Any:
    async def script(line: Line) -> None:
        await line.send(dead() if any(token in line.seen.target for token in bad) else ok(b"hello"))

    return script


async def test_where_an_answer_leads_it_names_no_value() -> None:
    """The commonest redirect of all quotes the address that was asked for, with a slash more."""

    async def script(line: Line) -> None:
        lines = [
            name + b": http://api.example" + line.seen.target + b"&more=1"
            for name in (b"Location", b"Content-Location", b"Link", b"refresh")
        ]
        await line.send(ok(b"", *lines, b"X-Own: api.example", status=b"308 Permanent Redirect"))

    async with desk(script) as (s, kept):
        await kept.put("t", "planted/token")
        await kept.put("one", "1")
        caller = await s.caller()
        answer = await caller.get(b"/books/a/[user[t]]?s=__secret__&t=%5Buser%5Bt%5D%5D&n=[user[one]]")

        assert b"planted" in s.upstream.seen[0].target
        assert b"planted" not in answer.head
        place = b"http://api.example/a/%5Buser%5Bt%5D%5D?s=__secret__&t=%5Buser%5Bt%5D%5D&n=1&more=1"
        assert answer.values(b"location") == [place]
        assert answer.values(b"refresh") == [place]
        assert answer.values(b"x-own") == [b"api.example"]
