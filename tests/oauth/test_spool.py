"""A store that takes nothing, and a process that then dies: what the provider issued is found again at the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oauth.house import House, renewed, table
from tests.simulators import AskaraProvider
from tokenproxy.errors import SealError, StoreUnavailableError


async def crashed(provider: AskaraProvider, path: Path) -> None:
    """A start that renewed once, could not store the pair, and ended before it could."""
    async with House(provider, path=path) as house:
        first = await house.login()
        house.store.failing["commit"] = 100
        await renewed(house, first)
        assert house.source.unstored == 1


async def test_the_next_start_stores_what_the_last_one_could_not(tmp_path: Path) -> None:
    """The provider is strict: a start that sent what the store has would end the whole grant."""
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        async with House(provider, path=tmp_path / "t.db") as house:
            tokens = await house.source.current("books")
            await house.idle()

            assert (tokens.generation, await house.kept()) == (2, tokens)
            assert await house.spool.waiting() == []
            assert (await house.stored()).in_flight_since is None
            assert (await renewed(house, tokens)).generation == 3
        assert (provider.token_calls, provider.reuses, provider.replays) == (2, 0, 0)


async def test_it_is_out_of_a_crash_s_reach_before_anybody_sees_it(tmp_path: Path) -> None:
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        house.store.failing["commit"] = 100
        second = await renewed(house, first)

        assert [kept.tokens for kept in await house.spool.waiting()] == [second]


async def test_once_the_store_takes_it_the_spool_is_empty(tmp_path: Path) -> None:
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        house.store.failing["commit"] = 1
        await renewed(house, first)
        await house.clock.until_sleeping()
        await house.clock.advance(house.clock.next_wake() or 0.0)
        await house.idle()

        assert (house.source.unstored, await house.spool.waiting()) == (0, [])


async def test_a_start_whose_store_still_fails_serves_and_goes_on_trying(tmp_path: Path) -> None:
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        async with House(provider, path=tmp_path / "t.db", start=False) as house:
            house.store.failing["commit"] = 2
            await house.source.restore()
            await house.source.start()

            assert house.source.unstored == 1
            assert (await house.source.current("books")).generation == 2
            with pytest.raises(StoreUnavailableError):
                await house.source.refresh("books")
            await house.clock.until_sleeping()
            await house.clock.advance(house.clock.next_wake() or 0.0)
            await house.clock.until_sleeping()
            await house.clock.advance(house.clock.next_wake() or 0.0)
            await house.idle()

            assert (house.source.unstored, (await house.kept()).generation) == (0, 2)
            assert await house.spool.waiting() == []
        assert provider.reuses == 0


@pytest.mark.parametrize("meanwhile", ["an import", "a logout"])
async def test_what_came_after_it_stays(meanwhile: str, tmp_path: Path) -> None:
    """A file that could not be removed is older than what the store has."""
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        (file,) = (tmp_path / "spool").glob("*.sealed")
        kept = file.read_bytes()
        async with House(provider, path=tmp_path / "t.db") as house:
            if meanwhile == "an import":
                await house.login(scope="newer")
            else:
                await house.source.forget("books")
            before = await house.stored()
        file.write_bytes(kept)
        async with House(provider, path=tmp_path / "t.db") as house:
            after = await house.stored()

            assert (after.generation, after.tokens) == (before.generation, before.tokens)
            assert await house.spool.waiting() == []


async def test_an_import_and_a_logout_take_its_place(tmp_path: Path) -> None:
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        house.store.failing["commit"] = 100
        await renewed(house, first)
        await house.login()
        assert await house.spool.waiting() == []

        await renewed(house, await house.source.current("books"))
        assert len(await house.spool.waiting()) == 1
        await house.source.forget("books")
        assert await house.spool.waiting() == []


async def test_a_store_that_was_lost_gets_its_newest_login_back(tmp_path: Path) -> None:
    """The file was deleted while serve ran: the next start makes a new one."""
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        for file in tmp_path.glob("t.db*"):
            file.unlink()
        async with House(provider, path=tmp_path / "t.db") as house:
            tokens = await house.source.current("books")

            assert tokens.generation == 1
            assert (await renewed(house, tokens)).generation == 2
        assert provider.reuses == 0


async def test_an_account_that_the_config_does_not_know_waits(tmp_path: Path) -> None:
    """It comes back with the next version of the file, and its newest tokens with it."""
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        others = {"other": table(provider, "other")}
        async with House(provider, path=tmp_path / "t.db", accounts=others, start=False) as house:
            house.store.failing["commit"] = 1
            await house.source.restore()
            assert (house.source.unstored, len(await house.spool.waiting())) == (0, 1)
        async with House(provider, path=tmp_path / "t.db") as house:
            assert (await house.source.current("books")).generation == 2
        assert provider.reuses == 0


async def test_a_spool_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    """To go on would be to send a refresh token that is spent."""
    async with AskaraProvider() as provider:
        await crashed(provider, tmp_path / "t.db")
        (file,) = (tmp_path / "spool").glob("*.sealed")
        file.write_bytes(b"\x01" + bytes(60))
        async with House(provider, path=tmp_path / "t.db", start=False) as house:
            with pytest.raises(SealError) as caught:
                await house.source.restore()
            assert file.name in str(caught.value)
            assert caught.value.next_step
        assert provider.token_calls == 1
