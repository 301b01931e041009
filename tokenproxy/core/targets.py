"""
Where requests of the ``X-Proxy-*`` form may go: a whitelist, compared after parsing.

Scheme, host and port must be an entry's own; the path must match its pattern, both as it is sent and percent-decoded,
since upstreams differ in what they make of ``%2F``. Nothing that two parsers may read in two ways is let in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from tokenproxy.core.globs import fits
from tokenproxy.core.placeholders import blanked, found_in
from tokenproxy.core.routes import DOT_SEGMENT, Target

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_URL: Final = 16 * 1024
_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_UNCLEAN: Final = re.compile(r"[^!-~]")
_UNTIDY: Final = re.compile(r'["<>^`{|}]')
_BLANK: Final = "\x00"
"""Stands for a placeholder in a path that is judged: no pattern has it, so that only a star matches it."""

_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_CARRIERS: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # the kernel's way to say IPv4
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64 (RFC 6052)
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)
"""IPv6 networks whose addresses stand for IPv4 ones, and how many bits come after those."""
# IANA's registries of special addresses. Not ``is_global``: what Python says of several of these depends on its version.
_SPECIAL_4: Final = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata, in the middle of everybody's addresses
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_SPECIAL_6: Final = tuple(ipaddress.IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "3fff::/20"))


class UnfitURLError(ValueError):
    """Why an address is none that a request may go to; one sentence that quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An address that a request asks for, taken apart."""

    scheme: str
    host: str
    """Lower case, without brackets."""
    port: int
    target: str
    """Path and query, as they came; placeholders are still in them."""


def wanted(url: str) -> Wanted:
    """Take an ``X-Proxy-Url`` apart; raises ``UnfitURLError``."""
    if len(url) > LONGEST_URL:
        raise UnfitURLError(f"X-Proxy-Url is longer than {LONGEST_URL} characters.")
    if _UNCLEAN.search(url):
        raise UnfitURLError("X-Proxy-Url has spaces, control characters or characters beyond ASCII.")
    if "\\" in url or "#" in url:
        raise UnfitURLError("X-Proxy-Url has a backslash or a fragment.")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise UnfitURLError("X-Proxy-Url does not begin with https:// or http://.")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    if "@" in authority:
        raise UnfitURLError("X-Proxy-Url has a user name.")
    if found_in(authority.encode()) or found_in(rest.encode()[: end + 1]):
        raise UnfitURLError("X-Proxy-Url has a placeholder in its host or port.")
    found = _AUTHORITY.fullmatch(authority)
    port = int(found["port"] or _PORTS[scheme]) if found else 0
    if found is None or not 0 < port < 65536:
        raise UnfitURLError("X-Proxy-Url has no host and port that a request can go to.")
    target = target if target[:1] == "/" else "/" + target
    if DOT_SEGMENT.search(_blanked(target).partition("?")[0]):
        raise UnfitURLError("X-Proxy-Url has a dot segment in its path, plain or encoded.")
    return Wanted(scheme=scheme, host=found["host"].lower().strip("[]"), port=port, target=target)


def tidied(target: str) -> str:
    """A target as a browser would send it: quotes, braces and their like are percent-encoded (RFC 3986 appendix A)."""
    return _UNTIDY.sub(lambda found: f"%{ord(found[0]):02X}", target)


def allowed(targets: Iterable[Any], url: Wanted, method: str, *, of: Callable[[Any], Target]) -> Any:
    """
    The first of ``targets`` that lets this request through; ``of`` gives the entry that one stands for.

    Raises ``UnfitURLError`` that says how far the nearest entry agreed.
    """
    nearest = 0
    for each in targets:
        target = of(each)
        upstream = target.upstream
        if (upstream.scheme, upstream.host, upstream.port) != (url.scheme, url.host, url.port):
            continue
        nearest = max(nearest, 1)
        if not matches(target.path, _blanked(url.target).partition("?")[0]):
            continue
        nearest = max(nearest, 2)
        if method in target.methods:
            return each
    raise UnfitURLError(_DISAGREED[nearest])


_DISAGREED: Final = (
    "No entry of targets has this scheme, host and port.",
    "The entries of targets for this host do not have this path.",
    "The entry of targets for this address does not have this method.",
)


def _blanked(target: str) -> str:
    return blanked(target.encode(), _BLANK.encode()).decode()


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern lets a path through, as it is and percent-decoded."""
    return all(fits(pattern, each) for each in {path, unquote(path, "latin-1")})


def may_connect(target: Target, address: str) -> bool:
    """
    Whether an address that the entry's name leads to may be connected to.

    Loopback, private, link-local, metadata and other addresses that are not public only where the entry means it.
    """
    return target.private or public_or_named(target.upstream.host, address)


def public_or_named(host: str, address: str) -> bool:
    """Whether an address that a host leads to is public, or is what the host names itself."""
    at = ipaddress.ip_address(address.partition("%")[0])
    if _public(at):
        return True
    if host == "localhost":
        return at.is_loopback
    try:
        return ipaddress.ip_address(host) == at
    except ValueError:
        return False


def _public(at: _Address) -> bool:
    inner = _carried(at)
    if isinstance(inner, ipaddress.IPv4Address):
        return not any(inner in network for network in _SPECIAL_4)
    return inner in _UNICAST and not any(inner in network for network in _SPECIAL_6)


def _carried(at: _Address) -> _Address:
    """The IPv4 address inside an IPv6 one that a gateway or the kernel turns into it; else the address."""
    if isinstance(at, ipaddress.IPv6Address):
        for network, shift in _CARRIERS:
            if at in network:
                return ipaddress.IPv4Address((int(at) >> shift) & 0xFFFFFFFF)
    return at
