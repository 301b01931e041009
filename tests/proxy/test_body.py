"""The copy of a body on its own."""

from __future__ import annotations

import asyncio

from tokenproxy.core.settings import MIB, ReplayBudget
from tokenproxy.proxy.body import Spool, Vault


def test_a_copy_is_closed_though_the_loop_ends_first() -> None:
    """A drain that is cut in the middle of a write must not leave the file to the garbage collector."""
    vault = Vault(ReplayBudget())
    spool = Spool(vault)

    async def cut_off() -> None:
        writing = asyncio.ensure_future(spool.append(b"x" * 8 * MIB))
        await asyncio.sleep(0)
        spool.close()
        writing.cancel()

    asyncio.run(cut_off())
    vault._threads.shutdown(wait=True)

    assert spool._file is None or spool._file.closed
