"""As a service of systemd: sockets handed over, and the words that it waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.simulators.api import Api
from tests.simulators.files import write_config
from tests.simulators.provider import PlainProvider
from tests.stories.serving import PATIENCE, Serve
from tokenproxy.systemd import Notifier, take_sockets

LOG = '[log]\nformat = "json"\n'
EXEC = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
os.execv(sys.executable, [sys.executable, "-m", "tokenproxy", *sys.argv[2:]])
"""
"""systemd knows its child's process id before the program begins; this is the same."""


class Listener:
    """The socket of ``NOTIFY_SOCKET``."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    async def hears(self, beginning: str) -> str:
        """The next words that begin so; signs of life may come between."""
        async with asyncio.timeout(PATIENCE):
            while True:
                words = (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()
                if words.startswith(beginning):
                    return words
                assert words == "WATCHDOG=1"


@asynccontextmanager
async def service(config: Path, passed: socket.socket, notify: Path) -> AsyncIterator[Serve]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EXEC, str(passed.fileno()), "serve", "--config", str(config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        pass_fds=(passed.fileno(),),
        env={**os.environ, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "200000", "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    serve = Serve(config, process)
    try:
        yield serve
    finally:
        if process.returncode is None:
            process.kill()
        await serve.ended()


async def test_a_service_takes_its_socket_and_says_how_far_it_is(tmp_path: Path) -> None:
    """Ready, alive, reloading, stopping; and who connects between two runs is served by the next one."""
    with socket.socket() as passed:
        passed.bind(("127.0.0.1", 0))
        passed.listen()
        url = f"http://127.0.0.1:{passed.getsockname()[1]}/books/x"
        async with PlainProvider() as provider, Api(provider) as api, aiohttp.ClientSession() as client:
            config = write_config(tmp_path, provider, api, extra=LOG)
            config.write_text(
                config.read_text().replace('listen = "127.0.0.1:0"', 'listen = "systemd:web"', 1)
            )
            listener = Listener(tmp_path / "notify")
            with listener.socket:
                for _ in range(2):
                    waiting = asyncio.create_task(client.get(url))
                    async with service(config, passed, tmp_path / "notify") as serve:
                        await listener.hears("READY=1")
                        assert serve.addresses["proxy"] == url[7:].removesuffix("/books/x")
                        async with await waiting as answer:  # 503: nobody has logged in yet
                            assert answer.headers["Tokenproxy-Error"] == "login_required"
                        await listener.hears("WATCHDOG=1")
                        serve.process.send_signal(signal.SIGHUP)
                        assert "\nMONOTONIC_USEC=" in await listener.hears("RELOADING=1")
                        await listener.hears("READY=1")
                        assert await serve.stop() == 0
                        await listener.hears("STOPPING=1")


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    """A shell between systemd and us, say. The variables go all the same: they are for no child of ours."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}

    assert take_sockets(environ) == {}
    assert environ == {"HOME": "/"}


async def test_nobody_need_listen(tmp_path: Path) -> None:
    """Without the variable nothing is sent; where nobody is there any more, nothing breaks."""
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "@tokenproxy-nobody"}):
        notifier = Notifier(environ)
        notifier.reloading()
        notifier.ready()
        notifier.stopping()
        notifier.close()
        assert environ == {}
