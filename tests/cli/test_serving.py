"""``serve`` and what is asked of it while it runs: start-up lines, reload, keys, health."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Setup
from tests.cli.program import Ended, run, serving, terminal
from tests.simulators import account_table, free_port
from tokenproxy.core.passwords import PasswordHash


async def test_on_a_terminal_serve_says_where_to_point_the_app(setup: Setup) -> None:
    """The first thing that a person needs, and the words that end it."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))

    def person() -> Ended:
        with terminal("serve", "--config", str(setup.config)) as screen:
            screen.until("Ctrl-C stops.")
            screen.type("\x03")
            return screen.ended()

    ended = await asyncio.to_thread(person)
    setup.printed += ended.out
    lines = ended.out.splitlines()

    assert ended.code == 0
    assert lines[0].startswith("tokenproxy 0.1.0   ")
    assert lines[0].endswith("tokenproxy.db (1 login)")
    assert f"->  {setup.api.url}" in lines[1]
    assert "token until" in lines[1]
    assert "dashboard, /metrics, /healthz" in lines[2]
    assert lines[3].startswith("The dashboard asks for the admin token: it is in the file /")
    assert lines[3].endswith("tokenproxy.db.admin-token.")
    assert Path(lines[3].partition("the file ")[2].removesuffix(".")).read_text().strip() not in ended.out
    assert "Point the app at http://127.0.0.1:" in ended.out
    assert "leave its Authorization header out." in ended.out


async def test_with_a_pipe_serve_writes_json_and_nothing_else(setup: Setup) -> None:
    """What collects logs reads a line at a time."""
    async with serving(setup.config) as serve:
        code = await asyncio.to_thread(serve.stop)

    assert code == 0
    assert all(json.loads(line)["event"] for line in serve.written.splitlines())
    assert '"event":"stopped"' in serve.written


async def test_a_second_serve_on_the_same_store_ends_with_one_sentence(setup: Setup) -> None:
    async with serving(setup.config):
        second = await setup.process("serve")

    told = [line for line in second.err.splitlines() if not line.startswith("{")]
    assert second.code == 5
    assert len(told) == 2
    assert "another tokenproxy has the store" in told[0]


async def test_reload_puts_a_good_file_in_force_and_tells_a_bad_one_s_mistakes(setup: Setup) -> None:
    text = setup.config.read_text()
    alone = await setup.run("reload")
    async with serving(setup.config):
        setup.config.write_text(f'{text}\n[routes.more]\nupstream = "{setup.api.url}"\naccount = "books"\n')
        good = await setup.run("reload")
        setup.config.write_text(f"{text}\n[routes.more]\nupstrem = 3\n")
        bad = await setup.run("reload")
        setup.config.write_text(text.replace("[server]", '[server]\nloop = "asyncio"'))
        restart = await setup.run("reload")

    assert alone.code == 6
    assert "Next:  tokenproxy serve" in alone.err
    assert (good.code, good.out) == (0, f"✓ {setup.config} is in force: 1 account, 2 routes\n")
    assert bad.code == 2
    assert "routes.more.upstrem" in bad.err
    assert "in force after a restart of serve only: server.loop" in restart.out


async def test_an_account_that_was_added_meanwhile_needs_a_reload(setup: Setup) -> None:
    """The file has it, the running ``serve`` does not yet; an account that neither has stays unknown."""
    more = account_table(setup.provider, "more").replace("more.secret", "books.secret")
    async with serving(setup.config):
        setup.config.write_text(f"{setup.config.read_text()}\n{more}\n")
        early = [await setup.run("login", "more", "--device"), await setup.run("status", "more/anna")]
        nobody = await setup.run("status", "nobody")
        await setup.run("reload")
        known = await setup.run("status", "more")

    for ended in early:
        assert ended.code == 2
        assert "serve does not know account more yet" in ended.err
        assert f"Next:  tokenproxy reload --config {setup.config}" in ended.err
    assert "there is no account nobody" in nobody.err
    assert known.code == 3


@pytest.mark.parametrize("running", [False, True], ids=["offline", "running"])
async def test_a_rotated_key_opens_what_the_old_one_sealed(setup: Setup, *, running: bool) -> None:
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    key = setup.config.parent / "tokenproxy.key"
    before = key.read_text()
    if running:
        async with serving(setup.config):
            rotated = await setup.run("key", "rotate")
    else:
        rotated = await setup.run("key", "rotate", "--json")
        assert json.loads(rotated.out)["resealed"] == 1
    renewed = await setup.run("refresh", "books")

    assert rotated.code == 0
    assert key.read_text() != before
    assert before.strip() not in key.read_text()
    assert renewed.code == 0, renewed.err


