"""Tokens that are bound to a key: a proof with every request, and nonces that the upstream asks for."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from tests.proxy.actors import Line, dead, ok, stage
from tokenproxy.core.provider import Inject
from tokenproxy.core.settings import Replay
from tokenproxy.oauth.signer import new_key

KEY = new_key()
PUBLIC = {name: json.loads(KEY)[name] for name in ("kty", "crv", "x", "y")}
ROUTE = {"dpop": True, "path": "/v1"}


@dataclass
class BoundApi:
    """An upstream that takes a token only with a proof of its key, strictly (RFC 9449 section 4.3)."""

    nonces: list[str] = field(default_factory=list)
    """What it wants, one after the other; empty: no nonce."""
    proofs: list[dict[str, Any]] = field(default_factory=list)
    answer: bytes = ok(b"hello")
    bad: tuple[bytes, ...] = ()
    read_first: bool = True

    async def __call__(self, line: Line) -> None:
        if self.read_first:
            await line.body()
        scheme, _, token = line.seen.values(b"authorization")[0].partition(b" ")
        assert scheme == b"DPoP"
        claims = self._proof(line, token)
        wanted = self.nonces[0] if self.nonces else None
        if wanted is not None and claims.get("nonce") != wanted:
            await line.send(self.challenge(wanted))
        elif token in self.bad:
            await line.send(dead())
        else:
            await line.send(self.answer)

    def challenge(self, nonce: str) -> bytes:
        return ok(
            b"",
            b'WWW-Authenticate: Bearer realm="x", DPoP error="use_dpop_nonce", error_description="a, b"',
            b"DPoP-Nonce: " + nonce.encode(),
            status=b"401 Unauthorized",
        )

    def _proof(self, line: Line, token: bytes) -> dict[str, Any]:
        (proof,) = line.seen.values(b"dpop")
        header = jws.extract_compact(proof).headers()
        assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": PUBLIC}
        claims: dict[str, Any] = json.loads(
            jws.deserialize_compact(proof, ECKey.import_key(header["jwk"]), algorithms=["ES256"]).payload
        )
        assert claims["htm"] == line.seen.line.split(b" ")[0].decode()
        assert claims["htu"] == "http://api.example" + line.seen.target.partition(b"?")[0].decode()
        assert claims["ath"] == urlsafe_b64encode(sha256(token).digest()).decode().rstrip("=")
        assert abs(claims["iat"] - time.time()) < 60
        assert claims["jti"] not in {earlier["jti"] for earlier in self.proofs}
        self.proofs.append(claims)
        return claims


async def test_every_request_carries_its_own_proof() -> None:
    """RFC 9449 section 7.1: the method, the address without its query, the token's hash, and never the same twice."""
    api = BoundApi()
    async with stage(api, route=ROUTE) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.get(b"/books/a?b=c")).body == b"hello"
        assert (
            await caller.post(b"order", b"/books/a", b"DPoP: evil", b"Authorization: DPoP evil")
        ).body == b"hello"
        assert [claims["htm"] for claims in api.proofs] == ["GET", "POST"]
        assert s.upstream.connections == 1
        assert s.source.renewals == []


async def test_a_nonce_that_is_asked_for_is_sent_at_once_and_from_then_on() -> None:
    """RFC 9449 section 9: once more with it, which is no renewal; and the newest is kept for the origin."""
    api = BoundApi(nonces=["n-1"])
    async with stage(api, route=ROUTE) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.post(b"order")).body == b"hello"
        assert [seen.body for seen in s.upstream.seen] == [b"order", b"order"]
        assert (await caller.get()).body == b"hello"
        assert [claims.get("nonce") for claims in api.proofs] == [None, "n-1", "n-1"]
        api.nonces = ["n-2"]
        api.answer = ok(b"hello", b"DPoP-Nonce: n-3")
        assert (await caller.get()).body == b"hello"
        api.nonces = ["n-3"]
        assert (await caller.get()).body == b"hello"
        assert [claims.get("nonce") for claims in api.proofs[3:]] == ["n-1", "n-2", "n-3"]
        assert s.source.renewals == []
        assert s.upstream.connections == 1


async def test_a_nonce_is_asked_for_once_more_and_not_for_ever() -> None:
    """An upstream that never takes its own nonce: its answer is the caller's, and no token is renewed for it."""

    class Insatiable(BoundApi):
        def challenge(self, nonce: str) -> bytes:
            self.nonces = [nonce + "x"]
            return super().challenge(nonce)

    api = Insatiable(nonces=["n"])
    async with stage(api, route=ROUTE) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.get()).status == 401
        assert len(api.proofs) == 2
        assert s.source.renewals == []


async def test_a_dead_token_is_renewed_between_nonces() -> None:
    """The repeat for the nonce does not use up the one for the token."""
    api = BoundApi(nonces=["n-1"], bad=(b"token-1",))
    async with stage(api, route=ROUTE) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert [claims.get("nonce") for claims in api.proofs] == [None, "n-1", "n-1"]
        assert s.source.renewals == ["books"]


@pytest.mark.parametrize("nonce", ['n"1', "n 1", "n" * 1025])
async def test_a_nonce_that_is_none_is_not_taken(nonce: str) -> None:
    """RFC 9449 section 8.1."""
    async with stage(BoundApi(nonces=[nonce]), route=ROUTE) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.get()).status == 401
        assert len(s.upstream.seen) == 1


async def test_a_body_that_is_gone_is_not_sent_again_for_a_nonce() -> None:
    """The next request has the nonce; this one says why it could not be repeated."""
    api = BoundApi(nonces=["n-1"])
    async with stage(api, route=ROUTE | {"replay": Replay(memory=0, disk=0)}) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        answer = await caller.post(b"x" * 100)
        assert (answer.status, answer.code) == (401, "body_not_replayable")
        assert s.source.renewals == []
        assert (await caller.post(b"x" * 100)).body == b"hello"


async def test_another_place_keeps_its_own_scheme() -> None:
    """Only ``Authorization`` names a scheme."""
    seen: list[list[bytes]] = []

    async def script(line: Line) -> None:
        seen.append(line.seen.values(b"x-token"))
        assert line.seen.values(b"dpop")
        await line.send(ok(b"hello"))

    inject = Inject(header="x-token", value="{access_token}")
    async with stage(script, route=ROUTE | {"inject": inject}) as s:
        s.source.more = {"dpop_key": KEY}
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert seen == [[b"token-1"]]


async def test_a_key_that_signs_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Without anything of it in any text."""
    async with stage(BoundApi(), route=ROUTE) as s:
        s.source.more = {"dpop_key": json.dumps({"kty": "EC", "crv": "P-256", "d": "s3cr3t-half"})}
        caller = await s.caller()
        answer = await caller.get()
        assert (answer.status, answer.code) == (503, "misconfigured")
        assert "s3cr3t" not in repr(answer) + caplog.text


async def test_a_token_that_is_not_bound_goes_as_ever() -> None:
    """An import without a key: no proof is made up."""
    async with stage(route=ROUTE) as s:
        caller = await s.caller()
        await caller.get(b"/books/x", b"DPoP: evil")
        assert s.upstream.seen[0].token == b"token-1"
        assert s.upstream.seen[0].values(b"dpop") == []
