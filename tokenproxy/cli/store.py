"""``store backup``, ``store verify`` and ``store migrate``: copies of all logins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenproxy.cli.command import Call, command, load, operate, quiet_log, shown
from tokenproxy.cli.present import counted

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.offline import OperatorFace

UNREADABLE = 5


@click.group("store", short_help="Back the store up, look it over, or move it")
def store() -> None:
    """Back the store up, look it over, or move it."""


@command("backup", json=True)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(call: Call, *, file: Path) -> None:
    """
    Copy the store into FILE, which must not be there yet.

    Also while serve runs. FILE is a SQLite store of its own, sealed with the same key, whatever the store is: name it
    in store.url to use it, or move it into a database with store migrate.
    """
    path = str(file.absolute())

    async def work(_: Config, face: OperatorFace) -> dict[str, Any]:
        return await face.backup(path)

    answer = operate(call, work, create=False)
    if call.json:
        call.out.json(answer)
        return
    call.out.done(
        f"wrote {shown(Path(answer['path']))}   {counted(answer['accounts'], 'account')}, mode 0600"
    )
    call.out.say("  It is worth nothing without the store's key: keep a copy of that elsewhere.")


@command("verify", json=True)
def verify(call: Call) -> int:
    """
    Open every row of the store and count.

    Also while serve runs; nothing is changed. Exit code 5 where something does not open.
    """

    async def work(_: Config, face: OperatorFace) -> dict[str, Any]:
        return await face.verify()

    answer = operate(call, work, create=False)
    if call.json:
        call.out.json(answer)
    elif answer["ok"]:
        call.out.done(
            f"{counted(answer['accounts'], 'account')}, {answer['with_tokens']} with tokens, {answer['in_doubt']} in doubt, "
            f"{counted(answer['values'], 'value')}: all of it opens"
        )
    else:
        for name in answer["unreadable"]:
            call.out.result(
                f"{call.out.mark('bad')} {name} does not open   {call.step(f'tokenproxy login {name}')}"
            )
        if answer["damage"]:
            call.out.result(f"{call.out.mark('bad')} damaged: {answer['damage']}; restore it from a backup")
    return 0 if answer["ok"] else UNREADABLE


@command("migrate", json=True)
@click.option("--to", required=True, help="The store to move to, as store.url would name it.")
def migrate(call: Call, *, to: str) -> None:
    """
    Move every login to another store.

    From a SQLite file to PostgreSQL or back, while no serve runs on either. The old store then says where its logins are
    and is not used any more: two stores that both go on with a login would spend its refresh token twice. Broken off
    anywhere, run it again.
    """
    import asyncio
    import os

    from tokenproxy import offline

    config = load(call)
    quiet_log(verbose=call.verbose)
    answer = asyncio.run(offline.migrate(config, to, environ=os.environ))
    if call.json:
        call.out.json(answer)
        return
    call.out.done(f"{counted(answer['accounts'], 'account')} moved to {answer['to']}")
    call.out.say("  Let store.url name it now; the old store is not used any more.")


store.add_command(backup)
store.add_command(verify)
store.add_command(migrate)
