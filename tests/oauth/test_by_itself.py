"""Accounts that need no person: the first use obtains a token, and asking again takes the place of a refresh token."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import pytest

from tests.oauth.house import ROUTE, House, profile, renewed, table
from tests.simulators import PlainProvider
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    MisconfiguredError,
    NoLoginError,
    ProviderUnavailableError,
    StoreUnavailableError,
    UnknownAccountError,
)
from tokenproxy.oauth import scheduler

SUBJECT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


def machine(provider: PlainProvider, /, **changes: Any) -> Account:
    """No validate call, so that each 401 is a renewal."""
    given: dict[str, Any] = {"grant": "client_credentials", "provider": profile(provider, validate=None)}
    return table(provider, **(given | changes))


def house_of(provider: PlainProvider, *, path: Path | None = None, **changes: Any) -> House:
    return House(provider, path=path, accounts={"books": machine(provider, **changes)})


def found(grant: str, origin: str, **changes: Any) -> Account:
    """``grant`` is static, file or command: no endpoint, no registration."""
    bearer = Provider(name="bearer", token_url="", client_auth=ClientAuth.NONE)
    made = Account(
        name="books", provider=bearer, registration=Registration(client_id=""), grant=grant, token_from=origin
    )
    return replace(made, **changes)


def put(path: Path, text: str) -> None:
    """As programs should write a token: another file in the old one's place."""
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    os.replace(new, path)


async def refused(house: House, tokens: TokenSet) -> TokenSet | KeepAnswer:
    """An upstream says 401 to these."""
    return await house.source.renew("books", tokens, route=ROUTE)


# -- client credentials ------------------------------------------------------------------------------------------------


async def test_a_thousand_first_requests_and_one_token_call(tmp_path: Path) -> None:
    """Nobody has to log anything in, and a crowd at the start is no attack on the provider."""
    async with PlainProvider() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        provider.gate = asyncio.Event()
        waiters = [asyncio.create_task(house.source.current("books")) for _ in range(1000)]
        await provider.token_call_arrived()
        await house.waiting(1000)
        assert (await house.stored()).in_flight_since is not None  # the mark, before anything came back
        provider.gate.set()
        tokens = await asyncio.gather(*waiters)

        assert (provider.token_calls, provider.obtained, provider.complaints) == (1, 1, [])
        assert {each.generation for each in tokens} == {1}
        assert await house.kept() == tokens[0] == house.source.ready("books")
        assert provider.secrets[0] not in (tmp_path / "t.db").read_bytes().decode("latin-1")


async def test_a_401_and_expiry_ask_again(tmp_path: Path) -> None:
    """RFC 6749 section 4.4.3: renewal means asking again; generations and the journal are those of every renewal."""
    async with PlainProvider() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        first = await house.source.current("books")
        second = await renewed(house, first)
        assert (second.generation, provider.obtained) == (2, 2)
        assert await refused(house, first) == second  # a newer one is there: no call

        await house.clock.advance(3601)
        third = await house.source.current("books")

        assert (third.generation, provider.obtained, provider.complaints) == (3, 3, [])
        assert (await house.stored()).in_flight_since is None


async def test_used_accounts_are_renewed_ahead_of_expiry() -> None:
    """No request waits for a token that could have been there already."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await house.source.current("books")
        ticking = asyncio.create_task(
            scheduler.run(house.source, clock=house.clock, policy=lambda: house.policy)
        )
        await house.clock.advance(3400)
        async with asyncio.timeout(10):
            while provider.obtained < 2:
                await asyncio.sleep(0.01)
        await house.idle()
        ticking.cancel()

        assert house.source.ready("books") == await house.kept()
        assert house.held().tokens.generation == 2


async def test_a_refresh_token_that_should_not_be_there_is_not_kept() -> None:
    """RFC 6749 section 4.4.3; kept, it could rot and make a machine's account need a person."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.machine_refresh_token = True
        first = await house.source.current("books")
        await renewed(house, first)

        assert (await house.kept()).refresh_token is None
        assert (provider.obtained, provider.refreshes) == (2, 0)


