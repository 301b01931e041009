"""Token answers as providers really send them, and as an attacker might."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.provider import Account, AnswerFields, ClientAuth, ErrorCodes, Provider, Registration
from tokenproxy.core.replies import (
    LARGEST_ANSWER,
    Answer,
    Failure,
    Granted,
    Reply,
    jwt_claims,
    read_answer,
    read_import,
    read_token,
    retry_after,
    without,
)
from tokenproxy.core.token_request import token_request
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCH = NOW.timestamp()
PLAIN = Provider(name="plain", token_url="https://p.example/token")
ABSENT = object()


def jwt(**claims: Any) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".sig"


def read(
    body: bytes | str | dict[str, Any], status: int = 200, *, provider: Provider = PLAIN, **headers: str
) -> Answer:
    if isinstance(body, dict):
        body = json.dumps(body)
    raw = body.encode() if isinstance(body, str) else body
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_answer(Reply(status, names, raw), provider=provider, asked_at=NOW, scope_asked="asked")


def granted(body: bytes | str | dict[str, Any], status: int = 200, *, provider: Provider = PLAIN) -> TokenSet:
    answer = read(body, status, provider=provider)
    assert isinstance(answer, Granted), answer
    return answer.tokens


def failed(
    body: bytes | str | dict[str, Any], status: int = 200, *, provider: Provider = PLAIN, **headers: str
) -> Failure:
    answer = read(body, status, provider=provider, **headers)
    assert isinstance(answer, Failure)
    return answer


# -- expiry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (3600, 3600),
        ("3600", 3600),
        (" 3600 ", 3600),
        (3600.0, 3600),
        ("3600.5", 3600.5),
        (0.5, 0.5),
        (EPOCH + 120, 120),  # an absolute time in the wrong field
        ((EPOCH + 120) * 1000, 120),
        (0, None),
        ("0", None),
        (-1, None),
        (None, None),
        ("", None),
        (ABSENT, None),
        (1e18, None),
        (10**400, None),
        ("9" * 400, None),
        (True, None),
        (False, None),
        (float("nan"), None),
        (float("inf"), None),
        ("NaN", None),
        ("1h", None),
        ("177:05:38", None),
        ([3600], None),
        ({"seconds": 3600}, None),
        (6e9, None),  # more than a century, as an absolute time too
    ],
    ids=lambda value: "absent" if value is ABSENT else str(value)[:20],
)
def test_odd_lifetimes(value: Any, wanted: float | None) -> None:
    """Zero, null and nonsense are unknown, never expired: Deskera and Mailchimp send 0."""
    fields = {} if value is ABSENT else {"expires_in": value}
    tokens = granted({"access_token": "a", **fields})
    assert tokens.expires_at == (NOW + timedelta(seconds=wanted) if wanted else None)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (EPOCH + 90, 90),
        (EPOCH + 90.25, 90.25),
        (str(EPOCH + 90), 90),
        ((EPOCH + 90) * 1000, 90),
        ("2026-03-01T12:01:30Z", 90),
        ("2026-03-01T14:01:30+02:00", 90),
        ("2026-03-01T12:01:30", 90),
        ("2026-03-01", None),
        (EPOCH - 1, None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("tomorrow", None),
        (0, None),
        (True, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["expires_at", "expiresAt", "expires_on", "expires"])
def test_absolute_expiries(name: str, value: Any, wanted: float | None) -> None:
    """Seconds, milliseconds (over 10^11), ISO 8601; what lies in the past says nothing."""
    tokens = granted({"access_token": "a", name: value})
    assert tokens.expires_at == (NOW + timedelta(seconds=wanted) if wanted else None)


@pytest.mark.parametrize("name", ["expires_at", "expires_on", "expires"])
@pytest.mark.parametrize("value", [EPOCH - 1, str(EPOCH - 1), (EPOCH - 1) * 1000, "2026-03-01T11:59:59Z"])
def test_what_lay_somewhere_may_be_over(name: str, value: Any) -> None:
    """A token file from yesterday is no fresh one, whatever its ``expires_in`` said when it was written."""
    answer = json.dumps({"access_token": "a", "refresh_token": "r", name: value, "expires_in": 3600}).encode()
    tokens = read_import(answer, provider=PLAIN, now=NOW, scope=None)
    assert tokens is not None
    assert tokens.expires_at == NOW - timedelta(seconds=1)
    file = read_token(answer.decode(), provider=PLAIN, now=NOW)
    assert file is not None
    assert file.expires_at == NOW - timedelta(seconds=1)


@pytest.mark.parametrize("value", [0, -5, 12, "0001-01-01T00:00:00", "1999-12-31T00:00:00Z"])
def test_no_expiry_at_all_is_not_one_in_the_past(value: Any) -> None:
    """Zero and what must be a mistake say nothing, here as in an answer."""
    tokens = read_import(
        json.dumps({"access_token": "a", "expires_at": value}).encode(), provider=PLAIN, now=NOW, scope=None
    )
    assert tokens is not None
    assert tokens.expires_at is None


@pytest.mark.parametrize(
    ("fields", "claims", "wanted"),
    [
        ({"expires_at": EPOCH + 10, "expires_in": 20, "expires": 30}, {"exp": 140, "iat": 100}, 10),
        ({"expires_at": 0, "expires_in": 20}, {"exp": 140, "iat": 100}, 20),
        ({"expires_at": 0, "expires_on": EPOCH + 15, "expires_in": 20}, {}, 15),
        ({"expires_in": 0, "expiresIn": 25}, {}, 25),
        ({"expires_in": None, "expires": "30"}, {"exp": 140, "iat": 100}, 30),
        ({"expires_in": 0}, {"exp": 140, "iat": 100}, 40),  # relative, so no wrong clock can spoil it
        ({"expires_in": 0}, {"exp": EPOCH + 50}, 50),
        ({"expires_in": 0}, {"exp": str(EPOCH + 50)}, 50),
        ({"expires_in": 0}, {"exp": 100, "iat": 140}, 77),
        ({"expires_in": 0}, {"exp": 10}, 77),
        ({"expires_in": 0}, {"exp": True}, 77),
        ({"expires_in": 0}, {"exp": {}}, 77),
    ],
    ids=str,
)
def test_the_first_sensible_expiry_counts(
    fields: dict[str, Any], claims: dict[str, Any], wanted: float
) -> None:
    """The answer's fields, the JWT, the profile's default (77 s here), in this order; nonsense means "next"."""
    provider = Provider(name="p", token_url="https://p.example/t", lifetime=timedelta(seconds=77))
    tokens = granted({"access_token": jwt(**claims), **fields}, provider=provider)
    assert tokens.expires_at == NOW + timedelta(seconds=wanted)
    assert tokens.issued_at == NOW


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"refresh_token_expires_in": 100}, 100),
        ({"refresh_expires_in": "100"}, 100),
        ({"x_refresh_token_expires_in": 100}, 100),
        ({"refresh_expires_in": 0}, None),
        ({"refresh_token": jwt(exp=1100, iat=1000)}, 100),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_end_of_a_login(fields: dict[str, Any], wanted: float | None) -> None:
    """A person is told before it comes; Keycloak's 0 means "no end"."""
    tokens = granted({"access_token": "a", "refresh_token": "r", **fields})
    assert tokens.refresh_expires_at == (NOW + timedelta(seconds=wanted) if wanted else None)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.e30.c",
        "..",
        "a.!!!.c",
        "a.bnVsbA.c",
        "a.WzFd.c",
        "eyJ.eyJ.x",
        "a." + "W" * 99 + ".c",
    ],
)
def test_what_is_no_jwt_has_no_claims(token: str) -> None:
    """Opaque tokens may have dots, too."""
    assert jwt_claims(token) == {}


