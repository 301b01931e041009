"""``run``: a command with the proxy beside it, whose end is ours."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Setup
from tests.cli.program import serving, terminal, waiting
from tokenproxy.cli.running import variable

ASK = "import os, urllib.request as r; print(r.urlopen(os.environ['BOOKS_BASE_URL'] + '/x').status)"
SHOW = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if 'PROXY' in k.upper() or k.endswith('_BASE_URL')}))"
PYTHON = (sys.executable, "-c")


async def logged_in(setup: Setup) -> None:
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))


async def test_a_script_gets_live_tokens_without_knowing_of_any(setup: Setup) -> None:
    await logged_in(setup)
    ended = await setup.process_run(*PYTHON, ASK)

    assert (ended.code, ended.out) == (0, "200\n"), ended.err
    assert "BOOKS_BASE_URL=http://127.0.0.1:" in ended.err
    assert setup.provider.live(setup.api.requests[-1].token or "")


async def test_it_uses_a_serve_that_runs_already(setup: Setup) -> None:
    """A second one could not open the store, and need not."""
    await logged_in(setup)
    async with serving(setup.config) as serve:
        address = next(
            json.loads(each)["address"] for each in serve.written.splitlines() if '"name":"proxy"' in each
        )
        ended = await setup.process_run(*PYTHON, SHOW)

    assert json.loads(ended.out)["BOOKS_BASE_URL"] == f"http://{address}/books"


@pytest.mark.parametrize(
    ("code", "given"), [(0, "pass"), (7, "raise SystemExit(7)"), (143, "import os; os.kill(os.getpid(), 15)")]
)
async def test_the_command_s_end_is_ours(setup: Setup, code: int, given: str) -> None:
    """A shell's way: 128 and the signal for one that was killed."""
    await logged_in(setup)

    assert (await setup.process_run(*PYTHON, given)).code == code


async def test_a_command_that_is_not_there_or_cannot_be_run(setup: Setup, tmp_path: Path) -> None:
    await logged_in(setup)
    (tmp_path / "text").touch(mode=0o644)
    gone = await setup.process_run("no-such-command")
    text = await setup.process_run(str(tmp_path / "text"))

    assert (gone.code, text.code) == (127, 126)
    assert "there is no command no-such-command" in gone.err
    assert "Permission denied" in text.err


async def test_a_route_that_needs_a_login_is_said_before_anything_is_run(setup: Setup) -> None:
    """A script that runs into 503s half-way has done half of its work."""
    ended = await setup.process_run(*PYTHON, "print('ran')")
    anyway = await setup.process_run("--anyway", "--", *PYTHON, "print('ran')", dashes=False)

    assert (ended.code, ended.out) == (3, "")
    assert "nobody has logged in to account books yet" in ended.err
    assert f"Next:  tokenproxy login books --config {setup.config}" in ended.err
    assert (anyway.code, anyway.out) == (0, "ran\n")


async def test_signals_go_on_to_the_command(setup: Setup) -> None:
    """A supervisor that ends us means the command."""
    await logged_in(setup)
    script = (
        "import signal, sys, time\n"
        "def end(number, _):\n    print('told', number, flush=True)\n    sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGUSR1, lambda n, _: print('told', n, flush=True))\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    async with waiting("run", "--config", str(setup.config), "--", *PYTHON, script) as command:
        await command.until("ready")
        command.signal(signal.SIGUSR1)
        command.signal(signal.SIGTERM)
        ended = await command.ended()

    assert ended.code == 9
    assert "told 15\n" in ended.out


async def test_ctrl_c_reaches_the_command_once(setup: Setup) -> None:
    """The terminal tells both; a second one from us would cut off what the command does at the first."""
    await logged_in(setup)
    script = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda n, _: seen.append(n))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.3); print('seen', len(seen), flush=True)\n"
    )

    def person() -> tuple[int, str]:
        with terminal("run", "--config", str(setup.config), "--", *PYTHON, script) as screen:
            screen.until("ready")
            screen.type("\x03")
            ended = screen.ended()
            return ended.code, ended.out

    code, out = await asyncio.to_thread(person)

    assert code == 0, out
    assert "seen 1" in out


async def test_stop_ends_the_command_too(setup: Setup) -> None:
    """What runs beside it could not go on without the proxy."""
    await logged_in(setup)
    script = "import sys, time; print('ready', file=sys.stderr, flush=True); time.sleep(60)"
    async with waiting("run", "--config", str(setup.config), "--", *PYTHON, script) as command:
        await command.until("ready")
        stopped = await setup.run("stop")
        ended = await command.ended()

    assert stopped.code == 0, stopped.err
    assert ended.code == 143


async def test_routes_that_are_used_as_a_proxy_set_http_proxy(setup: Setup) -> None:
    """And nothing else does: an app's other plain requests would end in no_route."""
    await logged_in(setup)
    plain = await setup.process_run(*PYTHON, SHOW)
    text = setup.config.read_text()
    route = '[routes.books-eu]\nhost = "api.books.example"\nupstream = "https://api.books.example"\naccount = "books"\nprefix = "/"\n'
    setup.config.write_text(f"{text}\n{route}")
    proxied = await setup.process_run(*PYTHON, SHOW, env={"no_proxy": "intranet.example"})
    told, plainly = json.loads(proxied.out), json.loads(plain.out)

    assert not {name for name in plainly if name.lower() == "http_proxy"} - set(os.environ)
    assert told["http_proxy"] == told["HTTP_PROXY"] == told["BOOKS_BASE_URL"].removesuffix("/books")
    assert told["no_proxy"] == "127.0.0.1,localhost,::1,intranet.example"
    assert told["BOOKS_EU_BASE_URL"] == "http://api.books.example/"
    assert variable("a.b-c_d1") == "A_B_C_D1_BASE_URL"


async def test_words_after_the_command_are_the_command_s(setup: Setup) -> None:
    """Its --json is not ours, with -- before it or without."""
    await logged_in(setup)
    ended = await setup.process_run(
        *PYTHON, "import sys; print(sys.argv[1:])", "--json", "--", "-f", dashes=False
    )

    assert ended.out == "['--json', '--', '-f']\n", ended.err
