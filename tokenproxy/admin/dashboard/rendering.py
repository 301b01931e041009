"""
Templates and assets, read when the first page is asked for: what nobody opens costs a running proxy no memory.

A page is written in pieces between which other work goes on: a list of a thousand accounts must not hold requests up.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE: Final = Path(__file__).parent
_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
AT_ONCE: Final = 0.004
"""Seconds of writing after which other work has its turn."""


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    content_type: str


class Rendering:
    def __init__(self) -> None:
        self._loading: asyncio.Task[tuple[Environment, dict[str, Asset]]] | None = None

    async def _loaded(self) -> tuple[Environment, dict[str, Asset]]:
        """Once, in a thread, whoever asks first."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(asyncio.to_thread(_load), name="templates")
        return await asyncio.shield(self._loading)

    async def asset(self, name: str) -> Asset | None:
        return (await self._loaded())[1].get(name)

    async def html(self, name: str, /, **values: Any) -> str:
        environment, _ = await self._loaded()
        pieces: list[str] = []
        since = time.perf_counter()
        for number, piece in enumerate(environment.get_template(name).generate(values)):
            pieces.append(piece)
            if number % 64 == 0 and time.perf_counter() - since > AT_ONCE:
                await asyncio.sleep(0)
                since = time.perf_counter()
        return "".join(pieces)


def _load() -> tuple[Environment, dict[str, Asset]]:
    from jinja2 import DictLoader, Environment, StrictUndefined

    files = [path for path in (_HERE / "assets").iterdir() if path.suffix in _TYPES]
    assets = {path.name: Asset(path.read_bytes(), _TYPES[path.suffix]) for path in files}
    sources = {path.name: path.read_text("utf-8") for path in (_HERE / "templates").glob("*.html")}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    version = hashlib.sha256(b"".join(assets[name].body for name in sorted(assets))).hexdigest()[:12]
    environment.globals["assets"] = version
    for name in sources:
        environment.get_template(name)
    return environment, assets
