"""Deskpro's guide as an application lives it: captured, exchanged, kept and used, and it never holds a secret."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.simulators import Api, DeskproProvider
from tests.stories.serving import Serve, calling, serving

PAGE = "https://apps.example"
PUBLIC = "http://tokens.example"
"""What the browser would use; here a front in between is left out."""
Ask = Callable[..., Any]


def config_of(folder: Path, provider: DeskproProvider, api: Api) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f"""\
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
public_url = "{PUBLIC}"
insecure_http = true
[store]
url = "sqlite:tokenproxy.db"
key = "file:key"
[log]
format = "json"
level = "debug"
access = "all"

[providers.third]
authorize_url = "{provider.url}/authorize"
pkce = "none"
authorize_rename = {{ client_id = "client_key", response_type = "" }}
callback = {{ mode = "fragment", path = "random", token = '/#code=(?<token>[0-9a-f]{{20}})$/' }}

[accounts.desk]
provider = "third"
client_id = "{provider.client_id}"
capture = "oauth2/mytoken"
settings.client_key = "{provider.client_id}"
settings.secret = {{ value = "env:DESK_SECRET", backend = true }}

[routes.third]
upstream = "{provider.url}"
account = "desk/anna"
placeholders = true

[routes.api]
upstream = "{api.url}"
account = "desk/anna"
placeholders = true

[routes.apps]
account = "desk/anna"
placeholders = true
origins = ["{PAGE}"]
targets = [
  {{ url = "{provider.url}/token" }},
  {{ url = "{api.url}/api/**", methods = ["GET", "POST"], timeout = "10 s" }},
]
"""
    )
    path.chmod(0o600)
    return path


@dataclass
class Desk:
    """The application's backend, which may ask the admin API, and the person's browser."""

    serve: Serve
    caller: aiohttp.ClientSession
    token: str

    async def admin(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.caller.request(
            method, self.serve.admin + path, json=body if body is not None else {}, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def log_in(self) -> dict[str, Any]:
        """The guide's link is followed, the third party sends the browser back, and our page hands the fragment over."""
        status, login = await self.admin("POST", "/api/logins", {"account": "desk/anna"})
        assert status == 201
        jar = aiohttp.CookieJar(unsafe=True)
        front = {"Host": "tokens.example"}

        def behind(address: str) -> str:
            return address.replace(PUBLIC, self.serve.admin)

        async with aiohttp.ClientSession(cookie_jar=jar) as browser:
            async with browser.get(
                behind(login["start_url"]), headers=front, allow_redirects=False
            ) as answer:
                authorize = answer.headers["Location"]
            async with browser.get(URL(authorize, encoded=True), allow_redirects=False) as answer:
                landing, _, fragment = answer.headers["Location"].partition("#")
            async with browser.get(behind(landing), headers=front) as answer:
                assert answer.status == 200  # the page that reads location.hash
            brought = {"address": f"{landing}#{fragment}"}
            async with browser.post(
                behind(landing), json=brought, headers=front | {"Origin": PUBLIC}
            ) as answer:
                assert answer.status == 200, await answer.text()
        _, done = await self.admin("GET", f"/api/logins/{login['id']}?wait=10")
        assert isinstance(done, dict)
        return done


@asynccontextmanager
async def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Desk, DeskproProvider, Api]]:
    async with DeskproProvider() as provider, Api(provider) as api:
        monkeypatch.setenv("DESK_SECRET", provider.client_secret)
        (tmp_path / "key").write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
        (tmp_path / "key").chmod(0o600)
        async with serving(config_of(tmp_path, provider, api)) as serve, calling() as caller:
            token = (tmp_path / "tokenproxy.db.admin-token").read_text().strip()
            yield Desk(serve, caller, token), provider, api


