"""What must hold between the bytes on both sides of the proxy, whatever they are."""

from __future__ import annotations

import re
from typing import NoReturn

from tests.fuzz import reading
from tests.fuzz.grammar import Case
from tests.fuzz.reading import Fields, Message
from tokenproxy.proxy.card import canonical

HOP = frozenset(
    b"""
    connection keep-alive te trailer transfer-encoding upgrade http2-settings expect host authorization via
    max-forwards tokenproxy-key tokenproxy-error
    """.split()
)
"""Fields of one hop, and those that are changed on the way."""
LENGTHLESS = frozenset({204, *range(100, 200)})
"""Answers that have no Content-Length (RFC 9110 section 8.6), so that one is dropped."""


class Disagreement(AssertionError):  # noqa: N818 - it is what it is
    """One side sees what the other does not."""


def judge_requests(sent: bytes, seen: list[Message], got: bytes, faults: list[str]) -> None:
    """A caller's bytes, the upstream's requests, and the bytes that came back to the caller."""
    said = reading.requests(sent)

    def wrong(what: str) -> NoReturn:
        raise Disagreement(f"{what}\ncaller: {sent!r}\nupstream: {seen}\nback: {got!r}")

    if faults:
        wrong("; ".join(faults))
    at = passed = 0
    rest = got
    while rest:
        method = said[at].start[0] if at < len(said) else b"GET"
        answer, behind = reading.answer(rest, method, closed=True)
        if answer is None:
            wrong(f"h11 at the caller takes this for no answer: {rest!r}")
        if answer.values(b"tokenproxy-error"):
            break  # refused; the connection closes, and its text is no next answer
        if at >= len(said):
            wrong("An answer to no request.")
        if not answer.values(b"number"):  # an answer of ours
            if said[at].start[0] != b"OPTIONS" or answer.start != (204,):
                wrong("An answer from nowhere.")
        else:
            if answer.start != (200,) or not answer.whole or passed >= len(seen) or not seen[passed].whole:
                wrong("An answer that the upstream did not give.")
            if answer.values(b"number") != [b"%d" % passed]:
                wrong("An answer to another request.")
            differs = difference(said[at], seen[passed])
            if differs:
                wrong(differs)
            passed += 1
        at += 1
        rest = behind
    left = seen[passed:]
    if any(request.whole for request in left):
        wrong("A request that was carried out and not answered.")
    if len(left) > 1 or (left and at >= len(said)):
        wrong("A request that the caller did not make.")
    if left and (differs := difference(said[at], left[0])):
        wrong(differs)


def difference(said: Message, seen: Message) -> str:
    """What a caller said and what the upstream saw of it; empty where they are the same."""
    method, target = said.start
    if seen.start != (method, _below(target)):
        return f"Another method or target: {said.start}, {seen.start}"
    if _end_to_end(said) != _end_to_end(seen):
        return f"Other fields: {_end_to_end(said)}, {_end_to_end(seen)}"
    if len(seen.values(b"host")) != 1 or len(seen.values(b"authorization")) != 1:
        return "Not one Host and one token."
    if seen.whole and (not said.whole or said.body != seen.body):
        return f"Another body: {said.body!r}, {seen.body!r}"
    if not said.body.startswith(seen.body):
        return f"Another beginning of the body: {said.body!r}, {seen.body!r}"
    if not set(seen.trailers) <= set(said.trailers):
        return f"Other trailers: {said.trailers}, {seen.trailers}"
    return ""


def judge_answers(case: Case, got: bytes, faults: list[str]) -> None:
    """An upstream's bytes, and what came back to the caller for its first request and the one behind it."""
    told = b"".join(case.pieces)
    said, _ = reading.answer(told, case.method, closed=case.closes)

    def wrong(what: str) -> NoReturn:
        raise Disagreement(f"{what}\nupstream: {told!r} for {case.method!r}\nh11: {said}\nback: {got!r}")

    if faults:
        wrong("; ".join(faults))
    first, rest = reading.answer(got, case.method, closed=True)
    if first is None:
        if got and not (said is None or not said.whole):
            wrong("h11 at the caller takes this for no answer.")
        return
    if first.values(b"tokenproxy-error"):
        if first.start not in {(502,), (504,)} or not first.whole:
            wrong("Another problem than one of the upstream's.")
    elif said is None:
        wrong("An answer that h11 does not see.")
    elif differs := answer_difference(said, first):
        wrong(differs)
    if not rest:
        return
    if not first.whole:
        wrong("More behind half an answer.")
    second, rest = reading.answer(rest, b"GET", closed=True)
    if second is None or not second.whole or rest:
        wrong("What follows the answer is none.")
    if second.values(b"tokenproxy-error") and second.start in {(502,), (504,)}:
        return
    if second.start != (200,) or not re.fullmatch(b"answer [0-9]", second.body):
        wrong("Another answer to the second request.")
    if any(interim.start != (100,) for interim in second.interim):
        wrong("An interim answer to the second request.")


def answer_difference(said: Message, came: Message) -> str:
    if said.start != came.start:
        return f"Another status: {said.start}, {came.start}"
    if _end_to_end(said, answer=True) != _end_to_end(came, answer=True):
        return f"Other fields: {_end_to_end(said, answer=True)}, {_end_to_end(came, answer=True)}"
    if came.whole and (not said.whole or said.body != came.body):
        return f"Half a body as a whole one, or another: {said.body!r}, {came.body!r}"
    if not said.body.startswith(came.body):
        return f"Another beginning of the body: {said.body!r}, {came.body!r}"
    if not set(came.trailers) <= set(said.trailers):
        return f"Other trailers: {said.trailers}, {came.trailers}"
    early = [(each.start, _end_to_end(each)) for each in said.interim if each.start != (100,)]
    if [(each.start, _end_to_end(each)) for each in came.interim if each.start != (100,)] != early:
        return f"Other interim answers: {said.interim}, {came.interim}"
    return ""


def _below(target: bytes) -> bytes:
    """The target as the upstream of ``/books/`` gets it."""
    target = target.removeprefix(b"http://localhost")
    rest = target[len(b"/books") :]
    return rest if rest[:1] == b"/" else b"/" + rest


def _end_to_end(message: Message, *, answer: bool = False) -> Fields:
    named = {
        name.strip(b" \t").lower() for value in message.values(b"connection") for name in value.split(b",")
    } - {b"content-length"}
    added = {b"date"} if answer else set()
    if message.start[0] in LENGTHLESS:
        added.add(b"content-length")
    return [
        (name, value)
        for name, value in message.fields
        if not (canonical(name) in HOP | added or name in named or name.startswith(b"proxy-"))
        and not (b"_" in name and canonical(name) == b"content-length")
    ]
