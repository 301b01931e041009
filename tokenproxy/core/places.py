"""Addresses of a profile that answers complete: ``https://{host}/token``, ``{instance_url}/services/oauth2/revoke``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from tokenproxy.core.provider import Provider
from tokenproxy.core.templates import allowed_host, filled, is_loopback

_AUTHORITY: Final = re.compile(r"(?:https?://)?[^/?#]*")


def place_of(
    template: str, provider: Provider, captured: Mapping[str, str], *, more: Mapping[str, str] | None = None
) -> str:
    """
    The address with the captured values in it, and ``more`` that are percent-encoded already.

    A host that a captured value decides must be one of ``captured_hosts``: a secret goes there. Raises ``ValueError`` with a
    sentence that repeats no value.
    """
    if "{" not in template:
        return template
    try:
        url = filled(template, {**captured, **(more or {})})
    except KeyError as missing:
        raise ValueError(
            f"an address of the profile holds {{{missing.args[0]}}}, which no answer has brought"
        ) from None
    authority = _AUTHORITY.match(template)
    if authority is not None and "{" in authority[0]:
        _check(url, provider)
    return url


def _check(url: str, provider: Provider) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or "@" in parts.netloc or not allowed_host(host, provider.captured_hosts):
        raise ValueError("a captured value leads to a host that captured_hosts does not list")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("a captured value leads to an address that is not https")
