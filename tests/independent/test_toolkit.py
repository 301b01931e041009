"""
The real program against an authorization server that is not ours: discovery, logins, renewals, revocation.

Its refresh tokens rotate, and one that comes back spent ends the grant, so that every figure here is also a proof that
none did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.independent.actor import SECRET, Toolkit, toolkit
from tests.independent.house import House
from tests.simulators import free_port
from tests.stories.serving import calling, command, serving, status_of

CONFIG = """
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:{admin}"
[log]
format = "json"
level = "debug"

[providers.toolkit]
issuer = "{issuer}"
client_auth = "basic"
validate = {{ url = "{issuer}/introspect/", introspect = true }}

[providers.open]
issuer = "{issuer}"
device_url = "{issuer}/device-authorization/"
client_auth = "none"

[accounts.web]
provider = "toolkit"
client_id = "web client: 1"
client_secret = "file:secret"
scopes = ["openid", "read"]

[accounts.public]
provider = "open"
client_id = "public"
scopes = ["read"]

[accounts.machine]
provider = "toolkit"
grant = "client_credentials"
client_id = "machine"
client_secret = "file:secret"
scopes = ["write"]

[accounts.tv]
provider = "open"
grant = "device_code"
client_id = "tv"
scopes = ["read"]
"""
ROUTE = """
[routes.{name}]
upstream = "{url}"
account = "{name}"
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House[Toolkit]]:
    async with lived_in(tmp_path) as house:
        yield house


@asynccontextmanager
async def lived_in(tmp_path: Path) -> AsyncIterator[House[Toolkit]]:
    admin = free_port()
    callback = f"http://127.0.0.1:{admin}/callback"
    async with toolkit(f"{callback}/web", f"{callback}/public") as server, calling() as caller:
        secret = tmp_path / "secret"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)
        config = tmp_path / "config.toml"
        routes = [ROUTE.format(name=name, url=server.url) for name in ("web", "public", "machine", "tv")]
        config.write_text(CONFIG.format(admin=admin, issuer=server.issuer) + "".join(routes))
        async with serving(config) as serve:
            token = (tmp_path / "tokenproxy.db.admin-token").read_text().strip()
            yield House(server, serve, config, caller, token)
            assert SECRET not in serve.written
            assert token not in serve.written


async def test_a_login_by_discovery_lives_through_rotations_and_ends_at_the_provider(
    house: House[Toolkit],
) -> None:
    """An issuer and a client id with a colon and blanks are all that the config says."""
    ended = await house.log_in("web")
    assert (ended["state"], ended["error"]) == ("success", "")
    assert await house.ask("web/api/") == (200, {"user": "ana", "scope": "openid read"})
    assert (await status_of(house.config, "web"))["identity"]

    for generation in (2, 3):
        await house.server.control(do="expire")
        answers = await asyncio.gather(*(house.ask("web/api/") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert (await status_of(house.config, "web"))["generation"] == generation
    assert (await house.server.control())["refresh"] == 1

    code, out, err = await command(house.config, "logout", "web")
    assert code == 0, err
    assert (await house.server.control())["refresh"] == 0, out
    assert (await house.ask("web/api/"))[0] == 503


async def test_a_public_client_proves_itself_by_its_challenge(house: House[Toolkit]) -> None:
    """The server insists on S256; a client without a secret must repeat its id at the exchange."""
    assert (await house.log_in("public"))["state"] == "success"

    await house.server.control(do="expire")

    assert (await house.ask("public/api/"))[0] == 200


async def test_a_machine_asks_by_itself(house: House[Toolkit]) -> None:
    assert await house.ask("machine/api/") == (200, {"user": None, "scope": "write"})

    await house.server.control(do="expire")

    assert (await house.ask("machine/api/"))[0] == 200


@pytest.mark.parametrize(("do", "state", "status"), [("agree", "success", 200), ("deny", "failed", 503)])
async def test_a_device_waits_for_the_person(house: House[Toolkit], do: str, state: str, status: int) -> None:
    """The server names no ``verification_uri_complete``, and an interval of its own."""
    login = await house.begin("tv")
    assert login["verification_uri"] == "http://localhost/o/device"

    await house.server.control(do=do, code=login["user_code"])

    assert (await house.ended(login["id"]))["state"] == state
    assert (await house.ask("tv/api/"))[0] == status
