"""When tokens are renewed: early enough, never too early, and not all at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenproxy.core.provider import Provider
from tokenproxy.core.schedule import backoff, due_at, margin, next_hold
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = RenewPolicy()
PLAIN = Provider(name="plain", token_url="https://p.example/token")
EXACT = Provider(
    name="exact",
    token_url="https://p.example/token",
    refresh_not_before_expiry=timedelta(seconds=30),
)
YEAR = 365 * 86400


def tokens(life: float) -> TokenSet:
    return TokenSet("a", "r", issued_at=NOW, expires_at=NOW + timedelta(seconds=life))


def due(life: float, *, provider: Provider = PLAIN, jitter: float = 0.0) -> float:
    """Seconds after issue."""
    at = due_at(tokens(life), POLICY, provider, jitter=jitter)
    assert at is not None
    return (at - NOW).total_seconds()


@pytest.mark.parametrize(("life", "wanted"), [(10, 1), (300, 30), (600, 60), (3600, 60), (YEAR, 60)], ids=str)
def test_stale_is_the_last_minute_or_the_last_tenth(life: float, wanted: float) -> None:
    """min(60 s, 10 %): a fixed margin would leave Sage's five minutes hardly any use."""
    assert margin(tokens(life), POLICY, PLAIN) == timedelta(seconds=wanted)


@pytest.mark.parametrize(
    ("life", "wanted"), [(300, 200), (900, 600), (2700, 1845), (3600, 2745), (YEAR, YEAR - 855)], ids=str
)
def test_due_at_two_thirds_but_at_most_a_quarter_of_an_hour_ahead(life: float, wanted: float) -> None:
    """cert-manager's default, bounded: a year's token is not renewed in autumn. 45 s of 855 are the spread."""
    assert due(life) == pytest.approx(wanted)


def test_exact_online_is_never_asked_early() -> None:
    """It refuses a refresh earlier than 30 s before expiry, and counts it as an error."""
    assert margin(tokens(600), POLICY, EXACT) == timedelta(seconds=30)
    assert {due(600, provider=EXACT, jitter=jitter) for jitter in (-1, 0, 1)} == {570}


@given(life=st.floats(1, 10 * YEAR), jitter=st.floats(-1, 1))
def test_due_comes_before_stale_and_stale_before_expiry(life: float, jitter: float) -> None:
    """Else a request would have to wait for what the background should have done."""
    stale = life - margin(tokens(life), POLICY, PLAIN).total_seconds()
    at = due(life, jitter=jitter)
    assert max(0.0, life - POLICY.due) - 1e-3 <= at <= stale + 1e-3
    assert stale < life


@given(life=st.floats(1, 10 * YEAR), jitter=st.floats(-1, 1), early=st.floats(1, 120))
def test_nothing_before_the_providers_own_limit(life: float, jitter: float, early: float) -> None:
    """For every life, limit and throw of the dice."""
    limit = timedelta(seconds=early)
    provider = Provider(name="p", token_url="https://p.example/t", refresh_not_before_expiry=limit)
    allowed = tokens(life).expires_at
    assert allowed is not None
    assert margin(tokens(life), POLICY, provider) <= limit
    at = due_at(tokens(life), POLICY, provider, jitter=jitter)
    assert at is not None
    assert allowed - limit <= at <= allowed


def test_a_mass_login_is_no_mass_renewal() -> None:
    """A thousand logins of one minute spread over a tenth of their life, long lives over a minute and a half."""
    assert due(900, jitter=1) - due(900, jitter=-1) == pytest.approx(180)
    assert due(YEAR, jitter=1) - due(YEAR, jitter=-1) == pytest.approx(90)


def test_an_unknown_expiry_is_never_due() -> None:
    """Deskera: a 401 tells."""
    assert due_at(TokenSet("a", "r"), POLICY, PLAIN, jitter=0) is None


def test_an_import_of_unknown_age_is_due_before_it_ends() -> None:
    """An expiry without an issue date still counts."""
    at = due_at(TokenSet("a", "r", expires_at=NOW), POLICY, PLAIN, jitter=0)
    assert at == NOW - timedelta(seconds=900)


@given(fails=st.integers(1, 10_000), jitter=st.floats(-1, 1))
def test_back_off_doubles_to_half_a_minute_half_of_it_random(fails: int, jitter: float) -> None:
    """No number of failures may overflow it."""
    longest = min(30.0, 2.0 ** min(fails - 1, 10))
    assert longest / 2 <= backoff(fails, jitter=jitter).total_seconds() <= longest


def test_the_provider_may_ask_for_more_patience_but_not_for_less() -> None:
    """``Retry-After`` is never undercut, and 0 does not end the back-off."""
    assert backoff(1, jitter=0, asked=120).total_seconds() == 120
    assert backoff(6, jitter=1, asked=0).total_seconds() == 30


def test_holds_double_to_five_minutes() -> None:
    """10, 20, 40, 80, 160, 300, 300."""
    seconds, last = [], None
    for _ in range(7):
        last = next_hold(last, POLICY)
        seconds.append(last)
    assert seconds == [10, 20, 40, 80, 160, 300, 300]
    assert next_hold(600, RenewPolicy(hold=600)) == 600
