"""
Performs a grant's steps over HTTP, and keeps three outcomes apart: not sent, answered, sent without an answer.

The third is the dangerous one: a provider that rotates may have spent the refresh token. So nothing here repeats a
request by itself, follows a redirect or keeps a connection for later (a pooled one that proves dead would make the
outcome unknown).
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import aiohttp
from yarl import URL

from tokenproxy.core.interfaces import TokenOrigins
from tokenproxy.core.outgoing import OutgoingProxy, Way
from tokenproxy.core.provider import Account, origin_of
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.revocation import revocation
from tokenproxy.core.settings import TLSFiles
from tokenproxy.core.steps import Flow, KeyRequest, SignRequest, Step, TokenRequest
from tokenproxy.core.tokens import TokenSet
from tokenproxy.core.validation import liveness
from tokenproxy.errors import TokenproxyError
from tokenproxy.oauth import signer
from tokenproxy.oauth.calls import AnswerLostError, NotSentError, NotSignedError, OriginFailedError
from tokenproxy.oauth.discovery import Discovery

__all__ = ["AnswerLostError", "Endpoint", "NotSentError"]

T = TypeVar("T")

CONNECT_TIMEOUT: Final = 5.0
TOTAL_TIMEOUT: Final = 15.0
"""Seconds for one call; half of the lease, so that a holder never sends when its lease is nearly over."""


class Endpoint:
    """Calls providers; one HTTP client for each set of TLS files."""

    def __init__(
        self,
        tls: Callable[[TLSFiles], ssl.SSLContext],
        *,
        origins: TokenOrigins | None = None,
        timeout: float = TOTAL_TIMEOUT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        ``tls`` makes a context for calls to a provider; raises ``TokenproxyError`` for files it cannot use.

        ``origins`` is where grants read tokens that others made; None: nowhere. ``timeout`` in seconds, for all
        that one flow sends together. ``monotonic`` tells the age of issuers' metadata.
        """
        self._tls = tls
        self._timeout = timeout
        self._origins = origins
        self._stuck: dict[str, Future[Any]] = {}
        # Threads of its own: a file on a dead share must not take those that resolve the providers' names.
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="origins")
        self._sessions: dict[TLSFiles, aiohttp.ClientSession] = {}
        self._nonces: dict[str, str] = {}
        """Origin -> the newest nonce that it handed out (RFC 9449 section 8.2)."""
        self._discovery = Discovery(self.send, monotonic=monotonic)

    async def resolved(self, account: Account) -> Account:
        """
        The account as its flows need it: with every address that its provider's issuer tells.

        For an account without an issuer it is the same, at once. Raises ``NotSentError``.
        """
        return await self._discovery.resolved(account)

    async def run(self, flow: Flow[T], account: Account) -> T:
        """Perform a flow; gives what it comes to. Raises ``NotSentError`` or ``AnswerLostError``."""
        budget = _Budget(self._timeout)
        try:
            step = next(flow)
            while True:
                step = flow.send(await self._perform(step, account.provider.way, budget))
        except StopIteration as finished:
            result: T = finished.value
            return result

    async def _perform(self, step: Step, way: Way, budget: _Budget) -> Reply:
        if isinstance(step, TokenRequest):
            with budget:
                return await self.send(step, way, timeout=budget.left)
        if isinstance(step, SignRequest):
            return Reply(200, {}, self._sign(step).encode())
        if isinstance(step, KeyRequest):
            return Reply(200, {}, signer.new_key().encode())
        return await self._read_origin(step.origin)

    def _sign(self, step: SignRequest) -> str:
        try:
            return signer.signed(step, nonce=self._nonces.get(step.nonce_of, ""))
        except signer.KeyUnusableError as error:
            raise NotSignedError(str(error)) from None

    async def _read_origin(self, origin: str) -> Reply:
        if self._origins is None:
            raise OriginFailedError("nothing can be read here")
        try:
            text = await self._in_thread(self._origins.read, origin)
            return Reply(200, {}, text.encode())
        except TimeoutError:
            raise OriginFailedError("reading took too long") from None
        except UnicodeError:  # its own text would quote what is there
            raise OriginFailedError("what is there is no UTF-8 text") from None
        except ValueError as error:
            raise OriginFailedError(str(error)) from None

    async def stamp(self, origin: str) -> object:
        """Another one when the origin has been written anew; None where that cannot be seen."""
        if self._origins is None:
            return None
        try:
            return await self._in_thread(self._origins.stamp, origin)
        except (TimeoutError, OSError, ValueError):
            return None

    async def _in_thread(self, ask: Callable[[str], T], origin: str) -> T:
        """Raises ``TimeoutError``; at once for an origin that still holds up a thread, so that it never takes all."""
        stuck = self._stuck.get(origin)
        if stuck is not None and not stuck.done():
            raise TimeoutError
        work = self._threads.submit(ask, origin)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(asyncio.wrap_future(work))
        except TimeoutError:
            self._stuck[origin] = work
            raise

    async def is_live(self, account: Account, tokens: TokenSet, *, now: datetime) -> bool | None:
        """Ask the provider's validate call; None where it says nothing (unreachable, 5xx, a limit)."""
        validate = account.provider.validate
        try:
            if validate is not None and not validate.url:
                account = await self.resolved(account)
            return await self.run(liveness(account, tokens, now=now), account)
        except (NotSentError, AnswerLostError):
            return None

    async def revoke(self, account: Account, tokens: TokenSet, *, now: datetime) -> bool | None:
        """
        Tell the provider that a login is over (RFC 7009): whether it took that; None where it cannot be told.

        Only with the account that the tokens are bound to.
        """
        try:
            if account.provider.revoke is None:
                account = await self.resolved(account)
            return await self.run(revocation(account, tokens, now=now), account)
        except (NotSentError, AnswerLostError):
            return False

    async def send(self, request: TokenRequest, way: Way, *, timeout: float | None = None) -> Reply:  # noqa: ASYNC109 - of aiohttp's own kind, which tells sent from not sent
        """One request, one answer. Raises ``NotSentError`` or ``AnswerLostError``, which quote no address."""
        sent = SimpleNamespace(connected=False)
        try:
            session = self._session(way.tls)
        except TokenproxyError:
            raise NotSentError("the TLS files for the provider cannot be used") from None
        try:
            async with session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                **_through(way.proxy),
                trace_request_ctx=sent,
                timeout=_timeout(self._timeout if timeout is None else timeout),
            ) as response:
                body = await _read(response)
                headers = {name.lower(): value for name, value in response.headers.items()}
                if nonce := headers.get("dpop-nonce"):
                    self._nonces[origin_of(request.url)] = nonce
                return Reply(response.status, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # Their texts contain the URL, and with Deskera the URL contains the refresh token: "from None".
            what = _describe(error)
            if not sent.connected:
                raise NotSentError(what) from None
            raise AnswerLostError(what) from None

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _session(self, tls: TLSFiles) -> aiohttp.ClientSession:
        session = self._sessions.get(tls)
        if session is None:
            session = self._sessions[tls] = _new_session(self._tls(tls))
        return session


class _Budget:
    """
    Seconds that a flow may still spend on the network.

    A flow that asks twice (a nonce) is done before the renewal's lease is, like one that asks once.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.left -= time.monotonic() - self._begun


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut just past what ``core.replies`` would read."""
    body = bytearray()
    async for piece in response.content.iter_chunked(64 * 1024):
        body += piece
        if len(body) > LARGEST_ANSWER:
            break
    return bytes(body)


def _new_session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_connected)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        skip_auto_headers={"User-Agent", "Content-Type"},
        trace_configs=[trace],
        max_line_size=64 * 1024,
        max_field_size=64 * 1024,
    )
    # aiohttp repeats a GET whose connection broke, fresh connections included (aiohttp#10790); a token request by
    # GET must not be. There is no public switch; tests/oauth/test_endpoint.py notices if this one goes away.
    session._retry_connection = False  # noqa: SLF001
    return session


