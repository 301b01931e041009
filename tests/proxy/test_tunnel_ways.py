"""Tunnels together with what else a route, a listener and a caller can have."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.proxy.actors import Caller, Line, Stage, dead, ok, route_to, stage, until
from tests.proxy.test_allow import only
from tests.proxy.test_doors import certificate, change, secure_caller, trusting
from tests.proxy.test_outgoing import behind, server
from tests.proxy.test_tunnels import LETS, PIECE, asking, echo, opened, refused, switch
from tokenproxy.core.forwarded import Forwarded
from tokenproxy.core.headers import HeaderChanges
from tokenproxy.core.retries import Retry
from tokenproxy.core.routes import Route, RouteTable
from tokenproxy.core.settings import Listen, TLSFiles

BOTH = Forwarded(x_forwarded=True, rfc7239=True)
KEY = "a-key-of-good-length"
BASIC = b"Proxy-Authorization: Basic " + base64.b64encode(f"x:{KEY}".encode())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


# a route


@pytest.mark.parametrize("placeholders", [False, True], ids=["plain", "placeholders"])
async def test_an_upstream_is_told_who_asked_for_the_tunnel(*, placeholders: bool) -> None:
    async with stage(echo, route={**LETS, "forwarded": BOTH, "placeholders": placeholders}) as s:
        await opened(s, asking(b"X-Forwarded-For: 8.8.8.8"))

        (seen,) = s.upstream.seen
        assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert seen.values(b"forwarded") == [b"for=127.0.0.1;host=localhost;proto=http"]


@pytest.mark.parametrize("placeholders", [False, True], ids=["plain", "placeholders"])
async def test_changed_headers_are_changed_in_a_handshake_too(*, placeholders: bool) -> None:
    changes = HeaderChanges(added=(("X-Added", "1"),), removed=("X-Gone",))
    async with stage(echo, route={**LETS, "request_headers": changes, "placeholders": placeholders}) as s:
        await opened(s, asking(b"X-Gone: 1", b"X-Kept: 1"))

        (seen,) = s.upstream.seen
        assert (seen.values(b"x-added"), seen.values(b"x-gone"), seen.values(b"x-kept")) == (
            [b"1"],
            [],
            [b"1"],
        )


async def test_one_connection_field_goes_upstream() -> None:
    """Not ``TE`` beside ``Upgrade``: there are servers that look for the one word alone. A tunnel has no trailers."""
    async with stage(echo, route=LETS) as s:
        await opened(s, asking(b"TE: trailers", b"Connection: TE", b"Trailer: X-Sum"))

        (seen,) = s.upstream.seen
        assert (seen.values(b"connection"), seen.values(b"te"), seen.values(b"trailer")) == (
            [b"Upgrade"],
            [],
            [],
        )


async def test_trailers_pass_on_a_route_that_lets_upgrades_through() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with stage(answer, route=LETS) as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, TE\r\nUpgrade: websocket\r\nTE: trailers\r\n"
            b"Transfer-Encoding: chunked\r\nTrailer: X-Mine\r\n\r\n1\r\nb\r\n0\r\nX-Mine: 2\r\n\r\n"
        )
        assert (await caller.rest()).endswith(b"0\r\nX-Sum: 1\r\n\r\n")
        (seen,) = s.upstream.seen
        assert seen.body == b"b"
        assert seen.values(b"trailer") == [b"X-Mine"]


@pytest.mark.parametrize("placeholders", [False, True], ids=["plain", "placeholders"])
async def test_an_allow_list_looks_at_handshakes(*, placeholders: bool) -> None:
    route = {**LETS, "allow": only("GET /ws"), "placeholders": placeholders}
    async with stage(echo, route=route) as s:
        await opened(s)
        answer = await refused(await s.caller(), asking(target=b"/books/admin") + b"early")
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert len(s.upstream.seen) == 1
        assert s.plane.tunnel_turns.taken == 1


@pytest.mark.parametrize("placeholders", [False, True], ids=["plain", "placeholders"])
async def test_a_handshake_that_fails_in_passing_is_tried_again(*, placeholders: bool) -> None:
    """By the budget of the route; the caller's first bytes wait for the one that goes through."""
    busy = ok(b"busy", status=b"503 Service Unavailable")
    turns = iter([busy, b"", dead(), busy])

    async def script(line: Line) -> None:
        said = next(turns, None)
        if said is None:
            await echo(line)
        elif said:
            await line.send(said)
        else:
            line.cut()

    retry = Retry(attempts=3)
    async with stage(script, route={**LETS, "retry": retry, "placeholders": placeholders}) as s:
        caller = await opened(s, asking() + b"early")
        assert await caller.reader.readexactly(5) == b"early"
        assert [seen.token for seen in s.upstream.seen] == [b"token-1"] * 3 + [b"token-2"] * 2
        assert [seen.values(b"upgrade") for seen in s.upstream.seen] == [[b"websocket"]] * 5
        assert s.metrics.routes["books"].requests[1, "ok"] == 1
        assert (s.plane.tunnel_turns.taken, s.plane.in_flight) == (1, 0)


