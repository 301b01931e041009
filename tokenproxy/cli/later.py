"""Commands of the design that this version does not have: known by name, so that the answer is no puzzle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from tokenproxy.errors import TokenproxyError

INSTEAD: Final[Mapping[str, str]] = {
    "doctor": "tokenproxy check",
    "logs": "tokenproxy status",
    "explain": "tokenproxy check, and docs/config.md for every setting",
    "run": "tokenproxy serve",
    "stop": "end serve with Ctrl-C or SIGTERM",
}
"""What does something like it today."""


class NotYetError(TokenproxyError):
    exit_code = 2


def _later(name: str, instead: str) -> click.Command:
    @click.pass_context
    def run(ctx: click.Context) -> None:  # noqa: ARG001 - whatever was given is not looked at
        raise NotYetError(f"{name} is not in this version yet", next_step=instead)

    return click.Command(
        name,
        callback=run,
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


LATER: Final = tuple(_later(name, instead) for name, instead in INSTEAD.items())
