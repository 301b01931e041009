"""Connections to one origin, kept for the next request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar
from weakref import WeakSet

from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.retries import CONNECT, Budget
from tokenproxy.core.routes import Upstream
from tokenproxy.core.settings import Deadlines, Limits
from tokenproxy.core.targets import public_or_named
from tokenproxy.proxy import secure
from tokenproxy.proxy.outgoing import Outgoing
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.tunnel import Fresh
from tokenproxy.proxy.upstream import UpstreamSide

Connected = TypeVar("Connected")

VISITED: Final = 256
"""Origins that token sets lead to whose connections are kept."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port -> the addresses it has now, at least one; raises ``OSError``."""


async def resolved(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for *_, where in found]


class Pool:
    """
    The connections to one origin under one TLS identity.

    The newest idle one is taken first, so that a pool which shrinks lets the others grow old and go.
    """

    __slots__ = (
        "__weakref__",
        "allows",
        "budget",
        "connect_timeout",
        "idle",
        "idle_timeout",
        "max_head",
        "nonce",
        "outgoing",
        "resolve",
        "retired",
        "sides",
        "tls",
        "upstream",
    )

    def __init__(
        self,
        upstream: Upstream,
        *,
        tls: ssl.SSLContext | None,
        allows: Callable[[str], bool] | None = None,
        resolve: Resolve | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        """``allows``: which addresses the upstream's name may lead to; None: any."""
        self.upstream = upstream
        self.tls = tls
        self.allows = allows
        self.resolve = resolve or resolved
        self.outgoing = outgoing
        """The proxy that its connections go through."""
        self.budget = Budget()
        """Of second tries."""
        self.idle: list[UpstreamSide] = []
        self.sides: set[UpstreamSide] = set()
        """All open connections, for the sweep."""
        self.retired = False
        """No route uses this pool any more; what comes back is closed."""
        self.nonce = ""
        """The newest that this origin gave for DPoP proofs (RFC 9449 section 8.2)."""
        self.connect_timeout = Deadlines().connect
        self.idle_timeout = Deadlines().upstream_idle
        self.max_head = Limits().head

    def configure(self, deadlines: Deadlines, limits: Limits) -> None:
        self.connect_timeout = deadlines.connect
        self.idle_timeout = deadlines.upstream_idle
        self.max_head = limits.head

    def take(self) -> UpstreamSide | None:
        """
        An idle connection that still lives; None: ``connect``.

        The kernel is asked what the loop has not seen yet (0.3 us): after a close, a request that must not be sent
        twice would be lost; and bytes that nobody asked for would be taken for the answer.
        """
        while self.idle:
            side = self.idle.pop()
            if side.connected and not side.transport.is_closing() and not side.arrivals.poll(0):
                return side
            side.abort()
        return None

    async def connect(self) -> UpstreamSide:
        """A new connection, TLS verified; raises ``ProblemError``."""
        side = await self._in_time(self._new_side())
        if side.connected:
            # Not earlier: uvloop closes the connection of a ``connect`` that was cancelled, and never says so.
            self.sides.add(side)
        return side

    async def open_tunnel(self, protocol: Callable[[], Fresh]) -> Fresh:
        """
        A bare connection for a CONNECT, in no pool; raises ``ProblemError``.

        What the caller does in it nobody sees, so that the upstream's name must not lead to this machine or the network
        around it, unless the config names such an address itself.
        """
        return await self._in_time(self._bare(protocol))

    async def _new_side(self) -> UpstreamSide:
        if self.outgoing is not None:
            return await self.outgoing.connected(self)
        if self.allows is None:
            return await self._connected(self.upstream.host)
        return await self._connected_to_one(await self._allowed_addresses(self.allows), self._connected)

    async def _bare(self, protocol: Callable[[], Fresh]) -> Fresh:
        upstream = self.upstream
        loop = asyncio.get_running_loop()

        async def connected(address: str) -> Fresh:
            return (await loop.create_connection(protocol, address, upstream.port))[1]

        found = await self.resolve(upstream.host, upstream.port)
        if not all(public_or_named(upstream.host, address) for address in found):
            raise ProblemError(
                "not_allowed",
                f"The name {upstream.host} leads to an address that is not public, where no tunnel goes.",
                next_step="Write the address itself into the route's upstream if a tunnel may go there.",
            )
        return await self._connected_to_one(found, connected)

    async def _in_time(self, connecting: Awaitable[Connected]) -> Connected:
        upstream = self.upstream
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await connecting
        except TimeoutError:
            problem = ProblemError(
                "upstream_timeout",
                f"The upstream {upstream.authority} could not be connected to{self._through} within {self.connect_timeout:g} s.",
                next_step="Check that it runs and that a firewall lets us through.",
            )
            problem.fault = CONNECT
            raise problem from None
        except ssl.SSLCertVerificationError as error:
            raise ProblemError(
                "upstream_unreachable",
                f"The certificate of the upstream {upstream.authority} is not trusted: {error.verify_message.rstrip('.')}.",
                next_step="Name its authority in tls.ca_file of the route.",
            ) from error
        except ssl.SSLError as error:
            raise ProblemError(
                "upstream_unreachable",
                f"The upstream {upstream.authority} did not agree on TLS.",
                next_step="Check its port, and tls.cert_file of the route if it asks for a client certificate.",
            ) from error
        except OSError as error:
            problem = ProblemError(
                "upstream_unreachable",
                f"The upstream {upstream.authority} could not be connected to{self._through}.",
                next_step="Check that it runs and that its name resolves.",
            )
            problem.fault = CONNECT
            raise problem from error

    @property
    def _through(self) -> str:
        return (
            f" through the outgoing proxy {self.outgoing.proxy.authority}"
            if self.outgoing is not None
            else ""
        )

    async def _connected(self, host: str) -> UpstreamSide:
        loop = asyncio.get_running_loop()
        upstream = self.upstream

        def side() -> UpstreamSide:
            return UpstreamSide(self, loop)

        if self.tls is not None:
            return await secure.connected(side, host, upstream.port, context=self.tls, name=upstream.host)
        return (await loop.create_connection(side, host, upstream.port))[1]

    async def _allowed_addresses(self, allows: Callable[[str], bool]) -> Sequence[str]:
        """
        What the name leads to now. All of it must be allowed: what is checked is connected to, so that a name which
        says something else the next moment gains nothing.
        """
        found = await self.resolve(self.upstream.host, self.upstream.port)
        if not all(allows(address) for address in found):
            raise ProblemError(
                "not_allowed",
                f"The name {self.upstream.host} leads to an address that is not public.",
                next_step="Say private = true in its entry of targets if it may.",
            )
        return found

    async def _connected_to_one(
        self, addresses: Sequence[str], connected: Callable[[str], Awaitable[Connected]]
    ) -> Connected:
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return await connected(address)
        return await connected(addresses[-1])

    def give_back(self, side: UpstreamSide) -> None:
        """Keep a connection for the next request; its deadline is the end of the wait."""
        if self.retired:
            side.leave()
        else:
            self.idle.append(side)

    def lost(self, side: UpstreamSide) -> None:
        self.sides.discard(side)
        if not side.busy and side in self.idle:
            self.idle.remove(side)

    def retire(self) -> None:
        """No route needs this pool: close what is idle, and what is in use when it comes back."""
        self.retired = True
        for side in self.idle:
            side.leave()
        self.idle.clear()

    def abort(self) -> None:
        for side in list(self.sides):
            side.abort()


_Visit = tuple[str, ssl.SSLContext | None, OutgoingProxy | None]


class Visits:
    """Pools of origins that the config does not know: token sets lead to them. The one not used for longest goes first."""

    __slots__ = ("_deadlines", "_limits", "_pools", "retired")

    def __init__(self, retired: WeakSet[Pool]) -> None:
        self._pools: dict[_Visit, Pool] = {}
        self._deadlines, self._limits = Deadlines(), Limits()
        self.retired = retired
        """Those which went, and which somebody may still use."""

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def configure(self, deadlines: Deadlines, limits: Limits, *, contexts: Iterable[ssl.SSLContext]) -> None:
        """Go over to other settings; where no route has a TLS context any more, its connections end."""
        self._deadlines, self._limits = deadlines, limits
        known = {None, *contexts}
        for key, pool in list(self._pools.items()):
            pool.configure(deadlines, limits)
            if key[1] not in known:
                self._retire(key)

    def pool(self, upstream: Upstream, tls: ssl.SSLContext | None, outgoing: Outgoing | None = None) -> Pool:
        tls = tls if upstream.scheme == "https" else None
        key = (upstream.origin, tls, upstream.proxy)
        pool = self._pools.pop(key, None)
        if pool is None:
            pool = Pool(upstream, tls=tls, outgoing=outgoing)
            pool.configure(self._deadlines, self._limits)
            if len(self._pools) >= VISITED:
                self._retire(next(iter(self._pools)))
        self._pools[key] = pool  # behind all others: the newest
        return pool

    def _retire(self, key: _Visit) -> None:
        pool = self._pools.pop(key)
        pool.retire()
        self.retired.add(pool)
