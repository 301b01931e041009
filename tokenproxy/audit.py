"""
The audit log: who did what to which login and what came of it, one JSON line each, and no secret in any.

Most of what it tells is told to the log as well: ``log.event`` hands each event on, and those of ``EVENTS`` are written.
Who asked is what ``ACTOR`` says in the task that does the work, or in the one that began it. A thread of its own
writes, so that a disk that hangs stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tokenproxy import log
from tokenproxy.core.settings import Audit
from tokenproxy.errors import TokenproxyError

_log: Final = logging.getLogger("tokenproxy.audit")


@dataclass(frozen=True, slots=True)
class Kind:
    """What one event means, and what it says of how it went."""

    result: str
    """``ok``, ``failed``, ``refused``, ``unknown``; empty: the event's own field says it."""
    sentence: str


EVENTS: Final[Mapping[str, Kind]] = {
    # the program
    "started": Kind("ok", "The program serves."),
    "stopping": Kind("ok", "Somebody asked for the end."),
    "stopped": Kind("ok", "The program has ended."),
    "config_reloaded": Kind("ok", "A config is in force; `restart_needed` names what of it is not."),
    "config_reload_failed": Kind("failed", "A config has mistakes; the one before stays in force."),
    "key_created": Kind("ok", "The store has a first key."),
    "key_rotated": Kind("ok", "Every row is sealed under the first key, `key_id`."),
    "store_copied": Kind("ok", "A backup of the store was written to `path`."),
    # who came
    "login_begun": Kind("ok", "Somebody began a login; `login` tells attempts apart."),
    "login_succeeded": Kind("ok", "A login brought what it was for."),
    "login_failed": Kind("failed", "A login ended without tokens, for `reason`."),
    "token_imported": Kind("ok", "An import or a login brought a token set."),
    "account_forgotten": Kind("ok", "A logout dropped the tokens of a login."),
    "revocation_failed": Kind("failed", "The provider did not take the revocation of a logout."),
    "account_rebound": Kind("ok", "Stored tokens belong to the registration of the config from now on."),
    "state_written": Kind("ok", "State was put under `path` of a login."),
    "state_dropped": Kind("ok", "State under `path` of a login was dropped."),
    # renewals
    "token_renewed": Kind("ok", "A renewal brought a token set; `trigger` says what asked for it."),
    "renewal_recovered": Kind("ok", "A renewal in doubt was tried again and brought a token set."),
    "renewal_failed": Kind("failed", "A renewal failed for now, for `reason`."),
    "renewal_in_doubt": Kind("unknown", "A renewal was sent and its answer never came."),
    "login_required": Kind("failed", "The provider ended the grant, for `reason`."),
    "misconfigured": Kind("failed", "The provider refuses the client registration, for `reason`."),
    "registration_changed": Kind("failed", "Tokens of another registration are not sent."),
    "signed_in": Kind("ok", "Somebody showed the admin token to the dashboard."),
    "signed_out": Kind("ok", "Somebody ended their session of the dashboard."),
    # who may not
    "sign_in_refused": Kind("refused", "Somebody showed a wrong admin token to the dashboard."),
    "caller_refused": Kind(
        "refused", "Requests were refused, for `reason`; `times` counts those of a minute."
    ),
    "admin_call": Kind("", "A call of the admin API that may change something: `call`, and its `status`."),
    # the audit log itself
    "audit_begun": Kind("ok", "This file is written from here on."),
    "audit_gap": Kind("failed", "`lost` lines could not be written before this one."),
}
"""The closed list; ``docs/audit.md`` tells the same."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked. Whoever lets somebody in sets it: ``ACTOR.set(Actor("..."))`` in the task of the request."""

    name: str
    """``program`` (by itself), ``signal``, ``socket:uid=1000``, ``command:uid=1000``, ``admin_token``, ``browser``, ``nobody``."""
    peer: str = ""
    """The other end's address."""
    request_id: str = ""
    caller: str = ""
    """The name of an application that showed who it is (caller authentication)."""


BY_ITSELF: Final = Actor("program")
ACTOR: ContextVar[Actor] = ContextVar("actor", default=BY_ITSELF)
"""Tasks inherit it: a renewal that an operator asked for is theirs, whoever waits for it."""


# -- refusals ----------------------------------------------------------------------------------------------------------

WINDOW: Final = 60.0
"""Seconds in which refusals of one kind are one line, beside the first."""
_KEPT: Final = frozenset({"event", "reason", "listener", "actor"})
"""What is told of those from further addresses."""
MOST: Final = 64
"""Kinds that are told apart in a window; whoever comes from further addresses is nobody in particular."""


