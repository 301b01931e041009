"""Config files that point tokenproxy at simulators."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.simulators.provider import AskaraProvider, DeskeraProvider, PerscomProvider, Provider
from tests.simulators.server import LOOPBACK, Server


def free_port() -> int:
    """A port that nobody listened on a moment ago; where a server may choose for itself, prefer port 0."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def provider_table(provider: Provider) -> str:
    """
    ``[providers.NAME]``, with the preset's name and only addresses in it: all quirks must come from the preset.

    ``PlainProvider`` has no preset, so its table says everything.
    """
    origin = provider.url
    if isinstance(provider, PerscomProvider):  # the account's vars fill the host in, as they do in the preset
        origin = provider.url.replace(provider.authority, "{dashboard}")
    lines = [
        f"[providers.{provider.name}]",
        f'authorize_url = "{origin}{provider.authorize_path}"',
        f'token_url = "{origin}{provider.token_path}"',
    ]
    if provider.validate_path is not None:
        lines.append(f'validate = {{ method = "GET", url = "{origin}{provider.validate_path}" }}')
    if not isinstance(provider, DeskeraProvider | PerscomProvider | AskaraProvider):
        lines += ['client_auth = "post"', 'token_body = "form"', f'scopes = ["{provider.default_scope}"]']
    return "\n".join(lines)


def account_table(provider: Provider, account: str, *, client_id: str | None = None) -> str:
    """``[accounts.NAME]``; the secret is read from ``NAME.secret`` beside the config."""
    lines = [
        f"[accounts.{account}]",
        f'provider = "{provider.name}"',
        f"client_id = {json.dumps(client_id or provider.client_id)}",
        f'client_secret = "file:{account}.secret"',
    ]
    if isinstance(provider, PerscomProvider):
        lines.append(f'vars = {{ dashboard = "{provider.authority}" }}')
        lines.append(f"scopes = {json.dumps((provider.default_scope or '').split())}")
    return "\n".join(lines)


def write_config(
    tmp_path: Path,
    provider: Provider,
    api: Server | str,
    *,
    account: str = "books",
    route: str | None = None,
    listen: str = f"{LOOPBACK}:0",
    admin_listen: str = f"{LOOPBACK}:0",
    store: str = "sqlite:tokenproxy.db",
    store_extra: str = "",
    client_id: str | None = None,
    ca_file: Path | None = None,
    server_extra: str = "",
    provider_extra: str = "",
    account_extra: str = "",
    route_extra: str = "",
    extra: str = "",
    name: str = "config.toml",
) -> Path:
    """
    Write ``tmp_path/config.toml`` (and the client's secret beside it) and give its path.

    One account at ``provider``, one route to ``api`` (or its address) with the account's name unless ``route`` says another. The
    ``*_extra`` are lines of TOML for that table, ``extra`` for whole tables at the end. ``ca_file`` is trusted
    towards both simulators.
    """
    tls = f"tls = {{ ca_file = {json.dumps(str(ca_file))} }}" if ca_file is not None else ""
    secret = tmp_path / f"{account}.secret"
    secret.touch(mode=0o600)
    secret.write_text(provider.client_secret)
    tables = [
        ["[server]", f'listen = "{listen}"', server_extra],
        ["[admin]", f'listen = "{admin_listen}"'],
        ["[store]", f'url = "{store}"', store_extra],
        [provider_table(provider), tls, provider_extra],
        [account_table(provider, account, client_id=client_id), account_extra],
        [
            f"[routes.{route or account}]",
            f'upstream = "{api if isinstance(api, str) else api.url}"',
            f'account = "{account}"',
            tls,
            route_extra,
        ],
        [extra],
    ]
    path = tmp_path / name
    path.write_text(
        "\n\n".join("\n".join(line for line in table if line) for table in tables if any(table)) + "\n"
    )
    return path