async def test_key_new_makes_one_and_never_a_second(setup: Setup, tmp_path: Path) -> None:
    """A new key beside an old store would hide that the right one is missing."""
    key = setup.config.parent / "tokenproxy.key"
    made = await setup.run("key", "new")
    again = await setup.run("key", "new")
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    text = key.read_text()
    key.unlink()
    lost = await setup.run("key", "new")
    beside = await setup.run("key", "new", str(tmp_path / "spare.key"))

    assert made.code == 0
    assert text.strip() not in made.out
    assert again.code == 5
    assert "is there already" in again.err
    assert lost.code == 5
    assert "from its backup" in lost.err
    assert not key.exists()
    assert beside.code == 0
    assert (tmp_path / "spare.key").stat().st_mode & 0o777 == 0o600


async def test_a_missing_key_is_one_sentence(setup: Setup) -> None:
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    (setup.config.parent / "tokenproxy.key").unlink()

    for words in (("status",), ("serve",)):
        ended = await setup.process(*words)
        assert ended.code == 5
        assert "its key" in ended.err


async def test_healthcheck_asks_whoever_serves_health(setup: Setup) -> None:
    port = free_port()
    text = setup.config.read_text()
    setup.config.write_text(
        text.replace('[admin]\nlisten = "127.0.0.1:0"', f'[admin]\nlisten = "127.0.0.1:{port}"')
    )
    dead = await setup.run("healthcheck")
    async with serving(setup.config):
        alive = await setup.run("healthcheck")
        ready = await setup.run("healthcheck", "--ready")

    assert dead.code == 1
    assert dead.err.startswith("tokenproxy: not well: nothing that speaks HTTP answers")
    assert alive.code == 0
    assert ready.code == 0


@pytest.mark.parametrize(
    ("text", "environ", "asked"),
    [
        ("", {}, "127.0.0.1:9100"),
        ('[admin]\nlisten = "127.0.0.1:1"\n', {}, "127.0.0.1:1"),
        ('[admin]\nlisten = "127.0.0.1:1"\n[metrics]\nlisten = "0.0.0.0:2"\n', {}, "0.0.0.0:2"),
        ('[metrics]\nlisten = ""\n[admin]\nlisten = "127.0.0.1:1"\n', {}, "127.0.0.1:1"),
        ("", {"TOKENPROXY_METRICS__LISTEN": "127.0.0.1:3"}, "127.0.0.1:3"),
        (
            '[metrics]\nlisten = "127.0.0.1:2"\n',
            {"TOKENPROXY_METRICS__LISTEN": '"127.0.0.1:3"'},
            "127.0.0.1:3",
        ),
        ('[admin]\nlisten = "unix:run/admin.sock"\n', {}, "unix:{base}/run/admin.sock"),
        ('[admin]\nlisten = "10.0.0.1:1"\ncert_file = "c.pem"\n', {}, "https://10.0.0.1:1"),
        ('[admin]\ncert_file = "c.pem"\n', {}, "https://127.0.0.1:9100"),
        ("", {"TOKENPROXY_ADMIN__CERT_FILE": "c.pem"}, "https://127.0.0.1:9100"),
        ('[metrics]\nlisten = ":2"\n[admin]\nclient_ca_file = "a.pem"\n', {}, ":2"),
        ('[admin]\nclient_ca_file = "a.pem"\n', {}, "unix:{base}/tokenproxy.db.sock"),
        (
            '[admin]\nclient_ca_file = "a.pem"\n[store]\nurl = "sqlite:var/s.db"\n',
            {},
            "unix:{base}/var/s.db.sock",
        ),
        (
            '[admin]\nclient_ca_file = "a.pem"\n[store]\nurl = "postgresql:///x"\ndir = "var"\n',
            {},
            "unix:{base}/var/tokenproxy.sock",
        ),
    ],
)
def test_healthcheck_finds_the_address_that_config_would(
    text: str, environ: dict[str, str], asked: str, tmp_path: Path
) -> None:
    """It reads the file without the config's own reader, so it must come to the same address."""
    from tokenproxy.cli.peek import health_address

    (tmp_path / "config.toml").write_text(text)

    assert health_address(tmp_path / "config.toml", environ) == asked.format(base=tmp_path)


def test_healthcheck_of_a_port_that_nobody_can_know(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[admin]\nlisten = "127.0.0.1:0"\n')
    ended = run("healthcheck", cwd=tmp_path)

    assert ended.code == 1
    assert "Next:  name a port" in ended.err


async def test_a_password_s_hash_is_printed(setup: Setup) -> None:
    """Another one each time, and never the password."""
    first = await setup.run("key", "password", given="hunter2-of-a-caller\n")
    again = await setup.run("key", "password", given="hunter2-of-a-caller\n")
    none = await setup.run("key", "password", given="")

    assert first.code == again.code == 0
    assert first.out != again.out
    assert PasswordHash.of(first.out.strip()).matches(b"hunter2-of-a-caller")
    assert none.code == 1
    assert "no password on standard input" in none.err
