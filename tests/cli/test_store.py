"""``store backup``, ``verify`` and ``migrate``, as people type them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Setup
from tests.cli.program import serving
from tests.stores.clusters import sql


async def logged_in(setup: Setup) -> None:
    ended = await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("running", [False, True], ids=["offline", "running"])
async def test_a_backup_can_be_made_and_the_store_looked_over_at_any_time(
    setup: Setup, tmp_path: Path, *, running: bool
) -> None:
    """A backup that needs the service stopped is a backup that nobody makes."""
    await logged_in(setup)
    copy = tmp_path / "copy.db"
    if running:
        async with serving(setup.config):
            made = await setup.run("store", "backup", str(copy))
            looked = await setup.run("store", "verify", "--json")
    else:
        made = await setup.run("store", "backup", str(copy))
        looked = await setup.run("store", "verify", "--json")
    again = await setup.run("store", "backup", str(copy))

    assert made.code == 0, made.err
    assert "1 account" in made.out
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert json.loads(looked.out) == {
        "ok": True, "accounts": 1, "with_tokens": 1, "in_doubt": 0, "values": 0, "unreadable": [], "damage": "",
    }  # fmt: skip
    assert again.code == 5
    assert "is there already" in again.err
    setup.config.write_text(setup.config.read_text().replace("sqlite:tokenproxy.db", "sqlite:copy.db"))
    renewed = await setup.run("refresh", "books")
    assert renewed.code == 0, renewed.err


async def test_a_login_moves_to_a_database_and_the_file_says_where_it_is(setup: Setup, dsn: str) -> None:
    """An old replica that went on with the file would spend a refresh token that is spent."""
    await logged_in(setup)
    moved = await setup.run("store", "migrate", "--to", dsn, "--json")
    old = await setup.run("refresh", "books")
    setup.config.write_text(
        setup.config.read_text().replace('"sqlite:tokenproxy.db"', f'"{dsn}"\nkey = "file:tokenproxy.key"')
    )
    looked = await setup.run("store", "verify")
    renewed = await setup.run("refresh", "books")

    assert moved.code == 0, moved.err
    assert json.loads(moved.out)["accounts"] == 1
    assert old.code == 5
    assert "were moved to postgresql://" in old.err
    assert "1 account, 1 with tokens" in looked.out
    assert renewed.code == 0, renewed.err
    assert await sql(dsn, "SELECT account, gen FROM account") == [("books", 2)]


async def test_a_store_cannot_be_moved_away_from_a_running_serve(setup: Setup, dsn: str) -> None:
    """It would go on with what is spent elsewhere."""
    await logged_in(setup)
    async with serving(setup.config):
        moved = await setup.run("store", "migrate", "--to", dsn)
    assert moved.code == 5
    assert "another tokenproxy has the store" in moved.err
    assert (await setup.run("refresh", "books")).code == 0


async def test_where_to_move_is_judged_like_the_config(setup: Setup) -> None:
    """An address that cannot be one is told, and nothing is changed."""
    await logged_in(setup)
    moved = await setup.run("store", "migrate", "--to", "mysql://db/x")
    assert moved.code == 2
    assert "must name a file" in moved.err


async def test_a_row_that_does_not_open_is_named(setup: Setup) -> None:
    """With the command that mends it, and an exit code for whoever watches."""
    import sqlite3

    await logged_in(setup)
    connection = sqlite3.connect(setup.config.parent / "tokenproxy.db", isolation_level=None)
    connection.execute("UPDATE account SET sealed = x'01020304'")
    connection.close()

    looked = await setup.run("store", "verify")

    assert looked.code == 5
    assert "books does not open" in looked.out
    assert "tokenproxy login books" in looked.out