# a proxy behind us


async def test_a_tunnel_through_an_outgoing_proxy(authority: trustme.CA, ca_file: str) -> None:
    how = {"tls": TLSFiles(ca_file=ca_file), **LETS}
    login = {"username": "me", "password": "secret"}
    tls = server(authority, "api.example")
    async with behind(echo, tls=tls, route=how, login="me:secret", proxy=login) as (s, outgoing):
        caller = await opened(s, asking() + b"early")
        assert await caller.reader.readexactly(5) == b"early"
        sending = asyncio.create_task(caller.send(PIECE * 32))
        assert await caller.reader.readexactly(len(PIECE) * 32) == PIECE * 32
        await sending
        assert outgoing.lines == [b"CONNECT api.example:443 HTTP/1.1"]
        assert not s.upstream.seen[0].values(b"proxy-authorization")
        metrics = s.metrics.routes["books"]
        assert (metrics.bytes_up, metrics.bytes_down) == (5 + len(PIECE) * 32,) * 2
        caller.close()
        await until(lambda: not s.plane.tunnels)
        await until(lambda: not s.upstream.open)


async def test_a_handshake_in_absolute_form_through_an_outgoing_proxy() -> None:
    async with behind(echo, route=LETS) as (s, outgoing):
        caller = await opened(s, asking() + b"early")
        assert await caller.reader.readexactly(5) == b"early"
        assert outgoing.lines == [b"GET http://api.example/ws HTTP/1.1"]


# listeners


async def test_a_caller_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    """A half that is closed ends both; what was said before it arrives."""
    listen = Listen(address="127.0.0.1:0", tls=certificate(authority, tmp_path))
    async with stage(echo, route={**LETS, "forwarded": BOTH}) as s:
        address = await s.plane.listen(listen)
        caller = await secure_caller(s, address, trusting(authority))
        await caller.send(asking() + b"early")
        assert (await caller.head()).status == 101
        assert await caller.reader.readexactly(5) == b"early"
        sending = asyncio.create_task(caller.send(PIECE * 32))
        assert await caller.reader.readexactly(len(PIECE) * 32) == PIECE * 32
        await sending
        assert s.upstream.seen[0].values(b"x-forwarded-proto") == [b"https"]
        caller.close()
        await until(lambda: not s.plane.tunnels)
        await until(lambda: not s.upstream.open)


async def test_an_upstream_that_ends_towards_a_caller_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    async def script(line: Line) -> None:
        await line.send(switch() + PIECE * 8)
        line.close()

    listen = Listen(address="127.0.0.1:0", tls=certificate(authority, tmp_path))
    async with stage(script, route=LETS) as s:
        caller = await secure_caller(s, await s.plane.listen(listen), trusting(authority))
        await caller.send(asking())
        assert (await caller.head()).status == 101
        assert await caller.rest() == PIECE * 8
        await until(lambda: not s.plane.tunnels)


