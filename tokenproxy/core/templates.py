"""``{name}`` in addresses and header values: what stands there, and whether the address may be gone to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
_ADDRESS: Final = re.compile(r"(?i)https?://")
_AUTHORITY: Final = re.compile(r"(?:[a-z]+://)?([^/?#]*)")
_UNCLEAN: Final = re.compile(r"[^!-~]|[@\\\"<>^`{|}]")
_DOTS: Final = re.compile(r"(?i)(?:^|/)(?:\.|%2e){1,2}(?:/|$)")


def names(template: str) -> tuple[str, ...]:
    """The names in a template, each once, in order."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """
    The template with each ``{name}`` replaced, in one pass: a value's own braces stay. Raises ``KeyError(name)``.

    Captured addresses come with a scheme or without, with a last slash or without (``api_domain`` at Zoho is
    ``https://www.zohoapis.com``): what the template says already is not said twice.
    """
    pieces = [*_pieces(template)]
    for at in range(1, len(pieces), 2):
        value = values[pieces[at]]
        address = _ADDRESS.match(value)
        if address is not None:
            value = value[address.end() :] if pieces[at - 1].endswith("://") else value
            value = value.rstrip("/")
        pieces[at] = value
    return "".join(pieces)


@lru_cache(maxsize=1024)
def _pieces(template: str) -> tuple[str, ...]:
    """Text, name, text, name, ..., text; a request of a login that was not seen lately fills its route's templates."""
    return tuple(PLACEHOLDER.split(template))


def captured_host(template: str) -> bool:
    """Whether a name in the template has a say in which host it leads to."""
    authority = _AUTHORITY.match(template)
    return authority is not None and PLACEHOLDER.search(authority[1]) is not None


def address(template: str, values: Mapping[str, str], hosts: Iterable[str]) -> str:
    """
    The filled template, if it is an address that tokens may be sent to; one without names is as the config has it.

    Where captured values make its host, that must be one of ``hosts``, and reached by https unless it is this machine:
    what was checked when it was captured is checked under the config of today. Raises ``KeyError(name)`` for a value
    that is not there, ``ValueError`` with a phrase that repeats no value.
    """
    if not PLACEHOLDER.search(template):
        return template
    text = filled(template, values)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("no address") from None
    if parts.scheme not in {"http", "https"} or not host or _UNCLEAN.search(text) or _DOTS.search(parts.path):
        raise ValueError("no address")
    if not captured_host(template):
        return text
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("an address that is not https")
    if not allowed_host(host, hosts):
        raise ValueError("a host that captured_hosts does not list")
    return text


def allowed_host(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host, without a port, is one of these names; ``*.example.com`` stands for every name below it."""
    name = host.lower().removesuffix(".")
    return any(
        name.endswith(pattern[1:]) and name != pattern[1:] if pattern.startswith("*.") else name == pattern
        for pattern in map(str.lower, patterns)
    )


def is_loopback(host: str) -> bool:
    """By its name alone; nothing is looked up."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
