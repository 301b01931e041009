"""A login that would take the place of another one asks first; what nobody wants is ended at the provider."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tests.oauth.modern import registered, server
from tests.oauth.reception import Reception
from tests.simulators import AskaraProvider, FakeClock, PlainProvider
from tests.simulators.modern import ModernServer
from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.provider import AnswerFields, Callback, Revoke
from tokenproxy.core.tokens import TokenSet


async def asked(house: Reception) -> dict[str, Any]:
    """A login that came to its question; gives its status."""
    login = await house.begun()
    page = await house.land(await house.returned(login))
    assert page.code == "question"
    status = await house.desk.status(login["id"])
    assert status["state"] == "pending"
    assert status["question"] in page.detail
    return status


async def test_another_identity_is_replaced_only_after_a_yes() -> None:
    """Askara's tokens are JWTs, and their ``sub`` tells whose they are."""
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()
        first = await house.kept()
        assert first.identity == "user-1"

        status = await asked(house)

        assert "user-1" in status["question"]
        assert "user-2" in status["question"]
        assert await house.kept() == first
        assert (await house.desk.status(status["id"], wait=30))["question"]  # told at once
        yes = asyncio.create_task(house.desk.confirm(status["id"]))
        await asyncio.sleep(0)
        await house.desk.cancel(status["id"])  # too late
        status = await yes
        assert (status["state"], status["question"]) == ("success", "")
        assert (await house.kept()).identity == "user-2"
        assert (await house.kept()).generation == 2


async def test_a_yes_is_no_yes_to_what_came_meanwhile() -> None:
    """Two people are asked about the first one; who says yes second is asked about the other before they replace them."""
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()
        second, third = await asked(house), await asked(house)

        assert (await house.desk.confirm(second["id"]))["state"] == "success"
        status = await house.desk.confirm(third["id"])

        assert status["state"] == "pending"
        assert "user-2" in status["question"]
        assert "user-3" in status["question"]
        assert (await house.kept()).identity == "user-2"
        assert (await house.desk.confirm(third["id"]))["state"] == "success"
        assert (await house.kept()).identity == "user-3"


async def test_two_logins_that_end_at_once_are_one_and_a_question() -> None:
    async with AskaraProvider() as provider, Reception(provider) as house:
        addresses = [await house.returned(await house.begun()) for _ in range(2)]

        pages = await asyncio.gather(*map(house.land, addresses))

        assert sorted(page.code for page in pages) == ["question", "success"]


async def test_a_no_keeps_what_is_there() -> None:
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()
        first = await house.kept()

        status = await house.desk.cancel((await asked(house))["id"])

        assert (status["state"], status["error"]) == ("failed", "cancelled")
        assert (await house.desk.confirm(status["id"]))["state"] == "failed"
        assert await house.kept() == first


async def test_a_question_that_nobody_answers_ends() -> None:
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()
        login = await house.begun()
        await house.clock.advance(590)
        assert (await house.land(await house.returned(login))).code == "question"
        await house.clock.advance(590)
        assert (await house.desk.status(login["id"]))["state"] == "pending"

        await house.clock.advance(10)

        assert (await house.desk.confirm(login["id"]))["state"] == "expired"
        assert (await house.kept()).identity == "user-1"


async def test_who_says_so_beforehand_is_not_asked() -> None:
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()

        assert (await house.log_in(replace=True))["state"] == "success"
        assert (await house.kept()).identity == "user-2"


async def test_the_same_identity_is_renewed_without_a_question() -> None:
    async with PlainProvider() as provider:
        provider.extra = {"user": {"id": 17}}
        async with Reception(provider, answer=AnswerFields(identity=("user.id",))) as house:
            await house.log_in()
            assert (await house.kept()).identity == "17"

            assert (await house.log_in())["state"] == "success"
            assert (await house.kept()).generation == 2


async def test_a_live_login_of_nobody_knows_whom_is_a_question() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        await house.log_in()
        assert "does not say" in (await asked(house))["question"]


async def test_a_dead_login_of_nobody_knows_whom_is_none() -> None:
    async with PlainProvider() as provider, Reception(provider) as house:
        await house.log_in()
        provider.revoke_grant()
        with pytest.raises(Exception, match="ended the grant"):
            await house.source.refresh("books")
        await house.idle()

        assert (await house.log_in())["state"] == "success"


async def test_what_another_registration_obtained_is_none() -> None:
    """It is of no use here, whoever it speaks for."""
    async with AskaraProvider() as provider, Reception(provider) as house:
        standing = Standing(State.OK, Reason.NONE)
        tokens = TokenSet("another's", identity="anna")
        other = "https://other.example:443 client"
        await house.store.store.adopt(
            "books", tokens, bound_to=other, standing=standing, now=house.clock.now()
        )

        assert (await house.log_in())["state"] == "success"


async def test_a_forgotten_login_is_none() -> None:
    async with AskaraProvider() as provider, Reception(provider) as house:
        await house.log_in()
        await house.operator.logout("books")

        assert (await house.log_in())["state"] == "success"


# -- what nobody wants is ended at the provider --------------------------------------------------------------------------------


