"""
Who may speak to the admin listener: no web page but our own, under no name but ours.

A page that makes ``evil.example`` resolve to 127.0.0.1 is refused by its Host, one that posts to us from elsewhere by
``Sec-Fetch-Site`` and Origin (the order of Go 1.25's CrossOriginProtection; programs send neither and pass).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenproxy.core.templates import is_loopback


@dataclass(frozen=True, slots=True)
class Guard:
    """The names under which the admin listener may be reached."""

    hosts: frozenset[str]
    """Lower case, without ports; loopback's need not be named."""
    origin: str = ""
    """``public_url``'s, as a browser writes it; for a proxy before us that changes Host."""

    @classmethod
    def of(cls, public_url: str, hosts: Collection[str] = ()) -> Guard:
        """``hosts`` are names or addresses without ports."""
        parts = urlsplit(public_url)
        names = {host_name(name) for name in (parts.netloc, *hosts)} - {""}
        origin = f"{parts.scheme}://{parts.netloc}".lower() if parts.netloc else ""
        return cls(frozenset(names), origin)

    def refusal(
        self, hosts: Collection[str], *, origin: str | None, fetch_site: str | None
    ) -> tuple[str, str] | None:
        """``(code, sentence)`` for a request that must be refused; ``hosts`` are its Host fields."""
        if len(hosts) != 1:
            return "bad_request", "A request needs exactly one Host."
        host = next(iter(hosts)).lower()
        if not self._known(host_name(host)):
            return (
                "host_refused",
                "This Host is not one of the admin listener's names; set admin.public_url or server.hosts.",
            )
        if fetch_site is not None and fetch_site.lower() not in ("none", "same-origin"):
            return (
                "origin_refused",
                "A page of another site sent this request; open the address directly instead.",
            )
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}", self.origin):
            return "origin_refused", "This Origin is not the admin listener's own."
        return None

    def _known(self, name: str) -> bool:
        return name in self.hosts or is_loopback(name)


def host_name(host: str) -> str:
    """``[::1]:9100`` -> ``::1``, ``LocalHost.:9100`` -> ``localhost``; "" for what is no host."""
    name, _, rest = host.partition("]") if host.startswith("[") else host.partition(":")
    if host.startswith("["):
        name, rest = name[1:], rest.removeprefix(":")
    elif ":" in rest:  # an IPv6 address from the config, without brackets
        name, rest = host, ""
    if rest and not (rest.isascii() and rest.isdigit()):
        return ""
    return name.lower().removesuffix(".")
