"""Addresses in an upstream's answers, seen from where the caller stands (``rewrite_location``, ``rewrite_cookies``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tokenproxy.core.routes import DOT_SEGMENT, Upstream

_REFRESH: Final = re.compile(r"""(?i)^([^;,]*[;,]\s*url\s*=\s*["']?)([^"']*)""")
_LINKED: Final = re.compile(r"<([^>]*)>")
_DOMAIN: Final = re.compile(r"(?i);[ \t]*domain[ \t]*=[ \t]*\.?([^;]*)")
_PATH: Final = re.compile(r"(?i)(;[ \t]*path[ \t]*=[ \t]*)([^;]*)")
_ENDS: Final = ("", "/", "?", "#")
_ELSEWHERE: Final = re.compile(r"/\t*[/\\]")
"""Where a path with an empty segment loses what stood before it, it names a host; browsers leave tabs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leads:
    """
    Where addresses of one upstream are for the callers of one route.

    Below the route's prefix, as a path alone: every caller completes it with the scheme and host by which it reached us,
    whatever stands between (RFC 9110 section 10.2.2).
    """

    upstream: Upstream
    prefix: str
    host: str = ""
    """What the upstream takes for its own name, where it is told another than its address (``host_header``)."""

    def location(self, url: str) -> str:
        """An address of a Location or Content-Location field."""
        known = next((each for each in self._origins() if _begins(url, each)), None)
        if known is not None:
            rest = url[len(known) :]
        elif url[:1] == "/" and url[:2] not in {"//", "/\\"}:
            rest = url
        else:
            return url  # another host, or relative to the request, which is as it was
        below = self._below(rest)
        if below is not None:
            return below
        return url if known is not None else self._origin() + rest  # here it would lead to another route

    def refresh(self, value: str) -> str:
        return _REFRESH.sub(lambda found: found[1] + self.location(found[2]), value)

    def link(self, value: str) -> str:
        """RFC 8288: each target in angle brackets."""
        return _LINKED.sub(lambda found: f"<{self.location(found[1])}>", value)

    def cookie(self, value: str) -> str:
        """A Set-Cookie field: for our own host, and for the paths of this route."""
        name, semicolon, rest = value.partition(";")
        return name + _PATH.sub(self._cookie_path, _DOMAIN.sub(self._cookie_domain, semicolon + rest))

    def _cookie_domain(self, found: re.Match[str]) -> str:
        domain = found[1].strip().lower()
        hosts = (self.upstream.host, self.host.partition(":")[0])
        ours = any(host == domain or host.endswith(f".{domain}") for host in hosts if host and domain)
        return "" if ours else found[0]

    def _cookie_path(self, found: re.Match[str]) -> str:
        path = found[2].strip()
        if (
            self.upstream.path.startswith(path.rstrip("/")) and path[:1] == "/"
        ):  # all of the upstream, or more
            return found[1] + self.prefix
        return found[1] + (self._below(path) or path)

    def _below(self, rest: str) -> str | None:
        """A path with its query as the caller reaches it; None where it is outside of what the route leads to."""
        base = self.upstream.path
        if not rest.startswith(base) or rest[len(base) : len(base) + 1] not in _ENDS:
            return None
        if DOT_SEGMENT.search(re.split("[?#]", rest, maxsplit=1)[0]):
            return None
        rest = rest[len(base) :]
        below = self.prefix + (rest[1:] if rest[:1] == "/" else rest)
        return None if _ELSEWHERE.match(below) else below

    def _origin(self) -> str:
        return f"{self.upstream.scheme}://{self.upstream.authority}"

    def _origins(self) -> tuple[str, ...]:
        """How the upstream may write where it is; behind a TLS terminator many believe that they speak plain http."""
        at = self.upstream
        names = {at.authority, f"{at.authority}:{at.port}", *((self.host,) if self.host else ())}
        schemes = {f"{at.scheme}:", "http:", ""}
        return tuple(
            sorted((f"{scheme}//{name}" for scheme in schemes for name in names), key=len, reverse=True)
        )


def _begins(url: str, origin: str) -> bool:
    return url[: len(origin)].lower() == origin.lower() and url[len(origin) : len(origin) + 1] in _ENDS
