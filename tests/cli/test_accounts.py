"""An account's life by commands, with and without a running ``serve``; what scripts decide by is the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Setup
from tests.cli.program import command_line, environment, serving, terminal
from tokenproxy import parts, stores
from tokenproxy.cli.accounts import Found, advice, counts_table, status_table
from tokenproxy.cli.present import Printer
from tokenproxy.config import load as load_config
from tokenproxy.config import read_keys
from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.tokens import TokenSet


@pytest.mark.parametrize("running", [False, True], ids=["offline", "running"])
async def test_the_life_of_an_account(setup: Setup, *, running: bool) -> None:
    """The same commands say the same, whether they talk to ``serve`` or open the store themselves."""
    if not running:
        await _life(setup, running=False)
        return
    async with serving(setup.config):
        await _life(setup, running=True)


async def _life(setup: Setup, *, running: bool) -> None:
    empty = await setup.process("status")
    assert empty.code == 3
    assert "✗ not logged in" in empty.out
    assert f"To fix books:  tokenproxy login books --config {setup.config} " in empty.out
    assert ("serve is not running" in empty.err) is not running

    imported = await setup.process("import", "books", given=json.dumps(setup.provider.new_grant()))
    assert imported.code == 0
    assert "✓ books: tokens imported" in imported.out
    assert ("tokenproxy serve" in imported.out) is not running

    good = await setup.process("status", "books")
    assert good.code == 0
    assert "✓ ok" in good.out

    renewed = await setup.process("refresh", "books")
    assert renewed.code == 0
    assert "renewed, generation 2" in renewed.out
    assert ", was " in renewed.out
    assert setup.provider.refreshes == 1

    answer = json.loads((await setup.process("status", "--json")).out)
    assert answer["running"] is running
    assert [each["generation"] for each in answer["accounts"]] == [2]

    gone = await setup.process("logout", "books")
    assert gone.code == 0
    assert "logged out" in gone.out
    assert "The provider was not told; revoke the grant there" in gone.out
    assert (await setup.process("status", "books")).code == 3
    assert (await setup.process("refresh", "books")).code == 3
    assert not setup.provider.complaints


async def test_a_refused_grant_is_3_and_a_provider_that_is_down_is_4(setup: Setup) -> None:
    """The one needs a person, the other only time."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    setup.provider.outage = 503
    down = await setup.run("refresh", "books")
    degraded = await setup.run("status")
    setup.provider.outage = None
    setup.provider.revoke_grant()
    refused = await setup.run("refresh", "books")
    ended = await setup.run("status")

    assert down.code == 4
    assert down.err.count("\n") == 2
    assert f"Next:  tokenproxy status books --config {setup.config}\n" in down.err
    assert degraded.code == 0
    assert "! degraded" in degraded.out
    assert "tried again once serve runs" in degraded.out
    assert refused.code == 3
    assert "Next:  tokenproxy login books" in refused.err
    assert ended.code == 3
    assert "✗ login required" in ended.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_a_refresh_loses_no_rotated_token(
    setup: Setup, number: signal.Signals
) -> None:
    """The provider has spent the old one already: the only thing worth doing is to wait for its answer and store it."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    setup.provider.hold, setup.provider.gate = "after", asyncio.Event()
    process = await asyncio.create_subprocess_exec(
        *command_line(["refresh", "books", "--config", str(setup.config)]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    await setup.provider.refreshed()
    process.send_signal(number)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(process.wait()), 0.5)
    setup.provider.gate.set()
    _, err = await process.communicate()
    again = await setup.run("refresh", "books", "--json")

    assert process.returncode == 130
    assert b"Traceback" not in err
    assert json.loads(again.out)["generation"] == 3
    assert setup.provider.reuses == setup.provider.replays == 0


async def test_rebind_is_the_explicit_word(setup: Setup) -> None:
    """A changed client_id: nothing is sent to the new registration before a person says so."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    text = setup.config.read_text()
    setup.config.write_text(
        text.replace(f'client_id = "{setup.provider.client_id}"', 'client_id = "client-2"')
    )
    setup.provider.client_id = "client-2"
    stopped = await setup.run("refresh", "books")
    status = await setup.run("status")
    assert setup.provider.token_calls == 0
    rebound = await setup.run("rebind", "books")
    renewed = await setup.run("refresh", "books")

    assert (stopped.code, status.code) == (3, 3)
    assert "tokenproxy rebind books" in status.out
    assert rebound.code == 0
    assert "now belong to client client-2 at http://127.0.0.1:" in rebound.out
    assert renewed.code == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [(b"", "nothing came"), (b" \n", "nothing came"), (b"x" * (1024 * 1024 + 1), "more than 1 MiB"),
     (b"<html>", "neither a token answer nor a refresh token")],
    ids=["empty", "blank", "huge", "html"],
)  # fmt: skip
async def test_an_import_of_nothing_usable_is_one_sentence(setup: Setup, given: bytes, says: str) -> None:
    ended = await setup.run("import", "books", given=given)

    assert ended.code != 0
    assert says in ended.err
    assert "Next:  tokenproxy import books" in ended.err
    assert not ended.out


