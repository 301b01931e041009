"""Real listeners of the admin side on free ports and in a short directory."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.admin.program import NOON, TOKEN, Program, gauges
from tests.admin.program import Desk as LoginDesk
from tokenproxy.admin.api import Desk, metrics_app, socket_app, tcp_app
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import Running, serve_tcp, serve_unix
from tokenproxy.admin.token import AdminToken
from tokenproxy.metrics import Metrics


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def logins() -> LoginDesk:
    return LoginDesk()


@pytest.fixture
def pages(logins: LoginDesk) -> LoginPages:
    return LoginPages(logins, "https://tokens.example:8443", posts=lambda account: account == "posting")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def health() -> Health:
    health = Health()
    health.started = True
    return health


@pytest.fixture
def desk(program: Program, logins: LoginDesk, metrics: Metrics, health: Health) -> Desk:
    exposition = Exposition(metrics, accounts=gauges, spooled=lambda: 0, ready=lambda: health.ready)
    token = AdminToken(TOKEN, place="the file tokenproxy.db.admin-token")
    return Desk(
        program,
        logins,
        program,
        health,
        exposition,
        token=lambda: token,
        states=program.states,
        now=lambda: NOON,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket's name, where pytest's own would not always be."""
    with tempfile.TemporaryDirectory(prefix="tp-") as name:
        yield Path(name)


@pytest.fixture
async def socket_path(desk: Desk, folder: Path) -> AsyncIterator[Path]:
    running = await serve_unix(socket_app(desk), folder / "admin.sock")
    yield folder / "admin.sock"
    await running.close()


@pytest.fixture
async def tcp(desk: Desk, pages: LoginPages) -> AsyncIterator[Running]:
    guard = Guard.of("https://tokens.example:8443", ["inside.example"])
    running = await serve_tcp(tcp_app(desk, guard, pages), "127.0.0.1:0", key="admin.listen")
    yield running
    await running.close()


@pytest.fixture
async def scrape(desk: Desk) -> AsyncIterator[Running]:
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen")
    yield running
    await running.close()
