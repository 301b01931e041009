"""Logins at rest are packed, and nobody can tell: not the caller, not the provider, not the operator."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House
from tests.oauth.test_scheduler import passing, ticking
from tests.simulators import AskaraProvider, PlainProvider
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import Sendable, TokenSet


def resting(house: House, account: str) -> bool:
    return account in house.source._entries.resting


def sendable(tokens: Sendable) -> tuple[object, ...]:
    """All that a request gets to see of a token set."""
    return tokens.access_token, tokens.generation, dict(tokens.captured), tokens.dpop_key


def lent(house: House, account: str = "books/anna") -> tuple[object, ...]:
    found = house.source.ready(account)
    assert found is not None
    return sendable(found)


async def at_rest(house: House, account: str = "books/anna", **changes: object) -> TokenSet:
    """A login that rests, since another one came after it."""
    tokens = await house.login(account, **changes)
    await house.login("books/latest", **changes)
    assert resting(house, account)
    return tokens


async def test_a_login_at_rest_gives_out_the_same_tokens() -> None:
    """All that the provider said is in them: identity, what a login captured, the key they are bound to."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        given = replace(
            await house.login("books/anna", expires_in=3600),
            scope="read",
            identity="anna",
            captured={"instance_url": "https://eu.example"},
            dpop_key='{"kty":"EC"}',
            access_token="h\u00e9\udc80",  # whatever the provider sent
            refresh_expires_at=house.clock.now() + timedelta(days=9, microseconds=1),
        )
        given = await house.put(given, "books/anna")
        before = house.held("books/anna")
        await house.login("books/latest")
        assert resting(house, "books/anna")
        assert lent(house) == sendable(given) == sendable(await house.kept("books/anna"))
        seen = house.held("books/anna")
        assert resting(house, "books/anna")  # a look wakes nobody
        assert await house.source.current("books/anna") == given
        woken = house.held("books/anna")
        assert not resting(house, "books/anna")
        for name in ("account", "bound_to", "standing", "renewed_at", "fresh_until", "due_at", "settled"):
            assert getattr(before, name) == getattr(seen, name) == getattr(woken, name), name


async def test_one_that_is_asked_for_often_gives_out_one_object() -> None:
    """So that a route need not make its line anew for each request."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        await at_rest(house, expires_in=3600)
        house.source.ready("books/anna")
        first = house.source.ready("books/anna")
        assert first is not None
        assert house.source.ready("books/anna") is first


@pytest.mark.parametrize("more", [{}, {"captured": {"x": "y"}}, {"dpop_key": '{"kty":"EC"}'}])
@pytest.mark.parametrize("token", ["abc~ d", "h\u00e9", "h\udc80", "a\tb", "a\x7f", "a\r\nX-Other: b", ""])
async def test_a_token_that_any_field_may_hold_is_given_out_as_bytes(
    token: str, more: dict[str, object]
) -> None:
    """Whoever sends it need not look at it again; at any other one it must."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        given = replace(await house.login("books/anna"), access_token=token, **more)  # type: ignore[arg-type]
        await house.put(given, "books/anna")
        await house.login("books/latest")
        found = house.source.ready("books/anna")
        assert found is not None
        assert found.sendable == (b"abc~ d" if token == "abc~ d" and not more else b"")
        assert found.access_token == token


async def test_what_those_at_rest_have_in_common_is_in_memory_once() -> None:
    """Words of 100,000 logins that each came in an answer of its own."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        names = ("books/anna", "books/ben")
        for name in names:
            given = await house.login(name, expires_in=3600)
            await house.put(replace(given, token_type="".join("Mac"), scope="".join("a b")), name)
        await house.login("books/latest")
        one, other = (house.source._entries.resting.get(name) for name in names)
        assert one is not None
        assert other is not None
        assert one.kind is other.kind
        assert one.unpacked().scope is other.unpacked().scope
        assert one.unpacked().captured is other.unpacked().captured


async def test_it_is_renewed_in_the_background_when_it_is_due() -> None:
    """No request waits for it, and it rests again with the new tokens."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        provider.expires_in = 300
        await at_rest(house, expires_in=300)
        async with ticking(house):
            for _ in range(1000):
                assert house.source.ready("books/anna") is not None
                await passing(house, 1)
        assert provider.token_calls == house.metrics.account("books").refreshes["due", "ok"] == 5
        await house.login("books/last")
        await house.login("books/very-last")
        assert resting(house, "books/anna")


async def test_one_that_nobody_uses_is_left_alone() -> None:
    """It goes on resting with expired tokens, and its next request renews them once."""
    async with AskaraProvider() as provider, House(provider, awake=1) as house:
        provider.jwt_life = None
        await at_rest(house, expires_in=300)
        async with ticking(house):
            await passing(house, 400)
        assert (provider.token_calls, resting(house, "books/anna")) == (0, True)
        assert house.source.ready("books/anna") is None
        assert (await house.source.current("books/anna")).generation == 2


