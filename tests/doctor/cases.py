"""Cases to look at, from a config's text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tokenproxy import config, offline
from tokenproxy.doctor import Case, House

CONFIG = """\
[accounts.crm]
provider = "{provider}"
client_id = "x"
client_secret = "env:CRM_SECRET"
[providers.rotating]
authorize_url = "https://login.example/authorize"
token_url = "https://login.example/token"
rotation = "always"
[providers.steady]
authorize_url = "https://login.example/authorize"
token_url = "https://login.example/token"
rotation = "never"
[routes.crm]
upstream = "https://api.example"
account = "crm"
"""
ENVIRON = {"CRM_SECRET": "planted-secret-0123"}


def case_of(
    folder: Path,
    text: str = CONFIG.replace("{provider}", "rotating"),
    *,
    environ: Mapping[str, str] | None = None,
    **more: Any,
) -> Case:
    path = folder / "config.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    given = {**ENVIRON, **(environ or {})}
    loaded = config.load(path, given)

    @asynccontextmanager
    async def visit() -> AsyncIterator[House]:
        async with offline.operations(loaded, environ=given, create=False) as face:
            yield face

    return Case(config=loaded, environ=given, visit=visit, **more)
