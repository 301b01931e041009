"""
A newcomer's path, timed: ``python -m benchmarks.newcomer``; less than five minutes, or it fails.

From a fresh clone, by README.md alone: its commands are taken out of the page and typed, first the demo, then the config for a
provider that nobody ships, until an API answers. The provider is Django OAuth Toolkit on loopback, which nobody of ours wrote;
the four values that are the newcomer's own (its address, the API's, client id and secret) go into the places that the page has for them.
Packages are downloaded, so the network's speed is in the figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.running import free_port
from tests.documents.pages import ROOT, Block, blocks
from tests.documents.reader import BROWSER

LIMIT: Final = 300.0
SECRET: Final = "a secret of nobody"


class Newcomer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[tuple[str, float]] = []
        self.places: dict[str, str] = {}
        browser = folder.parent / "browser"
        browser.write_text(BROWSER)
        browser.chmod(0o755)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TOKENPROXY_", "PYTHON", "VIRTUAL_ENV"))
        }
        self.environ = kept | {
            "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",  # . .venv/bin/activate
            "BROWSER": f"{browser} %s &",
        }
        for variable, port in (("SERVER", 8080), ("ADMIN", 9100)):
            here = f"127.0.0.1:{free_port()}"
            self.places[f"127.0.0.1:{port}"] = here
            self.environ[f"TOKENPROXY_{variable}__LISTEN"] = here

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.steps.append((what, time.perf_counter() - began))
        print(f"{self.steps[-1][1]:7.1f} s   {what}", flush=True)

    def here(self, text: str) -> str:
        for said, own in self.places.items():
            text = text.replace(said, own)
        return text

    def type(self, command: str, *, typed: str = "") -> str:
        with self.timed(command.partition("  #")[0].strip()):
            ended = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.here(command)],
                cwd=self.folder, env=self.environ, input=typed, text=True, capture_output=True, check=False, timeout=LIMIT,
            )  # fmt: skip
        if ended.returncode:
            sys.exit(f"{command}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """In another terminal; the newcomer goes on when it says that it is there."""
        with self.timed(command.partition("  #")[0].strip()):
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environ,
                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert process.stderr is not None
            for line in process.stderr:
                if '"started"' in line:
                    break
            else:
                sys.exit(f"{command} ended")
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def cloned(folder: Path) -> None:
    if (ROOT / ".git").exists():
        subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(folder)], check=True)
        return
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".venv", "node_modules", "__pycache__"))


@contextmanager
def provider(newcomer: Newcomer) -> Iterator[None]:
    """It was there before the newcomer came, so that its start is not counted."""
    callback = f"http://{newcomer.places['127.0.0.1:9100']}/callback/api"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/independent/toolkit.py"), callback],
        env=os.environ | {"TOOLKIT_SECRET": SECRET}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        newcomer.places |= {
            "https://login.example.com": f"http://localhost:{port}/o",
            "https://api.example.com": f"http://localhost:{port}/api",
        }
        yield
    finally:
        process.kill()
        process.wait()


def follow(newcomer: Newcomer, page: list[Block]) -> str:
    """The blocks about a provider that nobody ships, in order; what the last command printed."""
    own = [each for each in page if each.scene.startswith("toolkit")]
    (newcomer.folder / "config.toml").write_text(newcomer.here(own[0].text))
    lines = [line for block in own if block.language == "sh" for line in block.text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("tokenproxy serve"))
    for line in lines[:at]:
        newcomer.type(line, typed=f"{SECRET}\n" if "/dev/stdin" in line else "")
    with newcomer.serving(lines[at]):
        return newcomer.type(lines[at + 1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        newcomer = Newcomer(Path(folder, "tokenproxy"))
        with provider(newcomer):
            with newcomer.timed("git clone"):
                cloned(newcomer.folder)
            page = blocks(newcomer.folder / "README.md", root=newcomer.folder)
            newcomer.type(f"{page[0].text.strip()} --once")
            said = follow(newcomer, page)
    if json.loads(said).get("user") != "ana":
        sys.exit(f"the API answered {said}")
    whole = sum(seconds for _, seconds in newcomer.steps)
    print(f"{whole:7.1f} s   from the clone to the API's first good answer: {said.strip()}")
    if whole > LIMIT:
        sys.exit(f"longer than {LIMIT:.0f} s")


if __name__ == "__main__":
    main()