def test_a_bomb_of_brackets_in_a_jwt() -> None:
    """A provider that went mad must not end our process."""
    payload = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")
    assert jwt_claims(f"a.{payload}.c") == {}


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_an_answer_as_the_rfc_has_it() -> None:
    """Every field where it belongs; what was asked for is not what was granted."""
    tokens = granted(
        {"access_token": "a", "refresh_token": "r", "token_type": "bearer", "scope": "x y", "expires_in": 60}
    )
    assert tokens == TokenSet(
        "a", "r", "bearer", "x y", "asked", NOW, NOW + timedelta(seconds=60), None, None, 1
    )


@pytest.mark.parametrize(
    "body",
    [
        '{"access_token":"a","refresh_token":"r"}',
        '﻿{"access_token":"a","refresh_token":"r"}',
        ' \r\n {"access_token":" a\\n","refresh_token":"\\tr"}\n',
        '{"accessToken":"a","refreshToken":"r"}',
        '{"access_token":"","accessToken":"a","refresh_token":null,"refreshToken":"r"}',
        "access_token=a&refresh_token=r&scope=",
        "accessToken=a&refreshToken=%72",
        '{"access_token":"a","refresh_token":"r","scope":null,"token_type":null,"unknown":[{}]}',
        '{"access_token":"a","refresh_token":"r","error":null,"errors":[],"error_description":""}',
        '{"access_token":"a","refresh_token":"r","error":false,"ok":true,"message":"ok"}',
    ],
)
@pytest.mark.parametrize("status", [200, 201, 203])
def test_shapes_of_a_good_answer(body: str, status: int) -> None:
    """Whatever the content type says: JSON, with a BOM, in camelCase, or a form."""
    tokens = granted(body, status)
    assert (tokens.access_token, tokens.refresh_token, tokens.token_type) == ("a", "r", "Bearer")