@dataclass(slots=True)
class _Same:
    """Refusals of one kind since the first."""

    fields: dict[str, Any]
    until: float
    times: int = 0


class Refusals:
    """An attacker must not fill the disk: of each kind the first is a line, and each minute the rest another."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...], _Same] = {}

    def first(self, fields: dict[str, Any], now: float) -> bool:
        """Whether to tell this one at once; else it is counted."""
        key = tuple(sorted((name, str(value)) for name, value in fields.items() if name != "times"))
        known = self._kinds.get(key)
        if known is None and len(self._kinds) >= MOST:
            fields = {name: value for name, value in fields.items() if name in _KEPT}
            fields["peer"] = "many"
            key = tuple(sorted(fields.items()))
            known = self._kinds.get(key)
        if known is None:
            known = self._kinds[key] = _Same(fields, now + WINDOW)
            if fields.get("peer") != "many":
                return True
        known.times += int(fields.get("times", 1))
        return False

    def over(self, now: float, *, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Those that were counted in windows that are over."""
        ended = [key for key, same in self._kinds.items() if all_of_them or same.until <= now]
        found = [self._kinds.pop(key) for key in ended]
        return [same.fields | {"times": same.times} for same in found if same.times]


# -- writing -----------------------------------------------------------------------------------------------------------

WAITING: Final = 10_000
"""Lines that wait for a disk that takes none; what comes on top is lost, and counted."""
AGAIN: Final = 1.0
"""Seconds between tries, and between looks at what was counted."""
PATIENCE: Final = 3.0
"""Seconds that the end waits for the last lines."""
_NONE: Final = -1
"""No descriptor."""
_STREAMS: Final = {"stdout": 1, "stderr": 2}


class AuditLog:
    """Written from ``open`` to ``close``; at most one at a time is told what happens."""

    def __init__(
        self,
        settings: Audit,
        *,
        monotonic: Callable[[], float],
        counts: dict[str, int] | None = None,
        late: bool = False,
    ) -> None:
        """
        ``counts``: of lines, ``written`` and ``lost``. Raises ``TokenproxyError`` where the file cannot be opened.

        ``late``: it is opened when there is something to write, for commands that may only look.
        """
        self.settings = settings
        self.failing = ""
        """Why lines wait now."""
        self._monotonic = monotonic
        self._counts = counts if counts is not None else {"written": 0, "lost": 0}
        self._lines: deque[bytes] = deque()
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._lost = 0
        self._torn = False
        """Whether the file ends in the middle of a line."""
        self._closing = False
        self._reopening = False
        self._descriptor = _NONE if late else _opened(settings.file)
        self._thread = threading.Thread(target=self._run, name="tokenproxy-audit", daemon=True)
        self._thread.start()

    def record(self, event: str, **fields: Any) -> None:
        """Any thread may; never waits for the disk."""
        who, said = ACTOR.get(), log.cleaned(fields)
        if "code" in said:
            said["reason"] = said.pop("code")
        if EVENTS[event].result == "refused":
            said = {"event": event, "actor": who.name, "peer": who.peer, "caller": who.caller} | said
            with self._lock:
                if not self._refusals.first(said, self._monotonic()):
                    return
        self._queue(_line(event, who, said))

    def reopen(self) -> None:
        """The file of this name: another one may lie there since (logrotate)."""
        with self._more:
            self._reopening = True
            self._more.notify()

    def close(self) -> None:
        """The last lines are written, if the disk takes them in time."""
        with self._more:
            self._closing = True
            self._more.notify()
        self._thread.join(PATIENCE)
        if self._lines:
            self._tell_failure(f"{len(self._lines)} lines were not written at the end")

    def _queue(self, line: bytes) -> None:
        with self._more:
            if len(self._lines) >= WAITING:
                self._lost += 1
                self._counts["lost"] += 1
                return
            self._lines.append(line)
            self._more.notify()

    # in the thread

    def _run(self) -> None:
        while True:
            with self._more:
                if not self._lines and not self._closing and not self._reopening:
                    self._more.wait(AGAIN)
                closing, reopening, self._reopening = self._closing, self._reopening, False
                counted = self._refusals.over(self._monotonic(), all_of_them=closing)
            for said in counted:
                self._queue(_line("caller_refused", Actor(""), said))
            if reopening or (self._descriptor == _NONE and self._lines):
                self._open_again()
            wrote = self._descriptor != _NONE and self._write_all()
            if closing:
                break
            if not wrote and self._lines:
                with self._more:
                    self._more.wait_for(lambda: self._closing or self._reopening, AGAIN)
        self._close_file()

    def _close_file(self) -> None:
        if self._descriptor != _NONE:
            os.close(self._descriptor)

    def _open_again(self) -> None:
        try:
            fresh = _opened(self.settings.file)
        except TokenproxyError as error:
            self._failed(error.message)
            return
        self._close_file()
        self._descriptor, self._torn = fresh, False

    def _write_all(self) -> bool:
        """Whether everything that waited is in the file."""
        while True:
            with self._lock:
                lines, lost = list(self._lines)[:1000], self._lost
            if not lines and not lost:
                return True
            told = lost > 0 and len(lines) < 1000  # what was lost came after what waits
            if told:
                lines.append(_line("audit_gap", Actor("program"), {"lost": lost}))
            done, error = self._write(lines)
            with self._lock:
                if told and done == len(lines):
                    self._lost -= lost
                for _ in range(done - (told and done == len(lines))):
                    self._lines.popleft()
            self._counts["written"] += done
            if error is not None:
                self._failed(os.strerror(error.errno) if error.errno else str(error))
                return False
            self._worked()

    def _write(self, lines: list[bytes]) -> tuple[int, OSError | None]:
        """How many are in the file; one that a full disk cut off is written again, behind the rest of it."""
        done = 0
        try:
            for line in lines:
                left = memoryview(b"\n" + line if self._torn else line)
                while left:
                    left = left[os.write(self._descriptor, left) :]
                    self._torn = len(left) > 0
                done += 1
            if self.settings.fsync and self.settings.file not in _STREAMS:
                os.fsync(self._descriptor)
        except OSError as error:
            return done, error
        return done, None

    def _failed(self, why: str) -> None:
        if why != self.failing:
            self.failing = why
            self._tell_failure(why)

    def _tell_failure(self, why: str) -> None:
        log.event(_log, "audit_failed", file=self.settings.file, detail=why)

    def _worked(self) -> None:
        if self.failing:
            self.failing = ""
            log.event(_log, "audit_recovered", file=self.settings.file)


