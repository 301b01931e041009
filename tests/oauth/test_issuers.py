"""Tokens of callers against a real issuer: which count, and when its keys are fetched."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from joserfc.jwk import RSAKey

from tests.simulators import FakeClock
from tests.simulators.issuer import AUDIENCE, SUBJECT, IssuerSimulator, new_key, part
from tokenproxy.core.interfaces import BadTokenError, CrowdedError, NoKeysError
from tokenproxy.core.issuers import KEY_TYPES, Issuer
from tokenproxy.core.outgoing import Way
from tokenproxy.core.settings import TLSFiles
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.issuers import Issuers
from tokenproxy.proxy.tls import tls_context

KEYS = "/openid/v1/jwks"
METADATA = "/.well-known/openid-configuration"


class Origins:
    """Where the token for the issuer lies."""

    text = "ours"

    def read(self, origin: str) -> str:
        assert origin == "file:token"
        return self.text

    def stamp(self, origin: str) -> object:
        return None


class House:
    def __init__(self, at: IssuerSimulator, clock: FakeClock, issuers: Issuers, config: Issuer) -> None:
        self.at, self.clock, self.issuers, self.config = at, clock, issuers, config

    async def read(self, token: str) -> Any:
        return await self.issuers.read(token.encode())

    async def refused(self, token: str) -> str:
        with pytest.raises(BadTokenError) as bad:
            await self.read(token)
        assert not token or token not in str(bad.value)
        return str(bad.value)


@asynccontextmanager
async def house(
    at: IssuerSimulator | None = None, *, at_keys: bool = False, **changes: Any
) -> AsyncIterator[House]:
    """``at_keys``: the config says where the keys are."""
    clock = FakeClock()
    async with at or IssuerSimulator() as found:
        found.now = lambda: clock.now().timestamp()
        endpoint = Endpoint(tls_context, timeout=2.0)
        issuers = Issuers(endpoint.send, clock=clock, origins=Origins())
        config = replace(Issuer(name="cluster", issuer=found.issuer, audiences=(AUDIENCE,)), **changes)
        if at_keys:
            config = replace(config, jwks_url=f"{found.url}{KEYS}")
        issuers.configure([config])
        try:
            yield House(found, clock, issuers, config)
        finally:
            await issuers.close()
            await endpoint.close()


@pytest.mark.parametrize("alg", ["RS256", "RS512", "PS256", "ES256", "EdDSA"])
async def test_a_good_token_of_each_kind(alg: str) -> None:
    at = IssuerSimulator()
    at.alg, at.keys = alg, [new_key("first", alg)]
    async with house(at) as h:
        told = await h.read(at.token())
        assert (told.issuer, told.claims["sub"]) == ("cluster", SUBJECT)
        assert told.seconds_left == pytest.approx(630, abs=2)
        assert SUBJECT not in repr(told)
        await h.read(at.token(aud=AUDIENCE))
        await h.read(at.token(header={"kid": None}))
        assert at.asked == {METADATA: 1, KEYS: 1}


async def test_tokens_that_do_not_count() -> None:
    """RFC 8725, one by one; none of them says more than a phrase."""
    async with house() as h:
        at = h.at
        good = at.token()
        await h.read(good)
        head, body, signature = good.split(".")
        stranger = new_key("first")
        now = int(at.now())
        for token, phrase in (
            ("", "no signed JWT"),
            ("a.b.c", "no signed JWT"),
            (f"{head}.{body}", "no signed JWT"),
            (f"{head}.{body}.", "no signed JWT"),
            (f"{head}.{body}.{signature}.x.y", "no signed JWT"),
            (f"{part([])}.{body}.{signature}", "no signed JWT"),
            (f"{head}.{body}.{signature}" + "x" * 20_000, "too long"),
            (f"{head}.{body}.AAAA", "signature is wrong"),
            (f"{head}.{part(at.claims(sub='somebody'))}.{signature}", "signature is wrong"),
            (at.unsigned(), "no signed JWT"),
            (at.unsigned() + "AA", "algorithm does not count"),
            (at.confused(pem=True), "algorithm does not count"),
            (at.confused(pem=False), "algorithm does not count"),
            (at.token(key=stranger), "signature is wrong"),
            (at.token(header={"alg": "PS256", "kid": "first"}) + "AA", "signature is wrong"),
            (at.token(header={"typ": "dpop+jwt"}), "something else"),
            (at.token(header={"typ": "logout+jwt"}), "something else"),
            (at.token(iss="https://elsewhere.example"), "issuer is not in the config"),
            (at.token(iss=at.issuer + "/"), "issuer is not in the config"),
            (at.token(iss=None), "names no issuer"),
            (at.token(aud="another"), "another audience"),
            (at.token(aud=None), "another audience"),
            (at.token(aud={AUDIENCE: 1}), "another audience"),
            (at.token(exp=now - 31), "has ended"),
            (at.token(exp=None), "how long"),
            (at.token(exp="soon"), "how long"),
            (at.token(exp=True), "how long"),
            (at.token(nbf=now + 60), "not count yet"),
        ):
            assert phrase in await h.refused(token)
        await h.read(at.token(exp=now - 20))  # clocks may differ a little
        await h.read(at.token(nbf=now + 20))
        assert at.asked == {METADATA: 1, KEYS: 1}


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"crit": ["b64"], "b64": False},
    ],
)
async def test_what_a_header_calls_critical_must_be_understood(header: dict[str, Any]) -> None:
    """RFC 7515 section 4.1.11: b64 would have the signature mean other bytes than those that are read."""
    async with house() as h:
        _, body, signature = h.at.token().split(".")
        head = part({"alg": "RS256", "kid": "first"} | header)
        assert "not known here" in await h.refused(f"{head}.{body}.{signature}")


async def test_a_good_token_has_one_spelling() -> None:
    """No signature covers itself: other spellings of it would be further tokens to remember."""
    async with house() as h:
        token = h.at.token()
        await h.read(token)
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        other = token[:-1] + last[last.index(token[-1]) + 1]
        for spelled in (other, f"{token[:-9]}!{token[-9:]}", f"{token}=", f"{token}=="):
            assert "spelled wrongly" in await h.refused(spelled)


async def test_what_cannot_count_has_no_keys_fetched() -> None:
    async with house() as h:
        await h.read(h.at.token())
        await h.clock.advance(11)
        for claims in ({"aud": "another"}, {"exp": 1}, {"nbf": int(h.at.now()) + 60}):
            assert "does not have" not in await h.refused(h.at.token(header={"kid": "made-up"}, **claims))
        assert h.at.asked[KEYS] == 1


async def test_a_config_can_let_fewer_algorithms_count() -> None:
    assert "HS256" not in KEY_TYPES
    assert "none" not in KEY_TYPES
    async with house(algorithms=("ES256",)) as h:
        assert "algorithm" in await h.refused(h.at.token())


async def test_the_set_s_words_about_its_keys_are_heeded() -> None:
    """Keys for encryption, for another algorithm, too short ones, secrets, and what nobody can read."""
    at = IssuerSimulator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = RSAKey.generate_key(1024, {"kid": "short"}, private=True)
    for_encryption, other = new_key("enc"), new_key("other")
    public = [key.as_dict(private=False) for key in (at.keys[0], short, for_encryption, other)]
    public[2]["use"], public[3]["alg"] = "enc", "PS256"
    rest = [
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
        {"kty": ["RSA"], "use": {}, "kid": 7},
        {"kty": {}},
        {"kty": "RSA", "n": 7, "e": []},
        {"kty": "EC", "crv": ["P-256"], "x": 1},
        7,
    ]
    at.answer = json.dumps({"keys": [*public, *rest]}).encode()
    async with house(at) as h:
        await h.read(at.token())
        for key in (short, for_encryption, other):
            assert "does not have" in await h.refused(at.token(key=key))


async def test_a_new_key_is_found_at_once_and_only_then_asked_for() -> None:
    """Rotation: the unknown ``kid`` makes for one fetch, however many ask; made-up ones make for none."""
    async with house() as h:
        await h.read(h.at.token())
        assert "does not have" in await h.refused(h.at.token(header={"kid": "made-up"}))
        assert h.at.asked[KEYS] == 1  # tried a moment ago
        await h.clock.advance(11)
        h.at.rotate("second", keep=True)
        old, new = h.at.token(key=h.at.keys[1]), h.at.token()
        await asyncio.gather(*(h.read(new) for _ in range(50)))
        await h.read(old)
        assert h.at.asked[KEYS] == 2
        await h.clock.advance(301)
        h.at.rotate("third")
        await h.read(h.at.token())
        assert h.at.asked[KEYS] == 3
        assert "does not have" in await h.refused(new)


async def test_keys_are_fetched_anew_beside_requests() -> None:
    """Who has a known key waits for nothing, not even for an issuer that hangs."""
    async with house() as h:
        token = h.at.token(exp=int(h.at.now()) + 10_000)
        await h.read(token)
        await h.clock.advance(301)
        h.at.status = 503
        await h.read(token)
        await h.at.changes.until(lambda: h.at.asked[METADATA] == 2, what="a second fetch")
        await h.read(token)
        await h.clock.advance(86_400)
        lasting = h.at.token(exp=int(h.at.now()) + 10_000)
        with pytest.raises(NoKeysError) as missing:  # a day without its keys is enough
            await h.read(lasting)
        assert 1 <= missing.value.retry_after <= 10


async def test_made_up_keys_keep_nobody_out_whose_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an issuer hangs: so many wait for it, not all of them for one name, and the others wait for nothing."""
    monkeypatch.setattr("tokenproxy.oauth.issuers.WAITING", 5)
    monkeypatch.setattr("tokenproxy.oauth.issuers.WAITING_EACH", 3)
    async with house() as h:
        await h.read(h.at.token())
        await h.clock.advance(11)
        h.at.free.clear()

        def made_up(kid: str | None, number: int) -> str:
            return h.at.token(header={"kid": kid}, jti=f"{kid} {number}")

        waiting = [asyncio.create_task(h.refused(made_up("flood", number))) for number in range(3)]
        await h.at.changes.until(lambda: h.at.asked[METADATA] == 2, what="a fetch")
        with pytest.raises(CrowdedError) as crowded:
            await h.read(made_up("flood", 3))
        assert crowded.value.retry_after == 1
        waiting += [asyncio.create_task(h.refused(made_up(kid, 0))) for kid in ("more", "yet more")]
        await asyncio.sleep(0)
        for token in (made_up("new", 0), made_up("flood", 4)):
            with pytest.raises(CrowdedError):
                await h.read(token)
        for number in range(20):
            await h.read(h.at.token(jti=f"good {number}"))
            await h.read(made_up(None, number))  # it names none, and one of those that are here has signed it
        h.at.free.set()
        assert all("does not have" in told for told in await asyncio.gather(*waiting))
        assert "does not have" in await h.refused(made_up("flood", 5))
        assert h.at.asked[METADATA] == 2


