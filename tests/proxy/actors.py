"""The cast: an upstream that plays from a script and remembers every byte, a source of tokens, a caller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tests import planted
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.provider import Inject
from tokenproxy.core.routes import Route, RouteTable, Upstream
from tokenproxy.core.settings import Deadlines, TLSFiles
from tokenproxy.core.tokens import Sendable, TokenSet
from tokenproxy.errors import AccountError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth.signer import Prover
from tokenproxy.proxy import Plane, PlaneSettings, RequestLog

PATIENCE = 10.0
"""Seconds until a test that waits for something gives up."""


async def until(true: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.002)


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Source:
    """Gives out ``token-1``, ``token-2``, ...; a renewal is one for all who wait, as the real one's."""

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.sets: dict[tuple[str, int], TokenSet] = {}
        self.renewals: list[str] = []
        self.confirmed: list[tuple[str, int]] = []
        self.held: list[tuple[str, int, str]] = []
        self.fresh = True
        """False: ``ready`` has nothing, so that ``current`` is asked."""
        self.error: AccountError | None = None
        self.renew_error: AccountError | None = None
        self.keep: KeepAnswer | None = None
        self.gate: asyncio.Event | None = None
        """A renewal waits for it."""
        self.accounts: set[str] | None = None
        """None: every account is known."""
        self.more: dict[str, Any] = {}
        """Further fields of every token set (``captured``, ``dpop_key``)."""
        self._running: dict[str, asyncio.Task[TokenSet]] = {}

    def tokens(self, account: str, generation: int) -> TokenSet:
        key = account, generation
        if key not in self.sets:
            sub = account.partition("/")[2]
            self.sets[key] = TokenSet(f"token-{sub}{generation}", generation=generation, **self.more)
            planted.plant(self.sets[key].access_token)
        return self.sets[key]

    def newest(self, account: str) -> TokenSet:
        return self.tokens(account, self.generations.get(account, 1))

    def ready(self, account: str) -> TokenSet | None:
        return self.newest(account) if self.fresh and self.error is None and self._known(account) else None

    async def current(self, account: str) -> TokenSet:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if not self._known(account):
            raise AccountError("No such login.", account=account)
        return self.newest(account)

    async def renew(self, account: str, rejected: Sendable, *, route: str) -> TokenSet | KeepAnswer:
        if self.keep is not None:
            return self.keep
        if rejected.generation < self.newest(account).generation:
            return self.newest(account)
        if account not in self._running:
            self._running[account] = asyncio.create_task(self._renew(account))
        return await asyncio.shield(self._running[account])

    async def _renew(self, account: str) -> TokenSet:
        self.renewals.append(account)
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0.005)
        del self._running[account]
        if self.renew_error is not None:
            raise self.renew_error
        self.generations[account] = self.generations.get(account, 1) + 1
        return self.newest(account)

    def refused_again(self, account: str, refused: Sendable, *, route: str) -> None:
        self.held.append((account, refused.generation, route))

    def worked(self, account: str, tokens: Sendable) -> None:
        self.confirmed.append((account, tokens.generation))

    def _known(self, account: str) -> bool:
        return self.accounts is None or account in self.accounts


@dataclass
class Seen:
    """One request as the upstream got it."""

    head: bytes
    connection: int
    body: bytes = b""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def fields(self) -> list[bytes]:
        return [line for line in self.head.split(b"\r\n")[1:] if line]

    def values(self, name: bytes) -> list[bytes]:
        return [
            line.partition(b":")[2].strip()
            for line in self.fields
            if line.partition(b":")[0].lower() == name.lower()
        ]

    @property
    def token(self) -> bytes:
        (value,) = self.values(b"authorization")
        return value.removeprefix(b"Bearer ")