def test_fields_in_depth() -> None:
    """Slack, Withings, TikTok nest; Deskpro says ``token``: all of it is data."""
    fields = AnswerFields(
        access_token=("token", "data.signIn.token"),
        refresh_token=("data.refresh",),
        expires_in=("data.signIn.ttl",),
    )
    provider = Provider(name="p", token_url="https://p.example/t", answer=fields)
    tokens = granted(
        {"token": {}, "data": {"signIn": {"token": "a", "ttl": 9}, "refresh": "r"}}, provider=provider
    )
    assert (tokens.access_token, tokens.refresh_token) == ("a", "r")
    assert tokens.expires_at == NOW + timedelta(seconds=9)
    assert granted({"token": "t"}, provider=provider).access_token == "t"
    assert granted("token=t", provider=provider).access_token == "t"


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (["a", "b"], "a b"),
        ("a,b", "a,b"),
        ("", None),
        ([], None),
        (5, None),
        ("a\r\nb", "a  b"),
        ("\ud800", " "),
    ],
    ids=repr,
)
def test_scopes_in_any_shape(scope: Any, wanted: str | None) -> None:
    """A list at Twitch; never a reason to fail, and never a second line."""
    assert granted({"access_token": "a", "scope": scope}).scope == wanted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html><body>access_token=a&amp;refresh_token=r</body></html>",
        b"<!doctype html>\n<form action='?access_token=a'>",
        b"null",
        b"[]",
        b'["access_token"]',
        b"42",
        b'"access_token"',
        b"{",
        b'{"access_token":"a"',
        b"\xff\xfe\x00",
        b"hello=world",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"access_token":"a","n":' + b"9" * 10_000 + b"}",
        b'{"access_token":"' + b"a" * LARGEST_ANSWER + b'"}',
        json.dumps({"access_token": "a"}).encode("utf-16"),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_token_answer_is_a_passing_fault(body: bytes) -> None:
    """Maintenance pages come with 200; nothing is overwritten, and it is tried again."""
    failure = failed(body)
    assert (failure.event, failure.reason, failure.rotated) == (
        Event.PROVIDER_DOWN,
        Reason.BAD_ANSWER,
        None,
    )
    assert len(failure.text) < 100


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "a\r\nX-Injected: 1",
        "a\nb",
        "a\rb",
        "a b",
        "a\tb",
        "a\0b",
        "a\x7f",
        "tökén",
        "a\u2028b",
        "\ud800",
        "  ",
        7,
        True,
        ["a"],
        {"token": "a"},
    ],
    ids=repr,
)
def test_an_access_token_that_no_header_can_carry(token: Any) -> None:
    """CR LF would be a header injection; and the new refresh token beside it is kept, for the old one is spent."""
    failure = failed({"access_token": token, "refresh_token": "r2"})
    assert (failure.event, failure.reason, failure.rotated) == (
        Event.PROVIDER_DOWN,
        Reason.BAD_ANSWER,
        "r2",
    )
    assert "r2" not in repr(failure)
    assert str(token) not in failure.text


