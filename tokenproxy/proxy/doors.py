"""The ways in: listening sockets, and what stands between a connection and its first request."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import grp
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Collection, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tokenproxy import log
from tokenproxy.core.settings import Listen
from tokenproxy.core.templates import is_loopback
from tokenproxy.errors import TokenproxyError
from tokenproxy.proxy.address import HTTP, HTTPS
from tokenproxy.proxy.caller import CLIENT_HELLO, CallerSide
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.tls import ServerContext, server_context

if TYPE_CHECKING:
    from tokenproxy.proxy.plane import Plane

BACKLOG: Final = 1024
AT_ONCE: Final = 64
"""Connections taken in one turn of the loop, so that a burst of them does not hold up who is in already."""
BREATH: Final = 1.0
"""Seconds without taking connections when there are no descriptors left; asyncio waits as long."""
TELL_EVERY: Final = 10.0

Passed = Mapping[str, Sequence[socket.socket]]
"""Listening sockets that systemd opened for us, by ``FileDescriptorName``."""

NONE_PASSED: Final[Passed] = MappingProxyType({})

_log: Final = logging.getLogger("tokenproxy.proxy")


class ListenError(TokenproxyError):
    """An address that cannot be listened on."""

    taken = False
    """Somebody else listens there."""


class Door:
    """An entry of ``server.listen``: callers queue up from ``bound`` on, and are let in from ``serve`` on."""

    def __init__(self, plane: Plane, listen: Listen, sockets: Sequence[socket.socket]) -> None:
        self.listen = listen
        self.addresses = [_shown(each) for each in sockets]
        """As they are bound."""
        self.scheme = HTTP
        self.auth = listen.auth
        """How who comes in here may prove itself; None: in any way."""
        self.closed = False
        self._plane = plane
        self._sockets = sockets
        self._context: ServerContext | None = None
        self._serving = False
        self._servers: list[asyncio.Server] = []
        self._entering: set[asyncio.Task[None]] = set()
        """Connections that have still to show that they speak TLS."""
        self._path = _own_path(listen)
        self._identity = _identity(self._path) if self._path else None
        self._told: dict[str, tuple[float, int]] = {}
        """Code -> until when it is not told again, and how often it happened since."""

    @classmethod
    def bound(
        cls, plane: Plane, listen: Listen, *, passed: Passed = NONE_PASSED, named: Collection[str] = ()
    ) -> Door:
        """``named``: those of ``passed`` that some entry names. Raises ``ListenError`` with one sentence."""
        address = listen.address
        if address.startswith("systemd:"):
            return cls(plane, listen, _inherited(listen, passed, named))
        bound: socket.socket | None = None
        try:
            bound = _bind_unix(listen) if address.startswith("unix:") else _bind_tcp(listen)
            bound.setblocking(False)
            bound.listen(BACKLOG)
        except OSError as error:
            if bound is not None:
                bound.close()
            raise _cannot_listen(listen, error) from error
        return cls(plane, listen, [bound])

    def trust(self, context: ServerContext | None) -> None:
        """
        Ask for certificates as this context does. Where others count than before, who is in has shown nothing that counts
        now: it leaves after the answer that is under way, and whoever is in a handshake begins anew.
        """
        if self._serving and (context is None) != (self._context is None):
            self._stop()
        if _trusts(context) == _trusts(self._context):
            return
        before = copy.copy(self)
        before.closed = True
        for caller in list(self._plane.callers):
            if caller.door is self:
                caller.door = before
                caller.close_if_idle()
        for task in self._entering:
            task.cancel()
        if self._serving:
            self._context = context

    async def serve(self, listen: Listen, context: ServerContext | None) -> None:
        """Let callers in, from now on in this way; who is in the queue or in already loses nothing."""
        loop = asyncio.get_running_loop()
        self.trust(context)
        self.listen, self._context, self.auth = listen, context, listen.auth
        self.scheme = HTTP if context is None else HTTPS
        if self._serving:
            return
        self._serving = True
        for each in self._sockets:
            if context is None:
                serving = self._server(loop, each.dup())
                self._servers.append(await loop.create_task(serving, context=Context()))
            else:
                Context().run(loop.add_reader, each.fileno(), self._take, loop, each)

    def close(self) -> None:
        """Let nobody in any more; who is in leaves after the answer that is under way."""
        if self.closed:
            return
        self.closed = True
        if self._serving:
            self._stop()
        for each in self._sockets:
            each.close()
        for task in self._entering:
            task.cancel()
        if self._path:
            with contextlib.suppress(OSError):
                if _identity(self._path) == self._identity:  # another process may have put its own there
                    Path(self._path).unlink()
        for caller in list(self._plane.callers):
            if caller.door is self:
                caller.close_if_idle()

    # inside

    def _stop(self) -> None:
        self._serving = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._context is not None:
            loop = asyncio.get_running_loop()
            for each in self._sockets:
                loop.remove_reader(each.fileno())

    async def _server(self, loop: asyncio.AbstractEventLoop, own: socket.socket) -> asyncio.Server:
        """On a copy of the socket, so that it can be closed without the queue."""
        kind = _side(self.listen)

        def caller() -> CallerSide:
            return kind(self._plane, loop, self)

        if own.family != socket.AF_UNIX:
            return await loop.create_server(caller, sock=own, backlog=BACKLOG)
        keeps: Any = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        return await loop.create_unix_server(caller, sock=own, backlog=BACKLOG, **keeps)

    # TLS. asyncio's own servers would let a caller that speaks plain HTTP wait for nothing, and keep the certificate
    # that they began with.

    def _take(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                taken, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                loop.remove_reader(listening.fileno())
                loop.call_later(BREATH, self._take_again, loop, listening)
                return
            if len(self._plane.callers) + len(self._entering) >= self._plane.max_callers:
                taken.close()
                continue
            taken.setblocking(False)
            task = loop.create_task(self._enter(loop, taken))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    def _take_again(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        if self._serving and self._context is not None:
            loop.add_reader(listening.fileno(), self._take, loop, listening)

    async def _enter(self, loop: asyncio.AbstractEventLoop, taken: socket.socket) -> None:
        """From the connect to the end of the handshake, within ``deadlines.head``."""
        seconds = self._plane.settings.deadlines.head
        side = _side(self.listen)(self._plane, loop, self)
        try:
            async with asyncio.timeout(seconds):
                first = await _first_byte(loop, taken)
                if first and first != CLIENT_HELLO:
                    side.lingering = True  # whatever it says is not for us
                    await loop.connect_accepted_socket(lambda: side, taken)
                    self.tell("plain HTTP where TLS is spoken")
                    side.refuse(_plain_spoken())
                elif first:
                    await loop.connect_accepted_socket(
                        lambda: side, taken, ssl=self._context, ssl_handshake_timeout=seconds
                    )
        except ssl.SSLError as error:
            self.tell(f"no TLS connection came about: {error.reason or 'unknown'}")
        except (OSError, TimeoutError):
            pass  # gone, or too slow
        finally:
            if not side.connected:
                taken.close()

    def tell(self, detail: str, *, code: str = "bad_request") -> None:
        """Log what kept a caller out, at most once in ``TELL_EVERY`` seconds: ports are scanned all the time."""
        until, times = self._told.get(code, (0.0, 0))
        now = self._plane.monotonic()
        if now < until:
            self._told[code] = until, times + 1
            return
        log.event(
            _log,
            "caller_refused",
            code=code,
            listener=", ".join(self.addresses),
            detail=detail,
            times=times + 1,
        )
        self._told[code] = now + TELL_EVERY, 0


@dataclass(slots=True)
class Change:
    """What other entries of ``server.listen`` come to; ``make`` it or ``abandon`` it."""

    plane: Plane
    before: list[Door]
    after: list[tuple[Door, Listen, ServerContext | None]] = field(default_factory=list)
    fresh: list[Door] = field(default_factory=list)
    waiting: bool = False
    """Some address stays as it is until a restart, since the old one is in the way of the new."""

    @classmethod
    def to(cls, listens: Sequence[Listen], plane: Plane, before: list[Door], passed: Passed) -> Change:
        """Bind what is new and read the certificates; raises ``ListenError`` or ``TLSFileError``, with nothing changed."""
        change = cls(plane, before)
        try:
            change._plan(listens, passed)
        except BaseException:
            change.abandon()
            raise
        return change

    def _plan(self, listens: Sequence[Listen], passed: Passed) -> None:
        contexts = [_context(listen, number) for number, listen in enumerate(listens)]
        left = list(self.before)
        named = {each.address.removeprefix("systemd:") for each in listens}
        doors = [_taken_over(listen, left, passed, named) for listen in listens]
        for number, listen in enumerate(listens):
            door = doors[number]
            try:
                if door is None:
                    door = Door.bound(self.plane, listen, passed=passed, named=named)
                    self.fresh.append(door)
            except ListenError as error:
                if not (error.taken and (stays := _in_the_way(listen, left))):
                    raise
                left.remove(stays)
                self.after.append((stays, stays.listen, stays._context))  # noqa: SLF001 - as it is
                self.waiting = True
                continue
            self.after.append((door, listen, contexts[number]))
        for door, listen, _ in self.after:
            if door not in self.fresh and (listen.mode, listen.group) != (
                door.listen.mode,
                door.listen.group,
            ):
                _let_others_in(listen)

    def abandon(self) -> None:
        for door in self.fresh:
            door.close()

    def leave(self) -> None:
        """From now on nobody comes in by what is gone, nor in a way that counts no more."""
        after = [door for door, _, _ in self.after]
        for door, listen, context in self.after:
            door.auth = listen.auth
            door.trust(context)
        for door in self.before:
            if door not in after:
                door.close()

    async def make(self) -> list[Door]:
        self.leave()
        for door, listen, context in self.after:
            await door.serve(listen, context)
        return [door for door, _, _ in self.after]


def _taken_over(listen: Listen, left: list[Door], passed: Passed, named: Collection[str]) -> Door | None:
    """The open door of this address, which is then no longer among those that are ``left``."""
    address = listen.address
    for door in left:
        if door.listen.address == address and door.listen.asks == listen.asks:
            if address == "systemd:" and door.addresses != [
                _shown(each) for each in _meant(address, passed, named)
            ]:
                continue  # other entries name other sockets now
            left.remove(door)
            return door
    return None


def _in_the_way(listen: Listen, left: Sequence[Door]) -> Door | None:
    port = listen.address.rpartition(":")[2]
    return next((door for door in left if any(each.endswith(f":{port}") for each in door.addresses)), None)


def _context(listen: Listen, number: int) -> ServerContext | None:
    where = "forward_auth.listen" if listen.asks else f"server.listen[{number}]"
    if not listen.tls.cert_file:
        return None
    return server_context(listen.tls, where=where, optional=listen.client_optional)


def _trusts(context: ServerContext | None) -> object:
    return None if context is None else context.trusts


def _side(listen: Listen) -> type[CallerSide]:
    """Who is served there; what only other proxies need is loaded for them alone."""
    if not listen.asks:
        return CallerSide
    from tokenproxy.proxy.forward_auth import AskingSide

    return AskingSide


def _plain_spoken() -> ProblemError:
    return ProblemError(
        "bad_request",
        "The request came as plain HTTP to a port that speaks TLS.",
        next_step="Write https:// in the app's base URL.",
    )


async def _first_byte(loop: asyncio.AbstractEventLoop, taken: socket.socket) -> bytes:
    """It stays in the socket; empty: the caller has gone."""
    with contextlib.suppress(BlockingIOError):
        return taken.recv(1, socket.MSG_PEEK)
    readable = loop.create_future()
    loop.add_reader(taken.fileno(), _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(taken.fileno())
    return taken.recv(1, socket.MSG_PEEK)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


# sockets

_LISTEN_STEPS: Final = {
    errno.EADDRINUSE: "Stop the other program, or choose another address for listen under [server].",
    errno.EEXIST: "Move the file away, or choose another path for listen under [server].",
    errno.ENOENT: "Make the folder, or choose another path for listen under [server].",
    errno.EACCES: "Choose a port above 1023 or a folder of ours for listen under [server].",
    errno.EADDRNOTAVAIL: "This address is not this machine's; choose another for listen under [server].",
    errno.EPERM: "Choose a group that we are a member of for listen under [server].",
}


def _cannot_listen(listen: Listen, error: OSError) -> ListenError:
    step = _LISTEN_STEPS.get(error.errno or 0, "Choose another address for listen under [server].")
    failed = ListenError(
        f"Cannot listen on {listen.address}: {error.strerror or error}.",
        next_step=step.replace("[server]", "[forward_auth]") if listen.asks else step,
    )
    failed.taken = error.errno == errno.EADDRINUSE
    return failed


def _bind_tcp(listen: Listen) -> socket.socket:
    host, _, port = listen.address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or int(port) > 65535:
        raise OSError("an address is HOST:PORT, [V6]:PORT, unix:/PATH, unix:@NAME or systemd:NAME")
    found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listen.shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_unix(listen: Listen) -> socket.socket:
    path = listen.address.removeprefix("unix:")
    own = _own_path(listen)
    if own:
        _make_way(own)
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # from the first moment on nobody else may connect
    try:
        bound.bind(own or f"\0{path[1:]}")
        if own:
            _let_others_in(listen)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


def _make_way(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is in the way")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()  # left over by a process that is gone


def _let_others_in(listen: Listen) -> None:
    """As ``mode`` and ``group`` say; the group first, so that no other one ever gets the mode's rights."""
    path = _own_path(listen)
    if listen.group:
        try:
            group = int(listen.group) if listen.group.isdigit() else grp.getgrnam(listen.group).gr_gid
        except KeyError:
            raise OSError(f"there is no group {listen.group}") from None
        os.chown(path, -1, group)
    Path(path).chmod(listen.mode)


