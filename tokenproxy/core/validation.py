"""Whether an access token lives, as its provider says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Final

from tokenproxy.core.assertions import nonce_wanted, proof
from tokenproxy.core.provider import Account, Validate
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.steps import Flow, TokenRequest
from tokenproxy.core.token_request import USER_AGENT, as_form, asked, encode
from tokenproxy.core.tokens import TokenSet

_DEAD: Final = frozenset({400, 401, 403, 404})


def liveness(account: Account, tokens: TokenSet, *, now: datetime) -> Flow[bool | None]:
    """Ask the provider's validate call; None where it says nothing (a 5xx, a limit) or where there is none."""
    validate = account.provider.validate
    if validate is None:
        return None
    if validate.introspect:
        return (yield from _introspected(account, validate, tokens, now=now))
    request = validate_request(account, tokens)
    reply = yield from _proven(account, tokens, request, now=now)
    if reply.status in validate.ok:
        return True
    return False if reply.status in _DEAD else None


def _introspected(
    account: Account, validate: Validate, tokens: TokenSet, *, now: datetime
) -> Flow[bool | None]:
    """RFC 7662; an error is about us and not about the token, so that it means nothing."""
    params = {"token": tokens.access_token, "token_type_hint": "access_token"}
    reply = yield from asked(as_form(account), params, url=validate.url, now=now)
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
    """The call that tells whether an access token lives (Deskera: GET with ``x-access-token``)."""
    provider = account.provider
    if provider.validate is None:
        raise ValueError(f"{provider.name} has no validate call")
    inject, url = provider.inject, provider.validate.url
    known = {
        "access_token": tokens.access_token,
        "client_id": account.registration.client_id,
        **account.vars,
        **tokens.captured,
    }
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    headers |= {name: _filled(value, known) for name, value in inject.headers.items()}
    if inject.query:
        url += ("&" if "?" in url else "?") + encode({inject.query: tokens.access_token})
    elif inject.header:
        headers[inject.header] = _filled(inject.value, known)
    return TokenRequest(provider.validate.method, url, headers, None)


def _filled(template: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        template = template.replace(f"{{{name}}}", value)
    return template
