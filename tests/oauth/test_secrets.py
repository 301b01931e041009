"""No secret in any log, at debug level too."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House, renewed
from tests.simulators import AskaraProvider, DeskeraProvider, PerscomProvider, PlainProvider, Provider
from tokenproxy.errors import AccountError


@pytest.mark.parametrize("kind", [DeskeraProvider, PerscomProvider, AskaraProvider, PlainProvider])
async def test_a_full_life_leaves_no_secret_in_the_log(
    kind: type[Provider], written: io.StringIO, tmp_path: Path
) -> None:
    """Renewals, refusals that quote the request, lost answers, stores that fail, a logout."""
    async with kind() as provider, House(provider, path=tmp_path / "t.db") as house:
        asyncio.get_running_loop().set_debug(True)
        provider.grace = 60
        tokens = await house.login()
        tokens = await renewed(house, tokens)
        provider.lose_answers = 1
        tokens = await renewed(house, tokens)
        house.store.failing["commit"] = 1
        tokens = await renewed(house, tokens)
        await house.clock.until_sleeping()
        await house.clock.advance(2)
        await house.idle()
        held = tokens.refresh_token or ""
        for said in (f"token={held}", f"bad token ({held})", f"secret {provider.client_secret}!", held[:100]):
            provider.error = {"error": "odd", "error_description": said}
            provider.revoke_all_access()
            with pytest.raises(AccountError) as refused:
                await house.source.renew("books", tokens, route=ROUTE)
            assert provider.leaks(str(refused.value)) == []
            await house.clock.advance(60)
        provider.error = None
        provider.lose_answers = 2
        with pytest.raises(AccountError):
            await house.source.renew("books", tokens, route=ROUTE)
        await house.operator.logout("books")

    lines = written.getvalue()
    for event in ("token_renewed", "renewal_in_doubt", "store_failed", "store_recovered", "renewal_failed"):
        assert event in lines
    assert provider.leaks(lines) == []


async def test_an_unexpected_mistake_shows_no_locals(written: io.StringIO) -> None:
    """The reprs of what is passed around hold no secret."""
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        entry = house.held()
        shown = f"{entry.tokens!r} {entry.account!r} {await house.stored()!r} {provider.latest().keys()}"
        assert provider.leaks(shown) == []
