"""A short run of the fuzz (``python -m tests.fuzz``), and what longer ones have found."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.arena import Arena
from tests.fuzz.grammar import Case, cases, corpus
from tests.fuzz.judge import Disagreement, judge_answers, judge_requests
from tests.fuzz.reading import Message, answer, requests

FOUND = corpus()
GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
async def test_found_cases(case: Case) -> None:
    async with Arena() as arena:
        for _ in range(2):  # and nothing of it is left for the next
            await arena.run(case)


def test_h11_and_we_see_the_same_messages() -> None:
    """RFC 9112 section 6.3 and all the others: a few hundred fixed cases of callers and of upstreams."""
    with asyncio.Runner() as runner:
        arena = runner.run(Arena().__aenter__())

        @settings(
            max_examples=150,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def play(case: Case) -> None:
            runner.run(arena.run(case))

        try:
            play()
        finally:
            runner.run(arena.__aexit__())
        assert arena.upstream.good > arena.cases / 5


def seen(*targets: bytes, **more: bytes) -> list[Message]:
    """Requests as the upstream of ``/books/`` gets them."""
    fields = [(b"host", b"api.example"), (b"authorization", b"Bearer token-1")]
    return [Message((b"GET", target), b"1.1", fields, whole=True, **more) for target in targets]  # type: ignore[arg-type]


def back(count: int) -> bytes:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nNumber: %d\r\n\r\n"
    return b"".join(one % number for number in range(count))


@pytest.mark.parametrize(
    ("sent", "passed", "got"),
    [
        (GET, seen(b"/x", b"/hidden"), back(2)),
        (GET, seen(b"/x", b"/hidden"), back(1)),
        (GET, seen(b"/y"), back(1)),
        (GET, seen(b"/x", body=b"abc"), back(1)),
        (GET, seen(b"/x"), b""),
        (GET, [], back(1)),
        (GET * 2, seen(b"/x"), back(2)),
        (GET, seen(b"/x"), back(1) + b"0\r\n\r\n"),
        (GET[:-2] + b"X: y\r\n\r\n", seen(b"/x"), back(1)),
    ],
)
def test_the_judge_of_requests_is_strict(sent: bytes, passed: list[Message], got: bytes) -> None:
    """Else the fuzz would find nothing."""
    judge_requests(GET, seen(b"/x"), back(1), [])
    with pytest.raises(Disagreement):
        judge_requests(sent, passed, got, [])


@pytest.mark.parametrize(
    ("said", "got"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 OK\r\n\r\n"),
        (b"nonsense", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\n",
        ),
    ],
)  # fmt: skip
def test_the_judge_of_answers_is_strict(said: bytes, got: bytes) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    judge_answers(Case((whole,), b"GET"), whole, [])
    with pytest.raises(Disagreement):
        judge_answers(Case((said,), b"GET"), got, [])


def test_the_second_opinion_reads_what_it_is_for() -> None:
    found = requests(b"\r\n" + GET + b"POST /books/y HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc" + GET)
    assert [(each.start, each.body) for each in found] == [
        ((b"GET", b"/books/x"), b""),
        ((b"POST", b"/books/y"), b"abc"),
    ]
    cut, _ = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", b"GET", closed=True)
    assert cut is not None
    assert (cut.body, cut.whole) == (b"ab", False)