def _line(event: str, who: Actor, said: Mapping[str, Any]) -> bytes:
    found = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": event,
        "account": "",
        "actor": who.name,
        "peer": who.peer,
        "caller": who.caller,
        "result": EVENTS[event].result,
        "reason": "",
        "request_id": who.request_id,
        "pid": os.getpid(),
        **{name: value for name, value in said.items() if value is not None},
    }
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _opened(file: str) -> int:
    """A descriptor that appends; the file is made 0600, and one that others may write is refused."""
    if file in _STREAMS:
        return os.dup(_STREAMS[file])
    path = Path(file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TokenproxyError(
            f"the audit log {path} cannot be opened: {error.strerror}",
            next_step="correct file under [audit], or the permissions of its folder",
        ) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(descriptor)
        raise TokenproxyError(f"the audit log {path} can be changed by others", next_step=f"chmod 600 {path}")
    return descriptor


# -- the one that is told ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Current:
    audit: AuditLog | None = None
    stop: Callable[[], None] | None = None
    """Ends that the log tells us."""


_current: Final = _Current()
_BY_REQUEST: Final = frozenset({"caller_unauthorized", "not_allowed"})
"""The log is told of these now and then; we are told of each, with who it was, by the data plane."""


def use(audit: AuditLog | None) -> None:
    """From now on this one is told; None: nobody is, which costs nothing."""
    _current.audit = audit
    if _current.stop is not None:
        _current.stop()
    _current.stop = None if audit is None else log.listen(_heard)


def unavailable() -> str:
    """Why nothing may be done now that must be written down; empty: nothing stands against it."""
    audit = _current.audit
    return audit.failing if audit is not None and audit.settings.required else ""


def record(event: str, **fields: Any) -> None:
    """What the log has no word for."""
    if _current.audit is not None:
        _current.audit.record(event, **fields)


def _heard(event: str, fields: Mapping[str, Any]) -> None:
    audit = _current.audit
    if event == "caller_refused" and fields.get("code") in _BY_REQUEST:
        return
    if audit is not None and event in EVENTS:
        with contextlib.suppress(
            TypeError
        ):  # a field that is called as ours: never at the price of the work itself
            audit.record(event, **fields)
