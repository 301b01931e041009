"""The exact wire form of a call to a provider, with our client authentication."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

from tokenproxy import __version__
from tokenproxy.core.assertions import ASSERTION_TYPE, client_assertion, nonce_wanted, proof
from tokenproxy.core.provider import EMPTY, Account, ClientAuth, Provider, TokenBody
from tokenproxy.core.replies import Reply
from tokenproxy.core.steps import Flow, KeyRequest, TokenRequest
from tokenproxy.core.tokens import TokenSet

USER_AGENT: Final = f"tokenproxy/{__version__}"
_SIGNED: Final = frozenset({ClientAuth.CLIENT_SECRET_JWT, ClientAuth.PRIVATE_KEY_JWT})


def asked(
    account: Account,
    params: Mapping[str, str],
    *,
    url: str,
    now: datetime,
    dpop_key: str | None = None,
) -> Flow[Reply]:
    """
    One call of the token endpoint's kind, with our client authentication; the answer as it came.

    ``dpop_key`` proves itself with it. A server that wants its nonce in the proof has not looked at the request, which
    is then made once more, signed anew (RFC 9449 section 8).
    """
    reply = yield from _attempt(account, params, url=url, now=now, dpop_key=dpop_key)
    nonce = nonce_wanted(reply, account.provider) if dpop_key else ""
    if nonce:
        reply = yield from _attempt(account, params, url=url, now=now, dpop_key=dpop_key, nonce=nonce)
    return reply


def _attempt(
    account: Account,
    params: Mapping[str, str],
    *,
    url: str,
    now: datetime,
    dpop_key: str | None,
    nonce: str = "",
) -> Flow[Reply]:
    assertion = ""
    if account.provider.client_auth in _SIGNED:
        assertion = (yield client_assertion(account, now=now)).body.decode()
    request = token_request(account, params, url=url, assertion=assertion)
    proven = ""
    if dpop_key:
        signed = yield proof(dpop_key, method=request.method, url=request.url, now=now, nonce=nonce)
        proven = signed.body.decode()
        request = replace(request, headers={**request.headers, "DPoP": proven})
    reply = yield request
    for ours in (assertion, proven):  # some quote the request in their errors, which end up in our texts
        if ours:
            reply = replace(reply, body=reply.body.replace(ours.encode(), "…".encode()))
    return reply


def proof_key(account: Account, held: TokenSet | None = None) -> Flow[str | None]:
    """
    The key that tokens are bound to where the provider binds them: the held one, else a fresh one.

    A login makes it before its first call and keeps it with the tokens (RFC 9449 section 5).
    """
    if not account.provider.dpop:
        return None
    if held is not None and held.dpop_key:
        return held.dpop_key
    return (yield KeyRequest()).body.decode()


def token_request(
    account: Account, params: Mapping[str, str], *, url: str, assertion: str = ""
) -> TokenRequest:
    """
    Put a grant's parameters where the provider wants them, with our client authentication.

    Empty parameters are left out and none is sent twice (RFC 6749 section 3.2); a query that the URL already has
    stays (section 3.2 again; Dropbox Sign's refresh URL is the token URL with ``?refresh``). ``assertion`` is ours,
    signed, where the provider wants one.
    """
    provider = account.provider
    merged = {**params, **provider.token_params}
    query: dict[str, str] = {}
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **provider.token_headers}
    _authenticate(account, assertion, merged, query, headers)
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


def for_refresh(account: Account) -> Account:
    """The account with its provider's words for a refresh in the place of those for a token request."""
    provider = account.provider
    if not (provider.refresh_method or provider.refresh_rename or provider.refresh_auth):
        return account
    return replace(
        account,
        provider=replace(
            provider,
            client_auth=provider.refresh_auth or provider.client_auth,
            token_method=provider.refresh_method or provider.token_method,
            rename={**provider.rename, **provider.refresh_rename},
        ),
    )


def as_form(account: Account) -> Account:
    """The account for a call that is a POST of a form by its RFC, however odd the provider's token requests are."""
    provider = account.provider
    return replace(
        account,
        provider=replace(provider, token_method="POST", token_body=TokenBody.FORM, token_params=EMPTY),  # noqa: S106 - a method
    )


def _named(provider: Provider, params: Mapping[str, str]) -> dict[str, str]:
    """Under the provider's own names; what is empty or renamed to nothing is left out."""
    named = {provider.rename.get(name, name): value for name, value in params.items() if value}
    named.pop("", None)
    return named


def encode(params: Mapping[str, str]) -> str:
    """Form-encode with ``%20`` for a space: right in bodies and in URLs alike (Askara's guide, X)."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items())


def _authenticate(
    account: Account, assertion: str, params: dict[str, str], query: dict[str, str], headers: dict[str, str]
) -> None:
    """Exactly one client authentication method per request (RFC 6749 section 2.3)."""
    registration, method = account.registration, account.provider.client_auth
    if method is ClientAuth.BASIC:  # form-encoded before base64, RFC 6749 section 2.3.1
        headers["Authorization"] = f"Basic {registration.basic(raw=False)}"
    elif method is ClientAuth.BASIC_RAW:
        headers["Authorization"] = f"Basic {registration.basic(raw=True)}"
    elif method is ClientAuth.QUERY:
        query["client_id"] = registration.client_id
        query["client_secret"] = registration.client_secret
    else:  # with a certificate, an assertion or nothing the id says whose it is (RFC 6749 3.2.1, RFC 8705 section 2)
        params["client_id"] = registration.client_id
    if method is ClientAuth.POST:
        params["client_secret"] = registration.client_secret
    if method in _SIGNED:
        if not assertion:
            raise ValueError(f"client_auth {method.value} needs a signed assertion")
        params["client_assertion_type"] = ASSERTION_TYPE
        params["client_assertion"] = assertion
