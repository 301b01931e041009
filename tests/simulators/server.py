"""What all simulators are built on: a real HTTP server on loopback, and a way to wait for what happens to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ssl import SSLContext
from types import TracebackType
from typing import Self

from aiohttp import web

LOOPBACK = "127.0.0.1"
_MIB = 1024 * 1024


class Changes:
    """Lets a story wait until something about an actor is true, without sleeping."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def happened(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def until(self, true: Callable[[], bool], *, what: str, timeout: float = 10.0) -> None:
        """Return as soon as ``true()``; it is asked again after each change. Raises ``TimeoutError`` naming ``what``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not true():
            waiter = loop.create_future()
            self._waiting.add(waiter)
            done, _ = await asyncio.wait([waiter], timeout=max(0.0, deadline - loop.time()))
            if not done:
                self._waiting.discard(waiter)
                raise TimeoutError(f"waited {timeout:g} s for {what}")


class Server:
    """
    A real server at a loopback port of its own, for ``async with``.

    Built on aiohttp's low-level server: no routes, no middleware, nothing decoded, so that a simulator sees a
    request as it was sent.
    """

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        self.port = 0
        self.changes = Changes()
        self._ssl = ssl
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._http: web.Server | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    @property
    def authority(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"{'https' if self._ssl else 'http'}://{self.authority}"

    async def __aenter__(self) -> Self:
        self._http = web.Server(
            self.handle,
            access_log=None,  # a provider that takes secrets in a query would have them in its own log
            auto_decompress=False,
            max_line_size=_MIB,  # tokens of 64 KB travel in Deskera's URLs
            max_field_size=_MIB,
            max_headers=4096,
            lingering_time=2.0,
        )
        self._reserve()
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_listener()
        self.drop_connections()
        if self._http is not None:
            await self._http.shutdown(0.05)

    @property
    def refuse_connections(self) -> bool:
        """While true the port answers connects with a refusal, and connections that were open are gone."""
        return self._listener is None and self._opening is None

    @refuse_connections.setter
    def refuse_connections(self, refuse: bool) -> None:
        if refuse == self.refuse_connections:
            return
        self._close_listener()
        self._reserve()
        if refuse:
            self.drop_connections()
            return
        assert self._socket is not None
        self._socket.listen(1024)  # at once: the kernel queues callers until the task below accepts them
        self._opening = asyncio.get_running_loop().create_task(self._listen())

    def drop_connections(self) -> None:
        """Cut every open connection with a reset."""
        for connection in self._http.connections if self._http else ():
            if connection.transport is not None:
                connection.transport.abort()

    def _reserve(self) -> None:
        """Bind without listening: connects are refused, and nobody else can take the port meanwhile."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, self.port))
        self.port = self._socket.getsockname()[1]

    async def _listen(self) -> None:
        assert self._http is not None
        assert self._socket is not None
        self._listener = await asyncio.get_running_loop().create_server(
            self._http, sock=self._socket, ssl=self._ssl, backlog=1024
        )
        self._socket = None
        self._opening = None

    def _close_listener(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._socket is not None:
            self._socket.close()
        self._opening = self._listener = self._socket = None


def cut(request: web.BaseRequest) -> web.Response:
    """Reset the request's connection; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
