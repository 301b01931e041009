"""The upstream of all stories: an API that takes a live access token and says what it was sent."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import ClassVar
from urllib.parse import parse_qsl

from aiohttp import web

from tests.simulators.provider import Provider
from tests.simulators.server import Server, cut

_BLOCK = bytes(range(256)) * 1024
"""256 KiB, what ``/big`` and ``/stream`` are made of."""


def pattern(size: int) -> Iterator[bytes]:
    """``size`` bytes in pieces, always the same ones; memory stays flat whatever the size."""
    for _ in range(size // len(_BLOCK)):
        yield _BLOCK
    if rest := size % len(_BLOCK):
        yield _BLOCK[:rest]


def pattern_sha256(size: int) -> str:
    """Of what ``/big?size=`` sends."""
    digest = hashlib.sha256()
    for piece in pattern(size):
        digest.update(piece)
    return digest.hexdigest()


@dataclass(slots=True)
class ApiRequest:
    """A request as the upstream saw it; listed when its head arrives, filled in as it goes on."""

    at: float
    """Seconds, ``time.monotonic()``."""
    method: str
    target: str
    """As it was sent: not decoded, not normalised."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """In order, with case and duplicates."""
    token: str | None = field(default=None, repr=False)
    """None: no credential in the right form, or more than one."""
    length: int = 0
    """Bytes of the body, as far as it was read."""
    sha256: str = ""
    """Of the body; "" until it is complete."""
    status: int | None = None
    """What was answered; None until then."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Api(Server):
    """
    Takes exactly one live token of ``provider``, in that provider's header form; 401 for anything else.

    What a path answers (the rest of the target is free, any method)::

        /stream?n=&size=&gap=   n chunks of size bytes, gap seconds apart; ``step`` sends them one by one
        /big?size=              that many bytes of ``pattern``, with a Content-Length
        /sink                   the body's length and hash, like everything else, but nothing about the head
        /forbidden-401          401 although the token lives (another reason, badly told)
        /status?code=           that status, no body but a line
        /slow?seconds=          the echo, late
        /hang                   nothing, until the test ends
        /redirect?to=           302
        /cut?size=&after=       promises size bytes and cuts the connection after some of them
        anything else           an echo of the request as JSON
    """

    def __init__(self, provider: Provider, *, ssl: SSLContext | None = None) -> None:
        super().__init__(ssl=ssl)
        self.provider = provider

        self.always_401 = False
        self.early_401 = False
        """Refuse a dead token before the body is read, as many APIs do; else after it."""
        self.expect_100 = True
        """Send 100 Continue where it is asked for; off: 417."""
        self.hash_bodies = True
        """Off where a story measures speed."""
        self.gate: asyncio.Event | None = None
        """Requests wait until it is set, their body read and their token not yet looked at."""
        self.step: asyncio.Semaphore | None = None
        """Each chunk of ``/stream`` takes one; ``api.step.release()`` lets one go."""

        self.requests: list[ApiRequest] = []
        self.waiting = 0
        """Requests that the gate holds."""
        self.chunks_sent = 0
        self.continues = 0
        """100 Continue answers sent."""
        self.max_concurrent = 0
        self._inside = 0

    async def crowd(self, count: int, *, timeout: float = 30.0) -> None:
        """Wait until ``gate`` holds at least ``count`` requests."""
        await self.changes.until(
            lambda: self.waiting >= count, what=f"a crowd of {count} at the API", timeout=timeout
        )

    async def arrived(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until at least ``count`` requests in all have come."""
        await self.changes.until(
            lambda: len(self.requests) >= count, what=f"{count} request(s) at the API", timeout=timeout
        )

    @property
    def statuses(self) -> list[int | None]:
        """What each request was answered, in the order of arrival."""
        return [request.status for request in self.requests]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = ApiRequest(
            at=time.monotonic(),
            method=request.method,
            target=request.raw_path,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers
            ),
        )
        seen.token = self._token(seen)
        self.requests.append(seen)
        self._inside += 1
        self.max_concurrent = max(self.max_concurrent, self._inside)
        self.changes.happened()
        try:
            return await self._answer(request, seen)
        finally:
            self._inside -= 1
            self.changes.happened()

    async def _answer(self, request: web.BaseRequest, seen: ApiRequest) -> web.StreamResponse:
        if self.early_401:
            await self._wait()
            if not self._admitted(seen):
                return self._unauthorized(seen)
        if seen.all("Expect"):
            if not self._admitted(
                seen
            ):  # RFC 9110 section 10.1.1: a final status may come instead of the 100
                return self._unauthorized(seen, close=True)
            if not self.expect_100:
                return _final(seen, web.Response(status=417), close=True)
            self._continue(request)
        await self._read(request, seen)
        if not self.early_401:
            await self._wait()
        if not self._admitted(seen):
            return self._unauthorized(seen)
        self.provider.used(seen.token or "")
        query = dict(parse_qsl(seen.target.partition("?")[2], keep_blank_values=True))
        answer = self._ANSWERS.get(seen.path, Api._echo)
        return await answer(self, request, seen, query)

    def _admitted(self, seen: ApiRequest) -> bool:
        if self.always_401 or seen.path == "/forbidden-401":
            return False
        return seen.token is not None and self.provider.live(seen.token)

    def _token(self, seen: ApiRequest) -> str | None:
        """Exactly one credential, in the provider's own spelling of it; look-alikes count (``X_Access_Token``)."""
        name = self.provider.header.lower()
        given = [value for key, value in seen.headers if key.lower().replace("_", "-") == name]
        if len(given) != 1 or not seen.all(name) or not given[0].startswith(self.provider.scheme):
            return None
        return given[0].removeprefix(self.provider.scheme)

    def _unauthorized(self, seen: ApiRequest, *, close: bool = False) -> web.Response:
        response = web.json_response({"error": {"message": "Unauthenticated."}}, status=401)
        if self.provider.scheme:
            response.headers["WWW-Authenticate"] = 'Bearer realm="api", error="invalid_token"'
        return _final(seen, response, close=close)

    def _continue(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            self.continues += 1
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _read(self, request: web.BaseRequest, seen: ApiRequest) -> None:
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            seen.length += len(piece)
            if self.hash_bodies:
                digest.update(piece)
        if self.hash_bodies:
            seen.sha256 = digest.hexdigest()

    async def _wait(self) -> None:
        if self.gate is None:
            return
        self.waiting += 1
        self.changes.happened()
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1

    # What the paths answer

    async def _echo(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        """Everything that was sent, but the token only as the number of its generation."""
        token = seen.token or ""
        said = {
            "method": seen.method,
            "target": seen.target,
            "headers": [[key, value.replace(token, "TOKEN")] for key, value in seen.headers],
            "length": seen.length,
            "sha256": seen.sha256,
            "token": self.provider.number(token),
        }
        return _final(seen, web.json_response(said))

    async def _sink(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        return _final(seen, web.json_response({"length": seen.length, "sha256": seen.sha256}))

    async def _stream(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        seen.status = 200
        gap, size = float(query.get("gap", "0")), int(query.get("size", "1024"))
        for number in range(int(query.get("n", "10"))):
            if self.step is not None:
                await self.step.acquire()
            if gap and number:
                await asyncio.sleep(gap)
            for piece in pattern(size):
                await response.write(piece)
            self.chunks_sent += 1
            self.changes.happened()
        await response.write_eof()
        return response

    async def _big(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        size = int(query["size"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = size
        await response.prepare(request)
        seen.status = 200
        if request.method != "HEAD":
            for piece in pattern(size):
                await response.write(piece)
        await response.write_eof()
        return response

    async def _status(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        return _final(seen, web.Response(status=int(query["code"]), text="as asked\n"))

    async def _slow(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        await asyncio.sleep(float(query.get("seconds", "1")))
        return await self._echo(request, seen, query)

    async def _hang(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        await asyncio.Event().wait()
        return cut(request)

    async def _redirect(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        to = query.get("to", "https://elsewhere.example/")
        return _final(seen, web.Response(status=302, headers={"Location": to}))

    async def _cut(
        self, request: web.BaseRequest, seen: ApiRequest, query: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = int(query.get("size", "1024"))
        await response.prepare(request)
        seen.status = 200
        for piece in pattern(int(query.get("after", "100"))):
            await response.write(piece)
        if request.transport is not None:
            request.transport.close()  # after what was written has gone: a clean end, too early
        return response

    _ANSWERS: ClassVar[Mapping[str, Callable[..., Awaitable[web.StreamResponse]]]] = {
        "/stream": _stream,
        "/big": _big,
        "/sink": _sink,
        "/status": _status,
        "/slow": _slow,
        "/hang": _hang,
        "/redirect": _redirect,
        "/cut": _cut,
    }


def _final(seen: ApiRequest, response: web.Response, *, close: bool = False) -> web.Response:
    if close:
        response.force_close()
    seen.status = response.status
    return response
