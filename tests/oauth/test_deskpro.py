"""The flows of Deskpro's guide, against a third party that takes them literally."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from tests.oauth.reception import PUBLIC, Reception
from tests.simulators import DeskproProvider
from tokenproxy.core.provider import (
    PKCE,
    Account,
    AnswerFields,
    Callback,
    CallbackMode,
    CallbackPath,
    ClientAuth,
    Provider,
    Registration,
)

Flow = Literal["first", "strict", "implicit"]

CALLBACKS = {
    "first": Callback(
        mode=CallbackMode.FRAGMENT, path=CallbackPath.RANDOM, token="/#code=(?<token>[0-9a-f]{20})$/"
    ),
    "strict": Callback(
        path=CallbackPath.SHARED, token=r"/\?code=(?<token>.+?)&/", key="/&state=(?<key>.+)/"
    ),
    "implicit": Callback(
        mode=CallbackMode.FRAGMENT, path=CallbackPath.RANDOM, token="#access_token=(?P<token>[^&]+)"
    ),
}  # fmt: skip
"""The expressions are the guide's own."""


def account(simulator: DeskproProvider, **changes: Any) -> Account:
    client = "client_id" if simulator.flow == "strict" else "client_key"
    provider = Provider(
        name="deskpro",
        authorize_url=simulator.url + simulator.authorize_path,
        token_url=simulator.url + simulator.token_path,
        token_method="GET",
        client_auth=ClientAuth.QUERY,
        pkce=PKCE.NONE,
        rename={
            "grant_type": "",
            "client_id": "",
            "redirect_uri": "",
            "client_secret": "secret",
            "code": "access_code",
        },
        authorize_rename={"client_id": client, "redirect_uri": "redirect_uri", "response_type": ""},
        callback=CALLBACKS[simulator.flow],
        answer=AnswerFields(access_token=("token",)),
    )
    made = Account(
        name="books",
        provider=provider,
        registration=Registration(client_id=simulator.client_id, client_secret=simulator.client_secret),
        grant="implicit" if simulator.flow == "implicit" else "authorization_code",
    )
    return replace(made, **changes)


def house_of(simulator: DeskproProvider, **changes: Any) -> Reception:
    return Reception(simulator, accounts={"books": account(simulator, **changes)})


@pytest.mark.parametrize("flow", ["first", "strict", "implicit"])
async def test_each_flow_ends_in_a_token(flow: Flow) -> None:
    async with DeskproProvider(flow) as provider, house_of(provider) as house:
        login = await house.begun("books/anna", key="app-key-0123456789abcdef")

        page = await house.land(await house.returned(login))

        assert page.code == "success"
        kept = await house.kept("books/anna")
        assert kept.access_token == provider.latest()["access_token"]
        assert provider.complaints == []
        assert provider.token_calls == (0 if flow == "implicit" else 1)


async def test_the_first_landing_is_the_page_that_hands_the_fragment_over() -> None:
    """No server sees a fragment; the landing without one counts for nothing and spoils nothing."""
    async with DeskproProvider() as provider, house_of(provider) as house:
        login = await house.begun()
        address = await house.returned(login)

        assert (await house.land(address.partition("#")[0])).code == "fragment"
        assert (await house.land(address.partition("#")[0])).code == "fragment"
        assert (await house.land(address)).code == "success"
        assert provider.exchanges == 1


async def test_a_hostile_fragment_is_the_end_of_its_own_login_only() -> None:
    async with DeskproProvider() as provider, house_of(provider) as house:
        login, other = await house.begun(), await house.begun()
        base = login["callback_url"]

        assert (await house.land(f"{base}#{'x' * (1024 * 1024)}")).code == "address_too_long"
        assert (await house.land(f"{base}#code=<script>alert(1)</script>")).code == "code_not_matched"
        assert (await house.desk.status(login["id"]))["state"] == "failed"
        assert (await house.land(await house.returned(other))).code == "success"


async def test_a_key_of_somebody_else_is_nobody_s() -> None:
    async with DeskproProvider("strict") as provider, house_of(provider) as house:
        login = await house.begun(key="app-key-0123456789abcdef")

        assert (await house.land(f"{PUBLIC}/callback?code=abc&state=another-key-0123456789")).code == (
            "state_unknown"
        )
        assert (await house.land(f"{PUBLIC}/callback?code=abc&key=app-key-0123456789abcdef")).code == (
            "state_missing"
        )
        assert (await house.land(await house.returned(login))).code == "success"


async def test_what_is_captured_waits_for_the_app_s_own_exchange() -> None:
    """The guide's own way: the code lies in the user's state, and nothing is exchanged here."""
    async with DeskproProvider() as provider, house_of(provider, capture="oauth2/mytoken") as house:
        login = await house.begun("books/anna")

        assert (await house.land(await house.returned(login))).code == "success"

        (path,) = (kept := await house.store.store.state("books/anna"))
        assert (path, kept[path].backend, len(kept[path].value)) == ("oauth2/mytoken", True, 20)
        assert provider.token_calls == 0
        assert await house.store.store.state("books") == {}


async def test_logging_out_drops_what_was_captured() -> None:
    """Such a login has no row of its own, and no less to forget; nor does anybody have to log it in."""
    async with DeskproProvider() as provider, house_of(provider, capture="oauth2/mytoken") as house:
        login = await house.begun("books/anna")
        await house.land(await house.returned(login))

        before = await house.operator.status("books/anna")
        after = await house.operator.logout("books/anna")

        assert (before["state"], before["next_step"]) == (after["state"], after["next_step"]) == ("ok", "")
        assert await house.store.store.state("books/anna") == {}
        assert await house.store.store.summaries() == []