async def test_a_provider_that_lets_machines_refresh() -> None:
    """``machine_refresh``: the refresh token is used and rotated, a dead or lost one costs a token call and no login."""
    async with PlainProvider() as provider:
        provider.machine_refresh_token = True
        account = machine(provider, provider=profile(provider, validate=None, machine_refresh=True))
        async with House(provider, accounts={"books": account}) as house:
            tokens = await house.source.current("books")
            tokens = await renewed(house, tokens)
            assert (provider.obtained, provider.refreshes) == (1, 1)
            provider.rotate = False
            tokens = await renewed(house, tokens)
            assert tokens.refresh_token == (await house.kept()).refresh_token is not None

            provider.rotate, provider.lose_answers = (
                True,
                1,
            )  # the pair is lost, and the spent token kills its grant
            tokens = await renewed(house, tokens)
            assert (tokens.generation, provider.reuses) == (4, 1)
            provider.revoke_grant()
            tokens = await renewed(house, tokens)
            assert (tokens.generation, provider.obtained, provider.complaints) == (5, 3, [])

            provider.machine_scopes.add("read write")
            await house.reload(scopes=("read", "write"))
            assert (await house.source.current("books")).scope_asked == "read write"
            assert provider.obtained == 4


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_answer_is_harmless(lost: int) -> None:
    """Nothing was spent: it is asked again, and never in doubt or lost for good."""
    async with PlainProvider() as provider, house_of(provider) as house:
        first = await house.source.current("books")
        provider.lose_answers = lost
        provider.revoke_all_access()
        if lost == 2:
            with pytest.raises(ProviderUnavailableError) as failed:
                await refused(house, first)
            assert failed.value.retry_after is not None
            status = await house.operator.status("books")
            assert (status["state"], status["reason"]) == ("degraded", "answer_lost")
            assert (await house.stored()).in_flight_since is None
            await house.clock.advance(60)
        assert (await renewed(house, first)).generation == 2
        assert house.held().standing.error == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("invalid_client", "client_refused"),
        ("invalid_scope", "request_refused"),
        ("invalid_grant", "credentials_refused"),
    ],
)
async def test_a_refusal_is_the_operators_and_no_login_is_asked_for(error: str, reason: str) -> None:
    """A person cannot log in here; the config can be corrected, and a reload ends the pause at once."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.error = {"error": error, "error_description": f"no {provider.client_secret}"}
        for _ in range(3):
            with pytest.raises(MisconfiguredError):
                await house.source.current("books")
        assert provider.token_calls == 1
        status = await house.operator.status("books")
        assert (status["state"], status["reason"]) == ("misconfigured", reason)
        assert status["next_step"] == "correct [accounts.books], then: tokenproxy reload"
        assert provider.leaks(json.dumps(status)) == []

        provider.error = None
        await house.reload(params=MappingProxyType({"unused": ""}))
        assert (await house.source.current("books")).generation == 1


async def test_an_outage_at_the_start_is_told_with_its_end() -> None:
    """503 with the provider's own Retry-After, and no call before that."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.outage, provider.retry_after = 503, 40
        for _ in range(3):
            with pytest.raises(ProviderUnavailableError) as failed:
                await house.source.current("books")
            assert failed.value.retry_after == pytest.approx(40, abs=1)
        assert provider.token_calls == 1

        provider.outage = None
        ticking = asyncio.create_task(
            scheduler.run(house.source, clock=house.clock, policy=lambda: house.policy)
        )
        await house.clock.advance(41)
        async with asyncio.timeout(10):
            while provider.obtained < 1:
                await asyncio.sleep(0.01)
        await house.idle()
        ticking.cancel()
        assert house.source.ready("books") is not None  # "tried again by itself", as the status says
        assert provider.token_calls == 2


