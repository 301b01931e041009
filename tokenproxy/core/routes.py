"""Which route a request takes: by host, then by the longest prefix on a segment border."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit

from tokenproxy.core.allow import Allow
from tokenproxy.core.forwarded import Forwarded
from tokenproxy.core.headers import UNCHANGED, HeaderChanges
from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.provider import EMPTY, Inject
from tokenproxy.core.retries import Retry
from tokenproxy.core.settings import Replay, TLSFiles
from tokenproxy.core.signals import Signals
from tokenproxy.core.templates import address

DOT_SEGMENT: Final = re.compile(r"(?:^|[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:$|[/\\;]|%2f|%5c|%3b)", re.IGNORECASE)
"""In a path: ``.`` and ``..`` however an upstream may decode them; ``..;`` is one for Tomcat."""
_PORTS: Final = {"http": 80, "https": 443}
_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_ACCOUNT_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where a route's requests go."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """As it is connected to and verified, without brackets."""
    port: int
    authority: str
    """The Host field that the upstream sees: the port only where it is not the scheme's own."""
    path: str = ""
    """Put before what is left of the target; "" or "/something" without a slash at its end."""
    tls: TLSFiles = field(default_factory=TLSFiles)
    proxy: OutgoingProxy | None = None
    """Through which it is connected to."""
    template: str = ""
    """``{instance_url}/crm``: where it is depends on the token set; host, port, authority and path are then empty."""
    hosts: tuple[str, ...] = ()
    """Hosts that the template may lead to; ``*.example.com`` for every name below."""

    @property
    def form(self) -> str:
        """What a request's target begins with: an outgoing proxy is told where plain requests go (absolute-form)."""
        return f"http://{self.authority}" if self.proxy is not None and self.scheme == "http" else ""

    @property
    def base(self) -> str:
        """What is put before the rest of a request's target."""
        return self.form + self.path

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An entry of ``targets``."""

    upstream: Upstream
    """Its origin; ``path`` is empty."""
    path: str
    """``/api/**``: ``*`` is anything within a segment, ``**`` alone in a segment any number of them."""
    methods: frozenset[str] = frozenset({"GET"})
    timeout: float = 30.0
    """Seconds from the request to the end of its answer."""
    token: bool = False
    """The account's token is attached."""
    private: bool = False
    """Its name may lead to an address that is not public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A table ``[routes.NAME]``."""

    name: str
    prefix: str
    """Begins and ends with a slash; ``/books/`` also matches ``/books`` and ``/books?...``."""
    host: str = ""
    """Lower case, without a port; ``*.example.com`` for every name below; empty: any of our own hosts."""
    upstream: Upstream
    """With ``targets``, the first one's."""
    account: str
    """An account's name, or ``NAME/{header:x-user}``."""
    mapped: bool = False
    """Which account a header may name is up to ``accounts`` of the caller (``core.callers``)."""
    auth: frozenset[str] | None = None
    """How callers may prove themselves here; None: as the listener says; empty: nobody need."""
    inject: Inject = field(default_factory=Inject)
    """From the account's provider."""
    values: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Fill the templates of ``inject``, beside what a token set has captured (``client_id``)."""
    dpop: bool = False
    """Tokens are bound to a key, and each request carries a proof of it (RFC 9449)."""
    signals: Signals = field(default_factory=Signals)
    """Which answers mean that the token is dead; from the account's provider."""
    passed: frozenset[str] = frozenset()
    """Names, in lower case, of the caller's own credential fields that may go on (``pass``)."""
    origins: frozenset[str] = frozenset()
    """Browser origins let in, lower case, as a browser writes them."""
    replay: Replay = field(default_factory=Replay)
    tokenless: bool = False
    """The account only captures: there is no token to attach."""
    placeholders: bool = False
    """What applications write for settings and state is replaced in its requests (``core.placeholders``)."""
    targets: tuple[Target, ...] = ()
    """Where requests of the ``X-Proxy-*`` form may go; such a route takes no others."""
    allow: Allow | None = None
    """Requests that are let through; None: all."""
    forwarded: Forwarded | None = None
    """What the upstream is told about the caller; None: what the caller says, as it says it."""
    retry: Retry | None = None
    """Which failures of the upstream are tried again; None: none."""
    request_headers: HeaderChanges = UNCHANGED
    answer_headers: HeaderChanges = UNCHANGED
    host_header: str = ""
    """What the upstream sees as Host; empty: its own authority."""
    rewrite_location: bool = False
    """Addresses of the upstream in its answers are turned into the caller's."""
    rewrite_cookies: bool = False
    """So are the domain and path of its cookies."""
    redact_echo: bool = False
    """Our token is hidden in the upstream's answers (``core.echoes``)."""
    upgrade: frozenset[bytes] = frozenset()
    """Protocols, in lower case, that requests may be switched to (RFC 9110 section 7.8)."""
    connect: bool = False
    """A CONNECT to ``host`` and the upstream's port is tunnelled there, without a token."""
    in_flight: int = 0
    """Requests of this route at once; 0: only the limit over all."""

    @property
    def reads_bodies(self) -> bool:
        """Bodies of answers are looked through, so that they must come as they are."""
        return self.redact_echo or self.signals.by_body

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of this must show up in no text."""
        proxy = self.upstream.proxy
        return (
            *self.request_headers.secrets,
            *self.answer_headers.secrets,
            *(proxy.secrets if proxy is not None else ()),
        )


def resolved(upstream: Upstream, values: Mapping[str, str]) -> Upstream:
    """
    Where a templated upstream is for one token set.

    Raises ``KeyError`` with the name of a value that is not there, ``ValueError`` with a phrase about the address.
    """
    text = address(upstream.template, values, upstream.hosts)
    if "?" in text or "#" in text:
        raise ValueError("no address of an API")
    parts = urlsplit(text)
    host = (parts.hostname or "").lower()
    standard = _PORTS[parts.scheme]
    port = parts.port or standard
    name = f"[{host}]" if ":" in host else host
    return replace(
        upstream,
        scheme=parts.scheme,
        host=host,
        port=port,
        authority=name if port == standard else f"{name}:{port}",
        path=parts.path.rstrip("/"),
        template="",
    )


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, ready to be looked up: ``by_host[""]`` holds those that name no host."""

    by_host: Mapping[str, tuple[Route, ...]]
    """Longest prefix first."""
    wild: tuple[str, ...] = ()
    """Its names with a star, the longest first."""
    by_start: Mapping[str, Mapping[str, tuple[Route, ...]]] = field(default_factory=dict, repr=False)
    """
    By host, then by a path's first segment: those that can match it, longest prefix first. Below "" those for any other path.

    So that a request is compared with the routes of its own kind only, however many others there are.
    """

    @classmethod
    def of(cls, routes: Iterable[Route]) -> RouteTable:
        by_host: dict[str, list[Route]] = {}
        for route in routes:
            by_host.setdefault(route.host, []).append(route)
        ordered = {
            host: tuple(sorted(found, key=lambda route: len(route.prefix), reverse=True))
            for host, found in by_host.items()
        }
        return cls(
            ordered,
            tuple(sorted((host for host in by_host if host[:2] == "*."), key=len, reverse=True)),
            {host: _by_start(found) for host, found in ordered.items()},
        )

    def match(self, host: str, path: str) -> Route | None:
        """
        The route of a request; ``path`` is the raw target without its query, ``host`` as ``host_key`` makes it.

        A route that names the host wins over one with a star, the longer of two stars over the shorter, and these over
        one that names none, however long the other's prefix.
        """
        hosts = (host, "") if not self.wild else (host, *self.below(host), "")
        start = _start(path)
        for name in hosts:
            found = self.by_start.get(name)
            if found is None:
                continue
            for route in found.get(start) or found.get("", ()):
                prefix = route.prefix
                if path.startswith(prefix) or (len(path) == len(prefix) - 1 and prefix.startswith(path)):
                    return route
        return None

    def below(self, host: str) -> tuple[str, ...]:
        """The names with a star that a host is below, the longest first."""
        return tuple(name for name in self.wild if host.endswith(name[1:]))


def _start(path: str) -> str:
    """The first segment of a path or a prefix, both of which begin with a slash."""
    return path[1:].partition("/")[0]


def _by_start(routes: Iterable[Route]) -> dict[str, tuple[Route, ...]]:
    """In the order in which they come; what has no first segment of its own is below each."""
    routes = tuple(routes)
    return {
        start: tuple(route for route in routes if _start(route.prefix) in {start, ""})
        for start in {"", *(_start(route.prefix) for route in routes)}
    }


def host_key(text: str) -> str:
    """The one spelling of a host that was given without a port: lower case, no closing dot, IPv6 as RFC 5952 has it."""
    name = text.lower()
    if name[:1] != "[":
        return name.removesuffix(".")
    try:
        return f"[{IPv6Address(name[1:-1])}]"
    except ValueError:
        return name


def within(host: str, names: Iterable[str]) -> bool:
    """Whether a host is below one of the names that begin with a star."""
    return any(name[:2] == "*." and host.endswith(name[1:]) for name in names)


def place_of(target: str) -> tuple[str, int] | None:
    """
    The host, lower case with the brackets of an IPv6 address, and the port of an authority-form target (RFC 9112 section
    3.2.3); None for any other text.
    """
    found = _PLACE.fullmatch(target)
    port = int(found[2]) if found else 0
    return (found[1].lower(), port) if found and 0 < port < 65536 else None


def account_header(account: str) -> tuple[str, str] | None:
    """``crm/{header:x-user}`` -> ``("crm", "x-user")``; None for a plain account name."""
    table, _, rest = account.partition("/")
    if rest.startswith("{header:") and rest.endswith("}"):
        return table, rest[len("{header:") : -1].strip().lower()
    return None


def valid_sub(value: str) -> bool:
    """Whether a header's value may be the SUB of an account's name (``[A-Za-z0-9._@-]{1,128}``)."""
    return _ACCOUNT_NAME.fullmatch(value) is not None and value not in {".", ".."}