@pytest.mark.parametrize("token", ["a" * 65536, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", " padded\r\n"], ids=len)
def test_tokens_of_any_size_and_visible_sign(token: str) -> None:
    """RFC 6749 section 5.1: no size may be assumed."""
    tokens = granted({"access_token": token, "refresh_token": token})
    assert tokens.access_token == tokens.refresh_token == token.strip()


@pytest.mark.parametrize("token", [None, "", ABSENT], ids=["null", "empty", "absent"])
def test_no_refresh_token_in_the_answer(token: Any) -> None:
    """RFC 6749 section 6: then the old one stays; three spellings of the same."""
    fields = {} if token is ABSENT else {"refresh_token": token}
    assert granted({"access_token": "a", **fields}).refresh_token is None


def test_a_refresh_token_may_have_blanks_inside() -> None:
    """RFC 6749 appendix A.17 lets it; no header carries it, and losing a rotated one would end the login."""
    assert granted({"access_token": "a", "refresh_token": "r 2"}).refresh_token == "r 2"
    assert granted({"access_token": "a", "refresh_token": "r\r\n2"}).refresh_token is None


@pytest.mark.parametrize("kind", ["mac", "DPoP", "pop", "N_A"])
def test_types_that_we_cannot_use(kind: str) -> None:
    """RFC 6749 section 7.1; the refresh token is kept."""
    failure = failed({"access_token": "a", "refresh_token": "r2", "token_type": kind})
    assert (failure.event, failure.reason, failure.rotated) == (
        Event.REGISTRATION_REFUSED,
        Reason.REQUEST_REFUSED,
        "r2",
    )


def test_no_access_token_at_all() -> None:
    """An empty success is none."""
    assert failed({"refresh_token": "r2"}).rotated == "r2"
    assert failed({}).reason is Reason.BAD_ANSWER


# -- errors ------------------------------------------------------------------------------------------------------------

REFUSED = (Event.REFUSED, Reason.REFUSED)
CLIENT = (Event.REGISTRATION_REFUSED, Reason.CLIENT_REFUSED)
REQUEST = (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED)
DOWN = (Event.PROVIDER_DOWN, Reason.PROVIDER_DOWN)
RATE = (Event.PROVIDER_DOWN, Reason.RATE_LIMITED)
BAD = (Event.PROVIDER_DOWN, Reason.BAD_ANSWER)


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (400, {"error": "invalid_grant"}, REFUSED),
        (401, {"error": "invalid_grant"}, REFUSED),
        (403, {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}, REFUSED),
        (500, {"error": "invalid_grant"}, REFUSED),
        (200, {"error": "invalid_grant"}, REFUSED),
        (200, {"error": "bad_refresh_token"}, REFUSED),
        (200, {"ok": False, "error": "invalid_refresh_token"}, REFUSED),
        (200, {"error": "invalid_code"}, REFUSED),
        (400, {"error": "INVALID_GRANT"}, REFUSED),
        (400, {"error": {"code": "invalid_grant", "message": "x"}}, REFUSED),
        (401, {"success": False, "errors": [{"errorType": "invalid_grant", "message": "x"}]}, REFUSED),
        (400, "error=invalid_grant&error_description=gone", REFUSED),
        (200, {"error": "invalid_grant", "access_token": "a"}, REFUSED),
        (401, {"error": "invalid_client"}, CLIENT),
        (400, {"error": "unauthorized_client"}, CLIENT),
        (200, {"error": "incorrect_client_credentials"}, CLIENT),
        (401, {"message": "Unauthenticated."}, CLIENT),
        (401, b"", CLIENT),
        (400, {"error": "invalid_scope"}, REQUEST),
        (400, {"error": "invalid_request"}, REQUEST),
        (401, {"error": "invalid_request", "error_description": "The refresh token is invalid."}, REQUEST),
        (400, {"error": "unsupported_grant_type"}, REQUEST),
        (400, {"error": "invalid_target"}, REQUEST),
        (404, b"<h1>Not Found</h1>", REQUEST),
        (405, b"", REQUEST),
        (415, {"error": {"message": "x", "type": "unsupported", "request_id": "1"}}, REQUEST),
        (301, b"", REQUEST),
        (302, {"access_token": "a"}, REQUEST),
        (429, b"", RATE),
        (429, {"error": "invalid_grant"}, RATE),
        (400, {"error": "slow_down"}, RATE),
        (503, b"<h1>Maintenance</h1>", DOWN),
        (500, {"error": {"message": "x"}}, DOWN),
        (502, {"message": "bad gateway"}, DOWN),
        (400, {"error": "temporarily_unavailable"}, DOWN),
        (400, {"error": "server_error"}, DOWN),
        (408, {"message": "x"}, DOWN),
        (409, {"message": "x"}, DOWN),
        (403, b"<h1>Forbidden</h1>", BAD),
        (400, {"error": "access_denied"}, BAD),
        (400, {"error": 17}, BAD),
        (400, {"error": ["invalid_grant"]}, BAD),
        (400, {"access_token": "a"}, BAD),
        (200, {"error": "something_new"}, BAD),
    ],
    ids=lambda value: str(value)[:60],
)
def test_classes_of_failure(status: int, body: Any, wanted: tuple[Event, Reason]) -> None:
    """Only a word like ``invalid_grant`` ends a login; everything else leaves the tokens alone."""
    failure = failed(body, status)
    assert (failure.event, failure.reason) == wanted


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (
            400,
            {"error": "access_denied", "error_description": "Rate limit: access_token not expired"},
            (Event.PROVIDER_DOWN, Reason.TOO_EARLY),
        ),
        (400, {"error": "access_denied", "error_description": "no"}, CLIENT),
        (401, {"error": "invalid_request", "error_description": "The Refresh Token is invalid."}, REFUSED),
        (401, {"error": "invalid_request", "message": "The refresh token is invalid."}, REFUSED),
        (400, {"error": "invalid_request", "error_description": "scope"}, REQUEST),
        (200, {"error": "Access Denied"}, RATE),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_providers_own_words(status: int, body: Any, wanted: tuple[Event, Reason]) -> None:
    """Exact, Atlassian, league/oauth2-server before 9, Zoho: words are data, and go before the standard's."""
    errors = ErrorCodes(
        refused=("invalid_request:refresh token",),
        misconfigured=("access_denied",),
        rate_limited=("access denied",),
        too_early=("access_denied:access_token not expired",),
    )
    provider = Provider(name="p", token_url="https://p.example/t", errors=errors)
    failure = failed(body, status, provider=provider)
    assert (failure.event, failure.reason) == wanted