class Line:
    """One connection at the upstream, in the hands of the script."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = seen

    async def body(self) -> bytes:
        """Read the body, as its head frames it."""
        self.seen.body += await read_body(self.reader, self.seen.head)
        return self.seen.body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """A reset: nothing of it is a proper end."""
        reset(self.writer)

    def close(self) -> None:
        self.writer.close()


Script = Callable[[Line], Awaitable[None]]


class ScriptedUpstream:
    """
    Reads heads, and lets the script do the rest; the connection stays open unless the script closes it.

    ``seen`` has every request, ``raw`` every byte of each connection's heads.
    """

    def __init__(self, script: Script | bytes = b"") -> None:
        self.script: Script | bytes = script or ok(b"hello")
        self.seen: list[Seen] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, **how: Any) -> ScriptedUpstream:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20, **how)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen = Seen(head, number)
                self.seen.append(seen)
                line = Line(reader, writer, seen)
                if isinstance(self.script, bytes):
                    await line.body()
                    await line.send(self.script)
                else:
                    await self.script(line)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()


def ok(body: bytes = b"", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A proper answer with a length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def dead(body: bytes = b"expired") -> bytes:
    return ok(body, b'WWW-Authenticate: Bearer error="invalid_token"', status=b"401 Unauthorized")


def unless(*bad: bytes, then: bytes = b"") -> Script:
    """A script that takes every token but these, after it has read the body."""

    async def script(line: Line) -> None:
        await line.body()
        await line.send(dead() if line.seen.token in bad else (then or ok(b"hello")))

    return script


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return await read_chunks(reader)
    for line in lower.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line[15:]))
    return b""


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if not size:
            break
        pieces.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return b"".join(pieces)


@dataclass
class Answer:
    """An answer as the caller got it."""

    head: bytes
    body: bytes = b""

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def fields(self) -> list[bytes]:
        return [line for line in self.head.split(b"\r\n")[1:] if line]

    def values(self, name: bytes) -> list[bytes]:
        return [
            line.partition(b":")[2].strip()
            for line in self.fields
            if line.partition(b":")[0].lower() == name.lower()
        ]

    @property
    def code(self) -> str:
        """Of one of our own answers."""
        (code,) = self.values(b"tokenproxy-error")
        return code.decode()

    @property
    def problem(self) -> dict[str, Any]:
        assert self.values(b"content-type") == [b"application/problem+json"]
        found: dict[str, Any] = json.loads(self.body)
        return found


class Caller:
    """A caller that writes bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: str) -> Caller:
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address[5:], limit=1 << 20))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port), limit=1 << 20))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, target: bytes = b"/books/x", *fields: bytes, method: bytes = b"GET") -> Answer:
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: localhost", *fields]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n")
        return await self.answer(headless=method == b"HEAD")

    async def post(self, body: bytes, target: bytes = b"/books/x", *fields: bytes) -> Answer:
        await self.send(post(body, target, *fields))
        return await self.answer()

    async def head(self) -> Answer:
        async with asyncio.timeout(PATIENCE):
            return Answer(await self.reader.readuntil(b"\r\n\r\n"))

    async def answer(self, *, headless: bool = False) -> Answer:
        """The next answer, whole; raises ``IncompleteReadError`` where it is cut."""
        async with asyncio.timeout(PATIENCE):
            answer = Answer(await self.reader.readuntil(b"\r\n\r\n"))
            if headless or answer.status in {204, 304} or answer.status < 200:
                return answer
            if answer.values(b"transfer-encoding") or answer.values(b"content-length"):
                answer.body = await read_body(self.reader, answer.head)
            else:
                answer.body = await self.reader.read()
            return answer

    async def rest(self) -> bytes:
        """Everything until the proxy closes; a reset ends it as well."""
        pieces = []
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self.writer.close()

    def cut(self) -> None:
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Without the option, an abort is an ordinary close on the wire."""
    held = writer.get_extra_info("socket")
    if held is not None and held.family != socket.AF_UNIX and held.fileno() >= 0:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def post(body: bytes, target: bytes = b"/books/x", *fields: bytes) -> bytes:
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


def route_to(port: int, **changes: Any) -> Route:
    """``/books/`` towards a port on loopback; changes may be fields of ``Route``, of its ``Upstream``, or ``header``."""
    scheme = changes.pop("scheme", "http")
    upstream = Upstream(
        scheme=scheme,
        host=changes.pop("to", "127.0.0.1"),
        port=port,
        authority=changes.pop("authority", "api.example"),
        path=changes.pop("path", ""),
        tls=changes.pop("tls", TLSFiles()),
        proxy=changes.pop("proxy", None),
        template=changes.pop("template", ""),
        hosts=changes.pop("hosts", ()),
    )
    name = changes.pop("name", "books")
    if "header" in changes:
        changes["inject"] = Inject(header=changes.pop("header"), value=changes.pop("value", "{access_token}"))
    plain: dict[str, Any] = {"prefix": f"/{name}/", "account": name, "upstream": upstream}
    return Route(name=name, **(plain | changes))


@dataclass
class Stage:
    """A plane with one upstream and one source; ``async with stage(...)`` opens and closes it."""

    upstream: ScriptedUpstream
    source: Source
    metrics: Metrics
    plane: Plane
    settings: PlaneSettings
    address: str = ""
    logged: list[RequestLog] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    async def caller(self) -> Caller:
        caller = await Caller.connect(self.address)
        self.callers.append(caller)
        return caller

    def swap(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)
        self.plane.swap(self.settings)


QUICK = Deadlines(
    head=0.2, body_idle=0.2, connect=0.3, first_byte=0.2, upstream_idle=0.2, keep_alive=0.2, drain=1.0
)


@contextlib.asynccontextmanager
async def stage(
    script: Script | bytes = b"",
    *,
    routes: Callable[[int], list[Route]] | None = None,
    listen: str = "127.0.0.1:0",
    upstream_how: dict[str, Any] | None = None,
    route: dict[str, Any] | None = None,
    parts: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """``parts`` are further arguments of ``Plane``, ``settings`` fields of ``PlaneSettings``."""
    upstream = await ScriptedUpstream(script).start(**(upstream_how or {}))
    table = routes(upstream.port) if routes else [route_to(upstream.port, **(route or {}))]
    chosen = PlaneSettings(routes=RouteTable.of(table), **settings)
    source, metrics = Source(), Metrics()
    logged: list[RequestLog] = []
    clock = WallClock()
    plane = Plane(
        chosen,
        source=source,
        prover=Prover(clock),
        clock=clock,
        metrics=metrics,
        on_request=logged.append,
        **(parts or {}),
    )
    found = Stage(upstream, source, metrics, plane, chosen, logged=logged)
    try:
        found.address = await plane.listen(listen)
        yield found
    finally:
        for caller in found.callers:
            caller.cut()
        await plane.close(drain=0)
        await upstream.stop()
        await asyncio.sleep(0)
