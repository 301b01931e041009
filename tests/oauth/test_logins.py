"""A person logs in: the good way, and every way that a callback can be wrong."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.oauth.reception import PUBLIC, Reception, account_at
from tests.simulators import (
    AskaraProvider,
    DeskeraProvider,
    PerscomProvider,
    PlainProvider,
    Provider,
)
from tokenproxy.core.login import Why
from tokenproxy.core.provider import (
    PKCE,
    Callback,
    CallbackMode,
    CallbackPath,
)
from tokenproxy.errors import (
    BadLoginError,
    MisconfiguredError,
    NoLoginError,
    ProviderUnavailableError,
    UnknownAccountError,
    UnknownLoginError,
)
from tokenproxy.oauth.landings import ENDINGS, landing

KEY = "app-key-0123456789abcdef"


def with_query(address: str, **changes: str | None) -> str:
    """The landing address with other parameters; None leaves one out."""
    base, _, query = address.partition("?")
    pairs = dict(parse_qsl(query)) | changes
    return f"{base}?{urlencode({name: value for name, value in pairs.items() if value is not None})}"


# -- it works --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DeskeraProvider, PerscomProvider, AskaraProvider, PlainProvider])
async def test_a_login_by_each_guide(kind: type[Provider]) -> None:
    """From the first address to a stored token set; the simulators are strict about every request."""
    async with kind() as provider:
        provider.redirect_uri = f"{PUBLIC}/callback/books"
        async with Reception(provider) as house:
            login = await house.begun()
            assert login["callback_url"] == f"{PUBLIC}/callback/books"
            assert login["start_url"] == f"{PUBLIC}/login/{login['id']}"
            assert (await house.desk.status(login["id"]))["state"] == "pending"

            page = await house.land(await house.returned(login))

            status = await house.desk.status(login["id"])
            assert (page.code, page.status) == ("success", 200)
            assert (status["state"], status["error"], status["result"]["state"]) == ("success", "", "ok")
            assert (await house.kept()).access_token == provider.latest()["access_token"]
            assert (await house.kept()).scope_asked == provider.default_scope
            assert (await house.source.current("books")).access_token == provider.latest()["access_token"]
        assert (provider.exchanges, provider.complaints) == (1, [])


async def test_perscom_may_be_sent_a_nonce() -> None:
    """Its guide's second sample; another one for each login."""
    async with PerscomProvider() as provider:
        async with Reception(provider, authorize_params={"nonce": "{nonce}"}) as house:
            addresses = [(await house.begun())["authorize_url"] for _ in range(2)]
            nonces = {dict(parse_qsl(urlsplit(address).query))["nonce"] for address in addresses}
            assert len(nonces & set(house.planted)) == 2

            assert (await house.log_in())["state"] == "success"
        assert provider.complaints == []


async def test_pkce_may_be_turned_on_and_off() -> None:
    async with PlainProvider() as provider, Reception(provider, pkce=PKCE.S256) as house:
        assert "code_challenge_method=S256" in (await house.begun())["authorize_url"]
        assert (await house.log_in())["state"] == "success"
    async with PlainProvider() as provider, Reception(provider, pkce=PKCE.NONE) as house:
        assert "code_challenge" not in (await house.begun())["authorize_url"]
        assert (await house.log_in())["state"] == "success"


async def test_logins_below_an_account_are_kept_apart() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        assert (await house.log_in("books/anna"))["state"] == "success"
        assert (await house.log_in("books/bob"))["account"] == "books/bob"

        tokens = [(await house.kept(f"books/{who}")).access_token for who in ("anna", "bob")]
        assert [provider.grant_of(token).number for token in tokens] == [1, 2]


async def test_whoever_waits_hears_of_the_end_at_once() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        waiting = asyncio.create_task(house.desk.status(login["id"], wait=30))
        await asyncio.sleep(0)

        await house.land(await house.returned(login))

        assert (await asyncio.wait_for(waiting, 5))["state"] == "success"


async def test_a_browser_that_hangs_up_stops_nothing() -> None:
    """The code was sent once, and is not sent again."""
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        provider.gate = asyncio.Event()
        landing = asyncio.create_task(house.land(address))
        await provider.token_call_arrived()
        landing.cancel()
        assert (await house.land(address)).code == "state_used"
        with pytest.raises(UnknownLoginError):  # nor is another browser sent to the provider for it
            await house.desk.open(login["id"], browser="another")

        provider.gate.set()
        await house.all_done()

        assert (await house.desk.status(login["id"]))["state"] == "success"
        assert (provider.exchanges, provider.token_calls, provider.complaints) == (1, 1, [])


