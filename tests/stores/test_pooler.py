"""Behind a real PgBouncer in transaction mode: each statement may run on another connection of the server's."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from tests.simulators import free_port
from tests.stores.clusters import with_options
from tests.stores.contract import StoreContract
from tests.stores.values import KEY, LEASE, NOW, adopt, claim, commit, tokens
from tokenproxy.core.interfaces import Store
from tokenproxy.core.settings import SharedStore
from tokenproxy.errors import StoreError
from tokenproxy.stores.postgres import PostgresStore, open_postgres

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
POOLED = SharedStore(pooled=True)
CONFIG = """
[databases]
pooled = host={host} port={port} dbname={database} user={user} connect_query='SET search_path = {schema}'

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_check_query = SELECT 1
"""
TLS = """
client_tls_sslmode = require
client_tls_key_file = {folder}/key.pem
client_tls_cert_file = {folder}/cert.pem
"""


@asynccontextmanager
async def pgbouncer(dsn: str, cert: trustme.LeafCert | None = None, *, size: int = 2) -> AsyncIterator[str]:
    """The address of a PgBouncer with ``size`` connections to the server behind ``dsn``; with ``cert`` only by TLS."""
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed")
    parts, options = urlsplit(dsn), parse_qs(urlsplit(dsn).query)
    host = options.get("host", [parts.hostname or ""])[0]
    listen = free_port()
    with tempfile.TemporaryDirectory(prefix="tokenproxy-pooler-") as folder:
        Path(folder).chmod(0o755)  # where root starts it, it runs as somebody else
        config = Path(folder, "pgbouncer.ini")
        if cert is not None:
            cert.private_key_pem.write_to_path(f"{folder}/key.pem")
            cert.cert_chain_pems[0].write_to_path(f"{folder}/cert.pem")
        config.write_text(
            (CONFIG + TLS * (cert is not None)).format(
                folder=folder,
                host=host,
                port=parts.port or 5432,
                database=parts.path.strip("/") or "postgres",
                user=parts.username or "postgres",
                size=size,
                schema=options["search_path"][0],
                listen=listen,
            )
        )
        process = await asyncio.create_subprocess_exec(
            PGBOUNCER, "-q", config, user=_unprivileged(host), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield f"postgresql://anybody@127.0.0.1:{listen}/pooled"
        finally:
            process.terminate()
            await process.wait()


def _unprivileged(host: str) -> str | int | None:
    """PgBouncer refuses to run as root; a server's own Unix socket lets in its owner."""
    if os.geteuid() != 0:
        return None
    return os.stat(host).st_uid if host.startswith("/") else "nobody"


async def opened_behind(pooler: str, clock: str = "clock_timestamp()") -> PostgresStore:
    """As soon as the pooler listens."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, line = await asyncio.open_connection("127.0.0.1", urlsplit(pooler).port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
                continue
            line.close()
            return await open_postgres(pooler, [KEY], settings=POOLED, clock=clock)


class TestContractBehindAPooler(StoreContract):
    """The suite of every store, with no statement prepared and nothing kept in a session."""

    @pytest.fixture
    async def store(self, dsn: str) -> AsyncIterator[Store]:
        async with pgbouncer(dsn) as pooler:
            store = await opened_behind(pooler, clock=":now")
            yield store
            await store.close()

    async def test_a_crowd_keeps_each_account_apart(self, store: Store) -> None:
        """A small one: two connections serve them all."""
        await asyncio.gather(*(adopt(store, f"crm/{number}") for number in range(20)))
        claims = await asyncio.gather(*(claim(store, f"crm/{number}") for number in range(20)))
        assert all(await asyncio.gather(*(commit(store, each) for each in claims)))
        assert {each.generation for each in await store.summaries()} == {2}


async def test_statements_of_two_replicas_are_not_mixed_up(dsn: str) -> None:
    """Both are parsed on the same connection of the server's: each must be run with its own values (MagicStack/asyncpg#348)."""
    async with pgbouncer(dsn, size=1) as pooler:
        one, two = await opened_behind(pooler), await opened_behind(pooler)
        try:
            await adopt(one)
            for _ in range(30):
                loaded, state, _, found = await asyncio.gather(
                    one.load("crm/anna"), two.state("crm/anna"), one.check(), two.summaries()
                )
                assert loaded is not None
                assert loaded.tokens == tokens(1)
                assert not state
                assert [each.account for each in found] == ["crm/anna"]
        finally:
            await one.close()
            await two.close()


async def test_one_of_many_replicas_claims(dsn: str) -> None:
    """Ten replicas on two connections: leases are rows, so it does not matter over which they are taken."""
    async with pgbouncer(dsn) as pooler:
        stores = [await opened_behind(pooler) for _ in range(10)]
        try:
            await adopt(stores[0])
            claims = await asyncio.gather(
                *(store.claim("crm/anna", generation=1, now=NOW, lease=LEASE) for store in stores)
            )
            (won,) = [(store, each) for store, each in zip(stores, claims, strict=True) if each is not None]
            assert await commit(*won)
            for store in stores:
                loaded = await store.load("crm/anna")
                assert loaded is not None
                assert loaded.tokens == tokens(2)
        finally:
            for store in stores:
                await store.close()


async def test_what_another_replica_changed_is_heard_without_a_line(dsn: str) -> None:
    """``LISTEN`` does not pass a transaction pooler; a look at the database now and then does."""
    async with pgbouncer(dsn) as pooler:
        one, two = await opened_behind(pooler), await opened_behind(pooler)
        heard = asyncio.Event()
        two.watch(
            lambda account, generation: heard.set() if (account, generation) == ("crm/anna", 2) else None
        )
        try:
            await adopt(one)
            assert await commit(one, await claim(one))
            async with asyncio.timeout(10):
                await heard.wait()
        finally:
            await one.close()
            await two.close()


async def test_a_database_over_tls(dsn: str, tmp_path: Path) -> None:
    """``sslmode`` and ``sslrootcert`` of the address, as libpq means them."""
    authority, stranger = trustme.CA(), trustme.CA()
    trusted, foreign = str(tmp_path / "ca.pem"), str(tmp_path / "foreign.pem")
    authority.cert_pem.write_to_path(trusted)
    stranger.cert_pem.write_to_path(foreign)
    async with pgbouncer(dsn, authority.issue_cert("127.0.0.1")) as pooler:
        for options in ({"sslmode": "require"}, {"sslmode": "verify-full", "sslrootcert": trusted}):
            store = await opened_behind(with_options(pooler, **options))
            await adopt(store, options["sslmode"])
            await store.close()

        with pytest.raises(StoreError, match="certificate") as refused:
            await opened_behind(with_options(pooler, sslmode="verify-full", sslrootcert=foreign))
        assert "sslrootcert" in refused.value.next_step
        with pytest.raises(StoreError, match="SSL required"):
            await opened_behind(with_options(pooler, sslmode="disable"))


async def test_a_certificate_for_another_name(dsn: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    trusted = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(trusted)
    async with pgbouncer(dsn, authority.issue_cert("db.example.com")) as pooler:
        address = with_options(pooler, sslrootcert=trusted)
        store = await opened_behind(with_options(address, sslmode="verify-ca"))
        await store.close()

        with pytest.raises(StoreError, match="certificate"):
            await opened_behind(with_options(address, sslmode="verify-full"))
