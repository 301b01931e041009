"""
The real program against the strictest server that can be had: pushed requests, signed clients, DPoP with a nonce.

A refresh token of it that comes back spent revokes the grant, and an assertion or a proof counts once.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from tests.independent.actor import NODE, SECRET_OF_40, OpenID, openid
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

[providers.bound]
issuer = "{issuer}"
par_url = "{issuer}/request"
client_auth = "private_key_jwt"
assertion.alg = "ES256"
dpop = true
inject.value = "DPoP {{access_token}}"

[providers.hashed]
issuer = "{issuer}"
client_auth = "client_secret_jwt"

[providers.basic]
issuer = "{issuer}"
validate = {{ url = "{issuer}/token/introspection", introspect = true }}

[providers.open]
issuer = "{issuer}"
client_auth = "none"

[accounts.signed]
provider = "bound"
client_id = "signed"
private_key = "file:client.jwk"
key_id = "1"
scopes = ["openid", "offline_access"]

[accounts.hashed]
provider = "hashed"
client_id = "hashed"
client_secret = "file:secret"
scopes = ["openid", "offline_access"]

[accounts.basic]
provider = "basic"
client_id = "basic"
client_secret = "file:secret"
scopes = ["openid", "offline_access"]

[accounts.tv]
provider = "open"
grant = "device_code"
client_id = "tv"
scopes = ["openid", "offline_access"]
"""
ROUTE = """
[routes.{name}]
upstream = "{url}"
account = "{name}"
"""
NAMES = ("signed", "hashed", "basic", "tv")

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules").is_dir())
    and "TOKENPROXY_TEST_NO_SKIPS" not in os.environ,
    reason="needs node, and: npm install --prefix tests/independent/node",
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House[OpenID]]:
    admin = free_port()
    key = ECKey.generate_key("P-256", {"kid": "1", "use": "sig", "alg": "ES256"})
    callback = f"http://127.0.0.1:{admin}/callback"
    async with openid(callback=callback, jwk=key.as_dict(private=False)) as server, calling() as caller:
        for name, text in (("client.jwk", json.dumps(key.as_dict(private=True))), ("secret", SECRET_OF_40)):
            (tmp_path / name).touch(mode=0o600)
            (tmp_path / name).write_text(text)
        config = tmp_path / "config.toml"
        routes = [ROUTE.format(name=name, url=server.url) for name in NAMES]
        config.write_text(CONFIG.format(admin=admin, issuer=server.url) + "".join(routes))
        async with serving(config) as serve:
            token = (tmp_path / "tokenproxy.db.admin-token").read_text().strip()
            yield House(server, serve, config, caller, token)
            assert SECRET_OF_40 not in serve.written
            assert str(key.as_dict(private=True)["d"]) not in serve.written


@pytest.mark.parametrize("account", ["signed", "hashed", "basic"])
async def test_a_login_lives_through_rotations_and_ends_at_the_provider(
    house: House[OpenID], account: str
) -> None:
    """``signed`` shows everything at once: its request goes ahead, its client signs, its tokens are bound to a key."""
    ended = await house.log_in(account)
    assert (ended["state"], ended["error"]) == ("success", ""), ended
    assert (await status_of(house.config, account))["identity"] == "ana"
    assert await house.ask(f"{account}/me") == (200, {"sub": "ana"})

    for generation in (2, 3):
        await house.server.expire()
        answers = await asyncio.gather(*(house.ask(f"{account}/me") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert (await status_of(house.config, account))["generation"] == generation

    code, out, err = await command(house.config, "logout", account)
    assert code == 0, out + err
    assert (await house.ask(f"{account}/me"))[0] == 503


async def test_bound_tokens_work_on_after_a_restart(house: House[OpenID], tmp_path: Path) -> None:
    """The key is kept with the tokens; without it neither they nor the next ones could be had."""
    assert (await house.log_in("signed"))["state"] == "success"
    assert await house.serve.stop() == 0
    await house.server.expire()

    async with serving(house.config) as again, calling() as caller:
        async with caller.get(f"{again.url}/signed/me") as answer:
            assert answer.status == 200
        assert (await status_of(house.config, "signed"))["generation"] == 2


async def test_a_device_waits_for_the_person(house: House[OpenID]) -> None:
    """The server names no ``interval``, and counts polls."""
    login = await house.begin("tv")

    await house.server.approve(login["user_code"])

    assert (await house.ended(login["id"]))["state"] == "success"
    assert await house.ask("tv/me") == (200, {"sub": "ana"})


async def test_doctor_sees_whether_the_callback_address_is_registered(house: House[OpenID]) -> None:
    """Before anybody logs in, and from nothing but the login page; all the rest of a real server is well."""
    code, out, err = await command(house.config, "doctor", "--json")
    findings = json.loads(out)["findings"]
    text = house.config.read_text()
    house.config.write_text(text.replace("[log]", f'public_url = "http://localhost:{port_of(text)}"\n[log]'))
    _, amiss, _ = await command(house.config, "doctor", "--json")
    codes = {each["name"]: each["code"] for each in json.loads(amiss)["findings"]}

    assert code == 0, out + err
    assert not [each for each in findings if each["level"] == "bad"]
    assert [each["sentence"] for each in findings if each["name"].startswith("provider")]
    assert (codes["redirect basic"], codes["redirect hashed"]) == ("redirect_unregistered",) * 2


def port_of(config: str) -> str:
    return config.partition("[admin]")[2].partition(":")[2].partition('"')[0]