@pytest.mark.parametrize("over", ["plain", "tls"])
@pytest.mark.parametrize("when", ["with the 101", "with data", "behind data", "behind much"])
@pytest.mark.parametrize("end", ["goodbye", "fin"])
async def test_a_cut_upstream_behind_tls_is_no_end(
    authority: trustme.CA, ca_file: str, tmp_path: Path, over: str, when: str, end: str
) -> None:
    """RFC 8446 section 6.1: a mere FIN may be anybody's on the way. What came before it is given, and then a reset."""
    data = PIECE * 64 if when == "behind much" else b"bye"
    stop = asyncio.Event()

    async def script(line: Line) -> None:
        if when == "with the 101":
            await line.send(switch() + data)
        else:
            await line.send(switch())
            assert await line.reader.readexactly(2) == b"go"
            await line.send(data)
        if when == "behind data":
            await stop.wait()
        if end == "goodbye":
            line.close()
        else:
            line.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await line.reader.read()

    listen = Listen(address="127.0.0.1:0")
    if over == "tls":
        listen = Listen(address="127.0.0.1:0", tls=certificate(authority, tmp_path))
    route = {**LETS, "scheme": "https", "to": "localhost", "tls": TLSFiles(ca_file=ca_file)}
    async with stage(script, upstream_how={"ssl": server(authority, "localhost")}, route=route) as s:
        address = await s.plane.listen(listen)
        caller = await (
            secure_caller(s, address, trusting(authority)) if over == "tls" else Caller.connect(address)
        )
        s.callers.append(caller)
        await caller.send(asking())
        assert (await caller.head()).status == 101
        if when != "with the 101":
            await caller.send(b"go")
        got = b""
        try:
            while piece := await caller.reader.read(65536):
                got += piece
                if len(got) >= len(data):
                    stop.set()
        except ConnectionError:
            seen = "reset"
            got += bytes(caller.reader._buffer)  # type: ignore[attr-defined]
        else:
            seen = "end"
        assert seen == ("end" if end == "goodbye" else "reset")
        if end == "goodbye" or when != "behind much":  # what the kernel still held goes with a reset
            assert got == data
        else:
            assert data.startswith(got)
        await until(lambda: not s.plane.tunnels)


async def test_a_caller_that_ends_is_no_cut_upstream(authority: trustme.CA, ca_file: str) -> None:
    """We close towards the upstream ourselves, and wait for no goodbye of its."""
    route = {**LETS, "scheme": "https", "to": "localhost", "tls": TLSFiles(ca_file=ca_file)}
    async with stage(echo, upstream_how={"ssl": server(authority, "localhost")}, route=route) as s:
        caller = await opened(s)
        await caller.send(b"hello")
        assert await caller.reader.readexactly(5) == b"hello"
        caller.writer.write_eof()
        assert await caller.reader.read() == b""
        await until(lambda: not s.plane.tunnels)


async def test_a_caller_at_a_unix_socket(tmp_path: Path) -> None:
    async with stage(echo, route=LETS, listen=f"unix:{tmp_path}/s") as s:
        caller = await opened(s)
        await caller.send(b"hello")
        caller.writer.write_eof()
        assert await caller.rest() == b"hello"
        await until(lambda: not s.plane.tunnels)


async def test_a_listener_that_a_reload_takes_away_leaves_its_tunnels(
    authority: trustme.CA, tmp_path: Path
) -> None:
    files = certificate(authority, tmp_path)
    asked, go = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        if line.seen.values(b"x-slow"):
            asked.set()
            await go.wait()
        await echo(line)

    async with stage(script, route=LETS) as s:
        plain = await opened(s)
        secure = await secure_caller(
            s, await s.plane.listen(Listen(address="127.0.0.1:0", tls=files)), trusting(authority)
        )
        await secure.send(asking())
        assert (await secure.head()).status == 101
        slow = await s.caller()
        await slow.send(asking(b"X-Slow: 1"))
        await asked.wait()
        await change(s, "127.0.0.1:0")
        s.swap(routes=RouteTable.of([]))
        go.set()
        assert (await slow.head()).status == 101
        for caller in (plain, secure, slow):
            await caller.send(b"still there")
            assert await caller.reader.readexactly(11) == b"still there"
        assert len(s.plane.tunnels) == 3
        assert s.metrics.routes["books"].tunnels == 3


# callers that take us for their proxy


def acme(**changes: Any) -> dict[str, Any]:
    return {"routes": lambda port: [route_to(port, host="api.example", prefix="/", **changes)]}


