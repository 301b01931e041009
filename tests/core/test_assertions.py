"""What is signed, by hand: each claim, each header, and what travels beside the signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tokenproxy.core.account import Event
from tokenproxy.core.assertions import ASSERTION_TYPE, proof, public_half
from tokenproxy.core.grants import Ask, KeyRequest, SignRequest, TokenRequest, renewal
from tokenproxy.core.provider import Account, AssertionForm, ClientAuth, Provider, Registration, Validate
from tokenproxy.core.replies import Answer, Failure, Granted, Reply
from tokenproxy.core.steps import Flow, Step
from tokenproxy.core.tokens import TokenSet
from tokenproxy.core.validation import liveness

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCH = int(NOW.timestamp())
PLAIN = Provider(name="plain", token_url="https://p.example/token?tenant=1", client_auth=ClientAuth.NONE)
HELD = TokenSet("OLD", "REFRESH_TOKEN")
KEY = json.dumps({"kty": "EC", "crv": "P-256", "x": "X", "y": "Y", "d": "PRIVATE"})
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
"""Of RFC 9449 section 7.1, whose hash stands there too."""
SIGNED = Reply(200, {}, b"SIGNED")
GOOD = Reply(200, {}, b'{"access_token": "new", "token_type": "Bearer"}')
BOUND = Reply(200, {}, b'{"access_token": "new", "token_type": "DPoP"}')
NONCE = Reply(400, {"dpop-nonce": "n-1"}, b'{"error": "use_dpop_nonce"}')


def account(provider: Provider, **changes: Any) -> Account:
    registration = Registration(client_id="id", client_secret="secret", private_key="PEM", key_id="k1")
    return Account(name="books", provider=provider, registration=registration, **changes)


def form(step: Step) -> Mapping[str, str]:
    assert isinstance(step, TokenRequest)
    return dict(parse_qsl((step.body or b"").decode(), strict_parsing=True))


def signature(step: Step) -> SignRequest:
    assert isinstance(step, SignRequest)
    return step


def ended(flow: Flow[Any], reply: Reply) -> Any:
    with pytest.raises(StopIteration) as finished:
        flow.send(reply)
    return finished.value.value


# -- client authentication (RFC 7523 section 2.2) ------------------------------------------------------------------------


def test_an_issuer_that_is_not_the_client() -> None:
    """Revolut wants the redirect address's host, and the client id as the subject."""
    provider = replace(
        PLAIN, client_auth=ClientAuth.PRIVATE_KEY_JWT, assertion=AssertionForm(issuer="app.example")
    )
    claims = signature(next(renewal(Ask(account=account(provider), held=HELD, now=NOW)))).claims
    assert (claims["iss"], claims["sub"]) == ("app.example", "id")


@pytest.mark.parametrize(
    ("method", "key", "headers"),
    [
        (ClientAuth.PRIVATE_KEY_JWT, "PEM", {"alg": "PS256", "typ": "JWT", "kid": "k1"}),
        (ClientAuth.CLIENT_SECRET_JWT, "secret", {"alg": "HS256", "typ": "JWT"}),
    ],
)
def test_a_client_that_signs(method: ClientAuth, key: str, headers: Mapping[str, str]) -> None:
    """Issuer and subject are the client, the audience the token endpoint; the secret itself is not sent."""
    provider = replace(PLAIN, client_auth=method, assertion=AssertionForm(alg="PS256"))
    flow = renewal(Ask(account=account(provider), held=HELD, now=NOW))
    asked = signature(next(flow))
    assert (asked.key, asked.headers) == (key, headers)
    assert asked.claims == {
        "iss": "id",
        "sub": "id",
        "aud": "https://p.example/token?tenant=1",
        "iat": EPOCH,
        "exp": EPOCH + 60,
    }
    assert form(flow.send(SIGNED)) == {
        "grant_type": "refresh_token",
        "refresh_token": "REFRESH_TOKEN",
        "client_id": "id",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": "SIGNED",
    }
    assert isinstance(ended(flow, GOOD), Granted)


