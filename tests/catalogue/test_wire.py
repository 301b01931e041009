"""
Every preset, from the config to an API answer, against a simulator that knows what is known of the provider and no preset.

``expected.tsv`` has a row for each: its addresses, how its client authenticates, where parameters travel and under which
names, where the token goes, what a dead token looks like. A person logs in, the API is called through the data plane,
the token dies there, is renewed, and is ended at logout; each of the requests must be exactly what the row allows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.config.reading import write_key
from tests.oauth.reception import Reception
from tests.simulators import Provider as Simulator
from tests.simulators.any_provider import AnyProvider, Facts, read_facts
from tokenproxy import config
from tokenproxy.core.provider import PKCE, Account, ClientAuth, TokenBody
from tokenproxy.core.routes import Route, RouteTable
from tokenproxy.oauth.signer import Prover
from tokenproxy.proxy import Plane, PlaneSettings

FACTS: Final = read_facts(Path(__file__).parent / "expected.tsv")
FACTS_OF_LOGINS: Final = [name for name, facts in FACTS.items() if facts.renews != "machine"]
_URLS: Final = ("issuer", "authorize_url", "par_url", "device_url", "token_url", "refresh_url")


_PROOFS: Final = {"none": "", "signed": 'private_key = "file:client.pem"'}
"""How the client proves itself, where it is not by a secret."""


def test_something_is_known_of_every_preset() -> None:
    assert set(FACTS) == set(config.preset_names())


def configured(facts: Facts, tmp_path: Path, upstream: str) -> tuple[Account, Route]:
    """An account with the preset, as the parser reads it, and a route to the API."""
    info = config.preset(facts.name)
    blanks = ", ".join(f'{name} = "acme"' for name in info.vars)
    write_key(tmp_path / "client.pem")
    lines = [
        "[accounts.books]",
        f'provider = "{facts.name}"',
        f"vars = {{ {blanks} }}",
        f'grant = "{info.grants[0]}"',
        'client_id = "client-1"',
        _PROOFS.get(facts.auth, 'client_secret = "literal:secret-1"'),
        "" if facts.scope is None else 'scopes = ["one", "two"]',
        "[routes.books]",
        f'upstream = "{upstream}"',
        'account = "books"',
    ]
    read = config.parse("\n".join(lines), source="config.toml", base=tmp_path, environ={})
    return read.accounts["books"], read.routes[0]


def on_loopback(account: Account, simulator: AnyProvider) -> Account:
    """The account with every address of its provider, as it is, below the simulator's own."""
    provider = account.provider
    urls: dict[str, Any] = {name: simulator.at(getattr(provider, name)) for name in _URLS}
    if provider.issuer:
        urls["issuer"] = simulator.url
    asks, ends = provider.validate, provider.revoke
    moved = replace(
        provider,
        **urls,
        validate=asks and replace(asks, url=simulator.at(asks.url)),
        revoke=ends and replace(ends, url=simulator.at(ends.url)),
    )
    return replace(account, provider=moved)


class Shop:
    """A house with one account, and the data plane before it."""

    def __init__(self, house: Reception, plane: str) -> None:
        self.house = house
        self._plane = plane

    async def call(self) -> int:
        """An application's request, with credentials of its own that must not go on; the status of its answer."""
        headers = {"Authorization": "Bearer mine", "Host": "localhost"}
        async with self.house.browser.get(f"http://{self._plane}/books/v1/x", headers=headers) as answer:
            await answer.read()
            return answer.status

    @property
    def token(self) -> str:
        return self.house.held().tokens.access_token


@asynccontextmanager
async def opened(facts: Facts, tmp_path: Path, **changes: Any) -> AsyncIterator[tuple[AnyProvider, Shop]]:
    """``changes`` are fields of the preset that are not as it says."""
    async with AnyProvider(facts) as simulator:
        account, route = configured(facts, tmp_path, f"{simulator.url}/upstream")
        account = replace(account, provider=replace(account.provider, **changes))
        account = on_loopback(account, simulator)
        async with Reception(cast("Simulator", simulator), accounts={"books": account}) as house:
            simulator.redirect_uri = house.desk.callback_address("books")
            settings = PlaneSettings(routes=RouteTable.of([route]))
            plane = Plane(
                settings,
                source=house.source,
                prover=Prover(house.clock),
                clock=house.clock,
                metrics=house.metrics,
            )
            try:
                yield simulator, Shop(house, await plane.listen("127.0.0.1:0"))
            finally:
                await plane.close(drain=0)
        assert bool(simulator.complaints) == bool(changes), simulator.complaints


