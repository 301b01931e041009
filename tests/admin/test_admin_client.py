"""A command's view of the running program: the same answers and the same errors as if it had asked directly."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.admin.program import Desk, Program
from tokenproxy.admin.client import AdminClient, LoginClient
from tokenproxy.admin.operations import LoginOperations, Operations
from tokenproxy.core.interfaces import Accounts
from tokenproxy.errors import (
    AccountError,
    ConfigError,
    LoginRequiredError,
    MisconfiguredError,
    NotRunningError,
    Problem,
    ProviderUnavailableError,
    SealError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
    TokenproxyError,
    UnknownAccountError,
    UnknownLoginError,
)


async def test_the_client_is_an_accounts(socket_path: Path, program: Program) -> None:
    """A command works the same with ``serve`` running and without; mypy holds the signatures, this the answers."""
    client = AdminClient(socket_path)
    accounts: Accounts = client
    operations: Operations = client
    program.put("books/anna@example.com", generation=1)

    assert await accounts.statuses() == await program.statuses()
    assert (await accounts.status("books/anna@example.com"))["generation"] == 1
    assert (await accounts.refresh("books"))["generation"] == 4
    assert (await accounts.import_answer("books", b'{"access_token": "a"}'))["state"] == "ok"
    assert (await accounts.import_answer("books", b"bare"))["state"] == "ok"
    assert program.imported == [b'{"access_token": "a"}', b"bare"]
    assert (await accounts.rebind("books"))["rebound"] is True
    assert (await accounts.logout("books"))["state"] == "new"
    assert await operations.reload() == {"accounts": 2}
    assert (await operations.rotate_keys())["key_id"] == "1f3a"
    assert (await operations.info())["ready"] is True


async def test_the_client_begins_and_watches_logins(socket_path: Path, logins: Desk) -> None:
    """What ``tokenproxy login`` says is the same, whoever holds the attempt."""
    client: LoginOperations = LoginClient(AdminClient(socket_path))

    assert (await client.begin("books", device=True, replace=True))["id"] == "l1"
    assert logins.begun[0] == {
        "account": "books", "device": True, "key": None, "return_to": None, "replace": True
    }  # fmt: skip
    assert await client.status("l1", wait=0.01) == logins.now
    await client.paste("l1", "http://127.0.0.1:9100/callback/books?code=c")
    assert (await client.confirm("l1"))["state"] == "success"
    assert (await client.cancel("l1"))["error"] == "cancelled"
    with pytest.raises(UnknownLoginError):
        await client.status("another/one?")


@pytest.mark.parametrize(
    "error",
    [
        LoginRequiredError("a.", account="books", reason="refused", next_step="tokenproxy login books"),
        MisconfiguredError("b.", account="books/anna", reason="client_refused"),
        ProviderUnavailableError("c.", account="books", retry_after=1.5),
        StoreUnavailableError("d.", account="books"),
        UnknownAccountError("e.", account="nobody"),
        AccountError("f.", account="books"),
        StoreError("g."),
        StoreLockedError("h.", next_step="Stop it."),
        SealError("i."),
        TokenproxyError("j."),
        ConfigError("config.toml", [Problem("a.b", "missing", 3), Problem("", "what is this", None)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_arrive_as_they_were_raised(
    socket_path: Path, program: Program, error: TokenproxyError
) -> None:
    """The exit code, the sentence and the next step of a command must not depend on who did the work."""
    program.fails = error

    with pytest.raises(TokenproxyError) as caught:
        await AdminClient(socket_path).reload()

    assert type(caught.value) is type(error)
    assert (str(caught.value), caught.value.next_step) == (str(error), error.next_step)
    assert caught.value.exit_code == error.exit_code
    for name in ("account", "reason", "retry_after", "problems", "source"):
        assert getattr(caught.value, name, None) == getattr(error, name, None)


async def test_nobody_there_is_exit_code_6(folder: Path) -> None:
    """Neither a missing file nor one that a dead process left behind is a traceback."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "left.sock"))
    left.close()

    for name in ("none.sock", "left.sock"):
        with pytest.raises(NotRunningError) as caught:
            await AdminClient(folder / name).info()
        assert caught.value.exit_code == 6
        assert caught.value.next_step == "tokenproxy serve"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"220 mail.example ESMTP\r\n",
    ],
)
async def test_half_an_answer_is_not_an_answer(folder: Path, answer: bytes) -> None:
    """The program may die while it answers; what was asked for may have happened, and the sentence says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, folder / "admin.sock"):
        with pytest.raises(NotRunningError, match="may have happened"):
            await AdminClient(folder / "admin.sock").info()


async def test_a_silent_program_is_not_waited_for_for_ever(folder: Path) -> None:
    """A command ends with a sentence, whatever state the program is in."""
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_unix_server(say_nothing, folder / "admin.sock"):
        with pytest.raises(TokenproxyError, match=r"did not answer within 0\.05 s"):
            await AdminClient(folder / "admin.sock", patience=0.05).refresh("books")
        await asyncio.wait_for(gone.wait(), timeout=5)


def test_commands_start_without_aiohttp() -> None:
    """Its import alone takes a quarter of a second; ``status`` and ``healthcheck`` need none of it."""
    code = (
        "import sys, tokenproxy.admin.client; print('aiohttp' in sys.modules)\n"
        "import subprocess; print(subprocess.check_output([sys.executable, '-c', 'import sys,tokenproxy.admin.probe;"
        'print(*({"aiohttp","asyncio","pydantic"} & set(sys.modules)))\'], text=True).strip())'
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert said.split() == ["False"]
