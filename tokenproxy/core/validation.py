"""Whether an access token lives, as its provider says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Final

from tokenproxy.core.assertions import nonce_wanted, proof
from tokenproxy.core.injection import placed
from tokenproxy.core.places import place_of
from tokenproxy.core.provider import Account
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.steps import Flow, TokenRequest
from tokenproxy.core.token_request import USER_AGENT, as_form, asked
from tokenproxy.core.tokens import TokenSet

_DEAD: Final = frozenset({400, 401, 403, 404})


def liveness(account: Account, tokens: TokenSet, *, now: datetime) -> Flow[bool | None]:
    """Ask the provider's validate call; None where it says nothing (a 5xx, a limit) or where there is none."""
    validate = account.provider.validate
    if validate is None:
        return None
    try:
        if validate.introspect:
            url = place_of(validate.url, account.provider, tokens.captured)
            return (yield from _introspected(account, url, tokens, now=now))
        request = validate_request(account, tokens)
    except ValueError:  # a login from before the profile said so
        return None
    reply = yield from _proven(account, tokens, request, now=now)
    if reply.status in validate.ok:
        return True
    return False if reply.status in _DEAD else None


def _introspected(account: Account, url: str, tokens: TokenSet, *, now: datetime) -> Flow[bool | None]:
    """RFC 7662; an error is about us and not about the token, so that it means nothing."""
    params = {"token": tokens.access_token, "token_type_hint": "access_token"}
    reply = yield from asked(as_form(account), params, url=url, now=now)
    if reply.status != 200 or len(reply.body) > LARGEST_ANSWER:
        return None
    try:
        said = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    active = said.get("active") if isinstance(said, dict) else None
    return active if isinstance(active, bool) else None


def _proven(account: Account, tokens: TokenSet, request: TokenRequest, *, now: datetime) -> Flow[Reply]:
    """With the proof that a bound token needs at an API (RFC 9449 section 7)."""
    key = tokens.dpop_key if account.provider.dpop else None
    if not key:
        return (yield request)
    nonce = ""
    for _ in range(2):
        signed = yield proof(
            key,
            method=request.method,
            url=request.url,
            now=now,
            access_token=tokens.access_token,
            nonce=nonce,
        )
        reply = yield replace(request, headers={**request.headers, "DPoP": signed.body.decode()})
        nonce = nonce_wanted(reply, account.provider)
        if not nonce:
            break
    return reply


def validate_request(account: Account, tokens: TokenSet) -> TokenRequest:
    """
    The call that tells whether an access token lives (Deskera: GET with ``x-access-token``).

    Raises ``ValueError`` where the profile needs what no answer has brought.
    """
    provider = account.provider
    if provider.validate is None:
        raise ValueError(f"{provider.name} has no validate call")
    url = place_of(provider.validate.url, provider, tokens.captured)
    values = {
        **account.vars,
        **tokens.captured,
        "client_id": account.registration.client_id,
        "access_token": tokens.access_token,
    }
    try:
        what = placed(provider.inject, values, bound=provider.dpop and tokens.dpop_key is not None)
    except KeyError as missing:
        raise ValueError(f"a header holds {{{missing.args[0]}}}, which no answer has brought") from None
    if what.query:
        url += ("&" if "?" in url else "?") + what.query
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT} | dict(what.fields)
    return TokenRequest(provider.validate.method, url, headers, None)
