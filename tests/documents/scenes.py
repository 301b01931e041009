"""What there is around a reader: providers and APIs, as a page's scene names them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.documents.pages import ROOT, Block
from tests.documents.reader import SECRET, Reader
from tests.independent.actor import SECRET as TOOLKIT_SECRET
from tests.independent.actor import toolkit
from tests.simulators import DeskproProvider, free_port
from tests.simulators.any_provider import AnyProvider, Facts, read_facts
from tokenproxy import config
from tokenproxy.core.provider import CallbackPath

FACTS: Final = read_facts(Path(__file__).parent.parent / "catalogue/expected.tsv")
_URLS: Final = ("issuer", "authorize_url", "par_url", "device_url", "token_url", "refresh_url")
Scene = Callable[[Reader, list[Block], str], AbstractAsyncContextManager[None]]


class Asked(Facts):
    """Facts of a provider that is asked for the scopes of the page's config."""

    scopes: tuple[str, ...] = ()

    @property
    def scope(self) -> str | None:
        return {"space": " ", "comma": ","}[self.sep].join(self.scopes) if self.scopes else None


@asynccontextmanager
async def alone(reader: Reader, _: list[Block], __: str) -> AsyncIterator[None]:
    """The program, and nothing to talk to."""
    yield


@asynccontextmanager
async def provider(reader: Reader, blocks: list[Block], name: str) -> AsyncIterator[None]:
    """
    The provider that a preset knows, with its API, at addresses of loopback; strict about every request.

    The page's config names the preset; its account, client and scopes are what the provider knows.
    """
    said: dict[str, Any] = next(tomllib.loads(each.text) for each in blocks if each.file == "config.toml")
    account_name, account = next(each for each in said["accounts"].items() if each[1].get("provider") == name)
    (filled,) = account.get("vars", {"": "acme"}).values()  # what the table of facts calls acme
    facts = Asked(**{key: value.replace("acme", filled) for key, value in asdict(FACTS[name]).items()})
    preset = config.preset(name).provider
    object.__setattr__(facts, "scopes", tuple(account.get("scopes", preset.scopes)))
    async with AnyProvider(facts) as simulator:
        simulator.client_id = account["client_id"]
        simulator.client_secret = SECRET
        public = reader.here(said.get("admin", {}).get("public_url", reader.admin))
        simulator.redirect_uri = f"{public}/callback/{account_name}"
        if preset.callback.path is CallbackPath.RANDOM:
            simulator.redirect_uri += "/*"
        reader.config_end = _moved(name, simulator)
        for block in blocks:
            for line in re.findall(r'(?m)^upstream = ".*?"', block.text):
                reader.places[line] = f'upstream = "{simulator.url}/upstream"'
        yield
        assert simulator.complaints == []


def _moved(name: str, simulator: AnyProvider) -> str:
    """The preset with every address, as it is, below the simulator's own."""
    preset = config.preset(name).provider
    lines = [f"\n[providers.{name}]"]
    lines += [f"{key} = {_text(simulator, url)}" for key in _URLS if (url := getattr(preset, key))]
    if preset.validate:
        lines.append(f"validate.url = {_text(simulator, preset.validate.url)}")
    if preset.revoke:
        lines.append(f"revoke.url = {_text(simulator, preset.revoke.url)}")
    return "\n".join(lines) + "\n"


def _text(simulator: AnyProvider, url: str) -> str:
    return json.dumps(simulator.at(url))


@asynccontextmanager
async def books(reader: Reader, blocks: list[Block], _: str) -> AsyncIterator[None]:
    """Who has followed the README: ``books`` is logged in at Deskera, and ``serve`` runs."""
    readme = README_CONFIG()
    async with provider(reader, [readme], "deskera"):
        await reader.do(readme)
        await reader.type("tokenproxy login books\ntokenproxy serve")
        yield


def README_CONFIG() -> Block:  # noqa: N802 - a constant that is read late
    from tests.documents.pages import blocks

    return next(each for each in blocks(ROOT / "README.md") if each.file == "config.toml")


class Host(DeskproProvider):
    """With the API that the guide's tokens are for."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            return await super().handle(request)
        given = request.headers.get("Authorization", "")
        return web.json_response({}, status=200 if given == "Bearer the token" else 401)


@asynccontextmanager
async def deskpro(reader: Reader, _: list[Block], flow: str) -> AsyncIterator[None]:
    """The third party of Deskpro's guide, at ``https://example.com``."""
    async with Host("strict" if flow == "strict" else "first") as simulator:
        simulator.client_id, simulator.client_secret = "app-1", SECRET
        reader.places["https://example.com"] = simulator.url
        yield
        assert simulator.complaints == []


@asynccontextmanager
async def independent(reader: Reader, _: list[Block], accounts: str) -> AsyncIterator[None]:
    """Django OAuth Toolkit at ``http://localhost:8000``, which the page has its reader start."""
    callbacks = [f"{reader.admin}/callback/{account}" for account in accounts.split()]
    async with toolkit(*callbacks) as server:
        reader.places |= {
            "http://localhost:8000": server.url,
            '"https://login.example.com"': f'"{server.issuer}"',
            '"https://api.example.com"': f'"{server.url}/api"',
        }
        reader.secrets.add(TOOLKIT_SECRET)
        yield


@asynccontextmanager
async def in_a_clone(reader: Reader, _: list[Block], __: str) -> AsyncIterator[None]:
    """The repository, whose authorization server for tests the page has its reader start on port 8000."""
    port = str(free_port())
    (reader.folder / "tests").symlink_to(ROOT / "tests")
    reader.places |= {"localhost:8000": f"localhost:{port}", "TOOLKIT_PORT=8000": f"TOOLKIT_PORT={port}"}
    reader.secrets.add("not-secret")
    yield


SCENES: Final[dict[str, Scene]] = {
    "alone": alone, "provider": provider, "books": books, "deskpro": deskpro, "toolkit": independent,
    "tutorial": in_a_clone,
}  # fmt: skip
