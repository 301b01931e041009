"""nginx, Caddy and Envoy keep the data path and ask tokenproxy for the token, by the configs that we ship."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import trustme
from yarl import URL

from tests.simulators import Api, AskaraProvider, DeskeraProvider
from tests.simulators.files import free_port
from tests.simulators.provider import Provider
from tests.stories.serving import PATIENCE, Serve, calling, command, imported, serving, status_of
from tests.stories.test_main_job import configured

SHIPPED = Path(__file__).parent.parent.parent / "deploy" / "forward-auth"
CALLERS = 16
ENVOY_PROGRAM = shutil.which("envoy") or str(Path(sys.executable).with_name("envoy"))


@dataclass(frozen=True)
class Outer:
    """Another proxy."""

    name: str
    file: str
    command: Callable[[Path], list[str]]
    resends_bodies: bool = True
    program: str = ""

    @property
    def there(self) -> bool:
        return shutil.which(self.program or self.name) is not None


def nginx(file: Path) -> list[str]:
    """As ourselves, which root's nginx would not be: the socket is for our user."""
    ours = "user root;" if os.geteuid() == 0 else ""
    directives = f"daemon off; pid {file.parent}/nginx.pid; {ours}"
    return ["nginx", "-p", str(file.parent), "-e", "stderr", "-g", directives, "-c", str(file)]


NGINX = Outer("nginx", "nginx.conf", nginx)
CADDY = Outer(
    "caddy",
    "Caddyfile",
    lambda file: ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"],
    resends_bodies=False,
)
ENVOY = Outer(
    "envoy",
    "envoy.yaml",
    lambda file: [ENVOY_PROGRAM, "-c", str(file), "--concurrency", "2", "--disable-hot-restart"],
    program=ENVOY_PROGRAM,
)
OUTERS = [
    pytest.param(each, id=each.name, marks=pytest.mark.skipif(not each.there, reason=f"{each.name} is not installed"))
    for each in (NGINX, CADDY, ENVOY)
]  # fmt: skip

HARMLESS = {"x-envoy-upstream-service-time", "x-envoy-external-address"}
SENT_AGAIN = {
    "nginx": {100_000: 200, 3_000_000: 200},
    "caddy": {100_000: 401, 3_000_000: 401},
    "envoy": {100_000: 200, 3_000_000: 401},
}
"""What a caller gets whose body, of so many bytes, met a dead token."""
FORBIDDEN = (
    b"/books/v1/x",
    b"/books/v2/../v1/x",
    b"/books/v2/%2e%2e/v1/x",
    b"/books/v2/%2E./v1/x",
    b"/books/v2/..%2fv1/x",
    b"/books/v2%2f..%2fv1%2fx",
    b"/books/v2/%252e%252e/v1/x",
    b"/books/v2/..;/v1/x",
    b"/books/v2/..\\v1",
    b"/books/v2/..%5cv1",
    b"/books//v1/x",
    b"//books/v1/x",
    b"/books/./v1/x",
    b"/./books/v1/x",
    b"/other/../books/v1/x",
    b"/books/v2/x%00",
    b"/books/v2//x",
    b"/%62ooks/v1/x",
    b"/BOOKS/v1/x",
    b"/books/v2/x/..",
    b"http://localhost/books/v1/x",
)


@dataclass
class Stage:
    outer: Outer
    url: str
    provider: Provider
    api: Api
    serve: Serve
    config: Path
    session: aiohttp.ClientSession


