"""The data plane as a whole: listens, sweeps, is reloaded and drained."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from tokenproxy import log
from tokenproxy.core.callers import Caller
from tokenproxy.core.interfaces import Clock, Prover, TokenReader, TokenSource
from tokenproxy.core.placeholders import ValueSource
from tokenproxy.core.routes import Route, RouteTable, Target
from tokenproxy.core.settings import Deadlines, Limits, Listen, ReplayBudget, TLSFiles
from tokenproxy.core.targets import may_connect
from tokenproxy.metrics import Metrics
from tokenproxy.proxy.body import Vault
from tokenproxy.proxy.caller import CallerSide, overload_answer
from tokenproxy.proxy.doors import NONE_PASSED, Change, Door, Passed
from tokenproxy.proxy.exchange import Exchange
from tokenproxy.proxy.lane import Lane, Turns
from tokenproxy.proxy.outgoing import Outgoing
from tokenproxy.proxy.parsers import check_parsers
from tokenproxy.proxy.pool import Pool, Resolve, Visits, resolved
from tokenproxy.proxy.record import Refusal, RequestLog, Trace
from tokenproxy.proxy.register import Register
from tokenproxy.proxy.request import Gate
from tokenproxy.proxy.tls import Stamp, stamp, tls_context
from tokenproxy.proxy.tunnel import Tunnel

if TYPE_CHECKING:
    from tokenproxy.proxy.forward_auth import Asking
    from tokenproxy.tracing import Tracing

_log: Final = logging.getLogger("tokenproxy.proxy")

TLSKey = tuple[TLSFiles, Stamp]

SWEEP: Final = 0.5
"""Seconds between two looks at all deadlines; with 10,000 idle connections below 0.5 % of a core."""
FLUSH: Final = 0.01
"""Seconds between two looks whether slow callers have taken their last answers, at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """What the config says to the data plane."""

    routes: RouteTable
    hosts: frozenset[str] = frozenset()
    """Names accepted in Host besides loopback's and the routes'."""
    caller_keys: tuple[str, ...] = field(default=(), repr=False)
    """Of callers without a name."""
    callers: tuple[Caller, ...] = ()
    """Where there is one, or a key, every request is somebody's."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    replay: ReplayBudget = field(default_factory=ReplayBudget)
    asked: frozenset[str] = frozenset()
    """Routes whose tokens other proxies may ask for (forward-auth)."""


class Plane:
    """
    Takes requests, attaches tokens, passes answers on.

    Build it, ``listen`` on one or more addresses, ``swap`` the settings at a reload, ``close`` at the end. Raises
    ``TLSFileError`` for certificates that cannot be used, at the start and at a swap; then nothing has changed.
    """

    def __init__(
        self,
        settings: PlaneSettings,
        *,
        source: TokenSource,
        prover: Prover,
        clock: Clock,
        metrics: Metrics,
        on_request: Callable[[RequestLog], None] | None = None,
        recent: deque[Trace] | None = None,
        values: ValueSource | None = None,
        resolve: Resolve = resolved,
        passed: Passed = NONE_PASSED,
        tokens: TokenReader | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        ``recent``: where each request leaves a tuple, in the order of ``record.Trace``; None: nobody wants to know.
        ``values``: what placeholders stand for; routes that have none need it not. ``passed``: listening sockets that
        ``systemd:`` in an address means. ``tokens`` reads those that callers prove themselves with.
        """
        check_parsers()
        self.source = source
        self.exchange = Exchange
        """What serves a request."""
        self.tracing = tracing
        if tracing is not None:
            from tokenproxy.proxy.traced import TracedExchange, TracedSource

            self.source, self.exchange = TracedSource(source, tracing), TracedExchange
        self.prover = prover
        self.values = values
        self.metrics = metrics
        self.recent = recent
        self.tell_requests(on_request)
        self.on_refused: Callable[[Refusal], None] | None = None
        """None costs nothing, a refusal included."""
        self.monotonic = clock.monotonic
        self.draining = False
        self.callers: set[CallerSide] = set()
        self.tunnels: set[Tunnel] = set()
        self.turns = Turns(settings.limits.in_flight)
        self.tunnel_turns = Turns(settings.limits.tunnels)
        self.vault = Vault(settings.replay)
        self.asking: Asking | None = None
        self._clock = clock
        self._resolve = resolve
        self._date = (0, b"")
        self._pools: dict[Any, Pool] = {}
        self._contexts: dict[TLSKey, ssl.SSLContext] = {}
        """One for each set of files: each takes 25 ms to build, and a megabyte."""
        self._retired: WeakSet[Pool] = WeakSet()
        """No route's any more, but perhaps a request's: one that still waits for its token will connect later."""
        self._visits = Visits(self._retired)
        self._route_turns: dict[str, Turns] = {}
        self._doors: list[Door] = []
        self._passed = passed
        self._tokens = tokens
        self._register: Register | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self.swap(settings)

    def tell_requests(self, on_request: Callable[[RequestLog], None] | None) -> None:
        """What each request leaves behind goes there from now on; None: nowhere."""
        self.on_request = on_request
        self.recorded = on_request is not None or self.recent is not None
        """Whether a request leaves anything behind, so that it looks once."""

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.turns.taken

    def swap(self, settings: PlaneSettings) -> None:
        """
        Go over to other settings: new requests follow them, requests under way keep their route to the end.

        Connections to an origin that is still used under the same TLS files are kept; the others go when they are idle.
        """
        pools: dict[Any, Pool] = {}
        contexts: dict[TLSKey, ssl.SSLContext] = {}
        lanes = {}
        route_turns = {}
        for route in (route for routes in settings.routes.by_host.values() for route in routes):
            turns = self._route_turns.get(route.name) or Turns(route.in_flight)
            route_turns[route.name] = turns
            lanes[route.name] = self._lane(route, turns, pools, contexts)
        register = self._registered(settings)
        gate = Gate(settings.routes, lanes=lanes, hosts=settings.hosts, register=register)
        asking = self._asking(settings, lanes)
        # Nothing above can be seen from outside yet, nothing below can fail.
        for key, pool in self._pools.items():
            if pools.get(key) is not pool:
                pool.retire()
                self._retired.add(pool)
        for pool in pools.values():
            pool.configure(settings.deadlines, settings.limits)
        self._visits.configure(settings.deadlines, settings.limits, contexts=contexts.values())
        for lane in lanes.values():
            lane.turns.limit = lane.route.in_flight
        self.settings = settings
        self._register = register
        self.gate = gate
        self.asking = asking
        self.turns.limit = settings.limits.in_flight
        self.tunnel_turns.limit = settings.limits.tunnels
        self.vault.budget = settings.replay
        self.max_callers = settings.limits.connections or _half_of_descriptors()
        self._pools, self._contexts = pools, contexts
        self._route_turns = route_turns
        self._period = _sweep_period(settings.deadlines)

    async def listen(self, way: Listen | str) -> str:
        """
        Take callers at one more address (``core.settings.Listen``; port 0: any); the bound address.

        Raises ``ListenError`` with one sentence, ``TLSFileError``.
        """
        listen = Listen(address=way) if isinstance(way, str) else way
        change = self.prepared([*(door.listen for door in self._doors), listen])
        return (await self.open(change))[-1]

    def prepared(self, listens: Sequence[Listen]) -> Change:
        """
        What takes callers at these addresses instead of the ones before: for ``open``, or to be abandoned.

        Raises ``ListenError`` or ``TLSFileError``; then nothing has changed.
        """
        return Change.to(listens, self, self._doors, self._passed)

    @property
    def asked_at(self) -> list[str]:
        """The addresses, among those of ``open``, at which other proxies ask."""
        return [address for door in self._doors if door.listen.asks for address in door.addresses]

    async def open(self, change: Change) -> list[str]:
        """The bound addresses, in the order in which they are listed."""
        self._doors = await change.make()
        if self.draining:
            for door in self._doors:
                door.close()
        if self._sweeping is None:
            loop = asyncio.get_running_loop()
            self._sweeping = loop.call_later(self._period, self._sweep, loop)
        return [address for door in self._doors for address in door.addresses]

    async def close(self, *, drain: float) -> None:
        """Take no more callers, let requests and tunnels end for ``drain`` seconds, then break off what is left."""
        self.draining = True
        end = self.monotonic() + drain
        for door in self._doors:
            door.close()
        for caller in list(self.callers):
            caller.close_if_idle()
        if not await self._drained(drain):
            requests = sum(caller.serving is not None for caller in self.callers)
            log.event(_log, "drain_cut", requests=requests, tunnels=len(self.tunnels))
        await self._flushed(end - self.monotonic())
        await self._cut_tunnels()
        for caller in list(self.callers):
            caller.abort()
        served = [caller.ended() for caller in self.callers if caller.serving is not None]
        for pool in (*self._pools.values(), *self._visits, *self._retired):
            pool.retire()
            pool.abort()
        if served:
            await asyncio.wait(served)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self.vault.close()
        await asyncio.sleep(0)  # until those that were aborted have been told

    async def _cut_tunnels(self) -> None:
        cut = [tunnel.over for tunnel in self.tunnels]
        for tunnel in list(self.tunnels):
            tunnel.cut()
        if cut:
            await asyncio.wait(cut)

    async def _drained(self, seconds: float) -> bool:
        """Whether everything under way ended in time, tunnels that began meanwhile included."""
        end = self.monotonic() + seconds
        while True:
            served = [caller.ended() for caller in self.callers if caller.serving is not None]
            under_way = [*served, *(tunnel.over for tunnel in self.tunnels)]
            left = end - self.monotonic()
            if not under_way or left <= 0:
                return not under_way
            await asyncio.wait(under_way, timeout=left)

    def date_line(self) -> bytes:
        """``Date: ...``, made once a second."""
        second = int(self.monotonic())
        if second != self._date[0]:
            self._date = (second, f"Date: {format_datetime(self._clock.now(), usegmt=True)}\r\n".encode())
        return self._date[1]

    # the callers' side

    def arrived(self, caller: CallerSide) -> None:
        if len(self.callers) >= self.max_callers:
            caller.transport.write(overload_answer(self))
            caller.lingering = True
            caller.transport.close()
            self.metrics.refused["overloaded"] = self.metrics.refused.get("overloaded", 0) + 1
            return
        if self.draining:
            caller.abort()
            return
        self.callers.add(caller)
        self.metrics.callers_connected = len(self.callers)

    def left(self, caller: CallerSide) -> None:
        self.callers.discard(caller)
        self.metrics.callers_connected = len(self.callers)

    # inside

    async def _flushed(self, seconds: float) -> None:
        """Wait until the last bytes of all answers are on their way: a transport that is aborted drops them."""
        while seconds > 0 and any(caller.transport.get_write_buffer_size() for caller in self.callers):
            await asyncio.sleep(FLUSH)
            seconds -= FLUSH

    def _registered(self, settings: PlaneSettings) -> Register | None:
        if not settings.callers and not settings.caller_keys:
            return None
        return Register(
            settings.callers,
            keys=settings.caller_keys,
            tokens=self._tokens,
            monotonic=self.monotonic,
            counts=self.metrics.caller,
            earlier=self._register,
        )

    def _asking(self, settings: PlaneSettings, lanes: dict[str, Lane]) -> Asking | None:
        """Loaded only where another proxy may ask."""
        if not settings.asked:
            return None
        from tokenproxy.proxy.forward_auth import Asking

        asking = Asking(self, lanes, settings.asked)
        if self.asking is not None:
            asking.history = self.asking.history
        return asking

    def _lane(
        self,
        route: Route,
        turns: Turns,
        pools: dict[Any, Pool],
        contexts: dict[TLSKey, ssl.SSLContext],
        target: Target | None = None,
    ) -> Lane:
        """A route's lane; with ``targets``, one for each of them below it."""
        pool = self._pool(route, pools, contexts, target or next(iter(route.targets), None))
        lane = Lane(
            route,
            pool=pool,
            visits=self._visits,
            metrics=self.metrics.route(route.name),
            turns=turns,
        )
        lane.target = target
        lane.targets = tuple(
            self._lane(replace(route, upstream=each.upstream, targets=()), turns, pools, contexts, each)
            for each in route.targets
        )
        return lane

    def _pool(
        self,
        route: Route,
        pools: dict[Any, Pool],
        contexts: dict[TLSKey, ssl.SSLContext],
        target: Target | None = None,
    ) -> Pool:
        """
        The pool of a route's origin; files replaced under their old names make a new one.

        A target's is its own: a connection to an address that was not checked is none of its.
        """
        upstream = route.upstream
        context = None
        allows = None if target is None else partial(may_connect, target)
        checked = target is not None and ("private" if target.private else "public")
        key: Any = (upstream.template or upstream.origin, checked)
        if upstream.scheme == "https":
            files, context = self._context(upstream.tls, f"routes.{route.name}.tls", contexts)
            key = (*key, files)
        outgoing = None
        if upstream.proxy is not None:
            towards = None
            key = (*key, upstream.proxy)
            if upstream.proxy.scheme == "https":
                trusted = TLSFiles(ca_file=upstream.proxy.ca_file)
                files, towards = self._context(trusted, f"routes.{route.name}.proxy", contexts)
                key = (*key, files)
            outgoing = Outgoing(upstream.proxy, tls=towards)
        found = self._pools.get(key) or Pool(
            upstream, tls=context, allows=allows, resolve=self._resolve, outgoing=outgoing
        )
        return pools.setdefault(key, found)

    def _context(
        self, files: TLSFiles, where: str, contexts: dict[TLSKey, ssl.SSLContext]
    ) -> tuple[TLSKey, ssl.SSLContext]:
        key = (files, stamp(files, where=where))
        context = contexts.get(key) or self._contexts.get(key)
        if context is None:
            context = tls_context(files, where=where)
        contexts[key] = context
        return key, context

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self.monotonic()
        for caller in list(self.callers):
            caller.sweep(now)
        for pool in (*self._pools.values(), *self._visits, *self._retired):
            for side in list(pool.sides):
                side.sweep(now)
        for tunnel in list(self.tunnels):
            tunnel.sweep(now)
        self._sweeping = loop.call_later(self._period, self._sweep, loop)


def _sweep_period(deadlines: Deadlines) -> float:
    """Short deadlines are looked at more often, so that none is overrun by more than a quarter."""
    shortest = min(
        deadlines.head,
        deadlines.body_idle,
        deadlines.first_byte,
        deadlines.upstream_idle,
        deadlines.keep_alive,
        deadlines.events or inf,
        deadlines.tunnel or inf,
    )
    return max(0.01, min(SWEEP, shortest / 4))


def _half_of_descriptors() -> int:
    """Each caller may need one more towards its upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(16, soft // 2)
