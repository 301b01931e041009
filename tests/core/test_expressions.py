"""Expressions in two spellings, and what a stranger's text does to them."""

from __future__ import annotations

import time

import pytest

from tokenproxy.core.expressions import LONGEST_PATTERN, LONGEST_TEXT, caught, problem_of

LANDING = "https://mysite.deskpro.com/apps-oauth/oauth2/c3817d694/callback#code=29d2ef"
"""Deskpro's guide."""


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/#code=(?<token>[0-9a-f]{6})$/", "29d2ef"),  # as the guide has it
        ("#code=(?<token>[0-9a-f]{6})$", "29d2ef"),
        ("#code=(?P<token>[0-9a-f]{6})\\Z", "29d2ef"),  # Python's
        (r"\u0023code=(?<token>\w+)", "29d2ef"),
        (r"\u{23}code=(?<token>\w+)", "29d2ef"),
        ("/CODE=(?<token>.+)/i", "29d2ef"),
        ("/CODE=(?<token>.+)/giu", "29d2ef"),
        (r"\/callback#code=(?<token>.+)", "29d2ef"),
        ("CODE=(?<token>.+)", None),
        ("#code=(?<token>[0-9a-f]{20})$", None),
        ("#code=(?<token>x*)", None),  # nothing is no code
        ("(?<token>a)?#code", None),
    ],
)
def test_both_spellings_mean_the_same(pattern: str, found: str | None) -> None:
    assert problem_of(pattern, "token") == ""
    assert caught(pattern, "token", LANDING) == found


def test_the_end_of_the_text_is_the_end() -> None:
    """Python's ``$`` would also match before a newline at the end; JavaScript's, which the guide means, does not."""
    assert caught("(?<token>[a-z]+)$", "token", "abc\n") is None
    assert caught("/^(?<token>[a-z]+)$/m", "token", "abc\ndef") == "abc"


def test_the_guide_s_strict_expressions() -> None:
    address = "https://x.example/callback?code=29d2ef&state=65921"

    assert caught(r"/\?code=(?<token>.+?)&/", "token", address) == "29d2ef"
    assert caught("/&state=(?<key>.+)/", "key", address) == "65921"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("code=(.+)", "needs a group named token"),
        ("code=(?<key>.+)", "needs a group named token"),
        ("(?<token>.+", "is no expression that google-re2 takes (missing ): (?<token>.+)"),
        ("(?<=code=)(?<token>.+)", "is no expression that google-re2 takes"),
        (r"(?<token>.)\1", "is no expression that google-re2 takes"),
        (r"(?<token>.)\k<token>", "is no expression that google-re2 takes"),
        ("/(?<token>.)/y", "has the flag y"),
        ("(?<token>(?:x{1000}){1000})", "is no expression that google-re2 takes"),
        ("(?<token>\ud800)", "is no expression that google-re2 takes"),
        ("(?<token>" + "x" * LONGEST_PATTERN + ")", f"is longer than {LONGEST_PATTERN} characters"),
    ],
)
def test_what_cannot_run_is_told_beforehand(pattern: str, problem: str) -> None:
    assert problem_of(pattern, "token").startswith(problem)


@pytest.mark.parametrize("text", ["a" * LONGEST_TEXT, "ab" * (LONGEST_TEXT // 2), "\x00\U0010ffff" * 8000])
@pytest.mark.parametrize("pattern", ["(?:(a+)+)+(?<token>c)$", "(.*)(.*)(.*)(.*)(.*)x(?<token>c)$", "(a|aa)+(?<token>c)$"])  # fmt: skip
def test_nothing_backtracks(pattern: str, text: str) -> None:
    """Each of these takes Python's ``re`` longer than anybody lives."""
    caught(pattern, "token", "warm up")
    began = time.perf_counter()

    assert caught(pattern, "token", text) is None

    assert time.perf_counter() - began < 5


def test_a_text_that_is_too_long_is_not_looked_at() -> None:
    assert caught("(?<token>a)", "token", "a" * (LONGEST_TEXT + 1)) is None
