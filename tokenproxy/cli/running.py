"""``run``: a command with the proxy beside it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli.accounts import NEEDS_LOGIN
from tokenproxy.cli.command import Call, UnusableError, command, end_gently_on_sigterm, load
from tokenproxy.cli.serving import is_proxied, url_of
from tokenproxy.errors import TokenproxyError

if TYPE_CHECKING:
    import asyncio

    from tokenproxy.config import Config
    from tokenproxy.core.routes import Route

_PASSED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_NO_PROXY: Final = "127.0.0.1,localhost,::1"
_READY: Final = 60.0
"""Seconds in which the proxy must be ready; a renewal in doubt is asked again first."""


class NotLoggedInError(TokenproxyError):
    """A route needs a login, and whoever runs the command would only see 503s."""

    exit_code = 3


class NotFoundError(TokenproxyError):
    """As shells say it (POSIX, Shell Command Language 2.8.2)."""

    exit_code = 127


class NotRunnableError(TokenproxyError):
    exit_code = 126


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the command finds the proxy."""

    address: str
    """``127.0.0.1:41234``."""
    secure: bool
    statuses: Sequence[Mapping[str, Any]]
    """Of the accounts that routes name."""
    ending: asyncio.Event | None = None
    """Set when our own proxy is asked to end (``tokenproxy stop``)."""


@command("run", rest=True)
@click.option("--anyway", is_flag=True, help="Run CMD although a route needs a login.")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
def run(call: Call, *, anyway: bool, cmd: tuple[str, ...]) -> int:
    """
    Run a command with the proxy beside it, and end with it.

    \b
      tokenproxy run -- ./import.sh
      tokenproxy run -- sh -c 'curl -s $BOOKS_BASE_URL/v1/contacts'

    Each route is NAME_BASE_URL in CMD's environment (books-eu is BOOKS_EU_BASE_URL); where a route is used by taking us for
    an HTTP proxy, http_proxy and HTTP_PROXY are set as well. The proxy takes a free port; where serve runs already, that is used.
    Signals go on to CMD, and its exit code is ours.
    """  # noqa: D301 - \b is click's
    import asyncio

    config = load(call)
    _log_quietly(call, config)
    words = cmd[1:] if cmd[0] == "--" else cmd
    if not words:
        raise UnusableError("there is no command to run", next_step="tokenproxy run -- CMD")
    try:
        return asyncio.run(_run(call, config, words, anyway=anyway))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _log_quietly(call: Call, config: Config) -> None:
    """CMD's words come first: of ours only what is amiss, unless more is asked for."""
    from tokenproxy import log

    level = (
        "debug" if call.verbose else "error" if call.out.quiet or config.log.level == "error" else "warning"
    )
    log.setup(level, "text")


async def _run(call: Call, config: Config, words: Sequence[str], *, anyway: bool) -> int:
    end_gently_on_sigterm()
    async with _proxy(config) as proxy:
        needed = [each for each in proxy.statuses if each["state"] in NEEDS_LOGIN]
        if needed and not anyway:
            raise NotLoggedInError(
                f"{', '.join(sorted(each['account'] for each in needed))}: {needed[0]['detail']}; nothing was run",
                next_step=f"{needed[0]['next_step']}   (or: tokenproxy run --anyway -- ...)",
            )
        given = environment_of(config.routes, proxy)
        for name, value in given.items():
            if name.endswith("_BASE_URL"):
                call.out.note(f"{name}={value}")
        return await _child(words, {**os.environ, **given, **_kept(given)}, proxy.ending)


def _kept(given: Mapping[str, str]) -> dict[str, str]:
    """``no_proxy`` of the surroundings stays, with ours before it."""
    if "no_proxy" not in given:
        return {}
    own = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    both = ",".join(each for each in (_NO_PROXY, own) if each)
    return {"no_proxy": both, "NO_PROXY": both}


def environment_of(routes: Iterable[Route], proxy: Proxy) -> dict[str, str]:
    """Variable -> address, for CMD."""
    found = {}
    proxied = False
    for route in routes:
        found[variable(route.name)] = url_of(route, proxy.address, secure=proxy.secure)
        proxied = proxied or is_proxied(route)
    if proxied:
        address = f"{'https' if proxy.secure else 'http'}://{proxy.address}"
        found |= {"http_proxy": address, "HTTP_PROXY": address, "no_proxy": _NO_PROXY, "NO_PROXY": _NO_PROXY}
    return found


def variable(route: str) -> str:
    """``books-eu`` -> ``BOOKS_EU_BASE_URL``."""
    return f"{re.sub(r'[^A-Z0-9]', '_', route.upper())}_BASE_URL"


