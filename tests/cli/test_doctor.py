"""``doctor`` as a person runs it: beside a running serve, beside none, and on a house that is not well."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Here, Setup
from tests.cli.program import serving
from tests.simulators import free_port, write_config
from tests.stores.clusters import with_options
from tokenproxy import doctor
from tokenproxy.admin.client import AdminClient
from tokenproxy.cli.doctoring import lines_of
from tokenproxy.cli.present import Printer
from tokenproxy.doctor.finding import bad, good, warn


@pytest.mark.parametrize("running", [False, True], ids=["alone", "running"])
async def test_a_house_that_is_well(setup: Setup, *, running: bool) -> None:
    """Logged in, reachable, nothing taken: marks, sentences, and exit code 0."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    if running:
        async with serving(setup.config):
            ended = await setup.process("doctor")
    else:
        ended = await setup.process("doctor")

    assert ended.code == 0, ended.out
    assert "✗" not in ended.out
    assert "✓ config           config.toml, 1 account, 1 route" in ended.out
    assert "✓ store            1 login, all of it opens" in ended.out
    assert "✓ logins           1 of 1 well" in ended.out
    assert f"✓ provider {setup.provider.authority}   token endpoint answers in" in ended.out
    assert f"✓ upstream {setup.api.authority}   reachable" in ended.out
    assert ("serve runs, process" in ended.out) is running


async def test_what_it_asks_of_a_provider_changes_nothing(setup: Setup) -> None:
    """No token request that could count, and no credential."""
    grant = setup.provider.new_grant()
    await setup.run("import", "books", given=json.dumps(grant))
    await setup.run("doctor")

    assert [call.method for call in setup.provider.requests] == ["GET"]
    assert setup.provider.requests[0].query == ""
    assert not setup.provider.requests[0].body
    assert (await setup.run("refresh", "books")).code == 0


