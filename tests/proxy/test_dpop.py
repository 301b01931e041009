"""Tokens that are bound to a key: a proof with every request, and nonces that the upstream asks for."""

from __future__ import annotations

import json

import pytest
from joserfc.jwk import ECKey

from tests.proxy.actors import Line, ok, stage
from tests.proxy.bound import BoundApi
from tokenproxy.core.provider import Inject
from tokenproxy.core.settings import Replay
from tokenproxy.oauth.signer import new_key

KEY = new_key()
ROUTE = {"dpop": True, "path": "/v1"}


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
        assert set(api.keys) == {ECKey.import_key(json.loads(KEY)).thumbprint()}
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
