"""Addresses that an answer completes: Zoho's accounts server, Salesforce's instance."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tokenproxy.core.account import Event
from tokenproxy.core.grants import Ask, renewal
from tokenproxy.core.login import Attempt, Caught, exchange
from tokenproxy.core.places import place_of
from tokenproxy.core.provider import (
    Account,
    ClientAuth,
    Provider,
    Registration,
    Revoke,
    Validate,
    is_login,
)
from tokenproxy.core.replies import Failure
from tokenproxy.core.revocation import revocation
from tokenproxy.core.steps import Flow, TokenRequest
from tokenproxy.core.tokens import TokenSet
from tokenproxy.core.validation import liveness

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZOHO = Provider(
    name="zoho",
    token_url="{accounts}/oauth/v2/token",
    client_auth=ClientAuth.POST,
    captured={"api": ("api_domain",)},
    captured_hosts=("*.zoho.eu", "127.0.0.1"),
    validate=Validate(url="{api}/me"),
    revoke=Revoke(url="{accounts}/revoke/{token}", body="none", auth="none"),
)
ACCOUNT = Account(name="crm", provider=ZOHO, registration=Registration(client_id="id", client_secret="s"))
CAPTURED = {"accounts": "https://accounts.zoho.eu", "api": "https://www.zoho.eu"}
HELD = TokenSet("ACCESS", "REFRESH/", captured=CAPTURED)


def sent(flow: Flow[Any]) -> str:
    request = next(flow)
    assert isinstance(request, TokenRequest)
    return request.url


def ended(flow: Flow[Any]) -> Any:
    with pytest.raises(StopIteration) as finished:
        next(flow)
    return finished.value.value


def test_every_call_goes_where_the_answers_say() -> None:
    """The exchange to where the callback says; refresh, validate and revocation to what the login kept."""
    attempt = Attempt(account=ACCOUNT, redirect_uri="https://us.example/callback/crm")
    brought = Caught("CODE", {}, {"accounts": "https://accounts.zoho.eu"})
    assert sent(exchange(attempt, brought, now=NOW)) == "https://accounts.zoho.eu/oauth/v2/token"
    assert (
        sent(renewal(Ask(account=ACCOUNT, held=HELD, now=NOW))) == "https://accounts.zoho.eu/oauth/v2/token"
    )
    assert sent(liveness(ACCOUNT, HELD, now=NOW)) == "https://www.zoho.eu/me"
    assert sent(revocation(ACCOUNT, HELD, now=NOW)) == "https://accounts.zoho.eu/revoke/REFRESH%2F"


@pytest.mark.parametrize(
    "captured", [{}, {"accounts": "https://evil.example", "api": "https://evil.example"}]
)
def test_where_they_say_nothing_or_something_else_nothing_is_sent(captured: dict[str, str]) -> None:
    """A login from before the profile captured it, or from before ``captured_hosts`` was narrowed."""
    held = replace(HELD, captured=captured)
    failed = ended(renewal(Ask(account=ACCOUNT, held=held, now=NOW)))
    assert isinstance(failed, Failure)
    assert failed.event is Event.REGISTRATION_REFUSED
    attempt = Attempt(account=ACCOUNT, redirect_uri="https://us.example/callback/crm")
    assert isinstance(ended(exchange(attempt, Caught("CODE", {}, captured), now=NOW)), Failure)
    assert ended(liveness(ACCOUNT, held, now=NOW)) is None
    assert ended(revocation(ACCOUNT, held, now=NOW)) is False


@pytest.mark.parametrize(
    ("template", "captured", "wanted"),
    [
        ("https://p.example/t", {}, "https://p.example/t"),
        ("https://{host}/t", {"host": "a.zoho.eu"}, "https://a.zoho.eu/t"),
        ("https://{host}/t", {"host": "https://a.zoho.eu/"}, "https://a.zoho.eu/t"),
        ("https://{region}.zoho.eu/t", {"region": "eu1"}, "https://eu1.zoho.eu/t"),
        ("https://p.example/{realm}/t", {"realm": "42"}, "https://p.example/42/t"),
        ("{api}/t", {"api": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080/t"),
    ],
)
def test_what_stands_in_an_address(template: str, captured: dict[str, str], wanted: str) -> None:
    assert place_of(template, ZOHO, captured) == wanted


@pytest.mark.parametrize(
    ("template", "captured"),
    [
        ("https://{host}/t", {"host": "evil.example"}),
        ("https://{host}/t", {"host": "localhost"}),
        ("https://{host}/t", {"host": "2130706433"}),
        ("https://{region}.zoho.com/t", {"region": "eu1"}),
        ("http://{host}/t", {"host": "a.zoho.eu"}),
        ("{api}/t", {"api": "a.zoho.eu"}),
        ("https://{other}/t", {"host": "a.zoho.eu"}),
    ],
)
def test_what_does_not(template: str, captured: dict[str, str]) -> None:
    """Neither a host that nobody listed, nor one without TLS; and no sentence repeats a value."""
    with pytest.raises(ValueError, match=r"captured|brought") as raised:
        place_of(template, ZOHO, captured)
    assert not [value for value in captured.values() if value in str(raised.value)]


def test_tokens_are_bound_to_the_profiles_word_for_the_place() -> None:
    """Whatever an answer put there, it is this registration's login, and a person's."""
    assert ACCOUNT.bound_to == "https://{accounts}:443 id"
    assert is_login(ACCOUNT.bound_to)


def test_a_header_that_nothing_fills() -> None:
    """Twitch's ``Client-Id`` is known; what an answer should have brought is not."""
    inject = replace(ZOHO.inject, headers={"Client-Id": "{client_id}", "X-Realm": "{realm}"})
    account = replace(ACCOUNT, provider=replace(ZOHO, inject=inject))
    assert ended(liveness(account, HELD, now=NOW)) is None
    flow = liveness(account, replace(HELD, captured={**CAPTURED, "realm": "42"}), now=NOW)
    request = next(flow)
    assert isinstance(request, TokenRequest)
    assert (request.headers["Client-Id"], request.headers["X-Realm"]) == ("id", "42")
