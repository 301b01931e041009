"""The real program beside an authorization server that is not ours, and whoever uses the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiohttp

from tests.independent.actor import Server
from tests.stories.serving import Serve

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, slots=True)
class House(Generic[AnyServer]):
    server: AnyServer
    serve: Serve
    config: Path
    caller: aiohttp.ClientSession
    admin_token: str

    async def ask(self, route: str) -> tuple[int, Any]:
        """One request through the proxy."""
        async with self.caller.get(f"{self.serve.url}/{route}") as answer:
            return answer.status, await answer.json(content_type=None)

    async def begin(self, account: str, **more: Any) -> dict[str, Any]:
        return await self.call("POST", "/api/logins", {"account": account, **more})

    async def ended(self, login: str) -> dict[str, Any]:
        return await self.call("GET", f"/api/logins/{login}?wait=30")

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.admin_token}", "Content-Type": "application/json"}
        async with self.caller.request(
            method, f"{self.serve.admin}{path}", json=body, headers=headers
        ) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            assert answer.status < 400, found
            return found

    async def log_in(self, account: str) -> dict[str, Any]:
        """Through the browser, to the end."""
        login = await self.begin(account)
        status, page = await self.server.browse(login["authorize_url"])
        assert status == 200, page
        return await self.ended(login["id"])