def _through(proxy: OutgoingProxy | None) -> dict[str, Any]:
    """The environment's ``https_proxy`` and its like are for programs that nobody told: only the config counts."""
    if proxy is None:
        return {}
    # Which aiohttp turns into Proxy-Authorization, of the tunnel or of the plain request.
    login = {"Authorization": f"Basic {proxy.basic}"} if proxy.basic else None
    return {"proxy": URL.build(scheme=proxy.scheme, host=proxy.host, port=proxy.port), "proxy_headers": login}


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    # aiohttp rounds what is longer than 5 s up to the next whole second of its clock; leases count on 15.
    return aiohttp.ClientTimeout(
        total=max(seconds, 0.001),
        connect=CONNECT_TIMEOUT,
        sock_connect=CONNECT_TIMEOUT,
        ceil_threshold=math.inf,
    )


async def _connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
    """From here on the request may leave; ``trace_request_ctx`` is what ``send`` gave."""
    context.trace_request_ctx.connected = True


def _describe(error: Exception) -> str:
    """A phrase for people, made from the kind of error alone."""
    return next((phrase for kinds, phrase in _PHRASES if isinstance(error, kinds)), "the connection broke")


_PHRASES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (aiohttp.ClientProxyConnectionError, "the outgoing proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, "the outgoing proxy does not let us through"),
    (aiohttp.ClientConnectorCertificateError, "the provider's TLS certificate is not trusted"),
    (aiohttp.ClientConnectorDNSError, "the provider's name cannot be resolved"),
    (aiohttp.ClientSSLError, "TLS with the provider failed"),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError), "the provider cut the connection"),
    (TimeoutError, "the provider did not answer in time"),
    (aiohttp.ClientConnectorError, "the provider cannot be reached"),
    ((aiohttp.ClientResponseError, ValueError), "the provider's answer is no HTTP"),
)
