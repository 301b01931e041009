"""``serve``, ``reload`` and ``healthcheck``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy import __version__
from tokenproxy.cli import peek
from tokenproxy.cli.accounts import NEEDS_LOGIN, ROWS, STATES, local_now
from tokenproxy.cli.command import Call, command, operate, shown_store
from tokenproxy.cli.present import Printer, counted, moment, table, when
from tokenproxy.errors import ConfigError, Problem, TokenproxyError

if TYPE_CHECKING:
    import asyncio
    import logging

    from tokenproxy.app import App
    from tokenproxy.config import Config
    from tokenproxy.core.routes import Route
    from tokenproxy.offline import OperatorFace

_TOLD_HERE: Final = frozenset({"started", "listening"})
"""Events that the start-up lines say in words."""
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@command("serve")
def serve(call: Call) -> None:
    """
    Run the proxy until Ctrl-C or SIGTERM.

    SIGHUP reads the config again. On the first signal to end, requests under way are finished first (deadlines.drain); a second signal cuts them off.
    """
    from tokenproxy import config as configs
    from tokenproxy import dumps

    dumps.forbid()

    reading = configs.begin(call.config, os.environ)  # in a child, while this process imports the rest
    from tokenproxy import app, log

    config = reading.result()
    level = "debug" if call.verbose else config.log.level
    handler = log.setup(level, config.log.format)
    tell = not call.out.quiet and _for_people(config)
    if tell:
        handler.addFilter(_not_told_here)
    telling: list[asyncio.Task[None]] = []

    def on_ready(running: App) -> None:
        import asyncio

        if tell:
            telling.append(asyncio.create_task(_tell(call, running), name="start-up lines"))

    app.run(config, environ=os.environ, on_ready=on_ready)


def _for_people(config: Config) -> bool:
    return config.log.format == "text" or (config.log.format == "auto" and sys.stderr.isatty())


def _not_told_here(record: logging.LogRecord) -> bool:
    return getattr(record, "event", None) not in _TOLD_HERE


async def _tell(call: Call, running: App) -> None:
    logins, statuses = 0, []
    try:
        overview = await running.accounts.overview(rows=ROWS)
        logins, statuses = overview["total"] - overview["states"].get("new", 0), overview["accounts"]
        told = {each["account"] for each in statuses}
        if overview["total"] > len(statuses):  # those of routes that name one are told too
            named = {route.account for route in running.config.routes[:ROWS] if "{" not in route.account}
            statuses += [await running.accounts.status(account) for account in sorted(named - told)]
    except TokenproxyError:  # the store's own error is in the log; the addresses are still worth telling
        pass
    place = running.admin_token_place
    for line in start_lines(call, running.config, running.addresses, statuses, logins=logins, sign_in=place):
        call.out.note(call.step(line))


def start_lines(
    call: Call,
    config: Config,
    addresses: Mapping[str, str],
    statuses: Sequence[Mapping[str, Any]],
    *,
    logins: int,
    sign_in: str = "",
) -> list[str]:
    """
    What ``serve`` says when every listener is bound.

    ``logins``: how many there are, told or not; ``sign_in``: where the admin token is.
    """
    routes = counted(len(config.routes), "route")
    store = f"store {shown_store(config.store)} ({counted(logins, 'login')})"
    lines = [f"tokenproxy {__version__}   {call.config}, {routes}, {store}"]
    by_account = {each["account"]: each for each in statuses}
    rows = [
        (
            route.name,
            url_of(route, addresses["proxy"], secure=_secure(config)),
            "->",
            target_of(route),
            _state(route, by_account, call.out),
        )
        for route in config.routes
    ]
    pages = "dashboard, /metrics, /healthz" if config.admin.dashboard else "/metrics, /healthz"
    rows.append(("admin", _page(addresses["admin"], secure=bool(config.admin.tls.cert_file)), "", pages, ""))
    if "metrics" in addresses:
        metrics = _page(addresses["metrics"], secure=bool(config.metrics.tls.cert_file))
        rows.append(("metrics", metrics, "", "/metrics, /healthz, /readyz", ""))
    lines.append(table(rows, indent="  "))
    if config.admin.dashboard:
        lines.append(f"The dashboard asks for the admin token: it is in {sign_in}.")
    lines += _needed(statuses)
    if config.routes:
        lines.append(_how_to_begin(config.routes[0], addresses["proxy"], secure=_secure(config)))
    return [*lines, "Ctrl-C stops."]


def _needed(statuses: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"Next:  {each['next_step']}"
        for each in statuses
        if each["state"] in NEEDS_LOGIN and each["next_step"]
    ]


def _secure(config: Config) -> bool:
    """Whether the first listener speaks TLS."""
    return bool(config.server.listen[0].tls.cert_file)


def _how_to_begin(route: Route, address: str, *, secure: bool) -> str:
    first, header = url_of(route, address, secure=secure), route.inject.header
    if is_proxied(route):
        return f"Give the app http_proxy={_page(address, secure=secure)} and {first} as its base URL, and leave its {header} header out."
    return f"Point the app at {first} and leave its {header} header out."


def is_proxied(route: Route) -> bool:
    """Whether apps use it by taking us for their proxy: it has the name of its upstream."""
    return bool(route.host) and route.host == route.upstream.host


def url_of(route: Route, address: str, *, secure: bool = False) -> str:
    """Where an app finds a route."""
    if address.startswith(("unix:", "systemd:")):
        return f"{address} {route.prefix}"
    if is_proxied(route):
        return f"http://{route.host}{route.prefix}"
    host, _, port = _reachable(address).rpartition(":")
    return f"{'https' if secure else 'http'}://{route.host or host}:{port}{route.prefix.rstrip('/')}"


def target_of(route: Route) -> str:
    """Without the port where it is the scheme's own; with the names that a login will fill."""
    upstream = route.upstream
    return upstream.template or f"{upstream.scheme}://{upstream.authority}{upstream.path}"