async def test_the_next_start_goes_on_with_what_is_stored(tmp_path: Path) -> None:
    """A restart is no reason to ask: some providers count."""
    async with PlainProvider() as provider:
        async with house_of(provider, path=tmp_path / "t.db") as house:
            first = await house.source.current("books")
        async with house_of(provider, path=tmp_path / "t.db") as house:
            assert await house.source.current("books") == first
        assert provider.token_calls == 1


async def test_a_crash_in_the_first_call_is_made_good(tmp_path: Path) -> None:
    """Only the mark is left: the next start asks, and nothing is in doubt."""
    async with PlainProvider() as provider:
        async with house_of(provider, path=tmp_path / "t.db") as house:
            now = house.clock.now()
            account = house.accounts["books"]
            await house.source._prepare(account)
            lease = house.clock.now() - now
            assert await house.store.claim("books", generation=0, now=now, lease=lease) is not None
        async with house_of(provider, path=tmp_path / "t.db") as house:
            await house.source.recovered(patience=10)
            assert (await house.kept()).generation == 1
            assert await house.store.in_doubt() == []


async def test_another_registration_obtains_anew(tmp_path: Path) -> None:
    """No login_required, no rebind: the old client's token is dropped, and the new one gets its own."""
    async with PlainProvider() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        first = await house.source.current("books")
        provider.client_id = "client-2"
        await house.reload(registration=replace(house.accounts["books"].registration, client_id="client-2"))
        assert (await house.operator.status("books"))["state"] == "ok"
        second = await house.source.current("books")

        assert second.generation == first.generation + 1
        assert (await house.stored()).bound_to.startswith(f"client_credentials {provider.url} client-2 ")
        assert provider.complaints == []


async def test_a_login_of_a_person_is_not_taken_for_the_machines() -> None:
    """Somebody changes the grant by mistake: the login is neither used nor lost, and the change back mends it."""
    async with PlainProvider() as provider, House(provider, validate=None) as house:
        theirs = await house.login()
        await house.reload(grant="client_credentials")
        for ask in (house.source.current("books"), house.source.refresh("books")):
            with pytest.raises(MisconfiguredError, match="a person's login is stored") as refused:
                await ask
            assert refused.value.reason == "grant_changed"
            assert refused.value.next_step.startswith("tokenproxy logout books ")
        status = await house.operator.status("books")
        assert (status["state"], status["reason"], status["live"]) == (
            "misconfigured",
            "grant_changed",
            False,
        )
        assert dict(house.source.gauges()[0].states) == {"misconfigured": 1}
        assert provider.token_calls == 0

        await house.reload(grant="authorization_code")
        assert await house.source.current("books") == theirs
        assert dict(house.source.gauges()[0].states) == {"ok": 1}


async def test_a_logout_makes_room_for_the_machine() -> None:
    """The explicit word; the next use obtains, and no generation comes twice."""
    async with PlainProvider() as provider, House(provider, validate=None) as house:
        await house.login()
        await house.reload(grant="client_credentials")
        with pytest.raises(MisconfiguredError):
            await house.source.current("books")
        status = await house.operator.logout("books")
        assert (status["state"], status["next_step"]) == ("ok", "")
        ours = await house.source.current("books")
        assert (ours.generation, ours.refresh_token) == (2, None)
        assert provider.complaints == []


async def test_a_provider_that_gives_dead_tokens_is_not_asked_for_ever() -> None:
    """The hold is that of every account: a 401 that a new token does not cure belongs to the caller."""
    async with PlainProvider() as provider, house_of(provider) as house:
        first = await house.source.current("books")
        second = await renewed(house, first)
        house.source.refused_again("books", second, route=ROUTE)

        assert await refused(house, second) is KeepAnswer.HELD
        assert provider.obtained == 2


async def test_a_validate_call_that_says_live_asks_for_nothing() -> None:
    """The API's 401 is about something else."""
    async with (
        PlainProvider() as provider,
        House(provider, accounts={"books": machine(provider, provider=profile(provider))}) as house,
    ):
        first = await house.source.current("books")

        assert await refused(house, first) is KeepAnswer.LIVE
        assert provider.obtained == 1


