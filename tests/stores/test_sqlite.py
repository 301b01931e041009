"""What only the SQLite store can get wrong: files, locks, crashes, full disks, keys, migrations."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import pytest

from tests.stores.values import BOUND, GONE, KEY, LEASE, NOW, OK, OTHER_KEY, adopt, claim, commit, tokens
from tokenproxy.core.interfaces import StateValue
from tokenproxy.errors import SealError, StoreError, StoreLockedError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher
from tokenproxy.stores.disk import Disk, open_disk
from tokenproxy.stores.shelf import Shelf
from tokenproxy.stores.sqlite import STATEMENTS, SQLiteStore, migrations, open_sqlite

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def opened(path: Path, *keys: bytes, metrics: StoreMetrics | None = None) -> AsyncIterator[SQLiteStore]:
    store = await open_sqlite(path, keys or [KEY], metrics=metrics)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def child(action: str, path: Path) -> list[str]:
    return [sys.executable, "-m", "tests.stores.child", action, str(path)]


def run(action: str, path: Path) -> str:
    done = subprocess.run(
        child(action, path), cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert not done.stderr, done.stderr
    return done.stdout


def on_disk(path: Path) -> bytes:
    """
    What the files hold, read by another process: closing a descriptor here would drop the store's lock.
    """
    files = [each for each in (path, path.with_name(f"{path.name}-wal")) if each.exists()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Behind the store's back, while it is closed."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# --- the file -------------------------------------------------------------------------------------------------------


async def test_only_we_may_read_the_files(path: Path) -> None:
    """Sealed or not, they are nobody else's business; SQLite alone would make them 0644."""
    async with opened(path) as store:
        await adopt(store)
        files = sorted(path.parent.iterdir())

        assert [each.name for each in files] == ["store.db", "store.db-wal"]
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    assert [each.name for each in path.parent.iterdir()] == ["store.db"]


async def test_what_others_may_write_is_refused(path: Path) -> None:
    """They could put back an older row, or take away a login."""
    async with opened(path):
        pass
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(StoreError, match="others may write") as refused:
            await open_sqlite(path, [KEY])
        assert refused.value.next_step == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b"certainly not a database" * 100), "is not a SQLite file"),
        (lambda path: sql(path, "CREATE TABLE songs (title)"), "of another program"),
    ],
    ids=["directory", "garbage", "foreign"],
)
async def test_what_is_no_store_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], object], sentence: str
) -> None:
    """A typing error in ``store.url`` must not write into somebody else's file."""
    make(path)
    path.chmod(0o700)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(StoreError, match=sentence) as refused:
        await open_sqlite(path, [KEY])

    assert refused.value.next_step
    assert not path.is_file() or path.read_bytes() == before


async def test_a_missing_directory_is_one_sentence(path: Path) -> None:
    """The commonest first mistake in a container."""
    with pytest.raises(StoreError, match="no such file or directory") as refused:
        await open_sqlite(path.parent / "missing" / "store.db", [KEY])

    assert str(path.parent / "missing") in refused.value.next_step


async def test_no_secret_is_ever_in_the_files(path: Path) -> None:
    """A backup of the store without the key must be worth nothing."""
    async with opened(path) as store:
        await adopt(store)
        await commit(store, await claim(store))
        while_open = on_disk(path)

    for held in (while_open, path.read_bytes()):
        assert b"crm/anna" in held
        assert b"planted" not in held


async def test_forgotten_and_settled_secrets_leave_the_files(path: Path) -> None:
    """Also sealed: the key may still be there when somebody finds the disk."""
    async with opened(path) as store:
        await adopt(store)
        await commit(store, await claim(store))
    ((sealed, previous),) = sql(path, "SELECT sealed, prev_sealed FROM account")
    assert isinstance(sealed, bytes)
    assert isinstance(previous, bytes)

    async with opened(path) as store:
        assert sealed in on_disk(path)
        await store.settled("crm/anna", generation=2)
        await store.forget("crm/anna", standing=GONE)
        held = on_disk(path)

    for each in (held, path.read_bytes()):
        assert sealed not in each
        assert previous not in each


# --- one process ----------------------------------------------------------------------------------------------------


async def test_a_second_process_is_told_at_once(path: Path) -> None:
    """Two of us on one file would both renew; the second one hears who has it and what to do."""
    async with opened(path) as store:
        said = await asyncio.to_thread(run, "open", path)
        assert await adopt(store)

    assert said == f"StoreLockedError: another tokenproxy has the store {path} open\n"
    assert await asyncio.to_thread(run, "open", path) == "opened\n"


