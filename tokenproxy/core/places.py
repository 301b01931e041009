"""Addresses of a profile that answers complete: ``https://{host}/token``, ``{instance_url}/services/oauth2/revoke``."""

from __future__ import annotations

from collections.abc import Mapping

from tokenproxy.core.provider import Provider
from tokenproxy.core.templates import address


def place_of(
    template: str, provider: Provider, captured: Mapping[str, str], *, more: Mapping[str, str] | None = None
) -> str:
    """
    The address with the captured values in it, and ``more`` that are percent-encoded already.

    A host that a captured value decides must be one of ``captured_hosts``: a secret goes there. Raises ``ValueError`` with a
    sentence that repeats no value.
    """
    try:
        return address(template, {**captured, **(more or {})}, provider.captured_hosts)
    except KeyError as missing:
        raise ValueError(
            f"an address of the profile holds {{{missing.args[0]}}}, which no answer has brought"
        ) from None
    except ValueError as wrong:
        raise ValueError(f"a captured value leads to {wrong}") from None
