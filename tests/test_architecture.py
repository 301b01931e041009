"""The house: imports point one way, ``core`` is pure, and the words are used as agreed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tokenproxy"
SOURCES = sorted(PACKAGE.rglob("*.py"))

SHELLS = {"oauth", "proxy", "stores", "admin"}
LEAVES = {"errors", "log", "metrics", "audit", "tracing"}
ALLOWED = {
    "__init__": set[str](),
    "__main__": {"cli"},
    "errors": set[str](),
    "log": set[str](),
    "metrics": set[str](),
    "systemd": set[str](),
    "audit": {"core", "log", "errors"},
    "dumps": set[str](),
    "tracing": {"core", "log"},
    "core": {"errors"},
    "config": {"core", "errors", "dumps"},
    **{shell: {"core", *LEAVES} for shell in SHELLS},
    "parts": {"core", "config", *SHELLS, *LEAVES},
    "offline": {"parts", "core", "config", *SHELLS, *LEAVES},
    "doctor": {"parts", "core", "config", *SHELLS, *LEAVES},
    "app": {"parts", "doctor", "core", "config", "systemd", "dumps", *SHELLS, *LEAVES},
    "cli": {"app", "offline", "doctor", "parts", "config", "core", "errors", "log", "dumps"},
}
"""Area -> areas it may import beside itself; the version in ``tokenproxy/__init__.py`` is everybody's."""

EXCEPTIONS = {("cli", "tokenproxy.admin.probe")}
"""``healthcheck`` runs every few seconds in a container; importing ``app`` for it would take 0.4 s each time."""

IMPURE = {
    "aiohttp", "aiosqlite", "asyncio", "cryptography", "logging", "os", "random", "secrets", "socket", "sqlite3",
    "ssl", "subprocess", "threading", "time", "pathlib", "io",
}  # fmt: skip
PRINTS = {"cli"}


def area_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, at its top and inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "tokenproxy":
                yield from (f"tokenproxy.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """cli -> {app, offline, doctor} -> parts -> {oauth, proxy, stores, admin} -> core; app asks doctor too; shells never meet."""
    own = area_of(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top != "tokenproxy" or rest in {"", "__version__"}:
            continue
        if (own, name) in EXCEPTIONS:
            continue
        area = rest.partition(".")[0]
        assert area == own or area in ALLOWED[own], f"{own} must not import {name}"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if area_of(path) == "core"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_core_is_pure(path: Path) -> None:
    """No sockets, no clock, no randomness, no logging: whatever core decides can be decided again in a test."""
    found = {name.partition(".")[0] for name in imported(path)} & IMPURE

    assert not found
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    }
    assert not calls & {"datetime.now", "datetime.utcnow", "open", "print"}


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if area_of(path) not in PRINTS],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_only_commands_print_and_exit(path: Path) -> None:
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    }

    assert not calls & {"print", "sys.exit", "exit", "click.echo"}


def test_every_area_of_the_package_has_its_rule() -> None:
    """A new folder that nobody wrote a rule for would be free to import anything."""
    assert {area_of(path) for path in SOURCES} == set(ALLOWED)


def test_nothing_is_called_manager_helper_or_utils() -> None:
    """A name that could mean anything collects anything."""
    for path in SOURCES:
        names = {
            node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
        }
        names.add(path.stem)
        assert not {
            name for name in names if name.lower().endswith(("manager", "helper", "helpers", "utils", "util"))
        }
