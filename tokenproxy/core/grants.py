"""
How a token set is obtained: one generator per grant, and the exact wire form of a token request.

A grant yields ``TokenRequest``s and is sent ``Reply``s, so that it is tested by hand and without a network
(the shape is httpx's ``auth_flow``). ``oauth.endpoint`` performs the steps.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote, quote_plus

from tokenproxy import __version__
from tokenproxy.core.provider import Account, ClientAuth, Provider, TokenBody
from tokenproxy.core.replies import Answer, Reply, read_answer
from tokenproxy.core.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One HTTP request to a provider, whole; nothing of it may be logged."""

    method: str
    url: str = field(repr=False)
    """Already percent-encoded, once."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a grant needs to know."""

    account: Account
    held: TokenSet | None
    now: datetime
    """UTC, taken before anything is sent (RFC 6749 section 5.1: lifetimes count from the answer)."""


Flow = Generator[TokenRequest, Reply, Answer]
GRANTS: Final[dict[str, Callable[[Ask], Flow]]] = {}


def grant(name: str) -> Callable[[Callable[[Ask], Flow]], Callable[[Ask], Flow]]:
    """Register a grant under its name."""

    def register(flow: Callable[[Ask], Flow]) -> Callable[[Ask], Flow]:
        GRANTS[name] = flow
        return flow

    return register


@grant("refresh_token")
def refresh_token(ask: Ask) -> Flow:
    """RFC 6749 section 6."""
    if ask.held is None or ask.held.refresh_token is None:
        raise ValueError("a refresh needs a refresh token")
    provider = ask.account.provider
    asked = ask.held.scope_asked
    params = {"grant_type": "refresh_token", "refresh_token": ask.held.refresh_token}
    if provider.refresh_scope and asked:
        params["scope"] = asked
    params |= provider.refresh_params
    reply = yield token_request(ask.account, params, url=provider.refresh_url or provider.token_url)
    return read_answer(reply, provider=provider, asked_at=ask.now, scope_asked=asked)


def validate_request(account: Account, tokens: TokenSet) -> TokenRequest:
    """The call that tells whether an access token lives (Deskera: GET with ``x-access-token``)."""
    provider = account.provider
    if provider.validate is None:
        raise ValueError(f"{provider.name} has no validate call")
    value = provider.inject.value.replace("{access_token}", tokens.access_token)
    headers = {provider.inject.header: value, "Accept": "application/json", "User-Agent": USER_AGENT}
    return TokenRequest(provider.validate.method, provider.validate.url, headers, None)


USER_AGENT: Final = f"tokenproxy/{__version__}"


def token_request(account: Account, params: Mapping[str, str], *, url: str) -> TokenRequest:
    """
    Put a grant's parameters where the provider wants them, with our client authentication.

    Empty parameters are left out and none is sent twice (RFC 6749 section 3.2); a query that the URL already has
    stays (section 3.2 again; Dropbox Sign's refresh URL is the token URL with ``?refresh``).
    """
    provider = account.provider
    merged = {**params, **provider.token_params}
    query: dict[str, str] = {}
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **provider.token_headers}
    _authenticate(account, merged, query, headers)
    named, query = _named(provider, merged), _named(provider, query)
    body: bytes | None = None
    if provider.token_method == "GET" or provider.token_body is TokenBody.QUERY:  # noqa: S105 - a method
        query = {**named, **query}
    elif provider.token_body is TokenBody.JSON:
        headers["Content-Type"] = "application/json"
        body = json.dumps(named, separators=(",", ":")).encode()
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = encode(named).encode()
    if query:
        url += ("&" if "?" in url else "?") + encode(query)
    return TokenRequest(provider.token_method, url, headers, body)


def _named(provider: Provider, params: Mapping[str, str]) -> dict[str, str]:
    """Under the provider's own names; what is empty or renamed to nothing is left out."""
    named = {provider.rename.get(name, name): value for name, value in params.items() if value}
    named.pop("", None)
    return named


def encode(params: Mapping[str, str]) -> str:
    """Form-encode with ``%20`` for a space: right in bodies and in URLs alike (Askara's guide, X)."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items())


def _authenticate(
    account: Account, params: dict[str, str], query: dict[str, str], headers: dict[str, str]
) -> None:
    """Exactly one client authentication method per request (RFC 6749 section 2.3)."""
    registration, method = account.registration, account.provider.client_auth
    if method is ClientAuth.BASIC:  # form-encoded before base64, RFC 6749 section 2.3.1
        headers["Authorization"] = _basic(
            quote_plus(registration.client_id), quote_plus(registration.client_secret)
        )
    elif method is ClientAuth.BASIC_RAW:
        headers["Authorization"] = _basic(registration.client_id, registration.client_secret)
    elif method is ClientAuth.POST:
        params["client_id"] = registration.client_id
        params["client_secret"] = registration.client_secret
    elif method is ClientAuth.QUERY:
        query["client_id"] = registration.client_id
        query["client_secret"] = registration.client_secret
    elif method is ClientAuth.NONE:
        params["client_id"] = registration.client_id  # RFC 6749 section 3.2.1
    else:
        raise ValueError(f"client_auth {method.value} is not in this version")


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")