async def test_a_second_store_in_this_process_is_refused_and_the_first_keeps_its_lock(path: Path) -> None:
    """POSIX drops a process's locks when it closes any descriptor of the file: trying must not open the door."""
    async with opened(path):
        with pytest.raises(StoreLockedError):
            await open_sqlite(path, [KEY])

        assert (await asyncio.to_thread(run, "open", path)).startswith("StoreLockedError")


async def test_threads_end_with_the_store(path: Path) -> None:
    """Each store has one of its own, and a process may open many."""
    before = set(threading.enumerate())
    async with opened(path):
        pass
    with pytest.raises(SealError):
        await open_sqlite(path, [OTHER_KEY])

    deadline = monotonic() + 5
    while left := [t for t in threading.enumerate() if t not in before and "asyncio" not in t.name]:
        assert monotonic() < deadline, left
        sleep(0.005)


async def test_a_closed_store_says_so_and_may_be_closed_again(path: Path) -> None:
    """Late tasks of a shutdown get an error that they know, not one of a library."""
    store = await open_sqlite(path, [KEY])
    await store.close()
    await store.close()

    with pytest.raises(StoreError, match="is closed"):
        await store.load("crm/anna")


async def test_opening_may_be_cancelled(path: Path) -> None:
    """Ctrl-C during the start must not leave the file locked."""
    for turns in range(0, 40, 3):
        task = asyncio.create_task(open_sqlite(path, [KEY]))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, SQLiteStore):
            await result.close()

    async with opened(path) as store:
        await store.check()


# --- crashes --------------------------------------------------------------------------------------------------------


def test_what_was_answered_survives_a_kill(path: Path) -> None:
    """Stored before used: a pair that any caller may have seen is on the disk."""
    with subprocess.Popen(child("renew", path), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(25):
            process.stdout.readline()
        process.kill()
        said = process.stdout.read().splitlines()
    last = max(int(line) for line in [*said, "26"] if line)

    async def look() -> None:
        async with opened(path) as store:
            record = await store.load("crm/anna")
            assert record is not None
            assert record.tokens == tokens(record.generation)
            assert record.previous == f"planted-refresh-{record.generation - 1}"
            assert record.generation >= last

    asyncio.run(look())


async def test_a_crash_in_flight_is_found_and_taken_over_at_once(path: Path) -> None:
    """The provider's grace may be 10 s; the dead process's lease of 30 s must not be waited for."""
    await asyncio.to_thread(run, "die_in_flight", path)

    async with opened(path) as store:
        assert await store.in_doubt() == ["crm/anna"]
        claimed = await store.claim("crm/anna", generation=1, now=NOW + timedelta(seconds=1), lease=LEASE)
        assert claimed is not None
        assert claimed.found_in_flight == NOW
        assert await commit(store, claimed)


def test_a_rotation_killed_twenty_times_loses_nothing(path: Path) -> None:
    """Whenever it dies, each row opens with one of the keys, and in the end with the newest alone."""
    said = run("rotate_killed", path).splitlines()

    assert len(said) == 21
    assert said.count("killed") > 10
    assert said[-1].startswith("resealed ")


# --- disks ----------------------------------------------------------------------------------------------------------


def fill_up(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return ballast


async def test_a_full_disk_changes_nothing_and_the_same_commit_works_later(tiny_disk: Path) -> None:
    """The provider has spent the old token: the new one is tried again until there is room, and then it is safe."""
    path, metrics = tiny_disk / "store.db", StoreMetrics()
    async with opened(path, metrics=metrics) as store:
        await adopt(store, size=2000)
        claimed = await claim(store)
        before = await store.load("crm/anna")
        big = tokens(2, name="y" * 20_000)
        ballast = fill_up(tiny_disk)

        for _ in range(3):
            with pytest.raises(StoreError, match="is full") as full:
                await store.commit(claimed, big, previous="spent", standing=OK, now=NOW)
            assert full.value.next_step == "make room on that disk"
            with pytest.raises(StoreError, match="is full"):
                await store.check()
        assert metrics.errors == {("commit", "full"): 3, ("check", "full"): 3}
        assert await store.load("crm/anna") == before

        ballast.unlink()
        assert await store.commit(claimed, big, previous="spent", standing=OK, now=NOW)
        await store.check()
        fill_up(tiny_disk)
    async with opened(path) as store:  # a full disk does not keep what is stored from being used
        record = await store.load("crm/anna")
        assert record is not None
        assert record.tokens == big


async def test_a_read_only_disk_is_one_sentence_at_the_start(tiny_disk: Path) -> None:
    """Found out now, not at the first renewal."""
    path = tiny_disk / "store.db"
    async with opened(path) as store:
        await adopt(store)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)

    with pytest.raises(StoreError, match="cannot be written: it or its directory is read-only"):
        await open_sqlite(path, [KEY])
    with pytest.raises(StoreError, match="read-only file system"):
        await open_sqlite(tiny_disk / "new.db", [KEY])


async def test_a_damaged_file_is_one_sentence(path: Path) -> None:
    """And the way out is the backup, not a traceback."""
    async with opened(path) as store:
        for number in range(50):
            await adopt(store, f"crm/{number}")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(os.path.getsize(path) - 4096))

    metrics = StoreMetrics()
    with pytest.raises(StoreError, match="is damaged") as damaged:
        async with opened(path, metrics=metrics) as store:
            await store.summaries()
    assert "backup" in damaged.value.next_step
    assert {kind for _, kind in metrics.errors} == {"corrupt"}


