"""Which answers mean that a token is dead: by status, field and body, and which never do."""

from __future__ import annotations

import json

import pytest

from tokenproxy.core.provider import Signal
from tokenproxy.core.signals import Fields, Signals, Verdict

JSON: Fields = [(b"Content-Type", b"application/json; charset=utf-8")]
SLACK = Signals(when=(Signal(status=(200,), json={"ok": "false", "error": "token_expired"}),))
FACEBOOK = Signals(when=(Signal(status=(400,), json={"error.code": "190"}),))
NETATMO = Signals(statuses=(401, 403))
TIKTOK = Signals(unless=(Signal(json={"error.code": "scope_not_authorized"}),))


def challenge(*values: str) -> Fields:
    return [(b"www-authenticate", value.encode()) for value in values]


def body(**data: object) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([], Verdict.DEAD),
        (challenge("Bearer"), Verdict.DEAD),
        (challenge('Bearer error="invalid_token"'), Verdict.DEAD),
        (challenge('Bearer error="insufficient_scope", scope="a"'), Verdict.LIVE),
        (challenge('Bearer error="insufficient_user_authentication", acr_values="x"'), Verdict.LIVE),
        (
            challenge("Basic realm=x", 'Bearer realm="", error="insufficient_claims", claims="e30="'),
            Verdict.LIVE,
        ),
        (challenge('DPoP error="use_dpop_nonce"'), Verdict.LIVE),
        (challenge('DPoP error="insufficient_scope", Bearer error="invalid_token"'), Verdict.DEAD),
        (challenge('Bearer error_description="not insufficient_scope"'), Verdict.DEAD),
    ],
)
def test_a_401_is_a_dead_token_unless_its_challenge_says_otherwise(fields: Fields, verdict: Verdict) -> None:
    """RFC 6750 section 3.1, RFC 9470, RFC 9449 section 9: these are not cured by another token of the same kind."""
    assert Signals().at_head(401, fields) is verdict


def test_an_api_whose_tokens_die_with_403() -> None:
    """Netatmo; and RFC 6750's own 403 for a scope that is missing is still no dead token."""
    assert NETATMO.at_head(403, JSON) is Verdict.DEAD
    assert NETATMO.at_head(403, challenge('Bearer error="insufficient_scope"')) is Verdict.LIVE
    assert 403 in NETATMO.suspects
    assert 403 not in Signals().suspects


@pytest.mark.parametrize(
    ("signals", "status", "said", "verdict"),
    [
        (SLACK, 200, body(ok=False, error="token_expired"), Verdict.DEAD),
        (SLACK, 200, body(ok=True, messages=["token_expired, false"]), Verdict.LIVE),
        (SLACK, 200, body(ok="false", error="token_expired"), Verdict.DEAD),
        (SLACK, 200, b"token_expired false {", Verdict.LIVE),
        (SLACK, 200, b"", Verdict.LIVE),
        (FACEBOOK, 400, body(error={"code": 190, "type": "OAuthException"}), Verdict.DEAD),
        (FACEBOOK, 400, body(error={"code": 1900}), Verdict.LIVE),
        (FACEBOOK, 400, body(error="190"), Verdict.LIVE),
        (FACEBOOK, 400, b"[190]", Verdict.LIVE),
        (TIKTOK, 401, body(error={"code": "scope_not_authorized"}), Verdict.LIVE),
        (TIKTOK, 401, body(error={"code": "access_token_invalid"}), Verdict.DEAD),
    ],
)
def test_a_body_tells(signals: Signals, status: int, said: bytes, verdict: Verdict) -> None:
    """Slack, Facebook, TikTok; a value counts at its path and whole."""
    assert signals.at_head(status, JSON) is Verdict.UNTOLD
    assert signals.with_body(status, JSON, said) is verdict


def test_a_list_is_stepped_into_by_number() -> None:
    graphql = Signals(when=(Signal(status=(200,), json={"errors.0.extensions.code": "UNAUTHENTICATED"}),))
    said = body(errors=[{"extensions": {"code": "UNAUTHENTICATED"}}])
    assert graphql.with_body(200, JSON, said) is Verdict.DEAD
    assert graphql.with_body(200, JSON, body(errors=[])) is Verdict.LIVE


def test_fields_and_parts_of_a_body_tell() -> None:
    """Every part that is given must fit; a field's value in any case, "" for its mere presence."""
    signals = Signals(
        statuses=(),
        when=(
            Signal(status=(302,), header={"location": "/Login"}),
            Signal(status=(200,), header={"x-expired": ""}),
            Signal(status=(500,), body="session is over"),
        ),
    )
    assert signals.at_head(302, [(b"Location", b"https://sso.example/login?x")]) is Verdict.DEAD
    assert signals.at_head(302, [(b"Location", b"/home")]) is Verdict.LIVE
    assert signals.at_head(200, [(b"X-Expired", b"")]) is Verdict.DEAD
    assert signals.at_head(200, []) is Verdict.LIVE
    assert signals.at_head(401, []) is Verdict.LIVE
    assert signals.with_body(500, [], b"... session is over ...") is Verdict.DEAD
    assert set(signals.suspects) == {200, 302, 500}


def test_what_the_profile_says_goes_before_the_standards_and_exclusions_before_both() -> None:
    signals = Signals(
        when=(Signal(status=(401,), header={"www-authenticate": "insufficient_claims"}),),
        unless=(Signal(header={"x-region": "eu"}),),
    )
    said = challenge('Bearer error="insufficient_claims"')
    assert signals.at_head(401, said) is Verdict.DEAD
    assert signals.at_head(401, [*said, (b"X-Region", b"eu-1")]) is Verdict.LIVE


@pytest.mark.parametrize(
    ("fields", "looked_at"),
    [
        ([], True),
        (JSON, True),
        ([(b"content-type", b"application/problem+json")], True),
        ([(b"content-type", b"text/html")], True),
        ([(b"content-type", b"text/event-stream")], False),
        ([(b"content-type", b"application/octet-stream")], False),
        ([(b"content-type", b"application/x-ndjson")], False),
        ([*JSON, (b"content-encoding", b"gzip")], False),
        ([*JSON, (b"content-encoding", b"identity")], True),
    ],
)
def test_only_bodies_that_can_be_read_are_waited_for(fields: Fields, looked_at: bool) -> None:
    """What is compressed or a stream goes on at once, and shows nothing."""
    assert SLACK.at_head(200, fields) is (Verdict.UNTOLD if looked_at else Verdict.LIVE)
    assert TIKTOK.at_head(401, fields) is (Verdict.UNTOLD if looked_at else Verdict.DEAD)


def test_a_signal_without_a_status_makes_every_answer_suspect() -> None:
    assert all(status in Signals(when=(Signal(body="x"),)).suspects for status in (100, 200, 404, 599))
    assert set(SLACK.suspects) == {200, 401}
    assert (SLACK.by_body, NETATMO.by_body) == (True, False)
