"""Real keys and real signatures; a key that does not fit its algorithm signs nothing."""

from __future__ import annotations

import json
import warnings

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from tokenproxy.core.assertions import public_half
from tokenproxy.core.steps import SignRequest
from tokenproxy.oauth.signer import KeyUnusableError, new_key, signed

Keys = RSAKey | ECKey | OKPKey
RSA = RSAKey.generate_key(2048)


def pem(key: Keys) -> str:
    return key.as_pem(private=True).decode()


def jwk(key: Keys) -> str:
    return json.dumps(key.as_dict(private=True))


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("RS256", RSA),
        ("PS256", RSA),
        ("RS512", RSA),
        ("ES256", ECKey.generate_key("P-256")),
        ("ES384", ECKey.generate_key("P-384")),
        ("ES512", ECKey.generate_key("P-521")),
        ("EdDSA", OKPKey.generate_key("Ed25519")),
        ("Ed25519", OKPKey.generate_key("Ed25519")),
    ],
)
def test_a_signature_can_be_verified(alg: str, key: Keys) -> None:
    """From PEM and from JWK; each with a ``jti`` of its own."""
    seen = set()
    for text in (pem(key), jwk(key)):
        token = signed(SignRequest(text, {"alg": alg, "kid": "k"}, {"iss": "id"}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = jws.deserialize_compact(token, key, algorithms=[alg])
        claims = json.loads(found.payload)
        assert found.headers() == {"alg": alg, "kid": "k"}
        assert claims["iss"] == "id"
        assert len(claims["jti"]) >= 22
        seen.add(claims["jti"])
    assert len(seen) == 2


def test_a_client_secret_signs_whatever_its_length() -> None:
    """The provider chose it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = signed(SignRequest("short", {"alg": "HS256"}, {"jti": "given"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = jws.deserialize_compact(token, OctKey.import_key("short"), algorithms=["HS256"])
    assert json.loads(found.payload) == {"jti": "given"}


def test_a_new_key_is_one_for_proofs() -> None:
    """ES256, different each time."""
    key = new_key()
    token = signed(SignRequest(key, {"alg": "ES256"}, {}), nonce="n")
    found = jws.deserialize_compact(
        token, ECKey.import_key({**public_half(json.loads(key))}), algorithms=["ES256"]
    )
    assert json.loads(found.payload)["nonce"] == "n"
    assert new_key() != key


@pytest.mark.parametrize(
    ("alg", "key", "says"),
    [
        ("none", "x", "none is no algorithm"),
        ("HS512", "x" * 64, "HS512 is no algorithm"),
        ("RS256", jwk(ECKey.generate_key("P-256")), "cannot be read as one for RS256"),
        ("ES256", pem(ECKey.generate_key("P-384")), "the key cannot sign ES256"),
        ("RS256", RSA.as_pem(private=False).decode(), "public"),
        ("RS256", "-----BEGIN PRIVATE KEY-----\nhunter2", "cannot be read as one for RS256"),
        ("ES256", "{hunter2", "cannot be read as one for ES256"),
        ("RS256", "", "no key"),
    ],
)
def test_a_key_that_does_not_fit_signs_nothing(alg: str, key: str, says: str) -> None:
    """RFC 8725 section 3.1; and no error quotes a key."""
    with pytest.raises(KeyUnusableError, match=says) as raised:
        signed(SignRequest(key, {"alg": alg}, {}))
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None
