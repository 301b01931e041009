"""Listeners of the admin side: the 0600 Unix socket, and plain TCP."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
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

    def __init__(self, address: str, close: Callable[[], Awaitable[None]]) -> None:
        self.address = address
        """``127.0.0.1:9100`` with the port really taken, or ``unix:/path``."""
        self._close = close

    async def close(self) -> None:
        await self._close()


async def serve_tcp(app: web.Application, address: str, *, key: str) -> Running:
    """
    Listen on ``host:port``; an empty host is every address, port 0 any free one.

    ``key`` is the config key that named the address, for the error's sentence. Raises ``TokenproxyError``.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise TokenproxyError(f'{key}: "{address}" is not an address; it must look like "127.0.0.1:9100".')
    runner = await _runner(app)
    try:
        server = await asyncio.get_running_loop().create_server(
            _bounded(runner), host.strip("[]") or None, int(port)
        )
    except OSError as error:
        await runner.cleanup()
        raise _cannot_listen(key, address, error) from error

    async def close() -> None:
        server.close()
        await runner.cleanup()

    taken = server.sockets[0].getsockname()
    shown = f"[{taken[0]}]" if ":" in taken[0] else taken[0]
    return Running(f"{shown}:{taken[1]}", close)


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

    __slots__ = ()

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
