"""``[forward_auth]``: where other proxies ask for tokens, and for which routes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tokenproxy.config import values
from tokenproxy.config.addresses import Listener
from tokenproxy.config.models import ForwardAuth
from tokenproxy.config.reading import Reading
from tokenproxy.config.words import Report, did_you_mean, shown
from tokenproxy.core.forward_auth import unfit
from tokenproxy.core.routes import Route
from tokenproxy.core.settings import Listen

_AT = ("forward_auth", "listen")


def read_forward_auth(
    table: ForwardAuth,
    listens: Sequence[tuple[Listener, Listen]],
    *,
    keys: bool,
    routes: Iterable[Route],
    names: Iterable[str],
    reading: Reading,
) -> values.ForwardAuth:
    """``keys``: callers show who they are; ``names``: those of all routes, the ones with mistakes too."""
    report = reading.report
    sound = {route.name: route for route in routes}
    _check_listeners([each for each, _ in listens], report)
    for listener, listen in listens:
        _check_closed(
            listener,
            listen,
            [sound[name] for name in table.routes if name in sound],
            keys=keys,
            report=report,
        )
    if table.listen and not table.routes:
        report.problem(("forward_auth", "routes"), "is missing: the routes whose tokens may be asked for")
    if table.routes and not table.listen:
        report.problem(_AT, "is missing: where other proxies ask")
    known = list(names)
    for item, name in enumerate(table.routes):
        if name not in known:
            report.problem(
                ("forward_auth", "routes", item),
                f"there is no route {shown(name)}.{did_you_mean(name, known)}",
            )
        elif name in sound and (why := unfit(sound[name])):
            report.problem(("forward_auth", "routes", item), f"{shown(name)} {why}")
    return values.ForwardAuth(
        listen=tuple(replace(listen, asks=True) for _, listen in listens), routes=frozenset(table.routes)
    )


def _check_listeners(found: list[Listener], report: Report) -> None:
    for item, each in enumerate(found):
        if each.passed:
            report.problem(_AT, "must be an address or unix:PATH; only server.listen takes systemd:")
        if any(each.clashes(earlier) for earlier in found[:item]):
            report.problem(_AT, f"names {each} twice")


def _check_closed(
    listener: Listener, listen: Listen, routes: Iterable[Route], *, keys: bool, report: Report
) -> None:
    """Who gets in here gets tokens, so that not even loopback is good enough: every user of the machine is there."""
    file = listener.path and listener.path[:1] != "@"
    certified = listen.tls.ca_file and not listen.client_optional
    asked = all(ways is None or ways for ways in (listen.auth, *(route.auth for route in routes)))
    if file or listener.passed or certified or (keys and asked):
        return
    report.problem(
        _AT,
        f"{listener} gives tokens to everybody who can connect: use unix:PATH, set client_ca_file, "
        "or have callers show who they are ([callers.*], without an empty auth)",
    )
