"""Forward-proxy mode: an app that takes us for its ``http_proxy`` gets tokens for what routes name, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import urllib.error
import urllib.request

import aiohttp
import pytest

from tests.proxy.actors import Answer, Stage, ok, route_to, stage
from tokenproxy.core.routes import Route

KEY = "a-key-of-good-length"


def routes(port: int) -> list[Route]:
    """One by a name, one by a star, and one without a host, which must not be had by asking for a host."""
    return [
        route_to(port, name="acme", prefix="/", host="api.example.com", account="acme"),
        route_to(port, name="deep", prefix="/v2/", host="*.example.org", account="deep", path="/deep"),
        route_to(port, name="six", prefix="/", host="[2001:db8::1]", account="six"),
        route_to(port, name="books"),
    ]


async def ask(s: Stage, target: bytes, *fields: bytes, method: bytes = b"GET") -> Answer:
    return await (await s.caller()).get(target, *fields, method=method)


def basic(key: str) -> bytes:
    return b"Proxy-Authorization: Basic " + base64.b64encode(f"x:{key}".encode())


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"http://api.example.com/v2/x?y=%2F", b"/v2/x?y=%2F"),
        (b"http://api.example.com", b"/"),
        (b"http://api.example.com?x", b"/?x"),
        (b"http://api.example.com:80/a//b", b"/a//b"),
        (b"http://api.example.com:443/", b"/"),
        (b"http://API.Example.COM./x", b"/x"),
        (b"HTTPS://api.example.com/x", b"/x"),
        (b"http://deep.er.example.org/v2/x", b"/deep/x"),
        (b"http://[2001:DB8:0::1]:80/x", b"/x"),
        (b"http://localhost/books/x", b"/x"),
        (b"http://127.0.0.1:8080/books/x", b"/x"),
    ],
)
async def test_a_url_takes_the_route_that_names_its_host(target: bytes, seen: bytes) -> None:
    """RFC 9112 section 3.2.2; the received Host says nothing, and the upstream gets its own."""
    async with stage(routes=routes) as s:
        assert (await ask(s, target, b"Proxy-Connection: keep-alive")).status == 200
        (request,) = s.upstream.seen
        assert request.target == seen
        assert request.values(b"host") == [b"api.example"]
        assert request.token == b"token-1"
        assert not request.values(b"proxy-connection")


async def test_a_host_field_that_is_none_is_refused_though_the_url_counts() -> None:
    """RFC 9112 section 3.2: whoever stands before us may have read it otherwise."""
    async with stage(routes=routes) as s:
        for wrong in (b"a b", b"a,b", b"x@api.example.com", b"api.example.com/x"):
            caller = await s.caller()
            await caller.send(b"GET http://api.example.com/x HTTP/1.1\r\nHost: %b\r\n\r\n" % wrong)
            assert (await caller.answer()).code == "bad_request"
        assert not s.upstream.seen


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        (b"http://other.example/x", (404, "no_route")),
        (b"http://api.example.com.evil.example/x", (404, "no_route")),
        (b"https://other.example/x", (404, "no_route")),
        (b"http://example.org/v2/x", (404, "no_route")),
        (b"http://a.example.org/books/x", (404, "no_route")),
        (b"http://169.254.169.254/latest/meta-data", (404, "no_route")),
        (b"http://[::2]/books/x", (404, "no_route")),
        (b"http://me:secret@api.example.com/x", (400, "bad_request")),
        (b"http://api.example.com@other.example/x", (400, "bad_request")),
        (b"http://api.example.com\\@other.example/x", (400, "bad_request")),
        (b"http:///x", (400, "bad_request")),
        (b"http://api.example.com:port/x", (400, "bad_request")),
        (b"http://api.example.com/../x", (400, "bad_request")),
        (b"http://api%2Eexample.com/x", (400, "bad_request")),
        (b"ftp://api.example.com/x", (400, "bad_request")),
    ],
)
async def test_it_is_no_proxy_for_anything_else(target: bytes, refusal: tuple[int, str]) -> None:
    """An open proxy lends a stranger our address; a route without a host must not answer in another's name."""
    async with stage(routes=routes) as s:
        answer = await ask(s, target)
        assert (answer.status, answer.code) == refusal
        assert b"other.example" not in answer.body
        assert b"secret" not in answer.body
        assert not s.upstream.seen
        if refusal[0] == 404:
            assert answer.problem["next_step"]


