"""Somebody who reads a page and does what it says: a folder, programs on the path, a browser."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.documents.pages import ROOT, Block
from tests.simulators import free_port

PATIENCE: Final = 40.0
SECRET: Final = "secret-1"
"""What every ``env:NAME`` of a page's config holds."""

_TOKENPROXY: Final = f"""#!{sys.executable}
# serve is started and left running; what would go on for ever ends.
import http.client, os, subprocess, sys, time, urllib.parse
words, program = sys.argv[1:], [sys.executable, "-m", "tokenproxy"]
if words[:1] == ["demo"]:
    os.execv(sys.executable, [*program, *words, "--once"])
if words[:1] == ["login"] and "--no-browser" in words:
    # Somebody opens the address elsewhere, and pastes the one where that browser ends, which it cannot reach.
    login = subprocess.Popen([*program, *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in login.stderr:
        print(line, end="", file=sys.stderr)
        if line.startswith("http"):
            break
    where = urllib.parse.urlsplit(line.strip())
    elsewhere = http.client.HTTPConnection(where.netloc)
    elsewhere.request("GET", where.path + "?" + where.query)
    said = login.communicate(elsewhere.getresponse().headers["Location"] + "\\n")[1]
    print(said, file=sys.stderr)
    sys.exit(login.returncode)
if words[:1] != ["serve"] or "--help" in words:
    os.execv(sys.executable, [*program, *words])
log = open("serve.log", "wb")
serving = subprocess.Popen([*program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
with open("serve.pids", "a") as pids:
    print(serving.pid, file=pids)
for _ in range(2000):
    said = open("serve.log").read()
    if '"event":"started"' in said or " started " in said:
        sys.exit(0)
    if serving.poll() is not None:
        sys.exit(said)
    time.sleep(0.02)
sys.exit("serve is not ready: " + open("serve.log").read())
"""
BROWSER: Final = f"""#!{sys.executable}
# Opens an address with cookies and redirects; a landing's fragment is handed over as our page's script does.
import json, sys, urllib.request
from http.cookiejar import CookieJar
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({{}}))
with opener.open(sys.argv[1]) as page:
    landed = page.geturl()
    page.read()
if "#" in landed:
    body = json.dumps({{"address": landed}}).encode()
    opener.open(urllib.request.Request(landed.partition("#")[0], body, {{"Content-Type": "application/json"}})).read()
"""
"""For ``BROWSER``."""
_CERTIFICATES: Final = f"""#!{sys.executable}
# As the authorities of a company would have given them out.
import trustme
ours, callers = trustme.CA(), trustme.CA()
ours.cert_pem.write_to_path("ca.pem")
callers.cert_pem.write_to_path("callers-ca.pem")
for ca, name, chain, key in (
    (ours, "tokenproxy.internal", "fullchain.pem", "privkey.pem"), (callers, "gateway.internal", "gateway.pem", "gateway.key")
):
    made = ca.issue_cert(name)
    made.cert_chain_pems[0].write_to_path(chain)
    made.private_key_pem.write_to_path(key)
"""
_PROGRAMS: Final = {
    "tokenproxy": _TOKENPROXY,
    "browser": BROWSER,
    "make-certificates": _CERTIFICATES,
    # An answer that is an error is a mistake of the page.
    "curl": f'#!/bin/sh\nexec {shutil.which("curl") or "curl"} -sS --fail-with-body --connect-to tokenproxy.internal::127.0.0.1: "$@"\n',
    "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    "legacy-app": '#!/bin/sh\nexec curl "${BOOKS_URL:-http://api.example.com}/v2/contacts"\n',
}


class Reader:
    """Does what blocks say, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, str] = {}
        """What pages name -> what stands for it here."""
        self.config_end = ""
        """What is put behind a page's config, unseen."""
        self.environ: dict[str, str] = {}
        self.secrets = {SECRET}
        """What must not be printed."""
        self.printed = ""
        self._staying: list[asyncio.subprocess.Process] = []
        self._bin = folder.with_name(f"{folder.name}.bin")

    def prepare(self) -> None:
        self.folder.mkdir()
        self._bin.mkdir()
        for name, text in _PROGRAMS.items():
            (self._bin / name).write_text(text)
            (self._bin / name).chmod(0o755)
        tls = free_port()
        self.places |= {"0.0.0.0:8443": f"127.0.0.1:{tls}", "internal:8443": f"internal:{tls}"}
        for port in ("8080", "9100"):
            here = free_port()
            self.places |= {
                f"127.0.0.1:{port}": f"127.0.0.1:{here}",
                f"localhost:{port}": f"localhost:{here}",
            }

    @property
    def admin(self) -> str:
        return f"http://{self.places['127.0.0.1:9100']}"

    def here(self, text: str) -> str:
        for said, stands_for in self.places.items():
            text = text.replace(said, stands_for)
        return text

    async def do(self, block: Block) -> None:
        if block.before:
            await self.type(self.here(block.before), where=block.where)
        if block.file:
            self.write(block)
            return
        if block.stays:
            await self._start(block)
            return
        for command, printed in block.steps:
            said = await self.type(self.here(command), where=block.where, typed=block.typed, code=block.exit)
            if printed is not None:
                assert matches(self.here(printed), said), f"{block.where}: {command} printed\n{said}"

    def write(self, block: Block) -> None:
        path, text = self.folder / block.file, self.here(block.text)
        if block.file.endswith(".toml"):
            for name in re.findall(r'"env:(\w+)"', text):
                self.environ.setdefault(name, SECRET)
        if block.added:
            path.write_text(path.read_text() + text)
        else:
            path.touch(mode=0o600)
            path.write_text(text + (self._unsaid(text) if path.name == "config.toml" else ""))

    def _unsaid(self, text: str) -> str:
        """The listeners that the page leaves out, and what the scene adds."""
        said = tomllib.loads(text)
        for table, port in (("server", 8080), ("admin", 9100)):
            if "listen" not in said.get(table, {}):
                name = f"TOKENPROXY_{table.upper()}__LISTEN"
                self.environ[name] = self.places[f"127.0.0.1:{port}"]
        return self.config_end

    async def type(self, command: str, *, where: str = "", typed: str = "", code: int = 0) -> str:
        """What it printed. Variables stay for the next one, as in a shell that is left open."""
        kept = self.folder.with_name(f"{self.folder.name}.variables")
        script = (
            f"set -euo pipefail\n[ ! -e {kept} ] || . {kept}\n{command}\n"
            f"declare -p ADMIN AUTH JSON ID >{kept} 2>/dev/null || true\n"
        )
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script,
            cwd=self.folder, env=self._environment(), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                out, _ = await process.communicate(typed.encode() + b"\n" if typed else b"")
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = await process.communicate()
            raise AssertionError(f"{where}: does not end: {command}\n{out.decode()}") from None
        said = out.decode()
        self.printed += said
        assert process.returncode == code, (
            f"{where}: exit code {process.returncode}, not {code}:\n{command}\n{said}"
        )
        return said

    async def _start(self, block: Block) -> None:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"exec env {self.here(block.text)}",
            cwd=self.folder, env=self._environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self._staying.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while block.stays not in (line := (await process.stdout.readline()).decode()):
                assert line, f"{block.where}: ended"

    def _environment(self) -> Mapping[str, str]:
        kept = {
            name: value for name, value in os.environ.items()
            if name not in {"NO_COLOR", "COLUMNS", "PYTHONPATH", "SSH_CONNECTION"} and not name.lower().endswith("_proxy")
        }  # fmt: skip
        return kept | {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "BROWSER": f"{self._bin}/browser %s &",
            "TZ": "UTC",
            "HOME": str(self.folder),
            **self.environ,
        }

    async def leave(self) -> None:
        """End what serves; its log is part of what was printed."""
        pids = self.folder / "serve.pids"
        for pid in pids.read_text().split() if pids.exists() else ():
            with suppress(ProcessLookupError):
                await _ended(int(pid))
        for process in self._staying:
            process.kill()
            await process.communicate()
        log = self.folder / "serve.log"
        self.printed += log.read_text() if log.exists() else ""


async def _ended(pid: int) -> None:
    """Told to end, and waited for; it is no child of ours."""
    watched = os.pidfd_open(pid)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(watched, over.set)
    try:
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await over.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def matches(told: str, said: str) -> bool:
    """``...`` stands for anything."""
    pattern = ".*?".join(re.escape(piece) for piece in told.strip().split("..."))
    return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None
