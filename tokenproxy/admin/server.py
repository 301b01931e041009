"""Listeners of the admin side: the 0600 Unix socket, and TCP, plain or with TLS."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tokenproxy.admin.sockets import short_path
from tokenproxy.errors import TokenproxyError
from tokenproxy.log import event

CONNECTIONS: Final = 256
"""At once on one listener; more are closed unanswered, so that nobody can take all our descriptors this way."""
KEEP_ALIVE: Final = 30.0
"""Seconds; aiohttp's guard against a silent peer and a slow head as well (its own default is 3,630)."""
LONGEST_LINE: Final = 32 * 1024
"""Bytes of a request line or a header; a landing address may have half of it."""
HANDSHAKE: Final = 10.0
"""Seconds from the connect to the end of a TLS handshake."""
BREATH: Final = 1.0
"""Seconds without taking connections when there are no descriptors left; asyncio waits as long."""
SHUTDOWN: Final = 2.0
"""Seconds for calls under way; a renewal is its own task and does not end with its call."""


def _ours(record: logging.LogRecord) -> bool:
    """Aiohttp calls rubbish from a port scanner an error and quotes it; to us it is a caller that was refused."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    event(_log, "caller_refused", code="bad_request", listener="admin")
    return False


_log = logging.getLogger("tokenproxy.admin")
_http_log = logging.getLogger("tokenproxy.admin.http")
_http_log.addFilter(_ours)


class Running:
    """A listener that takes connections until ``close``."""

    def __init__(
        self,
        address: str,
        close: Callable[[], Awaitable[None]],
        *,
        secure: SecureServer | None = None,
        runner: web.AppRunner | None = None,
    ) -> None:
        self.address = address
        """``127.0.0.1:9100`` with the port really taken, or ``unix:/path``."""
        self._close = close
        self._secure = secure
        self._runner = runner

    def show(self, context: ssl.SSLContext, *, anew: bool = False) -> None:
        """
        Another certificate, from the next handshake on; nothing to do where TLS is not spoken.

        ``anew``: it asks others for theirs, so that whoever is in leaves after the call that is under way.
        """
        if self._secure is None:
            return
        self._secure.context = context
        if not anew:
            return
        self._secure.begin_anew()
        server = self._runner.server if self._runner is not None else None
        for each in list(server.connections) if server is not None else ():
            cast("_Connection", each).leave()

    async def close(self) -> None:
        await self._close()


class SecureServer:
    """
    Takes connections and has them speak TLS.

    Asyncio's own servers keep the certificate that they began with, and count nobody who never ends a handshake.
    """

    def __init__(
        self, connect: Callable[[], asyncio.Protocol], sockets: list[socket.socket], context: ssl.SSLContext
    ) -> None:
        self.context = context
        self.sockets = sockets
        self._connect = connect
        self._entering: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        for each in sockets:
            self._loop.add_reader(each.fileno(), self._take, each)

    def close(self) -> None:
        for each in self.sockets:
            self._loop.remove_reader(each.fileno())
            each.close()
        self.sockets.clear()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Break off the handshakes that are under way."""
        for task in self._entering:
            task.cancel()

    def _take(self, listening: socket.socket) -> None:
        try:
            taken, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            self._loop.remove_reader(listening.fileno())
            self._loop.call_later(BREATH, self._take_again, listening)
            return
        if len(self._entering) >= CONNECTIONS:
            taken.close()
            return
        taken.setblocking(False)
        task = self._loop.create_task(self._enter(taken))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    def _take_again(self, listening: socket.socket) -> None:
        if listening in self.sockets:
            self._loop.add_reader(listening.fileno(), self._take, listening)

    async def _enter(self, taken: socket.socket) -> None:
        entered = False
        try:
            async with asyncio.timeout(HANDSHAKE):
                await self._loop.connect_accepted_socket(
                    self._connect, taken, ssl=self.context, ssl_handshake_timeout=HANDSHAKE
                )
            entered = True
        except (OSError, TimeoutError) as error:  # ssl.SSLError is one: plain HTTP, no certificate, a scanner
            event(_log, "caller_refused", code="bad_request", listener="admin", detail=_why_no_tls(error))
        finally:
            if not entered:
                taken.close()


