"""Upstreams that a token set names (``{instance_url}``): gone to, kept apart, and never beyond the allowed hosts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.actors import ScriptedUpstream, dead, ok, stage, until
from tokenproxy.core.provider import Inject
from tokenproxy.proxy import pool


def leading_to(template: str = "{instance_url}", **more: Any) -> dict[str, Any]:
    return {"template": template, "hosts": ("127.0.0.1", "localhost"), "authority": "", **more}


def at(port: int, path: str = "") -> dict[str, Any]:
    return {"captured": {"instance_url": f"http://127.0.0.1:{port}{path}"}}


@pytest.mark.parametrize(
    ("template", "path", "target"),
    [
        ("{instance_url}", "", b"/v1?a=1"),
        ("{instance_url}/services/data", "", b"/services/data/v1?a=1"),
        ("{instance_url}/data", "/tenant", b"/tenant/data/v1?a=1"),
        ("{instance_url}", "/tenant/", b"/tenant/v1?a=1"),
        ("http://{instance_url}/crm", "", b"/crm/v1?a=1"),
    ],
)
async def test_a_request_goes_where_the_token_set_says(template: str, path: str, target: bytes) -> None:
    async with stage(route=leading_to(template)) as s:
        s.source.more = at(s.upstream.port, path)
        caller = await s.caller()
        for _ in range(3):
            assert (await caller.get(b"/books/v1?a=1")).body == b"hello"
        seen = s.upstream.seen[0]
        assert seen.target == target
        assert seen.values(b"host") == [b"127.0.0.1:%d" % s.upstream.port]
        assert seen.token == b"token-1"
        assert s.upstream.connections == 1


async def test_each_login_has_its_own_place_and_nobody_meets() -> None:
    """The token of one login never leaves for the other's host."""
    other = await ScriptedUpstream(ok(b"other")).start()
    async with stage(route=leading_to(account="books/{header:x-user}")) as s:
        s.source.more = at(s.upstream.port)
        s.source.tokens("books/anna", 1)
        s.source.more = at(other.port)
        s.source.tokens("books/bert", 1)
        caller = await s.caller()
        for _ in range(2):
            assert (await caller.get(b"/books/x", b"x-user: anna")).body == b"hello"
            assert (await caller.get(b"/books/x", b"x-user: bert")).body == b"other"
        assert {seen.token for seen in s.upstream.seen} == {b"token-anna1"}
        assert {seen.token for seen in other.seen} == {b"token-bert1"}
    await other.stop()


async def test_a_renewal_may_move_a_login() -> None:
    """The new token set names another host: the request is sent again there."""
    moved = await ScriptedUpstream(ok(b"moved")).start()
    async with stage(dead(), route=leading_to()) as s:
        s.source.more = at(s.upstream.port)
        s.source.tokens("books", 1)
        s.source.more = at(moved.port)
        caller = await s.caller()
        assert (await caller.post(b"order")).body == b"moved"
        assert [(seen.token, seen.body) for seen in moved.seen] == [(b"token-2", b"order")]
        assert s.source.renewals == ["books"]
    await moved.stop()


@pytest.mark.parametrize(
    "captured",
    [
        {"instance_url": "https://evil.example"},
        {"instance_url": "http://evil.example"},
        {"instance_url": "http://127.0.0.1@evil.example"},
        {"instance_url": "http://127.0.0.1.evil.example"},
        {"instance_url": "http://127.0.0.1/?x="},
        {"instance_url": "http://127.0.0.1/#"},
        {"instance_url": "127.0.0.1"},
        {"other": "http://127.0.0.1"},
    ],
    ids=str,
)
async def test_a_token_goes_to_no_other_host(captured: dict[str, str]) -> None:
    """What was stored before the config named its hosts is looked at again."""
    async with stage(route=leading_to()) as s:
        s.source.more = {"captured": captured}
        caller = await s.caller()
        answer = await caller.get()
        assert (answer.status, answer.code) == (503, "misconfigured")
        assert "evil" not in answer.problem["detail"]
        assert s.upstream.connections == 0


async def test_a_dot_segment_does_not_leave_the_path() -> None:
    async with stage(route=leading_to("{instance_url}/tenant")) as s:
        s.source.more = at(s.upstream.port, "/..")
        caller = await s.caller()
        assert (await caller.get()).code == "misconfigured"
        assert s.upstream.connections == 0


async def test_connections_are_kept_for_so_many_origins_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand tenants must not cost a thousand pools: who was not asked for longest goes, its connection closed."""
    monkeypatch.setattr(pool, "VISITED", 2)
    others = [await ScriptedUpstream().start() for _ in range(2)]
    async with stage(route=leading_to(account="books/{header:x-user}")) as s:
        for number, upstream in enumerate([s.upstream, *others]):
            s.source.more = at(upstream.port)
            s.source.tokens(f"books/u{number}", 1)
        caller = await s.caller()
        for user in (0, 1, 0, 2):
            assert (await caller.get(b"/books/x", b"x-user: u%d" % user)).body == b"hello"
        await until(lambda: others[0].open == 0)
        assert (s.upstream.open, s.upstream.connections, others[1].open) == (1, 1, 1)
        assert (await caller.get(b"/books/x", b"x-user: u1")).body == b"hello"
        assert others[0].connections == 2
    for upstream in others:
        await upstream.stop()


async def test_a_reload_keeps_the_connections() -> None:
    async with stage(route=leading_to()) as s:
        s.source.more = at(s.upstream.port)
        caller = await s.caller()
        await caller.get()
        s.swap(hosts=frozenset({"other.example"}))
        await caller.get()
        assert s.upstream.connections == 1


async def test_a_place_and_a_query_parameter_at_once() -> None:
    async with stage(route=leading_to("{instance_url}/api", inject=Inject(header="", query="auth"))) as s:
        s.source.more = at(s.upstream.port)
        caller = await s.caller()
        await caller.get(b"/books/x?auth=evil")
        assert s.upstream.seen[0].target == b"/api/x?auth=token-1"
