"""Who asked, and how, told to the upstream (``forwarded``): ``X-Forwarded-*``, and ``Forwarded`` of RFC 7239."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CHOICES: Final = ("off", "x-forwarded", "rfc7239", "both")
UNIX: Final = "unix:"
"""Among ``trusted_proxies``: whoever comes by a Unix socket."""
_WRITTEN: Final = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")
_OTHERS: Final = ("x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-real-ip")
NAMES: Final = (*_WRITTEN, *_OTHERS)
"""Fields, in lower case, that are believed from trusted proxies alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    x_forwarded: bool
    rfc7239: bool
    trusted: tuple[Network, ...] = ()
    """Proxies in front of us: what they say is added to, what others say is replaced."""
    trusts_unix: bool = False

    def lines(self, fields: Iterable[tuple[bytes, bytes]], *, peer: str, secure: bool, host: str) -> bytes:
        """
        Fields for the upstream. ``fields`` are the caller's; ``peer`` is its address, empty on a Unix socket; ``host``
        the authority that it asked for, which is clean already.
        """
        at = _address(peer)
        said: dict[str, list[str]] = {}
        if self._trusts(at):
            for raw, value in fields:
                name = raw.decode("latin-1").lower()
                if name in NAMES:
                    said.setdefault(name, []).append(value.decode("latin-1"))
        found = [(name, value) for name in _OTHERS for value in said.get(name, ())]
        scheme = "https" if secure else "http"
        if self.x_forwarded:
            found.append(
                ("x-forwarded-for", ", ".join([*said.get("x-forwarded-for", ()), str(at or "unknown")]))
            )
            found.append(("x-forwarded-proto", said.get("x-forwarded-proto", [scheme])[0]))
            found.append(("x-forwarded-host", said.get("x-forwarded-host", [host])[0]))
        if self.rfc7239:
            own = f"for={_node(at)};host={_quoted(host)};proto={scheme}"
            found.append(("forwarded", ", ".join([*said.get("forwarded", ()), own])))
        return b"".join(f"{_spelt(name)}: {value}\r\n".encode("latin-1") for name, value in found)

    def _trusts(self, at: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
        if at is None:
            return self.trusts_unix
        return any(at in network for network in self.trusted)


def _address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not peer:
        return None
    at = ipaddress.ip_address(peer.partition("%")[0])
    return getattr(at, "ipv4_mapped", None) or at  # a listener on :: sees IPv4 callers so


def _node(at: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> str:
    """RFC 7239 section 6."""
    if at is None:
        return "unknown"
    return f'"[{at}]"' if at.version == 6 else str(at)


def _quoted(host: str) -> str:
    return f'"{host}"' if ":" in host or "[" in host else host


def _spelt(name: str) -> str:
    return "-".join({"ip": "IP"}.get(word, word.capitalize()) for word in name.split("-"))
