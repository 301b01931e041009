"""What we sign: assertions that say who we are (RFC 7523), and proofs that a key is ours (RFC 9449)."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from tokenproxy.core.provider import Account, ClientAuth, Provider, origin_of
from tokenproxy.core.replies import Reply, decode
from tokenproxy.core.steps import SignRequest

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PROOF_ALG: Final = "ES256"
_PUBLIC: Final = ("kty", "crv", "x", "y", "n", "e")


def client_assertion(account: Account, *, now: datetime) -> SignRequest:
    """Who asks, in the place of a secret (RFC 7523 section 3); a fresh one for every attempt, a ``jti`` counts once."""
    registration, provider = account.registration, account.provider
    issuer = provider.assertion.issuer or registration.client_id
    claims = {"iss": issuer, "sub": registration.client_id, **_times(provider, now)}
    if provider.client_auth is ClientAuth.CLIENT_SECRET_JWT:
        return SignRequest(registration.client_secret, {"alg": "HS256", "typ": "JWT"}, claims)
    return SignRequest(registration.private_key, _headers(account), claims)


def grant_assertion(account: Account, *, now: datetime) -> SignRequest:
    """For whom we ask (RFC 7523 section 2.1); the account's own claims go before ours."""
    client_id = account.registration.client_id
    claims = {"iss": client_id, "sub": client_id, **_times(account.provider, now), **account.claims}
    return SignRequest(
        account.registration.private_key,
        _headers(account),
        {name: value for name, value in claims.items() if value != ""},
    )


def _headers(account: Account) -> dict[str, str]:
    headers = {"alg": account.provider.assertion.alg, "typ": "JWT"}
    if account.registration.key_id:
        headers["kid"] = account.registration.key_id
    return headers


def _times(provider: Provider, now: datetime) -> dict[str, Any]:
    form = provider.assertion
    issued = int(now.timestamp())
    return {
        "aud": form.audience or provider.token_url,
        "iat": issued,
        "exp": issued + int(form.lifetime.total_seconds()),
    }


def proof(
    key: str, *, method: str, url: str, now: datetime, access_token: str = "", nonce: str = ""
) -> SignRequest:
    """
    That the key is ours, for one request (RFC 9449 section 4.2); ``key`` is a private JWK as JSON.

    ``url`` loses its query and fragment. ``access_token``: the one that travels with the request (``ath``).
    """
    claims: dict[str, Any] = {
        "htm": method,
        "htu": url.partition("#")[0].partition("?")[0],
        "iat": int(now.timestamp()),
    }
    if access_token:
        claims["ath"] = urlsafe_b64encode(sha256(access_token.encode()).digest()).decode().rstrip("=")
    if nonce:
        claims["nonce"] = nonce
    headers = {"typ": "dpop+jwt", "alg": PROOF_ALG, "jwk": public_half(json.loads(key))}
    return SignRequest(key, headers, claims, nonce_of=origin_of(url))


def public_half(jwk: Mapping[str, str]) -> dict[str, str]:
    """A JWK without what is secret of it: what is known to be public is taken, and nothing else (RFC 7518 section 6)."""
    return {name: jwk[name] for name in _PUBLIC if name in jwk}


def nonce_wanted(reply: Reply, provider: Provider) -> str:
    """The nonce that a server asks for before it looks at anything else (RFC 9449 section 8); "" where it does not."""
    if reply.status not in {400, 401}:
        return ""
    said = decode(reply, provider.answer) or {}
    if said.get("error") != "use_dpop_nonce" and "use_dpop_nonce" not in reply.headers.get(
        "www-authenticate", ""
    ):
        return ""
    return reply.headers.get("dpop-nonce", "")
