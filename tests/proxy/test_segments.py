"""Where TCP cuts a stream into segments means nothing; every state of both protocols is cut through here."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.proxy.actors import Caller, Line, chunked, ok, post, stage, unless


def cut(data: bytes, dice: random.Random) -> list[bytes]:
    """The same bytes in pieces, many small ones among them."""
    pieces = []
    while data:
        size = dice.choice((1, 2, 3, 10, 50, 200, 1000, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


async def trickle(caller: Caller, pieces: list[bytes], dice: random.Random) -> None:
    for piece in pieces:
        await caller.send(piece)
        if dice.random() < 0.5:
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(12))
async def test_requests_in_pieces(seed: int) -> None:
    """Pipelined, with bodies, and with a dead token under way."""
    dice = random.Random(seed)
    bodies = [dice.randbytes(dice.choice((0, 1, 100, 5000))) for _ in range(5)]
    stream = b""
    for number, body in enumerate(bodies):
        stream += b"GET /books/get%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number
        stream += post(body, b"/books/post%d" % number)
    async with stage(unless(b"token-1")) as s:
        caller = await s.caller()
        task = asyncio.create_task(trickle(caller, cut(stream, dice), dice))
        for _ in range(10):
            assert (await caller.answer()).body == b"hello"
        await task
        good = [seen for seen in s.upstream.seen if seen.token == b"token-2"]
        assert [seen.body for seen in good if seen.line.startswith(b"POST")] == bodies
        assert len(good) == 10


@pytest.mark.parametrize("seed", range(12))
async def test_a_chunked_request_in_pieces(seed: int) -> None:
    dice = random.Random(seed)
    chunks = [dice.randbytes(dice.choice((1, 10, 3000))) for _ in range(8)]
    stream = b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream += chunked(*chunks, trailer=b"X-Trailer: y\r\n")
    async with stage(unless(b"token-1")) as s:
        caller = await s.caller()
        for _ in range(2):
            task = asyncio.create_task(trickle(caller, cut(stream, dice), dice))
            answer = await caller.answer()
            await task
            assert answer.body == b"hello"
            assert s.upstream.seen[-1].body == b"".join(chunks)
            assert not s.upstream.seen[-1].values(b"x-trailer")


@pytest.mark.parametrize("seed", range(12))
async def test_answers_in_pieces(seed: int) -> None:
    """Interim, sized, chunked with a trailer, and without a body, one after the other on one connection."""
    dice = random.Random(seed)
    chunks = [dice.randbytes(dice.choice((1, 10, 3000))) for _ in range(5)]
    answers = {
        b"/sized": ok(b"sized"),
        b"/interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok(b"after"),
        b"/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(*chunks, trailer=b"X-T: 1\r\n"),
        b"/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
        b"/head": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
    }

    async def script(line: Line) -> None:
        for piece in cut(answers[line.seen.target], dice):
            await line.send(piece)
            if dice.random() < 0.5:
                await asyncio.sleep(0)

    async with stage(script) as s:
        caller = await s.caller()
        for target in dice.sample(list(answers), len(answers)) * 2:
            answer = await caller.get(b"/books" + target, method=b"HEAD" if target == b"/head" else b"GET")
            if target == b"/interim":
                assert answer.status == 103
                answer = await caller.answer()
            expected = {b"/sized": b"sized", b"/interim": b"after", b"/chunked": b"".join(chunks)}
            assert answer.body == expected.get(target, b"")
            assert not answer.values(b"x-t")
        assert s.upstream.connections == 1
