"""docs/commands.md and the program say the same, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from tests.cli.program import ROOT
from tokenproxy.cli.root import program

PAGE = (ROOT / "docs/commands.md").read_text()
EVERYWHERE = {"config", "quiet", "no_color", "verbose"}
VARIABLES = {"config": "TOKENPROXY_CONFIG", "json": "TOKENPROXY_JSON", "quiet": "TOKENPROXY_QUIET",
             "no_color": "TOKENPROXY_NO_COLOR", "verbose": "TOKENPROXY_VERBOSE"}  # fmt: skip


def commands() -> Iterator[tuple[str, click.Command]]:
    for name, command in program.every_command().items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


def sections() -> dict[str, tuple[str, set[tuple[str, str]]]]:
    """Command -> (what its heading says after the name, its options with their variables)."""
    names = [name for name, _ in commands()]
    found = {}
    for heading, body in re.findall(
        r"^## `tokenproxy (.*?)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    ):
        name = next(name for name in names if heading == name or heading.startswith(f"{name} "))
        found[name] = (heading.removeprefix(name).strip(), options_of(body))
    return found


def options_of(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^\| `(--[a-z-]+)` \| `(TOKENPROXY_\w+)` \|", text, re.MULTILINE))


def variable(command: str, option: click.Option) -> str:
    name = str(option.name)
    return VARIABLES.get(name) or f"TOKENPROXY_{command.replace(' ', '_')}_{name}".upper()


def test_every_command_and_option_is_described_and_nothing_else() -> None:
    """A person looks a command up there; what it doesn't say is not found, and what is not there is tried in vain."""
    said = {name: options for name, (_, options) in sections().items()}
    real = {
        name: {
            (option.opts[0], variable(name, option))
            for option in command.params
            if isinstance(option, click.Option) and option.name not in EVERYWHERE
        }
        for name, command in commands()
    }

    assert said == real


def test_the_options_of_every_command_are_described_once() -> None:
    body = PAGE.partition("## Options of every command")[2].partition("\n## ")[0]

    for name, command in commands():
        common = [
            each for each in command.params if isinstance(each, click.Option) and each.name in EVERYWHERE
        ]
        assert {(each.opts[0], str(each.envvar)) for each in common} == options_of(body), name


def test_headings_name_the_arguments_as_help_does() -> None:
    for name, command in commands():
        with click.Context(command, info_name=name) as ctx:
            usage = command.get_usage(ctx).partition("[OPTIONS]")[2].strip()
        shown = usage if "{" not in usage else "SHELL"

        assert sections()[name][0] == shown


def test_every_option_can_be_set_from_the_environment_and_help_explains_it() -> None:
    for name, command in commands():
        assert command.help, name
        for each in command.params:
            assert not isinstance(each, click.Option) or each.help, f"{name} {each.name}"


def test_exit_codes_are_those_that_errors_carry() -> None:
    """A script decides by them."""
    from tokenproxy import errors

    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    raised = {each.exit_code for each in vars(errors).values()
              if isinstance(each, type) and issubclass(each, errors.TokenproxyError)}  # fmt: skip

    assert codes == raised | {0, 130}
