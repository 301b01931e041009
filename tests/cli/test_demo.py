"""The demo keeps its promises: the story in seconds, honest about what went wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.request
from pathlib import Path

from tests.cli.program import run, terminal

# Nobody's proxy settings may come between.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, *, method: str = "GET") -> dict[str, object]:
    with _DIRECT.open(urllib.request.Request(url, method=method), timeout=10) as answer:
        assert answer.status == 200
        body: dict[str, object] = json.load(answer)
        return body


def test_once_tells_the_story_from_what_was_counted(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run("demo", "--once", env={"TMPDIR": str(tmp_path)})
    seconds = time.monotonic() - began

    assert ended.code == 0, ended.out + ended.err
    assert ended.err == ""
    assert "✗" not in ended.out
    assert re.search(r"validate said +1 x dead", ended.out)
    assert re.search(r"refreshes +1 for 50 requests", ended.out)
    assert re.search(r"callers got +50 x 200", ended.out)
    assert re.search(r"from disk +generation 2", ended.out)
    assert len([line for line in ended.out.splitlines() if line]) <= 16
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []


def test_it_goes_on_running_for_whoever_wants_to_try(tmp_path: Path) -> None:
    """The lines to try work as they stand there, and Ctrl-C leaves nothing behind."""
    with terminal("demo", "--no-color", env={"TMPDIR": str(tmp_path)}) as screen:
        shown = screen.until("leaves nothing behind.")
        api, revoke = re.findall(r"curl (?:-X POST )?(http://\S+)", shown)
        config = re.findall(r"--config (\S+)", shown)[0]
        assert call(api) == {"hello": "you sent no credential", "token": 2}
        assert call(revoke, method="POST")["revoked"]
        assert call(api)["token"] == 3
        screen.until("token 3 given out")
        status = run("status", "--json", "--config", config)
        health = run("healthcheck", "--config", config)
        screen.type("\x03")
        ended = screen.ended()

    assert ended.code == 0
    assert json.loads(status.out)["accounts"][0]["generation"] == 3
    assert health.code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_middle_of_the_story_leaves_nothing_behind(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with terminal("demo", "--once", env={"TMPDIR": str(tmp_path)}) as screen:
            screen.until("without any credential:")
            os.kill(screen.pid, number)
            os.kill(screen.pid, number)
            ended = screen.ended()

        assert ended.code == 130
        assert "Traceback" not in ended.out
        assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run("demo", "--once", "--port", str(taken.getsockname()[1]), env={"TMPDIR": str(tmp_path)})

    assert ended.code != 0
    assert "Traceback" not in ended.err
    assert ended.err.startswith("tokenproxy: ")
    assert list(tmp_path.iterdir()) == []
