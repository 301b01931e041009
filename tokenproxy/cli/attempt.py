"""One attempt of ``tokenproxy login``: the address that is told, what is waited for, and how it ends."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tokenproxy.cli.accounts import local_now
from tokenproxy.cli.command import Call, UnusableError
from tokenproxy.cli.pasted import Pasted
from tokenproxy.cli.present import moment, span
from tokenproxy.core.device import by_device
from tokenproxy.core.login import (
    callback_address,
)
from tokenproxy.core.provider import LOGIN_GRANTS
from tokenproxy.errors import (
    AccountError,
    BadLoginError,
    LoginRequiredError,
    MisconfiguredError,
    ProviderUnavailableError,
    StoreUnavailableError,
    TokenproxyError,
    UnknownLoginError,
)

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.offline import OperatorFace

_POLL: Final = 30.0
"""Seconds of one question whether something has changed."""
_CANCEL_PATIENCE: Final = 5.0

_NO_LOGIN: Final = frozenset({"access_denied", "provider_refused", "cancelled", "expired", "interrupted"})
_OUR_STORE: Final = frozenset({"store_failed", "state_full"})
_OUR_CONFIG: Final = frozenset({"registration_changed"})


class LoginAttempt:
    """One attempt, from the address to its end."""

    def __init__(self, call: Call, account: str, config: Config, face: OperatorFace) -> None:
        self._call = call
        self._out = call.out
        self._account = account
        self._config = config
        self._face = face
        self._desk = face.logins

    async def run(self, *, device: bool, browser: bool, replace: bool) -> dict[str, Any]:
        """Its last status. Raises ``TokenproxyError`` where nobody is logged in at the end."""
        spec = self._config.accounts.get(self._account.partition("/")[0])
        if device or (spec is not None and by_device(spec)):
            return await self._watched(await self._begin(device=True, replace=replace), browser=False)
        if spec is not None and spec.grant in LOGIN_GRANTS:  # else its own sentence follows
            _require_port(self._config)
        async with self._face.callbacks():
            return await self._watched(await self._begin(device=False, replace=replace), browser=browser)

    async def _begin(self, *, device: bool, replace: bool) -> dict[str, Any]:
        return await self._desk.begin(self._account, device=device, replace=replace)

    async def _watched(self, begun: Mapping[str, Any], *, browser: bool) -> dict[str, Any]:
        ended = False
        try:
            with Pasted() as pasted:
                self._tell(begun, browser=browser and may_open_browser(os.environ))
                found = await self._until_ended(begun["id"], pasted)
            ended = True
        finally:
            if not ended:
                await self._give_up(begun["id"])
        if found["state"] != "success":
            raise _failure(self._account, found)
        return found

    async def _give_up(self, login: str) -> None:
        with suppress(TokenproxyError, TimeoutError):
            async with asyncio.timeout(_CANCEL_PATIENCE):
                await self._desk.cancel(login)

    async def _until_ended(self, login: str, pasted: Pasted) -> dict[str, Any]:
        reading = asyncio.ensure_future(pasted.line())
        polling: asyncio.Future[dict[str, Any]] | None = None
        try:
            while True:
                polling = asyncio.ensure_future(self._desk.status(login, wait=_POLL))
                await asyncio.wait({reading, polling}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    polling.cancel()
                    await self._paste(login, reading.result())
                    reading = asyncio.ensure_future(pasted.line())
                    continue
                found = polling.result()
                if found["question"]:
                    reading.cancel()
                    return await self._asked(found, pasted)
                if found["state"] != "pending":
                    return found
        finally:
            reading.cancel()
            if polling is not None:
                polling.cancel()

    async def _paste(self, login: str, address: str) -> None:
        """A wrong address is told, and the login goes on."""
        try:
            await self._desk.paste(login, address)
        except (BadLoginError, UnknownLoginError) as error:
            self._out.error(f"{self._out.mark('bad', stream=sys.stderr)} {error.message}: {error.next_step}")

    async def _asked(self, found: Mapping[str, Any], pasted: Pasted) -> dict[str, Any]:
        if not pasted.person:
            raise UnusableError(
                f"{found['question']} Nobody can be asked here, so nothing was replaced",
                next_step=f"tokenproxy login {self._account} --replace   (says yes)",
            )
        while found["question"]:  # another one follows where somebody else has logged in meanwhile
            if not await pasted.yes(found["question"]):
                return await self._desk.cancel(found["id"])
            found = await self._desk.confirm(found["id"])
        return dict(found)

    # -- what is told ----------------------------------------------------------------------------------------------

    def _tell(self, begun: Mapping[str, Any], *, browser: bool) -> None:
        if "user_code" in begun:
            self._tell_device(begun)
        elif browser:
            self._tell_browser(begun)
        else:
            self._tell_address(begun)

    def _tell_browser(self, begun: Mapping[str, Any]) -> None:
        host = urlsplit(begun["authorize_url"]).hostname
        self._out.note(f"Register this address: {self._callback}   (once, at the provider)")
        self._out.note(f"Your browser opens the login page of {host}.")
        self._out.note(f"If it does not:   {begun['start_url']}")
        self._out.note(f"Waiting on {self._callback}  ({self._left(begun)}, Ctrl-C to stop) ...")
        open_browser(begun["start_url"], self._out.error)

    def _tell_address(self, begun: Mapping[str, Any]) -> None:
        self._out.note(f"Register this address: {self._callback}   (once, at the provider)")
        self._out.error(f"Open this address in a browser:\n\n{begun['authorize_url']}\n")
        self._out.note(
            f"Waiting on {self._callback}  ({self._left(begun)}, Ctrl-C to stop) ...\n"
            "Where the browser cannot reach that, paste the address that it ends on, and Enter; it is not shown."
        )

    def _tell_device(self, begun: Mapping[str, Any]) -> None:
        address = begun["verification_uri"]
        self._out.error(f"Your one-time code:   {begun['user_code']}        (ends in {self._left(begun)})")
        self._out.error(f"Open                  {address}")
        if sys.stderr.isatty():
            self._out.note(qr_code(begun["verification_uri_complete"] or address))
        self._out.note("Waiting ...  (Ctrl-C to stop)")

    @property
    def _callback(self) -> str:
        """As it is registered: of the random kind without the key, which is this login's state."""
        spec = self._config.accounts[self._account.partition("/")[0]]
        return callback_address(self._config.admin.public_url, spec)

    def _left(self, begun: Mapping[str, Any]) -> str:
        now = local_now()
        ends = moment(begun["expires_at"], now)
        return span(ends - now) if ends is not None else "?"


