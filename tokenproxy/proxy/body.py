"""A request's body: streamed to the upstream while a copy is kept, so that it can be sent again after a 401."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import IO, TYPE_CHECKING, Any

from tokenproxy.core.settings import Deadlines, Replay, ReplayBudget
from tokenproxy.proxy.chunks import LAST_CHUNK, chunk, last_chunk
from tokenproxy.proxy.parsers import BUFFER
from tokenproxy.proxy.plain import Payload
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.side import Side
from tokenproxy.proxy.upstream import UpstreamSide

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide


class Vault:
    """What all requests together may keep, and the threads that write it to disk."""

    __slots__ = ("_threads", "budget", "disk", "memory")

    def __init__(self, budget: ReplayBudget) -> None:
        self.budget = budget
        self.memory = 0
        """Bytes kept in memory now."""
        self.disk = 0
        """Bytes kept in files now."""
        # A write to the page cache takes microseconds, until the kernel makes the writer wait for a slow disk: on
        # the loop that would stop every request. The loop's own executor resolves names and must not queue behind it.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenproxy-replay")

    def take_memory(self, size: int) -> bool:
        if self.memory + size > self.budget.total_memory:
            return False
        self.memory += size
        return True

    def take_disk(self, size: int) -> bool:
        if self.disk + size > self.budget.total_disk:
            return False
        self.disk += size
        return True

    def in_thread(self, job: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, job, *args)

    def last(self, job: Callable[[], None]) -> None:
        """Run something in a thread that nobody waits for; here, where the threads have gone already."""
        try:
            self._threads.submit(job)
        except RuntimeError:
            job()

    def close(self) -> None:
        self._threads.shutdown(wait=False)


class Spool:
    """The part of one body's copy that memory has no room for: an unlinked 0600 file."""

    __slots__ = ("_closed", "_file", "_job", "_lock", "_vault", "size")

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._job: asyncio.Future[Any] | None = None
        """The newest thing that a thread does with the file; there is never more than one at a time."""
        self.size = 0
        """Bytes given to ``append``."""

    async def append(self, piece: bytes) -> None:
        """Raises ``OSError``. Where the caller is cancelled the write goes on, and ``read`` waits for it."""
        self.size += len(piece)
        await self._run(self._write, piece)

    async def read(self, at: int) -> bytes:
        """A piece from an offset on, empty at the end; raises ``OSError``."""
        if self._job is not None:
            await asyncio.shield(self._job)  # a write whose caller was cancelled
        if at >= self.size:
            return b""
        piece: bytes = await self._run(self._read, at)
        if not piece:
            raise OSError("The replay file is shorter than what was written.")
        return piece

    def close(self) -> None:
        """Behind what a thread is doing with the file, whether or not the loop lives to see it done."""
        if self._job is not None:
            self._job.add_done_callback(_looked_at)
        self._vault.last(self._close)

    async def _run(self, job: Callable[..., Any], *args: Any) -> Any:
        self._job = self._vault.in_thread(job, *args)
        return await asyncio.shield(self._job)

    # In a thread, one at a time; nothing is done to a file that is closed.

    def _read(self, at: int) -> bytes:
        with self._lock:
            if self._file is None or self._closed:
                return b""
            return os.pread(self._file.fileno(), min(BUFFER, self.size - at), at)

    def _write(self, piece: bytes) -> None:
        with self._lock:
            if self._closed:
                return
            if self._file is None:
                directory = self._vault.budget.directory or None
                self._file = tempfile.TemporaryFile("w+b", buffering=0, dir=directory)  # noqa: SIM115 - lives on
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


