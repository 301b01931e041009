"""Requests and renewals as spans; nothing of it is in the way of a request where tracing is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenproxy.core.interfaces import KeepAnswer, TokenSource
from tokenproxy.core.tokens import Sendable
from tokenproxy.core.traceparent import FIELD, parent_of
from tokenproxy.proxy.exchange import Exchange
from tokenproxy.proxy.plain import Answer
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.request import Request
from tokenproxy.proxy.upstream import UpstreamSide
from tokenproxy.tracing import RequestTrace, Tracing, current

if TYPE_CHECKING:
    from tokenproxy.proxy.plane import Plane

_GIVEN = b"\n%b:" % FIELD


class TracedExchange(Exchange):
    """An exchange that leaves spans behind."""

    __slots__ = ("trace",)

    trace: RequestTrace
    plane: Plane

    async def run(self) -> bool:
        tracing = self.plane.tracing
        assert tracing is not None  # noqa: S101 - else nobody makes one of these
        trace = self.trace = tracing.begin(parent_of(self.message.raw_headers), self.message.method)
        before = current.set(trace)
        try:
            return await super().run()
        finally:
            current.reset(before)
            request = self.request
            trace.end(
                status=self.status,
                failed=self.status >= 500 or self.result == "client_gone",
                route=request.lane.route.name if request is not None else "",
                account=tracing.told_account(request.account) if request is not None else "",
                code=self.code,
                result=self.result,
                attempts=self.attempts,
            )

    @property
    def trace_id(self) -> str:
        return self.trace.place.trace_id

    async def _attempt(self, request: Request, upstream: UpstreamSide, head: bytes) -> Answer:
        to = upstream.pool.upstream
        attempt = self.trace.attempt(request.method, to.host, to.port, self.attempts + 1)
        if (
            _GIVEN not in head.lower()
        ):  # what the caller said goes on as it is (RFC 9110 section 7.7, in spirit)
            head = b"%b%b: %b\r\n\r\n" % (head[:-2], FIELD, str(attempt.place).encode())
        try:
            answer = await super()._attempt(request, upstream, head)
        except BaseException as error:
            attempt.end(error=error.code if isinstance(error, ProblemError) else type(error).__name__)
            raise
        attempt.end(answer.code)
        return answer


class TracedSource:
    """A source of tokens that knows which requests wait for a renewal."""

    def __init__(self, source: TokenSource, tracing: Tracing) -> None:
        self._source = source
        self._tracing = tracing
        self.ready = source.ready
        self.refused_again = source.refused_again
        self.worked = source.worked

    async def current(self, account: str) -> Sendable:
        with self._tracing.waiting(account):
            return await self._source.current(account)

    async def renew(self, account: str, rejected: Sendable, *, route: str) -> Sendable | KeepAnswer:
        with self._tracing.waiting(account):
            return await self._source.renew(account, rejected, route=route)
