"""Not sent, answered, sent without an answer: three outcomes that must never be mixed up."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.oauth.house import profile, table
from tests.simulators import (
    AskaraProvider,
    DeskeraProvider,
    OutgoingSimulator,
    PlainProvider,
    TcpProxy,
    free_port,
)
from tests.simulators.clock import START
from tokenproxy.core.grants import Flow, TokenRequest
from tokenproxy.core.outgoing import OutgoingProxy, Way
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.settings import TLSFiles
from tokenproxy.core.tokens import TokenSet
from tokenproxy.oauth.endpoint import AnswerLostError, Endpoint, NotSentError
from tokenproxy.proxy.tls import tls_context

SECRET = "hunter2hunter2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint(tls_context, timeout=2.0)
    yield made
    await made.close()


class Raw:
    """A server that counts connections and whole request heads, and then does what a test says."""

    def __init__(self, answer: bytes, *, abort: bool = False, hang: bool = False) -> None:
        self.answer, self.abort, self.hang = answer, abort, hang
        self.connections = 0
        self.requests: list[bytes] = []
        self.open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            if self.hang:
                await reader.read()
            if self.abort:
                writer.transport.abort()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
        self.open.discard(writer)

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        async with asyncio.timeout(5):
            while self.open:
                await asyncio.sleep(0.001)


def request(
    port: int, method: str = "POST", *, scheme: str = "http", headers: dict[str, str] | None = None
) -> TokenRequest:
    url = f"{scheme}://127.0.0.1:{port}/token?refresh_token={SECRET}"
    return TokenRequest(method, url, headers or {"Authorization": SECRET}, None)


async def send(endpoint: Endpoint, of: TokenRequest, tls: TLSFiles | None = None) -> Reply:
    return await endpoint.send(of, Way(tls=tls or TLSFiles()))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_sent_nothing(endpoint: Endpoint, method: str) -> None:
    """Nothing can be spent, so it may be tried again freely."""
    with pytest.raises(NotSentError, match=r"^the provider cannot be reached$"):
        await send(endpoint, request(free_port(), method))


async def test_an_unknown_name_sent_nothing(endpoint: Endpoint) -> None:
    """RFC 6761: ``.invalid`` never resolves."""
    of = TokenRequest("POST", f"http://provider.invalid/token?refresh_token={SECRET}", {}, None)
    with pytest.raises(NotSentError, match=r"^the provider's name cannot be resolved$"):
        await send(endpoint, of)


@pytest.mark.parametrize("url", ["http://[::1/x", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/x", "/x"])
async def test_an_address_that_is_none_sent_nothing(endpoint: Endpoint, url: str) -> None:
    """The config refuses them; if one slips through, it is no lost answer."""
    with pytest.raises(NotSentError):
        await send(endpoint, TokenRequest("POST", url, {}, None))


async def test_an_untrusted_certificate_sent_nothing(endpoint: Endpoint) -> None:
    """The handshake ends before a byte of the request."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(serving)
    async with Raw(b"").serving(serving) as server:
        with pytest.raises(NotSentError, match=r"^the provider's TLS certificate is not trusted$"):
            await send(endpoint, request(server.port, scheme="https"))
        assert server.requests == []


async def test_a_server_without_tls_sent_nothing() -> None:
    """An https address where nobody speaks TLS is sent no secret."""
    endpoint = Endpoint(tls_context, timeout=0.2)
    async with Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", hang=True).serving() as server:
        with pytest.raises(NotSentError):
            await send(endpoint, request(server.port, scheme="https"))
        assert server.requests == []
    await endpoint.close()


async def test_files_that_are_gone_sent_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    """They are checked at the start and read at the first call; between the two somebody may take them away."""
    with pytest.raises(NotSentError, match=r"^the TLS files for the provider cannot be used$"):
        await send(
            endpoint, request(free_port(), scheme="https"), TLSFiles(ca_file=str(tmp_path / "gone.pem"))
        )