async def test_steps_are_timed(path: Path) -> None:
    """The dashboard's line for a slow disk."""
    metrics = StoreMetrics()
    async with opened(path, metrics=metrics) as store:
        await adopt(store)
        await commit(store, await claim(store))
        await store.load("crm/anna")

    assert {name: sum(each.counts) for name, each in metrics.seconds.items()} == {
        "load": 1,
        "claim": 1,
        "commit": 1,
    }


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_told_at_the_start(path: Path) -> None:
    """Not at the first request, and with the name of the key that is missing."""
    async with opened(path):
        pass

    with pytest.raises(SealError, match="sealed with key 630dcd29, and the keys given are") as wrong:
        await open_sqlite(path, [OTHER_KEY])
    assert "store.key" in wrong.value.next_step


async def test_all_keys_open_and_the_first_seals(path: Path) -> None:
    """So that a new key can be put in front while the old rows are still there."""
    async with opened(path) as store:
        await adopt(store)
    async with opened(path, OTHER_KEY, KEY) as store:
        assert await store.load("crm/anna") is not None
        assert await store.reseal() == 1
        assert await store.reseal() == 0
    async with opened(path, OTHER_KEY) as store:
        record = await store.load("crm/anna")
        assert record is not None
        assert record.tokens == tokens()
    with pytest.raises(SealError):
        await open_sqlite(path, [KEY])


async def test_keys_change_while_the_store_is_in_use(path: Path) -> None:
    """``key rotate`` on a running proxy: renewals go on meanwhile, and none of them is overwritten."""
    names = [f"crm/{number:03}" for number in range(60)]
    progress: list[tuple[int, int]] = []
    async with opened(path) as store:
        for name in names:
            await adopt(store, name)
            await commit(store, await claim(store, name))
        with pytest.raises(SealError):
            await store.use_keys([OTHER_KEY])
        await store.use_keys([OTHER_KEY, KEY])

        async def use(name: str) -> None:
            await store.settled(name, generation=2)
            await commit(store, await claim(store, name, generation=2))

        await asyncio.gather(
            store.reseal(lambda done, total: progress.append((done, total))),
            *(use(name) for name in names[::2]),
        )
    assert progress[0][1] == 60
    assert progress[-1][0] <= 60
    async with opened(path, OTHER_KEY) as store:
        for number, name in enumerate(names):
            record = await store.load(name)
            assert record is not None
            assert record.tokens == tokens(2 if number % 2 else 3)


async def test_sealing_anew_does_not_bring_back_what_was_dropped_meanwhile(path: Path) -> None:
    """Between reading a row and writing it back, the row may have been settled or forgotten."""
    names = [f"crm/{number:03}" for number in range(20)]
    tasks: list[asyncio.Task[object]] = []
    async with opened(path) as store:
        for name in names:
            await adopt(store, name)
            await commit(store, await claim(store, name))
        await store.use_keys([OTHER_KEY, KEY])

        def drop_next(done: int, _total: int) -> None:
            """Its statement comes right after the one that reads the next row."""
            for name in names[done : done + 1]:
                drop = store.settled(name, generation=2) if done % 2 else store.forget(name, standing=GONE)
                tasks.append(asyncio.create_task(drop))

        await store.reseal(drop_next)
        await asyncio.gather(*tasks)
        records = [await store.load(name) for name in names[1:]]

    assert [each and each.previous for each in records] == [None] * 19
    assert [each is not None and each.tokens is None for each in records] == [
        done % 2 == 0 for done in range(1, 20)
    ]