def test_what_the_provider_said_is_one_short_line() -> None:
    """It is shown on terminals and pages."""
    text = failed({"error": "x" * 500, "error_description": "a\x1b[2J\r\nb" + "c" * 5000}, 400).text
    assert text.isprintable()
    assert len(text) <= 300
    assert (
        failed({"error": "invalid_scope", "error_description": "no such"}, 400).text
        == "invalid_scope: no such"
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0.0),
        ("Sun, 01 Mar 2037 12:01:00 GMT", 86400.0),
        ("9" * 400, 86400.0),
        ("-7", None),
        ("7.5", None),
        ("\u0667", None),  # a digit, and no ASCII one
        ("soon", None),
        ("", None),
        ("Sun, 99 Mar 2026 12:01:00 GMT", None),
        ("Sun, 01 Mar 99999999 12:01:00 GMT", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_retry_after_in_both_forms(value: str, wanted: float | None) -> None:
    """RFC 9110 section 10.2.3; dates count from the answer's own ``Date``, so that our clock does not matter."""
    headers = {"retry-after": value, "date": "Sun, 01 Mar 2026 12:00:00 GMT"}
    assert retry_after(Reply(503, headers, b"")) == wanted


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 01 Mar 2026 12:00:00"])
def test_a_date_without_a_date_to_count_from(date: str | None) -> None:
    """Guessing from our own clock could make it a day."""
    headers = {"retry-after": "Sun, 01 Mar 2026 12:01:00 GMT"} | ({} if date is None else {"date": date})
    assert retry_after(Reply(429, headers, b"")) is None


def test_retry_after_with_html_counts_too() -> None:
    """Gateways answer for the provider."""
    assert failed(b"<h1>Slow down</h1>", 429, retry_after="9").retry_after == 9.0


# -- import ------------------------------------------------------------------------------------------------------------


def imported(given_: bytes | str | dict[str, Any], *, scope: str | None = "configured") -> TokenSet | None:
    raw = json.dumps(given_) if isinstance(given_, dict) else given_
    return read_import(raw.encode() if isinstance(raw, str) else raw, provider=PLAIN, now=NOW, scope=scope)


def test_import_of_an_answer() -> None:
    """The provider's JSON as it came; the scope of the config is what a refresh will repeat."""
    tokens = imported({"access_token": "a", "refresh_token": "r", "expires_in": 60, "scope": "granted"})
    assert tokens is not None
    assert (tokens.access_token, tokens.refresh_token) == ("a", "r")
    assert (tokens.scope, tokens.scope_asked) == ("granted", "configured")
    assert tokens.expires_at == NOW + timedelta(seconds=60)
    again = imported({"access_token": "a", "scope": "granted"}, scope=None)
    assert again is not None
    assert again.scope_asked == "granted"


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"exp": EPOCH + 9, "iat": EPOCH - 3591}, 9),
        ({"exp": EPOCH + 9000}, 60),
        ({"exp": EPOCH - 5}, -5),
        ({"exp": 1e15}, 60),
    ],
    ids=str,
)
def test_an_old_answer_is_no_fresh_one(claims: dict[str, Any], wanted: float) -> None:
    """``expires_in`` counts from an answer of unknown age, so the JWT's own end is believed where it is earlier."""
    tokens = imported({"access_token": jwt(**claims), "refresh_token": "r", "expires_in": 60})
    assert tokens is not None
    assert tokens.expires_at == NOW + timedelta(seconds=wanted)