def _looked_at(job: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; without a look asyncio would log its error."""
    with contextlib.suppress(asyncio.CancelledError):
        job.exception()


class Body:
    """
    One request's body.

    What has been read is in the copy before it is sent, so that at any moment the copy and what is still to come are
    the whole. Where there is no room for the copy, the request goes on without: it cannot be sent again.
    """

    __slots__ = (
        "_memory",
        "_payload",
        "_pieces",
        "_replay",
        "_spool",
        "_vault",
        "_withheld",
        "chunked",
        "complete",
        "length",
        "replayable",
        "sent",
        "size",
    )

    def __init__(
        self,
        payload: Payload,
        *,
        chunked: bool,
        length: int | None,
        withheld: frozenset[bytes] | None = None,
        replay: Replay,
        vault: Vault,
    ) -> None:
        """``length`` is Content-Length, None where nobody says; ``withheld`` as for ``last_chunk``."""
        self._payload = payload
        self._withheld = withheld
        self.length = length
        """What Content-Length says, None where nobody does."""
        self._replay = replay
        self._vault = vault
        self._pieces: list[bytes] = []
        self._memory = 0
        self._spool: Spool | None = None
        self.chunked = chunked
        self.size = 0
        """Bytes read from the caller so far."""
        self.complete = False
        """All of it has been read from the caller."""
        self.sent = False
        """All of it has been written in the present attempt: else the upstream still waits for the rest."""
        self.replayable = length is None or length <= replay.memory + replay.disk
        """Everything that was read is in the copy."""
        if payload.is_eof():
            self._take(payload.read_nowait())
            self.complete = True

    def at_hand(self) -> bytes | None:
        """The whole body, framed, where it is here in one piece: it goes with the head in one write."""
        if not self.complete or not self.replayable or self._spool is not None or len(self._pieces) > 1:
            return None
        whole = b"".join(self._pieces)
        if not self.chunked:
            return whole
        last = LAST_CHUNK if self._withheld is None else last_chunk(self._payload, self._withheld)
        return chunk(whole) + last if whole else last

    async def gather(
        self, most: int, caller: Side, *, deadlines: Deadlines, monotonic: Callable[[], float]
    ) -> bytes:
        """All of it, in memory, before any of it is sent; raises ``ProblemError`` for more than ``most`` bytes."""
        while True:
            if self.size > most or (self.length or 0) > most:
                raise ProblemError(
                    "body_too_large",
                    f"A body that placeholders are replaced in is {most} bytes long at most.",
                    next_step="Raise replay.memory of the route, or send it as application/octet-stream.",
                )
            if self.complete:
                return b"".join(self._pieces)
            caller.deadline = monotonic() + deadlines.body_idle
            piece = await self._payload.readany()
            caller.deadline = inf
            self.complete = not piece
            self.size += len(piece)
            if not self._vault.take_memory(len(piece)):
                raise ProblemError(
                    "overloaded",
                    "There is no memory left for another body that must be looked through.",
                    next_step="Send the request again later, or raise replay.total_memory.",
                    retry_after=1,
                )
            self._memory += len(piece)
            self._pieces.append(piece)

    def become(self, whole: bytes) -> None:
        """Have these bytes sent in the place of what was gathered; their length is known."""
        self._vault.memory -= self._memory
        self._memory = len(whole) if self._vault.take_memory(len(whole)) else 0
        self._pieces = [whole] if whole else []
        self.length = len(whole)
        self.chunked, self.replayable = False, True

    async def send(
        self,
        upstream: UpstreamSide,
        caller: CallerSide,
        *,
        deadlines: Deadlines,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Send the copy, then what is still to come while the copy grows.

        What is wrong with the caller's body ends the upstream's exchange with that problem. An upstream that is gone
        ends this quietly: its side knows already. May be cancelled at any point and begun again on another upstream.
        """
        try:
            for piece in list(self._pieces):
                await self._write(upstream, piece, deadlines, monotonic)
            await self._send_spool(upstream, deadlines, monotonic)
            while not self.complete:
                caller.deadline = monotonic() + deadlines.body_idle
                piece = await self._payload.readany()
                caller.deadline = inf
                if not piece:
                    self.complete = True
                    break
                await self._keep(piece)
                await self._write(upstream, piece, deadlines, monotonic)
            if self.chunked:
                upstream.transport.write(last_chunk(self._payload, self._withheld))
            self.sent = True
            if upstream.payload is None:
                upstream.deadline = monotonic() + deadlines.first_byte
        except ProblemError as problem:
            upstream.fail(problem)
        except ConnectionError:
            return
        except OSError:  # of the copy: what was to be sent again cannot be read
            self._drop_copy()
            upstream.fail(
                ProblemError(
                    "upstream_unreachable",
                    "The copy of the request's body could not be read again.",
                    next_step="Look at the disk under replay.dir, and send the request again.",
                )
            )
        finally:
            if not caller.lingering:  # else the deadline is that of the last answer
                caller.deadline = inf

    def close(self) -> None:
        """Give back what the copy took."""
        self._drop_copy()

    async def _write(
        self, upstream: UpstreamSide, piece: bytes, deadlines: Deadlines, monotonic: Callable[[], float]
    ) -> None:
        if not upstream.connected:
            raise ConnectionResetError("The upstream is gone.")
        upstream.transport.write(chunk(piece) if self.chunked else piece)
        if upstream.writing_paused:
            await upstream.drain(monotonic() + deadlines.upstream_idle)

    async def _send_spool(
        self, upstream: UpstreamSide, deadlines: Deadlines, monotonic: Callable[[], float]
    ) -> None:
        at = 0
        while self._spool is not None and (piece := await self._spool.read(at)):
            at += len(piece)
            await self._write(upstream, piece, deadlines, monotonic)

    def _take(self, piece: bytes) -> None:
        """A body that is here at once is in memory anyway; the budget only decides whether it stays."""
        self.size = len(piece)
        if not piece:
            return
        self._pieces.append(piece)
        if self._vault.take_memory(self.size):
            self._memory = self.size

    async def _keep(self, piece: bytes) -> None:
        self.size += len(piece)
        if not self.replayable:
            return
        if (
            self._spool is None
            and self._memory + len(piece) <= self._replay.memory
            and self._vault.take_memory(len(piece))
        ):
            self._memory += len(piece)
            self._pieces.append(piece)
            return
        try:
            await self._keep_on_disk(piece)
        except OSError:  # a full disk costs the replay, not the request
            self._drop_copy()

    async def _keep_on_disk(self, piece: bytes) -> None:
        spool = self._spool or Spool(self._vault)
        if spool.size + len(piece) > self._replay.disk or not self._vault.take_disk(len(piece)):
            self._drop_copy()
            return
        self._spool = spool
        await spool.append(piece)

    def _drop_copy(self) -> None:
        self.replayable = False
        self._pieces.clear()
        self._vault.memory -= self._memory
        self._memory = 0
        if self._spool is not None:
            self._vault.disk -= self._spool.size
            self._spool.close()
            self._spool = None
