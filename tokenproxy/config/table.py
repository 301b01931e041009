"""A table of the TOML: what all have in common, and what its keys are."""

from __future__ import annotations

from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """
    A TOML table. ``Field(description=REQUIRED)`` marks what must be given; whoever reads the table asks for it.

    Required keys have a default all the same: a missing one must not keep the others from being looked at.
    """

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """None: values may be secrets (``literal:...``)."""
        return ()

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


REQUIRED: Final = "required"
DEPENDS: Final = "depends"


def required() -> Any:
    return Field(default="", description=REQUIRED)


def depends(*, alias: str | None = None) -> Any:
    """A default that is worked out from other keys."""
    return Field(default=None, description=DEPENDS, alias=alias)


def children(model: type[Table]) -> dict[str, Any]:
    """A table's keys as TOML writes them, each with its annotation (``Annotated`` and ``Optional`` taken off)."""
    return {field.alias or name: bare(field.annotation) for name, field in model.model_fields.items()}


def table_in(annotation: Any) -> type[Table] | None:
    """The table that a key holds, or of which it holds a list, or several by names of the operator's choice."""
    row = get_args(annotation)[-1] if get_origin(annotation) in {list, dict} else annotation
    return row if isinstance(row, type) and issubclass(row, Table) else None


def bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return bare(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation
