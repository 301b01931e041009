"""
``TOKENPROXY_SECTION__KEY``: every key of the file, set from the environment.

Two underscores part the words; a variable without them is none of ours here (``TOKENPROXY_CONFIG`` and the
command line's options look like that, and so does what Kubernetes sets for a service called tokenproxy).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args, get_origin

from tokenproxy.config.lines import Keys
from tokenproxy.config.models import NAMED, SECTIONS
from tokenproxy.config.table import Table, bare, children, table_in
from tokenproxy.config.words import nearest
from tokenproxy.errors import Problem

PREFIX: Final = "TOKENPROXY_"
_RESERVED: Final = ("TOKENPROXY_TEST_", "TOKENPROXY_BENCH_")


class _UnknownError(Exception):
    """Says what is wrong with a variable's name."""


def overlay(
    raw: dict[str, Any], environ: Mapping[str, str], *, provider_names: Iterable[str]
) -> tuple[dict[Keys, str], list[Problem]]:
    """
    Put what the environment says into ``raw``; gives back which variable set which key, and the unknown ones.

    ``provider_names``: presets, which a ``TOKENPROXY_PROVIDERS__...`` may mean beside the tables of the file.
    """
    variables: dict[Keys, str] = {}
    problems = []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or "__" not in variable or variable.startswith(_RESERVED):
            continue
        try:
            keys, kind = _locate(variable.removeprefix(PREFIX).split("__"), raw, tuple(provider_names))
        except _UnknownError as unknown:
            problems.append(Problem(variable, str(unknown)))
            continue
        if _place(raw, keys, _value(environ[variable], kind)):
            variables[keys] = variable
    return variables, problems


def _locate(words: list[str], raw: dict[str, Any], provider_names: tuple[str, ...]) -> tuple[Keys, Any]:
    """The key that a variable's words mean, and the type it has."""
    keys: Keys = ()
    kind: Any = None
    here: Any = raw
    for depth, word in enumerate(words):
        names, free = _choices(kind, here, keys, provider_names)
        matching = [name for name in names if _fold(name) == _fold(word)]
        if len(matching) > 1:
            raise _UnknownError(f"could mean {' or '.join(matching)}; set it in the file")
        if not matching and not free:
            raise _UnknownError(_unknown(words, depth, names))
        name = matching[0] if matching else word.lower()
        kind = _kind_of(kind, name, keys)
        keys = (*keys, name)
        here = here.get(name) if isinstance(here, dict) else None
    if len(keys) == 1 or (len(keys) == 2 and keys[0] in NAMED):
        raise _UnknownError("names a table; name one of its settings")
    return keys, kind


def _choices(kind: Any, here: Any, keys: Keys, provider_names: tuple[str, ...]) -> tuple[list[str], bool]:
    """The names that may follow, and whether others may too."""
    present = list(here) if isinstance(here, dict) else []
    if not keys:
        return [*SECTIONS, *NAMED], False
    if len(keys) == 1 and keys[0] in NAMED:
        extra = [name for name in provider_names if name not in present] if keys[0] == "providers" else []
        return present + extra, True
    table = None if get_origin(kind) is list else table_in(kind)
    if table is not None:
        return list(children(table)), False
    if get_origin(kind) is dict or kind is Any:
        return present, True
    return [], False


def _kind_of(kind: Any, name: str, keys: Keys) -> Any:
    if not keys:
        return SECTIONS.get(name, dict)
    if len(keys) == 1 and keys[0] in NAMED:
        return NAMED[str(keys[0])]
    table = table_in(kind)
    if table is not None:
        return children(table)[name]
    return bare(get_args(kind)[1]) if get_origin(kind) is dict else Any


def _unknown(words: list[str], depth: int, names: list[str]) -> str:
    above = PREFIX + "__".join(words[:depth])
    if not names:
        return f"{above} has no settings of its own"
    meant = nearest(words[depth], names)
    if meant is None:
        return f"unknown setting. Known: {', '.join(sorted(names))}"
    guess = PREFIX + "__".join([*words[:depth], meant.upper().replace("-", "_"), *words[depth + 1 :]])
    return f"unknown setting. Did you mean {guess}?"


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")


def _value(text: str, kind: Any) -> Any:
    """A TOML value if it is one; for a setting that is text, 1234 and true stay what they look like."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if set(parsed) != {"value"}:
        return text
    value = parsed["value"]
    text_wanted = get_origin(kind) is None and not (
        isinstance(kind, type) and issubclass(kind, int | float | Table)
    )
    is_text = isinstance(value, str) or kind is Any or not text_wanted
    return value if is_text else text


def _place(raw: dict[str, Any], keys: Keys, value: Any) -> bool:
    """False where something that is no table is in the way; the file's own mistake is told then."""
    here = raw
    for key in keys[:-1]:
        here = here.setdefault(str(key), {})
        if not isinstance(here, dict):
            return False
    here[str(keys[-1])] = value
    return True