async def test_a_pasted_address_counts_like_a_browser() -> None:
    """Over SSH: the browser elsewhere shows an address that leads nowhere there."""
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        with pytest.raises(BadLoginError, match="not the address"):
            await house.desk.paste(login["id"], login["authorize_url"].replace("state=", "nope="))
        with pytest.raises(BadLoginError):
            await house.desk.paste(login["id"], with_query(address, state="x" * 43))

        assert (await house.desk.paste(login["id"], f"  {address}\n"))["state"] == "success"
        assert (await house.desk.paste(login["id"], address))["state"] == "success"
        assert provider.token_calls == 1


async def test_the_app_s_own_key_is_the_state() -> None:
    """Deskpro's strict flow: one address for all, and the app's key in state."""
    async with PlainProvider() as provider:
        provider.redirect_uri = f"{PUBLIC}/callback"
        callback = Callback(path=CallbackPath.SHARED)
        async with Reception(provider, callback=callback) as house:
            login = await house.begun(key=KEY)
            assert f"state={KEY}" in login["authorize_url"]
            with pytest.raises(BadLoginError, match="belongs to a login already"):
                await house.begun(key=KEY)

            assert (await house.land(await house.returned(login))).code == "success"


async def test_a_random_callback_address_needs_no_state() -> None:
    async with PlainProvider() as provider:
        provider.authorize_parameters = provider.authorize_parameters - {"state"}  # type: ignore[misc]
        async with Reception(provider, callback=Callback(path=CallbackPath.RANDOM)) as house:
            login = await house.begun()
            address = await house.returned(login)
            assert "state" not in login["authorize_url"]
            assert address.startswith(login["callback_url"] + "?")
            wrong = address.replace(login["callback_url"], f"{PUBLIC}/callback/books/{'y' * 43}")
            assert (await house.land(wrong)).code == "state_unknown"

            assert (await house.land(address)).code == "success"
            assert (await house.land(address)).code == "state_used"
        assert (provider.exchanges, provider.complaints) == (1, [])


async def test_a_pasted_random_address_is_told_by_its_path() -> None:
    async with PlainProvider() as provider:
        provider.authorize_parameters = provider.authorize_parameters - {"state"}  # type: ignore[misc]
        async with Reception(provider, callback=Callback(path=CallbackPath.RANDOM)) as house:
            login = await house.begun()

            assert (await house.desk.paste(login["id"], await house.returned(login)))["state"] == "success"


async def test_the_address_to_register() -> None:
    async with PlainProvider() as provider:
        accounts = {
            path.value: account_at(provider, path.value, callback=Callback(path=path))
            for path in CallbackPath
        }
        async with Reception(provider, accounts=accounts) as house:
            addresses = [house.desk.callback_address(name) for name in ("account/anna", "shared", "random")]

    assert addresses == [f"{PUBLIC}/callback/account", f"{PUBLIC}/callback", f"{PUBLIC}/callback/random/*"]


# -- hostile and broken callbacks ----------------------------------------------------------------------------------------------


async def nothing_came_of_it(house: Reception, login: dict[str, Any], error: str) -> None:
    status = await house.desk.status(login["id"])
    assert (status["state"], status["error"]) == ("failed", error)
    assert status["detail"]
    assert status["next_step"] == "tokenproxy login books"
    assert await house.store.store.load("books") is None
    assert house.simulator.token_calls == 0


async def test_a_stranger_s_landing_ends_no_login() -> None:
    """Without state, with a wrong one, for an account that there is not: one page each, and the login goes on."""
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        pages = [
            await house.land(with_query(address, state=None)),
            await house.land(with_query(address, state="")),
            await house.land(with_query(address, state="a-guess-of-somebody")),
            await house.land(address.replace("/books?", "/nobody?").replace("state=", "other=")),
            await house.land(f"{PUBLIC}/callback?code=x&state=y"),
            await house.land(f"{PUBLIC}/callback/books/some-key?code=x"),
            await house.desk.land(
                "http://[::/callback/%ff?%zz=%00&&&==;#\ud800", account="books", browser="\udfff"
            ),
            await house.land(address + "&pad=" + "x" * 16384),
            await house.land(address + "&a=%" * 100),
        ]

        assert [page.code for page in pages] == [
            "state_missing",
            "state_missing",
            "state_unknown",
            "state_missing",
            "state_missing",
            "state_unknown",
            "state_missing",
            "address_too_long",
            "address_too_long",
        ]
        assert all(page.title and page.detail and page.status in {400, 413} for page in pages)
        assert (await house.land(address)).code == "success"


