"""
How commands speak to a running ``serve``: one HTTP call over the Unix socket, with nothing heavy imported.

``AdminClient`` is itself an ``Accounts`` and an ``Operations``, so that a command need not know whether it talks to
the program or opened the store alone.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import io
import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tokenproxy.admin.problems import CONTENT_TYPE, from_problem
from tokenproxy.admin.sockets import short_path
from tokenproxy.errors import NotRunningError, TokenproxyError

_PAGE: Final = 500
PATIENCE: Final = 120.0
"""Seconds for a whole call; a renewal may wait for its turn, for the provider, and for the provider again."""


class AdminClient:
    """Raises ``NotRunningError`` where nobody answers, and the program's own errors as it raised them."""

    def __init__(self, path: str | os.PathLike[str], *, patience: float = PATIENCE) -> None:
        self._path = Path(path).absolute()
        self._patience = patience

    async def get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path, b"", "")

    async def post(self, path: str, body: object = None, *, data: bytes | None = None) -> dict[str, Any]:
        """``body`` goes as JSON, ``data`` as it is and as plain text."""
        if data is not None:
            return await self._call("POST", path, data, "text/plain")
        return await self._call("POST", path, json.dumps(body).encode(), "application/json")

    async def delete(self, path: str) -> dict[str, Any]:
        return await self._call("DELETE", path, b"", "application/json")

    # Accounts

    async def statuses(self) -> list[dict[str, Any]]:
        """In pages, so that no answer keeps the program busy for long."""
        found, after = [], ""
        while page := await self.page(after=after, limit=_PAGE):
            found += page
            after = page[-1]["account"]
        return found

    async def page(self, *, after: str = "", limit: int) -> list[dict[str, Any]]:
        path = f"/api/accounts?limit={limit}&after={quote(after, safe='')}"
        found: list[dict[str, Any]] = (await self.get(path))["accounts"]
        return found

    async def overview(self, *, rows: int) -> dict[str, Any]:
        return await self.get(f"/api/overview?rows={rows}")

    async def status(self, account: str) -> dict[str, Any]:
        return await self.get(_at(account))

    async def import_answer(self, account: str, answer: bytes) -> dict[str, Any]:
        return await self.post(f"{_at(account)}/tokens", data=answer)

    async def refresh(self, account: str) -> dict[str, Any]:
        return await self.post(f"{_at(account)}/refresh")

    async def logout(self, account: str) -> dict[str, Any]:
        return await self.delete(_at(account))

    async def rebind(self, account: str) -> dict[str, Any]:
        return await self.post(f"{_at(account)}/rebind")

    # Operations

    async def reload(self) -> dict[str, Any]:
        return await self.post("/api/reload")

    async def backup(self, path: str) -> dict[str, Any]:
        return await self.post("/api/store/backup", {"path": path})

    async def verify(self) -> dict[str, Any]:
        return await self.post("/api/store/verify")

    async def rotate_keys(self) -> dict[str, Any]:
        return await self.post("/api/key/rotate")

    async def examine(self) -> dict[str, Any]:
        return await self.post("/api/doctor")

    async def stop(self) -> dict[str, Any]:
        return await self.post("/api/stop")

    async def logs(self, *, after: int, wait: float) -> dict[str, Any]:
        return await self.get(f"/api/logs?after={after}&wait={wait:g}")

    async def info(self) -> dict[str, Any]:
        return await self.get("/api/status")

    async def _call(self, method: str, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        head = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            "Accept: application/json",
        ]
        if content_type:
            head += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._exchange("\r\n".join([*head, "", ""]).encode() + body)
        except TimeoutError:
            raise TokenproxyError(
                f"tokenproxy did not answer within {self._patience:g} s; what was asked for may still happen.",
                next_step="tokenproxy status",
            ) from None
        return _read(answer)

    async def _exchange(self, request: bytes) -> bytes:
        try:
            with short_path(self._path) as short:
                reader, writer = await asyncio.open_unix_connection(short)
        except OSError as error:
            raise _no_connection(self._path, error) from error
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError as error:
            raise _broken_off() from error
        finally:
            writer.close()


class LoginClient:
    """The running program's logins; satisfies ``operations.LoginOperations``."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def begin(
        self,
        account: str,
        *,
        device: bool = False,
        key: str | None = None,
        return_to: str | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        asked = {"account": account, "device": device, "key": key, "return_to": return_to, "replace": replace}
        return await self._client.post("/api/logins", asked)

    async def status(self, login: str, *, wait: float = 0.0) -> dict[str, Any]:
        return await self._client.get(f"/api/logins/{_part(login)}?wait={wait:g}")

    async def confirm(self, login: str) -> dict[str, Any]:
        return await self._client.post(f"/api/logins/{_part(login)}/confirm")

    async def cancel(self, login: str) -> dict[str, Any]:
        return await self._client.delete(f"/api/logins/{_part(login)}")

    async def paste(self, login: str, address: str) -> dict[str, Any]:
        return await self._client.post(f"/api/logins/{_part(login)}/paste", {"address": address})


def _at(account: str) -> str:
    # The slash as well: ``NAME/state`` would ask for the state of NAME.
    return f"/api/accounts/{quote(account, safe='@')}"


def _part(text: str) -> str:
    return quote(text, safe="")


def _read(answer: bytes) -> dict[str, Any]:
    """The JSON of a whole HTTP answer; raises what the program raised."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, _, fields = head.partition(b"\r\n")
    status = first.split(b" ", 2)[1:2]
    headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    if not status or str(len(body)) != headers.get("Content-Length", ""):
        raise _broken_off()
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError:
        raise _broken_off() from None
    if headers.get_content_type() == CONTENT_TYPE or not status[0].startswith(b"2"):
        raise from_problem(found)
    return found


def _broken_off() -> TokenproxyError:
    return NotRunningError(
        "tokenproxy ended before it had answered; what was asked for may have happened.",
        next_step="tokenproxy status",
    )


def _no_connection(path: Path, error: OSError) -> TokenproxyError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return TokenproxyError(
            f"The admin socket {path} belongs to another user.",
            next_step="Run the command as the user that runs tokenproxy serve.",
        )
    return NotRunningError(f"Nobody serves at {path}.", next_step="tokenproxy serve")
