"""Import, logout, rebind, a changed registration: what people do while the machine runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House, renewed, table
from tests.simulators import AskaraProvider, DeskeraProvider, PlainProvider
from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.provider import Registration
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    StoreError,
    StoreUnavailableError,
    UnknownAccountError,
)


def states(house: House) -> dict[str, int]:
    return dict(house.source.gauges()[0].states)


# -- status -------------------------------------------------------------------------------------------------------------


async def test_a_login_that_ended_says_how_long_its_token_is_still_sent() -> None:
    """Until the end that is told, and no longer."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.revoke_grant()
        with pytest.raises(LoginRequiredError):
            await house.source.refresh("books")
        status = await house.operator.status("books")
        told = (status["state"], status["live"], status["expires_at"])
        assert told == ("login_required", True, "2026-03-01T13:00:00Z")
        await house.clock.advance(3599)
        assert house.source.ready("books") == first
        await house.clock.advance(1)
        assert house.source.ready("books") is None
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")
        status = await house.operator.status("books")
        assert (status["live"], status["expires_at"]) == (False, "2026-03-01T13:00:00Z")


async def test_a_token_that_is_not_sent_any_more_has_no_end() -> None:
    """However long it would have lived: the provider calls it dead."""
    async with DeskeraProvider() as provider, House(provider) as house:
        provider.expires_in = 3600
        first = await house.login()
        assert first.expires_at is not None
        provider.revoke_grant()
        with pytest.raises(LoginRequiredError):
            await renewed(house, first)
        status = await house.operator.status("books")
        assert (status["state"], status["live"], status["expires_at"]) == ("login_required", False, None)


# -- import ------------------------------------------------------------------------------------------------------------


async def test_an_import_during_a_renewal_loses_nothing(tmp_path: Path) -> None:
    """The renewal ends and is stored; then the imported tokens take its place, for those who waited as well."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        provider.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        importing = asyncio.create_task(house.login())
        await asyncio.sleep(0.01)
        assert not importing.done()
        provider.gate.set()
        imported = await importing
        assert (await waiter).generation == 2
        assert imported.generation == 3
        assert await house.source.current("books") == imported == await house.kept()
        assert (provider.refreshes, provider.reuses) == (1, 0)


async def test_who_asks_during_an_import_gets_the_imported_tokens() -> None:
    """No renewal of the old ones begins meanwhile."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.gates["adopt"] = asyncio.Event()
        importing = asyncio.create_task(house.login())
        await house.store.called("adopt", 2)
        waiter = asyncio.create_task(renewed(house, first))
        await asyncio.sleep(0.01)
        house.store.gates.pop("adopt").set()
        assert await waiter == await importing
        assert provider.token_calls == 0


async def test_two_imports_at_once_both_count() -> None:
    """Each has a generation of its own, and the last one stays."""
    async with AskaraProvider() as provider, House(provider) as house:
        await asyncio.gather(*(house.login() for _ in range(5)))
        kept = await house.kept()
        assert kept.generation == 5
        assert await house.source.current("books") == kept
        assert states(house) == {"ok": 1}


async def test_an_import_whose_operator_hangs_up_is_done_all_the_same(tmp_path: Path) -> None:
    """A half import would be tokens on disk that memory does not know."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        house.store.gates["adopt"] = asyncio.Event()
        importing = asyncio.create_task(house.login())
        await house.store.called("adopt")
        importing.cancel()
        await asyncio.wait({importing})
        house.store.gates.pop("adopt").set()
        await house.idle()
        assert await house.kept() == house.source.ready("books")
        assert states(house) == {"ok": 1}


async def test_an_import_that_the_store_refuses_changes_nothing() -> None:
    """The old tokens go on being used."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.failing["adopt"] = 1
        with pytest.raises(StoreUnavailableError):
            await house.login()
        assert house.source.ready("books") == first
        assert (await renewed(house, first)).generation == 2