async def test_a_state_counts_once() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        await house.land(address)
        before = await house.kept()

        assert (await house.land(address)).code == "state_used"
        assert (await house.land(with_query(address, code="another"))).code == "state_used"
        assert await house.kept() == before
        assert provider.token_calls == 1


async def test_a_state_that_came_to_another_account_s_address_is_spent() -> None:
    """Mix-up (RFC 9700 section 4.4): who has the state there has it from where it should not be."""
    async with PlainProvider() as provider:
        accounts = {name: account_at(provider, name) for name in ("books", "roster")}
        async with Reception(provider, accounts=accounts) as house:
            login = await house.begun()
            address = await house.returned(login)

            assert (await house.land(address.replace("/books", "/roster"))).code == "state_foreign"
            await nothing_came_of_it(house, login, "state_foreign")
            assert (await house.land(address)).code == "state_used"


@pytest.mark.parametrize("elsewhere", ["/callback", "/callback/books/{state}"])
async def test_a_state_that_came_by_another_kind_of_address_is_spent(elsewhere: str) -> None:
    async with PlainProvider() as provider:
        shared = account_at(provider, "shared", callback=Callback(path=CallbackPath.SHARED))
        accounts = {"books": account_at(provider), "shared": shared}
        async with Reception(provider, accounts=accounts) as house:
            await house.begun("shared")
            login = await house.begun()
            address = await house.returned(login)
            state = dict(parse_qsl(urlsplit(address).query))["state"]
            moved = address.replace("/callback/books", elsewhere.format(state=state))

            assert (await house.land(moved)).code == "state_foreign"
            await nothing_came_of_it(house, login, "state_foreign")


async def test_a_login_that_a_browser_began_ends_in_that_browser() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        mine, theirs, good = [await house.begun() for _ in range(3)]
        for login in (mine, theirs, good):
            assert (
                await house.desk.open(login["id"], browser=f"cookie-{login['id']}") == login["authorize_url"]
            )

        assert (await house.land(await house.returned(mine))).code == "other_browser"
        await nothing_came_of_it(house, mine, "other_browser")
        page = await house.land(await house.returned(theirs), browser=f"cookie-{mine['id']}")
        assert (page.code, page.status) == ("other_browser", 403)
        page = await house.land(await house.returned(good), browser=f"cookie-{good['id']}")
        assert page.code == "success"
        with pytest.raises(UnknownLoginError):
            await house.desk.open(good["id"], browser="another")


async def test_a_posted_answer_needs_the_cookie_as_well() -> None:
    """``admin`` sends the browser to a page of ours first, with which it comes along."""
    callback = Callback(mode=CallbackMode.FORM_POST)
    async with PlainProvider() as provider, Reception(provider, callback=callback) as house:
        first, second = await house.begun(), await house.begun()
        for login in (first, second):
            await house.desk.open(login["id"], browser="mine")

        assert (await house.land(await house.returned(first))).code == "other_browser"
        assert (await house.land(await house.returned(second), browser="mine")).code == "success"


async def test_an_answer_late_by_ten_minutes_is_too_late() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        waiting = asyncio.create_task(house.desk.status(login["id"], wait=30))
        await house.clock.advance(600)

        assert (await asyncio.wait_for(waiting, 5))["state"] == "expired"
        assert (await house.land(address)).code == "state_expired"
        assert provider.token_calls == 0
        await house.clock.advance(600)
        assert (await house.land(address)).code == "state_unknown"
        with pytest.raises(UnknownLoginError):
            await house.desk.status(login["id"])


async def test_an_answer_in_time_may_take_its_time() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        provider.gate = asyncio.Event()
        landing = asyncio.create_task(house.land(address))
        await provider.token_call_arrived()
        await house.clock.advance(601)
        provider.gate.set()

        assert (await landing).code == "success"


