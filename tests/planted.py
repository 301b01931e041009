"""
No test leaks: what a test plants is looked for in all that the program says while the test runs (R26).

Simulated providers plant each token, code and client secret that they make, the data plane's actors their tokens, a test what it
likes (``plant``). Said is: each event of the log at every level, as it would be written, and what libraries log; our own problem
answers; each line of the audit log; each answer of the admin side, its pages and metrics included; what programs in processes of their own write; the words of
every process that is started. ``tests/conftest.py`` asks ``found`` when a test and all its fixtures have ended.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

SHORTEST: Final = 7
PIECE: Final = 16
"""Characters of a piece of a long secret: whatever shows 31 of them in a row shows one."""
MOST: Final = 1000
"""Secrets of one test that are looked for; of more, the first and the last."""
MOST_TEXT: Final = 64 * 2**20


class Watch:
    """Of one test."""

    def __init__(self) -> None:
        self.secrets: dict[str, None] = {}
        self.texts: dict[str, list[str]] = defaultdict(list)
        self._size = 0

    def said(self, where: str, text: str) -> None:
        if self._size < MOST_TEXT:
            self._size += len(text)
            self.texts[where].append(text)

    def found(self) -> list[str]:
        """Where a planted secret stands, without it."""
        if not self.secrets or not self.texts:
            return []
        secrets = [*self.secrets]
        secrets = secrets if len(secrets) <= MOST else secrets[: MOST // 2] + secrets[-MOST // 2 :]
        leaks = []
        for where, texts in self.texts.items():
            whole = "\n".join(texts)
            for number, secret in enumerate(secrets):
                piece = next((each for each in pieces(secret) if each in whole), None)
                if piece is not None:
                    line = next(each for each in whole.splitlines() if piece in each)
                    leaks.append(f"{where}: planted secret {number}: {line.replace(piece, '<HERE>')[:400]}")
        return leaks


def pieces(secret: str) -> Iterator[str]:
    """What shows that a secret is there: all of it, or a part that nobody guesses, raw or percent-encoded."""
    start = (
        secret.find(".") + 13 if secret.startswith("eyJ") else 0
    )  # what all our JWTs begin with is no secret
    parts = [secret[at : at + PIECE] for at in range(start, len(secret) - PIECE + 1, PIECE)] or [secret]
    for part in parts if len(parts) <= 16 else parts[:8] + parts[-8:]:
        yield part
        if quote(part, safe="") != part:
            yield quote(part, safe="")


class Planting(list[str]):
    """A simulator's list of what it issued, each planted as it comes."""

    def append(self, secret: str) -> None:
        super().append(secret)
        plant(secret)


_watch: Watch | None = None


def begin() -> Watch:
    global _watch  # noqa: PLW0603 - log.event is global, and so is who listens
    _watch = Watch()
    return _watch


def begun() -> Watch:
    """The present test's."""
    assert _watch is not None
    return _watch


def plant(*secrets: str) -> None:
    """These must show up nowhere until the test has ended."""
    if _watch is not None:
        _watch.secrets.update((secret, None) for secret in secrets if len(secret) >= SHORTEST)


def deliberately_shown(*secrets: str) -> None:
    """The test lets these be seen, and says why beside it."""
    if _watch is not None:
        for secret in secrets:
            _watch.secrets.pop(secret, None)


def said(where: str, text: str) -> None:
    if _watch is not None and text:
        _watch.said(where, text)


def process_list() -> None:
    """What ``ps`` shows of every process that is there."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                said("ps", (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue


# --- who says something ------------------------------------------------------------------------------------------------


def listen() -> None:
    """Once a process, before any test; simulators that run elsewhere need nothing of this."""
    from tokenproxy.audit import AuditLog
    from tokenproxy.proxy import caller, exchange

    _hear_the_log()
    for module in (exchange, caller):
        module.render = _heard(module.render)  # type: ignore[attr-defined]
    web.Application._handle = _heard_admin(web.Application._handle)  # type: ignore[method-assign]
    web.StreamResponse.write = _heard_stream(web.StreamResponse.write)  # type: ignore[method-assign]
    AuditLog._queue = _heard_audit(AuditLog._queue)  # type: ignore[method-assign]
    sys.addaudithook(_started)


def _hear_the_log() -> None:
    from tokenproxy import log

    plain, formatter = log.event, log.JsonFormatter(tracebacks=True)

    @wraps(plain)
    def event(
        logger: logging.Logger, name: str, /, *, error: BaseException | None = None, **fields: object
    ) -> None:
        if _watch is not None:
            record = logger.makeRecord(
                logger.name,
                log.EVENTS[name].level,
                "",
                0,
                name,
                (),
                None,
                extra={"event": name, "fields": fields},
            )
            record.exc_info = None if error is None else (type(error), error, error.__traceback__)
            said("log", formatter.format(record))
        plain(logger, name, error=error, **fields)

    log.event = event
    logging.getLogger().addHandler(_Libraries(formatter))


class _Libraries(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        if _watch is not None and not hasattr(record, "event"):
            said("log of a library", self.format(record))


def _heard(render: Any) -> Any:
    @wraps(render)
    def heard(*args: Any, **kwargs: Any) -> tuple[bytes, bytes]:
        head, body = render(*args, **kwargs)
        said("problem answer", (head + body).decode("latin-1"))
        return head, body

    return heard


def _heard_admin(handle: Any) -> Any:
    @wraps(handle)
    async def heard(self: web.Application, request: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = await handle(self, request)
        if (
            _watch is not None
            and isinstance(answer, web.Response)
            and isinstance(answer.body, bytes | bytearray)
        ):
            said(f"admin {request.method} {request.path}", bytes(answer.body).decode("utf-8", "replace"))
        return answer

    return heard


def _heard_audit(queue: Any) -> Any:
    @wraps(queue)
    def heard(self: Any, line: bytes) -> None:
        said("audit", line.decode())
        queue(self, line)

    return heard


def _heard_stream(write: Any) -> Any:
    @wraps(write)
    async def heard(self: web.StreamResponse, data: Any) -> None:
        if isinstance(self._req, web.Request):  # simulators speak below applications
            said(f"admin stream {self._req.path}", bytes(data).decode("utf-8", "replace"))
        await write(self, data)

    return heard


def _started(name: str, args: tuple[Any, ...]) -> None:
    if name in {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"} and _watch is not None:
        words = args[1] if isinstance(args[1] if len(args) > 1 else None, list | tuple) else args[:1]
        said(
            "process list",
            " ".join(os.fsdecode(each) for each in words if isinstance(each, str | bytes | os.PathLike)),
        )