@pytest.mark.parametrize("given", [b"", b"null", b"<html>", b'{"error": "invalid_grant"}'])
async def test_an_import_of_garbage_is_refused_with_a_command(given: bytes) -> None:
    """And replaces nothing."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        with pytest.raises(AccountError) as refused:
            await house.operator.import_answer("books", given)
        assert "tokenproxy import books" in refused.value.next_step
        assert house.source.ready("books") == first


async def test_logins_under_one_registration() -> None:
    """``crm/anna`` and ``crm/ben`` share a client and nothing else."""
    async with AskaraProvider() as provider, House(provider) as house:
        anna, ben = await house.login("books/anna"), await house.login("books/ben")
        provider.revoke_access(anna.access_token)
        outcome = await house.source.renew("books/anna", anna, route=ROUTE)
        assert isinstance(outcome, TokenSet)
        assert (outcome.generation, await house.source.current("books/ben")) == (2, ben)
        assert states(house) == {"ok": 2}
        assert [status["account"] for status in await house.operator.statuses()] == [
            "books/anna",
            "books/ben",
        ]


@pytest.mark.parametrize(
    "name", ["nothing", "nothing/anna", "books/", "books/a b", "books/../x", "books/a/b"]
)
async def test_accounts_that_cannot_be(name: str) -> None:
    """A name that no request can ever use is refused when it is given, not found out later."""
    async with AskaraProvider() as provider, House(provider) as house:
        for call in (
            house.operator.import_answer(name, b"token"),
            house.operator.refresh(name),
            house.operator.logout(name),
            house.operator.rebind(name),
            house.operator.status(name),
        ):
            with pytest.raises(UnknownAccountError):
                await call
        assert await house.store.summaries() == []


# -- logout ------------------------------------------------------------------------------------------------------------


async def test_a_logout_drops_every_secret(tmp_path: Path) -> None:
    """And the generation stays, so that a late 401 of the old token can never hit a new one."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        status = await house.operator.logout("books")
        assert (status["state"], status["live"]) == ("new", False)
        assert house.source.ready("books") is None
        for call in (house.source.current("books"), house.source.renew("books", first, route=ROUTE)):
            with pytest.raises(LoginRequiredError) as refused:
                await call
            assert refused.value.reason == "not_logged_in"
        assert (await house.stored()).tokens is None
        assert states(house) == {"new": 1}
        assert not await house.source.forget("books")
        assert (await house.login()).generation == 2
        assert states(house) == {"ok": 1}


async def test_a_logout_during_a_renewal_waits_for_it() -> None:
    """What the provider issued is stored, then forgotten; those who waited for it are served."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        leaving = asyncio.create_task(house.source.forget("books"))
        await asyncio.sleep(0)
        provider.gate.set()
        assert (await waiter).generation == 2
        assert await leaving
        assert house.source.entry("books") is None
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")


async def test_a_load_that_began_before_a_logout_does_not_bring_the_tokens_back() -> None:
    """The read is old when it arrives."""
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        house.source._entries.drop("books")
        gate = house.store.gates["forget"] = asyncio.Event()
        leaving = asyncio.create_task(house.source.forget("books"))
        await house.store.called("forget")
        readers = [asyncio.create_task(house.source.current("books")) for _ in range(3)]
        await asyncio.sleep(0.01)
        gate.set()
        assert await leaving
        await asyncio.wait(readers)
        assert house.source.entry("books") is None
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")
        assert states(house) == {"new": 1}


async def test_a_logout_that_the_store_refuses_changes_nothing() -> None:
    """Else a restart would bring back what seemed to be gone."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.failing["forget"] = 1
        with pytest.raises(StoreError):
            await house.source.forget("books")
        assert await house.source.current("books") == first


# -- a changed registration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["token_url", "client_id"])
async def test_tokens_go_nowhere_when_the_registration_changes(what: str, tmp_path: Path) -> None:
    """Neither to the old place nor to the new one; changed back, all is well again."""
    async with (
        AskaraProvider() as provider,
        AskaraProvider() as elsewhere,
        House(provider, path=tmp_path / "t.db") as house,
    ):
        first = await house.login()
        old = house.accounts["books"]
        if what == "token_url":
            new = replace(old, provider=replace(old.provider, token_url=elsewhere.url + "/oauth2/token"))
        else:
            new = replace(old, registration=Registration(client_id="other", client_secret="x"))
        for _ in range(2):
            house.accounts["books"] = new
            house.source.configure(house.accounts, house.policy)
            await house.clock.advance(10)
            assert house.source.ready("books") is None
            for call in (
                house.source.current("books"),
                house.source.renew("books", first, route=ROUTE),
                house.source.refresh("books"),
            ):
                with pytest.raises(LoginRequiredError) as refused:
                    await call
                assert refused.value.reason == "registration_changed"
                assert "tokenproxy rebind books" in refused.value.next_step
            status = await house.operator.status("books")
            assert (status["state"], status["reason"], status["live"], status["expires_at"]) == (
                "login_required",
                "registration_changed",
                False,
                None,
            )
            await house.idle()
            assert (await house.stored()).standing.reason is Reason.REGISTRATION_CHANGED
            assert states(house) == {"login_required": 1}

            house.accounts["books"] = old
            house.source.configure(house.accounts, house.policy)
            assert await house.source.current("books") == first
            assert house.held().standing.state is State.OK
            await house.idle()
            assert states(house) == {"ok": 1}
            assert (await house.operator.status("books"))["live"]
        assert (provider.token_calls, elsewhere.token_calls) == (0, 0)
        assert (await renewed(house, first)).generation == 2