@pytest.mark.parametrize(
    ("iss", "announced", "code"),
    [
        ("https://evil.example", True, "iss_wrong"),
        ("https://evil.example", False, "iss_wrong"),
        (None, True, "iss_missing"),
        ("https://p.example", True, "success"),
        (None, False, "success"),
    ],
)
async def test_the_issuer_is_looked_at(iss: str | None, announced: bool, code: str) -> None:
    async with PlainProvider() as provider:
        changes: dict[str, Any] = {"issuer": "https://p.example", "callback": Callback(iss=announced)}
        async with Reception(provider, **changes) as house:
            login = await house.begun()

            assert (await house.land(with_query(await house.returned(login), iss=iss))).code == code
            if code != "success":
                await nothing_came_of_it(house, login, code)


async def test_a_provider_that_says_no() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        provider.deny = "access_denied"
        login = await house.begun()

        page = await house.land(await house.returned(login))

        assert (page.code, page.status) == ("provider_refused", 400)
        assert "(The provider said: access_denied)" in page.detail
        await nothing_came_of_it(house, login, "provider_refused")


async def test_an_answer_without_a_code_or_with_two() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        for change, code in (({"code": None}, "code_missing"), ({}, "callback_doubled")):
            login = await house.begun()
            address = with_query(await house.returned(login), **change) + ("" if change else "&code=b")

            assert (await house.land(address)).code == code
            await nothing_came_of_it(house, login, code)


async def test_a_fragment_is_asked_for_and_then_read() -> None:
    """No server sees it: the first landing is a page that hands it over."""
    async with PlainProvider() as provider:
        callback = Callback(mode=CallbackMode.FRAGMENT, code="c", token="#.*code=(?<token>[^&]+)")
        async with Reception(provider, callback=callback) as house:
            login = await house.begun()
            base, _, answer = (await house.returned(login)).partition("?")

            assert (await house.land(base)).code == "fragment"
            assert (await house.land(base + "?error=no")).code == "fragment"
            assert (await house.land(f"{base}#{'x' * (1024 * 1024)}")).code == "address_too_long"
            assert (await house.land(f"{base}#state={login['id']}")).code == "state_unknown"
            assert (await house.land(f"{base}#")).code == "state_missing"
            assert (await house.land(f"{base}#{answer}")).code == "success"


async def test_an_expression_that_does_not_match_is_the_end() -> None:
    callback = Callback(token="[?]code=(?<token>[0-9]{6})$")
    async with PlainProvider() as provider, Reception(provider, callback=callback) as house:
        login = await house.begun()

        assert (await house.land(await house.returned(login))).code == "code_not_matched"
        await nothing_came_of_it(house, login, "code_not_matched")


async def test_an_expression_that_would_backtrack_for_ever_stalls_nobody() -> None:
    async with PlainProvider() as provider:
        callback = Callback(key="(?:(?:a?){10}){20}(?<key>b)$", token="(?:(a+)+)+(?<token>b)$")
        async with Reception(provider, callback=callback) as house:
            beats = 0

            async def heart() -> None:
                nonlocal beats
                while True:
                    beats += 1
                    await asyncio.sleep(0.001)

            hostile = f"{PUBLIC}/callback/books?" + "a" * 16000
            beating = asyncio.create_task(heart())
            page = await house.land(hostile)
            beating.cancel()

            assert page.code == "state_missing"
            assert beats > 5  # other work goes on meanwhile


# -- what the provider makes of the code ----------------------------------------------------------------------------------------


async def test_a_code_that_the_provider_refuses() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()

        page = await house.land(with_query(await house.returned(login), code="forged"))

        assert (page.code, page.status) == ("code_refused", 502)
        assert "invalid_grant" in page.detail
        assert await house.store.store.load("books") is None


async def test_an_exchange_whose_answer_is_lost_is_not_repeated() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        provider.lose_answers = 1
        login = await house.begun()
        address = await house.returned(login)

        assert (await house.land(address)).code == "answer_lost"
        assert (await house.land(address)).code == "state_used"
        assert (provider.token_calls, (await house.desk.status(login["id"]))["state"]) == (1, "failed")
        assert (await house.log_in())["state"] == "success"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": "invalid_client"}, "misconfigured"),
        ({"error": "invalid_scope"}, "misconfigured"),
        ({"error": "server_error"}, "provider_unavailable"),
    ],
)
async def test_a_provider_that_refuses_us(error: dict[str, str], code: str) -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        provider.error = error
        ended = await house.log_in()

        assert ended["error"] == code
        assert ended["next_step"].endswith("tokenproxy login books")
        assert ("correct [accounts.books]" in ended["next_step"]) == (code == "misconfigured")


