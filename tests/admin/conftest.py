"""Real listeners of the admin side on free ports and in a short directory."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.admin.program import BOOKS, NOON, TOKEN, Program, examined, gauges
from tests.admin.program import Desk as LoginDesk
from tests.simulators import FakeClock
from tokenproxy.admin.api import Desk, metrics_app, socket_app, tcp_app
from tokenproxy.admin.dashboard.history import History
from tokenproxy.admin.dashboard.pages import Dashboard
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import Running, serve_tcp, serve_unix
from tokenproxy.admin.token import AdminToken
from tokenproxy.core.provider import Account, Registration
from tokenproxy.core.routes import Route, Upstream
from tokenproxy.metrics import Metrics
from tokenproxy.stores.memory import MemoryStore


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
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def history(metrics: Metrics, clock: FakeClock) -> History:
    return History(metrics, clock)


@pytest.fixture
def tables() -> dict[str, Account]:
    return {"books": Account(name="books", provider=BOOKS, registration=Registration(client_id="c"))}


@pytest.fixture
def routes() -> list[Route]:
    upstream = Upstream(scheme="https", host="api.example", port=443, authority="api.example")
    return [Route(name="books", prefix="/books/", upstream=upstream, account="books")]


@pytest.fixture
def sight(
    program: Program,
    logins: LoginDesk,
    health: Health,
    history: History,
    metrics: Metrics,
    clock: FakeClock,
    tables: dict[str, Account],
    routes: list[Route],
) -> Sight:
    return Sight(
        accounts=program,
        logins=logins,
        operations=program,
        health=health,
        history=history,
        token=lambda: AdminToken(TOKEN, place="the file tokenproxy.db.admin-token"),
        clock=clock,
        routes=lambda: routes,
        tables=lambda: tables,
        metrics=metrics,
        store=MemoryStore(),
        store_name="tokenproxy.db",
        unstored=lambda: 0,
        in_flight=lambda: 3,
        examine=examined,
        public_url="https://tokens.example:8443",
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
async def tcp(desk: Desk, pages: LoginPages, sight: Sight) -> AsyncIterator[Running]:
    guard = Guard.of("https://tokens.example:8443", ["inside.example"])
    app = tcp_app(desk, guard, pages, Dashboard(sight))
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen")
    yield running
    await running.close()


@pytest.fixture
async def scrape(desk: Desk) -> AsyncIterator[Running]:
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen")
    yield running
    await running.close()