@pytest.mark.parametrize(
    "given_", ["r1", " r1\n", "﻿r1", "12345", "a/b+c==", {"refresh_token": "r1"}], ids=str
)
def test_import_of_a_bare_refresh_token(given_: Any) -> None:
    """What ``jq -r .refresh_token`` prints, line feed and all; there is no access token, so it is renewed first."""
    tokens = imported(given_)
    assert tokens is not None
    assert tokens.refresh_token == (
        given_["refresh_token"] if isinstance(given_, dict) else given_.strip("﻿ \n")
    )
    assert tokens.access_token == ""
    assert tokens.expires_at == NOW
    assert tokens.scope_asked == "configured"


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "\n",
        "null\n",
        "true",
        "two words",
        "<html>",
        "{",
        "[]",
        '"quoted"',
        "tökén",
        {"error": "invalid_grant"},
        {"access_token": "a\r\nb"},
        {},
        b"\xff\xfe",
        b"\0",
    ],
    ids=repr,
)
def test_import_of_garbage(given_: Any) -> None:
    """``null`` is what jq prints for a field that is not there; storing it would replace a login with nothing."""
    assert imported(given_) is None


# -- anything at all ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "access_token",
        "accessToken",
        "refresh_token",
        "expires_in",
        "expires_at",
        "expires_on",
        "expires",
        "token_type",
        "scope",
        "error",
        "error_description",
        "errors",
        "message",
        "refresh_expires_in",
        "data",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.builds(jwt, exp=st.floats(), iat=st.integers()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = (
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(NAMES, VALUES, max_size=6).map(lambda value: json.dumps(value).encode())
    | st.dictionaries(NAMES, st.text(max_size=9), max_size=6).map(
        lambda value: urlencode(value, errors="replace").encode()
    )
)


@given(
    body=BODIES,
    status=st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 409, 429, 500, 503]),
    after=st.text(max_size=40) | st.just("Sun, 01 Mar 2026 12:01:00 GMT"),
    date=st.text(max_size=40) | st.just("Sun, 01 Mar 2026 12:00:00 GMT"),
)
@example(body=b'{"access_token":"a","expires":1e308}', status=200, after="", date="")
def test_no_answer_makes_us_raise(body: bytes, status: int, after: str, date: str) -> None:
    """Whatever comes is either a token set that a header can carry, or a failure with a line of text."""
    reply = Reply(status, {"retry-after": after, "date": date}, body)
    answer = read_answer(reply, provider=PLAIN, asked_at=NOW, scope_asked=None)
    if isinstance(answer, Failure):
        assert answer.event in {Event.REFUSED, Event.REGISTRATION_REFUSED, Event.PROVIDER_DOWN}
        assert answer.text.isprintable()
        assert answer.retry_after is None or 0 <= answer.retry_after <= 86400
        return
    tokens = answer.tokens
    assert 200 <= status < 300
    assert all("!" <= letter <= "~" for letter in tokens.access_token)
    assert tokens.expires_at is None or tokens.expires_at > NOW
    assert tokens.refresh_expires_at is None or tokens.refresh_expires_at > NOW
    tokens.succeeded_by(tokens)


