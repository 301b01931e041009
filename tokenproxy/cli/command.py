"""What all commands have in common: their options, the config, and one call of the asynchronous parts."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from tokenproxy.cli import peek
from tokenproxy.cli.present import Printer
from tokenproxy.errors import TokenproxyError, UnknownAccountError

if TYPE_CHECKING:
    from tokenproxy.config import Config, StoreSettings
    from tokenproxy.offline import OperatorFace

CONFIG: Final = "config.toml"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What every command is told, whatever else it takes."""

    config: Path
    """As it was given, so that it is shown as it was given."""
    out: Printer
    json: bool = False
    verbose: bool = False
    option: str = ""
    """`` --config FILE`` as it was typed; empty where the next command finds the same file by itself."""

    def step(self, text: str) -> str:
        """A next step that means this config."""
        return with_option(text, self.option)


@dataclass(slots=True)
class Told:
    """What ``main`` must know of a call that failed."""

    verbose: bool = False
    option: str = ""


_STEP: Final = re.compile(
    r"tokenproxy (?:key (?:new|rotate)|(?:login|import|refresh|logout|rebind) [\w@./-]+|status(?: [\w@./-]+)?|serve|check|init|reload|stop|doctor|logs|store verify)\b"
)


def with_option(text: str, option: str) -> str:
    """``tokenproxy import crm < answer.json`` -> ``tokenproxy import crm --config FILE < answer.json``."""
    return _STEP.sub(lambda found: found[0] + option, text) if option else text


class UnusableError(TokenproxyError):
    """Something was given that cannot be used."""

    exit_code = 2


Body = Callable[..., int | None]


def command(name: str, *, json: bool = False, rest: bool = False) -> Callable[[Body], click.Command]:
    """
    A command whose function takes a ``Call`` and its own options, and gives an exit code (None: 0).

    ``rest``: from the first word on that is no option everything is an argument, as after ``--``.
    """

    def build(function: Body) -> click.Command:
        @functools.wraps(function)
        def run(**given: Any) -> int:
            call = Call(
                config=given.pop("config"),
                out=Printer(quiet=given.pop("quiet"), color=not given.pop("no_color")),
                json=given.pop("json", False),
                verbose=given.pop("verbose"),
                option=_option(click.get_current_context()),
            )
            told = click.get_current_context().find_object(Told)
            if told is not None:
                told.verbose, told.option = call.verbose, call.option
            return function(call, **given) or 0

        text = inspect.getdoc(function) or ""
        short = text.partition("\n")[0].rstrip(".:")
        settings = {"allow_interspersed_args": False} if rest else {}
        made: click.Command = click.command(name, help=text, short_help=short, context_settings=settings)(run)
        made.params += [each for each in _shared() if json or each.name != "json"]
        return made

    return build


def _option(ctx: click.Context) -> str:
    if ctx.get_parameter_source("config") is not click.core.ParameterSource.COMMANDLINE:
        return ""
    return f" --config {shlex.quote(str(ctx.params['config']))}"


def _shared() -> list[click.Option]:
    """Explicit variables: these mean the same for every command, so they are not called ``TOKENPROXY_STATUS_CONFIG``."""
    return [
        click.Option(
            ["--config"],
            type=click.Path(dir_okay=False, path_type=Path),
            default=CONFIG,
            envvar="TOKENPROXY_CONFIG",
            metavar="FILE",
            show_default=True,
            help="The config file.",
        ),
        click.Option(["--json"], is_flag=True, envvar="TOKENPROXY_JSON", help="Answer in JSON."),
        click.Option(
            ["--quiet"], is_flag=True, envvar="TOKENPROXY_QUIET", help="Print nothing but results and errors."
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            envvar="TOKENPROXY_NO_COLOR",
            help="No colour; NO_COLOR does the same.",
        ),
        click.Option(
            ["--verbose"],
            is_flag=True,
            envvar="TOKENPROXY_VERBOSE",
            help="Log what happens; show tracebacks.",
        ),
    ]


class Named(click.ParamType[str]):
    """An account, or a route, of the config; completed from it."""

    def __init__(self, section: str) -> None:
        """``accounts`` or ``routes``."""
        self.name = section.removesuffix("s")
        self._section = section

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        path = ctx.params.get("config") or os.environ.get("TOKENPROXY_CONFIG") or CONFIG
        names = peek.names(Path(path), self._section)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


ACCOUNT: Final = Named("accounts")
ROUTE: Final = Named("routes")


def account_argument(*, required: bool = True) -> Callable[[Body], Body]:
    return click.argument("account", type=ACCOUNT, required=required)


def load(call: Call) -> Config:
    """Raises ``ConfigError``."""
    from tokenproxy import config, dumps

    dumps.forbid()  # from here on there are secrets in it
    return config.load(call.config, os.environ)


def quiet_log(*, verbose: bool) -> None:
    """Commands say themselves what went wrong; the log would only say it a second time."""
    import logging

    from tokenproxy import log

    if verbose:
        log.setup("debug", "text")
    else:
        logging.getLogger().addHandler(logging.NullHandler())  # else Python prints warnings bare


def operate(call: Call, work: Callable[[Config, OperatorFace], Awaitable[T]], *, create: bool = True) -> T:
    """Do ``work`` with the running ``serve``, or with the store where there is none; see ``offline.operations``."""
    import asyncio

    from tokenproxy import offline

    config = load(call)
    quiet_log(verbose=call.verbose)
    key = config.store.keys[0].path
    had_key = key is None or key.exists()

    async def working() -> T:
        end_gently_on_sigterm()
        async with offline.operations(config, environ=os.environ, create=create) as face:
            if key is not None and not had_key and key.exists():
                call.out.note(f"wrote  {shown(key)}   {KEEP_A_COPY}")
            try:
                return await work(config, face)
            except UnknownAccountError as error:
                raise _unknown(error, config, running=face.running) from None

    try:
        return asyncio.run(working())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _unknown(error: UnknownAccountError, config: Config, *, running: bool) -> TokenproxyError:
    """The file may have an account that ``serve`` has not read yet; to be told that the config lacks it puzzles."""
    table = error.account.partition("/")[0]
    if not running or table not in config.accounts:
        return error
    return UnusableError(
        f"the running serve does not know account {table} yet: it has not read the config since",
        next_step="tokenproxy reload",
    )


def end_gently_on_sigterm() -> None:
    """As Ctrl-C does it: a renewal that was sent is waited for, and its rotated token stored, before we end."""
    import asyncio
    import signal
    import threading

    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


KEEP_A_COPY: Final = "mode 0600. Keep a copy: without it stored logins cannot be opened."


def shown_store(store: StoreSettings) -> str:
    """The store as a person knows it: a file's path, or a database without user and password."""
    return store.name if store.database else shown(store.path)


def shown(path: Path) -> str:
    """Relative where it lies below the current folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