async def test_other_scopes_are_asked_for_at_once() -> None:
    """For a login they would wait for the person; here nothing stands in the way."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.machine_scopes.add("read write")
        await house.source.current("books")
        await house.reload(scopes=("read", "write"))
        tokens = await house.source.current("books")

        assert (tokens.generation, tokens.scope_asked) == (2, "read write")


async def test_a_reload_while_a_token_is_on_its_way() -> None:
    """What the config before it asked for comes too late: the next request asks as the new one says."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.machine_scopes.add("read write")
        provider.gate, provider.hold = asyncio.Event(), "after"
        waiting = asyncio.create_task(house.source.current("books"))
        await provider.token_call_arrived()
        await house.reload(scopes=("read", "write"))
        provider.gate.set()
        assert (await waiting).scope_asked == "read"

        assert (await house.source.current("books")).scope_asked == "read write"
        assert provider.token_calls == 2


async def test_what_operators_see_and_may_do() -> None:
    """Never "not logged in"; import and rebind are refused in a sentence, logout forgets and the next use obtains."""
    async with PlainProvider() as provider, house_of(provider) as house:
        status = await house.operator.status("books")
        assert (status["state"], status["grant"], status["next_step"]) == ("ok", "client_credentials", "")
        assert (status["generation"], status["live"]) == (0, False)
        assert [gauge.states for gauge in house.source.gauges()] == [{"ok": 1}]
        for asked in (house.operator.import_answer("books", b"token"), house.operator.rebind("books")):
            with pytest.raises(NoLoginError, match="by itself"):
                await asked

        provider.outage = 503
        with pytest.raises(AccountError):
            await house.source.current("books")
        status = await house.operator.status("books")
        assert (status["state"], status["live"], status["expires_at"]) == ("degraded", False, None)
        provider.outage = None
        assert (await house.operator.refresh("books"))["generation"] == 1
        status = await house.operator.logout("books")
        assert (status["state"], status["live"]) == ("ok", False)
        assert (await house.stored()).tokens is None
        assert (await house.source.current("books")).generation == 2


async def test_nobodys_name_makes_a_row() -> None:
    """A header that chooses ``books/ANYTHING`` must not make a token call and a row for each name."""
    async with PlainProvider() as provider, house_of(provider) as house:
        with pytest.raises(UnknownAccountError, match="no logins below it"):
            await house.source.current("books/anna")
        assert provider.token_calls == 0
        assert await house.store.summaries() == []


async def test_a_store_that_cannot_be_written_stops_the_first_token() -> None:
    """Nothing is sent that could not be marked, and the caller learns why."""
    async with PlainProvider() as provider, house_of(provider) as house:
        house.store.failing["prepare"] = 1
        with pytest.raises(StoreUnavailableError):
            await house.source.current("books")
        assert provider.token_calls == 0
        assert (await house.source.current("books")).generation == 1


# -- the other grants that ask a token endpoint ------------------------------------------------------------------------


async def test_a_password_goes_to_the_endpoint_and_nowhere_else() -> None:
    """RFC 6749 section 4.3; a wrong one is the operator's to correct, and no text quotes it."""
    params = MappingProxyType({"username": "batch", "password": "hunter2 is +long"})
    async with PlainProvider() as provider, house_of(provider, grant="password", params=params) as house:
        provider.agreed = {"username": "batch", "password": "another"}
        with pytest.raises(MisconfiguredError) as failed:
            await house.source.current("books")
        assert "hunter2" not in str(failed.value) + json.dumps(await house.operator.status("books"))

        provider.agreed["password"] = "hunter2 is +long"
        await house.operator.refresh("books")
        assert provider.complaints == []