async def logged_in(shop: Shop, simulator: AnyProvider) -> None:
    login = await shop.house.begun()
    simulator.redirect_uri = login["callback_url"]
    await shop.house.land(await shop.house.returned(login))
    status = await shop.house.desk.status(login["id"])

    assert (status["state"], status["error"]) == ("success", ""), simulator.complaints
    assert simulator.exchanges == 1
    assert shop.token == simulator.access


@pytest.mark.parametrize("name", FACTS_OF_LOGINS)
async def test_a_login_and_a_life_with_each_preset(name: str, tmp_path: Path) -> None:
    facts = FACTS[name]
    async with opened(facts, tmp_path) as (simulator, shop):
        await logged_in(shop, simulator)
        assert (await shop.call(), simulator.served) == (200, 1)

        simulator.access = "revoked" if facts.renews != "token" else simulator.access
        if facts.renews == "token":
            await shop.house.operator.refresh("books")
            assert (await shop.call(), simulator.refreshes) == (200, 1)
        elif facts.renews == "yes":
            assert (await shop.call(), simulator.refreshes) == (200, 1), simulator.complaints
            assert shop.token == simulator.access
        else:
            assert (await shop.call(), simulator.refreshes) == (503, 0)
        assert bool(simulator.asked) == bool(facts.asks)

        await shop.house.operator.logout("books")
        assert bool(simulator.revoked) == bool(facts.revoke)


@pytest.mark.parametrize("name", [name for name in FACTS if name not in FACTS_OF_LOGINS])
async def test_presets_that_need_no_person(name: str, tmp_path: Path) -> None:
    """The first request obtains a token, and a dead one is asked for again."""
    async with opened(FACTS[name], tmp_path) as (simulator, shop):
        assert await shop.call() == 200
        simulator.access = "revoked"
        assert await shop.call() == 200
        assert simulator.exchanges == 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("askara", {"token_body": TokenBody.FORM}),
        ("box", {"token_body": TokenBody.JSON}),
        ("fitbit", {"client_auth": ClientAuth.POST}),
        ("box", {"client_auth": ClientAuth.BASIC}),
        ("etsy", {"client_auth": ClientAuth.BASIC}),
        ("etsy", {"pkce": PKCE.NONE}),
        ("box", {"pkce": PKCE.S256}),
        ("strava", {"scope_separator": " "}),
        ("strava", {"authorize_params": {}}),
        ("deskera", {"redirect_uri": True}),
        ("deskera", {"exchange_scope": False}),
        ("tiktok", {"rename": {}}),
        ("monday", {"authorize_rename": {}}),
        ("shopify", {"exchange_params": {}}),
        ("box", {"token_url": "https://api.box.com/oauth2/tokens"}),
        ("box", {"authorize_url": "https://app.box.com/api/oauth2/authorize"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "-".join(each),
)
async def test_one_wrong_key_is_found(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """What the rows above are worth: the simulator refuses what is a little different."""
    async with opened(FACTS[name], tmp_path, **changes) as (simulator, shop):
        with pytest.raises(AssertionError):
            await logged_in(shop, simulator)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("figma", {"refresh_rename": {}}),
        ("figma", {"refresh_url": ""}),
        ("perscom", {"refresh_scope": False}),
        ("whoop", {"refresh_params": {}}),
        ("dropbox-sign", {"refresh_url": ""}),
    ],
    ids=lambda each: each if isinstance(each, str) else "-".join(each),
)
async def test_one_wrong_key_of_a_refresh_is_found(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    async with opened(FACTS[name], tmp_path, **changes) as (simulator, shop):
        await logged_in(shop, simulator)
        simulator.access = "revoked"

        assert (await shop.call(), simulator.refreshes) == (503, 0)