def test_the_profile_says_audience_and_life() -> None:
    """Later practice puts the issuer there, Revolut an address of its own."""
    assertion = AssertionForm(audience="https://issuer.example", lifetime=timedelta(minutes=5))
    provider = replace(PLAIN, client_auth=ClientAuth.PRIVATE_KEY_JWT, assertion=assertion)
    asked = signature(next(renewal(Ask(account=account(provider), held=HELD, now=NOW))))
    assert (asked.claims["aud"], asked.claims["exp"]) == ("https://issuer.example", EPOCH + 300)


def test_nothing_secret_in_what_is_to_be_signed() -> None:
    """Steps end up in tracebacks."""
    provider = replace(PLAIN, client_auth=ClientAuth.CLIENT_SECRET_JWT)
    shown = repr(next(renewal(Ask(account=account(provider), held=HELD, now=NOW))))
    assert "secret" not in shown


# -- the JWT bearer grant (RFC 7523 section 2.1) -------------------------------------------------------------------------


def test_an_assertion_of_our_own() -> None:
    """Google's service accounts: somebody else's ``sub``, a scope among the claims, an audience of one's own."""
    of = account(
        PLAIN, grant="jwt_bearer", claims={"sub": "anna@acme.example", "scope": "calendar", "iss": ""}
    )
    flow = renewal(Ask(account=of, held=None, now=NOW))
    asked = signature(next(flow))
    assert asked.headers == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert asked.claims == {
        "sub": "anna@acme.example",
        "aud": "https://p.example/token?tenant=1",
        "iat": EPOCH,
        "exp": EPOCH + 60,
        "scope": "calendar",
    }
    assert form(flow.send(SIGNED)) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "SIGNED",
        "client_id": "id",
    }
    refused = ended(flow, Reply(400, {}, b'{"error": "invalid_grant", "error_description": "SIGNED is old"}'))
    assert refused.text == "invalid_grant: … is old"


# -- proofs (RFC 9449) ---------------------------------------------------------------------------------------------------


def test_a_proof() -> None:
    """Section 4.2: the public half of the key, method and address without query, and nothing private."""
    of = "https://P.example:8443/token?x=1#y"
    asked = proof(KEY, method="POST", url=of, now=NOW, access_token=RFC_TOKEN, nonce="n")
    assert asked.headers == {
        "typ": "dpop+jwt",
        "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "x": "X", "y": "Y"},
    }
    assert asked.claims == {
        "htm": "POST",
        "htu": "https://P.example:8443/token",
        "iat": EPOCH,
        "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
        "nonce": "n",
    }
    assert asked.nonce_of == "https://p.example:8443"
    assert "PRIVATE" not in repr(asked)


def test_only_what_is_known_to_be_public_is_told() -> None:
    """An RSA key has eight private parts, and a list of those would miss the ninth."""
    assert public_half({"kty": "RSA", "n": "N", "e": "E", "d": "D", "p": "P", "k": "K", "oth": "O"}) == {
        "kty": "RSA",
        "n": "N",
        "e": "E",
    }


def test_the_held_key_proves_a_refresh() -> None:
    """A public client's refresh token is bound to it (section 5); the new tokens stay bound."""
    held = replace(HELD, dpop_key=KEY)
    flow = renewal(Ask(account=account(replace(PLAIN, dpop=True)), held=held, now=NOW))
    assert signature(next(flow)).key == KEY
    request = flow.send(SIGNED)
    assert isinstance(request, TokenRequest)
    assert request.headers["DPoP"] == "SIGNED"
    answer = ended(flow, BOUND)
    assert answer.tokens.dpop_key == KEY
    assert answer.tokens.token_type == "DPoP"


def test_without_a_key_one_is_made_first() -> None:
    """A machine's first token, or an imported one."""
    flow = renewal(
        Ask(account=account(replace(PLAIN, dpop=True), grant="client_credentials"), held=None, now=NOW)
    )
    assert isinstance(next(flow), KeyRequest)
    assert signature(flow.send(Reply(200, {}, KEY.encode()))).key == KEY
    flow.send(SIGNED)
    assert ended(flow, BOUND).tokens.dpop_key == KEY