def _meant(address: str, passed: Passed, named: Collection[str]) -> list[socket.socket]:
    name = address.removeprefix("systemd:")
    return [
        each
        for known, sockets in passed.items()
        if (known == name if name else known not in named)
        for each in sockets
    ]


def _inherited(listen: Listen, passed: Passed, named: Collection[str]) -> list[socket.socket]:
    """Copies: systemd's own stay, so that a reload can close the entry and open it again."""
    found = _meant(listen.address, passed, named)
    if not found:
        names = ", ".join(sorted(passed)) or "none at all"
        raise ListenError(
            f"Cannot listen on {listen.address}: systemd passed no such socket (it passed {names}).",
            next_step="Start it by its .socket unit; FileDescriptorName= there is the name after systemd:.",
        )
    for each in found:
        if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(
                f"Cannot listen on {listen.address}: {_shown(each)} is no listening socket.",
                next_step="Use ListenStream= and Accept=no in the .socket unit.",
            )
        if listen.local and each.family != socket.AF_UNIX and not is_loopback(each.getsockname()[0]):
            raise ListenError(
                f"Cannot listen on {listen.address}: {_shown(each)} can be reached from other machines.",
                next_step="Name callers in [callers.*] or [server.caller_auth], or say allow_unauthenticated = true under [server].",
            )
    copies = [each.dup() for each in found]
    for each in copies:
        each.setblocking(False)
    return copies


def _shown(bound: socket.socket) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        path = name.decode(errors="replace") if isinstance(name, bytes) else name
        return f"unix:@{path[1:]}" if path[:1] == "\0" else f"unix:{path}"
    return f"[{name[0]}]:{name[1]}" if bound.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def _own_path(listen: Listen) -> str:
    """Of a socket that we make and remove; "" where there is no file."""
    path = listen.address.removeprefix("unix:")
    return "" if path == listen.address or path[:1] == "@" else path


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino
