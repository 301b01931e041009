"""Whom a request asks: its target in each form, and the host that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tokenproxy.proxy.problem import ProblemError, bad_request

HTTP: Final = b"http://"
HTTPS: Final = b"https://"
HOST_FIELD: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
"""Of the Host field or an authority: the host, and a port that does not matter."""
LOOPBACK: Final = re.compile(r"localhost|\[::1\]|127(?:\.[0-9]{1,3}){3}")

_SCHEMES: Final[Mapping[str, bytes]] = {"http": HTTP, "https": HTTPS, "ws": HTTP, "wss": HTTPS}


def split_absolute(target: str) -> tuple[bytes, bytes, str]:
    """
    Absolute-form (RFC 9112 section 3.2.2) as scheme, authority, which stands in the place of Host, and the rest.

    ``https://`` is as good as ``http://``, and ``ws://``, which aiohttp's client writes here, stands for it (RFC 6455
    section 3): the route says how the request goes on.
    """
    name, _, rest = target.partition("://")
    scheme = _SCHEMES.get(name.lower())
    if scheme is None:
        raise bad_request("The target of the request is neither a path nor a URL of http or https.")
    end = min((at for at in (rest.find("/"), rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if "@" in authority:  # RFC 9110 section 4.2.4: an attempt to obscure the authority, or a credential
        raise bad_request("The URL of the request holds a user name.")
    return (
        scheme,
        authority.encode("utf-8", "surrogateescape"),
        path if path[:1] == "/" else "/" + path,
    )


def path_of(target: str) -> str:
    """The path of a target that came in, for the log; "" where it has none or cannot be told."""
    if target[:1] != "/":
        try:
            target = split_absolute(target)[2]
        except ProblemError:
            return ""
    return target.partition("?")[0]


def host_refused() -> ProblemError:
    return ProblemError(
        "host_refused",
        "The Host of the request is neither loopback's nor configured.",
        next_step="Add the name to hosts under [server], or call the proxy as localhost.",
    )


def no_such_host() -> ProblemError:
    return ProblemError(
        "no_route",
        "No route leads to the host of this URL, and tokenproxy is no proxy for others.",
        next_step="Name it as host of a [routes.NAME] with its upstream, or let the app reach it without the proxy (no_proxy).",
    )
