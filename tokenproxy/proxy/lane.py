"""A route with everything that the data plane prepares for it once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from tokenproxy import log
from tokenproxy.core.allow import Allow, RefusedError
from tokenproxy.core.echoes import Echoes, shown
from tokenproxy.core.forwarded import NAMES as FORWARDED
from tokenproxy.core.routes import Route, Target, account_header
from tokenproxy.core.tokens import Sendable
from tokenproxy.metrics import RouteMetrics
from tokenproxy.proxy.card import Card, around_token, canonical
from tokenproxy.proxy.pool import Pool, Visits
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.revise import revision

_log: Final = logging.getLogger("tokenproxy.proxy")

CARDS: Final = 768
"""Accounts of one route whose token line is kept ready; more are made anew."""
PLAIN_BODIES: Final = b"Accept-Encoding: identity\r\n"
"""In the place of the caller's own, where bodies must be read: we decode nothing, and nearly every caller asks for gzip."""
TELL_EVERY: Final = 10.0
_TOLD: Final = {
    "upstream_unreachable": "upstream_failed",
    "upstream_invalid": "upstream_failed",
    "upstream_timeout": "upstream_failed",
    "overloaded": "overloaded",
    "not_allowed": "caller_refused",
}
"""Error code -> log event; the others are the caller's business, or told where they arise."""


