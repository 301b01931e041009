"""``check`` and ``presets``: what the config says, and what we know of providers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem

from tokenproxy.cli.command import Call, UnusableError, command, load
from tokenproxy.cli.present import counted, problem_lines, table
from tokenproxy.cli.serving import target_of, url_of
from tokenproxy.errors import ConfigError, Problem, StoreError, TokenproxyError

if TYPE_CHECKING:
    from tokenproxy.config import Config

WRONG = 2


@command("check", json=True)
def check(call: Call) -> int:
    """
    Tell all that is wrong with the config at once.

    Reads every secret and certificate that it names, too. Nothing is sent anywhere and nothing is changed. Exit code 2 if there are problems; warnings alone are 0.
    """
    try:
        config = load(call)
    except ConfigError as error:
        code = _report(call, None, error.problems)
        if error.next_step:
            call.out.note(call.step(f"Next:  {error.next_step}"))
        return code
    return _report(call, config, _beyond_the_file(config))


def _beyond_the_file(config: Config) -> list[Problem]:
    """What only shows when it is used: certificates, and the store's keys."""
    from tokenproxy import app
    from tokenproxy import config as configs

    problems = []
    try:
        app.check_tls(config)
    except TokenproxyError as error:
        problems.append(Problem("", error.message))
    path = config.store.keys[0].path
    if len(config.store.keys) == 1 and path is not None and not path.exists():
        if config.store.path.exists():
            problems.append(
                Problem("store.key", f"the store {config.store.path} is there, but its key {path} is not")
            )
        return problems  # the first start makes it
    try:
        configs.read_keys(config.store, os.environ)
    except StoreError as error:
        problems.append(Problem("store.key", error.message.removeprefix("store.key ")))
    return problems


def _doubts(call: Call, config: Config) -> Iterator[Problem]:
    """What ``serve`` would stumble over here; warnings, since it may run elsewhere and as somebody else."""
    with contextlib.suppress(OSError):
        for number, line in enumerate(call.config.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.rstrip().endswith("# CHANGE ME"):
                yield Problem(line.partition("=")[0].strip(), "is still marked CHANGE ME", number)
    store = config.store.path
    folder = store.parent
    if not folder.is_dir():
        yield Problem("store.url", f"there is no folder {folder}, and serve does not make it")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Problem("store.url", f"this user may not write to the folder {folder}, as SQLite must")
    elif store.exists() and not os.access(store, os.R_OK | os.W_OK):
        yield Problem("store.url", f"this user may not read and write {store}")


def _report(call: Call, config: Config | None, problems: Sequence[Problem]) -> int:
    warnings = [*config.warnings, *_doubts(call, config)] if config is not None else []
    code = WRONG if problems else 0
    if call.json:
        call.out.json(
            {
                "config": str(call.config),
                "ok": not problems,
                "problems": [asdict(each) for each in problems],
                "warnings": [asdict(each) for each in warnings],
            }
        )
        return code
    out = call.out
    if problems:
        out.result(f"{call.config}: {counted(len(problems), 'problem')}")
        for line in problem_lines(asdict(each) for each in problems):
            out.result(line)
    elif config is not None:
        out.done(
            f"{call.config}   {counted(len(config.accounts), 'account')}, {counted(len(config.routes), 'route')}"
        )
        _routes(call, config)
    if warnings:
        out.result(f"{out.mark('warn')} {counted(len(warnings), 'warning')}")
        for line in problem_lines(asdict(each) for each in warnings):
            out.result(line)
    if problems:
        out.say("Nothing was changed. Settings: docs/config.md")
    return code


def _routes(call: Call, config: Config) -> None:
    rows = [
        (
            route.name,
            url_of(route, config.server.listen[0]),
            "->",
            target_of(route),
            f"account {route.account}",
        )
        for route in config.routes
    ]
    if rows:
        call.out.say(table(rows, indent="  "))


# -- presets ---------------------------------------------------------------------------------------------------------


class PresetName(click.ParamType[str]):
    """A provider that we ship, completed by the names of the files."""

    name = "preset"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        from importlib.resources import files

        folder = files("tokenproxy.core") / "presets"
        names = sorted(
            each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml")
        )
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@command("presets", json=True)
@click.argument("name", required=False, type=PresetName())
def presets(call: Call, *, name: str | None) -> None:
    """
    The providers that tokenproxy knows.

    With NAME, all that it knows of one, as a table for the config. An account takes one by provider = "NAME"; a table [providers.NAME] in the config changes it key by key.
    """
    from tokenproxy import config

    known = config.presets()
    if name is None:
        _list(call, known)
        return
    if name not in known:
        raise UnusableError(f'there is no preset "{name}"', next_step="tokenproxy presets")
    raw = dict(known[name].raw)
    if call.json:
        call.out.json({"name": name, "vars": list(known[name].vars), "provider": raw})
        return
    call.out.result("\n".join(toml_lines(name, raw)))
    if known[name].vars:
        blanks = ", ".join(f'{each} = "..."' for each in known[name].vars)
        call.out.note(f"An account fills in:  vars = {{ {blanks} }}")


def _list(call: Call, known: Mapping[str, Any]) -> None:
    if call.json:
        call.out.json(
            {
                "presets": [
                    {"name": each.name, "vars": list(each.vars), "provider": dict(each.raw)}
                    for each in known.values()
                ]
            }
        )
        return
    rows = [("PRESET", "TOKEN ENDPOINT", "VARS", "DOCUMENTATION")]
    for each in known.values():
        parts = urlsplit(each.provider.token_url)
        rows.append((each.name, parts.netloc, ", ".join(each.vars) or "-", each.docs or "-"))
    call.out.result(table(rows))


def toml_lines(name: str, raw: Mapping[str, Any]) -> list[str]:
    """A table ``[providers.NAME]`` that may be pasted into a config."""
    return [f"[providers.{name}]", *(f"{key} = {_toml(value)}" for key, value in raw.items())]


def _toml(value: Any) -> str:
    match value:
        case Mapping():
            inner = ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            return f"[{', '.join(_toml(each) for each in value)}]"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)


def _key(text: str) -> str:
    plain = text.replace("-", "").replace("_", "")
    return text if plain.isalnum() and plain.isascii() else json.dumps(text)
