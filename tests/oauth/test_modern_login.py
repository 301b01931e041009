"""One login with everything at once: metadata, a pushed request, a signing client, a bound token, its end."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import cast

import aiohttp
from yarl import URL

from tests.oauth.house import House
from tests.oauth.modern import PEM, housed, registered, server
from tests.simulators import FakeClock
from tokenproxy.config import parse
from tokenproxy.core.interfaces import KeepAnswer, Store
from tokenproxy.core.provider import Validate
from tokenproxy.oauth.logins import LoginDesk

DEMANDS = {
    "require_pushed_authorization_requests": True,
    "authorization_response_iss_parameter_supported": True,
}


def desk(house: House) -> LoginDesk:
    numbers = itertools.count(1)
    return LoginDesk(
        accounts=lambda: house.accounts,
        source=house.source,
        store=cast("Store", house.store),
        endpoint=house.source._endpoint,
        clock=house.clock,
        secret=lambda: f"planted-secret-{next(numbers):04d}-{'x' * 23}",
        public_url="http://127.0.0.1:9100",
        status=house.operator.status,
    )


async def log_in(logins: LoginDesk) -> str:
    """The login's state after a person said yes."""
    login = await logins.begin("books")
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(URL(login["authorize_url"], encoded=True), allow_redirects=False) as page,
    ):
        address = page.headers["Location"]
    await logins.land(address, account="books")
    return str((await logins.status(login["id"]))["state"])


async def test_a_login_where_the_config_knows_only_the_issuer(tmp_path: Path, written: io.StringIO) -> None:
    """
    As FAPI 2.0 has it (RFC 9126, 7523, 9449, 9207, 7636): the tokens last over a restart and end with the logout, and
    the log at debug level holds no token, assertion, proof or key.
    """
    clock = FakeClock()
    async with server("private_key_jwt", clock, dpop=True, nonce="n-1", metadata=DEMANDS) as at:
        validate = Validate(url="", introspect=True)
        account = registered(at, token_url="", issuer=at.issuer, validate=validate)
        async with housed(at, clock, account, path=tmp_path / "t.db") as house:
            logins = desk(house)
            assert await log_in(logins) == "success"
            first = await house.source.current("books")
            assert first.dpop_key
            await logins.close()
        async with housed(at, clock, account, path=tmp_path / "t.db") as house:
            assert (await house.source.refresh("books")).dpop_key == first.dpop_key
            assert (await house.stored()).bound_to == account.bound_to
            assert (await house.operator.logout("books"))["revoked"] is True
        assert [each.live for each in at.issued] == [False, False]
        assert not at.pushed
        lines = written.getvalue()
        assert "login_succeeded" in lines
        private = json.loads(first.dpop_key)["d"]
        assert not [secret for secret in (*at.secrets, PEM, private) if secret in lines]
        assert not at.complaints


async def test_the_same_from_a_config_file(tmp_path: Path) -> None:
    """What the config says about signing, metadata, introspection and captured values reaches the wire."""
    clock = FakeClock()
    (tmp_path / "client.key").write_text(PEM)
    (tmp_path / "client.key").chmod(0o600)
    extra = {"instance_url": "https://eu1.crm.example", "user": {"id": 7}}
    async with server("private_key_jwt", clock, alg="PS256", dpop=True, metadata=DEMANDS, extra=extra) as at:
        text = f"""
        [accounts.books]
        provider = "modern"
        client_id = "{at.client_id}"
        private_key = "file:client.key"
        key_id = "{at.key_id}"
        [providers.modern]
        issuer = "{at.issuer}"
        client_auth = "private_key_jwt"
        assertion = {{ alg = "PS256", lifetime = "2 min" }}
        dpop = true
        answer = {{ identity = ["user.id"] }}
        captured = {{ instance_url = ["instance_url"] }}
        captured_hosts = ["*.crm.example"]
        validate = {{ introspect = true }}
        [routes.books]
        upstream = "https://api.example"
        account = "books"
        """
        account = parse(text, source="config.toml", base=tmp_path, environ={}).accounts["books"]
        async with housed(at, clock, account) as house:
            logins = desk(house)
            assert await log_in(logins) == "success"
            held = await house.source.current("books")
            assert (held.identity, held.captured) == ("7", {"instance_url": "https://eu1.crm.example"})
            assert await house.source.renew("books", held, route="books") is KeepAnswer.LIVE
            assert (await house.operator.logout("books"))["revoked"] is True
            await logins.close()
        assert {claims["exp"] - claims["iat"] for claims in at.assertions} == {120}
        assert not at.complaints


async def test_a_token_endpoint_elsewhere_is_the_issuer_s_business() -> None:
    """Tokens are bound to the issuer that the config trusts, wherever its metadata sends us; so a login is taken."""
    clock = FakeClock()
    async with server("client_secret_post", clock) as at:
        at.metadata = DEMANDS | {"token_endpoint": at.token_url.replace("127.0.0.1", "localhost")}
        account = registered(at, token_url="", issuer=at.issuer)
        async with housed(at, clock, account) as house:
            logins = desk(house)
            assert await log_in(logins) == "success"
            assert (await house.stored()).bound_to == account.bound_to
            assert (await house.source.refresh("books")).generation == 2
            await logins.close()
        assert not at.complaints