async def test_a_house_that_is_not_well(setup: Setup) -> None:
    """Each problem with its remedy, the count below, exit code 1; and the same as JSON."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    setup.provider.revoke_grant()
    await setup.run("refresh", "books")
    (setup.config.parent / "tokenproxy.key").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = setup.config.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"', 1)
        setup.config.write_text(text)
        ended = await setup.run("doctor", "--offline")
        told = json.loads((await setup.run("doctor", "--offline", "--json")).out)

    assert ended.code == 1
    assert f"✗ listener         127.0.0.1:{port} is in use by process " in ended.out
    assert "Set server.listen, or stop it." in ended.out
    assert "✗ login books      the provider ended the grant of account books" in ended.out
    assert f"tokenproxy login books --config {setup.config}" in ended.out
    assert "! key              others may read tokenproxy.key (mode 0644)" in ended.out
    assert "2 problems, " in ended.out
    assert told["problems"] == 2
    assert {"listener_taken", "login_required", "key_readable"} <= {each["code"] for each in told["findings"]}
    assert {each["code"] for each in told["findings"]} <= {"", *doctor.CODES}


async def test_a_store_that_is_locked_or_sealed_with_another_key(setup: Setup) -> None:
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    key = setup.config.parent / "tokenproxy.key"
    key.rename(key.with_suffix(".old"))
    gone = await setup.run("doctor", "--offline")
    await setup.run("key", "new", str(key))
    other = await setup.run("doctor", "--offline")

    assert gone.code == 1
    assert "but its key" in gone.out
    assert other.code == 1
    assert "✗ store " in other.out


async def test_a_granted_scope_that_is_narrower_is_told(setup: Setup) -> None:
    """Somebody unticked a box at the provider; the 403 of an upstream would be the first to say so."""
    setup.config.write_text(
        setup.config.read_text().replace(
            'client_secret = "file', 'scopes = ["read", "write"]\nclient_secret = "file'
        )
    )
    answer = setup.provider.new_grant() | {"scope": "read"}
    await setup.run("import", "books", given=json.dumps(answer))
    alone = await setup.run("doctor", "--offline")
    async with serving(setup.config):
        beside = await setup.run("doctor", "--offline")
        status = json.loads((await setup.run("status", "books", "--json")).out)

    for ended in (alone, beside):
        assert "! login books      was granted less than was asked for: write is missing" in ended.out
    assert (status["scope"], status["scope_missing"]) == ("read", ["write"])


async def test_a_refresh_token_that_ends_soon_is_told(setup: Setup) -> None:
    answer = setup.provider.new_grant() | {"refresh_token_expires_in": 7200}
    await setup.run("import", "books", given=json.dumps(answer))
    ended = await setup.run("doctor", "--offline")

    assert "! login books      its refresh token ends in 2 h" in ended.out


def test_a_config_with_mistakes_is_exit_code_2(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text("[accounts.crm]\nprovidr = 3\n")
    told = here("doctor", "--json")
    said = here("doctor")

    assert (told.code, said.code) == (2, 2)
    assert [each["code"] for each in json.loads(told.out)["findings"]] == ["config_invalid"]
    assert said.err.endswith("Next:  correct it, then: tokenproxy check\n")


def test_before_the_first_start_nothing_is_made(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text(
        '[server]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'
        '[accounts.crm]\nprovider = "askara"\nclient_id = "x"\nclient_secret = "env:S"\n'
        '[routes.crm]\nupstream = "https://api.askara.ai"\naccount = "crm"\n'
    )
    ended = here("doctor", "--offline", env={"S": "planted-secret-0123"})

    assert ended.code == 0
    assert "! login crm        nobody has logged in yet" in ended.out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.toml"]


async def test_a_database_that_may_lose_what_it_confirmed(setup: Setup, dsn: str, tmp_path: Path) -> None:
    """PostgreSQL is reachable, and what it is set to is looked at."""
    role = with_options(dsn, options="-c synchronous_commit=off")
    key = tmp_path / "tokenproxy.key"
    await setup.run("key", "new", str(key))
    fine, unsafe = (
        write_config(
            tmp_path, setup.provider, setup.api, store=address, store_extra='key = "file:tokenproxy.key"', name=name,
        )
        for name, address in (("fine.toml", dsn), ("unsafe.toml", role))
    )  # fmt: skip
    well = await asyncio.to_thread(setup._here, "doctor", "--config", str(fine))
    ill = await asyncio.to_thread(setup._here, "doctor", "--config", str(unsafe))

    away = await asyncio.to_thread(setup._here, "doctor", "--offline", "--config", str(fine))

    assert "which was not asked" in away.out
    assert "✓ database " in well.out
    assert "durable, no standby" in well.out
    assert ill.code == 1
    assert "synchronous_commit = off" in ill.out


async def test_check_online_adds_what_others_say(setup: Setup) -> None:
    """check stays what it was; --online asks the providers and upstreams too."""
    well = await setup.run("check", "--online")
    setup.api.refuse_connections = True
    ill = await setup.run("check", "--online")
    offline = await setup.run("check")
    told = json.loads((await setup.run("check", "--online", "--json")).out)

    assert well.code == 0, well.out
    assert f"✓ provider {setup.provider.authority}" in well.out
    assert (ill.code, offline.code) == (1, 0)
    assert f"✗ upstream {setup.api.authority}" in ill.out
    assert not told["ok"]
    assert "unreachable" in {each["code"] for each in told["findings"]}


def test_lines_look_as_promised() -> None:
    """The names in one column, and what follows below the sentence."""
    out = Printer()
    volatile = warn("store_volatile", "store", "lies on overlayfs.\nIt is lost.", "Mount a volume.")
    taken = bad(
        "listener_taken",
        "listener",
        "127.0.0.1:8080 is in use by process 4711 (nginx).",
        "Set server.listen, or stop it.",
    )

    assert lines_of(volatile, out) == [
        "! store            lies on overlayfs.",
        "                   It is lost.",
        "                   Mount a volume.",
    ]
    assert lines_of(taken, out) == [
        "✗ listener         127.0.0.1:8080 is in use by process 4711 (nginx). Set server.listen, or stop it."
    ]
    assert lines_of(good("provider login.example.com", "TLS ok"), out) == [
        "✓ provider login.example.com   TLS ok"
    ]


async def test_a_second_process_that_is_no_serve_is_named_for_what_it_is(setup: Setup) -> None:
    port = free_port()
    text = setup.config.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"', 1)
    setup.config.write_text(text)
    async with serving(setup.config):
        own = await setup.run("doctor", "--offline")

    assert f"server.listen: 127.0.0.1:{port}, serve has it" in own.out
    assert own.code == 0, own.out


async def test_the_running_serve_looks_at_itself(setup: Setup) -> None:
    """What its pages show: the same checks, from inside."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    async with serving(setup.config):
        client = AdminClient(setup.config.parent / "tokenproxy.db.sock")
        found = (await client.examine())["findings"]

    assert {"version", "config", "store", "listener", "clock"} <= {each["name"] for each in found}
    assert not [each for each in found if each["level"] == "bad"], found
    assert set(found[0]) == {"level", "name", "sentence", "remedy", "code"}
