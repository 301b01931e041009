"""
Listening addresses, URLs, hosts, origins and prefixes: what is accepted, and the sentence for what is not.

No sentence repeats a URL: it may hold a password or a query.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from tokenproxy.config.words import shown
from tokenproxy.core.routes import host_key
from tokenproxy.core.templates import is_loopback

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
VAR_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
VAR_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
"""Nothing that could end a URL's host or path segment, so that a filled address leads where it seems to."""
_HOST: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_DOTS: Final = re.compile(r"(?i)(?:^|/)(?:\.|%2e){1,2}(?:/|$)")
_PORTS: Final = {"http": 80, "https": 443}
NEEDS_HTTPS: Final = "is plain http:// beyond loopback; use https://, or say insecure_http = true"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening address, taken apart."""

    host: str
    """Without brackets; empty for a Unix socket."""
    port: int
    path: str = ""
    """Of a Unix socket; ``@name`` where it is no file."""
    passed: str = ""
    """``systemd:`` and what follows; where that is, only systemd knows."""

    def __str__(self) -> str:
        if self.passed:
            return self.passed
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path or self.passed) or is_loopback(self.host)

    @property
    def _everywhere(self) -> bool:
        return self.host in {"0.0.0.0", "::"}

    def clashes(self, other: Listener) -> bool:
        """Whether the two cannot listen at once; port 0 never clashes."""
        if self.path or other.path or self.passed or other.passed:
            return (self.path, self.passed) == (other.path, other.passed)
        if self.port != other.port or self.port == 0:
            return False
        return self.host == other.host or self._everywhere or other._everywhere


def listener(text: str, *, base: Path) -> Listener:
    """
    ``127.0.0.1:8080``, ``[::1]:8080``, ``unix:PATH``, ``unix:@NAME`` or ``systemd:NAME``; raises ``ValueError`` with
    a sentence.
    """
    if text.startswith("systemd:"):
        if not re.fullmatch(r"systemd:[A-Za-z0-9._@-]{0,255}", text):
            raise ValueError(f'must be "systemd:" or "systemd:" and a FileDescriptorName, got {shown(text)}')
        return Listener("", 0, passed=text)
    if text.startswith("unix:"):
        name = text.removeprefix("unix:")
        path = name if name[:1] == "@" else str(base / name)
        if path in {str(base), "@"}:
            raise ValueError("has no path after unix:")
        if name[:1] == "@" and sys.platform != "linux":
            raise ValueError("names a socket without a file, which only Linux has")
        if len(path.encode()) > 107:  # sun_path of unix(7), with its closing NUL
            raise ValueError("names a Unix socket whose path is longer than 107 bytes")
        return Listener("", 0, path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    bare_v6 = ":" in host and not bracketed
    if not colon or not host or bare_v6 or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f'must be an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/path", got {shown(text)}'
        )
    if bracketed and not _is_v6(host):
        raise ValueError(f"{shown(host)} is not an IPv6 address")
    if not bracketed and not _HOST.fullmatch(host):
        raise ValueError(f"{shown(host)} is not a host; every address of this machine is 0.0.0.0")
    return Listener(host.lower(), int(port))


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def url(text: str, *, query: bool = False, fragment: bool = False) -> SplitResult:
    """An absolute http or https URL; raises ``ValueError`` with a sentence that does not repeat it."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError('must be a URL such as "https://api.example.com"') from None
    if parts.scheme not in _PORTS or not parts.netloc:
        raise ValueError('must be a URL such as "https://api.example.com"')
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if "#" in text and not fragment:
        raise ValueError("must not have a fragment")
    if "?" in text and not query:
        raise ValueError("must not have a query")
    host = parts.hostname or ""
    if (
        port == 0
        or parts.netloc.endswith(":")
        or not (_is_v6(host) if "[" in parts.netloc else _HOST.fullmatch(host))
    ):
        raise ValueError("has no valid host; names beyond ASCII are written as xn--...")
    pieces = (parts.query, parts.fragment)
    if not _PATH.fullmatch(parts.path) or not all(map(_QUERY.fullmatch, pieces)) or not text.isascii():
        raise ValueError("has characters that a URL must percent-encode")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("must not hold spaces or control characters")
    if _DOTS.search(parts.path):
        raise ValueError('must not have "." or ".." in its path')
    return parts


def template(text: str, *, fragment: bool = False) -> SplitResult:
    """
    A provider's URL, where ``{name}`` may stand for a host or a piece of the path, and at its very beginning for a
    whole address (``{instance_url}/id``, captured from a token answer). Raises ``ValueError``.

    ``fragment``: the page lies behind a router that reads what is after the ``#``.
    """
    for name in PLACEHOLDER.findall(text):
        if not VAR_NAME.fullmatch(name):
            raise ValueError(f"{shown('{' + name + '}')} is no placeholder; a name has letters, digits and _")
    whole = f"https://{text}" if text.startswith("{") else text
    return url(PLACEHOLDER.sub("placeholder", whole), query=True, fragment=fragment)


def plain_beyond_loopback(parts: SplitResult) -> bool:
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def port_of(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def authority_of(parts: SplitResult) -> str:
    """The Host field that names this place: the port only where it is not the scheme's own."""
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = port_of(parts)
    return host if port == _PORTS[parts.scheme] else f"{host}:{port}"


def host_name(text: str) -> str:
    """A name as ``host_key`` makes it, or ``*.`` and such a name; raises ``ValueError``."""
    name = host_key(f"[{text}]" if _is_v6(text) else text)
    if name.startswith("[") and _is_v6(name[1:-1]):
        return name
    if re.fullmatch(r".+:[0-9]+", name):
        raise ValueError(f"{shown(text)} must be without a port; a name counts on every port")
    if "*" in name and not re.fullmatch(r"\*\.[^*]+", name):
        raise ValueError(
            f'{shown(text)} is not a host name; a star stands at its beginning, as in "*.example.com"'
        )
    if not _HOST.fullmatch(name.removeprefix("*.")):
        raise ValueError(f"{shown(text)} is not a host name")
    return name


def origin(text: str) -> str:
    """``https://intranet.example``, as a browser writes it; raises ``ValueError``."""
    try:
        parts = url(text)
    except ValueError:
        parts = None
    if parts is None or parts.path:
        raise ValueError(
            f'must be an origin such as "https://intranet.example", without a path, got {shown(text)}'
        )
    return f"{parts.scheme}://{authority_of(parts)}"


def prefix(text: str) -> str:
    """With a slash at both ends, which are added where they are missing; raises ``ValueError``."""
    whole = f"/{text.strip('/')}/" if text.strip("/") else "/"
    if not _PATH.fullmatch(whole) or "//" in whole or _DOTS.search(whole):
        raise ValueError(f'must be a path such as "/books/", got {shown(text)}')
    return whole
