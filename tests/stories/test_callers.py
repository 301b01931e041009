"""Named callers through the real program: each way over a real socket, a reload, the access log, and no secret anywhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import aiohttp

from tests.simulators import Api, PlainProvider, write_config
from tests.simulators.issuer import AUDIENCE, IssuerSimulator
from tests.stories.serving import Serve, calling, command, imported, serving

PASSWORD = "planted-password-of-reports"
KEY = "planted-key-of-billing"
LOG = '[log]\nformat = "json"\nlevel = "debug"\naccess = "all"\n'


def basic(password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"reports:{password}".encode()).decode()}


async def status(serve: Serve, caller: aiohttp.ClientSession, **headers: str) -> int:
    async with caller.get(f"{serve.url}/books/v1/contacts", headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_callers_of_a_running_proxy(tmp_path: Path) -> None:
    async with PlainProvider() as provider, Api(provider) as api, IssuerSimulator() as issuer:
        code, hashed, err = await command(tmp_path / "none.toml", "key", "password", given=PASSWORD.encode())
        assert (code, err) == (0, "")
        (tmp_path / "billing.key").write_text(KEY)
        (tmp_path / "billing.key").chmod(0o600)
        callers = f"""
[callers.billing]
key = "file:billing.key"
per_second = 0.001
burst = 2
[callers.reports]
basic = {{ username = "reports", password_hash = "{hashed.strip()}" }}
[callers.local]
peer = {{ users = {os.getuid()} }}
[callers.pods]
jwt = {{ issuer = "cluster", subject = "system:serviceaccount:books:*" }}
[issuers.cluster]
issuer = "{issuer.issuer}"
audience = "{AUDIENCE}"
"""
        listen = '"127.0.0.1:0", "unix:proxy.sock'
        config = write_config(tmp_path, provider, api, listen="X", extra=LOG + callers)
        config.write_text(config.read_text().replace('"X"', f'[{listen}"]'))
        await imported(config, "books", provider.new_grant())
        token = issuer.token()
        async with serving(config) as serve, calling() as caller:
            assert await status(serve, caller) == 401
            assert [await status(serve, caller, **{"Tokenproxy-Key": KEY}) for _ in range(3)] == [
                200,
                200,
                503,
            ]
            assert await status(serve, caller, **basic()) == 200
            assert await status(serve, caller, **basic("planted-wrong-password")) == 401
            assert await status(serve, caller, Authorization=f"Bearer {token}") == 200
            issuer.rotate("second", keep=True)
            await asyncio.sleep(0)
            connector = aiohttp.UnixConnector(str(tmp_path / "proxy.sock"))
            async with (
                aiohttp.ClientSession(connector=connector) as local,
                local.get("http://localhost/books/x") as answer,
            ):
                assert answer.status == 200

            text = config.read_text()
            config.write_text(text.replace("[callers.reports]\n", '[callers.reports]\nroutes = ["other"]\n'))
            code, _, err = await command(config, "reload")
            assert code == 2
            assert 'no route "other"' in err
            assert await status(serve, caller, **basic()) == 200
            config.write_text(text.replace("[callers.reports]", "[callers.renamed]").replace(KEY, "x"))
            assert (await command(config, "reload"))[0] == 0
            assert await status(serve, caller, **basic()) == 200
            assert await status(serve, caller, **{"Tokenproxy-Key": KEY}) == 503  # what was used stays used
            async with caller.get(f"{serve.admin}/metrics") as answer:
                metrics = await answer.text()
            assert 'tokenproxy_caller_requests_total{caller="billing",result="overloaded"} 2.0' in metrics
            assert 'tokenproxy_caller_requests_total{caller="local",result="let_in"} 1.0' in metrics
            assert await serve.stop() == 0

        asked = [each["caller"] for each in serve.events if each["event"] == "request"]
        assert asked == [
            "",
            "billing",
            "billing",
            "billing",
            "reports",
            "",
            "pods",
            "local",
            "reports",
            "renamed",
            "billing",
        ]
        for secret in (PASSWORD, KEY, "planted-wrong-password", *token.split("."), *basic().values()):
            assert secret not in serve.written + metrics
        assert all(json.dumps(PASSWORD) not in json.dumps(each) for each in serve.events)
        assert provider.complaints == []
