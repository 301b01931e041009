"""One generation and the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tokenproxy.core.tokens import Freshness, TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = TokenSet(
    "a1",
    "r1",
    scope="read",
    scope_asked="read write",
    issued_at=NOW,
    expires_at=NOW + HOUR,
    refresh_expires_at=NOW + 30 * HOUR,
    identity="anna",
    generation=7,
)


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (61, Freshness.FRESH),
        (60, Freshness.STALE),
        (1, Freshness.STALE),
        (0, Freshness.EXPIRED),
        (-9, Freshness.EXPIRED),
    ],
)
def test_freshness_at_its_borders(left: float, wanted: Freshness) -> None:
    """At the very moment of expiry a token is dead: a request takes time to arrive."""
    tokens = TokenSet("a", expires_at=NOW + timedelta(seconds=left))
    assert tokens.freshness(NOW, timedelta(seconds=60)) is wanted


def test_an_unknown_expiry_is_fresh_for_ever() -> None:
    """Deskera sends 0: a 401 will tell."""
    assert TokenSet("a").freshness(NOW + timedelta(days=36500), HOUR) is Freshness.FRESH
    assert TokenSet("a").lifetime is None


def test_the_next_generation_keeps_what_the_answer_left_out() -> None:
    """RFC 6749 section 6: no refresh token, no scope in the answer means that nothing changed."""
    second = FIRST.succeeded_by(TokenSet("a2", None, issued_at=NOW + HOUR))
    assert second == TokenSet(
        "a2",
        "r1",
        scope="read",
        scope_asked="read write",
        issued_at=NOW + HOUR,
        expires_at=None,
        refresh_expires_at=NOW + 30 * HOUR,
        identity="anna",
        generation=8,
    )


@pytest.mark.parametrize(
    ("refresh", "wanted"), [("r2", None), ("r1", NOW + 30 * HOUR), (None, NOW + 30 * HOUR)]
)
def test_the_end_of_a_login_belongs_to_its_refresh_token(
    refresh: str | None, wanted: datetime | None
) -> None:
    """A new refresh token without an expiry has an unknown one; the same one again keeps what was known."""
    assert FIRST.succeeded_by(TokenSet("a2", refresh)).refresh_expires_at == wanted


def test_no_secret_in_its_repr() -> None:
    """Reprs end up in tracebacks and assertion messages."""
    assert "a1" not in repr(FIRST)
    assert "r1" not in repr(FIRST)


def test_what_captured_nothing_takes_no_memory_for_it() -> None:
    """Most of 100,000 logins."""
    assert TokenSet("1").captured is TokenSet("2").captured