class Turns:
    """How many requests may be under way at once, and a short queue for the others."""

    __slots__ = ("limit", "taken", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """0: no limit."""
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a turn that is free; False: ``wait`` for one."""
        if self.limit and self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    async def wait(self, seconds: float, of: str = "in_flight under [limits]") -> None:
        """Take a turn within ``seconds``, first come first served; raises ``overloaded``, which says ``of`` what."""
        if self.enter():
            return  # one became free on the way here
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():
                return  # handed to us in the very moment in which the time was up
            raise ProblemError(
                "overloaded",
                f"No turn became free within {seconds:g} s.",
                next_step=f"Send the request again later, or raise {of}.",
                retry_after=1,
            ) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # handed to us in the very moment in which we were cancelled
            raise
        finally:
            turn.cancel()
            while self.waiting and self.waiting[0].done():  # the oldest give up first
                self.waiting.popleft()

    def leave(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the turn goes from hand to hand, so that nobody can push in
                return
        self.taken -= 1


class LaneError(ProblemError):
    """A request that a route does not let through; nothing was done for it."""

    def __init__(self, code: str, detail: str, *, next_step: str, lane: Lane) -> None:
        super().__init__(code, detail, next_step=next_step)
        self.lane = lane


class NotAllowedError(LaneError):
    """A route's list does not name it."""

    def __init__(self, lane: Lane, refused: RefusedError) -> None:
        step = f"Add it to allow of [routes.{lane.route.name}] if it may be asked."
        if refused.malformed:
            step = "Correct the request; it would be refused again as it is."
        code = "bad_request" if refused.malformed else "not_allowed"
        super().__init__(code, str(refused), next_step=step, lane=lane)


class Lane:
    __slots__ = (
        "account",
        "allow",
        "around",
        "base",
        "beside",
        "by_header",
        "cards",
        "changed",
        "drafted",
        "dropped",
        "earlier_cards",
        "forwarded",
        "host_line",
        "metrics",
        "origins",
        "own_echoes",
        "pool",
        "prefix_length",
        "retry",
        "revision",
        "route",
        "signals",
        "suspects",
        "target",
        "targets",
        "told",
        "turns",
        "visits",
    )

    def __init__(
        self, route: Route, *, pool: Pool, visits: Visits, metrics: RouteMetrics, turns: Turns
    ) -> None:
        self.route = route
        self.pool = pool
        """Never connects where the upstream is a template; then it only says under which TLS files others do."""
        self.visits = visits
        self.metrics = metrics
        self.turns = turns
        self.account = route.account
        self.by_header = account_header(route.account)
        self.signals = route.signals
        self.suspects = route.signals.suspects
        """Statuses of answers that may say that the token is dead."""
        self.origins = route.origins
        self.allow = route.allow
        self.base = route.upstream.base
        self.prefix_length = len(route.prefix)
        self.host_line = f"Host: {route.host_header or route.upstream.authority}\r\n".encode()
        """And all that follows it whatever the request is."""
        if route.reads_bodies:
            self.host_line += PLAIN_BODIES
        self.host_line += route.request_headers.lines
        if route.upstream.form and route.upstream.proxy is not None:
            self.host_line += route.upstream.proxy.line
        self.beside = frozenset(canonical(name.encode()) for name in _beside(route))
        """Names, canonical, of fields that we set beside the token's own."""
        self.changed = frozenset(canonical(name.encode()) for name in route.request_headers.taken)
        """Names, canonical, of fields that the operator replaces or takes out."""
        self.forwarded = route.forwarded if not route.targets else None
        if self.forwarded is not None:
            self.changed |= {name.encode() for name in FORWARDED}
        self.dropped = _dropped(route) | self.changed
        self.retry = route.retry
        self.revision = revision(route)
        self.drafted = route.placeholders or route.tokenless or bool(route.targets)
        """The head of its requests is not made at the gate (``draft.py``)."""
        self.target: Target | None = None
        """The entry of ``targets`` that this lane leads to."""
        self.targets: tuple[Lane, ...] = ()
        self.around = around_token(route)
        self.cards: dict[str, Card] = {}
        self.earlier_cards: dict[str, Card] = {}
        self.told: dict[tuple[str, str], tuple[float, int]] = {}
        """Event and error code -> until when it is not told again, and how often it happened since."""
        self.own_echoes = Echoes(route.request_headers.secrets if route.redact_echo else ())
        """Secrets of the config that each request carries, where they are looked for in answers."""

    def tell(self, problem: ProblemError, now: float) -> None:
        """Log what ails the upstream, at most once in ``TELL_EVERY`` seconds: an outage is one event, not a thousand."""
        event = _TOLD.get(problem.code)
        if event is not None:
            self._tell((event, problem.code), now, code=problem.code, detail=problem.detail)

    def tell_echo(self, now: float, *, place: str) -> None:
        """Count and log an answer in which the upstream repeated our token; ``place`` is "head" or "body"."""
        self.metrics.echoes += 1
        self._tell(("token_echoed", ""), now, place=place)

    def _tell(self, what: tuple[str, str], now: float, **fields: Any) -> None:
        until, times = self.told.get(what, (0.0, 0))
        times += 1
        if now < until:
            self.told[what] = until, times
            return
        log.event(_log, what[0], route=self.route.name, **fields, times=times)
        self.told[what] = now + TELL_EVERY, 0

    def echoes(self, card: Card | None) -> Echoes:
        """What the upstream could repeat to a request that was sent with this card, or with no token of ours."""
        if card is None:
            return self.own_echoes
        if card.echoes is None:
            card.echoes = Echoes(
                (
                    *shown(card.tokens.access_token, self.route.inject.value),
                    *(self.route.request_headers.secrets if self.route.redact_echo else ()),
                )
            )
        return card.echoes

    def card(self, account: str, tokens: Sendable) -> Card:
        """What the token set means here, made once; raises ``misconfigured`` where it cannot be sent."""
        card = self.cards.get(account)
        if card is not None and card.tokens is tokens:
            return card
        card = self.earlier_cards.pop(account, None)
        if card is None or card.tokens is not tokens:
            card = Card(self.route, account, tokens, self.around)
        if len(self.cards) >= CARDS:  # who is asked for all the time is taken over
            self.cards, self.earlier_cards = {}, self.cards
        self.cards[account] = card
        return card

    def check_allowed(
        self, allow: Allow, method: str, target: str, fields: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Raise ``NotAllowedError`` for a request that is not on the route's list."""
        try:
            allow.check(method, target, [canonical(name) for name, _ in fields])
        except RefusedError as refused:
            raise NotAllowedError(self, refused) from None

    @property
    def own_pool(self) -> Pool:
        """Where requests without a token of ours go; raises ``misconfigured`` where only a token set knows."""
        if self.route.upstream.template:
            raise ProblemError(
                "misconfigured",
                "The account's tokens say where this route leads, and this request goes without them.",
                next_step=f"Leave the credential to us, or name a host in upstream of [routes.{self.route.name}].",
            )
        return self.pool

    def pool_of(self, card: Card) -> Pool:
        """Where a card's requests go."""
        return (
            self.pool
            if card.upstream is None
            else self.visits.pool(card.upstream, self.pool.tls, self.pool.outgoing)
        )


def _beside(route: Route) -> set[str]:
    return {*route.inject.headers, "dpop"} if route.dpop else {*route.inject.headers}


def _dropped(route: Route) -> frozenset[bytes]:
    """Canonical names of a caller's fields that this route does not pass on."""
    names = {route.inject.header, *_beside(route)} - {""}
    if "authorization" not in route.passed:
        names.add("authorization")
    if route.reads_bodies:
        names.add("accept-encoding")
    header = account_header(route.account)
    if header is not None:
        names.add(header[1])
    return frozenset(canonical(name.encode()) for name in names)