def _why_no_tls(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return f"no TLS connection came about: {reason or 'it broke off'}"


async def serve_tcp(
    app: web.Application, address: str, *, key: str, context: ssl.SSLContext | None = None
) -> Running:
    """
    Listen on ``host:port``; an empty host is every address, port 0 any free one. With a ``context`` TLS is spoken.

    ``key`` is the config key that named the address, for the error's sentence. Raises ``TokenproxyError``.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise TokenproxyError(f'{key}: "{address}" is not an address; it must look like "127.0.0.1:9100".')
    runner = await _runner(app)
    try:
        server = await _server(_bounded(runner), host.strip("[]") or None, int(port), context)
    except OSError as error:
        await runner.cleanup()
        raise _cannot_listen(key, address, error) from error

    async def close() -> None:
        server.close()
        await runner.cleanup()

    taken = server.sockets[0].getsockname()
    shown = f"[{taken[0]}]" if ":" in taken[0] else taken[0]
    secure = server if isinstance(server, SecureServer) else None
    return Running(f"{shown}:{taken[1]}", close, secure=secure, runner=runner)


async def _server(
    connect: Callable[[], asyncio.Protocol], host: str | None, port: int, context: ssl.SSLContext | None
) -> asyncio.Server | SecureServer:
    loop = asyncio.get_running_loop()
    if context is None:
        return await loop.create_server(connect, host, port)
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.setblocking(False)
            each.bind(where)
            each.listen(128)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return SecureServer(connect, sockets, context)


async def serve_unix(app: web.Application, path: str | os.PathLike[str]) -> Running:
    """
    Listen on a socket that only our user may open; what a dead process left at ``path`` is replaced.

    The socket is made in a 0700 directory beside ``path`` and moved there when it is ready: nobody ever sees it with
    other permissions, and nobody sees it before it listens. Raises ``TokenproxyError``.
    """
    where = Path(path).absolute()  # noqa: ASYNC240 - asks nothing of a disk
    _make_way(where)
    try:
        sock = _bound(where)
    except OSError as error:
        raise _cannot_listen("the admin socket", str(where), error) from error
    ours = where.lstat()
    runner = await _runner(app)
    server = await asyncio.get_running_loop().create_unix_server(_bounded(runner), sock=sock)

    async def close() -> None:
        server.close()
        await runner.cleanup()
        if where.exists() and os.path.samestat(where.lstat(), ours):
            where.unlink()

    return Running(f"unix:{where}", close)


def _make_way(path: Path) -> None:
    """Refuse where somebody answers, and where the file is no socket: it may be dear to somebody."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen("the admin socket", str(path), error) from error
    if not stat.S_ISSOCK(mode):
        raise TokenproxyError(
            f"{path} is in the way of the admin socket and is not a socket.", next_step=f"mv {path} elsewhere"
        )
    if answers(path):
        raise TokenproxyError(
            f"Another tokenproxy serves already: it answers at {path}.", next_step="tokenproxy status"
        )


def answers(path: Path) -> bool:
    """Whether a process takes connections at this socket; one that may not be opened counts as alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, short_path(path) as short:
        sock.setblocking(False)
        return sock.connect_ex(short) not in (errno.ECONNREFUSED, errno.ENOENT)


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with tempfile.TemporaryDirectory(prefix=".tokenproxy-", dir=path.parent) as private:
            fresh = Path(private, "s")
            with short_path(fresh) as short:
                sock.bind(short)
            fresh.chmod(0o600)
            sock.listen(128)
            sock.setblocking(False)
            fresh.replace(path)
    except OSError:
        sock.close()
        raise
    return sock


async def _runner(app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    return runner


def _bounded(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None  # noqa: S101 - setup() has run

    def connect() -> asyncio.Protocol:
        if len(server.connections) >= CONNECTIONS:
            return _TooMany()
        return _Connection(
            server,
            loop=loop,
            access_log=cast("Any", None),  # its type forgets that None is "none"
            logger=_http_log,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=SHUTDOWN,
            max_line_size=LONGEST_LINE,
        )

    return connect


class _Connection(web.RequestHandler):
    """Of aiohttp's, but for its words about rubbish: they quote it, and it may be a code."""

    __slots__ = ("leaving",)

    leaving: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.leaving = False
        super().connection_made(transport)

    def leave(self) -> None:
        """Close behind the call that is under way; aiohttp's ``close`` alone would leave an idle connection open and deaf."""
        self.leaving = True
        if self._waiter is None:
            self.close()
        else:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 500:
            message = "This is no request that tokenproxy can read; it may be too long.\n"
        return super().handle_error(request, status, exc, message)


class _TooMany(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _cannot_listen(key: str, address: str, error: OSError) -> TokenproxyError:
    if error.errno == errno.EADDRINUSE:
        return TokenproxyError(
            f"{key}: {address} is in use by another process.",
            next_step=f"Set {key}, or stop the other process.",
        )
    if error.errno is None or isinstance(error, socket.gaierror):  # whose numbers are another list's
        why = error.strerror or str(error)
    else:
        why = os.strerror(error.errno)  # asyncio's own text repeats the address
    return TokenproxyError(
        f"{key}: cannot listen on {address}: {why}.", next_step=f"Set {key} to another address."
    )
