"""What a config file says, checked and ready to use: frozen values without a trace of TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tokenproxy.core.callers import Caller
from tokenproxy.core.issuers import Issuer
from tokenproxy.core.provider import Account, Provider
from tokenproxy.core.routes import Route
from tokenproxy.core.settings import (
    MIB,
    Audit,
    Deadlines,
    Limits,
    Listen,
    RenewPolicy,
    ReplayBudget,
    SharedStore,
    TLSFiles,
    TraceSettings,
)
from tokenproxy.errors import Problem

LOOPBACK_PROXY = "127.0.0.1:8080"
LOOPBACK_ADMIN = "127.0.0.1:9100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where callers come in."""

    listen: tuple[Listen, ...] = (Listen(address=LOOPBACK_PROXY),)
    hosts: frozenset[str] = frozenset()
    """Names accepted in Host besides loopback's; lower case, without a port."""
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    allow_unauthenticated: bool = False
    caller_keys: tuple[str, ...] = field(default=(), repr=False)
    """What callers without a name may send as ``Tokenproxy-Key``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardAuth:
    """Where other proxies ask for tokens; without ``listen`` nowhere."""

    listen: tuple[Listen, ...] = ()
    routes: frozenset[str] = frozenset()
    """Names of the routes whose tokens they may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Where operators come in."""

    listen: str = LOOPBACK_ADMIN
    public_url: str = f"http://{LOOPBACK_ADMIN}"
    """What a browser uses, without a slash at its end."""
    token: str = field(default="", repr=False)
    """What calls over TCP that change something must show; empty: a file beside the store holds it."""
    tls: TLSFiles = field(default_factory=TLSFiles)
    """With a ``cert_file`` TLS is spoken; with a ``ca_file`` only to who has a certificate of that authority."""
    return_to: tuple[str, ...] = ()
    """What the address may begin with to which a browser goes on after a login; each an origin and a path."""
    dashboard: bool = True
    """There is one on the admin listener, and what it shows of the past is kept."""
    insecure_http: bool = False
    """The operator's word that operators may come in over a network without TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsListener:
    listen: str | None = None
    """None: health and metrics only on the admin listener."""
    tls: TLSFiles = field(default_factory=TLSFiles)
    """As of ``Admin``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """Where one or more keys of the store come from; what they are is not read yet."""

    source: str = field(repr=False)
    """``file:/absolute/path``, ``env:NAME``, ``systemd:NAME`` or ``cmd:...``; a command may hold a secret itself."""
    path: Path | None = None
    """Of a ``file:``; it may not exist yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    url: str = field(repr=False)
    """``sqlite:/absolute/path``, or ``postgresql://...``, which may hold a password."""
    name: str
    """What people are shown of it: the file, or the database without user and password."""
    path: Path
    """The file, or where a database's would lie: the admin socket and token are beside it."""
    keys: tuple[KeySpec, ...]
    """The first key seals, all open."""
    base: Path
    """The config file's folder, where a ``cmd:`` runs."""
    cache: int = 176 * MIB
    """Bytes of opened token sets kept in memory."""
    shared: SharedStore = field(default_factory=SharedStore)
    spool: Path | None = None
    """A folder for token sets that the store does not take; None: one beside the store, and one on another path."""

    @property
    def database(self) -> bool:
        """Whether several processes may have it open."""
        return not self.url.startswith("sqlite:")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    access: Literal["off", "slow", "all"] = "off"
    slow: float = 1.0
    """Seconds from which a request counts as slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole config file, secrets resolved."""

    path: Path
    """The file, absolute; relative paths in it were taken from its folder."""
    server: Server
    forward_auth: ForwardAuth = field(default_factory=ForwardAuth)
    admin: Admin
    metrics: MetricsListener
    store: StoreSettings
    accounts: Mapping[str, Account]
    routes: tuple[Route, ...]
    callers: tuple[Caller, ...]
    """With these, or with ``server.caller_keys``, who calls must show who it is."""
    issuers: tuple[Issuer, ...]
    """Of the tokens that callers may show."""
    deadlines: Deadlines
    limits: Limits
    replay: ReplayBudget
    renew: RenewPolicy
    log: LogSettings
    audit: Audit = field(default_factory=Audit)
    trace: TraceSettings = field(default_factory=TraceSettings)
    warnings: tuple[Problem, ...] = ()
    """What ``check`` says although the config works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetInfo:
    """A provider that we ship."""

    name: str
    raw: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The table as a ``[providers.NAME]`` would say it, what it extends included."""
    provider: Provider
    """With ``{placeholders}`` still in its addresses."""
    docs: str = ""
    vars: tuple[str, ...] = ()
    """Which placeholders an account must fill by ``vars``."""
    grants: tuple[str, ...] = ()
    """How its accounts get tokens, the usual way first; ``client_credentials`` where nobody can log in."""
