"""What the admin side asks of the running program, beside ``core.interfaces.Accounts``."""

from __future__ import annotations

from typing import Any, Protocol


class Operations(Protocol):
    """``app`` implements it; ``client.AdminClient`` asks for the same over the socket."""

    async def reload(self) -> dict[str, Any]:
        """Read the config file again and put it in force. Raises ``ConfigError``; then nothing has changed."""

    async def rotate_keys(self) -> dict[str, Any]:
        """Seal every row anew under the first key: ``{"resealed": rows, "key_id": ...}``. Raises ``StoreError``."""

    async def backup(self, path: str) -> dict[str, Any]:
        """Copy the store into a new file, named by an absolute path: ``{"path", "accounts"}``. Raises ``StoreError``."""

    async def verify(self) -> dict[str, Any]:
        """Open every row: ``stores.verify_store`` says what comes of it. Raises ``StoreError``."""

    async def examine(self) -> dict[str, Any]:
        """
        Look at everything that commonly breaks: ``{"findings": [...]}``, each as ``doctor.Finding`` has it.

        Takes seconds, and asks providers and upstreams without a credential.
        """

    async def stop(self) -> dict[str, Any]:
        """Begin to end, as at SIGTERM: ``{"pid", "in_flight"}``."""

    async def logs(self, *, after: int, wait: float) -> dict[str, Any]:
        """
        The last lines of the log behind so many, at once or as soon as there are some, within ``wait`` seconds.

        ``{"lines": [JSON text, ...], "next": what to ask for next, "missed": lines that are gone}``.
        """

    async def info(self) -> dict[str, Any]:
        """``{"version", "pid", "uptime" (seconds), "listeners": {name: address}, "config": path}``."""


class LoginOperations(Protocol):
    """The part of ``core.interfaces.Logins`` that commands ask for; ``client.LoginClient`` asks over the socket."""

    async def begin(
        self,
        account: str,
        *,
        device: bool = False,
        key: str | None = None,
        return_to: str | None = None,
        replace: bool = False,
    ) -> dict[str, Any]: ...

    async def status(self, login: str, *, wait: float = 0.0) -> dict[str, Any]: ...

    async def confirm(self, login: str) -> dict[str, Any]: ...

    async def cancel(self, login: str) -> dict[str, Any]: ...

    async def paste(self, login: str, address: str) -> dict[str, Any]: ...