async def test_a_registration_that_changed_while_we_were_away(tmp_path: Path) -> None:
    """Seen at the first use after the start, before anything is sent; and a mark in doubt sends nothing either."""
    async with AskaraProvider() as provider, AskaraProvider() as elsewhere:
        async with House(provider, path=tmp_path / "t.db") as house:
            first = await house.login()
            provider.lose_answers = provider.grace = 2
            with pytest.raises(AccountError):
                await house.source.renew("books", first, route=ROUTE)
        calls = provider.token_calls
        async with House(elsewhere, path=tmp_path / "t.db") as house:
            await house.source.recovered(patience=10)
            with pytest.raises(LoginRequiredError):
                await house.source.current("books")
        assert (provider.token_calls, elsewhere.token_calls) == (calls, 0)


async def test_rebind_is_the_explicit_word(tmp_path: Path) -> None:
    """The provider moved its token endpoint; the operator says that it is the same."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        await house.reload_provider(token_url=f"http://localhost:{provider.port}{provider.token_path}")
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")
        status = await house.operator.rebind("books")
        assert (status["state"], status["live"]) == ("ok", True)
        assert await house.source.current("books") == first
        assert (await house.stored()).bound_to == house.accounts["books"].bound_to
        assert states(house) == {"ok": 1}


async def test_rebind_needs_something_to_bind() -> None:
    """An error with the next step, not an empty row."""
    async with AskaraProvider() as provider, House(provider) as house:
        with pytest.raises(LoginRequiredError):
            await house.operator.rebind("books")
        assert await house.store.summaries() == []


async def test_a_rebind_during_a_renewal_waits_for_it() -> None:
    """Those who come meanwhile join the renewal; nobody is turned away, nothing is sent twice."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        rebinding = asyncio.create_task(house.source.rebind("books"))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(renewed(house, first))
        await house.waiting(2)
        assert not rebinding.done()
        provider.gate.set()
        await rebinding
        assert (await waiter).generation == (await late).generation == 2
        assert provider.token_calls == 1
        assert states(house) == {"ok": 1}


async def test_an_import_ends_a_changed_registration() -> None:
    """New tokens belong to the new registration."""
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        await house.reload(registration=Registration(client_id="other", client_secret="x"))
        imported = await house.login()
        assert await house.source.current("books") == imported
        await house.idle()
        stored = await house.stored()
        assert (stored.bound_to, stored.standing.state) == (house.accounts["books"].bound_to, State.OK)
        assert states(house) == {"ok": 1}


# -- a reload during a renewal -----------------------------------------------------------------------------------------


async def test_a_renewal_under_way_ends_where_it_began(tmp_path: Path) -> None:
    """The config changes between the claim and the request: the old token still goes to the old place alone."""
    async with (
        AskaraProvider() as provider,
        AskaraProvider() as elsewhere,
        House(provider, path=tmp_path / "t.db") as house,
    ):
        first = await house.login()
        house.store.gates["claim"] = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await house.store.called("claim")
        old = house.accounts["books"]
        await house.reload_provider(token_url=elsewhere.url + "/oauth2/token")
        house.store.gates.pop("claim").set()
        assert (await waiter).generation == 2
        assert (provider.token_calls, elsewhere.token_calls) == (1, 0)
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")
        house.accounts["books"] = old
        house.source.configure(house.accounts, house.policy)
        assert (await house.source.current("books")).refresh_token == provider.latest()["refresh_token"]