async def test_files_of_the_profile_are_used(endpoint: Endpoint, tmp_path: Path) -> None:
    """An authority of one's own, for this provider alone."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    async with Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").serving(serving) as server:
        of = request(server.port, scheme="https")
        assert (await send(endpoint, of, TLSFiles(ca_file=str(tmp_path / "ca.pem")))).body == b"hi"
        with pytest.raises(NotSentError):
            await send(endpoint, of)


@pytest.mark.parametrize(
    ("answer", "abort", "text"),
    [
        (b"", False, "the provider cut the connection"),
        (b"", True, "the provider cut the connection|the connection broke"),
        (b"HTTP/1.1 200 OK\r\nConte", False, "the provider cut the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", False, "the provider cut the connection"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            False,
            "the provider cut the connection",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False, "the provider's answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", False, "the provider's answer is no HTTP"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_that_breaks_off_is_lost(
    endpoint: Endpoint, method: str, answer: bytes, abort: bool, text: str
) -> None:
    """The provider may have spent the token. Nobody sends it a second time behind our back (aiohttp#10790: GET)."""
    async with Raw(answer, abort=abort).serving() as server:
        with pytest.raises(AnswerLostError, match=f"^({text})$"):
            await send(endpoint, request(server.port, method))
        assert (server.connections, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"], ids=len)
async def test_an_answer_that_never_ends_is_lost(answer: bytes) -> None:
    """A provider that hangs must not hold its account for ever."""
    impatient = Endpoint(tls_context, timeout=0.2)
    async with Raw(answer, hang=True).serving() as server:
        with pytest.raises(AnswerLostError, match=r"^the provider did not answer in time$"):
            await send(impatient, request(server.port))
        assert server.connections == 1
    await impatient.close()


async def test_a_cut_behind_the_commit_is_lost(endpoint: Endpoint) -> None:
    """The dangerous case itself: the token is spent, nobody told us."""
    async with DeskeraProvider() as provider, TcpProxy(provider.port) as wire:
        token = provider.new_grant()["refresh_token"]
        wire.cut_answers = 1
        query = f"grant_type=refresh_token&refresh_token={token.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}"
        of = TokenRequest(
            "POST", f"{wire.url}{provider.token_path}?{query}", {"Authorization": provider.basic}, None
        )
        with pytest.raises(AnswerLostError):
            await send(endpoint, of)
        assert (provider.refreshes, provider.token_calls) == (1, 1)


async def test_no_redirect_is_followed(endpoint: Endpoint) -> None:
    """The next place is not the one that we trust with a refresh token."""
    async with Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").serving() as thief:
        answer = f"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:{thief.port}/\r\nContent-Length: 0\r\n\r\n"
        async with Raw(answer.encode()).serving() as server:
            assert (await send(endpoint, request(server.port))).status == 307
        assert thief.connections == 0


async def test_each_call_has_a_connection_of_its_own(endpoint: Endpoint) -> None:
    """A kept one that proves dead would make the outcome unknown."""
    async with AskaraProvider() as provider, TcpProxy(provider.port) as wire:
        of = TokenRequest("POST", wire.url + provider.token_path, {"Content-Type": "application/json"}, b"{}")
        for _ in range(3):
            assert (await send(endpoint, of)).status == 400
        assert wire.connections == 3


async def test_no_more_is_read_than_an_answer_may_have(endpoint: Endpoint) -> None:
    """10 MB of HTML cost one MiB of memory."""
    async with AskaraProvider() as provider:
        provider.answer_override = (200, {"Content-Type": "text/html"}, b"x" * 10_000_000)
        of = TokenRequest("POST", provider.url + provider.token_path, {}, b"{}")
        body = (await send(endpoint, of)).body
        assert LARGEST_ANSWER < len(body) <= LARGEST_ANSWER + 256 * 1024


async def test_the_request_is_what_the_grant_made(endpoint: Endpoint) -> None:
    """No cookie, no type, no other User-Agent is added; a query goes out byte for byte; headers come back in lower case."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    async with Raw(answer).serving() as server:
        for _ in range(2):
            of = TokenRequest(
                "POST", f"http://127.0.0.1:{server.port}/t?a=%2B%2f%7E&b=%20+", {"X-A": "1"}, None
            )
            reply = await send(endpoint, of)
        assert (reply.status, reply.headers["retry-after"]) == (200, "7")
        lines = server.requests[1].decode().split("\r\n")
        assert lines[0] == "POST /t?a=%2B%2f%7E&b=%20+ HTTP/1.1"
        names = {line.partition(":")[0].lower() for line in lines[1:] if line}
        assert names == {"host", "x-a", "accept", "accept-encoding", "content-length", "connection"}


@pytest.mark.parametrize("broken", ["refused", "cut", "junk"])
async def test_no_address_in_an_error(endpoint: Endpoint, broken: str) -> None:
    """With Deskera the address contains the refresh token; neither the text nor what caused it may show it."""
    async with Raw(b"junk\r\n\r\n" if broken == "junk" else b"").serving() as server:
        port = free_port() if broken == "refused" else server.port
        with pytest.raises((NotSentError, AnswerLostError)) as caught:
            await send(endpoint, request(port))
    error = caught.value
    assert SECRET not in f"{error!r} {error} {error.args}"
    assert "http" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


# -- validate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "live"),
    [
        (200, True),
        (204, None),
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (429, None),
        (500, None),
        (302, None),
    ],
)
async def test_what_a_validate_call_says(endpoint: Endpoint, status: int, live: bool | None) -> None:
    """200 is live, four statuses are dead, anything else means nothing."""
    async with PlainProvider() as provider:
        provider.validate_override = status
        assert await endpoint.is_live(table(provider), TokenSet("a"), now=START) is live


async def test_a_validate_call_that_cannot_be_reached_says_nothing(endpoint: Endpoint) -> None:
    """It goes on to renew; and a profile without the call is never asked."""
    async with PlainProvider() as provider:
        provider.refuse_connections = True
        assert await endpoint.is_live(table(provider), TokenSet("a"), now=START) is None
        without = table(provider, provider=profile(provider, validate=None))
        assert await endpoint.is_live(without, TokenSet("a"), now=START) is None


async def test_a_flow_that_asks_twice_is_done_in_the_time_of_one() -> None:
    """Else a nonce would carry a renewal beyond its lease, and another process would send meanwhile."""

    def twice(of: TokenRequest) -> Flow[Reply]:
        yield of
        return (yield of)

    endpoint = Endpoint(tls_context, timeout=0.5)
    async with PlainProvider() as provider:
        provider.outage, provider.delay = 503, 0.3
        of = request(provider.port)
        with pytest.raises(AnswerLostError, match="in time"):
            await endpoint.run(twice(of), table(provider))
        assert provider.token_calls == 2
    await endpoint.close()


async def test_calls_through_an_outgoing_proxy(endpoint: Endpoint) -> None:
    """In absolute-form to a plain provider, which the proxy alone can find; credentials are the proxy's only."""
    raw = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with raw.serving(), OutgoingSimulator(raw.port, login="anna:planted") as outgoing:
        proxy = OutgoingProxy(
            scheme="http", host="127.0.0.1", port=outgoing.port, username="anna", password="planted"
        )
        way = Way(proxy=proxy)
        there = TokenRequest("POST", "http://login.example/token", {}, None)

        assert (await endpoint.send(there, way)).status == 200
        assert outgoing.lines == [b"POST http://login.example/token HTTP/1.1"]
        assert b"planted" not in raw.requests[0]
        assert b"proxy-auth" not in raw.requests[0].lower()


async def test_a_tunnel_to_a_provider_behind_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("login.example").configure_cert(context)
    raw = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    endpoint = Endpoint(tls_context, timeout=2.0)
    there = TokenRequest("POST", "https://login.example/token", {"Authorization": SECRET}, None)
    async with raw.serving(context), OutgoingSimulator(raw.port) as outgoing:
        proxy = OutgoingProxy(scheme="http", host="127.0.0.1", port=outgoing.port)

        assert (
            await endpoint.send(there, Way(tls=TLSFiles(ca_file=str(tmp_path / "ca.pem")), proxy=proxy))
        ).status == 200
        assert outgoing.lines == [b"CONNECT login.example:443 HTTP/1.1"]
        assert SECRET.encode() not in b"".join(outgoing.asked)

        with pytest.raises(NotSentError, match="certificate is not trusted"):
            await endpoint.send(there, Way(proxy=proxy))
        outgoing.refuse = 403
        with pytest.raises(NotSentError, match="the outgoing proxy does not let us through"):
            await endpoint.send(there, Way(proxy=proxy))
    with pytest.raises(NotSentError, match="the outgoing proxy cannot be reached"):
        await endpoint.send(there, Way(proxy=proxy))
    await endpoint.close()
