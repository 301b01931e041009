"""Clients that sign and show certificates, before a server that verifies; keys that proofs and tokens hang on."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.oauth.house import House
from tests.oauth.modern import PEM, RSA, housed, registered, server
from tests.simulators import FakeClock
from tokenproxy.core.account import Reason, State
from tokenproxy.core.provider import AssertionForm
from tokenproxy.core.settings import TLSFiles
from tokenproxy.errors import AccountError, MisconfiguredError


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# -- client authentication -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("RS256", RSA),
        ("PS256", RSA),
        ("ES256", ECKey.generate_key("P-256")),
        ("EdDSA", OKPKey.generate_key("Ed25519")),
    ],
)
async def test_private_key_jwt(alg: str, key: Key, clock: FakeClock) -> None:
    """RFC 7523: each refresh with an assertion of its own, which the server takes once."""
    async with server("private_key_jwt", clock, key=key, alg=alg) as at:
        private = json.dumps(key.as_dict(private=True))
        account = registered(at, private_key=private, assertion=AssertionForm(alg=alg))
        async with housed(at, clock, account) as house:
            await house.login()
            assert (await house.source.refresh("books")).generation == 2
            assert (await house.source.refresh("books")).generation == 3
        assert len({claims["jti"] for claims in at.assertions}) == 2
        assert not at.complaints


@pytest.mark.parametrize("auth", ["client_secret_jwt", "client_secret_basic", "client_secret_post", "none"])
async def test_other_ways(auth: str, clock: FakeClock) -> None:
    """Each exactly one, as the server counts them."""
    async with server(auth, clock) as at, housed(at, clock) as house:
        await house.login()
        await house.source.refresh("books")
        assert not at.complaints


async def test_a_lost_answer_is_asked_for_with_a_fresh_assertion(clock: FakeClock) -> None:
    """A ``jti`` that was seen once is refused, and the second attempt with it."""
    async with server("private_key_jwt", clock) as at, housed(at, clock) as house:
        await house.login()
        at.lose_answers = 1
        assert (await house.source.refresh("books")).generation == 2
        assert len(at.assertions) == 2
        assert not at.complaints


async def test_an_audience_of_its_own(clock: FakeClock) -> None:
    async with server("private_key_jwt", clock, audience="https://as.example/") as at:
        account = registered(at, assertion=AssertionForm(audience="https://as.example/"))
        async with housed(at, clock, account) as house:
            await house.login()
            await house.source.refresh("books")
        assert not at.complaints


@pytest.mark.parametrize(
    ("private_key", "calls"),
    [
        ("-----BEGIN PRIVATE KEY-----\nhunter2hunter2", 0),
        (RSAKey.generate_key(2048).as_pem(private=True).decode(), 1),
    ],
)
async def test_a_wrong_key_is_the_operators_to_mend(private_key: str, calls: int, clock: FakeClock) -> None:
    """One that signs nothing sends nothing; another's is refused; the tokens are kept both times."""
    async with server("private_key_jwt", clock) as at:
        async with housed(at, clock, registered(at, private_key=private_key)) as house:
            held = await house.login()
            with pytest.raises(MisconfiguredError) as refused:
                await house.source.refresh("books")
            assert "hunter2" not in str(refused.value)
            assert house.held().standing.reason is Reason.CLIENT_REFUSED
            assert house.held().tokens == held
        assert at.calls["token"] == calls


@pytest.mark.parametrize(
    ("registered_for", "sent_as"),
    [("client_secret_basic", "client_secret_post"), ("client_secret_post", "client_secret_basic")],
)
async def test_the_other_way_is_refused_and_reported_as_configuration(
    registered_for: str, sent_as: str, clock: FakeClock
) -> None:
    """Never probed at run time; the tokens stay."""
    async with server(registered_for, clock) as at:
        at.auth = sent_as
        account = registered(at)
        at.auth = registered_for
        async with housed(at, clock, account) as house:
            await house.login()
            with pytest.raises(MisconfiguredError):
                await house.source.refresh("books")
            assert house.held().standing.state is State.MISCONFIGURED
        assert at.calls["token"] == 1
        assert len(at.complaints) == 1


async def test_an_id_with_odd_signs(clock: FakeClock) -> None:
    """Form-encoded before base64 (RFC 6749 section 2.3.1)."""
    async with server("client_secret_basic", clock, client_id="my app: é", client_secret="100%+/= :") as at:
        async with housed(at, clock) as house:
            await house.login()
            await house.source.refresh("books")
        assert not at.complaints


class Certificates:
    """An authority, the server's side, and the files of two clients."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)
        authority.configure_trust(self.server)
        self.server.verify_mode = ssl.CERT_OPTIONAL
        authority.cert_pem.write_to_path(folder / "ca.pem")
        self.nobody = TLSFiles(ca_file=str(folder / "ca.pem"))
        self.client, self.other = (self._issue(authority, folder, name) for name in ("client-1", "client-2"))

    def _issue(self, authority: trustme.CA, folder: Path, name: str) -> TLSFiles:
        issued = authority.issue_cert(f"{name}.example")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        return replace(
            self.nobody, cert_file=str(folder / f"{name}.pem"), key_file=str(folder / f"{name}.key")
        )


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_mutual_tls(certificates: Certificates, clock: FakeClock) -> None:
    """RFC 8705: the certificate speaks, ``client_id`` says for whom; another's and none are refused."""
    async with server("tls_client_auth", clock, ssl=certificates.server) as at:
        async with housed(at, clock, registered(at, tls=certificates.client)) as house:
            await house.login()
            assert (await house.source.refresh("books")).generation == 2
        assert not at.complaints
        for files in (certificates.other, certificates.nobody):
            async with housed(at, clock, registered(at, tls=files)) as house:
                await house.login()
                with pytest.raises(MisconfiguredError):
                    await house.source.refresh("books")
        assert len(at.complaints) == 2


