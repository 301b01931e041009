"""A logout ends the login here in any case, and at the provider where it can be told."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from tests.oauth.house import House
from tests.oauth.modern import housed, registered, server
from tests.simulators import AskaraProvider, FakeClock
from tests.simulators.modern import ModernServer
from tokenproxy.core.account import State
from tokenproxy.core.provider import Revoke
from tokenproxy.errors import AccountError, StoreUnavailableError


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def revoking(at: ModernServer, **changes: Any) -> Any:
    return registered(at, revoke=Revoke(url=f"{at.issuer}/revoke"), **changes)


@pytest.mark.parametrize("auth", ["client_secret_basic", "private_key_jwt", "none"])
async def test_the_provider_is_told(auth: str, clock: FakeClock) -> None:
    """With our client authentication, whatever kind."""
    async with server(auth, clock) as at, housed(at, clock, revoking(at)) as house:
        await house.login()
        status = await house.operator.logout("books")
        assert (status["state"], status["revoked"]) == ("new", True)
        assert not at.issued[0].live
        assert (await house.stored()).tokens is None
        assert not at.complaints


async def test_an_issuer_says_where(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock) as at:
        account = registered(at, issuer=at.issuer)
        async with housed(at, clock, account) as house:
            await house.login()
            assert (await house.operator.logout("books"))["revoked"] is True
        assert not at.complaints


async def test_whatever_the_provider_answers_the_tokens_are_gone(
    clock: FakeClock, written: io.StringIO
) -> None:
    """RFC 7009 section 2.2.1: after a 503 they live there; the operator is told, without an address or a token."""
    async with server("client_secret_basic", clock) as at, housed(at, clock, revoking(at)) as house:
        for fault in ("refuses", "is down"):
            await house.login()
            at.revocation_status = 503
            at.refuse_connections = fault == "is down"
            status = await house.operator.logout("books")
            assert (status["state"], status["revoked"]) == ("new", False)
            assert (await house.stored()).tokens is None
        lines = written.getvalue()
        assert lines.count("revocation_failed") == 2
        assert not [secret for secret in at.secrets if secret in lines]


async def test_no_way_to_tell() -> None:
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        assert (await house.operator.logout("books"))["revoked"] is None
        assert (await house.operator.logout("books"))["revoked"] is None
        assert not provider.complaints


async def test_tokens_of_another_registration_are_shown_to_nobody(clock: FakeClock) -> None:
    """The config names another place now: it is not sent what the place before it issued."""
    async with server("client_secret_basic", clock) as at, housed(at, clock, revoking(at)) as house:
        await house.login()
        changed = replace(house.accounts["books"].registration, client_id="client-2")
        await house.reload(registration=changed)
        assert (await house.operator.logout("books"))["revoked"] is None
        assert at.calls["revoke"] == 0
        assert at.issued[0].live


async def test_a_token_that_somebody_else_made_is_not_ours_to_end(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock) as at:
        account = replace(revoking(at, grant="static"), token="theirs")
        async with housed(at, clock, account) as house:
            await house.source.current("books")
            assert (await house.operator.logout("books"))["revoked"] is None
        assert at.calls["revoke"] == 0


async def test_a_machines_token_is_ended(clock: FakeClock) -> None:
    """Its access token, since it has no other; the next use obtains another."""
    async with server("client_secret_basic", clock) as at:
        async with housed(at, clock, revoking(at, grant="client_credentials")) as house:
            await house.source.current("books")
            status = await house.operator.logout("books")
            assert (status["state"], status["revoked"]) == (State.OK.value, True)
            assert not at.issued[0].live
            assert (await house.source.current("books")).access_token == at.issued[1].access_token
        assert not at.complaints


async def test_what_only_memory_has_is_what_is_ended(clock: FakeClock) -> None:
    """The store did not take the rotated pair: its own refresh token is spent, and would end nothing."""
    async with server("client_secret_basic", clock) as at, housed(at, clock, revoking(at)) as house:
        await house.login()
        house.store.failing["commit"] = 1
        await house.source.refresh("books")
        assert (await house.operator.logout("books"))["revoked"] is True
        assert not at.issued[1].live
        assert not at.complaints


async def test_a_store_that_keeps_them_keeps_the_provider_out_of_it(clock: FakeClock) -> None:
    """Else the row would hold what is dead there."""
    async with server("client_secret_basic", clock) as at, housed(at, clock, revoking(at)) as house:
        await house.login()
        house.store.failing["forget"] = 1
        with pytest.raises(StoreUnavailableError):
            await house.operator.logout("books")
        assert at.calls["revoke"] == 0
        assert (await house.source.refresh("books")).generation == 2


async def test_after_a_logout_nothing_is_renewed(clock: FakeClock) -> None:
    async with server("client_secret_basic", clock) as at, housed(at, clock, revoking(at)) as house:
        await house.login()
        await house.operator.logout("books")
        with pytest.raises(AccountError):
            await house.source.refresh("books")
        assert at.calls["token"] == 0
