"""The admin API of a running program, driven by what it says of itself, and by somebody who wants to log in for others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.simulators import Api, DeviceProvider, free_port, write_config
from tests.stories.serving import Serve, command, imported, serving

SEED = "20261128"
EXPECTED = """
[checks]
# Too long is a refusal, too.
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422"]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", "404", "409"{refused}]

# What no schema can say: that a callback ends a login which was begun, that a token answer is this provider's, that a
# return_to lies below public_url, that a key was never used.
[[operations]]
include-path-regex = "^/callback"
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "404", "415"]

[[operations]]
include-path-regex = "/tokens$|^/api/logins"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"{refused}]

# What is deleted there is the login under way: how it ended is told for ten minutes more. And a poll may last a minute.
[[operations]]
include-path-regex = "^/api/logins/"
checks.use_after_free.enabled = false
parameters = { "query.wait" = 0.1 }
"""
"""``refused``: what else good data get."""


@asynccontextmanager
async def program(folder: Path) -> AsyncIterator[tuple[Serve, DeviceProvider]]:
    """``serve`` with one account that can do everything, nobody logged in."""
    async with DeviceProvider() as provider, Api(provider) as api:
        device = f'device_url = "{provider.url}{provider.device_path}"'
        config = write_config(
            folder, provider, api, provider_extra=device, admin_listen=f"127.0.0.1:{free_port()}"
        )
        async with serving(config) as serve:
            yield serve, provider


async def drive(serve: Serve, *words: str, refused: str = "") -> None:
    """Run schemathesis over what the program describes."""
    folder = serve.config.parent
    (folder / "schemathesis.toml").write_text(EXPECTED.replace("{refused}", refused))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"),
        "run", f"{serve.admin}/api/openapi.json", "--checks", "all", "--seed", SEED, "--no-color",
        "--generation-database", "none", "--request-timeout", "30", "--warnings", "off",
        *words,
        cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def token_of(serve: Serve) -> str:
    return serve.config.with_name("tokenproxy.db.admin-token").read_text().strip()


@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_with_the_token(tmp_path: Path) -> None:
    """Good and bad data, all checks, all phases: nothing crashes, and what comes is what was described."""
    async with program(tmp_path) as (serve, provider):
        await imported(serve.config, "books", provider.new_grant())
        await drive(serve, "--header", f"Authorization: Bearer {token_of(serve)}", "--max-examples", "5")

        async with aiohttp.ClientSession() as session, session.get(f"{serve.admin}/readyz") as ready:
            assert ready.status == 200
        assert await serve.stop() == 0
    assert not [event for event in serve.events if event["event"] in {"unexpected_error", "uncaught"}]
    assert "Traceback" not in serve.written


@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_without_the_token(tmp_path: Path) -> None:
    """And changes nothing: what the account is afterwards is what it was."""
    async with program(tmp_path) as (serve, provider):
        await imported(serve.config, "books", provider.new_grant())
        before = await command(serve.config, "status", "books", "--json")
        await drive(serve, "--phases", "examples,coverage", refused=', "401"')

        assert await command(serve.config, "status", "books", "--json") == before
        assert await serve.stop() == 0
    assert not [event for event in serve.events if event["event"] in {"unexpected_error", "uncaught"}]


class Browser:
    """Follows nothing by itself, and keeps its cookies."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def go(self, address: str) -> tuple[int, str, str]:
        """Status, where it is sent on to, and the page."""
        async with self._session.get(URL(address, encoded=True), allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def plant(self, cookie: str, *, at: str) -> None:
        self._session.cookie_jar.update_cookies({"tokenproxy": cookie}, URL(at))

    async def close(self) -> None:
        await self._session.close()


async def test_nobody_ends_a_login_in_somebody_else_s_browser(tmp_path: Path) -> None:
    """
    Login CSRF: the attacker says yes at the provider as themselves, and has the victim's browser bring the code home.

    Whoever planted a cookie in that browser beforehand is no further (session fixation).
    """
    planted = "p" * 43
    attacker, victim = Browser(), Browser()
    async with program(tmp_path) as (serve, provider), aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {token_of(serve)}"}

        async def begun() -> dict[str, Any]:
            async with session.post(
                f"{serve.admin}/api/logins", json={"account": "books"}, headers=headers
            ) as answer:
                found: dict[str, Any] = await answer.json()
                return found

        await attacker.plant(planted, at=serve.admin)
        await victim.plant(planted, at=serve.admin)
        login = await begun()
        _, authorize, _ = await attacker.go(login["start_url"])
        _, home, _ = await attacker.go(authorize)
        assert home.startswith(f"{serve.admin}/callback/books?")
        status, _, page = await victim.go(home)
        assert (status, "begun in another browser" in page) == (403, True)
        status, _, page = await attacker.go(home)
        assert (status, "ended already" in page) == (400, True), "a state counts once"
        assert provider.token_calls == 0

        other = await begun()
        assert (await victim.go(other["start_url"]))[0] == 303
        status, _, page = await attacker.go(other["start_url"])
        assert (status, "another browser" in page) == (404, True)
        async with session.get(f"{serve.admin}/api/accounts/books") as answer:
            assert (await answer.json())["state"] == "new"
    await attacker.close()
    await victim.close()
