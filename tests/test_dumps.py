"""A process that holds secrets leaves no core file and cannot be looked into; what it starts is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.reading import GOOD

LOOK = "import ctypes; print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)"
"""PR_GET_DUMPABLE of prctl(2)."""
UNLIMITED = """
import resource
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
"""
SERVE = """
import os, signal, threading, time
from pathlib import Path

def look():
    while not Path("t.db.sock").exists():
        time.sleep(0.02)
    {look}
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=look, daemon=True).start()
from tokenproxy.cli.root import run
run(["serve"])
"""


def ran(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("how", ["forbid", "forbid_for_all"])
def test_a_crash_leaves_no_core(how: str, tmp_path: Path) -> None:
    code = f"{UNLIMITED}\nfrom tokenproxy import dumps\ndumps.{how}()\n{LOOK}\nimport os\nos.abort()"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as said:
        assert said.read() == "dumpable 0\n"
    _, status = os.waitpid(child.pid, 0)
    child.returncode = status
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []


def test_what_it_starts_is_left_alone(tmp_path: Path) -> None:
    """``run -- CMD`` is somebody else's program."""
    code = f"from tokenproxy import dumps\ndumps.forbid()\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {LOOK!r}])"
    assert ran(code, tmp_path).stdout == "dumpable 1\n"


@pytest.mark.parametrize("words", [["status"], ["check"], ["refresh", "books"]])
def test_commands_with_a_config_are_closed(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(GOOD)
    code = f"from tokenproxy.cli.root import run\nrun({words!r})\n{LOOK}"
    assert ran(code, tmp_path).stdout.endswith("dumpable 0\n")


def test_serve_is_closed(tmp_path: Path) -> None:
    text = '[server]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite:t.db"\n'
    (tmp_path / "config.toml").write_text(text + GOOD)
    assert ran(SERVE.format(look=LOOK), tmp_path).stdout == "dumpable 0\n"
