"""``key new`` and ``key rotate``: the key that seals the store; ``key password``: what a caller's password is kept as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenproxy.cli.command import KEEP_A_COPY, Call, command, load, operate, shown
from tokenproxy.cli.present import counted
from tokenproxy.errors import StoreError, TokenproxyError

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.offline import OperatorFace


@click.group("key", short_help="Make the store's key, seal everything anew, hash a caller's password")
def key() -> None:
    """Make the store's key, seal everything anew, or hash a caller's password."""


@command("new", json=True)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def new(call: Call, *, file: Path | None) -> None:
    """
    Make a key file, mode 0600.

    The one that store.key in the config names, or FILE.

    A file that is there already is never changed; key rotate replaces a key.
    """
    from tokenproxy import parts

    path = file if file is not None else _path_of(load(call))
    key_id = parts.new_key_file(path)
    if call.json:
        call.out.json({"path": str(path.absolute()), "key_id": key_id})
        return
    call.out.say(f"wrote  {shown(path)}   key id {key_id}, {KEEP_A_COPY}")


def _path_of(config: Config) -> Path:
    store, path = config.store, config.store.keys[0].path
    if path is None:
        raise StoreError(
            "store.key in the config is no file that could be made here", next_step="tokenproxy key new FILE"
        )
    if not path.exists() and not store.database and store.path.exists():
        raise StoreError(
            f"the store {store.path} is there and was sealed with another key, which a new one cannot open",
            next_step=f"put {path} back from its backup, or move the store away and log in again",
        )
    return path


@command("rotate", json=True)
def rotate(call: Call) -> None:
    """
    Seal every login anew under the first key.

    With a single key file, a new key is made in it and the old one goes when the last login is done. Broken off
    anywhere, nothing is lost: run it again.
    """

    async def work(_: Config, face: OperatorFace) -> dict[str, Any]:
        return await face.rotate_keys()

    answer = operate(call, work)
    if call.json:
        call.out.json(answer)
        return
    count = counted(answer["resealed"], "login")
    call.out.done(f"{count} sealed anew, key id {answer['key_id']}")
    call.out.say("  Keep a copy of the new key; backups of the store from before today need the old one.")


@command("password")
def password(call: Call) -> None:
    """
    Print the hash of a caller's password, for password_hash under [callers.NAME].

    Reads the password from standard input, its first line.
    """
    import secrets
    import sys

    from tokenproxy.core.passwords import PasswordHash

    line = sys.stdin.readline(4096).rstrip("\r\n")
    if not line:
        raise TokenproxyError(
            "there is no password on standard input", next_step="tokenproxy key password < FILE"
        )
    call.out.result(str(PasswordHash.made(line, salt=secrets.token_bytes(16))))


key.add_command(new)
key.add_command(password)
key.add_command(rotate)
