"""When a failure is tried again, after how long, and how often at most."""

from __future__ import annotations

import pytest

from tokenproxy.core.retries import Budget, Retry, pause


@pytest.mark.parametrize(
    ("method", "fault", "again"),
    [
        ("GET", "503", True),
        ("GET", "reset", True),
        ("GET", "500", False),
        ("GET", "", False),
        ("POST", "connect", True),
        ("POST", "reset", False),
        ("POST", "503", False),
        ("PUT", "503", False),
    ],
)
def test_what_is_tried_again(method: str, fault: str, *, again: bool) -> None:
    assert Retry(attempts=2).means(method, fault) is again


def test_pauses_grow_and_are_spread() -> None:
    assert [pause(tries, retry_after=None, chance=1.0) for tries in (1, 2, 3, 4, 5)] == [
        0.05,
        0.1,
        0.2,
        0.25,
        0.25,
    ]
    assert pause(4, retry_after=None, chance=0.1) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        (b"0", 0.0),
        (b"2", 2.0),
        (b"3", None),
        (b"-1", None),
        (b"9" * 40, None),
        (b"Sat, 28 Nov 2026 06:00:00 GMT", None),
    ],
)
def test_a_short_retry_after_is_waited_for(said: bytes, waits: float | None) -> None:
    assert pause(1, retry_after=said, chance=0.0) == waits


def test_a_fifth_of_the_requests_and_a_few() -> None:
    budget = Budget()
    for _ in range(1000):
        budget.request(100.5)

    assert sum(budget.take(101.0) for _ in range(1000)) == 1000 // 5 + 3 * 10
    assert not budget.take(110.4), "all of it is still in the window"
    assert sum(budget.take(111.1) for _ in range(1000)) == 30, "and now nothing is"