# -- the proxy ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _proxy(config: Config) -> AsyncIterator[Proxy]:
    """The running ``serve``, else one of our own for as long as the block lasts."""
    from tokenproxy import offline

    running = await offline.running(config, patience=10.0)
    if running is not None:
        async with offline.operations(config, environ=os.environ, create=False) as face:
            statuses = await _statuses(config, face.accounts.status)
        yield _of_serve(config, running, statuses)
        return
    from tokenproxy import app

    started = await app.start(_beside(config), environ=os.environ)
    try:
        await _ready(started)
        statuses = await _statuses(config, started.accounts.status)
        yield Proxy(started.addresses["proxy"], secure=False, statuses=statuses, ending=started.ending)
    finally:
        await started.close()
        await started.tell_losses()


def _of_serve(config: Config, running: Mapping[str, Any], statuses: Sequence[Mapping[str, Any]]) -> Proxy:
    """Its first listener that a command can be pointed at."""
    listeners: Mapping[str, str] = running["listeners"]
    names = sorted(name for name in listeners if name.startswith("proxy"))
    for number, name in enumerate(names):
        address = listeners[name]
        if not address.startswith(("unix:", "systemd:")):
            secure = number < len(config.server.listen) and bool(config.server.listen[number].tls.cert_file)
            return Proxy(address, secure=secure, statuses=statuses)
    raise UnusableError(
        "the running serve listens on no TCP port, to which a command could be pointed",
        next_step='add one to server.listen, for example "127.0.0.1:8080", then: tokenproxy reload',
    )


def _beside(config: Config) -> Config:
    """The same with a free port of its own; the admin listener where the config has it, if that is free."""
    from tokenproxy.core.settings import Listen

    server = replace(config.server, listen=(Listen(address="127.0.0.1:0"),))
    admin = config.admin
    if not _is_free(admin.listen):
        admin = replace(admin, listen="127.0.0.1:0")
    return replace(config, server=server, admin=admin, metrics=replace(config.metrics, listen=None))


def _is_free(address: str) -> bool:
    import socket

    host, _, port = address.rpartition(":")
    try:
        with socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if "[" in host else socket.AF_INET
        ):
            return True
    except (OSError, ValueError):
        return False


async def _ready(started: Any) -> None:
    """Raises ``TokenproxyError``."""
    import asyncio

    reasons: dict[str, str] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY):
            while reasons := await started.health.reasons():  # noqa: ASYNC110 - an answer is believed for a second
                await asyncio.sleep(0.05)
            return
    raise TokenproxyError(
        f"the proxy did not become ready: {'; '.join(reasons.values())}", next_step="tokenproxy doctor"
    )


async def _statuses(config: Config, status: Callable[[str], Any]) -> list[Mapping[str, Any]]:
    """Of every account that a route names itself; whose requests name one is told by its answer."""
    names = sorted({route.account for route in config.routes if "{" not in route.account})
    return [await status(name) for name in names]


# -- the command -------------------------------------------------------------------------------------------------------


async def _child(words: Sequence[str], environ: Mapping[str, str], ending: asyncio.Event | None) -> int:
    """Its exit code, as a shell would give it."""
    import asyncio
    import resource

    passing = _Passing()
    with passing.on():
        try:
            child = await asyncio.create_subprocess_exec(*words, env=dict(environ))
        except FileNotFoundError:
            raise NotFoundError(
                f"there is no command {words[0]}", next_step="see its name, and PATH"
            ) from None
        except OSError as error:
            raise NotRunnableError(
                f"{words[0]} cannot be run: {error.strerror}", next_step="see its permissions"
            ) from None
        passing.to(child)
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # ours would hold tokens; the command has its own
        code = await _ended(child, ending)
    return 128 - code if code < 0 else code


async def _ended(child: asyncio.subprocess.Process, ending: asyncio.Event | None) -> int:
    import asyncio

    async def end() -> None:
        if ending is not None:
            await ending.wait()
            child.terminate()

    ask = asyncio.ensure_future(end())
    try:
        return await child.wait()
    finally:
        ask.cancel()


class _Passing:
    """What we are told is told to the command; Ctrl-C and its like a terminal tells to both already."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._early: list[int] = []
        """Signals that came before there was a command."""

    def to(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        for number in self._early:
            self._tell(number)

    @contextmanager
    def on(self) -> Iterator[None]:
        import asyncio

        loop = asyncio.get_running_loop()
        for number in _PASSED:
            loop.add_signal_handler(number, self._tell, number)
        try:
            yield
        finally:
            for number in _PASSED:
                loop.remove_signal_handler(number)

    def _tell(self, number: int) -> None:
        if self._child is None:
            self._early.append(number)
            return
        if number in {signal.SIGINT, signal.SIGQUIT} and _in_foreground():
            return
        with suppress(ProcessLookupError):
            self._child.send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal's keys reach us, and so the command, which is of our group."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