@pytest.mark.parametrize(
    ("grant", "name", "params"),
    [
        ("token_exchange", "subject_token", {"subject_token_type": SUBJECT_TYPE, "audience": "api"}),
        ("jwt_bearer", "assertion", {}),
    ],
)
async def test_what_is_shown_is_read_anew_each_time(
    tmp_path: Path, grant: str, name: str, params: dict[str, str]
) -> None:
    """A workload's token lives minutes: the one of the last request would be refused (RFC 8693, RFC 7523)."""
    file = tmp_path / "workload"
    put(file, "workload-token-1\n")
    presented = MappingProxyType({name: f"file:{file}"})
    async with (
        PlainProvider() as provider,
        house_of(provider, grant=grant, presented=presented, params=MappingProxyType(params)) as house,
    ):
        provider.agreed = {name: "workload-token-1"}
        first = await house.source.current("books")
        provider.agreed = {name: "workload-token-2"}
        put(file, "workload-token-2\n")
        assert (await renewed(house, first)).generation == 2

        provider.agreed = {name: "workload-token-3"}  # ours is too old, and the provider quotes it
        with pytest.raises(MisconfiguredError) as failed:
            await house.operator.refresh("books")
        assert failed.value.reason == "credentials_refused"
        assert "workload-token" not in str(failed.value)
        file.unlink()
        with pytest.raises(ProviderUnavailableError, match=r"cannot read .*No such file"):
            await house.operator.refresh("books")
        assert provider.complaints == []


# -- tokens that somebody else makes -----------------------------------------------------------------------------------


async def test_a_static_token_that_is_refused_waits_for_the_operator() -> None:
    """Nobody else has another; what the 401 was about is unknown, so other requests go on with it."""
    async with PlainProvider() as provider:
        async with House(provider, accounts={"books": found("static", "", token="static-1")}) as house:
            tokens = await house.source.current("books")
            assert (tokens.access_token, tokens.expires_at) == ("static-1", None)
            with pytest.raises(MisconfiguredError) as failed:
                await refused(house, tokens)
            assert failed.value.reason == "token_refused"
            assert failed.value.next_step.endswith("then: tokenproxy reload")
            assert await house.source.current("books") == tokens

            await house.reload(token="static-2")
            newer = await house.source.current("books")
            assert (newer.access_token, newer.generation) == ("static-2", 2)
            assert (await house.operator.status("books"))["state"] == "ok"
        assert provider.token_calls == 0


async def test_a_static_token_that_was_changed_while_we_were_down(tmp_path: Path) -> None:
    """What the store has is not what the config says now."""
    async with PlainProvider() as provider:
        for number in (1, 2):
            accounts = {"books": found("static", "", token=f"static-{number}")}
            async with House(provider, path=tmp_path / "t.db", accounts=accounts) as house:
                assert (await house.source.current("books")).access_token == f"static-{number}"


async def test_a_file_is_read_again_when_it_was_written_anew(tmp_path: Path) -> None:
    """Within a tick, and without a request or a 401; a file of rubbish leaves the living token in use."""
    file = tmp_path / "token"
    put(file, "from-file-1\n")
    accounts = {"books": found("file", f"file:{file}")}
    async with PlainProvider() as provider, House(provider, accounts=accounts) as house:
        first = await house.source.current("books")
        assert first.access_token == "from-file-1"
        for text, now in (("two words", first.access_token), ("from-file-2", "from-file-2")):
            put(file, text)
            house.source.look()
            await house.idle()
            assert (await house.source.current("books")).access_token == now
        before = house.held().tokens
        house.source.look()
        await house.idle()
        assert house.held().tokens is before  # nothing was written: nothing is read


async def test_a_file_is_read_again_on_a_401(tmp_path: Path) -> None:
    """Quicker than the next look; still the same token means: not now, and the 401 does not go round in circles."""
    file = tmp_path / "token"
    put(file, json.dumps({"access_token": "from-file-1", "expires_in": 600, "refresh_token": "not ours"}))
    accounts = {"books": found("file", f"file:{file}")}
    async with PlainProvider() as provider, House(provider, accounts=accounts) as house:
        first = await house.source.current("books")
        assert (first.refresh_token, first.expires_at is not None) == (None, True)
        with pytest.raises(ProviderUnavailableError) as failed:
            await refused(house, first)
        assert (failed.value.reason, failed.value.retry_after is not None) == ("token_refused", True)

        put(file, "from-file-2")
        await house.clock.advance(60)
        second = await refused(house, first)
        assert isinstance(second, TokenSet)
        assert (second.access_token, second.generation) == ("from-file-2", 2)