async def test_aiohttp_s_client_opens_a_socket_through_us() -> None:
    """It writes ``ws://`` into the request line. That our upstream cannot reckon is another matter."""
    async with stage(echo, **acme(**LETS)) as s, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="Invalid"):
            await client.ws_connect("ws://api.example/live", proxy=f"http://{s.address}")
        assert s.upstream.seen[0].target == b"/live"


async def test_an_upgrade_of_a_url() -> None:
    async with stage(echo, **acme(**LETS, forwarded=BOTH), caller_keys=(KEY,)) as s:
        caller = await s.caller()
        await caller.send(asking(BASIC, target=b"http://api.example/live?room=1") + b"early")
        assert (await caller.head()).status == 101
        assert await caller.reader.readexactly(5) == b"early"
        (seen,) = s.upstream.seen
        assert (seen.target, seen.token) == (b"/live?room=1", b"token-1")
        assert seen.values(b"x-forwarded-host") == [b"api.example"]
        assert not seen.values(b"proxy-authorization")
        answer = await refused(await s.caller(), asking(target=b"http://api.example/live"))
        assert (answer.status, answer.code) == (407, "caller_unauthorized")
        answer = await refused(await s.caller(), asking(BASIC, target=b"http://other.example/live"))
        assert (answer.status, answer.code) == (404, "no_route")


@asynccontextmanager
async def tunnelling(answer: bytes, authority: trustme.CA) -> AsyncIterator[Stage]:
    """An upstream behind TLS that callers with the key may reach by CONNECT."""

    def routes(port: int) -> list[Route]:
        return [route_to(port, host="localhost", to="localhost", prefix="/", scheme="https", connect=True)]

    how = {"ssl": server(authority, "localhost")}
    async with stage(answer, routes=routes, upstream_how=how, caller_keys=(KEY,)) as s:
        yield s


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


async def curl(*words: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "--max-time",
        "10",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err


@needs_curl
@pytest.mark.parametrize("secure", [False, True], ids=["http-proxy", "https-proxy"])
async def test_curl_through_a_tunnel(
    authority: trustme.CA, ca_file: str, tmp_path: Path, *, secure: bool
) -> None:
    """TLS is between it and the upstream; the credential is its own."""
    async with tunnelling(ok(b"x" * 100_000, b"Connection: close"), authority) as s:
        proxy = f"http://x:{KEY}@{s.address}"
        more = []
        if secure:
            address = await s.plane.listen(
                Listen(address="127.0.0.1:0", tls=certificate(authority, tmp_path))
            )
            proxy = f"https://x:{KEY}@localhost:{address.rpartition(':')[2]}"
            more = ["--proxy-cacert", ca_file]
        url = f"https://localhost:{s.upstream.port}/x"
        code, out, err = await curl(
            "-x", proxy, "--cacert", ca_file, *more, "-H", "Authorization: Bearer own", url
        )
        assert (code, out, err) == (0, b"x" * 100_000, b"")
        assert s.upstream.seen[0].token == b"own"
        code, _, err = await curl("-x", proxy.replace(KEY, "wrong"), "--cacert", ca_file, *more, url)
        assert code == 56
        assert b"407" in err
        code, _, err = await curl("-x", proxy, "--cacert", ca_file, *more, "https://other.example/")
        assert b"403" in err
        await until(lambda: not s.plane.tunnels)
        assert s.metrics.routes["books"].bytes_down > 100_000


async def test_python_through_a_tunnel(authority: trustme.CA, ca_file: str) -> None:
    async with tunnelling(ok(b"hello", b"Connection: close"), authority) as s:
        url = f"https://localhost:{s.upstream.port}/x"
        proxy = f"http://x:{KEY}@{s.address}"
        context = ssl.create_default_context(cafile=ca_file)

        def fetch() -> bytes:
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({"https": proxy}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(url, timeout=10) as answer:
                return bytes(answer.read())

        assert await asyncio.to_thread(fetch) == b"hello"
        async with aiohttp.ClientSession() as client, client.get(url, proxy=proxy, ssl=context) as answer:
            assert await answer.read() == b"hello"
        await until(lambda: not s.plane.tunnels)
        assert s.metrics.routes["books"].requests[2, "ok"] == 2
