"""Completion in the real shells, as a person presses Tab there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.program import PATIENCE, ROOT, environment

CONFIG = """\
[accounts.crm]
provider = "askara"
client_id = "x"
client_secret = "literal:planted-secret-0123"
[routes.orders]
upstream = "https://api.askara.ai"
account = "crm"
"""


@pytest.fixture
def house(tmp_path: Path) -> dict[str, str]:
    """A folder with a config, and the environment in which ``tokenproxy`` is a command."""
    (tmp_path / "config.toml").write_text(CONFIG)
    command = tmp_path / "bin" / "tokenproxy"
    command.parent.mkdir()
    command.touch(mode=0o755)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tokenproxy "$@"\n')
    return environment({
        "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default", "ZDOTDIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path),
    })  # fmt: skip


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def said_by(words: list[str], folder: Path, house: dict[str, str]) -> list[str]:
    ended = subprocess.run(
        words,
        cwd=folder,
        env=house,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ended.stderr == b""
    return ended.stdout.decode().split()


LINES = [
    ("tokenproxy ref", {"refresh"}),
    ("tokenproxy refresh c", {"crm"}),
    ("tokenproxy logs --route o", {"orders"}),
    ("tokenproxy explain login_req", {"login_required"}),
]


@needs("bash")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_bash(line: str, wanted: set[str], tmp_path: Path, house: dict[str, str]) -> None:
    """Through what ``complete`` registered, as readline calls it."""
    script = """
        eval "$(tokenproxy completion bash)"
        COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function=$(complete -p tokenproxy | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" tokenproxy "${COMP_WORDS[COMP_CWORD]}" ""
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert set(said_by(["bash", "-c", script, "-", line], tmp_path, house)) == wanted


@needs("fish")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish(line: str, wanted: set[str], tmp_path: Path, house: dict[str, str]) -> None:
    script = "tokenproxy completion fish | source; complete -C $argv[1]"
    found = said_by(["fish", "--no-config", "-c", script, line], tmp_path, house)

    assert wanted <= set(found)


@needs("zsh")
def test_zsh(tmp_path: Path, house: dict[str, str]) -> None:
    """On a terminal, since zsh completes nowhere else."""
    (tmp_path / ".zshrc").write_text(
        'PS1="ready> "\nautoload -Uz compinit\ncompinit -u -D\neval "$(tokenproxy completion zsh)"\n'
    )
    screen, side = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-d", "-i"],
        cwd=tmp_path,
        env=house,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    try:
        _until(screen, b"ready> ")
        for line, wanted in LINES:
            os.write(screen, f"{line}\t".encode())
            (word,) = wanted
            rest = word.removeprefix(line.rpartition(" ")[2])
            _until(screen, rest.encode())
            os.write(screen, b"\x15")  # Ctrl-U: the line anew
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def _until(screen: int, wanted: bytes) -> None:
    shown, deadline = b"", time.monotonic() + PATIENCE
    while wanted not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([screen], [], [], 0.1)[0]:
            shown += os.read(screen, 65536)
