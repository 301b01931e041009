"""Signs what flows ask to have signed (RFC 7515), and makes keys; strict about which key fits which algorithm."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from tokenproxy.core.assertions import proof
from tokenproxy.core.interfaces import Clock
from tokenproxy.core.steps import SignRequest

if TYPE_CHECKING:
    from joserfc.jwk import Key

KeyType = Literal["oct", "RSA", "EC", "OKP"]

_KEY_TYPES: Final[Mapping[str, KeyType]] = {
    "HS256": "oct",
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""Algorithms that we sign with -> the kind of key; RFC 7518 section 3.1, RFC 8037, RFC 9864."""


class KeyUnusableError(ValueError):
    """Its text is a phrase without anything of the key."""


def signed(request: SignRequest, *, nonce: str = "") -> str:
    """The compact JWS; raises ``KeyUnusableError``."""
    from joserfc import jws

    claims = dict(request.claims)
    claims.setdefault("jti", secrets.token_urlsafe(16))
    if nonce:
        claims.setdefault("nonce", nonce)
    alg = str(request.headers.get("alg"))
    key = _key(request.key, alg)
    payload = json.dumps(claims, separators=(",", ":")).encode()
    try:
        with warnings.catch_warnings():  # EdDSA's new name, short secrets: the provider chose them, not we
            warnings.simplefilter("ignore")
            return jws.serialize_compact(dict(request.headers), payload, key, algorithms=[alg])
    except Exception:  # noqa: BLE001 - whatever it is, its text could quote the key
        raise KeyUnusableError(f"the key cannot sign {alg}") from None


def check(key: str, alg: str) -> None:
    """Whether the key can sign; raises ``KeyUnusableError``."""
    signed(SignRequest(key, {"alg": alg}, {}))


def new_key() -> str:
    """A private key for ES256 as a JWK."""
    from joserfc.jwk import ECKey

    return json.dumps(ECKey.generate_key("P-256", private=True).as_dict(private=True), separators=(",", ":"))


@lru_cache(maxsize=64)
def _key(text: str, alg: str) -> Key:
    """Read once: OpenSSL checks an RSA key for as long as it takes to sign a hundred times."""
    from joserfc.jwk import import_key

    kind = _KEY_TYPES.get(alg)
    if kind is None:
        raise KeyUnusableError(f"{alg} is no algorithm that is signed with here")
    if not text:
        raise KeyUnusableError("there is no key to sign with")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = import_key(_material(text, kind), kind)
    except Exception:  # noqa: BLE001 - likewise
        raise KeyUnusableError(f"the private key cannot be read as one for {alg}") from None
    if kind != "oct" and not key.is_private:
        raise KeyUnusableError("the key is a public one, which signs nothing")
    return key


def _material(text: str, kind: KeyType) -> Any:
    if kind == "oct" or not text.lstrip().startswith("{"):
        return text
    return json.loads(text)


class Prover:
    """``core.interfaces.Prover``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def proof(self, key: str, *, method: str, url: str, access_token: str, nonce: str) -> str:
        request = proof(
            key, method=method, url=url, now=self._clock.now(), access_token=access_token, nonce=nonce
        )
        return signed(request)
