"""
The few keys of a config file that must be known fast: for completion and for ``healthcheck``.

Nothing is checked here, and pydantic is not imported: that alone would take longer than the whole command may.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

DEFAULT_ADMIN: Final = "127.0.0.1:9100"


def account_names(path: Path) -> list[str]:
    """The tables ``[accounts.NAME]``; none for a file that cannot be read."""
    try:
        accounts = read(path).get("accounts")
    except (OSError, ValueError):
        return []
    return sorted(accounts) if isinstance(accounts, dict) else []


def health_address(path: Path, environ: Mapping[str, str]) -> str:
    """
    Where health is asked for: ``[metrics] listen``, else ``[admin] listen``, else its default.

    Raises ``OSError`` and ``ValueError`` (of TOML, or of UTF-8) for the file; a container may be configured by its
    environment, which goes before the file here as it does in ``config``.
    """
    raw = read(path)
    for section in ("metrics", "admin"):
        table = raw.get(section)
        listen = _overlay(section, environ) or (table.get("listen") if isinstance(table, dict) else None)
        if isinstance(listen, str) and listen:
            return _absolute(listen, path)
    return DEFAULT_ADMIN


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))


def _overlay(section: str, environ: Mapping[str, str]) -> str | None:
    """``TOKENPROXY_METRICS__LISTEN``, with or without TOML's quotes."""
    wanted = f"{section}__listen"
    for name, value in environ.items():
        if name.startswith("TOKENPROXY_") and name.removeprefix("TOKENPROXY_").casefold() == wanted:
            return value.strip().strip("\"'")
    return None


def _absolute(listen: str, path: Path) -> str:
    if not listen.startswith("unix:"):
        return listen
    return f"unix:{path.absolute().parent / listen.removeprefix('unix:')}"
