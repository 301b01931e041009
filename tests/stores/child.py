"""Other processes for the SQLite tests: ``python -m tests.stores.child ACTION PATH``; what happened goes to stdout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tests.stores.values import KEY, NOW, OK, adopt, claim, commit, tokens
from tokenproxy.core.interfaces import Store
from tokenproxy.errors import StoreError
from tokenproxy.stores.sqlite import open_sqlite

ROUNDS = 20
ROWS = 30


def say(text: str) -> None:
    print(text, flush=True)


async def try_to_open(path: Path) -> None:
    try:
        store = await open_sqlite(path, [KEY])
    except StoreError as error:
        say(f"{type(error).__name__}: {error}")
        return
    await store.close()
    say("opened")


async def renew_for_ever(path: Path) -> None:
    """Says each generation once the store has said that it is on the disk."""
    store = await open_sqlite(path, [KEY])
    await adopt(store)
    generation = 1
    while True:
        await commit(store, await claim(store, generation=generation))
        generation += 1
        say(str(generation))


async def die_in_flight(path: Path) -> None:
    store = await open_sqlite(path, [KEY])
    await adopt(store)
    await claim(store)
    os.kill(os.getpid(), signal.SIGKILL)


async def check_all(store: Store) -> None:
    for number in range(ROWS):
        record = await store.load(f"crm/{number:03}")
        assert record is not None
        assert record.tokens == tokens(2), number
        assert record.previous == "spent", number


async def fill(path: Path) -> None:
    store = await open_sqlite(path, [key(0)])
    for number in range(ROWS):
        name = f"crm/{number:03}"
        await adopt(store, name)
        claimed = await claim(store, name)
        await store.commit(claimed, tokens(2), previous="spent", standing=OK, now=NOW)
    await store.close()


async def reseal_until_killed(path: Path, keys: list[bytes], report: int) -> None:
    def progress(_done: int, _all: int) -> None:
        os.write(report, b".")

    store = await open_sqlite(path, keys)
    await store.reseal(progress)
    await store.close()
    os.write(report, b"!")


async def verify(path: Path, keys: list[bytes]) -> None:
    store = await open_sqlite(path, keys)
    await check_all(store)
    await store.close()


async def finish(path: Path, keys: list[bytes]) -> int:
    store = await open_sqlite(path, keys)
    sealed = await store.reseal()
    await store.close()
    await verify(path, keys[:1])
    return sealed


def key(number: int) -> bytes:
    return bytes([number]) * 32


def rotate_killed(path: Path) -> None:
    """
    A rotation to a new key, killed in the middle; then the next one, over what that one left.

    Forks, because twenty interpreters would take ten times as long to start.
    """
    asyncio.run(fill(path))
    for round_ in range(1, ROUNDS + 1):
        keys = [key(number) for number in range(round_, -1, -1)]
        reader, writer = os.pipe()
        while threading.active_count() > 1:  # the store's thread is just ending; forking beside it is unsafe
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            asyncio.run(reseal_until_killed(path, keys, writer))
            os._exit(0)
        os.close(writer)
        for _ in range(1 + round_ * (ROWS - 2) // ROUNDS):
            assert os.read(reader, 1) == b"."
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = os.read(reader, 1000)
        os.close(reader)
        asyncio.run(verify(path, keys))
        say("finished" if rest.endswith(b"!") else "killed")
    sealed = asyncio.run(finish(path, [key(number) for number in range(ROUNDS, -1, -1)]))
    say(f"resealed {sealed}")


def main() -> None:
    action, path = sys.argv[1], Path(sys.argv[2])
    if action == "rotate_killed":
        rotate_killed(path)
        return
    actions = {"open": try_to_open, "renew": renew_for_ever, "die_in_flight": die_in_flight}
    asyncio.run(actions[action](path))


if __name__ == "__main__":
    main()
