"""What providers refuse, break and mangle, and what is left afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.oauth.house import ROUTE, House, renewed, table
from tests.simulators import (
    Answer,
    AskaraProvider,
    DeskeraProvider,
    FakeClock,
    PerscomProvider,
    PlainProvider,
)
from tokenproxy.core.account import Reason, State
from tokenproxy.core.provider import ClientAuth, ErrorCodes, Registration
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    MisconfiguredError,
    ProviderUnavailableError,
)


async def failure(house: House, tokens: TokenSet) -> AccountError:
    with pytest.raises(AccountError) as caught:
        await house.source.renew("books", tokens, route=ROUTE)
    return caught.value


async def expired(house: House) -> TokenSet:
    """Logged in, and a day later."""
    tokens = await house.login()
    await house.clock.advance(86400)
    return tokens


# -- the grant is over -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["invalid_grant", {"code": "invalid_grant"}])
async def test_a_grant_that_is_over_needs_a_person(error: Any) -> None:
    """No further token call, ever, until new tokens come; and the error says which command brings them."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await expired(house)
        provider.error = {"error": error}
        for _ in range(5):
            with pytest.raises(LoginRequiredError) as refused:
                await house.source.current("books")
            assert refused.value.reason == "refused"
            assert "tokenproxy login books" in refused.value.next_step
            assert isinstance(await failure(house, first), LoginRequiredError)
            await house.clock.advance(86400)
        await house.reload(registration=Registration(client_id=provider.client_id, client_secret="new"))
        await house.reload(
            registration=Registration(client_id=provider.client_id, client_secret=provider.client_secret)
        )
        assert isinstance(await failure(house, first), LoginRequiredError)
        assert provider.token_calls == 1
        assert (await house.stored()).standing.state is State.LOGIN_REQUIRED
        assert (await house.kept()).refresh_token == first.refresh_token  # nothing is thrown away

        provider.error = None
        again = await house.login()
        assert await house.source.current("books") == again
        assert again.generation == 2
        assert house.held().standing.state is State.OK


async def test_a_login_required_account_uses_its_token_up() -> None:
    """The refresh token is dead, the access token is not."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.revoke_grant()
        provider.grant_of().access[first.access_token] = 0.0
        with pytest.raises(LoginRequiredError):
            await house.source.refresh("books")
        assert house.source.ready("books") == first
        await house.clock.advance(86400)
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")


async def test_league_before_version_9_is_understood() -> None:
    """PERSCOM's framework once said 401 ``invalid_request`` for a dead refresh token: that is no misconfiguration."""
    async with PerscomProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.error_status = 401
        provider.error = {"error": "invalid_request", "error_description": "The refresh token is invalid."}
        assert isinstance(await failure(house, first), LoginRequiredError)


async def test_the_operator_may_try_again() -> None:
    """``tokenproxy refresh`` asks whatever the state says; an outage then does not change why a login is needed."""
    async with AskaraProvider() as provider, House(provider) as house:
        await expired(house)
        provider.error = {"error": "invalid_grant"}
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")
        provider.error, provider.outage = None, 503
        with pytest.raises(LoginRequiredError):
            await house.source.refresh("books")
        assert house.held().standing.reason is Reason.REFUSED
        provider.outage = None
        status = await house.operator.refresh("books")
        assert (status["state"], status["generation"], provider.token_calls) == ("ok", 2, 3)


# -- our registration is wrong -----------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_the_operators_matter() -> None:
    """Tokens are kept, no loop, and the corrected config is tried at once."""
    async with AskaraProvider() as provider, House(provider) as house:
        right = house.accounts["books"].registration
        await house.reload(registration=replace(right, client_secret="wrong"))
        first = await expired(house)
        for _ in range(5):
            with pytest.raises(MisconfiguredError) as refused:
                await house.source.current("books")
        assert refused.value.retry_after == 300
        assert "[accounts.books]" in refused.value.next_step
        assert provider.token_calls == 1
        assert (await house.kept()).refresh_token == first.refresh_token

        await house.clock.advance(300)  # it is looked after by itself, too
        with pytest.raises(MisconfiguredError):
            await house.source.current("books")
        assert provider.token_calls == 2

        await house.reload(registration=right)
        assert (await house.source.current("books")).generation == 2
        assert house.held().standing.state is State.OK


