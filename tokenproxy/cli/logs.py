"""``logs``: the JSON log as a person reads it, from a pipe, a file or the running ``serve``."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli.command import ACCOUNT, ROUTE, Call, UnusableError, command, operate
from tokenproxy.cli.loglines import LEVELS, Shown, Wanted, moment_of, status_of
from tokenproxy.errors import NotRunningError

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.offline import OperatorFace

_WAIT: Final = 30
"""Seconds for which ``serve`` is asked to wait for more lines."""
_LOOK: Final = 0.25
"""Seconds between two looks at a file that is followed."""
_LONGEST: Final = 1024 * 1024


def _checked(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """An option's value by one of the readers, whose ``ValueError`` is a mistake on the line."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            return tuple(read(each) for each in value) if isinstance(value, tuple) else value and read(value)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return callback


@command("logs", json=True)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False), required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--route", type=ROUTE, multiple=True, help="Only of this route; may be given several times.")
@click.option("--account", type=ACCOUNT, multiple=True, help="Only of this account and its logins.")
@click.option(
    "--status",
    multiple=True,
    metavar="5xx",
    callback=_checked(status_of),
    help="Only requests with this status, or of this class.",
)
@click.option(
    "--event", multiple=True, metavar="NAME", help="Only this event; tokenproxy explain lists them."
)
@click.option("--level", type=click.Choice(list(LEVELS)), help="Only of this level and above.")
@click.option(
    "--since",
    metavar="10m",
    callback=_checked(moment_of),
    help="Only what is not older: 30s, 10m, 2h, 1d, or a time.",
)
def logs(
    call: Call,
    *,
    file: Path | None,
    follow: bool,
    route: tuple[str, ...],
    account: tuple[str, ...],
    status: tuple[Any, ...],
    event: tuple[str, ...],
    level: str | None,
    since: Any,
) -> None:
    """
    Show the log as a person reads it.

    \b
      tokenproxy logs -f                            of the running serve
      kubectl logs deploy/gateway | tokenproxy logs
      tokenproxy logs -f --route crm --status 5xx
      tokenproxy logs serve.log --since 2h

    From FILE (- is standard input), else from a pipe, else the last lines of the running serve.
    """  # noqa: D301 - \b is click's
    wanted = Wanted(
        routes=route, accounts=account, statuses=status, events=_known(event), level=level, since=since
    )
    show = _shower(call, wanted)
    if file is not None and str(file) != "-":
        _from_file(file, show, follow=follow)
    elif file is not None or _is_piped():
        for line in sys.stdin.buffer:
            show(line.decode(errors="replace"))
    else:
        _from_serve(call, show, follow=follow)


def _known(events: tuple[str, ...]) -> tuple[str, ...]:
    from difflib import get_close_matches

    from tokenproxy import log

    for each in events:
        if each not in log.EVENTS:
            near = get_close_matches(each, log.EVENTS, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise UnusableError(f"no event is called {each!r}{hint}", next_step="tokenproxy explain")
    return events


def _shower(call: Call, wanted: Wanted) -> Callable[[str], None]:
    """Prints a line that is wanted; one that is no JSON of ours as it is, unless something is looked for."""
    shown = Shown(call.out, step=call.step)

    def show(line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "event" not in entry:
            if line.strip() and not wanted.narrow and not call.json:
                call.out.result(shown.plain(line))
            return
        if wanted.matches(entry):
            call.out.result(json.dumps(entry, separators=(",", ":")) if call.json else shown.line(entry))

    return show


def _is_piped() -> bool:
    """Whether somebody sends something: a pipe or a file, not a terminal, nor the nothing of a cron job."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


# -- a file ------------------------------------------------------------------------------------------------------------


def _from_file(path: Path, show: Callable[[str], None], *, follow: bool) -> None:
    try:
        for line in _lines_of(path, follow=follow):
            show(line)
    except OSError as error:
        raise UnusableError(
            f"{path} cannot be read: {error.strerror}", next_step="tokenproxy logs FILE, or: tokenproxy logs"
        ) from None


def _lines_of(path: Path, *, follow: bool) -> Iterator[str]:
    """As ``tail -F`` does it: a file that a rotation put in the place of this one is gone on with."""
    file = path.open("rb")
    rest = b""
    try:
        while True:
            piece = file.read(_LONGEST)
            if piece:
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
                continue
            if not follow:
                break
            if _replaced(path, file.fileno()):
                file.close()
                file = path.open("rb")
                continue
            time.sleep(_LOOK)
    finally:
        file.close()
    if rest:
        yield rest.decode(errors="replace")


def _replaced(path: Path, descriptor: int) -> bool:
    """Whether another file is there now; one that is away for a moment is waited for."""
    try:
        now = path.stat()
    except OSError:
        return False
    return not os.path.samestat(now, os.fstat(descriptor))


# -- the running serve -------------------------------------------------------------------------------------------------


def _from_serve(call: Call, show: Callable[[str], None], *, follow: bool) -> None:
    async def work(_: Config, face: OperatorFace) -> None:
        after = 0
        while True:
            try:
                told = await face.logs(after=after, wait=_WAIT if follow and after else 0)
            except NotRunningError:
                if not after:
                    raise
                call.out.note("serve has ended.")
                return
            if told["missed"] and follow:
                call.out.note(f"... {told['missed']} lines came too fast and are gone ...")
            for line in told["lines"]:
                show(line)
            after = told["next"]
            if not follow:
                return

    try:
        operate(call, work, create=False)
    except NotRunningError as error:
        error.next_step = "tokenproxy serve   (a file or a pipe is read without one: tokenproxy logs FILE)"
        raise
