"""``explain``: what a code means, and what a setting is."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from tokenproxy.cli.command import Call, UnusableError, command
from tokenproxy.cli.present import table

if TYPE_CHECKING:
    from tokenproxy.config.page import Described
    from tokenproxy.core.explanations import Explanation

_CONFIG: Final = "config"
_NAMED: Final = frozenset({"accounts", "callers", "issuers", "routes", "providers"})
"""Tables whose second word is the operator's choice; NAME stands for it."""
_WIDE: Final = 100


class Code(click.ParamType[str]):
    name = "code"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        from tokenproxy.core.explanations import explanations

        names = [_CONFIG, *explanations()]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Key(click.ParamType[str]):
    name = "key"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        from tokenproxy.config.page import described

        if ctx.params.get("code") != _CONFIG:
            return []
        return [CompletionItem(key) for key in described() if key.startswith(incomplete)]


@command("explain", json=True)
@click.argument("code", type=Code(), required=False)
@click.argument("key", type=Key(), required=False)
def explain(call: Call, *, code: str | None, key: str | None) -> None:
    """
    Say what a code means: why it happens, what tokenproxy does by itself, what you do.

    \b
      tokenproxy explain login_required        an error, a state, a reason, a log event, a finding
      tokenproxy explain 3                     an exit code
      tokenproxy explain config store.url      a setting
      tokenproxy explain                       everything that can be asked

    No config is read.
    """  # noqa: D301 - \b is click's
    if code is None:
        _list_codes(call)
    elif code == _CONFIG:
        _settings(call, key)
    elif key is not None:
        raise UnusableError(f"{code} {key}: one code at a time", next_step=f"tokenproxy explain {code}")
    else:
        _explain(call, code)


def _explain(call: Call, code: str) -> None:
    from tokenproxy.core.explanations import KINDS, explanations

    known = explanations()
    found = known.get(code) or known.get(code.lower().replace(" ", "_").replace("-", "_"))
    if found is None:
        raise UnusableError(
            f"nothing is called {code!r}{_near(code, [*known, _CONFIG])}", next_step="tokenproxy explain"
        )
    if call.json:
        call.out.json(asdict(found))
        return
    call.out.result(f"{found.code}   {', '.join(KINDS[kind] for kind in found.kinds)}")
    for line in _told(found):
        call.out.result(line)


def _told(found: Explanation) -> list[str]:
    rows = [("why", found.cause), ("by itself", found.itself), ("you", found.person)]
    return [line for name, text in rows for line in _paragraph(f"  {name:<11}", text)]


def _paragraph(lead: str, text: str) -> list[str]:
    wide = max(40, min(_WIDE, shutil.get_terminal_size().columns))
    return textwrap.wrap(
        text, wide, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _list_codes(call: Call) -> None:
    from tokenproxy.core.explanations import KINDS, explanations

    known = explanations()
    if call.json:
        call.out.json({"codes": [asdict(each) for each in known.values()]})
        return
    for kind, words in KINDS.items():
        names = [each.code for each in known.values() if kind in each.kinds]
        call.out.result(words)
        for line in _paragraph("  ", "  ".join(names)):
            call.out.result(line)
    call.out.say("One of them:  tokenproxy explain login_required")
    call.out.say("A setting:    tokenproxy explain config store.url")


# -- settings ----------------------------------------------------------------------------------------------------------


def _settings(call: Call, key: str | None) -> None:
    from tokenproxy.config.page import described

    known = described()
    if key is None:
        _list_settings(call, list(known.values()))
        return
    wanted = _general(key)
    found = [row for name, row in known.items() if name == wanted or name.startswith(f"{wanted}.")]
    if not found:
        found = [row for name, row in known.items() if name.endswith(f".{key}")]
    if not found:
        raise UnusableError(
            f"there is no setting {key}{_near(wanted, list(known))}", next_step="tokenproxy explain config"
        )
    if len(found) > 1:
        _list_settings(call, found)
        return
    row = found[0]
    if call.json:
        call.out.json(asdict(row))
        return
    call.out.result(f"{row.key}   {row.type}, default: {row.default}")
    for line in _paragraph("  ", row.meaning):
        call.out.result(line)


def _list_settings(call: Call, rows: list[Described]) -> None:
    if call.json:
        call.out.json({"settings": [asdict(each) for each in rows]})
        return
    if rows:
        call.out.result(table([(each.key, each.type, each.default) for each in rows]))
    call.out.say("One of them:  tokenproxy explain config " + (rows[0].key if rows else "KEY"))


def _general(key: str) -> str:
    """``routes.books.upstream`` -> ``routes.NAME.upstream``."""
    first, *rest = key.split(".")
    if first in _NAMED and rest:
        return ".".join((first, "NAME", *rest[1:]))
    return key


def _near(word: str, names: list[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, names, n=1, cutoff=0.6)
    return f". Did you mean {found[0]!r}?" if found else ""