def revocable(at: ModernServer) -> Any:
    return registered(
        at,
        authorize_url=f"{at.issuer}/authorize",
        par_url=f"{at.issuer}/par",
        revoke=Revoke(url=f"{at.issuer}/revoke"),
        callback=Callback(),
    )


def modern_house(at: ModernServer, clock: FakeClock) -> Reception:
    return Reception(cast("Any", at), accounts={"books": revocable(at)}, clock=clock)


async def test_tokens_of_another_identity_that_were_not_wanted_are_revoked() -> None:
    clock = FakeClock()
    async with (
        server("client_secret_post", clock, extra={"sub": "bob"}) as at,
        modern_house(at, clock) as house,
    ):
        await house.reload_provider(answer=AnswerFields(identity=("sub",)))
        await house.put(TokenSet("anna's", "anna's-refresh", identity="anna"))
        login = await house.begun()
        assert (await house.land(await house.returned(login))).code == "question"

        await house.desk.cancel(login["id"])
        await house.all_done()

        assert at.calls["revoke"] == 1
        assert not at.issued[-1].live
        assert at.complaints == []


async def test_tokens_that_may_be_the_kept_login_s_own_grant_are_only_dropped() -> None:
    """Ending one token may end the whole grant (RFC 7009 section 2.1), and this one may be the grant that lives."""
    clock = FakeClock()
    async with server("client_secret_post", clock) as at, modern_house(at, clock) as house:
        await house.put(TokenSet("somebody's", "somebody's-refresh"))
        login = await house.begun()
        assert (await house.land(await house.returned(login))).code == "question"

        await house.desk.cancel(login["id"])
        await house.all_done()

        assert at.calls["revoke"] == 0
        assert at.complaints == []


async def test_a_question_that_the_end_of_the_program_overtakes_is_a_no() -> None:
    clock = FakeClock()
    async with (
        server("client_secret_post", clock, extra={"sub": "bob"}) as at,
        modern_house(at, clock) as house,
    ):
        await house.reload_provider(answer=AnswerFields(identity=("sub",)))
        await house.put(TokenSet("anna's", "anna's-refresh", identity="anna"))
        assert (await house.land(await house.returned(await house.begun()))).code == "question"

        await house.desk.close()

        assert (at.calls["revoke"], at.issued[-1].live) == (1, False)
        assert (await house.kept()).identity == "anna"


async def test_tokens_of_the_kept_login_s_own_identity_are_only_dropped() -> None:
    clock = FakeClock()
    async with (
        server("client_secret_post", clock, extra={"sub": "anna"}) as at,
        modern_house(at, clock) as house,
    ):
        await house.reload_provider(answer=AnswerFields(identity=("sub",)))
        await house.put(TokenSet("anna's", "anna's-refresh", identity="anna"))
        house.store.failing["adopt"] = 1

        assert (await house.land(await house.returned(await house.begun()))).code == "store_failed"
        await house.all_done()

        assert at.calls["revoke"] == 0


async def test_tokens_that_the_store_did_not_take_are_revoked() -> None:
    clock = FakeClock()
    async with server("client_secret_post", clock) as at, modern_house(at, clock) as house:
        house.store.failing["adopt"] = 1
        login = await house.begun()

        assert (await house.land(await house.returned(login))).code == "store_failed"
        await house.all_done()

        assert (at.calls["revoke"], at.issued[-1].live) == (1, False)


# -- providers of the newer kind -----------------------------------------------------------------------------------------------


async def test_a_login_whose_request_is_pushed_and_whose_tokens_are_bound_to_a_key() -> None:
    """RFC 9126, RFC 9449 with a nonce, and addresses from the issuer alone (RFC 8414)."""
    clock = FakeClock()
    at = server("client_secret_post", clock, dpop=True, nonce="nonce-1")
    at.metadata = {"require_pushed_authorization_requests": True}
    async with at:
        account = registered(at, token_url="", issuer=at.issuer)
        async with Reception(cast("Any", at), accounts={"books": account}, clock=clock) as house:
            login = await house.begun()
            (pushed,) = at.pushed.values()
            assert login["authorize_url"].startswith(
                f"{at.issuer}/authorize?client_id={at.client_id}&request_uri="
            )
            assert "state" not in login["authorize_url"]
            opened = await house.desk.open(login["id"], browser="mine")
            assert opened != login["authorize_url"]  # good for one minute, so another one

            address = await house.consent(opened)
            assert pushed["state"] in address
            assert (await house.land(address, browser="mine")).code == "success"

            kept = await house.kept()
            assert (kept.token_type, bool(kept.dpop_key)) == ("DPoP", True)
            assert at.issued[-1].bound_to is not None
            await house.source.refresh("books")
        assert at.complaints == []


async def test_an_issuer_that_cannot_be_asked_begins_no_login() -> None:
    clock = FakeClock()
    async with server("client_secret_post", clock) as at:
        account = registered(at, token_url="", issuer=at.issuer)
        async with Reception(cast("Any", at), accounts={"books": account}, clock=clock) as house:
            at.metadata_status = 500
            with pytest.raises(Exception, match="cannot begin"):
                await house.begun()
            assert len(house.desk._attempts) == 0