async def test_who_has_something_to_do_does_not_rest() -> None:
    """A renewal that failed, a hold after a 401, a login that is over: what a row has no place for."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        tokens = await house.login("books/anna", expires_in=3600)
        house.source.refused_again("books/anna", tokens, route=ROUTE)
        await house.login("books/ben", expires_in=3600)
        provider.outage = 503
        with pytest.raises(Exception, match="503"):
            await house.source.refresh("books/ben")
        provider.outage = None
        await house.login("books/latest")
        await house.login("books/last")
        assert [resting(house, f"books/{name}") for name in ("anna", "ben", "latest")] == [False, False, True]
        await house.clock.advance(60)
        for _ in range(3):
            await house.login("books/last")
        assert resting(house, "books/anna")  # the hold is over


async def test_a_refused_token_of_one_at_rest_is_renewed_once() -> None:
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        tokens = await at_rest(house, expires_in=3600)
        given = house.source.ready("books/anna")
        assert given is not None
        provider.revoke_access(tokens.access_token)
        renewed = await house.source.renew("books/anna", given, route=ROUTE)
        assert isinstance(renewed, TokenSet)
        assert (renewed.generation, provider.refreshes) == (2, 1)
        await house.login("books/last")
        await house.login("books/very-last")
        assert resting(house, "books/anna")
        assert (await house.stored("books/anna")).previous is not None
        house.source.worked("books/anna", renewed)  # the first answer that the new token got
        await house.idle()
        assert (await house.stored("books/anna")).previous is None


async def test_a_reload_reaches_those_at_rest() -> None:
    """What changed counts from the next request on; what is not theirs any more is gone."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        tokens = await at_rest(house, expires_in=3600)
        house.source.configure(house.accounts, house.policy)
        assert lent(house) == sendable(tokens)  # nothing changed
        assert resting(house, "books/anna")

        house.policy = RenewPolicy(stale=30)
        house.source.configure(house.accounts, house.policy)
        house.source.configure(house.accounts, house.policy)  # another reload before anybody asks
        assert await house.source.current("books/anna") == tokens
        assert house.held("books/anna").fresh_until == house.clock.monotonic() + 3600 - 30

        await house.login("books/last")
        await house.login("books/very-last")
        assert resting(house, "books/anna")
        await house.reload_provider(refresh_params={"audience": "new"})
        assert house.source.ready("books/anna") is None
        await house.source.current("books/anna")
        assert house.held("books/anna").account is house.accounts["books"]

        house.source.configure({}, house.policy)
        assert len(house.source._entries) == 0


async def test_a_reload_is_seen_to_in_the_background_for_those_in_use() -> None:
    """A shorter deadline renews a login at rest before anybody asks for it again."""
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        await at_rest(house, expires_in=3600)
        house.source.ready("books/anna")
        await house.clock.advance(1200)
        house.source.ready("books/anna")
        await house.clock.advance(1500)
        house.policy = RenewPolicy(due=3000)  # two thirds of an hour are over
        house.source.configure(house.accounts, house.policy)
        async with ticking(house):
            await passing(house, 2)
        assert (await house.kept("books/anna")).generation == 2


async def test_a_logout_and_an_import_reach_those_at_rest() -> None:
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        await at_rest(house, expires_in=3600)
        newer = await house.login("books/anna")
        assert house.source.ready("books/anna") == newer
        await house.login("books/latest")
        assert resting(house, "books/anna")
        await house.operator.logout("books/anna")
        assert (house.source.ready("books/anna"), house.source.entry("books/anna")) == (None, None)


async def test_gauges_count_those_at_rest() -> None:
    async with PlainProvider() as provider, House(provider, awake=1) as house:
        await at_rest(house, expires_in=3600)
        assert house.source.ready("books/anna") is not None
        (gauge,) = house.source.gauges()
        assert dict(gauge.states) == {"ok": 2}
        ends = (house.clock.now() + timedelta(hours=1)).timestamp()
        assert gauge.token_expiry is not None
        assert ends - 16 < gauge.token_expiry <= ends
        assert gauge.overdue == 0
        await house.clock.advance(3000)
        assert house.source.ready("books/anna") is not None
        assert house.source.gauges()[0].overdue == 1


async def test_the_least_used_go_first(tmp_path: Path) -> None:
    """One that is asked for all the time stays, however long it rests."""
    async with (
        PlainProvider() as provider,
        House(provider, path=tmp_path / "t.db", awake=1, cache=200_000) as house,
    ):
        await house.login("books/anna", expires_in=10**6)
        for number in range(500):
            await house.login(f"books/{number}", expires_in=10**6)
            await house.clock.advance(1)
            assert house.source.ready("books/anna") is not None
        assert house.source._entries.size <= 200_000
        assert 50 < len(house.source._entries) < 500
        house.store.calls.clear()
        assert (await house.source.current("books/0")).generation == 1  # read again
        assert house.store.calls["load"] == 1