async def test_a_jwt_bearer_grant_of_our_own(clock: FakeClock) -> None:
    """RFC 7523 section 2.1: asked for with a new assertion each time; the refresh token is let go."""
    async with server("none", clock) as at:
        account = replace(registered(at, grant="jwt_bearer"), claims={"sub": "anna@acme.example"})
        async with housed(at, clock, account) as house:
            first = await house.source.current("books")
            second = await house.source.refresh("books")
            assert first.access_token != second.access_token
            assert second.refresh_token is None
        assert [claims["sub"] for claims in at.assertions] == ["anna@acme.example"] * 2
        assert {claims["iss"] for claims in at.assertions} == {at.client_id}
        assert not at.complaints


# -- proofs, the token endpoint's half -------------------------------------------------------------------------------------


async def bound(house: House, at: object, key: str) -> None:
    """A login with tokens that are bound to ``key``."""
    public = ECKey.import_key(json.loads(key))
    answer = house.simulator.new_grant(bound_to=public.thumbprint())  # type: ignore[call-arg]
    await house.put(replace(house.imported(answer), dpop_key=key))


@pytest.mark.parametrize("auth", ["none", "private_key_jwt"])
async def test_proofs_with_a_nonce_and_a_key_that_survives(
    auth: str, clock: FakeClock, tmp_path: Path
) -> None:
    """One retry for the first nonce, none while it stays, and after a restart the same key."""
    key = json.dumps(ECKey.generate_key("P-256", private=True).as_dict(private=True))
    async with server(auth, clock, dpop=True, nonce="nonce-1") as at:
        async with housed(at, clock, path=tmp_path / "t.db") as house:
            await bound(house, at, key)
            assert (await house.source.refresh("books")).token_type == "DPoP"
            assert (at.refused_nonces, at.calls["token"]) == (1, 2)
            await house.source.refresh("books")
            assert (at.refused_nonces, at.calls["token"]) == (1, 3)
            at.nonce = "nonce-2"
            await house.source.refresh("books")
            assert (at.refused_nonces, at.calls["token"]) == (2, 5)
            assert (await house.kept()).dpop_key == key
        async with housed(at, clock, path=tmp_path / "t.db") as house:
            assert (await house.source.refresh("books")).generation == 5
            assert house.held().tokens.dpop_key == key
        assert len({proof["jti"] for proof in at.proofs}) == len(at.proofs) == 4
        assert not at.complaints


async def test_a_machine_makes_its_key_once(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock, dpop=True) as at:
        async with housed(at, clock, registered(at, grant="client_credentials")) as house:
            first = await house.source.current("books")
            assert first.dpop_key
            assert (await house.source.refresh("books")).dpop_key == first.dpop_key
        assert not at.complaints


async def test_a_token_that_anybody_may_use_is_refused_where_a_bound_one_was_wanted(clock: FakeClock) -> None:
    """RFC 9449 section 5: a downgrade; the rotated refresh token is kept all the same."""
    key = json.dumps(ECKey.generate_key("P-256", private=True).as_dict(private=True))
    async with server("none", clock, dpop=True) as at, housed(at, clock) as house:
        await bound(house, at, key)
        at.token_type = "Bearer"
        with pytest.raises(MisconfiguredError, match="DPoP"):
            await house.source.refresh("books")
        assert (await house.kept()).refresh_token == at.issued[-1].refresh_token
        assert (await house.kept()).dpop_key == key
        at.token_type = None
        await house.source.refresh("books")
        assert not at.complaints


# -- secrets ---------------------------------------------------------------------------------------------------------------


async def test_an_error_that_quotes_what_we_signed_shows_nothing(clock: FakeClock) -> None:
    """Neither the assertion nor the proof gets into ``status``, an error or the log."""
    key = json.dumps(ECKey.generate_key("P-256", private=True).as_dict(private=True))
    async with server("private_key_jwt", clock, dpop=True, quotes=True) as at, housed(at, clock) as house:
        await bound(house, at, key)
        with pytest.raises(AccountError) as refused:
            await house.source.refresh("books")
        shown = str(refused.value) + json.dumps(await house.operator.status("books"))
        assert "quoted: …" in shown
        assert not [secret for secret in (*at.secrets, PEM, key) if secret in shown]


# -- captured addresses ------------------------------------------------------------------------------------------------------


async def test_an_instance_that_points_elsewhere_is_refused_and_the_login_kept(clock: FakeClock) -> None:
    """Nobody is sent there; the rotated refresh token is stored all the same, and the next good answer mends it."""
    async with server("client_secret_basic", clock) as at:
        account = registered(
            at, captured={"instance_url": ("instance_url",)}, captured_hosts=("*.crm.example",)
        )
        async with housed(at, clock, account) as house:
            await house.login(instance_url="https://eu1.crm.example")
            at.extra = {"instance_url": "https://eu1.crm.example.evil.example"}
            with pytest.raises(MisconfiguredError, match="captured_hosts"):
                await house.source.refresh("books")
            kept = await house.kept()
            assert kept.captured == {"instance_url": "https://eu1.crm.example"}
            assert kept.refresh_token == at.issued[-1].refresh_token
            at.extra = {"instance_url": "https://eu2.crm.example/"}
            await house.source.refresh("books")
            assert (await house.kept()).captured == {"instance_url": "https://eu2.crm.example"}
        assert not at.complaints
