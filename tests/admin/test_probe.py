"""``healthcheck``'s question, asked of listeners in every condition."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tokenproxy.admin.health import Health
from tokenproxy.admin.probe import probe
from tokenproxy.admin.server import Running


async def ask(address: str, timeout: float = 3.0) -> tuple[bool, str]:
    return await asyncio.to_thread(probe, address, timeout)


async def test_a_ready_listener_under_all_its_names(scrape: Running, socket_path: Path) -> None:
    """What the config says is what is asked, also where it says "every address"."""
    port = scrape.address.rsplit(":", 1)[1]

    for address in (
        scrape.address,
        f"0.0.0.0:{port}",
        f":{port}",
        f"http://127.0.0.1:{port}/",
        f"unix:{socket_path}",
    ):
        assert await ask(address) == (True, "ok")


async def test_what_is_wrong_is_passed_on(scrape: Running, health: Health) -> None:
    """``docker inspect`` shows this text; a path in the URL asks another question."""
    health.draining = True

    assert await ask(scrape.address) == (False, "draining: shutting down")
    assert await ask(f"http://{scrape.address}/healthz") == (True, "ok")


async def test_silence_is_bounded() -> None:
    """A process that hangs takes connections still: the kernel does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        well, text = await ask(address, 0.05)

    assert (well, text) == (False, f"{address} did not answer within 0.05 s")
    well, text = await ask(address)
    assert not well
    assert "Connection refused" in text


@pytest.mark.parametrize(
    "address", ["", "localhost", "ftp://127.0.0.1:1", "127.0.0.1:port", "127.0.0.1:99999"]
)
def test_nonsense_is_no_traceback(address: str) -> None:
    assert probe(address)[0] is False
