"""Requests and renewals as spans; nothing of it is in the way of a request where tracing is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenproxy.core.interfaces import KeepAnswer, TokenSource
from tokenproxy.core.tokens import Sendable
from tokenproxy.core.traceparent import FIELD, parent_of
from tokenproxy.proxy.exchange import Exchange
from tokenproxy.proxy.plain import Answer
from tokenproxy.proxy.pool import Pool
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.request import Request
from tokenproxy.proxy.upstream import UpstreamSide
from tokenproxy.tracing import Attempt, RequestTrace, Tracing, current

if TYPE_CHECKING:
    from tokenproxy.proxy.plane import Plane

_GIVEN = b"\n%b:" % FIELD


class TracedExchange(Exchange):
    """An exchange that leaves spans behind."""

    __slots__ = ("attempt", "trace")

    trace: RequestTrace
    attempt: Attempt | None
    """The one under way."""
    plane: Plane

    async def run(self) -> bool:
        await self.caller.in_task()  # ``current`` is a task's
        tracing = self.plane.tracing
        assert tracing is not None  # noqa: S101 - else nobody makes one of these
        trace = self.trace = tracing.begin(parent_of(self.message.raw_headers), self.message.method)
        self.attempt = None
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

    async def _deliver(self, request: Request, pool: Pool, head: bytes) -> Answer:
        try:
            answer = await super()._deliver(request, pool, head)
        except BaseException as error:
            self._over(error=error.code if isinstance(error, ProblemError) else type(error).__name__)
            raise
        self._over(answer.code)
        return answer

    def _begin(self, request: Request, upstream: UpstreamSide, head: bytes) -> float:
        self._over(error="upstream_unreachable")  # the connection of the one before was dead
        to = upstream.pool.upstream
        attempt = self.attempt = self.trace.attempt(request.method, to.host, to.port, self.attempts + 1)
        if _GIVEN not in head.lower():  # what the caller said goes on as it came
            head = b"%b%b: %b\r\n\r\n" % (head[:-2], FIELD, str(attempt.place).encode())
        return super()._begin(request, upstream, head)

    def _over(self, status: int = 0, error: str = "") -> None:
        if self.attempt is not None:
            self.attempt.end(status, error)
            self.attempt = None


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