async def test_the_wrong_client_authentication_is_reported_as_configuration() -> None:
    """A client registered for basic that is sent post, and the reverse."""
    for kind, method in ((DeskeraProvider, ClientAuth.POST), (AskaraProvider, ClientAuth.BASIC)):
        async with kind() as provider, House(provider, client_auth=method) as house:
            first = await house.login()
            provider.revoke_all_access()
            assert isinstance(await failure(house, first), MisconfiguredError)
            assert provider.refreshes == 0


async def test_a_restart_with_the_corrected_config_is_tried_at_once(tmp_path: Path) -> None:
    """The pause belongs to the config that was refused; without a correction it goes on, also over an eviction."""
    async with AskaraProvider() as provider:
        path, clock = tmp_path / "t.db", FakeClock()
        wrong = {
            "books": table(
                provider, registration=Registration(client_id=provider.client_id, client_secret="no")
            )
        }
        async with House(provider, path=path, clock=clock, accounts=wrong) as house:
            await expired(house)
            with pytest.raises(MisconfiguredError):
                await house.source.current("books")
            house.source._entries.drop("books")
            with pytest.raises(MisconfiguredError):
                await house.source.current("books")
            assert provider.token_calls == 1
        await clock.advance(10)
        async with House(provider, path=path, clock=clock) as house:
            assert (await house.source.current("books")).generation == 2
            assert provider.token_calls == 2


async def test_a_reload_helps_accounts_that_are_not_in_memory(tmp_path: Path) -> None:
    """The same for a reload."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        right = house.accounts["books"].registration
        await house.reload(registration=replace(right, client_secret="wrong"))
        await expired(house)
        with pytest.raises(MisconfiguredError):
            await house.source.current("books")
        house.source._entries.drop("books")
        await house.clock.advance(1)
        await house.reload(registration=right)
        assert (await house.source.current("books")).generation == 2


@pytest.mark.parametrize("error", ["unauthorized_client", "invalid_scope", "unsupported_grant_type"])
async def test_requests_that_are_wrong_for_them(error: str) -> None:
    """RFC 6749 section 5.2: all of these are the operator's, none is a dead grant."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.error = {"error": error}
        assert isinstance(await failure(house, first), MisconfiguredError)
        assert house.source.ready("books") == first


async def test_a_redirect_is_not_followed() -> None:
    """Withings sends the wrong host to a web page; credentials do not go there."""
    async with AskaraProvider() as provider, AskaraProvider() as elsewhere, House(provider) as house:
        first = await house.login()
        provider.answer_override = (307, {"Location": elsewhere.url + elsewhere.token_path}, "")
        assert isinstance(await failure(house, first), MisconfiguredError)
        assert elsewhere.token_calls == 0


# -- not now -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "retry_after", "wait"),
    [(429, 7, 7), (429, "", 0.75), (503, 1, 1), (503, 0, 0.75), (500, 10**6, 86400), (502, None, 0.75)],
)
async def test_an_outage_is_waited_for(status: int, retry_after: Any, wait: float) -> None:
    """``Retry-After`` is honoured and bounded; nothing is thrown away, and what lives is used."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.outage, provider.retry_after = status, retry_after
        refused = await failure(house, first)
        assert isinstance(refused, ProviderUnavailableError)
        assert refused.retry_after == wait
        assert house.held().standing.reason is (
            Reason.RATE_LIMITED if status == 429 else Reason.PROVIDER_DOWN
        )
        assert (await failure(house, first)).retry_after == wait
        assert house.source.ready("books") == first
        assert provider.token_calls == 1
        provider.outage = None
        await house.clock.advance(wait)
        assert (await renewed(house, first)).generation == 2


async def test_a_provider_that_is_not_there_was_sent_nothing() -> None:
    """No mark is left, no doubt: degraded, and tried again."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.refuse_connections = True
        assert isinstance(await failure(house, first), ProviderUnavailableError)
        assert house.held().standing.state is State.DEGRADED
        assert (await house.stored()).in_flight_since is None
        provider.refuse_connections = False
        await house.clock.advance(1)
        assert (await renewed(house, first)).generation == 2


async def test_too_early_is_tried_again_when_it_is_time() -> None:
    """Exact counts an early refresh as an error: the next try waits until 30 s before expiry."""
    words = ErrorCodes(too_early=("access_denied:not expired",))
    async with PlainProvider() as provider, House(provider, errors=words) as house:
        first = await house.login(expires_in=600)
        provider.error = {"error": "access_denied", "error_description": "access_token not expired"}
        provider.revoke_all_access()
        refused = await failure(house, first)
        assert (refused.reason, refused.retry_after) == ("too_early", 570)