def _page(address: str, *, secure: bool = False) -> str:
    if address.startswith("unix:"):
        return address
    return f"{'https' if secure else 'http'}://{_reachable(address)}"


def _reachable(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}{colon}{port}"


def _state(route: Route, by_account: Mapping[str, Mapping[str, Any]], out: Printer) -> str:
    status = by_account.get(route.account)
    if status is None:
        return ""
    kind, words = STATES.get(status["state"], ("warn", str(status["state"])))
    now = local_now()
    ends = moment(status["expires_at"], now)
    if status["state"] == "ok":
        words = f"token until {when(ends, now)}" if status["live"] and ends else "logged in"
    return f"{out.mark(kind, stream=sys.stderr)} {words}"


@command("reload", json=True)
def reload(call: Call) -> None:
    """
    Let the running serve read its config again.

    A file with mistakes changes nothing, and all of them are told.
    """

    async def work(_: Config, face: OperatorFace) -> dict[str, Any]:
        return await face.reload()

    answer = operate(call, work)
    if call.json:
        call.out.json(answer)
        return
    parts = [
        counted(answer[name], name.removesuffix("s")) for name in ("accounts", "routes") if name in answer
    ]
    call.out.done(f"{call.config} is in force" + (f": {', '.join(parts)}" if parts else ""))
    later = answer.get("restart_needed")
    if later:
        call.out.done(f"in force after a restart of serve only: {', '.join(later)}", mark="warn")


@command("healthcheck")
@click.option(
    "--ready", is_flag=True, help="Ask /readyz (should requests come here?) and not /healthz (is it alive?)."
)
@click.option("--timeout", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="In seconds.")
def healthcheck(call: Call, *, ready: bool, timeout: float) -> int:
    """
    Ask whether serve is well; for containers.

    Asks the metrics listener, else the admin listener, of the config. Exit code 0: it is; 1: it is not, or nobody
    answers there.
    """
    # Not through app, which imports every part: a container's engine asks every few seconds.
    from tokenproxy.admin.probe import probe

    well, said = probe(_health_address(call.config), timeout, path="/readyz" if ready else "/healthz")
    if well:
        call.out.say(said)
        return 0
    call.out.error(f"tokenproxy: not well: {said}")
    return 1


def _health_address(path: Path) -> str:
    try:
        address = peek.health_address(path, os.environ)
    except OSError as failed:
        error = ConfigError(str(path), [Problem("", f"cannot be read: {failed.strerror}")])
        error.next_step = "tokenproxy init"
        raise error from failed
    except ValueError as failed:
        error = ConfigError(str(path), [Problem("", "is not TOML")])
        error.next_step = "tokenproxy check"
        raise error from failed
    if address.endswith(":0"):
        raise TokenproxyError(
            f"{address} takes any free port, so that nobody can know where to ask",
            next_step="name a port in [metrics] listen or [admin] listen",
        )
    return address


@command("stop", json=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=90.0,
    show_default=True,
    help="Seconds to wait for the end.",
)
def stop(call: Call, *, timeout: float) -> int:
    """
    Let the running serve end, and wait until it has.

    As SIGTERM does: requests under way are finished first (deadlines.drain), and every renewal that was sent. Exit code 1 if it has not ended in time.
    """

    async def work(_: Config, face: OperatorFace) -> dict[str, Any]:
        return await face.stop(patience=timeout)

    answer = operate(call, work, create=False)
    if call.json:
        call.out.json(answer)
    elif answer["ended"]:
        call.out.done(f"serve has ended (process {answer['pid']})")
    if not answer["ended"]:
        raise TokenproxyError(
            f"serve (process {answer['pid']}) has not ended within {timeout:g} s: it finishes what is under way",
            next_step="tokenproxy stop   (to wait longer), or a second signal, which cuts requests off: "
            f"kill {answer['pid']}",
        )
    return 0
