"""``doctor``, and what ``check --online`` adds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli.command import Call, command, load, quiet_log
from tokenproxy.cli.present import Printer, counted, problem_lines
from tokenproxy.errors import ConfigError

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.doctor import Check, Finding

PROBLEMS: Final = 1
_LONGEST: Final = 100
"""Letters of a sentence with its remedy behind it; a longer one has it below."""
_NAME: Final = 15
"""Columns of a finding's name."""


@command("doctor", json=True)
@click.option("--offline", is_flag=True, help="Ask no provider, upstream or database.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=120),
    default=5.0,
    show_default=True,
    help="Seconds for each check; all run at once.",
)
def doctor(call: Call, *, offline: bool, timeout: float) -> int:
    """
    Look at everything that commonly breaks, and say the remedy.

    Changes nothing and sends no credential. Exit code 1 if there are problems, 2 if the config has mistakes; warnings alone are 0.
    """
    try:
        config = load(call)
    except ConfigError as error:
        if call.json:
            call.out.json({"findings": [_config_finding(error)], "problems": 1, "warnings": 0})
            return error.exit_code
        raise
    findings = examined(call, config, patience=timeout, offline=offline)
    return report(call, findings)


def examined(
    call: Call,
    config: Config,
    *,
    patience: float = 5.0,
    offline: bool = False,
    checks: Sequence[Check] | None = None,
) -> Sequence[Finding]:
    """What the checks find, through a running ``serve`` where there is one."""
    import asyncio

    from tokenproxy import doctor as doctoring
    from tokenproxy import offline as offline_face

    quiet_log(verbose=call.verbose)

    @asynccontextmanager
    async def visit() -> AsyncIterator[doctoring.House]:
        async with offline_face.operations(config, environ=os.environ, create=False) as face:
            yield face

    async def work() -> Sequence[Finding]:
        case = doctoring.Case(
            config=config,
            environ=os.environ,
            visit=visit,
            running=await offline_face.running(config, patience=patience),
            patience=patience,
            offline=offline,
        )
        return await doctoring.examine(case, checks=checks or doctoring.CHECKS)

    return asyncio.run(work())


def report(call: Call, findings: Sequence[Finding]) -> int:
    problems = sum(each.level == "bad" for each in findings)
    warnings = sum(each.level == "warn" for each in findings)
    if call.json:
        call.out.json(
            {"findings": [asdict(each) for each in findings], "problems": problems, "warnings": warnings}
        )
    else:
        show(call, findings)
        said = [
            counted(count, noun) for count, noun in ((problems, "problem"), (warnings, "warning")) if count
        ]
        call.out.say(", ".join(said) or "Nothing is wrong.")
        codes = sorted({each.code for each in findings if each.code})
        if codes:
            call.out.note(f"More of each:  tokenproxy explain {codes[0]}")
    return PROBLEMS if problems else 0


def show(call: Call, findings: Iterable[Finding]) -> None:
    for each in findings:
        if call.out.quiet and each.level == "good":
            continue
        for line in lines_of(each, call.out):
            call.out.result(call.step(line))


def lines_of(finding: Finding, out: Printer) -> list[str]:
    """``! store            tokenproxy.db lies on overlayfs``, and below it the remedy in the same column."""
    first, *more = finding.sentence.split("\n")
    told = [*more, finding.remedy] if finding.remedy else more
    if told == [finding.remedy] and first.endswith(".") and len(first) + len(finding.remedy) < _LONGEST:
        first, told = f"{first} {finding.remedy}", []
    indent = " " * (_NAME + 4)
    name = f"{finding.name:<{_NAME}}  " if len(finding.name) <= _NAME else f"{finding.name}   "
    return [f"{out.mark(finding.level)} {name}{first}", *(f"{indent}{line}" for line in told)]


def _config_finding(error: ConfigError) -> dict[str, Any]:
    lines = [line.strip() for line in problem_lines(asdict(each) for each in error.problems)]
    return {
        "level": "bad",
        "name": "config",
        "sentence": "\n".join(lines),
        "remedy": error.next_step or "correct it, then: tokenproxy check",
        "code": "config_invalid",
    }
