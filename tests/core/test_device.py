"""Logins by device: what a provider's answers mean, and how often it is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.core.flows import answer, ended
from tokenproxy.core.account import Event, Reason
from tokenproxy.core.device import DeviceLogin, Poll, device_authorization, device_poll, next_interval
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration
from tokenproxy.core.replies import Failure

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACCOUNT = Account(
    name="books",
    provider=Provider(
        name="plain",
        device_url="https://p.example/device",
        token_url="https://p.example/token",
        client_auth=ClientAuth.NONE,
    ),
    registration=Registration(client_id="CLIENT_ID"),
)
GIVEN = '{"device_code": "D", "user_code": "WDJB-MJHT", "verification_uri": "https://p.example/go"%s}'


def device(more: str = "") -> Any:
    return ended(device_authorization(ACCOUNT, now=NOW), answer(GIVEN % more))[1]


def test_a_device_login_begins_as_rfc_8628_has_it() -> None:
    (sent,), got = ended(device_authorization(ACCOUNT, now=NOW), answer(GIVEN % ""))

    assert (sent.url, sent.body) == ("https://p.example/device", b"client_id=CLIENT_ID")
    assert isinstance(got, DeviceLogin)
    assert (got.user_code, got.interval, got.expires_in) == ("WDJB-MJHT", 5.0, 600.0)


@pytest.mark.parametrize(
    ("field", "interval"),
    [('"interval": 7', 7.0), ('"interval": "3"', 3.0), ('"interval": null', 5.0), ('"interval": 0', 5.0), ('"interval": -1', 5.0), ('"interval": []', 5.0)],
)  # fmt: skip
def test_an_interval_that_makes_no_sense_is_five_seconds(field: str, interval: float) -> None:
    assert device(f", {field}").interval == interval


@pytest.mark.parametrize(("said", "interval"), [(1e-6, 1.0), (0.5, 1.0), (1e8, 1800.0)])
def test_a_provider_neither_drives_us_nor_keeps_us_waiting_for_ever(said: float, interval: float) -> None:
    """A millionth of a second is a loop that does nothing else; three years are a task that never ends."""
    assert device(f', "interval": {said}').interval == interval


@pytest.mark.parametrize(
    "uri",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "https://", "https://a@evil.example/", "//p", ""],
)  # fmt: skip
def test_an_address_that_no_browser_should_open_is_not_shown(uri: str) -> None:
    body = GIVEN.replace("https://p.example/go", uri) % ""

    _, got = ended(device_authorization(ACCOUNT, now=NOW), answer(body))

    assert isinstance(got, Failure)
    assert device(f', "verification_uri_complete": "{uri}"').verification_uri_complete == ""


def test_a_device_login_lasts_as_long_as_the_provider_says_and_half_an_hour_at_most() -> None:
    """Somebody polls for it meanwhile."""
    assert device(', "expires_in": 900').expires_in == 900.0
    assert device(', "expires_in": 86400').expires_in == 1800.0


def test_googles_older_name_of_the_address_is_known() -> None:
    body = GIVEN.replace("verification_uri", "verification_url") % ""

    _, got = ended(device_authorization(ACCOUNT, now=NOW), answer(body))

    assert got.verification_uri == "https://p.example/go"


@pytest.mark.parametrize(
    ("body", "status", "poll"),
    [
        ('{"error": "authorization_pending"}', 400, Poll.PENDING),
        ('{"error": "authorization_pending"}', 200, Poll.PENDING),  # GitHub
        ('{"error": "slow_down"}', 400, Poll.SLOW_DOWN),
        ('{"error": "access_denied"}', 403, Poll.DENIED),
        ('{"error": "expired_token"}', 400, Poll.EXPIRED),
        ("<h1>Sorry</h1>", 503, Poll.UNANSWERED),
        ('{"error": "server_error"}', 500, Poll.UNANSWERED),
    ],
)
def test_what_a_poll_brings(body: str, status: int, poll: Poll) -> None:
    (sent,), got = ended(device_poll(ACCOUNT, "D", now=NOW), answer(body, status))

    assert got is poll
    assert dict(parse_qsl((sent.body or b"").decode())) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "D",
        "client_id": "CLIENT_ID",
    }


def test_any_other_refusal_ends_the_polling() -> None:
    for error in ("invalid_grant", "invalid_client", "unsupported_grant_type"):
        _, got = ended(device_poll(ACCOUNT, "D", now=NOW), answer(f'{{"error": "{error}"}}', 400))
        assert isinstance(got, Failure)


def test_the_pace_of_polling() -> None:
    """RFC 8628 section 3.5: slow_down adds 5 s for good, and what goes unanswered doubles the wait."""
    assert next_interval(5.0, Poll.PENDING) == 5.0
    assert next_interval(next_interval(5.0, Poll.SLOW_DOWN), Poll.PENDING) == 10.0
    assert next_interval(5.0, Poll.UNANSWERED) == 10.0
    assert next_interval(40.0, Poll.UNANSWERED) == 60.0
    assert next_interval(90.0, Poll.UNANSWERED) == 90.0


@pytest.mark.parametrize(
    ("body", "status", "event", "reason"),
    [
        ('{"error": "invalid_client"}', 401, Event.REGISTRATION_REFUSED, Reason.CLIENT_REFUSED),
        ('{"error": "slow"}', 429, Event.PROVIDER_DOWN, Reason.RATE_LIMITED),
        ("<h1>Sorry</h1>", 503, Event.PROVIDER_DOWN, Reason.PROVIDER_DOWN),
        ("<h1>Hello</h1>", 200, Event.PROVIDER_DOWN, Reason.BAD_ANSWER),
        ('{"device_code": "D", "user_code": "U"}', 200, Event.PROVIDER_DOWN, Reason.BAD_ANSWER),
        (GIVEN % "", 302, Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    ],
)
def test_an_answer_that_begins_nothing(body: str, status: int, event: Event, reason: Reason) -> None:
    _, got = ended(device_authorization(ACCOUNT, now=NOW), answer(body, status))

    assert (got.event, got.reason) == (event, reason)