@given(given_=BODIES)
def test_no_import_makes_us_raise(given_: bytes) -> None:
    """It comes from a pipe."""
    read_import(given_, provider=PLAIN, now=NOW, scope=None)


def test_short_secrets_are_taken_out_whole() -> None:
    """A password of seven letters is a secret, too; a single letter is not worth the sentence."""
    assert without("cannot take hunt3rX of you", ["hunt3rX", "a"]) == "cannot take … of you"


@pytest.mark.parametrize("client_id", ["c", "a-long-client-id"])
@pytest.mark.parametrize("method", [ClientAuth.BASIC, ClientAuth.BASIC_RAW])
def test_an_error_that_quotes_the_request_loses_its_credentials(client_id: str, method: ClientAuth) -> None:
    """In the head as in the body, and in the spellings of whoever quotes: none leaves the end of a secret behind."""
    secret = "begins-plainly/and+goes-on=differently"
    account = Account(
        name="books",
        provider=replace(PLAIN, client_auth=method),
        registration=Registration(client_id=client_id, client_secret=secret),
    )
    request = token_request(account, {}, url=PLAIN.token_url)
    spellings = [request.headers["Authorization"], quote(secret, safe="").lower(), json.dumps(secret)]
    spellings.append(secret.replace("/", "\\/"))
    said = without(f"no: {', '.join(spellings)}.", account.secrets)

    sent = request.headers["Authorization"].partition(" ")[2]
    assert not [part for part in (sent[-12:], "differently", "goes") if part in said]
    assert said.startswith("no: ")
