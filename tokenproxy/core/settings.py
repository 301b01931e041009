"""Numbers that the config may change, with defaults and where those come from. Durations are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long we wait, in seconds; the precedents are nginx's and Envoy's edge settings."""

    head: float = 10.0
    """From the first byte of a request (or the connect) to the end of its head; dripping does not extend it."""
    body_idle: float = 60.0
    """Between two pieces of a request's body."""
    connect: float = 5.0
    """To connect to an upstream, TLS included."""
    first_byte: float = 60.0
    """From the end of the request to the head of the answer."""
    upstream_idle: float = 60.0
    """Between two pieces of an answer's body; also how long an unused upstream connection is kept."""
    events: float = 3600.0
    """Between two pieces of an event stream (``text/event-stream``), in which silence is no fault; 0: for ever."""
    tunnel: float = 3600.0
    """In which nothing moves in a tunnel; 0: for ever. The kernel finds out about peers that are gone."""
    keep_alive: float = 75.0
    """How long a caller's connection may wait for its next request."""
    drain: float = 30.0
    """After SIGTERM, for requests in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    head: int = 32 * KIB
    """Bytes of a request's or an answer's head, and of any one line of it."""
    connections: int = 0
    """Callers connected at once; 0 means half of the process's descriptor limit."""
    in_flight: int = 1024
    """Requests at once, in all; a route may have less."""
    tunnels: int = 1024
    """Open at once; they take no turn of ``in_flight``, which they would never give back."""
    queue: float = 1.0
    """Seconds that a request may wait for its turn when ``in_flight`` is reached; then 503 ``overloaded``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How much of a request's body is kept so that it can be sent again after a 401."""

    memory: int = MIB
    """Bytes of one request kept in memory; what is more goes to disk."""
    disk: int = 64 * MIB
    """Bytes of one request kept in an unlinked 0600 file; past it the request goes on without a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayBudget:
    """What all requests together may keep."""

    directory: str = ""
    """Where the files lie; empty: the system's directory for temporary files."""
    total_memory: int = 64 * MIB
    total_disk: int = GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewPolicy:
    due: float = 900.0
    """At most so many seconds before expiry a used account is renewed in the background (else 2/3 of the lifetime)."""
    stale: float = 60.0
    """At most so many seconds before expiry a token is renewed before it is sent (else 10 % of the lifetime)."""
    hold: float = 10.0
    """How long 401-renewals are held after a new token was refused too; doubles up to 300 s."""
    concurrent: int = 32
    """Renewals under way at once: also the most logins that one crash can put in doubt."""
    per_second: float = 50.0
    """Background renewals begun in a second; renewals that a request waits for are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    enabled: bool = False
    endpoint: str = ""
    """The collector's, without ``/v1/traces``; empty: what the OTEL_* variables say."""
    sample: float = 1.0
    """Which part of the requests is recorded whose caller says nothing of it."""
    accounts: bool = False
    """Spans name accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStore:
    """How replicas share one database."""

    lease: float = 30.0
    """Seconds for which one replica alone may renew an account; one token call takes half of it at most."""
    heartbeat: float = 5.0
    """Seconds between two signs of life; who gave none for two and a half of them holds no lease."""
    pooled: bool = False
    """A transaction pooler sits between: no prepared statements, and polling in the place of LISTEN."""
    allow_unsafe: bool = False
    """Use a server although it may lose what it confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """Whom we trust and who we are, towards one upstream or provider; empty means the system's authorities, and nobody."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """A way in for callers."""

    address: str
    """``host:port``, ``[v6]:port``, ``unix:/absolute/path``, ``unix:@name``, ``systemd:`` or ``systemd:name``."""
    mode: int = 0o600
    """Of a Unix socket's file."""
    group: str = ""
    """Of a Unix socket's file, by name or number; empty: ours."""
    tls: TLSFiles = field(default_factory=TLSFiles)
    """With a ``cert_file`` TLS is spoken; with a ``ca_file`` only to who has a certificate of that authority, or none."""
    client_optional: bool = False
    """Who shows no certificate is let in all the same, and proves itself in another way."""
    auth: frozenset[str] | None = None
    """How callers may prove themselves here (``core.callers.WAYS``); None: in any way; empty: nobody need."""
    shared: bool = False
    """Other processes may listen on the same TCP port (SO_REUSEPORT); the kernel spreads connections over them."""
    asks: bool = False
    """For other proxies, which ask for a token and send the request themselves (forward-auth)."""
    local: bool = False
    """Nobody says who may call, so that what systemd passes must be out of other machines' reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Where the audit log is written, and how much depends on it."""

    file: str = ""
    """An absolute path, ``stdout`` or ``stderr``; empty: nowhere."""
    fsync: bool = False
    """Each batch of lines is on the disk before the next is written."""
    required: bool = False
    """While it cannot be written, the program is not ready, the admin API changes nothing, and no browser logs in."""
