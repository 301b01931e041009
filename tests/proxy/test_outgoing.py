"""Upstreams behind an outgoing proxy, with a real one in between."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trustme

from tests.proxy.actors import QUICK, ScriptedUpstream, Stage, ok, route_to, stage, unless
from tests.simulators import OutgoingSimulator, free_port
from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.routes import Route, RouteTable
from tokenproxy.core.settings import TLSFiles


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def behind(
    script: Any = b"",
    *,
    tls: ssl.SSLContext | None = None,
    proxy: dict[str, Any] | None = None,
    proxy_tls: ssl.SSLContext | None = None,
    login: str = "",
    route: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Stage, OutgoingSimulator]]:
    """A stage whose upstream, ``api.example``, only the proxy can find."""
    upstream = await ScriptedUpstream(script).start(**({"ssl": tls} if tls else {}))
    async with OutgoingSimulator(upstream.port, login=login, tls=proxy_tls) as outgoing:
        given = {"scheme": "http", "host": "127.0.0.1", "port": outgoing.port, **(proxy or {})}

        def routes(_port: int) -> list[Route]:
            where = {"to": "api.example", "proxy": OutgoingProxy(**given), **(route or {})}
            return [route_to(443 if tls else 80, scheme="https" if tls else "http", **where)]

        async with stage(routes=routes, **settings) as s:
            s.upstream, nobody = upstream, s.upstream
            try:
                yield s, outgoing
            finally:
                s.upstream = nobody
                await upstream.stop()


async def test_a_tunnel_to_an_upstream_behind_tls(authority: trustme.CA, ca_file: str) -> None:
    """One CONNECT, then the connection is kept like any other; the proxy sees a host, the upstream the token."""
    how = {"tls": TLSFiles(ca_file=ca_file)}
    async with behind(unless(b"token-1"), tls=server(authority, "api.example"), route=how) as (s, outgoing):
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert (await caller.post(b"x" * 300_000)).body == b"hello"

        assert outgoing.asked == [b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n"]
        assert s.upstream.connections == 1
        assert [seen.target for seen in s.upstream.seen] == [b"/x"] * 3
        assert s.upstream.seen[-1].body == b"x" * 300_000


async def test_the_proxy_cannot_stand_in_for_the_upstream(authority: trustme.CA, ca_file: str) -> None:
    how = {"tls": TLSFiles(ca_file=ca_file)}
    async with behind(tls=server(authority, "evil.example"), route=how) as (s, _):
        answer = await (await s.caller()).get()

        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert answer.problem["detail"].startswith(
            "The certificate of the upstream api.example is not trusted"
        )
        assert s.upstream.seen == []


async def test_a_proxy_that_speaks_tls_itself(authority: trustme.CA, ca_file: str) -> None:
    how = {"tls": TLSFiles(ca_file=ca_file)}
    proxy = {"scheme": "https", "host": "localhost", "ca_file": ca_file}
    inner, outer = server(authority, "api.example"), server(authority, "localhost")
    async with behind(b"", tls=inner, proxy=proxy, proxy_tls=outer, route=how) as (s, outgoing):
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert (await caller.post(b"x" * 300_000)).body == b"hello"

        assert outgoing.lines == [b"CONNECT api.example:443 HTTP/1.1"]
        assert s.upstream.connections == 1

    async with behind(b"", proxy={**proxy, "ca_file": ""}, proxy_tls=outer) as (s, outgoing):
        answer = await (await s.caller()).get()
        assert "did not agree on TLS, or its certificate is not trusted" in answer.problem["detail"]
        assert outgoing.asked == []


async def test_plain_requests_go_in_absolute_form() -> None:
    async with behind(unless(b"token-1"), route={"path": "/v2"}) as (s, outgoing):
        answer = await (await s.caller()).get(b"/books/a%2Fb?x=1")

        assert answer.body == b"hello"
        assert outgoing.lines == [b"GET http://api.example/v2/a%2Fb?x=1 HTTP/1.1"], (
            "the second took the same way"
        )
        assert [seen.values(b"host") for seen in s.upstream.seen] == [[b"api.example"]] * 2


@pytest.mark.parametrize("secure", [True, False])
async def test_credentials_for_the_proxy(authority: trustme.CA, ca_file: str, *, secure: bool) -> None:
    """The upstream never sees them, and a wrong one is told as the proxy's word, not as the upstream's."""
    tls = server(authority, "api.example") if secure else None
    how = {"tls": TLSFiles(ca_file=ca_file)} if secure else {}
    right, wrong = {"username": "anna", "password": "planted"}, {"username": "anna", "password": "wrong"}
    async with behind(b"", tls=tls, proxy=right, login="anna:planted", route=how) as (s, _):
        assert (await (await s.caller()).get()).body == b"hello"
        assert s.upstream.seen[0].values(b"proxy-authorization") == []

    async with behind(b"", tls=tls, proxy=wrong, login="anna:planted", route=how) as (s, outgoing):
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert (
            f"The outgoing proxy 127.0.0.1:{outgoing.port} does not take our credentials"
            in answer.problem["detail"]
        )
        assert answer.problem["next_step"] == "Correct username and password in proxy of the route."


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "does not let us through to api.example:443 (403)"),
        (502, "could not reach api.example:443 (502)"),
    ],
)
async def test_a_proxy_that_refuses(authority: trustme.CA, status: int, says: str) -> None:
    async with behind(b"", tls=server(authority, "api.example")) as (s, outgoing):
        outgoing.refuse = status
        answer = await (await s.caller()).get()

        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert says in answer.problem["detail"]


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nmore than was asked for",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
    ],
)
async def test_a_proxy_that_makes_no_sense(authority: trustme.CA, said: bytes) -> None:
    async with behind(b"", tls=server(authority, "api.example")) as (s, outgoing):
        outgoing.answer = said
        answer = await (await s.caller()).get()

        assert answer.code == "upstream_unreachable"
        assert "in a way that makes no sense" in answer.problem["detail"]


async def test_a_proxy_that_is_not_there(authority: trustme.CA) -> None:
    port = free_port()
    async with behind(b"", tls=server(authority, "api.example"), proxy={"port": port}) as (s, _):
        answer = await (await s.caller()).get()

        assert answer.problem["detail"] == f"The outgoing proxy 127.0.0.1:{port} could not be connected to."


async def test_a_proxy_that_says_nothing(authority: trustme.CA) -> None:
    """The whole way is one connect: its deadline counts for all of it."""
    async with behind(b"", tls=server(authority, "api.example"), deadlines=QUICK) as (s, outgoing):
        outgoing.silent = True
        answer = await (await s.caller()).get()

        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert f"through the outgoing proxy 127.0.0.1:{outgoing.port}" in answer.problem["detail"]


async def test_connections_are_kept_apart_by_their_proxy(authority: trustme.CA, ca_file: str) -> None:
    how = {"tls": TLSFiles(ca_file=ca_file)}
    async with behind(b"", tls=server(authority, "api.example"), route=how) as (s, first):  # noqa: SIM117 - the second needs the first
        async with OutgoingSimulator(s.upstream.port) as second:
            assert (await (await s.caller()).get()).status == 200
            (route,) = s.settings.routes.by_host[""]
            other = OutgoingProxy(scheme="http", host="127.0.0.1", port=second.port)
            s.swap(routes=RouteTable.of([replace(route, upstream=replace(route.upstream, proxy=other))]))
            assert (await (await s.caller()).get()).status == 200

            assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_the_environment_s_proxies_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with stage(ok(b"hello")) as s:
        assert (await (await s.caller()).get()).body == b"hello"


def test_no_repr_shows_the_password() -> None:
    proxy = OutgoingProxy(scheme="http", host="p", port=3128, username="anna", password="planted-5c1d")

    assert "planted-5c1d" not in repr(proxy)
    assert len(proxy.secrets) == 2, "as it is, and as it is sent"
