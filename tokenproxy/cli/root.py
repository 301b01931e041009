"""The program: its commands by name, and how a failure is told and turned into an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Final, NoReturn

import click

from tokenproxy import __version__
from tokenproxy.cli.command import Told, shown, with_option
from tokenproxy.cli.present import counted, problem_lines
from tokenproxy.errors import AccountError, ConfigError, TokenproxyError

PROGRAM: Final = "tokenproxy"
INTERRUPTED: Final = 130
USAGE: Final = 2


COMMANDS: Final[Mapping[str, str]] = {
    "demo": "demo",
    "init": "initial",
    "check": "checking",
    "login": "login",
    "import": "accounts:import_",
    "serve": "serving",
    "status": "accounts",
    "refresh": "accounts",
    "logout": "accounts",
    "rebind": "accounts",
    "reload": "serving",
    "stop": "serving",
    "run": "running",
    "logs": "logs",
    "doctor": "doctoring",
    "explain": "explaining",
    "presets": "catalogue",
    "key": "keys",
    "store": "store",
    "healthcheck": "serving",
    "completion": "completing",
}
"""Name -> module, and what it calls the command where that is not its name; in the order in which a newcomer meets them."""


class Program(click.Group):
    """Imports a command when it is asked for: ``serve`` has no use for the others, and completion little time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module, _, name = COMMANDS[cmd_name].partition(":")
            self.add_command(getattr(import_module(f"tokenproxy.cli.{module}"), name or cmd_name))
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            self.every_command()  # click proposes the nearest of those that it knows
        return super().resolve_command(ctx, args)

    def every_command(self) -> dict[str, click.Command]:
        """By name."""
        ctx = click.Context(self)
        return {name: found for name in COMMANDS if (found := self.get_command(ctx, name)) is not None}


@click.group(
    cls=Program,
    name=PROGRAM,
    context_settings={"auto_envvar_prefix": "TOKENPROXY", "help_option_names": ["-h", "--help"]},
    epilog="Every command has --help. Exit codes: 0 fine, 1 failure, 2 usage or config, 3 login required, "
    "4 provider refused or down, 5 store, 6 not running, 130 interrupted.",
)
@click.version_option(
    __version__, prog_name=PROGRAM, message="%(prog)s %(version)s", allow_from_autoenv=False
)
def program() -> None:
    """
    Plain HTTP goes in without a credential and comes out with a live OAuth token.

    \b
      tokenproxy demo                        see it work, nothing needed
      tokenproxy init deskera                write a config and a key
      tokenproxy login deskera               log in, once
      tokenproxy serve                       run
      tokenproxy status                      what is logged in, until when, what to do
      tokenproxy doctor                      what is wrong, and the remedy
    """  # noqa: D301 - \b is click's


_OUTPUT_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAKE_ROOM: Final = "make room where the output goes, or send it elsewhere"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # an identity that the terminal cannot show must not end the command
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """The exit code of a command; whatever went wrong has been told."""
    told = Told(verbose="--verbose" in (sys.argv if args is None else args))
    try:
        code: int | None = program.main(args, prog_name=PROGRAM, standalone_mode=False, obj=told)
        sys.stdout.flush()
        return code or 0
    except click.ClickException as error:
        return _usage(error)
    except TokenproxyError as error:
        _traceback(error, told)
        return tell(error, option=told.option)
    except (click.Abort, KeyboardInterrupt):
        _write("tokenproxy: interrupted.")
        return INTERRUPTED
    except OSError as error:
        return _system_error(error, told)
    except Exception as error:  # noqa: BLE001 - the top-level loop of a command
        return _unexpected(error, told)


def _system_error(error: OSError, told: Told) -> int:
    """Of our output alone; every other one is told by the part that it happened to."""
    left = isinstance(error, BrokenPipeError)
    if not left and (error.errno not in _OUTPUT_FULL or error.filename is not None):
        return _unexpected(error, told)
    # Else Python tries again at exit to write what is left, and complains in its own words.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if left:  # `tokenproxy status | head -1`: nobody reads on, which is no failure to tell
        return 1
    return tell(TokenproxyError(f"the output cannot be written: {error.strerror}", next_step=_MAKE_ROOM))


def tell(error: TokenproxyError, *, option: str = "") -> int:
    """One sentence and the next step, on standard error; gives the exit code."""
    if isinstance(error, ConfigError):
        for line in config_lines(error):
            _write(line)
    else:
        _write(f"tokenproxy: {_sentence(error.message)}")
    _write(f"Next:  {with_option(error.next_step or _fallback(error), option)}")
    return error.exit_code


def _fallback(error: TokenproxyError) -> str:
    """No error without a next step, whoever raised it."""
    if isinstance(error, ConfigError):
        return "correct it, then: tokenproxy check"
    if isinstance(error, AccountError):
        return f"tokenproxy status {error.account}"
    return "tokenproxy check"


def config_lines(error: ConfigError) -> list[str]:
    """The file, how many problems, and each with its key and line."""
    from pathlib import Path

    source = shown(Path(error.source)) if error.source.startswith("/") else error.source
    if len(error.problems) == 1 and not error.problems[0].path:  # about the file as a whole
        only = error.problems[0]
        line = f", line {only.line}" if only.line is not None else ""
        return [f"tokenproxy: {source}{line}: {_sentence(only.message)}"]
    count = counted(len(error.problems), "problem")
    return [f"tokenproxy: {source}: {count}", *problem_lines(asdict(each) for each in error.problems)]


def _usage(error: click.ClickException) -> int:
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    _write(f"tokenproxy: {_sentence(error.format_message())}")
    _write(f"Next:  {ctx.command_path if ctx else PROGRAM} --help")
    return error.exit_code


def _unexpected(error: Exception, told: Told) -> int:
    """Its text may hold anything, so it is shown only where a person asked for it."""
    _traceback(error, told)
    _write(f"tokenproxy: a mistake in tokenproxy itself ({type(error).__name__}).")
    _write("Next:  run it again with --verbose and report what it shows")
    return 1


def _traceback(error: BaseException, told: Told) -> None:
    if not told.verbose:
        return
    import traceback

    from tokenproxy import log

    _write(log.redact("".join(traceback.format_exception(error))).rstrip())


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _write(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody to tell; the exit code still says it
        return
