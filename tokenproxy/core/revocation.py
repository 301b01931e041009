"""Ending a token at its provider (RFC 7009, and providers with forms of their own)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

from tokenproxy.core.places import place_of
from tokenproxy.core.provider import EMPTY, Account, ClientAuth, Revoke, TokenBody
from tokenproxy.core.replies import Reply, error_of
from tokenproxy.core.steps import Flow, TokenRequest
from tokenproxy.core.token_request import USER_AGENT, asked, encode
from tokenproxy.core.tokens import TokenSet

_BODIES: Final[Mapping[str, TokenBody]] = {
    "form": TokenBody.FORM,
    "json": TokenBody.JSON,
    "none": TokenBody.QUERY,
}
_OWN_NAMES: Final = ("client_id", "client_secret")


def revocation(account: Account, tokens: TokenSet, *, now: datetime) -> Flow[bool | None]:
    """
    Tell the provider that the login is over; True where it took that, None where there is nothing to tell it with.

    A token that the provider does not know is gone as well, and 200 too (RFC 7009 section 2.2). Whoever asks forgets
    the tokens whatever the answer.
    """
    revoke = account.provider.revoke
    token, kind = _chosen(revoke, tokens)
    if revoke is None or not token:
        return None
    ours = {"token": quote(token, safe=""), "client_id": quote(account.registration.client_id, safe="")}
    try:
        url = place_of(revoke.url, account.provider, tokens.captured, more=ours)
    except ValueError:
        return False
    params: dict[str, str] = {}
    if revoke.body != "none":
        params[revoke.parameter] = token
        if revoke.parameter == "token" and revoke.auth == "client":
            params["token_type_hint"] = kind
    if revoke.auth in {"client", "basic"}:
        reply = yield from asked(_as_told(account, revoke), params, url=url, now=now)
    else:
        reply = yield _bare(revoke, url, params, token)
    return _taken(reply)


def _chosen(revoke: Revoke | None, tokens: TokenSet) -> tuple[str, str]:
    """The token that is ended, and which of the two it is."""
    if revoke is not None and revoke.token == "refresh_token" and tokens.refresh_token:  # noqa: S105 - which one
        return tokens.refresh_token, "refresh_token"
    return tokens.access_token, "access_token"


def _as_told(account: Account, revoke: Revoke) -> Account:
    """The account with the form of its token requests in the place of that of the revocation."""
    provider = account.provider
    own = {name: provider.rename[name] for name in _OWN_NAMES if name in provider.rename}
    return replace(
        account,
        provider=replace(
            provider,
            token_method=revoke.method,
            token_body=_BODIES[revoke.body],
            token_params=EMPTY,
            token_headers=revoke.headers,
            rename=own,
            client_auth=ClientAuth.BASIC if revoke.auth == "basic" else provider.client_auth,
        ),
    )


def _bare(revoke: Revoke, url: str, params: Mapping[str, str], token: str) -> TokenRequest:
    """Without our client authentication: the token speaks for itself (Dropbox, Google)."""
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **revoke.headers}
    if revoke.auth == "bearer":
        headers["Authorization"] = f"Bearer {token}"
    body: bytes | None = None
    if revoke.method == "GET":
        url += (("&" if "?" in url else "?") + encode(params)) if params else ""
    elif revoke.body == "json":
        headers["Content-Type"] = "application/json"
        body = json.dumps(params, separators=(",", ":")).encode()
    elif revoke.body == "form":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = encode(params).encode()
    return TokenRequest(revoke.method, url, headers, body)


def _taken(reply: Reply) -> bool:
    """A 2xx that names no error: some say no with 200 (Slack)."""
    if not 200 <= reply.status < 300:
        return False
    try:
        said = json.loads(reply.body or b"null")
    except (ValueError, RecursionError):
        return True
    if not isinstance(said, dict):
        return True
    return not error_of(said)[0] and said.get("ok") is not False