@asynccontextmanager
async def beside(
    outer: Outer,
    tmp_path: Path,
    kind: type[Provider] = AskaraProvider,
    *,
    route_extra: str = "",
) -> AsyncIterator[Stage]:
    """The shipped config, with addresses in the place of its own."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example.com", "127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    socket = tmp_path / "fa.sock"
    table = f'[forward_auth]\nlisten = "unix:{socket}"\nroutes = ["books"]\n'
    port = free_port()
    async with kind() as provider, Api(provider, ssl=context) as api:
        config = configured(tmp_path, provider, api, table, route_extra=route_extra)
        replaced = {
            "/run/tokenproxy/forward-auth.sock": str(socket),
            "/etc/ssl/certs/ca-certificates.crt": str(ca_file),
            "api.example.com:443": f"127.0.0.1:{api.port}",
            "address: api.example.com, port_value: 443": f"address: 127.0.0.1, port_value: {api.port}",
            "8081": str(port),
        }
        if provider.header.lower() != "authorization":
            replaced |= {
                "upstream_http_authorization": f"upstream_http_{provider.header.lower().replace('-', '_')}",
                "exact: authorization": f"exact: {provider.header.lower()}",
                "Authorization": provider.header,
            }
        text = (SHIPPED / outer.file).read_text()
        for before, after in replaced.items():
            text = text.replace(before, after)
        (tmp_path / outer.file).write_text(text)
        async with serving(config) as serve, running(outer, tmp_path, port), calling() as session:
            await imported(config, "books", provider.new_grant())
            yield Stage(outer, f"http://127.0.0.1:{port}", provider, api, serve, config, session)


@asynccontextmanager
async def running(outer: Outer, folder: Path, port: int) -> AsyncIterator[None]:
    """Until the block ends; it takes connections when it is entered."""
    written = folder / "outer.log"
    with written.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *outer.command(folder / outer.file), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await answers(port):
                assert process.returncode is None, written.read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("outer", OUTERS)
async def test_a_token_revoked_under_load_is_renewed_once(outer: Outer, tmp_path: Path) -> None:
    """Every caller is answered well, bodies included where the proxy can send them again."""
    async with beside(outer, tmp_path) as s:
        statuses: Counter[int] = Counter()
        stop = asyncio.Event()

        async def caller(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                body = f"{number} {count} ".encode() * 50 if outer.resends_bodies and number % 2 else None
                async with s.session.request(
                    "POST" if body else "GET", f"{s.url}/books/orders/{number}", data=body
                ) as answer:
                    await answer.read()
                    statuses[answer.status] += 1

        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        async with asyncio.timeout(PATIENCE):
            while statuses[200] < 200 and set(statuses) <= {200}:
                await asyncio.sleep(0.01)
            s.provider.revoke_all_access()
            before = statuses[200]
            while statuses[200] < before + 400 and set(statuses) <= {200}:
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*callers)

        assert set(statuses) == {200}, (statuses, (tmp_path / "outer.log").read_text()[-2000:])
        assert s.provider.token_calls == 1
        assert (await status_of(s.config, "books"))["generation"] == 2
    assert s.provider.complaints == []


@pytest.mark.parametrize("outer", OUTERS)
async def test_the_token_takes_the_place_of_the_caller_s_own(outer: Outer, tmp_path: Path) -> None:
    """The target goes on byte for byte, and nothing of what tokenproxy and the other proxy say to each other."""
    async with beside(outer, tmp_path) as s:
        given = {"Authorization": "Bearer planted", "Tokenproxy-Generation": "1.00", "X-Other": "kept"}
        given |= {"Tokenproxy-Key": "planted", "X-Forwarded-Uri": "/planted"}
        url = URL(f"{s.url}/books/a%20b;c?x=%2F&y", encoded=True)
        async with s.session.get(url, headers=given) as answer:
            assert answer.status == 200
            assert ours(answer.headers) == set()

        (seen,) = s.api.requests
        assert seen.target == "/a%20b;c?x=%2F&y"
        assert (seen.token is not None, seen.all("x-other")) == (True, ["kept"])
        assert ours([name for name, _ in seen.headers]) == set()


@pytest.mark.parametrize("outer", OUTERS)
async def test_callers_are_told_why_there_is_no_token(outer: Outer, tmp_path: Path) -> None:
    """As far as the other proxy can; and nothing goes on without one. So too when tokenproxy is gone."""
    async with beside(outer, tmp_path) as s:
        await command(s.config, "logout", "books")
        async with s.session.get(f"{s.url}/books/x") as answer:
            assert answer.status == 503
            if outer is not ENVOY:
                assert answer.headers["Tokenproxy-Error"] == "login_required"
                assert answer.headers["Content-Type"] == "application/problem+json"
                problem = json.loads(await answer.text())
                assert problem["next_step"].startswith("tokenproxy login books")
        await s.serve.stop()
        async with s.session.get(f"{s.url}/books/x") as answer:
            assert answer.status in {502, 503}
        assert s.api.requests == []


@pytest.mark.parametrize("outer", OUTERS)
async def test_an_upstream_s_own_401_reaches_the_caller(outer: Outer, tmp_path: Path) -> None:
    """The provider says that the token lives: no renewal, and the caller gets what the upstream says."""
    async with beside(outer, tmp_path, DeskeraProvider) as s:
        for _ in range(5):
            async with s.session.get(f"{s.url}/books/forbidden-401") as answer:
                assert answer.status == 401
                assert await answer.json() == {"error": {"message": "Unauthenticated."}}
                assert ours(answer.headers) == set()
        assert (s.provider.validate_calls, s.provider.token_calls) == (1, 0)


@pytest.mark.parametrize("outer", OUTERS)
async def test_an_upstream_that_takes_no_token_causes_no_storm(outer: Outer, tmp_path: Path) -> None:
    """Nobody can ask this provider whether a token lives: one renewal, whose token is refused as well, then a pause."""
    async with beside(outer, tmp_path) as s:
        s.api.always_401 = True

        async def ask() -> int:
            async with s.session.get(f"{s.url}/books/x") as answer:
                return answer.status

        for _ in range(5):
            assert set(await asyncio.gather(*(ask() for _ in range(8)))) == {401}
        assert s.provider.token_calls == 1
        await s.serve.told("renewals_held")


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("outer", OUTERS)
async def test_bodies_are_sent_again_or_their_callers_may_try_again(
    outer: Outer, size: int, tmp_path: Path
) -> None:
    """By proxy and length, as the document says; the token is renewed all the same, and is in no answer."""
    async with beside(outer, tmp_path) as s:

        async def post(size: int) -> int:
            body = b"x" * size
            async with s.session.post(f"{s.url}/books/sink", data=io.BytesIO(body)) as answer:
                if answer.status == 200:
                    assert (await answer.json())["sha256"] == hashlib.sha256(body).hexdigest()
                elif outer is CADDY:
                    assert answer.headers["Tokenproxy-Error"] == "body_not_replayable"
                assert not {"authorization", "tokenproxy-generation"} & ours(answer.headers)
                return answer.status

        assert await post(size) == 200
        s.provider.revoke_all_access()
        assert await post(size) == SENT_AGAIN[outer.name][size]
        assert await post(size) == 200
        assert s.provider.token_calls == 1


@pytest.mark.parametrize("outer", OUTERS)
async def test_no_spelling_of_a_path_gets_past_the_route_s_list(outer: Outer, tmp_path: Path) -> None:
    """What the other proxy makes of a path is what counts at the upstream; what callers say about it is not believed."""
    async with beside(outer, tmp_path, route_extra='allow = ["GET /v2/**"]') as s:
        assert await raw(s, b"GET /books/v2/x HTTP/1.1\r\n") == 200
        for target in FORBIDDEN:
            for more in (b"", b"X-Forwarded-Uri: /books/v2/x\r\nX-Original-URL: /books/v2/x\r\n"):
                assert await raw(s, b"GET %b HTTP/1.1\r\n" % target + more) != 200, target
        for more in (
            b"X-Forwarded-Method: GET\r\n",
            b"X-HTTP-Method-Override: GET\r\n",
            b"X-Envoy-Attempt-Count: 2\r\nX-Envoy-Original-Path: /books/v2/x\r\n",
        ):
            assert await raw(s, b"DELETE /books/v2/x HTTP/1.1\r\n" + more) in {403, 503}, more
        assert [(each.method, each.target) for each in s.api.requests] == [("GET", "/v2/x")]


@pytest.mark.parametrize("outer", OUTERS)
async def test_no_request_is_smuggled_to_where_tokens_are_given(outer: Outer, tmp_path: Path) -> None:
    """No answer that reaches a caller holds a token or a ticket, whatever the caller writes."""
    async with beside(outer, tmp_path) as s:
        inner = b"GET /auth/books HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for attempt in (
            b"GET /auth/books HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /_tokenproxy/books HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /ext-authz/books/books/x HTTP/1.1\r\nHost: tokenproxy\r\n\r\n",
            b"GET http://tokenproxy/auth/books HTTP/1.1\r\nHost: tokenproxy\r\n\r\n",
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(inner), inner),
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            + inner,
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"
            + inner,
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
            b"GET /books/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello" + inner,
            b"GET /books/x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, authorization\r\nUpgrade: h2c\r\n\r\n" + inner,
            b"GET /books/x\r\nX: y HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /books/x%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):  # fmt: skip
            reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
            writer.write(attempt + b"GET /end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = b""
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(3):
                    said = await reader.read(-1)
            writer.close()
            assert b"Bearer ey" not in said, attempt
            assert b"tokenproxy-generation" not in said.lower(), attempt
        tokens = {each.token for each in s.api.requests}
        assert None not in tokens
        assert not any(token in s.serve.written for token in tokens if token)
        assert "Bearer ey" not in (tmp_path / "outer.log").read_text()


@pytest.mark.parametrize("outer", OUTERS)
async def test_a_name_that_somebody_points_at_the_proxy_gets_nothing(outer: Outer, tmp_path: Path) -> None:
    """DNS rebinding: the shipped configs take every Host, and say which one it is."""
    async with beside(outer, tmp_path) as s:
        page = b"GET /books/x HTTP/1.1\r\nOrigin: http://evil.example:8081\r\nSec-Fetch-Site: same-origin\r\n"
        assert await raw(s, page, host=b"evil.example:8081") == 403
        assert await raw(s, page + b"X-Forwarded-Host: localhost\r\n", host=b"evil.example:8081") == 403
        assert s.api.requests == []
        assert await raw(s, b"GET /books/x HTTP/1.1\r\n", host=b"127.0.0.1:8081") == 200


def ours(names: Iterable[str]) -> set[str]:
    """Fields that are between the two proxies, and what is a credential."""
    lower = {name.lower() for name in names}
    return {name for name in lower if name.startswith(("tokenproxy-", "x-envoy-"))} - HARMLESS


async def raw(s: Stage, first: bytes, *, host: bytes = b"localhost") -> int:
    """The status for a head that no client library would write; 0 where the connection is just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rpartition(":")[2]))
    writer.write(first + b"Host: " + host + b"\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        said = await reader.read(-1)
    writer.close()
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else 0
