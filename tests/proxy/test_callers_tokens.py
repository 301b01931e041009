"""Callers that prove themselves with an issuer's tokens, over real sockets, with an issuer that rotates its keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.proxy.actors import Stage, WallClock, stage, until
from tests.proxy.test_callers import by_key, with_key
from tests.simulators.issuer import AUDIENCE, SUBJECT, IssuerSimulator
from tokenproxy.core.callers import Caller, Subject
from tokenproxy.core.issuers import Issuer
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.issuers import Issuers
from tokenproxy.proxy.tls import tls_context

KEYS = "/openid/v1/jwks"


def bearer(token: str, *, field: bytes = b"Authorization") -> bytes:
    return field + b": Bearer " + token.encode()


def by_token(name: str = "app", *subjects: str, **claims: str) -> Caller:
    subject = Subject(issuer="cluster", subjects=frozenset(subjects or (SUBJECT,)), claims=claims)
    return Caller(name=name, subject=subject)


@asynccontextmanager
async def with_issuer(
    *callers: Caller, status: int = 200, **settings: Any
) -> AsyncIterator[tuple[Stage, IssuerSimulator]]:
    """``status``: what the issuer answers with."""
    async with IssuerSimulator() as at:
        at.status = status
        endpoint = Endpoint(tls_context, timeout=5.0)
        issuers = Issuers(endpoint.send, clock=WallClock())
        issuers.configure([Issuer(name="cluster", issuer=at.issuer, audiences=(AUDIENCE,))])
        try:
            async with stage(callers=callers, parts={"tokens": issuers}, **settings) as s:
                yield s, at
        finally:
            await issuers.close()
            await endpoint.close()


async def got(s: Stage, *fields: bytes, target: bytes = b"/books/x") -> Any:
    return await (await s.caller()).get(target, *fields)


async def test_whose_token_it_is() -> None:
    """By subject, by the beginning of one, by a claim; the token goes no further, though the route passes it."""
    callers = (
        by_token(),
        by_token("jobs", "system:serviceaccount:jobs:*"),
        by_token("claimed", "*", azp="robot"),
    )
    route = {"header": "X-Token", "passed": frozenset({"authorization"})}
    async with with_issuer(*callers, by_key("key"), route=route) as (s, at):
        told: list[tuple[dict[str, Any], str]] = [
            ({}, "app"),
            ({"sub": "system:serviceaccount:jobs:nightly"}, "jobs"),
            ({"sub": "somebody", "azp": "robot"}, "claimed"),
        ]
        for claims, name in told:
            token = at.token(**claims)
            for _ in range(2):
                assert (await got(s, bearer(token))).status == 200
                assert s.logged[-1].caller == name
        for seen in s.upstream.seen:
            assert not seen.values(b"authorization")
        assert (await got(s, with_key(), bearer("for-the-upstream"))).status == 200
        assert s.upstream.seen[-1].values(b"authorization") == [b"Bearer for-the-upstream"]


@pytest.mark.parametrize("backwards", [False, True])
async def test_overlapping_subjects_mean_the_same_in_any_order(*, backwards: bool) -> None:
    """The closest description counts, then the name: not which table is written first."""
    callers = [
        by_token("everybody", "*"),
        by_token("cluster", "system:*"),
        by_token("books", "system:serviceaccount:books:*"),
        by_token("exact", SUBJECT),
        by_token("a-robot", "*", azp="robot"),
        by_token("b-team", "*", team="b"),
    ]
    if backwards:
        callers.reverse()
    async with with_issuer(*callers) as (s, at):
        told: list[tuple[dict[str, Any], str]] = [
            ({}, "exact"),
            ({"azp": "robot"}, "exact"),
            ({"sub": "system:serviceaccount:books:job"}, "books"),
            ({"sub": "system:node"}, "cluster"),
            ({"sub": "somebody"}, "everybody"),
            ({"sub": "somebody", "azp": "robot", "team": "b"}, "a-robot"),
            ({"sub": "somebody", "team": "b"}, "b-team"),
        ]
        for claims, name in told:
            assert (await got(s, bearer(at.token(**claims)))).status == 200
            assert s.logged[-1].caller == name


async def test_what_is_refused_and_how() -> None:
    async with with_issuer(by_token()) as (s, at):
        answer = await got(s)
        assert answer.status == 401
        assert answer.values(b"www-authenticate") == [b'Bearer realm="tokenproxy"']
        for token in (
            at.token(sub="somebody"),
            at.token(aud="another"),
            at.token(exp=1),
            at.unsigned(),
            at.confused(pem=True),
            "x",
        ):
            answer = await got(s, bearer(token))
            assert (answer.status, answer.code) == (401, "caller_unauthorized")
            assert answer.values(b"www-authenticate")[0].startswith(b'Bearer realm="tokenproxy"')
        assert answer.values(b"www-authenticate") == [b'Bearer realm="tokenproxy", error="invalid_token"']
        assert not s.upstream.seen


async def test_to_a_forward_proxy() -> None:
    route = {"host": "api.example", "prefix": "/"}
    async with with_issuer(by_token(), route=route) as (s, at):
        for fields, status in (
            ((bearer(at.token(), field=b"Proxy-Authorization"),), 200),
            ((bearer(at.token()),), 407),
            ((), 407),
        ):
            answer = await got(s, *fields, target=b"http://api.example/x")
            assert answer.status == status
        assert answer.values(b"proxy-authenticate") == [b'Bearer realm="tokenproxy"']
        assert b"proxy-" not in s.upstream.seen[0].head.lower()


async def test_a_token_is_read_once_and_keys_are_fetched_once() -> None:
    reads = 0

    class Counted(Issuers):
        async def read(self, token: bytes) -> Any:
            nonlocal reads
            reads += 1
            return await super().read(token)

    async with IssuerSimulator() as at:
        endpoint = Endpoint(tls_context, timeout=5.0)
        issuers = Counted(endpoint.send, clock=WallClock())
        issuers.configure([Issuer(name="cluster", issuer=at.issuer, audiences=(AUDIENCE,))])
        async with stage(callers=(by_token(),), parts={"tokens": issuers}) as s:
            token = at.token()
            answers = await asyncio.gather(*(got(s, bearer(token)) for _ in range(50)))
            assert {each.status for each in answers} == {200}
            client = await s.caller()
            for _ in range(10):
                assert (await client.get(b"/books/x", bearer(token))).status == 200
            assert reads == 1
            assert at.asked[KEYS] == 1
            s.swap(callers=(by_token("new"),))
            assert (await client.get(b"/books/x", bearer(token))).status == 200
            assert (reads, s.logged[-1].caller) == (2, "new")
        await issuers.close()
        await endpoint.close()


async def test_a_token_that_ends_is_refused_from_then_on() -> None:
    """Believed no longer than it counts (with what clocks may differ)."""
    async with with_issuer(by_token()) as (s, at):
        token = at.token(exp=int(at.now()) - 28)
        client = await s.caller()
        assert (await client.get(b"/books/x", bearer(token))).status == 200
        async with asyncio.timeout(10):
            while True:
                answer = await got(s, bearer(token))
                if answer.status == 401:
                    break
                await asyncio.sleep(0.05)


async def test_an_issuer_that_is_down() -> None:
    """503, and nobody else is held up; it is no 401, with which an app would throw a good token away."""
    async with with_issuer(by_token(), by_key("key"), status=500) as (s, at):
        answer = await got(s, bearer(at.token()))
        assert (answer.status, answer.code) == (503, "provider_unavailable")
        assert 1 <= int(answer.values(b"retry-after")[0]) <= 10
        assert (await got(s, with_key())).status == 200


async def test_only_so_many_wait_for_an_issuer_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their requests may be gone and they still wait; who is known, or has a key that is, is not held up."""
    monkeypatch.setattr("tokenproxy.oauth.issuers.WAITING", 2)
    monkeypatch.setattr("tokenproxy.oauth.issuers.APART", 0.0)
    async with with_issuer(by_token(), by_key("key")) as (s, at):
        assert (await got(s, bearer(at.token()))).status == 200
        at.free.clear()
        looked_into = s.plane.gate.register._looked_into  # type: ignore[union-attr]
        for number, kid in enumerate(("one", "two"), start=1):
            client = await s.caller()
            fields = bearer(at.token(header={"kid": kid}))
            await client.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n\r\n")
            await until(lambda: len(looked_into) == number)  # noqa: B023 - waited for within its turn
            client.cut()
        answer = await got(s, bearer(at.token(header={"kid": "three"})))
        assert (answer.status, answer.code, answer.values(b"retry-after")) == (503, "overloaded", [b"1"])
        assert (await got(s, bearer(at.token(jti="another")))).status == 200
        assert (await got(s, with_key())).status == 200
        at.free.set()
        await until(lambda: not looked_into)
        assert (await got(s, bearer(at.token(header={"kid": "three"})))).status == 401


async def test_tokens_of_callers_are_told_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with with_issuer(by_token()) as (s, at):
        tokens = [
            at.token(),
            at.token(aud="planted-audience"),
            at.token(sub="planted-subject"),
            "planted.token.x",
        ]
        said = []
        for token in tokens:
            for target in (b"/books/x", b"/nope", b"http://localhost/books/x"):
                answer = await got(s, bearer(token), target=target)
                said.append(answer.head + answer.body)
        everything = (
            b"".join(said).decode()
            + caplog.text
            + repr([each.__dict__ for each in caplog.records])
            + repr(s.logged)
            + repr(vars(s.metrics))
        )
        for token in tokens:
            for piece in token.split("."):
                assert len(piece) < 8 or piece not in everything
        for planted in ("planted-audience", "planted-subject", SUBJECT):
            assert planted not in everything
