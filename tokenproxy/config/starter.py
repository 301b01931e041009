"""The config that ``tokenproxy init`` writes: as little as works, and where to read on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tokenproxy.config.values import PresetInfo
from tokenproxy.config.words import did_you_mean, quoted, shown
from tokenproxy.core.provider import ClientAuth
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
    The upstream is the preset's API where nothing else is given. What nobody knows stands there as a placeholder,
    marked. Raises ``ConfigError`` for a name that cannot be.
    """
    problems = (
        [] if _NAME.fullmatch(name) else [Problem("name", f"{shown(name)} must be letters, digits, - and _")]
    )
    preset = _preset(provider, problems)
    wanted = preset.vars if preset else ()
    if unknown := [each for each in vars if each not in wanted]:
        problems += [
            Problem(f"vars.{each}", f"fills nothing.{did_you_mean(each, wanted)}") for each in unknown
        ]
    if problems:
        raise ConfigError("starter", problems)
    secret = client_secret or (f"file:{name}.secret" if preset and _needs_secret(preset) else None)
    blocks = [
        ["# Every setting and its default: docs/config.md. Check this file: tokenproxy check"],
        [*_about(preset), *_account(preset, name, client_id, secret, vars)],
        _route(name, upstream or (preset.provider.api if preset else "")),
        [] if preset else _provider(name, public=secret is None),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _preset(provider: str | None, problems: list[Problem]) -> PresetInfo | None:
    from tokenproxy.config import providers

    if provider is None:
        return None
    if provider in providers.preset_names():
        return providers.preset(provider)
    known = did_you_mean(provider, providers.preset_names())
    problems.append(Problem("provider", f"no preset {shown(provider)}.{known}"))
    return None


def _needs_secret(preset: PresetInfo) -> bool:
    from tokenproxy.config import providers

    return preset.provider.client_auth in providers.NEED_SECRET


def _about(preset: PresetInfo | None) -> list[str]:
    """What a person should know before the account works, in the place where it is looked for."""
    if preset is None:
        return []
    title = preset.provider.title or preset.name
    heading = f"# {title}: {preset.docs}" if preset.docs else f"# {title}"
    return [heading, *(f"# {note}" for note in preset.provider.notes)]


def _account(
    preset: PresetInfo | None, name: str, client_id: str | None, secret: str | None, given: Mapping[str, str]
) -> list[str]:
    lines = [f"[accounts.{name}]", f"provider = {quoted(preset.name if preset else name)}"]
    if preset and preset.grants[0] != "authorization_code":
        lines.append(f"grant = {quoted(preset.grants[0])}")
    if preset and preset.vars:
        pairs = ", ".join(
            f"{each} = {quoted(given.get(each) or _blank(preset, each))}" for each in preset.vars
        )
        lines.append(
            f"vars = {{ {pairs} }}" + ("" if all(given.get(each) for each in preset.vars) else _CHANGE)
        )
    lines.append(f"client_id = {quoted(client_id or 'change-me')}" + ("" if client_id else _CHANGE))
    if preset and preset.provider.client_auth is ClientAuth.PRIVATE_KEY_JWT:
        lines.append(f"private_key = {quoted(f'file:{name}.pem')}   # file: | env: | systemd: | cmd:")
    if secret:
        lines.append(f"client_secret = {quoted(secret)}   # file: | env: | systemd: | cmd: | literal:")
    return lines


def _blank(preset: PresetInfo, name: str) -> str:
    """What stands for a value that is not given: a whole host where it is one, else a word."""
    provider = preset.provider
    texts = (provider.authorize_url, provider.token_url, provider.api, provider.issuer)
    whole = any(text.partition("://")[2].partition("/")[0] == f"{{{name}}}" for text in texts)
    return "change-me.example.com" if whole else "change-me"


def _route(name: str, upstream: str) -> list[str]:
    """A preset's API goes there as it is: an account's ``vars``, or its login, fill what is open in it."""
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