def by_route(desk: Desk) -> Ask:
    """Through a route to each of the two."""

    async def ask(
        where: str,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> tuple[int, Any]:
        address = URL(f"{desk.serve.url}/{where}{target}", encoded=True)
        async with desk.caller.request(method, address, headers=headers, data=data) as answer:
            return answer.status, json.loads(await answer.read())

    return ask


def by_form(desk: Desk, provider: DeskproProvider, api: Api) -> Ask:
    """As the SDK's ``proxyFetch`` does it, from a page in a browser."""
    bases = {"third": provider.url, "api": api.url}

    async def ask(
        where: str,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> tuple[int, Any]:
        form = {
            "Origin": PAGE,
            "X-Proxy-Authorization": "Bearer of-the-host-application",
            "X-Proxy-Url": bases[where] + target,
            "X-Proxy-Method": method,
            "X-Proxy-Headers": json.dumps(headers or {}),
        }
        async with desk.caller.post(f"{desk.serve.url}/apps/", headers=form, data=data) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            return answer.status, json.loads(await answer.read())

    return ask


@pytest.mark.parametrize("way", ["routes", "X-Proxy form"])
async def test_the_guide_s_own_sequence(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sign in, poll, exchange with placeholders, keep the token, use it; the secret, the code and the token stay here."""
    async with opened(tmp_path, monkeypatch) as (desk, provider, api):
        ask = by_route(desk) if way == "routes" else by_form(desk, provider, api)

        done = await desk.log_in()
        assert (done["state"], done["account"]) == ("success", "desk/anna")
        assert provider.token_calls == 0
        state = "/api/accounts/desk/anna/state"
        listed = (await desk.admin("GET", state))[1]["state"]
        assert listed == [{"path": "oauth2/mytoken", "backend": True, "expires_at": None}]

        status, data = await ask("third", "/token?secret=__secret__&access_code=[user[oauth2/mytoken]]")
        assert (status, provider.exchanges) == (200, 1)
        token = data["token"]
        ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        kept = {"value": token, "backend": True, "expires_at": ends}
        assert (await desk.admin("PUT", f"{state}/oauth2/token", kept))[0] == 200

        bearer = {"Authorization": "Bearer [user[oauth2/token]]"}
        status, echo = await ask("api", "/api/some-resource", headers=bearer)
        assert (status, echo["target"]) == (200, "/api/some-resource")
        assert api.requests[-1].token == token
        typed = {**bearer, "Content-Type": "application/json"}
        body = '{"key": "__client_key__"}'
        status, echo = await ask("api", "/api/notes", method="POST", headers=typed, data=body)
        assert (status, echo["length"]) == (200, len(body) - len("__client_key__") + len(provider.client_id))

        status, refused = await ask("third", "/token?secret=__secret__&access_code=[user[oauth2/other]]")
        assert (status, refused["code"]) == (400, "placeholder_unresolved")
        assert (await desk.admin("GET", f"{state}/oauth2/token"))[1].get("value") is None

        assert (await desk.admin("DELETE", "/api/accounts/desk/anna"))[0] == 200
        status, refused = await ask("api", "/api/some-resource", headers=bearer)
        assert (status, refused["code"]) == (400, "placeholder_unresolved")
        assert provider.complaints == []

        for secret in (provider.client_secret, token, *provider.secrets, desk.token):
            assert secret not in desk.serve.written
            assert secret.encode() not in (tmp_path / "tokenproxy.db").read_bytes()


async def test_a_page_reaches_what_is_listed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config's own whitelist, through the real program."""
    async with opened(tmp_path, monkeypatch) as (desk, provider, api):
        await desk.admin("PUT", "/api/accounts/desk/anna/state/t", {"value": "x"})
        admin = desk.serve.admin
        for url, method in (
            (f"{admin}/api/accounts", "GET"),
            (f"{api.url}/admin", "GET"),
            (f"{api.url}/api/../admin", "GET"),
            (f"{api.url}/api/x", "DELETE"),
            (api.url.replace("127.0.0.1", "2130706433") + "/api/x", "GET"),
            (api.url.replace("127.0.0.1", "localhost") + "/api/x", "GET"),
            (api.url.replace("127.0.0.1", "127.0.0.1:1@127.0.0.1") + "/api/x", "GET"),
            ("http://169.254.169.254/latest/meta-data/", "GET"),
        ):
            form = {"Origin": PAGE, "X-Proxy-Url": url, "X-Proxy-Method": method}
            async with desk.caller.post(f"{desk.serve.url}/apps/", headers=form) as answer:
                assert (answer.status, answer.headers["Tokenproxy-Error"]) == (403, "not_allowed"), url
        assert api.requests == []
        assert provider.complaints == []
