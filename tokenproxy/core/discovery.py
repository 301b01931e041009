"""A provider's addresses from its issuer's metadata (RFC 8414, OpenID Connect Discovery), where the profile has none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from tokenproxy.core.provider import Account, ClientAuth, Revoke
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.steps import TokenRequest
from tokenproxy.core.templates import is_loopback
from tokenproxy.core.token_request import USER_AGENT

_ENDPOINTS: Final = (
    "authorization_endpoint",
    "token_endpoint",
    "device_authorization_endpoint",
    "pushed_authorization_request_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
)
_ADDRESS: Final = re.compile(r"[\x21\x23-\x5b\x5d\x5f\x61-\x7a\x7e]{1,2048}")
"""What a URL may be made of (RFC 3986 section 2), without a quote, a backslash, ``^``, a backtick, or braces."""


class NoMetadataError(ValueError):
    """There is none, or none that can be read; another address may have it. Its text is a phrase."""


class WrongMetadataError(ValueError):
    """The document says something that must not be followed. Its text is a phrase."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What of an issuer's document we use."""

    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Name in the document -> address."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The same for clients that show a certificate (RFC 8705 section 5)."""
    must_push: bool = False
    """``require_pushed_authorization_requests`` (RFC 9126 section 5)."""
    answers_iss: bool = False
    """``authorization_response_iss_parameter_supported`` (RFC 9207 section 3)."""


def metadata_requests(issuer: str) -> tuple[TokenRequest, ...]:
    """Where the document may lie, to be tried in this order: RFC 8414 section 3.1, then OpenID Connect's."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    return tuple(
        TokenRequest("GET", url, headers, None)
        for url in (
            f"{origin}/.well-known/oauth-authorization-server{path}",
            f"{origin}{path}/.well-known/openid-configuration",
        )
    )


def read_metadata(reply: Reply, issuer: str) -> Metadata:
    """Raises ``NoMetadataError``, or ``WrongMetadataError`` for another issuer's document (RFC 8414 section 3.3)."""
    if reply.status != 200:
        raise NoMetadataError(f"its metadata address answers with status {reply.status}")
    if len(reply.body) > LARGEST_ANSWER:
        raise NoMetadataError("its metadata is larger than 1 MiB")
    try:
        found = json.loads(reply.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NoMetadataError("its metadata is no JSON object")
    if found.get("issuer") != issuer:
        raise WrongMetadataError(
            "its metadata is that of another issuer; issuer must be written exactly as there"
        )
    aliases = found.get("mtls_endpoint_aliases")
    return Metadata(
        endpoints=_endpoints(found, issuer),
        aliases=_endpoints(aliases, issuer) if isinstance(aliases, dict) else {},
        must_push=found.get("require_pushed_authorization_requests") is True,
        answers_iss=found.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoints(document: Mapping[str, Any], issuer: str) -> Mapping[str, str]:
    found = {}
    for name in _ENDPOINTS:
        address = document.get(name)
        if address in (None, ""):
            continue
        if not isinstance(address, str) or not trusted_address(address, issuer):
            raise WrongMetadataError(f"{name} in its metadata is no https address")
        found[name] = address
    return found


def trusted_address(address: str, issuer: str) -> bool:
    """https; plain http only where the issuer is so itself, which the config lets pass, and stays on its host."""
    if not _ADDRESS.fullmatch(address):
        return False
    try:
        parts, home = urlsplit(address), urlsplit(issuer)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    if parts.scheme == "https":
        return True
    local = is_loopback(host) and is_loopback(home.hostname or "")
    return parts.scheme == home.scheme == "http" and (host == home.hostname or local)


def completed(account: Account, metadata: Metadata) -> Account:
    """
    The account with the addresses that its provider's profile leaves open.

    How clients authenticate is not taken from there: it is configuration, never guessed. Raises
    ``WrongMetadataError`` where nobody names a token endpoint.
    """
    provider = account.provider
    certified = provider.client_auth is ClientAuth.MTLS or bool(provider.tls.cert_file)
    known = {**metadata.endpoints, **(metadata.aliases if certified else {})}
    token_url = provider.token_url or known.get("token_endpoint", "")
    if not token_url:
        raise WrongMetadataError("neither its metadata nor token_url says where tokens come from")
    push = known.get("pushed_authorization_request_endpoint", "") if metadata.must_push else ""
    revoke, validate = provider.revoke, provider.validate
    if revoke is None and "revocation_endpoint" in known:
        revoke = Revoke(url=known["revocation_endpoint"])
    if validate is not None and validate.introspect and not validate.url:
        where = known.get("introspection_endpoint")
        validate = replace(validate, url=where) if where else None
    whole = replace(
        provider,
        authorize_url=provider.authorize_url or metadata.endpoints.get("authorization_endpoint", ""),
        token_url=token_url,
        device_url=provider.device_url or known.get("device_authorization_endpoint", ""),
        par_url=provider.par_url or push,
        revoke=revoke,
        validate=validate,
        callback=replace(provider.callback, iss=provider.callback.iss or metadata.answers_iss),
    )
    return replace(account, provider=whole)