async def test_a_command_prints_a_token_or_says_why_not(tmp_path: Path) -> None:
    """The sentence names the program and never what it printed or was told."""
    script = tmp_path / "print-token"
    script.write_text('#!/bin/sh\ncat "$1"\n')
    script.chmod(0o700)
    said = tmp_path / "said"
    put(said, json.dumps({"access_token": "printed-1", "expires_in": "300"}))
    account = found("command", f"cmd:{shlex.quote(str(script))} {shlex.quote(str(said))}")
    async with PlainProvider() as provider, House(provider, accounts={"books": account}) as house:
        first = await house.source.current("books")
        assert (first.access_token, house.held().due_at < float("inf")) == ("printed-1", True)

        said.unlink()
        await house.clock.advance(301)
        with pytest.raises(ProviderUnavailableError) as failed:
            await house.source.current("books")
        assert failed.value.reason == "source_failed"
        assert "print-token" in str(failed.value)
        assert "printed-1" not in str(failed.value)
        assert str(said) not in str(failed.value)


async def test_a_slow_command_does_not_stall_the_loop(tmp_path: Path) -> None:
    """Others are served while it runs, and patience ends."""
    async with PlainProvider() as provider:
        accounts = {
            "books": found("command", "cmd:sleep 4"),
            "fast": found("static", "", token="s", name="fast"),
        }
        async with House(provider, accounts=accounts, timeout=1.0) as house:
            slow = asyncio.create_task(house.source.current("books"))
            async with asyncio.timeout(0.9):
                assert (await house.source.current("fast")).access_token == "s"
            with pytest.raises(AccountError, match="too long"):
                await slow

            await house.clock.advance(60)
            async with asyncio.timeout(0.9):  # it still runs: no second thread waits beside the first
                with pytest.raises(AccountError, match="too long"):
                    await house.source.current("books")


class Audiences(PlainProvider):
    """Takes an ``audience``, as Auth0 does."""

    optional_parameters = PlainProvider.optional_parameters | {"audience"}


async def test_another_user_s_token_is_not_sent(tmp_path: Path) -> None:
    """The table names bob now: what alice was given is hers, however long it lives; a new password is still hers."""
    async with Audiences() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        account = replace(house.accounts["books"], grant="client_credentials")
        alice = replace(account, params={"username": "alice", "password": "one-of-hers"})

        assert (
            alice.bound_to != replace(account, params={"username": "bob", "password": "one-of-hers"}).bound_to
        )
        assert (
            alice.bound_to == replace(account, params={"username": "alice", "password": "another"}).bound_to
        )
        first = await house.source.current("books")
        await house.reload(params={"audience": "another"})
        second = await house.source.current("books")

        assert second.access_token != first.access_token


async def test_a_machine_s_token_is_never_rebound_to_a_person(tmp_path: Path) -> None:
    """The grant is a login's again: what the machine was given is nobody's login, and a rebind does not make it one."""
    async with PlainProvider() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        await house.source.current("books")
        await house.reload(grant="authorization_code", params={})
        with pytest.raises(LoginRequiredError):
            await house.source.rebind("books")
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")


async def test_a_mistake_of_ours_does_not_keep_the_lease(tmp_path: Path) -> None:
    """Whatever went wrong, the next request may try: nobody else is renewing, and nobody is told so."""
    async with PlainProvider() as provider, house_of(provider, path=tmp_path / "t.db") as house:
        endpoint = house.source._journal._endpoint
        tls, endpoint._tls = endpoint._tls, _broken
        with pytest.raises(ZeroDivisionError):
            await house.source.current("books")
        endpoint._tls = tls

        assert (await house.source.current("books")).generation == 1


def _broken(*_: object) -> NoReturn:
    raise ZeroDivisionError