@pytest.mark.parametrize("target", [b"api.example.com:443", b"other.example:443", b"localhost:80"])
async def test_a_tunnel_is_refused_with_the_way_out(target: bytes) -> None:
    """What an app sends for an https:// URL; what is in its tail is no request of anybody."""
    async with stage(routes=routes) as s:
        caller = await s.caller()
        await caller.send(
            b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n"
            b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = await caller.answer()
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert "Ask by http://" in answer.problem["next_step"]
        assert await caller.rest() == b""
        assert not s.upstream.seen


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((basic(KEY),), 200),
        ((basic(KEY).replace(b"Basic", b"bASIC "),), 200),
        ((b"Tokenproxy-Key: " + KEY.encode(),), 200),
        ((), 407),
        ((basic("another"),), 407),
        ((basic(KEY), basic(KEY)), 407),
        ((b"Tokenproxy-Key: another", basic(KEY)), 407),
        ((b"Proxy-Authorization: Bearer " + KEY.encode(),), 407),
        ((b"Proxy-Authorization: Basic ?",), 407),
        ((b"Proxy-Authorization: Basic " + base64.b64encode(KEY.encode()),), 407),
        ((b"Authorization: Basic " + base64.b64encode(b"x:" + KEY.encode()),), 407),
    ],
)
async def test_a_key_may_be_the_proxy_s_password(fields: tuple[bytes, ...], status: int) -> None:
    """RFC 9110 section 11.7: asked for with 407, and it goes no further than here."""
    async with stage(routes=routes, caller_keys=(KEY,)) as s:
        answer = await ask(s, b"http://api.example.com/x", *fields)
        assert answer.status == status
        if status == 407:
            assert answer.code == "caller_unauthorized"
            assert answer.problem["status"] == 407
            assert answer.values(b"proxy-authenticate") == [b'Basic realm="tokenproxy"']
            assert not answer.values(b"www-authenticate")
            assert s.logged[0].status == 407
        else:
            head = s.upstream.seen[0].head.lower()
            assert b"proxy-" not in head
            assert b"tokenproxy-key" not in head
        assert len(s.upstream.seen) == (status == 200)


async def test_a_proxy_s_password_counts_for_proxied_requests_only() -> None:
    """Elsewhere it may be meant for another proxy on the way."""
    async with stage(routes=routes, caller_keys=(KEY,)) as s:
        answer = await ask(s, b"/books/x", basic(KEY))
        assert (answer.status, answer.values(b"www-authenticate")) == (401, [b"Tokenproxy-Key"])


@pytest.mark.parametrize(
    ("target", "origin", "status"),
    [
        (b"http://api.example.com/x", b"http://api.example.com", 200),
        (b"https://api.example.com/x", b"https://api.example.com", 200),
        (b"http://api.example.com/x", b"https://api.example.com", 403),
        (b"http://api.example.com/x", b"http://evil.example", 403),
        (b"http://evil.example/x", b"http://evil.example", 404),
    ],
)
async def test_a_browser_behind_us_gives_no_page_a_token(target: bytes, origin: bytes, status: int) -> None:
    async with stage(routes=routes) as s:
        assert (await ask(s, target, b"Origin: " + origin)).status == status
        assert len(s.upstream.seen) == (status == 200)


async def test_the_log_has_the_path_of_a_url() -> None:
    """And neither its host nor its query, which may be anything."""
    async with stage(routes=routes) as s:
        await ask(s, b"http://api.example.com/v2/x?secret=1")
        await ask(s, b"http://me:secret@api.example.com/v2/x")
        assert [(each.path, each.route) for each in s.logged] == [("/v2/x", "acme"), ("", "")]


# real clients: what they make of the variable that people set


async def run(*command: str, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environ},
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


@needs_curl
async def test_curl_by_its_variable_and_by_its_option() -> None:
    async with stage(ok(b"hello"), routes=routes, caller_keys=(KEY,)) as s:
        proxy = f"http://x:{KEY}@{s.address}"
        url = "http://api.example.com/v2/x"
        assert await run("curl", "-sS", url, http_proxy=proxy) == (0, "hello", "")
        assert await run("curl", "-sS", "-x", proxy, "-d", "body", url) == (0, "hello", "")
        assert s.upstream.seen[1].body == b"body"
        assert all(b"proxy" not in seen.head.lower().partition(b"via:")[0] for seen in s.upstream.seen)
        _, status, _ = await run(
            "curl", "-s", "-o", "-", "-w", "%{http_code}", url, http_proxy=f"http://{s.address}"
        )
        assert status.endswith("407")
        code, _, err = await run("curl", "-sS", url.replace("http", "https", 1), https_proxy=proxy)
        assert (code, "403" in err) == (56, True)


async def test_python_s_own_client() -> None:
    async with stage(ok(b"hello"), routes=routes, caller_keys=(KEY,)) as s:

        def fetch(url: str, key: str) -> tuple[int, bytes]:
            proxies = {"http": f"http://x:{key}@{s.address}", "https": f"http://x:{key}@{s.address}"}
            opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
            try:
                with opener.open(url, timeout=10) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, b""

        assert await asyncio.to_thread(fetch, "http://api.example.com/v2/x", KEY) == (200, b"hello")
        assert await asyncio.to_thread(fetch, "http://api.example.com/v2/x", "wrong") == (407, b"")
        with pytest.raises(OSError, match="403"):
            await asyncio.to_thread(fetch, "https://api.example.com/v2/x", KEY)
        assert len(s.upstream.seen) == 1


async def test_aiohttp_s_client() -> None:
    async with stage(ok(b"hello"), routes=routes, caller_keys=(KEY,)) as s, aiohttp.ClientSession() as client:
        proxy = f"http://x:{KEY}@{s.address}"
        async with client.post("http://api.example.com/v2/x", data=b"body", proxy=proxy) as answer:
            assert (answer.status, await answer.read()) == (200, b"hello")
        assert s.upstream.seen[0].body == b"body"
        with pytest.raises(aiohttp.ClientHttpProxyError) as refused:
            await client.get("https://api.example.com/v2/x", proxy=proxy)
        assert refused.value.status == 403
