"""``check``: what the config says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tokenproxy.cli.command import Call, command, load
from tokenproxy.cli.present import counted, problem_lines, table
from tokenproxy.cli.serving import target_of, url_of
from tokenproxy.errors import ConfigError, Problem, StoreError, TokenproxyError

if TYPE_CHECKING:
    from tokenproxy.config import Config

WRONG = 2


@command("check", json=True)
def check(call: Call) -> int:
    """
    Tell all that is wrong with the config at once.

    Reads every secret and certificate that it names, too. Nothing is sent anywhere and nothing is changed. Exit code 2 if there are problems; warnings alone are 0.
    """
    try:
        config = load(call)
    except ConfigError as error:
        code = _report(call, None, error.problems)
        if error.next_step:
            call.out.note(call.step(f"Next:  {error.next_step}"))
        return code
    return _report(call, config, _beyond_the_file(config))


def _beyond_the_file(config: Config) -> list[Problem]:
    """What only shows when it is used: certificates, private keys, and the store's keys."""
    from tokenproxy import config as configs
    from tokenproxy import parts

    problems = []
    for check in (parts.check_tls, parts.check_keys):
        try:
            check(config)
        except TokenproxyError as error:
            problems.append(Problem("", error.message))
    path = config.store.keys[0].path
    if len(config.store.keys) == 1 and path is not None and not path.exists():
        if config.store.database:
            problems.append(
                Problem(
                    "store.key", f"there is no {path}; copy it from another replica, or: tokenproxy key new"
                )
            )
        elif config.store.path.exists():
            problems.append(
                Problem("store.key", f"the store {config.store.path} is there, but its key {path} is not")
            )
        return problems  # the first start makes it
    try:
        configs.read_keys(config.store, os.environ)
    except StoreError as error:
        problems.append(Problem("store.key", error.message.removeprefix("store.key ")))
    return problems


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


def _mixable(config: Config) -> Iterator[Problem]:
    """
    Providers that could be sent another one's code: all come back to one address, and nothing says whose it is.

    RFC 9700 section 4.4: an address for each account tells them apart, or ``iss`` in the answer does.
    """
    from tokenproxy.core.provider import AUTHORIZATION_CODE, CallbackPath

    shared = {
        account.provider.name: account.provider
        for account in config.accounts.values()
        if account.grant == AUTHORIZATION_CODE and account.provider.callback.path is CallbackPath.SHARED
    }
    for name, provider in shared.items():
        if len(shared) > 1 and not (provider.callback.iss and provider.issuer):
            others = ", ".join(sorted(shared.keys() - {name}))
            yield Problem(
                f"providers.{name}.callback.path",
                f"is shared with {others}, whose codes {name} could be sent: use another path, or callback.iss",
            )


def _report(call: Call, config: Config | None, problems: Sequence[Problem]) -> int:
    warnings = [*_unfilled(call)]
    if config is not None:
        warnings = [*config.warnings, *warnings, *_doubts(config)]
    code = WRONG if problems else 0
    callbacks = callback_addresses(config) if config is not None else {}
    if call.json:
        call.out.json(
            {
                "config": str(call.config),
                "ok": not problems,
                "problems": [asdict(each) for each in problems],
                "warnings": [asdict(each) for each in warnings],
                "callbacks": callbacks,
            }
        )
        return code
    out = call.out
    if problems:
        out.result(f"{call.config}: {counted(len(problems), 'problem')}")
        for line in problem_lines(asdict(each) for each in problems):
            out.result(line)
    elif config is not None:
        out.done(
            f"{call.config}   {counted(len(config.accounts), 'account')}, {counted(len(config.routes), 'route')}"
        )
        _routes(call, config)
        for account, address in callbacks.items():
            call.out.say(f"  Register this address: {address}   (account {account}, at its provider)")
    if warnings:
        out.result(f"{out.mark('warn')} {counted(len(warnings), 'warning')}")
        for line in problem_lines(asdict(each) for each in warnings):
            out.result(line)
    if problems:
        out.say("Nothing was changed. Settings: docs/config.md")
    return code


def callback_addresses(config: Config) -> dict[str, str]:
    """Account -> the address to register at its provider, where a browser logs it in and the address is known."""
    from tokenproxy.core.login import callback_address
    from tokenproxy.core.provider import AUTHORIZATION_CODE, IMPLICIT

    if config.admin.public_url.endswith(":0"):  # any free port, known when it is taken
        return {}
    return {
        name: callback_address(config.admin.public_url, account)
        for name, account in config.accounts.items()
        if account.grant in {AUTHORIZATION_CODE, IMPLICIT}
        and (account.provider.authorize_url or account.provider.issuer)
    }


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
