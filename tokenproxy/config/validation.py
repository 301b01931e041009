"""A table as the file has it, held against its model: what is sound of it, and a sentence for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar, get_origin

from pydantic import ValidationError

from tokenproxy.config.lines import Keys
from tokenproxy.config.models import NAMED, SECTIONS
from tokenproxy.config.table import Table, children, table_in
from tokenproxy.config.words import Report, did_you_mean, either, nearest, shown

AnyTable = TypeVar("AnyTable", bound=Table)


def read(model: type[AnyTable], raw: Any, keys: Keys, report: Report) -> AnyTable | None:
    """
    What is sound of a table; each mistake goes into the report.

    None only for something that is no table: a key with a mistake is left out, so that the rest can be judged on.
    """
    if not isinstance(raw, dict):
        report.problem(keys, f"must be a table, got {shown(raw)}")
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    kept = raw
    for error in errors:
        below = tuple(error["loc"])
        report.problem((*keys, *below), _sentence(model, below, error["type"], error["input"], error))
        kept = _without(kept, below)
    return model.model_validate(kept)


def _without(raw: dict[str, Any], below: Keys) -> dict[str, Any]:
    first, *rest = below
    kept = dict(raw)
    inner = kept.get(str(first))
    if rest and isinstance(rest[0], str) and isinstance(inner, dict):
        kept[str(first)] = _without(inner, tuple(rest))
    else:
        kept.pop(str(first), None)
    return kept


_TYPES: Final[Mapping[str, str]] = {
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": 'must be a list such as ["a", "b"]',
    "dict_type": 'must be a table such as { name = "value" }',
    "model_type": 'must be a table such as { name = "value" }',
}


def _sentence(model: type[Table], below: Keys, kind: str, value: Any, error: Any) -> str:
    if kind == "extra_forbidden":
        return unknown(model, below)
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "too_short":
        return "must not be empty"
    return f"{_TYPES[kind]}, got {shown(value)}" if kind in _TYPES else str(error["msg"])


def unknown(model: type[Table], below: Keys) -> str:
    """What to say of a key that is not there: the nearest, the right table, or what there is."""
    table, name, named = model, str(below[-1]), False
    for key in below[:-1]:
        if named or isinstance(key, int):  # one of several tables of the same kind
            named = False
            continue
        annotation = children(table)[str(key)]
        named = get_origin(annotation) is dict
        inner = table_in(annotation)
        assert inner is not None  # pydantic found a table there  # noqa: S101
        table = inner
    known = list(children(table))
    if nearest(name, known) is None and (elsewhere := _homes(name)):
        return f"unknown setting here; {either(elsewhere)} has it"
    return f"unknown setting.{did_you_mean(name, known)}"


def _homes(name: str) -> list[str]:
    """Sections that have a setting of this name directly."""
    homes = [f"[{section}]" for section, model in SECTIONS.items() if name in children(model)]
    return homes + [f"[{section}.NAME]" for section, model in NAMED.items() if name in children(model)]