# -- answers that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, "<html>We'll be back</html>"),
        (200, {"Content-Type": "text/html"}, "x" * 10_000_000),
        (200, {}, ""),
        (200, {}, "[1, 2"),
        (200, {}, b"\xff" * 100),
        (200, {"Content-Type": "application/json"}, '{"access_token": null}'),
        (200, {"Content-Encoding": "gzip"}, "this is no gzip"),
        (204, {}, ""),
    ],
    ids=lambda answer: str(answer)[:40],
)
async def test_an_answer_that_is_none_overwrites_nothing(answer: tuple[int, Mapping[str, str], Any]) -> None:
    """Maintenance pages, 10 MB, garbage: tried again, with the token that we have."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.answer_override = answer
        assert isinstance(await failure(house, first), ProviderUnavailableError)
        assert house.held().tokens == first == await house.kept()
        provider.answer_override = None
        await house.clock.advance(30)
        assert (await renewed(house, first)).generation == 2


def spoilt(**changes: Any) -> Any:
    """The provider rotates, and what it says is partly rubbish."""

    def spoil(answer: Answer) -> tuple[int, dict[str, str], str]:
        return 200, {}, json.dumps(answer | changes)

    return spoil


@pytest.mark.parametrize("token", ["a\r\nX-Injected: 1", "a b", "ä", "", None, 7], ids=repr)
async def test_a_new_refresh_token_beside_rubbish_is_kept(token: Any) -> None:
    """The old one is spent: what the provider has issued is never thrown away, and the next try sends the new one."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.answer_override = spoilt(access_token=token)
        assert isinstance(await failure(house, first), ProviderUnavailableError)
        kept = await house.kept()
        assert kept.refresh_token == provider.latest()["refresh_token"]
        assert (kept.access_token, kept.generation) == (first.access_token, 2)
        assert (await house.stored()).standing.state is State.DEGRADED
        assert house.source.ready("books") == kept  # the old access token may live on
        provider.answer_override = None
        await house.clock.advance(1)
        again = await renewed(house, kept)
        assert (again.generation, provider.reuses) == (3, 0)


async def test_rubbish_does_not_wake_a_dead_access_token() -> None:
    """Validate said "dead"; a new refresh token alone changes nothing about that."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.revoke_all_access()
        provider.answer_override = spoilt(access_token="a b")
        await failure(house, first)
        assert house.source.ready("books") is None
        with pytest.raises(ProviderUnavailableError):
            await house.source.current("books")


async def test_rubbish_that_the_store_does_not_take_is_kept_in_memory() -> None:
    """Both at once: the new refresh token exists nowhere else."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.answer_override = spoilt(access_token="a b")
        house.store.failing["commit"] = 1
        await failure(house, first)
        assert house.source.unstored == 1
        await house.clock.until_sleeping()
        await house.clock.advance(1)
        await house.idle()
        assert (await house.kept()).refresh_token == provider.latest()["refresh_token"]
        assert house.source.unstored == 0


async def test_tokens_of_64_kilobytes() -> None:
    """In Deskera's case they travel in the URL."""
    async with DeskeraProvider() as provider, House(provider) as house:
        provider.token_size = 65536
        first = await house.login()
        assert len(first.refresh_token or "") > 60_000
        assert (await renewed(house, first)).generation == 2
        assert provider.complaints == []


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [40, 3000])
@pytest.mark.parametrize("shape", ["{}", "token={}&x", "({})", "/token?refresh_token={}"])
async def test_a_provider_that_quotes_our_secrets(length: int, shape: str) -> None:
    """Whole or cut short: neither the error, nor the store, nor the status shows a piece of them."""
    async with PlainProvider() as provider, House(provider) as house:
        provider.token_size = length
        first = await house.login()
        provider.revoke_all_access()
        for secret in (
            first.refresh_token or "",
            provider.client_secret,
            quote(provider.client_secret, safe=""),
        ):
            said = shape.format(secret)
            provider.error = {"error": "odd", "error_description": said, "message": said}
            refused = await failure(house, first)
            status = await house.operator.status("books")
            everything = f"{refused.message} {(await house.stored()).standing} {json.dumps(status)}"
            assert provider.leaks(everything) == []
            assert secret[:12] not in everything
            await house.clock.advance(60)


async def test_each_waiter_gets_an_error_of_its_own() -> None:
    """One exception raised in a thousand tasks would grow a thousand tracebacks."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.outage = 503
        errors = await asyncio.gather(*(failure(house, first) for _ in range(10)))
        assert len({id(error) for error in errors}) == 10
        assert len({error.message for error in errors}) == 1
        assert provider.token_calls == 1
