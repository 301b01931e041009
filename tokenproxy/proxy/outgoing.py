"""
Connections to an upstream through an outgoing proxy.

To an ``https`` upstream through a tunnel (CONNECT, RFC 9110 section 9.3.6): TLS is between us and the upstream, whose
certificate is verified as ever. To an ``http`` one by requests in absolute-form (RFC 9112 section 3.2.2).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast

from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.retries import CONNECT
from tokenproxy.proxy import secure
from tokenproxy.proxy.problem import outgoing_refused, outgoing_unreachable
from tokenproxy.proxy.upstream import UpstreamSide

if TYPE_CHECKING:
    from tokenproxy.proxy.pool import Pool

LARGEST_ANSWER: Final = 16 * 1024
"""Bytes of a proxy's answer to CONNECT that are read; nginx and Squid send some hundreds."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
Kind = TypeVar("Kind", bound=asyncio.Protocol)
_BLANK_LINE: Final = b"\r\n\r\n"


class Outgoing:
    """One proxy, as one pool's connections take it."""

    __slots__ = ("_tls", "proxy")

    def __init__(self, proxy: OutgoingProxy, *, tls: ssl.SSLContext | None) -> None:
        """``tls``: for an ``https`` proxy."""
        self.proxy = proxy
        self._tls = tls

    async def connected(self, pool: Pool) -> UpstreamSide:
        """A connection on which requests may be sent; raises ``ProblemError``, and what TLS with the upstream raises."""
        loop = asyncio.get_running_loop()
        if pool.tls is None:
            return await self._reached(lambda: UpstreamSide(pool, loop), loop)
        talk = await self._reached(lambda: _Talk(loop), loop)
        try:
            await self._asked(talk, pool.upstream.host, pool.upstream.port)
            side = UpstreamSide(pool, loop)
            await secure.wrapped(side, talk.transport, context=pool.tls, name=pool.upstream.host)
        except BaseException:
            talk.transport.abort()
            raise
        return side

    async def _reached(self, protocol: Callable[[], Kind], loop: asyncio.AbstractEventLoop) -> Kind:
        """Connect to the proxy itself."""
        proxy = self.proxy
        try:
            if self._tls is not None:
                return await secure.connected(
                    protocol, proxy.host, proxy.port, context=self._tls, name=proxy.host
                )
            return (await loop.create_connection(protocol, proxy.host, proxy.port))[1]
        except ssl.SSLError as error:
            raise outgoing_unreachable(
                self.proxy,
                "did not agree on TLS, or its certificate is not trusted",
                "Check its port, and name its authority in proxy.ca_file of the route.",
            ) from error
        except OSError as error:
            problem = outgoing_unreachable(
                proxy, "could not be connected to", "Check that it runs, and proxy of the route."
            )
            problem.fault = CONNECT
            raise problem from error

    async def _asked(self, talk: _Talk, host: str, port: int) -> None:
        """Ask for a tunnel; returns when there is one."""
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        talk.transport.write(
            b"".join((f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode(), self.proxy.line, b"\r\n"))
        )
        head, end, more = (await talk.answer).partition(_BLANK_LINE)
        found = _STATUS.match(head + b"\r\n") if end else None
        status = int(found[1]) if found else 0
        if 200 <= status < 300 and not more:
            return
        raise outgoing_refused(self.proxy, status, target)


class _Talk(asyncio.Protocol):
    """Waits for the answer to CONNECT."""

    __slots__ = ("_data", "answer", "transport")

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if _BLANK_LINE in self._data or len(self._data) > LARGEST_ANSWER:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._end()

    def _end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(self._data)
