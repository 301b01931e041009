"""``check``: what the config says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tokenproxy.cli.command import Call, command, load
from tokenproxy.cli.present import counted, problem_lines, table
from tokenproxy.cli.serving import target_of, url_of
from tokenproxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.doctor import Finding

WRONG = 2
AMISS = 1
"""The config is right, and somebody whom it names is not as it says."""


@command("check", json=True)
@click.option(
    "--online",
    is_flag=True,
    help="Ask the providers, the upstreams and the store as well, with no credential.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=120),
    default=5.0,
    show_default=True,
    help="Seconds for each that --online asks; all at once.",
)
def check(call: Call, *, online: bool, timeout: float) -> int:
    """
    Tell all that is wrong with the config at once.

    Reads every secret and certificate that it names, too. Nothing is changed, and without --online nothing is sent anywhere. Exit code 2 if there are problems,
    1 if only --online finds some; warnings alone are 0.
    """
    try:
        config = load(call)
    except ConfigError as error:
        code = _report(call, None, error.problems)
        if error.next_step:
            call.out.note(call.step(f"Next:  {error.next_step}"))
        return code
    problems = _beyond_the_file(config)
    if not online or problems:
        return _report(call, config, problems)
    from tokenproxy import doctor
    from tokenproxy.cli.doctoring import examined

    findings = examined(call, config, patience=timeout, checks=doctor.ONLINE)
    return _report(call, config, problems, findings)


def _beyond_the_file(config: Config) -> list[Problem]:
    from tokenproxy.doctor.files import beyond_the_file

    return [problem for _, problem in beyond_the_file(config, os.environ)]


def _mixable(config: Config) -> Iterator[Problem]:
    from tokenproxy.doctor.files import mixable

    return mixable(config)


def _unfilled(call: Call) -> Iterator[Problem]:
    """What ``init`` left to a person, in a file with mistakes as well."""
    with contextlib.suppress(OSError):
        for number, line in enumerate(call.config.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.rstrip().endswith("# CHANGE ME"):
                yield Problem(line.partition("=")[0].strip(), "is still marked CHANGE ME", number)


def _doubts(config: Config) -> Iterator[Problem]:
    """What ``serve`` would stumble over here; warnings, since it may run elsewhere and as somebody else."""
    yield from _mixable(config)
    if config.store.database:
        return
    store = config.store.path
    folder = store.parent
    if not folder.is_dir():
        yield Problem("store.url", f"there is no folder {folder}, and serve does not make it")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Problem("store.url", f"this user may not write to the folder {folder}, as SQLite must")
    elif store.exists() and not os.access(store, os.R_OK | os.W_OK):
        yield Problem("store.url", f"this user may not read and write {store}")


def _report(
    call: Call, config: Config | None, problems: Sequence[Problem], findings: Sequence[Finding] | None = None
) -> int:
    """``findings``: what --online brought; None where nobody was asked."""
    warnings = [*_unfilled(call)]
    if config is not None:
        warnings = [*config.warnings, *warnings, *_doubts(config)]
    amiss = any(each.level == "bad" for each in findings or ())
    code = WRONG if problems else AMISS if amiss else 0
    callbacks = _callbacks(config) if config is not None else {}
    if call.json:
        call.out.json(
            {
                "config": str(call.config),
                "ok": not problems and not amiss,
                "problems": [asdict(each) for each in problems],
                "warnings": [asdict(each) for each in warnings],
                "callbacks": callbacks,
                **({} if findings is None else {"findings": [asdict(each) for each in findings]}),
            }
        )
        return code
    if problems:
        call.out.result(f"{call.config}: {counted(len(problems), 'problem')}")
        _lines(call, problems)
    elif config is not None:
        _well(call, config, callbacks)
    if warnings:
        call.out.result(f"{call.out.mark('warn')} {counted(len(warnings), 'warning')}")
        _lines(call, warnings)
    if findings is not None:
        from tokenproxy.cli.doctoring import show

        show(call, findings)
    if problems:
        call.out.say("Nothing was changed. Settings: tokenproxy explain config")
    return code


def _lines(call: Call, problems: Sequence[Problem]) -> None:
    for line in problem_lines(asdict(each) for each in problems):
        call.out.result(line)


def _well(call: Call, config: Config, callbacks: Mapping[str, str]) -> None:
    accounts, routes = counted(len(config.accounts), "account"), counted(len(config.routes), "route")
    call.out.done(f"{call.config}   {accounts}, {routes}")
    _routes(call, config)
    for account, address in callbacks.items():
        call.out.say(f"  Register this address: {address}   (account {account}, at its provider)")


def _callbacks(config: Config) -> dict[str, str]:
    from tokenproxy.doctor.listeners import callback_addresses

    return callback_addresses(config)


def _routes(call: Call, config: Config) -> None:
    rows = [
        (
            route.name,
            url_of(
                route, config.server.listen[0].address, secure=bool(config.server.listen[0].tls.cert_file)
            ),
            "->",
            target_of(route),
            f"account {route.account}",
        )
        for route in config.routes
    ]
    if rows:
        call.out.say(table(rows, indent="  "))