def _failure(account: str, found: Mapping[str, Any]) -> AccountError:
    code = found["error"]
    kind: type[AccountError] = ProviderUnavailableError
    if code in _NO_LOGIN:
        kind = LoginRequiredError
    elif code in _OUR_STORE:
        kind = StoreUnavailableError
    elif code in _OUR_CONFIG:
        kind = MisconfiguredError
    return kind(
        f"the login of {account} failed ({code.replace('_', ' ')}): {found['detail']}",
        account=account,
        reason=code,
        next_step=found["next_step"],
    )


def _require_port(config: Config) -> None:
    if config.admin.public_url.endswith(":0"):
        raise UnusableError(
            "admin.listen takes any free port, so that no callback address can be registered at a provider",
            next_step="name a port in [admin] listen",
        )


# -- the browser -------------------------------------------------------------------------------------------------------


def may_open_browser(environ: Mapping[str, str]) -> bool:
    """Whether there is a screen that the person sits before; ``BROWSER`` says so in any case."""
    if environ.get("BROWSER"):
        return True
    if environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"):
        return False
    return sys.platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def open_browser(address: str, tell: Callable[[str], None]) -> None:
    """In a thread that nobody waits for: some browsers end only when they are closed."""
    import webbrowser

    def opening() -> None:
        if not webbrowser.open(address):
            tell("No browser could be opened here: open the address yourself.")

    threading.Thread(target=opening, name="browser", daemon=True).start()


def qr_code(text: str) -> str:
    """As blocks on a terminal, or what brings it there."""
    try:
        import segno
    except ImportError:
        return "A QR code would stand here:  pip install segno"
    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=drawn, compact=True, border=2)
    return drawn.getvalue().rstrip("\n")
