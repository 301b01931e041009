"""Listeners: who may open them, and what happens where somebody is there already."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from tokenproxy.admin import server
from tokenproxy.admin.api import Desk, metrics_app, socket_app
from tokenproxy.admin.client import AdminClient
from tokenproxy.admin.server import serve_tcp, serve_unix
from tokenproxy.errors import NotRunningError, TokenproxyError


async def test_the_socket_is_ours_alone(desk: Desk, folder: Path) -> None:
    """Whoever may open it may import tokens; the umask of the shell must not decide that."""
    before = os.umask(0)
    try:
        running = await serve_unix(socket_app(desk), folder / "admin.sock")
    finally:
        os.umask(before)

    assert stat.filemode((folder / "admin.sock").stat().st_mode) == "srw-------"
    assert [each.name for each in folder.iterdir()] == ["admin.sock"]
    await running.close()
    assert list(folder.iterdir()) == []


async def test_a_dead_process_does_not_block_the_next(desk: Desk, folder: Path) -> None:
    """After ``kill -9`` the file stays; nobody answers at it, so it is replaced."""
    path = folder / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    running = await serve_unix(socket_app(desk), path)

    assert (await AdminClient(path).info())["pid"] == 4711
    await running.close()


async def test_a_living_one_is_left_alone(desk: Desk, folder: Path) -> None:
    """A second ``serve`` ends with one sentence, and the first goes on answering."""
    path = folder / "admin.sock"
    first = await serve_unix(socket_app(desk), path)

    with pytest.raises(TokenproxyError, match="serves already"):
        await serve_unix(socket_app(desk), path)

    assert (await AdminClient(path).info())["pid"] == 4711
    await first.close()


async def test_a_file_in_the_way_is_not_removed(desk: Desk, folder: Path) -> None:
    """A mistyped path must not cost anybody a file."""
    path = folder / "precious.db"
    path.write_text("rows")

    with pytest.raises(TokenproxyError, match="not a socket"):
        await serve_unix(socket_app(desk), path)

    assert path.read_text() == "rows"


async def test_closing_leaves_a_successor_alone(desk: Desk, folder: Path) -> None:
    """An old process that ends late must not take the new one's socket with it."""
    path = folder / "admin.sock"
    old = await serve_unix(socket_app(desk), path)
    path.unlink()
    new = await serve_unix(socket_app(desk), path)

    await old.close()

    assert (await AdminClient(path).info())["pid"] == 4711
    await new.close()


async def test_a_long_path_works(desk: Desk, folder: Path) -> None:
    """A socket's name has room for 107 bytes; homes in CI and containers are often longer."""
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    running = await serve_unix(socket_app(desk), deep / "admin.sock")

    assert (await AdminClient(deep / "admin.sock").info())["pid"] == 4711
    with pytest.raises(TokenproxyError, match="serves already"):
        await serve_unix(socket_app(desk), deep / "admin.sock")
    await running.close()


async def test_a_folder_that_is_not_there_is_one_sentence(desk: Desk, folder: Path) -> None:
    with pytest.raises(TokenproxyError, match=r"^the admin socket: cannot listen on .*No such file"):
        await serve_unix(socket_app(desk), folder / "nowhere" / "admin.sock")


def test_uvloop_serves_the_socket_too(desk: Desk, folder: Path) -> None:
    """The image runs on uvloop, whose Unix servers are libuv's own."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def talk() -> int:
        running = await serve_unix(socket_app(desk), folder / "admin.sock")
        pid: int = (await AdminClient(folder / "admin.sock").info())["pid"]
        tcp = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen")
        with pytest.raises(TokenproxyError, match="in use"):
            await serve_tcp(metrics_app(desk), tcp.address, key="admin.listen")
        await tcp.close()
        await running.close()
        return pid

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(talk()) == 4711
    assert list(folder.iterdir()) == []


async def test_a_port_in_use_names_the_key_to_change(desk: Desk) -> None:
    """The person at the terminal sees which line of the config is meant."""
    first = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen")

    with pytest.raises(TokenproxyError) as caught:
        await serve_tcp(metrics_app(desk), first.address, key="admin.listen")

    assert str(caught.value) == f"admin.listen: {first.address} is in use by another process."
    assert "admin.listen" in caught.value.next_step
    await first.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost:http", "127.0.0.1:70000", ""])
async def test_what_is_no_address_is_said_so(desk: Desk, address: str) -> None:
    with pytest.raises(TokenproxyError, match=r"^admin\.listen: .* is not an address"):
        await serve_tcp(metrics_app(desk), address, key="admin.listen")


async def test_a_name_that_does_not_resolve_is_one_sentence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver's error numbers mean something else than the system's."""

    async def resolve(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)

    with pytest.raises(
        TokenproxyError, match=r"^admin\.listen: cannot listen on nowhere:1: Name or service not known\.$"
    ):
        await serve_tcp(metrics_app(desk), "nowhere:1", key="admin.listen")


async def test_connections_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics listener is open to many; it must not take the descriptors that requests need."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen")
    host, port = running.address.split(":")
    kept = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
    for reader, writer in kept:  # each is certainly known to the server once it has answered
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readline()

    reader, writer = await asyncio.open_connection(host, int(port))
    assert await reader.read() == b""

    for _, each in [*kept, (reader, writer)]:
        each.close()
    await running.close()


async def test_a_call_under_way_cannot_hold_up_the_end(
    desk: Desk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM leaves ten seconds in many places; a caller who waits for a slow provider must not use them up."""
    monkeypatch.setattr(server, "SHUTDOWN", 0.05)
    begun = asyncio.Event()

    async def slow(_: str) -> dict[str, object]:
        begun.set()
        await asyncio.sleep(3600)
        return {}

    monkeypatch.setattr(desk.accounts, "refresh", slow)
    running = await serve_unix(socket_app(desk), folder / "admin.sock")
    call = asyncio.ensure_future(AdminClient(folder / "admin.sock").refresh("books"))
    await begun.wait()

    await asyncio.wait_for(running.close(), timeout=5)

    with pytest.raises(NotRunningError, match="ended before it had answered"):
        await call