@pytest.mark.parametrize("method", [ClientAuth.NONE, ClientAuth.PRIVATE_KEY_JWT])
def test_a_nonce_is_answered_once(method: ClientAuth) -> None:
    """Section 8: once more with the nonce, all of it signed anew; a second demand is the answer."""
    held = replace(HELD, dpop_key=KEY)
    flow = renewal(Ask(account=account(replace(PLAIN, dpop=True, client_auth=method)), held=held, now=NOW))
    step, nonces, requests = next(flow), [], 0
    answer: Answer | None = None
    while answer is None:
        if isinstance(step, TokenRequest):
            requests += 1
        elif signature(step).headers["typ"] == "dpop+jwt":
            nonces.append(step.claims.get("nonce"))  # type: ignore[union-attr]
        try:
            step = flow.send(NONCE if isinstance(step, TokenRequest) else SIGNED)
        except StopIteration as finished:
            answer = finished.value
    assert (requests, nonces) == (2, [None, "n-1"])
    assert isinstance(answer, Failure)


def test_a_nonce_that_nobody_named_is_no_reason_to_ask_again() -> None:
    """The error without the field (a broken server), and the field with a good answer."""
    held = replace(HELD, dpop_key=KEY)
    for reply in (Reply(400, {}, NONCE.body), replace(BOUND, headers={"dpop-nonce": "n-2"})):
        flow = renewal(Ask(account=account(replace(PLAIN, dpop=True)), held=held, now=NOW))
        next(flow)
        flow.send(SIGNED)
        ended(flow, reply)


@pytest.mark.parametrize(
    ("dpop", "token_type", "taken"),
    [
        (True, "DPoP", True),
        (True, "dpop", True),
        (True, "Bearer", False),
        (True, None, False),
        (False, "DPoP", False),
        (False, "Bearer", True),
        (False, None, True),
    ],
)
def test_which_tokens_are_taken(dpop: bool, token_type: str | None, taken: bool) -> None:
    """Section 5: Bearer where a bound token was wanted is a downgrade; a bound one without a key is of no use."""
    held = replace(HELD, dpop_key=KEY if dpop else None)
    flow = renewal(Ask(account=account(replace(PLAIN, dpop=dpop)), held=held, now=NOW))
    if isinstance(next(flow), SignRequest):
        flow.send(SIGNED)
    body = {"access_token": "new", "refresh_token": "rotated", "token_type": token_type}
    answer = ended(flow, Reply(200, {}, json.dumps(body).encode()))
    assert isinstance(answer, Granted) is taken
    if isinstance(answer, Failure):
        assert (answer.event, answer.rotated) == (Event.REGISTRATION_REFUSED, "rotated")


# -- the validate call ---------------------------------------------------------------------------------------------------


def test_introspection_as_rfc_7662_has_it() -> None:
    """A form with our authentication, however odd the provider's token requests are; ``active`` alone tells."""
    provider = replace(
        PLAIN,
        token_method="GET",
        token_params={"resource": "x"},
        client_auth=ClientAuth.POST,
        validate=Validate(url="https://p.example/introspect", introspect=True),
    )
    for status, body, live in (
        (200, b'{"active": true}', True),
        (200, b'{"active": false}', False),
        (200, b'{"active": "true"}', None),
        (200, b"{}", None),
        (200, b"[]", None),
        (200, b"<html>", None),
        (401, b'{"error": "invalid_client"}', None),
        (503, b'{"active": false}', None),
    ):
        flow = liveness(account(provider), HELD, now=NOW)
        request = next(flow)
        assert isinstance(request, TokenRequest)
        assert (request.method, request.url) == ("POST", "https://p.example/introspect")
        assert form(request) == {
            "token": "OLD",
            "token_type_hint": "access_token",
            "client_id": "id",
            "client_secret": "secret",
        }
        assert ended(flow, Reply(status, {}, body)) is live


def test_a_bound_token_is_validated_with_its_proof() -> None:
    """Section 7, with the hash of the token, and once more with a nonce."""
    provider = replace(PLAIN, dpop=True, validate=Validate(url="https://api.example/me"))
    flow = liveness(account(provider), replace(HELD, dpop_key=KEY), now=NOW)
    assert signature(next(flow)).claims["ath"]
    request = flow.send(SIGNED)
    assert isinstance(request, TokenRequest)
    assert request.headers["DPoP"] == "SIGNED"
    challenge = {"www-authenticate": 'DPoP error="use_dpop_nonce"', "dpop-nonce": "n-3"}
    again = signature(flow.send(Reply(401, challenge, b"")))
    assert again.claims["nonce"] == "n-3"
    flow.send(SIGNED)
    assert ended(flow, Reply(200, {}, b"")) is True