async def test_an_account_that_left_the_config() -> None:
    """It is no longer given out, and comes back with the table."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.source.configure({}, house.policy)
        assert house.source.ready("books") is None
        with pytest.raises(AccountError):
            await house.source.current("books")
        house.source.configure(house.accounts, house.policy)
        assert await house.source.current("books") == first


# -- what people see ---------------------------------------------------------------------------------------------------


async def test_a_status_in_words_and_without_secrets() -> None:
    """The shape is a promise (core.interfaces.Accounts)."""
    async with DeskeraProvider() as provider, House(provider) as house:
        fresh = await house.operator.status("books")
        assert (fresh["state"], fresh["live"], fresh["generation"]) == ("new", False, 0)
        assert fresh["next_step"].startswith("tokenproxy login books")
        await house.login(expires_in=3600)
        status = await house.operator.status("books")
        assert status["expires_at"] == "2026-03-01T13:00:00Z"
        assert (status["state"], status["live"], status["generation"], status["next_step"]) == (
            "ok",
            True,
            1,
            "",
        )
        assert provider.leaks(json.dumps([status, await house.operator.statuses()])) == []
        provider.outage, provider.retry_after = 503, 40
        with pytest.raises(AccountError):
            await house.operator.refresh("books")
        status = await house.operator.status("books")
        assert (status["state"], status["retry_at"]) == ("degraded", "2026-03-01T12:00:40Z")
        assert set(status) == {
            *(
                "account",
                "provider",
                "grant",
                "state",
                "reason",
                "detail",
                "next_step",
                "generation",
                "expires_at",
            ),
            *("refresh_expires_at", "renewed_at", "since", "retry_at", "identity", "scope", "scope_missing"),
            *("in_flight", "unstored", "live", "renewable"),
        }


async def test_the_numbers() -> None:
    """Operators' alerts stand on these: states, expiry, overdue, and each renewal with its trigger and result."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login(expires_in=3600, refresh_expires_in=7200)
        house.accounts["crm"] = table(provider, "crm")
        house.source.configure(house.accounts, house.policy)
        first = await house.source.current("books")
        gauge, other = house.source.gauges()
        assert (gauge.account, gauge.states, gauge.overdue) == ("books", {"ok": 1}, 0)
        assert gauge.token_expiry == house.clock.now().timestamp() + 3600
        assert gauge.refresh_token_expiry == house.clock.now().timestamp() + 7200
        assert (other.states, other.token_expiry) == ({"new": 1}, None)

        provider.outage = 503
        await house.clock.advance(3400)
        house.source.ready("books")
        assert house.source.gauges()[0].overdue == 1
        provider.revoke_all_access()
        with pytest.raises(AccountError):
            await house.source.renew("books", first, route=ROUTE)
        assert house.source.gauges()[0].states == {"degraded": 1}
        provider.outage = None
        await house.clock.advance(1)
        provider.gate = asyncio.Event()
        waiters = [asyncio.create_task(renewed(house, first)) for _ in range(7)]
        await house.waiting(7)
        provider.gate.set()
        await asyncio.gather(*waiters)
        numbers = house.metrics.account("books")
        assert numbers.refreshes["on_401", "provider_error"] == 1
        assert numbers.refreshes["on_401", "ok"] == 1
        assert numbers.waiters.total == 7
        assert numbers.refresh_seconds.counts[0] == 2
        assert numbers.last_success == house.clock.now().timestamp()
        assert house.source.gauges()[0].states == {"ok": 1}

        provider.error = {"error": "invalid_grant"}
        with pytest.raises(LoginRequiredError):
            await house.operator.refresh("books")
        assert numbers.refreshes["manual", "invalid_grant"] == 1
        assert house.source.gauges()[0].states == {"login_required": 1}
        assert set(house.metrics.accounts) == {"books"}


async def test_the_states_of_a_store_are_counted_at_the_start(tmp_path: Path) -> None:
    """Before anybody asks for a token."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            await house.login("books/anna")
            await house.login("books/ben")
            await house.source.forget("books/ben")
        async with House(provider, path=tmp_path / "t.db") as house:
            assert states(house) == {"ok": 1, "new": 1}
            assert len(await house.operator.statuses()) == 2


async def test_accounts_come_in_pages_without_those_that_the_config_lost() -> None:
    """100,000 of them are never described in one go; a table that nobody logged in to has its place among them."""
    async with AskaraProvider() as provider:
        accounts = {name: table(provider, name) for name in ("a", "books", "empty", "z")}
        async with House(provider, accounts=accounts) as house:
            for number in range(7):
                await house.login(f"books/{number}")
            await house.login("a/anna")
            house.accounts.pop("a")
            house.source.configure(house.accounts, house.policy)

            pages, after = [], ""
            while page := await house.operator.page(after=after, limit=3):
                assert len(page) <= 3
                pages += [each["account"] for each in page]
                after = pages[-1]

            assert pages == [*(f"books/{number}" for number in range(7)), "empty", "z"]
            assert [each["account"] for each in await house.operator.statuses()] == pages


async def test_an_overview_counts_all_and_lists_those_that_are_not_well() -> None:
    async with AskaraProvider() as provider:
        accounts = {name: table(provider, name) for name in ("books", "empty")}
        async with House(provider, accounts=accounts) as house:
            for name in ("anna", "ben", "carl"):
                await house.login(f"books/{name}")
            await house.store.stand("books/ben", Standing(State.LOGIN_REQUIRED, Reason.REFUSED))
            await house.store.stand("books/carl", Standing(State.DEGRADED, Reason.PROVIDER_DOWN))

            whole = await house.operator.overview(rows=4)
            few = await house.operator.overview(rows=3)
            one = await house.operator.overview(rows=1)

            assert (whole["total"], len(whole["accounts"])) == (4, 4)
            assert few["states"] == {"ok": 1, "new": 1, "login_required": 1, "degraded": 1}
            assert [each["account"] for each in few["accounts"]] == ["books/ben", "empty", "books/carl"]
            assert len(one["accounts"]) == 1