async def test_a_row_that_does_not_open_stops_neither_the_others_nor_goes_unsaid(path: Path) -> None:
    """The old key must not be thrown away on the word of a rotation that left a row behind."""
    async with opened(path) as store:
        for name in ("a", "b", "c"):
            await adopt(store, name)
    sql(path, "UPDATE account SET sealed = zeroblob(100) WHERE account = 'b'")

    async with opened(path, OTHER_KEY, KEY) as store:
        with pytest.raises(SealError, match="1 of 3 rows cannot be opened and stay as they are: b"):
            await store.reseal()
        for name in ("a", "c"):
            assert await store.load(name) is not None
        await store.forget("b", standing=GONE)
        assert await store.reseal() == 0
    async with opened(path, OTHER_KEY) as store:
        assert await store.load("a") is not None


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE account SET sealed = (SELECT sealed FROM account WHERE account = 'b') WHERE account = 'a'",
        "UPDATE account SET sealed = prev_sealed WHERE account = 'a'",
        "UPDATE account SET prev_sealed = sealed WHERE account = 'a'",
        "UPDATE account SET gen = gen + 1 WHERE account = 'a'",
        "UPDATE account SET account = 'A' WHERE account = 'a'",
        "UPDATE account SET sealed = substr(sealed, 1, 30) WHERE account = 'a'",
        "UPDATE account SET sealed = substr(sealed, 1, 10) WHERE account = 'a'",
        "UPDATE account SET sealed = x'' WHERE account = 'a'",
        "UPDATE account SET sealed = CAST(x'ff' || substr(sealed, 2) AS BLOB) WHERE account = 'a'",
        "UPDATE meta SET value = 'another' WHERE name = 'store_id'",
    ],
)
async def test_what_was_moved_or_altered_does_not_open(path: Path, tamper: str) -> None:
    """Who can write to the file must not get one account's token sent under another's name, nor an old one again."""
    async with opened(path) as store:
        for name in ("a", "b"):
            await adopt(store, name)
            await commit(store, await claim(store, name))
    sql(path, tamper)

    async def look(metrics: StoreMetrics) -> None:
        async with opened(path, metrics=metrics) as store:
            assert len(await store.summaries()) == 2  # status goes on working
            await store.load("a")
            await store.load("A")

    metrics = StoreMetrics()
    with pytest.raises(SealError) as refused:
        await look(metrics)
    assert refused.value.next_step
    assert "planted" not in str(refused.value)
    assert "store_id" in tamper or metrics.errors == {("load", "decrypt"): 1}


async def test_an_old_generation_put_back_does_not_open(path: Path) -> None:
    """Sending a spent refresh token kills the grant at providers that look for reuse."""
    async with opened(path) as store:
        await adopt(store)
    ((old,),) = sql(path, "SELECT hex(sealed) FROM account")
    async with opened(path) as store:
        await commit(store, await claim(store))
    sql(path, f"UPDATE account SET sealed = x'{old}'")

    async with opened(path) as store:
        with pytest.raises(SealError, match="an older time"):
            await store.load("crm/anna")
        await store.adopt("crm/anna", tokens(3), bound_to="x", standing=OK, now=NOW)  # a login mends it
        assert await store.load("crm/anna") is not None


# --- state ----------------------------------------------------------------------------------------------------------


async def test_no_state_is_ever_in_the_files(path: Path) -> None:
    """Nor who may read it: a flag that could be turned on the disk would give backend values back."""
    async with opened(path) as store:
        await store.put_state("crm/anna", "oauth2/token", StateValue("planted", backend=True))
        while_open = on_disk(path)

    for held in (while_open, path.read_bytes()):
        assert b"oauth2/token" in held
        assert b"planted" not in held
        assert b"backend" not in held


async def test_dropped_state_leaves_the_files(path: Path) -> None:
    """Sealed as it is, a key that leaks later must open nothing that somebody dropped."""
    async with opened(path) as store:
        await store.put_state("crm/anna", "oauth2/code", StateValue("planted"))
        ((sealed,),) = await store_rows(store)
        await store.put_state("crm/anna", "oauth2/code", None)

        assert sealed not in on_disk(path)