async def test_an_unknown_account_names_the_known_ones(setup: Setup) -> None:
    for words in (("status", "boks"), ("refresh", "boks"), ("logout", "boks"), ("rebind", "boks")):
        ended = await setup.run(*words)
        assert ended.code == 2
        assert "books" in ended.err


async def test_on_a_terminal_import_says_what_it_waits_for_and_shows_nothing_of_it(setup: Setup) -> None:
    """Silence would look like a hang, and a token must not stay on the screen."""

    def person(token: str) -> str:
        with terminal("import", "books", "--config", str(setup.config)) as screen:
            screen.until("Waiting for books's token answer (JSON) or refresh token on standard input")
            screen.until("Ctrl-C stops.")
            screen.type(f"{token}\n\x04")
            ended = screen.ended()
        assert ended.code == 0, ended.out
        return ended.out

    token = setup.provider.new_grant()["refresh_token"]
    shown = await asyncio.to_thread(person, token)

    assert token not in shown
    assert "tokens imported" in shown
    assert (await setup.run("refresh", "books")).code == 0


async def test_a_line_that_the_terminal_cut_is_refused(setup: Setup) -> None:
    """A terminal drops what is past 4,095 characters of a line silently: half a token would be imported."""

    def person() -> None:
        with terminal("import", "books", "--config", str(setup.config)) as screen:
            screen.until("Ctrl-C stops.")
            screen.type("r" * 4094)
            screen.type("r" * 1000 + "\n\x04")
            ended = screen.ended()
        assert ended.code == 2
        assert "a terminal cuts lines" in ended.out

    await asyncio.to_thread(person)
    assert (await setup.run("status")).code == 3


async def test_ctrl_c_while_import_waits_is_130_and_gives_the_echo_back(setup: Setup) -> None:
    """A terminal left without echo looks broken."""
    import termios

    def person() -> None:
        with terminal("import", "books", "--config", str(setup.config)) as screen:
            screen.until("Ctrl-C stops.")
            ended = screen.interrupted()
            assert termios.tcgetattr(screen.screen)[3] & termios.ECHO
        assert ended.code == 130
        assert "Traceback" not in ended.out

    await asyncio.to_thread(person)


