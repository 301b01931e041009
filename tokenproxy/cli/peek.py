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


def names(path: Path, section: str) -> list[str]:
    """The tables ``[accounts.NAME]``, or ``[routes.NAME]``; none for a file that cannot be read."""
    try:
        found = read(path).get(section)
    except (OSError, ValueError):
        return []
    return sorted(found) if isinstance(found, dict) else []


def health_address(path: Path, environ: Mapping[str, str]) -> str:
    """
    Where health is asked for: ``[metrics] listen``, else ``[admin] listen``, else its default; with TLS as a URL.

    Where a certificate is asked for, which we have none of: the admin socket beside the store.

    Raises ``OSError`` and ``ValueError`` (of TOML, or of UTF-8) for the file; a container may be configured by its
    environment, which goes before the file here as it does in ``config``.
    """
    raw = read(path)
    for section, default in (("metrics", ""), ("admin", DEFAULT_ADMIN)):
        listen = _said(raw, section, "listen", environ) or default
        if not listen:
            continue
        if _said(raw, section, "client_ca_file", environ):
            return _socket(raw, path, environ)
        tls = _said(raw, section, "cert_file", environ)
        return f"https://{listen}" if tls else _absolute(listen, path)
    return DEFAULT_ADMIN


def _socket(raw: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> str:
    """As ``parts.socket_path`` has it."""
    url = _said(raw, "store", "url", environ) or "sqlite:tokenproxy.db"
    if url.startswith("sqlite:"):
        return _absolute(f"unix:{url.removeprefix('sqlite:').removeprefix('//')}.sock", path)
    return _absolute(f"unix:{_said(raw, 'store', 'dir', environ) or '.'}/tokenproxy.sock", path)


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))


def _said(raw: Mapping[str, Any], section: str, key: str, environ: Mapping[str, str]) -> str:
    """A text of the environment, else of the file; empty: of neither."""
    table = raw.get(section)
    said = _overlay(section, key, environ) or (table.get(key) if isinstance(table, dict) else None)
    return said if isinstance(said, str) else ""


def _overlay(section: str, key: str, environ: Mapping[str, str]) -> str | None:
    """``TOKENPROXY_METRICS__LISTEN``, with or without TOML's quotes."""
    wanted = f"{section}__{key}"
    for name, value in environ.items():
        if name.startswith("TOKENPROXY_") and name.removeprefix("TOKENPROXY_").casefold() == wanted:
            return value.strip().strip("\"'")
    return None


def _absolute(listen: str, path: Path) -> str:
    if not listen.startswith("unix:"):
        return listen
    return f"unix:{path.absolute().parent / listen.removeprefix('unix:')}"