async def store_rows(store: SQLiteStore) -> list[tuple[bytes]]:
    """The seals in the table of state, read over the store's own connection."""
    rows = await store._engine.run("test", "SELECT sealed FROM state")
    return [(row["sealed"],) for row in rows]


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE state SET account = 'crm/bert'",
        "UPDATE state SET path = 'note'",
        "UPDATE state SET sealed = zeroblob(100)",
        "UPDATE state SET sealed = (SELECT sealed FROM account)",
        "UPDATE meta SET value = 'another' WHERE name = 'store_id'",
    ],
)
async def test_state_that_was_moved_or_altered_does_not_open(path: Path, tamper: str) -> None:
    """One login's token must not be sent for another by who can write to the file."""
    async with opened(path) as store:
        await adopt(store)
        await store.put_state("crm/anna", "oauth2/token", StateValue("planted"))
    sql(path, tamper)

    async def look() -> None:
        async with opened(path) as store:
            for name in ("crm/anna", "crm/bert"):
                await store.state(name)

    with pytest.raises(SealError) as refused:
        await look()
    assert refused.value.next_step
    assert "planted" not in str(refused.value)


async def test_state_that_does_not_open_can_be_dropped(path: Path) -> None:
    """The way out must not need what is broken."""
    async with opened(path) as store:
        await store.put_state("crm/anna", "a", StateValue("kept"))
        await store.put_state("crm/anna", "b", StateValue("broken"))
    sql(path, "UPDATE state SET sealed = zeroblob(100) WHERE path = 'b'")
    async with opened(path, OTHER_KEY, KEY) as store:
        with pytest.raises(SealError, match="the state b of account crm/anna"):
            await store.state("crm/anna")
        with pytest.raises(SealError, match="1 of 2 rows cannot be opened"):
            await store.reseal()

        assert await store.put_state("crm/anna", "b", None)
        assert await store.state("crm/anna") == {"a": StateValue("kept")}


async def test_state_is_sealed_anew_with_the_rest(path: Path) -> None:
    """``key rotate`` must leave nothing under the old key, and nothing that was put meanwhile is lost."""
    async with opened(path) as store:
        for number in range(300):
            await store.put_state(f"crm/{number:03}", "a/b", StateValue(str(number)))
        await store.use_keys([OTHER_KEY, KEY])

        sealed, _ = await asyncio.gather(
            store.reseal(), store.put_state("crm/299", "a/b", StateValue("newer"))
        )
        assert sealed in {299, 300}
        assert await store.reseal() == 0
    async with opened(path, OTHER_KEY) as store:
        assert await store.state("crm/000") == {"a/b": StateValue("0")}
        assert await store.state("crm/299") == {"a/b": StateValue("newer")}


async def test_state_of_a_login_in_use_costs_no_disk(path: Path) -> None:
    """Every request may name it; and what is remembered is never older than the file."""
    async with opened(path) as store:
        await store.put_state("crm/anna", "a", StateValue("1"))
        first = await store.state("crm/anna")
        assert await store.state("crm/anna") is first

        reading = asyncio.create_task(store.state("crm/bert"))
        await store.put_state("crm/bert", "a", StateValue("2"))
        await reading
        assert await store.state("crm/bert") == {"a": StateValue("2")}

        writing = asyncio.create_task(store.put_state("crm/anna", "a", StateValue("3")))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await store.check()  # behind it on the one connection
        assert await store.state("crm/anna") == {"a": StateValue("3")}


