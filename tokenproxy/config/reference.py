"""Every key of the config with its type and default, for the reference page and whoever lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from tokenproxy.config.kinds import Kind
from tokenproxy.config.models import NAMED, SECTIONS
from tokenproxy.config.table import Table, bare, table_in


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the config, for the reference page."""

    path: str
    """Dotted, with NAME where the operator chooses: ``routes.NAME.upstream``."""
    type: str
    default: Any
    """As the table has it; ``REQUIRED`` or ``DEPENDS`` where that is no value."""


def every_setting() -> Iterator[Setting]:
    """All keys there are, section by section."""
    for section, model in SECTIONS.items():
        yield from _settings(model, section)
    for section, model in NAMED.items():
        yield from _settings(model, f"{section}.NAME")


def _settings(model: type[Table], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        path = f"{prefix}.{field.alias or name}"
        inner = table_in(bare(field.annotation))
        if inner is not None and get_origin(bare(field.annotation)) not in {list, dict}:
            yield from _settings(inner, path)
            continue
        kinds = [each.name for each in field.metadata if isinstance(each, Kind)] or _kinds(field.annotation)
        yield Setting(path, kinds[0], field.description or field.default)


def _kinds(annotation: Any) -> list[str]:
    """The kinds inside an ``X | None``."""
    if get_origin(annotation) is Annotated:
        return [each.name for each in get_args(annotation)[1:] if isinstance(each, Kind)]
    return [name for each in get_args(annotation) for name in _kinds(each)]
