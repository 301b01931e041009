"""Guide 002 from the first address in a real browser to an API answer, and what of it is left lying about."""

from __future__ import annotations

import asyncio
import io
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from tests.simulators import Api, DeskproProvider, free_port
from tests.simulators.browser import Chromium, needs_chromium
from tests.stories.serving import Serve, calling, serving

pytestmark = needs_chromium


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    chromium = Chromium()
    yield chromium
    chromium.close()


def config_of(folder: Path, provider: DeskproProvider, api: Api) -> Path:
    (folder / "desk.secret").write_text(provider.client_secret)
    (folder / "desk.secret").chmod(0o600)
    path = folder / "config.toml"
    path.write_text(
        f"""\
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:{free_port()}"
[log]
format = "json"
level = "debug"
access = "all"

[providers.third]
authorize_url = "{provider.url}/authorize"
authorize_rename = {{ client_id = "client_key", redirect_uri = "redirect_uri", response_type = "" }}
pkce = "none"
callback = {{ mode = "fragment", path = "random", token = '/#code=(?<token>[0-9a-f]{{20}})$/' }}
token_url = "{provider.url}/token"
token_method = "GET"
client_auth = "query"
rename = {{ grant_type = "", client_id = "", redirect_uri = "", client_secret = "secret", code = "access_code" }}
answer.access_token = "token"

[accounts.desk]
provider = "third"
client_id = "{provider.client_id}"
client_secret = "file:desk.secret"

[routes.desk]
upstream = "{api.url}"
account = "desk"
"""
    )
    return path


class Program:
    """What begins a login for somebody and waits: it has read the admin token's file."""

    def __init__(self, serve: Serve, caller: Any) -> None:
        self._serve = serve
        self._caller = caller
        token = serve.config.with_name("tokenproxy.db.admin-token").read_text().strip()
        self.token = token
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        async with self._caller.request(
            method, f"{self._serve.admin}{path}", headers=self._headers, data=json.dumps(body)
        ) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            return found


def command_lines() -> str:
    """What anybody on this machine may read of every process."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return "\n".join(lines)


async def test_a_code_after_the_hash_becomes_a_token_and_nothing_else(
    tmp_path: Path, chromium: Chromium
) -> None:
    """The browser's address bar, title, history and referrers, the program's log and every command line are clean."""
    async with (
        DeskproProvider() as provider,
        Api(provider) as api,
        serving(config_of(tmp_path, provider, api)) as serve,
        calling() as caller,
        chromium.browsing() as browser,
    ):
        program = Program(serve, caller)
        login = await program.ask("POST", "/api/logins", {"account": "desk"})
        waiting = asyncio.create_task(program.ask("GET", f"/api/logins/{login['id']}?wait=30"))
        tab = await browser.tab()
        await tab.go(login["start_url"])
        await tab.until("document.title == 'Logged in - tokenproxy'")
        ended = await waiting

        assert (ended["state"], ended["result"]["state"], ended["error"]) == ("success", "ok", "")
        async with caller.get(f"{serve.url}/desk/things") as answer:
            assert answer.status == 200
        assert provider.exchanges == 1
        assert not provider.complaints

        path = urllib.parse.urlsplit(login["callback_url"]).path
        key = path.rpartition("/")[2]
        landed = next(asked["url"] for asked in tab.requests if "#code=" in asked["url"])
        code = landed.partition("#code=")[2]
        assert landed == f"{login['callback_url']}#code={code}"
        assert await tab.address() == login["callback_url"].removesuffix(f"/{key}")
        secrets = [key, code, program.token, *provider.secrets]
        seen = [
            await tab.address(),
            await tab.title(),
            await tab.text(),
            *await tab.history(),
            command_lines(),
        ]
        seen += [asked["headers"].get("Referer", "") for asked in tab.requests]
        assert not [secret for secret in secrets for text in seen if secret in text]
        assert tab.complaints == []

        # Coming back with the same answer, and with none, changes nothing.
        await tab.go(landed)
        await tab.until(
            "document.body.className == 'bad' && document.title != 'Finishing the login - tokenproxy'"
        )
        assert "This login has ended already" in await tab.title()
        assert await serve.stop() == 0
    assert not [secret for secret in [*secrets, login["id"]] if secret in serve.written]


async def test_hostile_callbacks_hold_up_nobody(tmp_path: Path) -> None:
    """Hundreds of wrong ones at once: each gets its page, nothing is stored, and requests go on meanwhile."""
    async with (
        DeskproProvider() as provider,
        Api(provider) as api,
        serving(config_of(tmp_path, provider, api)) as serve,
        calling() as caller,
    ):
        wrong = [
            f"{serve.admin}/callback/desk/{'k' * 43}",
            f"{serve.admin}/callback/desk?error=access_denied&state={'s' * 43}",
            f"{serve.admin}/callback?code=c&state={'s' * 43}&state=x",
            f"{serve.admin}/callback/desk/{'k' * 43}?iss=https%3A%2F%2Fevil.example",
        ]

        async def ask(url: str) -> int:
            async with caller.get(URL(url, encoded=True)) as page:
                assert page.content_type == "text/html"
                return int(page.status)

        async def post(number: int) -> int:
            address = f"{serve.admin}/callback/desk/x#code={'a' * (16_000 if number % 2 else 1_000_000)}"
            body = json.dumps({"address": address}).encode()
            async with caller.post(
                f"{serve.admin}/callback/desk/{'k' * 43}",
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json"},
            ) as page:
                return int(page.status)

        pages = [asyncio.create_task(ask(wrong[number % 4])) for number in range(200)]
        async with caller.get(f"{serve.admin}/healthz") as answer:
            assert answer.status == 200
        assert set(await asyncio.gather(*pages)) <= {200, 400}
        assert set(await asyncio.gather(*(post(number) for number in range(10)))) == {400, 413}
        assert provider.token_calls == 0
        assert await serve.stop() == 0
    assert '"level":"error"' not in serve.written