class LateDisk:
    """A disk that tells what some statements read only when it may."""

    def __init__(self, disk: Disk, statements: str) -> None:
        """``statements``: what they begin with."""
        self._disk = disk
        self._statements = statements
        self.read = asyncio.Event()
        self.go = asyncio.Event()

    async def run(self, operation: str, statement: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        rows = await self._disk.run(operation, statement, values)
        if statement.strip().startswith(self._statements):
            self.read.set()
            await self.go.wait()
        return rows


async def test_a_read_that_was_overtaken_is_not_remembered(path: Path) -> None:
    """Else requests would go on with what an application has replaced, for as long as somebody asks."""
    async with opened(path) as store:
        late = LateDisk(cast("Disk", store._engine), "SELECT path, sealed")
        shelf, cipher = (
            Shelf(cast("Disk", late), STATEMENTS, store_id="s", metrics=StoreMetrics()),
            Cipher([KEY]),
        )
        await shelf.put("crm/anna", "a", StateValue("old"), cipher)
        reading = asyncio.create_task(shelf.read("crm/anna", cipher))
        await late.read.wait()
        await shelf.put("crm/anna", "a", StateValue("new"), cipher)
        late.go.set()

        assert await reading == {"a": StateValue("old")}
        assert await shelf.read("crm/anna", cipher) == {"a": StateValue("new")}


async def test_a_value_that_is_put_while_its_row_is_sealed_anew_stays(path: Path) -> None:
    async with opened(path) as store:
        late = LateDisk(cast("Disk", store._engine), "SELECT sealed")
        shelf, both = (
            Shelf(cast("Disk", late), STATEMENTS, store_id="s", metrics=StoreMetrics()),
            Cipher([KEY, OTHER_KEY]),
        )
        await shelf.put("crm/anna", "a", StateValue("old"), Cipher([OTHER_KEY]))
        sealing = asyncio.create_task(shelf.reseal(both, lambda: None))
        await late.read.wait()
        await shelf.put("crm/anna", "a", StateValue("new"), both)
        late.go.set()
        await sealing

        assert await shelf.read("crm/anna", both) == {"a": StateValue("new")}


async def test_only_so_much_state_is_remembered(path: Path) -> None:
    """A hundred thousand logins with state must not fill the memory."""
    async with opened(path) as store:
        await store.put_state("crm/first", "a", StateValue("1"))
        first = await store.state("crm/first")
        big = StateValue("x" * 64 * 1024)
        for name in ("crm/a", "crm/b"):
            for number in range(200):
                await store.put_state(name, str(number), big)
            await store.state(name)

        again = await store.state("crm/first")
        assert again == first
        assert again is not first


# --- schema ---------------------------------------------------------------------------------------------------------


async def test_a_newer_schema_is_left_untouched(path: Path) -> None:
    """A rollback of the program must not damage what the newer one wrote."""
    async with opened(path) as store:
        await adopt(store)
    sql(path, "INSERT INTO schema_version VALUES (99, 0.0)")
    before = path.read_bytes()

    with pytest.raises(
        StoreError, match=f"has schema 99 and this tokenproxy knows up to {len(migrations())}"
    ):
        await open_sqlite(path, [KEY])

    assert path.read_bytes() == before


async def test_an_upgrade_keeps_every_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of the first schema: tokens, marks and the index on them are there afterwards."""
    with monkeypatch.context() as earlier:
        earlier.setattr("tokenproxy.stores.sqlite.migrations", lambda: migrations()[:1])
        async with opened(path) as store:
            await adopt(store)
            await adopt(store, "crm/bert")
            await claim(store, "crm/bert")
    async with opened(path) as store:
        record = await store.load("crm/anna")
        assert record is not None
        assert (record.tokens, record.standing) == (tokens(), OK)
        assert await store.in_doubt() == ["crm/bert"]
        await store.prepare("crm", bound_to=BOUND, standing=OK)
    assert sql(path, "SELECT name FROM sqlite_schema WHERE name = 'account_in_flight'")


async def test_a_migration_happens_wholly_or_not_at_all(path: Path) -> None:
    """The next start must find the schema before it or after it."""
    disk = await open_disk(path, metrics=StoreMetrics())
    try:
        with pytest.raises(StoreError, match="already exists"):
            await disk.transaction("CREATE TABLE a (x); CREATE TABLE a (x);")

        assert await disk.run("open", "SELECT * FROM sqlite_schema") == []
        await disk.transaction("CREATE TABLE a (x);")
        assert len(await disk.run("open", "SELECT * FROM sqlite_schema")) == 1
    finally:
        await disk.close()


async def test_a_state_of_a_later_release_is_one_sentence(path: Path) -> None:
    """Not a traceback of an enum."""
    async with opened(path) as store:
        await adopt(store)
    sql(path, "UPDATE account SET state = 'hibernating'")

    async with opened(path) as store:
        with pytest.raises(StoreError, match="a state that this tokenproxy does not know"):
            await store.load("crm/anna")


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_is_gone_is_noticed_while_serve_runs(path: Path, how: str) -> None:
    """SQLite writes on into the deleted file and says nothing; the next start would find no login at all."""
    async with opened(path) as store:
        await store.check()
        path.unlink()
        if how == "replaced":
            path.write_bytes(b"")

        with pytest.raises(StoreError, match="deleted or replaced"):
            await store.check()
