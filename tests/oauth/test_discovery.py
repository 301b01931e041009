"""Issuers' metadata over real sockets: when it is fetched, how long it is believed, and what happens without it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.oauth.modern import housed, registered, server
from tests.simulators import FakeClock
from tests.simulators.modern import ModernServer
from tokenproxy.core.account import Reason, State
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.outgoing import Way
from tokenproxy.core.provider import Account, Validate
from tokenproxy.core.replies import Reply
from tokenproxy.core.settings import TLSFiles
from tokenproxy.core.steps import TokenRequest
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import MisconfiguredError, ProviderUnavailableError
from tokenproxy.oauth.calls import MisdirectedError, NotSentError
from tokenproxy.oauth.discovery import Discovery
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.proxy.tls import tls_context

HOUR = 3600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def issued(at: ModernServer, **profile: Any) -> Account:
    """An account of which the config knows no more than the issuer."""
    return registered(at, **({"issuer": at.issuer, "token_url": ""} | profile))


def fetches(at: ModernServer) -> int:
    return at.calls["oauth-authorization-server"] + at.calls["openid-configuration"] + at.calls["tenant"]


class Asked:
    """An endpoint on a clock of ours."""

    def __init__(self, clock: FakeClock) -> None:
        self.endpoint = Endpoint(tls_context, timeout=2.0, monotonic=clock.monotonic)

    async def __aenter__(self) -> Endpoint:
        return self.endpoint

    async def __aexit__(self, *_: object) -> None:
        await self.endpoint.close()


@pytest.mark.parametrize("where", ["oauth-authorization-server", "openid-configuration"])
@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_a_refresh_where_only_the_issuer_is_known(where: str, path: str, clock: FakeClock) -> None:
    """Both places are tried; nothing is fetched at the start, and one document does for many renewals."""
    async with server("client_secret_basic", clock, path=path, metadata_at={where}) as at:
        async with housed(at, clock, issued(at)) as house:
            await house.login()
            assert fetches(at) == 0
            await house.source.refresh("books")
            found = fetches(at)
            assert found == (1 if where == "oauth-authorization-server" else 2)
            await house.source.refresh("books")
            assert fetches(at) == found
            assert (await house.stored()).bound_to.startswith(at.url)
        assert not at.complaints


async def test_a_profile_that_is_whole_asks_nobody(clock: FakeClock) -> None:
    """A renewal needs the token endpoint alone; no metadata may hold it up."""
    async with server("client_secret_basic", clock) as at:
        async with housed(at, clock, issued(at, token_url=at.token_url)) as house:
            await house.login()
            await house.source.refresh("books")
        assert fetches(at) == 0


async def test_one_fetch_for_all_who_wait(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock) as at, Asked(clock) as endpoint:
        account = issued(at)
        found = await asyncio.gather(*(endpoint.resolved(account) for _ in range(20)))
        assert {each.provider.token_url for each in found} == {at.token_url}
        assert fetches(at) == 1


async def test_a_document_is_believed_for_an_hour_and_kept_beyond(clock: FakeClock) -> None:
    """A failed fetch keeps the last good copy, and is not repeated for a minute."""
    async with server("client_secret_basic", clock) as at, Asked(clock) as endpoint:
        account = issued(at)
        await endpoint.resolved(account)
        await clock.advance(HOUR - 1)
        await endpoint.resolved(account)
        assert fetches(at) == 1
        await clock.advance(1)
        at.metadata = {"token_endpoint": f"{at.url}/moved"}
        assert (await endpoint.resolved(account)).provider.token_url == f"{at.url}/moved"
        await clock.advance(HOUR)
        for spoiled in ({"issuer": "https://evil.example"}, {"token_endpoint": "http://evil.example/t"}):
            at.metadata = spoiled
            assert (await endpoint.resolved(account)).provider.token_url == f"{at.url}/moved"
            await clock.advance(60)
        at.metadata_status = 503
        before = fetches(at)
        for _ in range(3):
            assert (await endpoint.resolved(account)).provider.token_url == f"{at.url}/moved"
        assert fetches(at) == before + 2  # both places, once
        at.metadata_status = 200
        await clock.advance(60)
        at.metadata = {}
        assert (await endpoint.resolved(account)).provider.token_url == at.token_url


async def test_an_issuer_that_says_nothing_is_not_waited_for(clock: FakeClock) -> None:
    """A renewal has a lease, which both addresses together must not outlast."""

    async def send(_request: TokenRequest, _tls: Way) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with server("client_secret_basic", clock) as at:
        discovery = Discovery(send, monotonic=clock.monotonic, patience=0.05)
        with pytest.raises(NotSentError, match="did not answer in time"):
            await discovery.resolved(issued(at))


async def test_a_document_is_believed_by_those_who_trust_the_same_authorities(clock: FakeClock) -> None:
    asked = []

    async with server("client_secret_basic", clock) as at:
        document = json.dumps({"issuer": at.issuer, "token_endpoint": at.token_url}).encode()

        async def send(_request: TokenRequest, way: Way) -> Reply:
            asked.append(way.tls.ca_file)
            return Reply(200, {}, document)

        discovery = Discovery(send, monotonic=clock.monotonic)
        for authorities in ("ours.pem", "theirs.pem", "ours.pem"):
            await discovery.resolved(issued(at, tls=TLSFiles(ca_file=authorities)))
    assert asked == ["ours.pem", "theirs.pem"]


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"metadata_at": set()}, "its metadata address answers with status 404"),
        ({"metadata_status": 302}, "its metadata address answers with status 302"),
        ({"metadata_status": 503}, "its metadata address answers with status 503"),
    ],
)
async def test_no_document_yet(knobs: dict[str, Any], text: str, clock: FakeClock) -> None:
    """A provider that is down: for now, nothing sent, and no redirect followed."""
    async with server("client_secret_basic", clock, **knobs) as at:
        async with housed(at, clock, issued(at)) as house:
            await house.login()
            with pytest.raises(ProviderUnavailableError):
                await house.source.refresh("books")
            standing = house.held().standing
            assert (standing.state, standing.reason) == (State.DEGRADED, Reason.PROVIDER_DOWN)
            assert text in standing.error
            assert not house.held().in_doubt
            at.metadata_status, at.metadata_at = 200, {"openid-configuration"}
            assert (await house.source.refresh("books")).generation == 2
        assert at.calls["elsewhere"] == 0


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"issuer": "https://evil.example"}, "another issuer"),
        (
            {"token_endpoint": "http://evil.example/token"},
            "token_endpoint in its metadata is no https address",
        ),
        ({"token_endpoint": None}, "says where tokens come from"),
    ],
)
async def test_a_document_that_must_not_be_followed(
    metadata: dict[str, Any], text: str, clock: FakeClock
) -> None:
    """The operator must look; nothing was sent to the place that it names."""
    async with server("client_secret_basic", clock, metadata=metadata) as at:
        async with housed(at, clock, issued(at)) as house:
            await house.login()
            with pytest.raises(MisconfiguredError):
                await house.source.refresh("books")
            assert text in house.held().standing.error
        assert at.calls["token"] == 0


async def test_without_a_document_a_whole_profile_does(clock: FakeClock) -> None:
    """A login that needs no more than what the profile says."""
    async with server("client_secret_basic", clock, metadata_at=set()) as at, Asked(clock) as endpoint:
        account = issued(at, token_url=at.token_url)
        assert await endpoint.resolved(account) == account
        with pytest.raises(NotSentError):
            await endpoint.resolved(issued(at))
        at.metadata_at, at.metadata = {"openid-configuration"}, {"issuer": "https://evil.example"}
        await clock.advance(60)
        with pytest.raises(MisdirectedError):
            await endpoint.resolved(issued(at))


async def test_an_account_without_an_issuer_is_itself(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock) as at, Asked(clock) as endpoint:
        account = registered(at)
        assert await endpoint.resolved(account) is account


# -- introspection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["profile", "issuer"])
async def test_introspection_tells_before_a_renewal(known: str, clock: FakeClock) -> None:
    """RFC 7662: a live token is not renewed for a 401 that is about something else; a dead one is."""
    async with server("client_secret_basic", clock) as at:
        url = f"{at.issuer}/introspect" if known == "profile" else ""
        account = issued(at, validate=Validate(url=url, introspect=True))
        async with housed(at, clock, account) as house:
            held = await house.login()
            assert await house.source.renew("books", held, route="books") is KeepAnswer.LIVE
            assert (at.calls["introspect"], at.calls["token"]) == (1, 0)
            await clock.advance(11)
            at.issued.append(replace(at.issued[0], access_token="another"))
            at.issued[0].access_token = "no longer"
            renewed = await house.source.renew("books", held, route="books")
            assert isinstance(renewed, TokenSet)
            assert (at.calls["introspect"], at.calls["token"]) == (2, 1)
        assert not at.complaints


async def test_a_client_that_may_not_introspect_learns_nothing(clock: FakeClock) -> None:
    """An error there is about us, so the renewal goes on."""
    async with server("client_secret_basic", clock) as at, Asked(clock) as endpoint:
        account = registered(at, validate=Validate(url=f"{at.issuer}/introspect", introspect=True))
        at.client_secret = "changed"
        assert await endpoint.is_live(account, TokenSet("a"), now=clock.now()) is None
