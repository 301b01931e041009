"""
Each of the four guides, from the first address in the browser to an answer of the API through the proxy.

By the command and by the admin API, against simulators that are strict about what the guide sends.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.simulators import (
    Api,
    AskaraProvider,
    DeskeraProvider,
    DeskproProvider,
    PerscomProvider,
    Provider,
    free_port,
    write_config,
)
from tests.simulators.browser import Chromium, needs_chromium
from tests.stories.serving import PATIENCE, Serve, calling, serving, status_of

JSON_LOG = '[log]\nformat = "json"\nlevel = "debug"\n'
Browse = Callable[[str], Awaitable[None]]
"""A person's browser: opens an address and follows it to its end."""


async def by_command(serve: Serve, account: str, browse: Browse) -> dict[str, Any]:
    """``tokenproxy login --no-browser``; the address that it prints is opened elsewhere."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tokenproxy", "login", account, "--no-browser", "--config", str(serve.config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    written = ""
    async with asyncio.timeout(PATIENCE):
        while not (found := re.search(r"(?m)^http\S+", written)):
            line = await process.stderr.readline()
            assert line, written
            written += line.decode()
        await browse(found[0])
        out, err = await process.communicate()
    assert process.returncode == 0, (written, out, err)
    return await status_of(serve.config, account)


async def by_api(serve: Serve, account: str, browse: Browse) -> dict[str, Any]:
    """What a program does: begin, give the address to a person, wait."""
    token = serve.config.with_name("tokenproxy.db.admin-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(serve.admin, headers=headers) as api:
        async with api.post("/api/logins", json={"account": account}) as answer:
            assert answer.status == 201, await answer.text()
            login = await answer.json()
        await browse(login["authorize_url"])
        async with api.get(f"/api/logins/{login['id']}?wait=30") as answer:
            ended = await answer.json()
    assert (ended["state"], ended["error"]) == ("success", "")
    result: dict[str, Any] = ended["result"]
    return result


async def browse(address: str) -> None:
    """Any browser will do where the code comes in the query."""
    async with calling() as session, session.get(address) as page:
        assert page.status == 200, await page.text()
        assert "logged in" in (await page.text()).lower()


@pytest.mark.parametrize("way", [by_command, by_api], ids=["command", "api"])
@pytest.mark.parametrize(
    "kind", [DeskeraProvider, PerscomProvider, AskaraProvider], ids=lambda kind: kind.name
)
async def test_a_person_logs_in_once_and_requests_work_from_then_on(
    tmp_path: Path, kind: type[Provider], way: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    """The first token from the login, the second from a refresh; the provider saw one exchange and one refresh."""
    admin = free_port()
    async with kind() as provider, Api(provider) as api:
        provider.redirect_uri = f"http://127.0.0.1:{admin}/callback/books"
        config = write_config(tmp_path, provider, api, admin_listen=f"127.0.0.1:{admin}", extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            status = await way(serve, "books", browse)
            assert (status["state"], status["generation"], status["live"]) == ("ok", 1, True)

            for token in (1, 2):
                async with caller.get(f"{serve.url}/books/orders") as answer:
                    assert (answer.status, (await answer.json())["token"]) == (200, token)
                provider.revoke_all_access()
            assert await serve.stop() == 0

        assert (provider.exchanges, provider.refreshes) == (1, 1)
        assert provider.complaints == []
        assert provider.leaks(serve.written) == []


# -- Deskpro's guide: a third party that knows no state, answers after the #, and is asked by GET -------------------------


def deskpro_config(tmp_path: Path, provider: DeskproProvider, api: Api, *, admin: int) -> Path:
    """The preset says the first flow; the two others are what a person adds to it."""
    more = {
        "first": "",
        "implicit": "",
        "strict": """\
authorize_rename = { client_id = "client_id", redirect_uri = "redirect_uri", response_type = "" }
[providers.desk.callback]
mode = "query"
path = "shared"
token = '/\\?code=(?<token>.+?)&/'
key = '/&state=(?<key>.+)/'
""",
    }[provider.flow]
    implicit = provider.flow == "implicit"
    grant = 'grant = "implicit"\nallow_implicit = true\n' if implicit else 'client_secret = "file:secret"\n'
    callback = "callback.token = '#access_token=(?P<token>[^&]+)'\n" if implicit else ""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(provider.client_secret)
    config = tmp_path / "config.toml"
    config.write_text(
        f"""\
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:{admin}"
{JSON_LOG}
[accounts.desk]
provider = "desk"
client_id = "{provider.client_id}"
{grant}
[routes.desk]
upstream = "{api.url}"
account = "desk"

[providers.desk]
extends = "deskpro"
api = "{provider.url}"
authorize_url = "{provider.url}{provider.authorize_path}"
token_url = "{provider.url}{provider.token_path}"
{callback}{more}"""
    )
    return config


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    started = Chromium()
    yield started
    started.close()


@needs_chromium
@pytest.mark.parametrize("way", [by_command, by_api], ids=["command", "api"])
@pytest.mark.parametrize("flow", ["first", "strict", "implicit"])
async def test_deskpro_s_flows_in_a_real_browser(
    tmp_path: Path, chromium: Chromium, flow: Any, way: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    """The fragment reaches us by our page alone, and neither the address bar nor a log keeps it."""
    admin = free_port()
    async with DeskproProvider(flow) as provider, Api(provider) as api:
        config = deskpro_config(tmp_path, provider, api, admin=admin)
        async with serving(config) as serve, calling() as caller, chromium.browsing() as browser:
            tab = await browser.tab()

            async def browse(address: str) -> None:
                await tab.go(address)
                await tab.until("document.title.toLowerCase().includes('logged in')")

            status = await way(serve, "desk", browse)
            assert (status["state"], status["live"]) == ("ok", True)
            async with caller.get(f"{serve.url}/desk/orders") as answer:
                assert answer.status == 200
            shown = [await tab.address(), await tab.text(), *await tab.history()]
            referrers = [request["headers"].get("Referer", "") for request in tab.requests]
            assert await serve.stop() == 0

        assert provider.complaints == []
        assert provider.exchanges == (0 if flow == "implicit" else 1)
        assert provider.leaks("\n".join([serve.written, *shown, *referrers])) == []
        assert tab.complaints == []
