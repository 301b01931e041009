"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests import planted
from tests.stores.clusters import schema

planted.listen()

for _name in [name for name in os.environ if name.startswith("TOKENPROXY_") and "_TEST_" not in name]:
    del os.environ[_name]  # somebody's own settings are none of the tests' business


if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as of a shell's background job; programs under test inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """R26: what a test planted stands in nothing that was said when it and all its other fixtures have ended."""
    watch = planted.begin()
    yield
    leaks = watch.found()
    if leaks:
        pytest.fail("a planted secret was shown (tests/planted.py):\n" + "\n".join(leaks[:10]), pytrace=False)


@pytest.fixture
def dsn() -> Iterator[str]:
    """A PostgreSQL database without anything in it."""
    with schema() as address:
        yield address


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("TOKENPROXY_TEST_NO_SKIPS"):
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, and here none may be", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where everything is installed (.ci/run), a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("TOKENPROXY_TEST_NO_SKIPS"):
        return
    if reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = 1
