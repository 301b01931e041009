"""No answer of ours, no log line and no metric ever holds a token, a key, a query or a body."""

from __future__ import annotations

import logging

import pytest

from tests.proxy.actors import Answer, Line, dead, ok, post, stage
from tests.proxy.test_refusals import MALFORMED
from tokenproxy.core.settings import Replay

PLANTED = (b"token-1", b"token-2", b"planted-key", b"planted-query", b"planted-body", b"planted-header")


async def test_secrets_stay_where_they_belong(caplog: pytest.LogCaptureFixture) -> None:
    """Plants one of each, takes every wrong turn there is, and reads all that was said."""
    caplog.set_level(logging.DEBUG)
    said: list[bytes] = []
    key = b"Tokenproxy-Key: planted-key"
    wrong = [b"Tokenproxy-Key: planted-key-wrong"]
    header = b"X-Mine: planted-header"

    async def script(line: Line) -> None:
        await line.body()
        target = line.seen.target
        if target.startswith(b"/dead"):
            await line.send(dead())
        elif target.startswith(b"/cut"):
            line.cut()
        elif target.startswith(b"/broken"):
            await line.send(b"HTTP/1.1 200 OK\nX: " + line.seen.token + b"\n\n")
        else:
            await line.send(ok())

    def note(answer: Answer) -> None:
        said.append(answer.head + answer.body)

    async with stage(script, caller_keys=("planted-key",), route={"replay": Replay(memory=0, disk=0)}) as s:
        for target in (
            b"/books/ok",
            b"/books/dead",
            b"/books/cut",
            b"/books/broken",
            b"/nope",
            b"/books/../x",
        ):
            for fields in ([key, header], wrong):
                caller = await s.caller()
                note(await caller.get(target + b"?planted-query", *fields))
                caller = await s.caller()
                await caller.send(post(b"planted-body" * 10_000, target + b"?planted-query", *fields))
                note(await caller.answer())
        for data in MALFORMED.values():
            caller = await s.caller()
            await caller.send(data.replace(b"/x", b"/x?planted-query", 1))
            said.append(await caller.rest())
        everything = (
            b"\n".join(said) + caplog.text.encode() + repr(s.logged).encode() + repr(vars(s.metrics)).encode()
        )
        for secret in PLANTED:
            assert secret not in everything
        assert len(said) > 80
