"""``logs``: what a person reads of the log, from a pipe, a file and a running ``serve``; and how ``serve`` is ended."""

from __future__ import annotations

import asyncio
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cli.conftest import Here, Setup
from tests.cli.program import PATIENCE, Ended, command_line, environment, serving, terminal
from tokenproxy.log import Recent


def line(event: str, *, ago: float = 0.0, level: str = "info", **fields: Any) -> str:
    at = (
        (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
    return json.dumps({"ts": at, "level": level, "event": event, **fields})


REQUEST: dict[str, Any] = {
    "method": "GET",
    "path": "/v1/orders",
    "attempts": 1,
    "code": "",
    "seconds": 0.083,
    "upstream_seconds": 0.0826,
}
LINES = [
    line("token_renewed", ago=7200, account="crm", trigger="due", generation=4, seconds=0.21, waiters=12),
    line("request", ago=60, route="crm", account="crm", status=200, **REQUEST),
    line("request", ago=1, route="erp", account="erp/anna", status=503, **{**REQUEST, "code": "login_required"}),
    line("store_failed", level="error", detail="the disk is full"),
]  # fmt: skip


def without_stdin(*words: str) -> Ended:
    """As from a cron job or ``docker exec``: nothing is sent."""
    ended = subprocess.run(
        command_line(words), stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=PATIENCE, check=False
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def through(setup: Setup, address: str) -> int:
    async with aiohttp.ClientSession() as caller, caller.get(f"http://{address}/books/x") as answer:
        return answer.status


def test_lines_look_as_promised(tmp_path: Path, here: Here) -> None:
    """Who, what, how it ended, and the command for a person."""
    (tmp_path / "log").write_text("\n".join(LINES) + "\n")
    renewed, request, refused, failed = here("logs", "log", env={"TZ": "UTC"}).out.splitlines()[-4:]

    assert renewed[10:] == "crm   refresh ok              0.21 s  generation 4  due  released 12 waiting"
    assert request[10:] == "crm   GET /v1/orders                200   83 ms (0.4 here)"
    assert (
        refused[10:]
        == "erp   GET /v1/orders                503   login required   -> tokenproxy login erp/anna"
    )
    assert failed[10:] == "-     ✗ store failed            the disk is full"


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ((), ["token_renewed", "request", "request", "store_failed"]),
        (("--route", "crm"), ["request"]),
        (("--route", "crm", "--route", "erp"), ["request", "request"]),
        (("--account", "erp"), ["request"]),
        (("--account", "er"), []),
        (("--status", "5xx"), ["request"]),
        (("--status", "200", "--status", "503"), ["request", "request"]),
        (("--event", "token_renewed"), ["token_renewed"]),
        (("--level", "warning"), ["store_failed"]),
        (("--since", "10m"), ["request", "request", "store_failed"]),
        (("--since", "55 s", "--route", "erp"), ["request"]),
        (("--since", "2020-01-01"), ["token_renewed", "request", "request", "store_failed"]),
    ],
)
def test_what_is_looked_for_is_shown_and_nothing_else(
    words: tuple[str, ...], events: list[str], here: Here
) -> None:
    ended = here("logs", "-", "--json", *words, given="\n".join([*LINES, "Starting container"]))

    assert ended.code == 0
    assert [json.loads(each)["event"] for each in ended.out.splitlines()] == events


def test_lines_of_others_are_shown_and_drive_no_terminal(here: Here) -> None:
    """What a container's entry point printed, or a forged field, must not clear the screen."""
    forged = line("request", route="crm", account="", status=200, **{**REQUEST, "path": "/\x1b[2J"})
    ended = here("logs", "-", given=f"Starting \x1b[2J container\n{forged}\n[1, 2]\n")

    assert "\x1b" not in ended.out
    assert ended.out.splitlines()[0] == "Starting \\x1b[2J container"
    assert ended.out.splitlines()[2] == "[1, 2]"
    assert "Starting" not in here("logs", "-", "--level", "info", given="Starting\n").out


async def test_the_running_serve_tells_its_last_lines(setup: Setup) -> None:
    """No file, no rights on somebody else's log: the socket is enough; and it is as free of secrets as the log is."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    setup.config.write_text(f'{setup.config.read_text()}\n[log]\naccess = "all"\n')
    async with serving(setup.config) as serve:
        address = next(
            json.loads(each)["address"] for each in serve.written.splitlines() if '"name":"proxy"' in each
        )
        assert await through(setup, address) == 200
        ended = await asyncio.to_thread(without_stdin, "logs", "--config", str(setup.config))
        told = await asyncio.to_thread(
            without_stdin, "logs", "--json", "--route", "books", "--config", str(setup.config)
        )
    setup.printed += ended.out + told.out

    assert ended.code == 0, ended.err
    assert "started" in ended.out
    assert "books  GET /books/x" in ended.out
    assert json.loads(told.out)["status"] == 200


async def test_it_is_followed_until_serve_ends(setup: Setup) -> None:
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))

    async with serving(setup.config) as serve:

        def person() -> Ended:
            with terminal("logs", "-f", "--config", str(setup.config)) as screen:
                screen.until("started")
                renewed = setup._here("refresh", "books", "--config", str(setup.config))
                assert renewed.code == 0, renewed.err
                screen.until("refresh ok")
                serve.stop()
                screen.until("serve has ended.")
                return screen.ended()

        ended = await asyncio.to_thread(person)

    assert ended.code == 0


async def test_without_a_serve_it_says_what_can_be_read(setup: Setup) -> None:
    ended = await asyncio.to_thread(without_stdin, "logs", "--config", str(setup.config))

    assert ended.code == 6
    assert "a file or a pipe is read without one" in ended.err
    assert not (setup.config.parent / "tokenproxy.db").exists()


def test_a_file_is_followed_through_a_rotation(tmp_path: Path) -> None:
    """As tail -F does it."""
    path = tmp_path / "serve.log"
    path.write_text(f"{LINES[0]}\n")
    with terminal("logs", "-f", str(path), cwd=tmp_path) as screen:
        screen.until("refresh ok")
        with path.open("a") as file:
            file.write(LINES[1][:20])
            file.flush()
            file.write(f"{LINES[1][20:]}\n")
        screen.until("GET /v1/orders")
        path.rename(tmp_path / "serve.log.1")
        path.write_text(f"{LINES[3]}\n")
        screen.until("the disk is full")
        assert screen.interrupted().code == 130


def test_the_last_lines_are_bounded_and_numbered() -> None:
    """A burst of a million lines takes no more memory than a thousand, and who looks on learns what was lost."""
    recent = Recent(lines=3, letters=100)
    told: list[int] = []
    recent.tell(lambda: told.append(1))
    for number in range(5):
        recent.add(f"line {number}")

    assert told == [1]
    assert recent.behind(0) == (["line 2", "line 3", "line 4"], 5, 0)
    assert recent.behind(1) == (["line 2", "line 3", "line 4"], 5, 1)
    assert recent.behind(4) == (["line 4"], 5, 0)
    assert recent.behind(5) == ([], 5, 0)
    assert recent.behind(900)[0] == ["line 2", "line 3", "line 4"]
    recent.add("x" * 200)
    assert recent.behind(0)[0] == ["x" * 200]


# -- stop --------------------------------------------------------------------------------------------------------------


async def test_stop_waits_until_serve_has_ended(setup: Setup) -> None:
    alone = await setup.run("stop")
    async with serving(setup.config) as serve:
        ended = await setup.process("stop")
        code = await asyncio.to_thread(serve.stop)

    assert alone.code == 6
    assert not (setup.config.parent / "tokenproxy.key").exists() or ended.code == 0
    assert ended.code == 0, ended.err
    assert ended.out.startswith("✓ serve has ended (process ")
    assert code == 0
    assert '"event":"stopped"' in serve.written


async def test_stop_says_when_serve_still_finishes_something(setup: Setup) -> None:
    """A request under way is not cut off by it."""
    await setup.run("import", "books", given=json.dumps(setup.provider.new_grant()))
    setup.api.gate = asyncio.Event()
    async with serving(setup.config) as serve:
        address = next(
            json.loads(each)["address"] for each in serve.written.splitlines() if '"name":"proxy"' in each
        )
        asked = asyncio.ensure_future(through(setup, address))
        await setup.api.changes.until(lambda: setup.api.waiting > 0, what="the request")
        early = await setup.run("stop", "--timeout", "0.2")
        setup.api.gate.set()
        status = await asked
        await asyncio.to_thread(serve.stop)

    assert early.code == 1
    assert "has not ended within 0.2 s" in early.err
    assert status == 200