async def test_a_provider_that_cannot_be_reached_has_seen_no_code() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        provider.refuse_connections = True

        page = await house.land(address)

        assert page.code == "provider_unavailable"
        assert "(the provider cannot be reached)" in page.detail
        assert provider.token_calls == 0


async def test_a_store_that_takes_nothing_is_told() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        house.store.failing["adopt"] = 1

        status = await house.log_in()

        assert (status["state"], status["error"]) == ("failed", "store_failed")
        assert await house.store.store.load("books") is None


async def test_a_config_that_changed_meanwhile_gets_no_tokens_of_the_other_client() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        registration = replace(house.accounts["books"].registration, client_id="another")
        await house.reload(registration=registration)

        assert (await house.land(address)).code == "registration_changed"
        assert await house.store.store.load("books") is None


# -- beginning ------------------------------------------------------------------------------------------------------------------


async def test_what_cannot_begin_says_why() -> None:
    async with PlainProvider() as provider:
        accounts = {
            "books": account_at(provider),
            "machine": replace(account_at(provider, "machine"), grant="client_credentials"),
            "nowhere": account_at(provider, "nowhere", authorize_url=""),
            "catcher": replace(
                account_at(provider, "catcher", device_url=provider.url), capture="oauth2/mytoken"
            ),
        }
        async with Reception(provider, accounts=accounts) as house:
            for name, kind in (("ghost", UnknownAccountError), ("books/..", UnknownAccountError), ("machine", NoLoginError), ("nowhere", BadLoginError)):  # fmt: skip
                with pytest.raises(kind) as refused:
                    await house.begun(name)
                assert refused.value.next_step
            for name, asked in (
                ("books", {"device": True}),
                ("catcher", {"device": True}),
                ("books", {"key": "short"}),
                ("books", {"key": "with a blank in the midst"}),
                ("books", {"return_to": "https://evil.example/"}),
            ):
                with pytest.raises(BadLoginError):
                    await house.begun(name, **asked)
            assert len(house.desk._attempts) == 0


async def test_every_end_has_its_words() -> None:
    """A title, a sentence and what to do; none shows what it is filled with twice, or a brace."""
    for code in ENDINGS:
        page = landing(code, account="books/anna", said="no")
        assert page.title
        assert page.detail.endswith("(The provider said: no)")
        assert not {"{", "}"} & set(page.title + page.detail)
    assert {why.value for why in Why} <= ENDINGS.keys()
    assert "[accounts.books]" in landing("misconfigured", account="books/anna").detail


def test_every_end_is_on_the_page_for_programs() -> None:
    page = (Path(__file__).parents[2] / "docs/admin-api.md").read_text()
    section = page[page.index("| `error` | what happened |") : page.index("### Pages")]

    assert set(re.findall(r"`([a-z_]+)`", section)) - {"error", "detail"} == ENDINGS.keys() - {
        "success",
        "captured",
    }


async def test_so_many_logins_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenproxy.oauth.attempts.MOST", 3)
    async with PlainProvider() as provider, Reception(provider) as house:
        logins = [await house.begun() for _ in range(3)]
        with pytest.raises(BadLoginError, match="3 logins are open"):
            await house.begun()

        await house.desk.cancel(logins[1]["id"])
        await house.begun()

        with pytest.raises(UnknownLoginError):
            await house.desk.status(logins[1]["id"])
        assert (await house.desk.status(logins[0]["id"]))["state"] == "pending"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        (f"{PUBLIC}/done", True),
        ("https://app.example/after/login?x=1#y", True),
        ("https://app.example/after", True),
        ("https://app.example/afterwards", False),
        ("https://app.example.evil/after/", False),
        ("https://app.example@evil.example/after/", False),
        ("https://app.example/after/../admin", False),
        ("https://app.example/after/%2E%2e/admin", False),
        ("http://app.example/after/", False),
        ("//app.example/after/", False),
        ("https:\\\\app.example/after/", False),
        ("https://app.example/after/\tx", False),
        ("javascript:alert(1)", False),
        ("https://[", False),
    ],
)
async def test_a_browser_is_sent_on_only_where_the_config_says(address: str, allowed: bool) -> None:
    """RFC 9700 section 4.11: no open redirector."""
    prefixes = ("https://app.example/after",)
    async with PlainProvider() as provider, Reception(provider, return_to=prefixes) as house:
        if not allowed:
            with pytest.raises(BadLoginError):
                await house.begun(return_to=address)
            return
        login = await house.begun(return_to=address)
        assert (await house.land(await house.returned(login))).return_to == address