async def test_a_watch_does_not_keep_serve_from_starting(setup: Setup) -> None:
    """The store is exclusive; a status left open on another terminal must not block the service."""
    watch = subprocess.Popen(
        command_line(["status", "--watch", "--json", "--config", str(setup.config)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert watch.stdout is not None
        await asyncio.to_thread(watch.stdout.readline)
        async with serving(setup.config):
            while b'"running": true' not in await asyncio.to_thread(watch.stdout.readline):
                assert watch.poll() is None
        watch.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(watch.communicate, timeout=20)
    finally:
        if watch.poll() is None:
            watch.kill()
            watch.communicate()

    assert watch.returncode == 130
    assert b"Traceback" not in err


async def test_quiet_says_nothing_where_all_went_well(setup: Setup) -> None:
    ended = await setup.run("import", "books", "--quiet", given=json.dumps(setup.provider.new_grant()))

    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert (await setup.run("status", "--quiet")).out.startswith("ACCOUNT")


async def test_a_reader_that_leaves_is_no_error_to_print(setup: Setup) -> None:
    """``tokenproxy status | head -1`` must not end in a traceback."""
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *command_line(["status", "--quiet", "--config", str(setup.config)]),
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    os.close(write)
    _, err = await process.communicate()

    assert err == b""
    assert process.returncode == 1


async def test_an_ascii_terminal_gets_words(setup: Setup) -> None:
    ended = await asyncio.to_thread(
        lambda: subprocess.run(
            command_line(["status", "--config", str(setup.config)]),
            env=environment({"PYTHONIOENCODING": "ascii"}),
            capture_output=True,
            check=False,
            timeout=20,
        )
    )

    assert b"FAIL not logged in" in ended.stdout


def test_the_first_import_says_that_a_key_was_made(tmp_path: Path) -> None:
    """Without a copy of it the login is lost with the machine; nobody reads that in a log."""
    from tests.cli.program import run

    (tmp_path / "config.toml").write_text(
        '[accounts.a]\nprovider = "askara"\nclient_id = "x"\nclient_secret = "literal:long-enough-secret"\n'
        '[routes.a]\nupstream = "https://api.askara.ai"\naccount = "a"\n'
    )
    ended = run("import", "a", given="refresh-token-of-somebody", cwd=tmp_path)

    assert ended.code == 0
    assert "wrote  tokenproxy.key   mode 0600. Keep a copy" in ended.err
    assert "long-enough-secret" not in ended.out + ended.err
    assert "refresh-token-of-somebody" not in ended.out + ended.err


# -- many ---------------------------------------------------------------------------------------------------------------


async def filled(config: Path, logins: int, *, refused: int) -> None:
    """So many logins of ``books`` in the store, of which the last few need a person."""
    loaded = load_config(config, {})
    parts.new_key_file(config.parent / "tokenproxy.key")
    keys = read_keys(loaded.store, {})
    store = await stores.open_store(loaded.store.url, keys)
    bound, now = loaded.accounts["books"].bound_to, datetime.now(UTC)
    for number in range(logins):
        fine = number < logins - refused
        standing = Standing(State.OK) if fine else Standing(State.LOGIN_REQUIRED, Reason.REFUSED, since=now)
        tokens = TokenSet(access_token=f"planted-{number:04}", refresh_token="planted", generation=1)
        await store.adopt(f"books/p{number:04}", tokens, bound_to=bound, standing=standing, now=now)
    await store.close()


@pytest.mark.parametrize("running", [False, True], ids=["offline", "running"])
async def test_many_logins_are_counted_and_those_that_are_not_well_listed(
    setup: Setup, *, running: bool
) -> None:
    """With 100,000 of them nobody wants the list, and everybody wants to know whom to help."""
    await filled(setup.config, 60, refused=2)
    async with serving(setup.config) if running else nullcontext():
        few = await setup.run("status")
        found = json.loads((await setup.run("status", "--json")).out)
        whole = await setup.run("status", "--all")

    assert few.code == whole.code == 3
    lines = few.out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["60", "logins"],
        ["2", "✗", "login", "required"],
        ["58", "✓", "ok"],
    ]
    assert [line.split()[0] for line in lines[4:7]] == ["ACCOUNT", "books/p0058", "books/p0059"]
    assert "To fix books/p0058:  tokenproxy login books/p0058" in few.out
    assert lines[-1] == f"Every login:  tokenproxy status --config {setup.config} --all"
    assert (found["total"], found["states"]) == (60, {"ok": 58, "login_required": 2})
    assert [each["account"] for each in found["accounts"]] == ["books/p0058", "books/p0059"]
    assert sum(line.startswith("books/p") for line in whole.out.splitlines()) == 60
    assert "planted" not in few.out + whole.out


def test_more_that_are_not_well_than_anybody_reads_are_counted() -> None:
    found = Found(
        running=True,
        accounts=[status(state="login_required")] * 50,
        total=100_000,
        states={"ok": 99_000, "login_required": 900, "degraded": 100},
        reasons={},
    )

    assert counts_table(found, Printer(color=False)).splitlines() == [
        "100,000  logins",
        "    900  ✗ login required",
        "    100  ! degraded",
        " 99,000  ✓ ok",
    ]
    assert found.code == 3


# -- the table, where no simulator brings an account into every state ---------------------------------------------------

NOW = datetime(2026, 11, 22, 14, 26, tzinfo=UTC)


def status(**changed: Any) -> dict[str, Any]:
    return {
        "account": "crm", "provider": "plain", "state": "ok", "reason": "", "detail": "account crm is well",
        "next_step": "", "generation": 7, "expires_at": "2026-11-22T15:04:00Z", "refresh_expires_at": None,
        "renewed_at": "2026-11-22T14:04:00Z", "since": "2026-11-20T10:00:00Z", "retry_at": None, "identity": None,
        "scope": None, "in_flight": False, "unstored": False, "live": True, **changed,
    }  # fmt: skip


def test_the_table_says_until_when_and_what_went_wrong() -> None:
    found = [
        status(identity="ana@example.com"),
        status(account="erp", state="login_required", reason="refused", live=False, since="2026-11-22T09:12:00Z",
               next_step="tokenproxy import erp < answer.json", detail="the provider ended the grant"),
        status(account="idle", expires_at="2026-11-22T13:00:00Z", live=False),
        status(account="odd", expires_at=None),
        status(account="over", state="login_required", reason="refused"),
    ]  # fmt: skip
    lines = status_table(found, NOW, Printer(color=False)).splitlines()

    assert lines[0].split() == [
        "ACCOUNT",
        "IDENTITY",
        "STATE",
        "TOKEN",
        "UNTIL",
        "LAST",
        "REFRESH",
        "GENERATION",
    ]
    assert "ana@example.com" in lines[1]
    assert "15:04 (38 min)" in lines[1]
    assert "09:12  refused" in lines[2]
    assert "on next use" in lines[3]
    assert "unknown" in lines[4]
    assert "15:04 (38 min) at most" in lines[5]
    assert list(advice(found[0], NOW)) == []
    assert list(advice(found[1], NOW)) == [
        "To fix erp:  tokenproxy import erp < answer.json",
        "  the provider ended the grant",
    ]


def test_what_mends_by_itself_says_when() -> None:
    waiting = status(
        state="degraded",
        detail="the provider of account crm gives no tokens",
        retry_at="2026-11-22T14:26:30Z",
    )

    assert list(advice(waiting, NOW)) == [
        "crm: the provider of account crm gives no tokens; tried again by itself at 14:26:30"
    ]


def test_nothing_is_tried_by_itself_where_nothing_runs() -> None:
    """A promise of 14:26 from a command that ends at 14:25."""
    waiting = status(state="degraded", detail="down", retry_at="2026-11-22T14:26:30Z")

    assert list(advice(waiting, NOW, running=False)) == ["crm: down; tried again once serve runs"]


def test_tokens_that_are_not_on_disk_yet_are_told() -> None:
    """Stopping now would lose them."""
    assert "not in the store yet" in next(advice(status(unstored=True), NOW))