async def test_an_issuer_that_is_down_at_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    at = IssuerSimulator()
    at.status = 500
    async with house(at) as h:
        with pytest.raises(NoKeysError, match="keys of the issuer cluster cannot be had"):
            await h.read(at.token())
        at.status = 200
        with pytest.raises(NoKeysError):  # tried a moment ago
            await h.read(at.token())
        await h.clock.advance(10)
        await h.read(at.token())
        told = [each.__dict__["fields"] for each in caplog.records if each.message == "issuer_keys_failed"]
        assert told == [{"issuer": "cluster", "detail": "it answers with status 500", "keys": 0}]


@pytest.mark.parametrize(
    ("metadata", "answer", "detail"),
    [
        ({"issuer": "https://elsewhere.example"}, None, "its metadata is that of another issuer"),
        ({"jwks_uri": "http://elsewhere.example/keys"}, None, "jwks_uri in its metadata is no https address"),
        ({"jwks_uri": "file:///etc/passwd"}, None, "jwks_uri in its metadata is no https address"),
        ({"jwks_uri": None}, None, "jwks_uri in its metadata is no https address"),
        ({}, b"[]", "its keys are no JWKS of at most 256 KiB and 100 keys"),
        ({}, b"x" * 300_000, "its keys are no JWKS of at most 256 KiB and 100 keys"),
        (
            {},
            json.dumps({"keys": [{}] * 101}).encode(),
            "its keys are no JWKS of at most 256 KiB and 100 keys",
        ),
        (
            {},
            b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
            "its JWKS holds no key that tokens could be signed with",
        ),
        ({}, b'{"keys": [{"kty": "RSA", "n": "!", "e": "!"}]}', "its JWKS holds no key that can be read"),
    ],
)
async def test_answers_that_are_not_followed(
    metadata: dict[str, Any], answer: bytes | None, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at = IssuerSimulator()
    at.metadata, at.answer = metadata, answer
    async with house(at) as h:
        with pytest.raises(NoKeysError):
            await h.read(at.token())
        (told,) = [each.__dict__["fields"] for each in caplog.records if each.message == "issuer_keys_failed"]
        assert told["detail"] == detail


async def test_keys_of_an_address_that_wants_a_token() -> None:
    """Kubernetes' API server tells them to service accounts only, over TLS of its own authority."""
    at = IssuerSimulator()
    at.wants = "ours"
    async with house(at, at_keys=True, issuer="kubernetes/serviceaccount", token="file:token") as h:
        await h.read(at.token(iss="kubernetes/serviceaccount"))
        assert at.asked == {KEYS: 1}


async def test_our_token_goes_to_the_host_that_the_config_names_alone() -> None:
    elsewhere, at = IssuerSimulator(), IssuerSimulator()
    async with elsewhere:
        elsewhere.keys = at.keys
        at.metadata = {"jwks_uri": f"{elsewhere.url}{KEYS}"}
        async with house(at, token="file:token") as h:
            await h.read(at.token())
            assert at.bearers == ["Bearer ours"]
            assert elsewhere.bearers == [""]


async def test_keys_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    tls = TLSFiles(ca_file=str(tmp_path / "ca.pem"))
    async with house(IssuerSimulator(ssl=context), way=Way(tls=tls)) as h:
        await h.read(h.at.token())
    async with house(IssuerSimulator(ssl=context)) as h:
        with pytest.raises(NoKeysError):
            await h.read(h.at.token())


async def test_keys_in_a_file(tmp_path: Path) -> None:
    """Read anew as often as an address would be asked."""
    path = tmp_path / "keys.json"
    at = IssuerSimulator()
    path.write_bytes(at.key_set())
    async with house(at, jwks_file=str(path)) as h:
        await h.read(at.token())
        at.rotate("second")
        path.write_bytes(at.key_set())
        await h.clock.advance(11)
        await h.read(at.token())
        assert not at.asked


async def test_a_reload_keeps_the_keys_of_those_that_stay() -> None:
    async with house() as h:
        await h.read(h.at.token())
        h.issuers.configure([h.config])
        await h.read(h.at.token())
        assert h.at.asked[KEYS] == 1
        h.issuers.configure([replace(h.config, audiences=("other",))])
        assert "audience" in await h.refused(h.at.token())
        await h.read(h.at.token(aud="other"))
        assert h.at.asked[KEYS] == 2
        h.issuers.configure([])
        assert "not in the config" in await h.refused(h.at.token())