async def test_a_login_that_is_given_up_takes_nothing_that_comes_later() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        provider.gate = asyncio.Event()
        landing = asyncio.create_task(house.land(address))
        await provider.token_call_arrived()

        assert (await house.desk.cancel(login["id"]))["error"] == "cancelled"
        provider.gate.set()

        assert (await landing).code == "cancelled"
        assert await house.store.store.load("books") is None


async def test_a_login_whose_tokens_are_being_stored_is_not_given_up_any_more() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        house.store.gates["adopt"] = asyncio.Event()
        landing = asyncio.create_task(house.land(address))
        await house.store.called("adopt")

        assert (await house.desk.cancel(login["id"]))["state"] == "pending"
        house.store.gates["adopt"].set()

        assert (await landing).code == "success"


async def test_the_end_of_the_program_ends_what_is_under_way() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        address = await house.returned(login)
        provider.gate = asyncio.Event()
        landing = asyncio.create_task(house.land(address))
        await provider.token_call_arrived()

        await house.desk.close(patience=0)
        provider.gate.set()

        with pytest.raises(asyncio.CancelledError):
            await landing
        assert (await house.desk.status(login["id"]))["error"] == "interrupted"


# -- capture (Deskpro) ------------------------------------------------------------------------------------------------------------


async def test_what_is_captured_is_kept_for_the_app_and_exchanged_by_nobody() -> None:
    async with PlainProvider() as provider:
        accounts = {"books": replace(account_at(provider), capture="oauth2/mytoken")}
        async with Reception(provider, accounts=accounts) as house:
            login = await house.begun("books/anna")
            address = await house.returned(login)

            page = await house.land(address)

            assert (page.code, page.title) == ("success", "Done")
            kept = await house.store.store.state("books/anna")
            code = dict(parse_qsl(urlsplit(address).query))["code"]
            assert (kept["oauth2/mytoken"].value, kept["oauth2/mytoken"].backend) == (code, True)
            assert kept["oauth2/mytoken/verifier"].backend
            status = await house.desk.status(login["id"])
            assert (status["state"], provider.token_calls) == ("success", 0)


async def test_a_capture_finds_no_account_that_the_config_has_dropped() -> None:
    async with PlainProvider() as provider:
        accounts = {"books": replace(account_at(provider), capture="oauth2/mytoken")}
        async with Reception(provider, accounts=accounts) as house:
            login = await house.begun("books/anna")
            address = await house.returned(login)
            del house.accounts["books"]

            assert (await house.land(address)).code == "registration_changed"
            assert await house.store.store.state("books/anna") == {}


async def test_a_capture_that_the_store_refuses_is_told() -> None:
    async with PlainProvider() as provider:
        accounts = {"books": replace(account_at(provider), capture="oauth2/mytoken")}
        async with Reception(provider, accounts=accounts) as house:
            house.store.failing["put_state"] = 1

            assert (await house.log_in())["error"] == "store_failed"


# -- pushed requests (RFC 9126) -----------------------------------------------------------------------------------------------------


async def test_a_provider_that_takes_no_pushed_request_begins_no_login() -> None:
    async with PlainProvider() as provider, Reception(provider, par_url=f"{provider.url}/token") as house:
        with pytest.raises(MisconfiguredError, match="cannot begin"):
            await house.begun()
        provider.refuse_connections = True
        with pytest.raises(ProviderUnavailableError, match="cannot begin"):
            await house.begun()


async def test_the_first_browser_that_opens_a_login_keeps_it() -> None:
    """Somebody on the same machine may have read the address in a process list."""
    async with PlainProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        assert await house.desk.open(login["id"], browser="first") == login["authorize_url"]
        with pytest.raises(UnknownLoginError, match="in another browser"):
            await house.desk.open(login["id"], browser="second")
        assert await house.desk.open(login["id"], browser="first") == login["authorize_url"]

        page = await house.desk.land(await house.returned(login), account="books", browser="first")
        assert page.code == "success"
