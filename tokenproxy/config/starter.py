"""The config that ``tokenproxy init`` writes: as little as works, and where to read on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tokenproxy.config.words import did_you_mean, quoted, shown
from tokenproxy.errors import ConfigError, Problem

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHANGE: Final = "   # CHANGE ME"


def starter(
    *,
    provider: str | None,
    name: str,
    upstream: str | None,
    client_id: str | None,
    client_secret: str | None,
    vars: Mapping[str, str],  # noqa: A002 - the config's own word
) -> str:
    """
    The text of a config with one account and one route, both called ``name``.

    ``provider`` is a preset, or None for a table of its own with addresses to fill in. ``client_secret`` says where
    the secret lies (``env:NAME``, ...); None: ``file:NAME.secret`` for a preset that needs one, else a public client.
    What is not given stands there as a placeholder, marked. Raises ``ConfigError`` for a name that cannot be.
    """
    problems = (
        [] if _NAME.fullmatch(name) else [Problem("name", f"{shown(name)} must be letters, digits, - and _")]
    )
    needs_secret, wanted = _asked_by(provider, problems)
    if unknown := [each for each in vars if each not in wanted]:
        problems += [
            Problem(f"vars.{each}", f"fills nothing.{did_you_mean(each, wanted)}") for each in unknown
        ]
    if problems:
        raise ConfigError("starter", problems)
    secret = client_secret or (f"file:{name}.secret" if needs_secret else None)
    blocks = [
        ["# Every setting and its default: docs/config.md. Check this file: tokenproxy check"],
        _account(provider or name, name, client_id, secret, {each: vars.get(each) for each in wanted}),
        _route(name, upstream),
        [] if provider else _provider(name, public=secret is None),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _asked_by(provider: str | None, problems: list[Problem]) -> tuple[bool, tuple[str, ...]]:
    """Whether a preset authenticates its clients by a secret, and the placeholders that it has."""
    from tokenproxy.config import providers

    if provider is None:
        return False, ()
    if provider not in providers.preset_names():
        known = did_you_mean(provider, providers.preset_names())
        problems.append(Problem("provider", f"no preset {shown(provider)}.{known}"))
        return False, ()
    info = providers.preset(provider)
    return info.provider.client_auth in providers.NEED_SECRET, info.vars


def _account(
    provider: str, name: str, client_id: str | None, secret: str | None, values: Mapping[str, str | None]
) -> list[str]:
    lines = [f"[accounts.{name}]", f"provider = {quoted(provider)}"]
    if values:
        pairs = ", ".join(
            f"{each} = {quoted(value or 'change-me.example.com')}" for each, value in values.items()
        )
        lines.append(f"vars = {{ {pairs} }}" + ("" if all(values.values()) else _CHANGE))
    lines.append(f"client_id = {quoted(client_id or 'change-me')}" + ("" if client_id else _CHANGE))
    if secret:
        lines.append(f"client_secret = {quoted(secret)}   # file: | env: | systemd: | cmd: | literal:")
    return lines


def _route(name: str, upstream: str | None) -> list[str]:
    return [
        f"[routes.{name}]   # the app calls http://127.0.0.1:8080/{name}/...",
        f"upstream = {quoted(upstream or 'https://api.example.com')}" + ("" if upstream else _CHANGE),
        f"account = {quoted(name)}",
    ]


def _provider(name: str, *, public: bool) -> list[str]:
    auth = "none" if public else "basic"
    return [
        f"[providers.{name}]",
        f'authorize_url = "https://login.example.com/authorize"{_CHANGE}',
        f'token_url = "https://login.example.com/token"{_CHANGE}',
        f"client_auth = {quoted(auth)}   # basic | basic_raw | post | query | none",
        'token_body = "form"   # form | json | query',
    ]
