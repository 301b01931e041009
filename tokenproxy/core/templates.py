"""``{name}`` in addresses and header values: what stands there, and whether the address may be gone to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
_ADDRESS: Final = re.compile(r"(?i)https?://")


def names(template: str) -> tuple[str, ...]:
    """The names in a template, each once, in order."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """
    The template with each ``{name}`` replaced, in one pass: a value's own braces stay. Raises ``KeyError(name)``.

    Captured addresses come with a scheme or without, with a last slash or without (``api_domain`` at Zoho is
    ``https://www.zohoapis.com``): what the template says already is not said twice.
    """

    def value_of(found: re.Match[str]) -> str:
        value = values[found[1]]
        address = _ADDRESS.match(value)
        if address is None:
            return value
        if template.endswith("://", 0, found.start()):
            value = value[address.end() :]
        return value.rstrip("/")

    return PLACEHOLDER.sub(value_of, template)


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
