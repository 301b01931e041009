"""
One line per event on standard error: JSON for machines, words for a terminal, and no secret in either.

Rules: what is said is a name of ``EVENTS`` with fields, so that alerts can key on it; every string passes ``redact``
below all loggers, other libraries' included, right before it is written. Fields must not carry secrets in the
first place: the redaction is the last line of defence, not a licence.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import Any, Final, TextIO
from urllib.parse import quote, quote_plus

REDACTED: Final = "[redacted]"
LIBRARY: Final = "library_message"
"""The event of a record that no call of ``event`` made."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What one event means and how loud it is."""

    level: int
    sentence: str


_INFO: Final = logging.INFO
_WARNING: Final = logging.WARNING
_ERROR: Final = logging.ERROR

EVENTS: Final[Mapping[str, Kind]] = {
    # the process
    "started": Kind(_INFO, "The program has read its config and opened its store."),
    "listening": Kind(_INFO, "A listener takes connections at `address`."),
    "listener_closed": Kind(_INFO, "A reload took the listener at `address` away."),
    "stopping": Kind(_INFO, "A signal or a command asked for the end; no new requests are taken."),
    "drain_cut": Kind(_WARNING, "The drain deadline passed, or a second signal came; `requests` requests and `tunnels` tunnels were cut off."),
    "stopped": Kind(_INFO, "Everything is closed."),
    "config_reloaded": Kind(_INFO, "The config file was read again and is in force."),
    "config_reload_failed": Kind(_ERROR, "The config file has mistakes; the one before stays in force."),
    "config_warning": Kind(_WARNING, "The config works, and something in it deserves a look."),
    "unexpected_error": Kind(_ERROR, "A mistake in tokenproxy itself; please report it."),
    # tokens
    "token_renewed": Kind(_INFO, "A new token set is on disk and in use; `trigger` says what asked for it."),
    "renewal_failed": Kind(_WARNING, "A renewal failed for now and will be tried again."),
    "renewal_in_doubt": Kind(_WARNING, "A renewal was sent and its answer never came."),
    "renewal_recovered": Kind(_INFO, "A renewal in doubt was tried again and brought a token set."),
    "renewals_held": Kind(_WARNING, "A new token was refused too; renewals for this route wait `seconds`."),
    "validate_live": Kind(_INFO, "The upstream refused a token that the provider calls live; nothing was renewed."),
    "validate_failed": Kind(_WARNING, "The provider's validate call gave no usable answer; the token is renewed."),
    "discovery_failed": Kind(_WARNING, "An issuer's metadata could not be read; what is known of it stays in use."),
    "issuer_keys_failed": Kind(_WARNING, "The keys that callers' tokens are signed with could not be fetched; those that are known stay in use."),
    "provider_rate_limited": Kind(_WARNING, "The provider asks us to slow down until `retry_at`."),
    "login_required": Kind(_ERROR, "The provider ended the grant; a person must log in."),
    "misconfigured": Kind(_ERROR, "The provider refuses our client registration, or an upstream a token of the config; the config must change."),
    "registration_changed": Kind(
        _ERROR, "The config names another provider or client than the tokens'; they are not sent there."
    ),
    "token_imported": Kind(_INFO, "An import or a login brought a token set."),
    "account_forgotten": Kind(_INFO, "A logout dropped the tokens of an account."),
    "revocation_failed": Kind(_WARNING, "An account is logged out here, and its provider did not take the revocation."),
    "account_rebound": Kind(_INFO, "The operator bound stored tokens to the registration of the config."),
    "login_begun": Kind(_INFO, "Somebody began a login; `login` tells attempts apart."),
    "login_succeeded": Kind(_INFO, "A login brought what it was for."),
    "login_failed": Kind(_WARNING, "A login ended without tokens, for `reason`."),
    # the dashboard
    "signed_in": Kind(_INFO, "Somebody at `peer` showed the admin token and has a session of the dashboard."),
    "signed_out": Kind(_INFO, "Somebody ended their session of the dashboard."),
    "sign_in_refused": Kind(_WARNING, "Somebody at `peer` showed a wrong admin token to the dashboard."),
    # the store
    "store_failed": Kind(_ERROR, "The store could not be read or written."),
    "spool_failed": Kind(_ERROR, "The spool failed too: a token set that the store does not take is in memory alone."),
    "spool_left": Kind(_WARNING, "The process ends before the store took a token set; the next start gives it to the store."),
    "store_rolled_back": Kind(_ERROR, "The store had an older token set than it had confirmed, as after a fail-over to a copy that lacks the last commits; ours was put back."),
    "store_recovered": Kind(_INFO, "The store works again."),
    "store_warning": Kind(_WARNING, "The store works, and something about its server may cost a login."),
    "key_created": Kind(_INFO, "A new key file was made; without a copy of it stored logins cannot be opened."),
    "key_rotated": Kind(_INFO, "Every row is sealed under the first key of the list."),
    "store_copied": Kind(_INFO, "A backup of the store was written."),
    "state_written": Kind(_INFO, "An application put state under `path` of a login."),
    "state_dropped": Kind(_INFO, "An application dropped state under `path` of a login."),
    "audit_failed": Kind(_ERROR, "The audit log cannot be written; its lines wait, 10,000 at most."),
    "audit_recovered": Kind(_INFO, "The audit log is written again."),
    # requests
    "request": Kind(_INFO, 'A request was answered (`log.access = "all"`).'),
    "request_slow": Kind(_INFO, 'A request took long (`log.access = "slow"`).'),
    "caller_refused": Kind(_INFO, "A request was refused before anything was done for it, for reason `code`."),
    "upstream_failed": Kind(_WARNING, "An upstream could not be reached, or its answer was unusable."),
    "token_echoed": Kind(_WARNING, "An upstream repeated our token in the `place` of an answer; it was hidden there."),
    "trace_export_failed": Kind(_WARNING, "`spans` spans did not reach the collector; requests go on without it."),
    "overloaded": Kind(_WARNING, "Requests are turned away because too many are in flight."),
    # everybody else
    LIBRARY: Kind(_INFO, "A library wrote `message`; the level is its own."),
}  # fmt: skip
"""The closed list of events; ``docs/logs.md`` tells the same."""

_counts: MutableMapping[str, int] = {}
_listeners: tuple[Callable[[str, Mapping[str, Any]], None], ...] = ()


def event(
    logger: logging.Logger, name: str, /, *, error: BaseException | None = None, **fields: object
) -> None:
    """
    Write one of ``EVENTS`` with its fields, and count it even where the level keeps it quiet.

    ``error`` becomes a field of one line; its traceback is written at level debug only.
    """
    level = EVENTS[name].level
    _counts[name] = _counts.get(name, 0) + 1
    for hear in _listeners:
        hear(name, fields)
    if logger.isEnabledFor(level):
        logger.log(level, name, exc_info=error, extra={"event": name, "fields": fields})


def count_into(counts: MutableMapping[str, int]) -> None:
    """Count events in ``counts`` (``Metrics.log_events``) from now on."""
    global _counts  # noqa: PLW0603 - logging is global, and so is what it counts
    _counts = counts


def listen(hear: Callable[[str, Mapping[str, Any]], None]) -> Callable[[], None]:
    """
    Give every event and its fields to ``hear`` as well, whatever the level, from any thread; the answer ends that.

    They have not passed ``redact`` yet.
    """
    global _listeners  # noqa: PLW0603 - as above
    _listeners = (*_listeners, hear)

    def end() -> None:
        global _listeners  # noqa: PLW0603
        _listeners = tuple(each for each in _listeners if each is not hear)

    return end


# --- secrets ---------------------------------------------------------------------------------------------------------

_PREFIX: Final = 6
_CUT: Final = 8


class Secrets:
    """
    Exact values that no line may carry, found in time that does not grow with their number.

    Token sets come and go: what a rotation replaced is forgotten, and where somebody forgets to forget, the oldest
    of ``limit`` values leaves first. Lasting values (client secrets, keys) are bounded by the config file.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._passing: dict[str, int] = {}
        """How often each was added: a refresh token that does not rotate belongs to two generations for a moment."""
        self._lasting: set[str] = set()
        self._index: dict[str, Counter[str]] = {}
        """The first characters of each spelling -> the spellings that begin so, and how many secrets have them."""
        self._lock = threading.Lock()  # the store's thread logs too

    def __len__(self) -> int:
        return len(self._passing.keys() | self._lasting)

    def add(self, value: str, *, lasting: bool = False) -> None:
        """Values shorter than 6 characters are not kept: hiding them would garble every line and guard nothing."""
        if len(value) < _PREFIX:
            return
        with self._lock:
            if not self._knows(value):
                for spelling in _spellings(value):
                    self._index.setdefault(spelling[:_PREFIX], Counter())[spelling] += 1
            if lasting:
                self._lasting.add(value)
                return
            self._passing[value] = self._passing.pop(value, 0) + 1  # and so the youngest
            if len(self._passing) > self._limit:
                oldest = next(iter(self._passing))
                del self._passing[oldest]
                self._forgotten(oldest)

    def forget(self, value: str) -> None:
        """Undo one ``add``; a value that lasts is forgotten when nothing else holds it."""
        with self._lock:
            if not self._knows(value):
                return
            if self._passing.get(value, 0) > 1:
                self._passing[value] -= 1
                return
            if self._passing.pop(value, None) is None:
                self._lasting.discard(value)
            self._forgotten(value)

    def redact(self, text: str) -> str:
        if not self._index or len(text) < _PREFIX:
            return text
        with self._lock:
            return "".join(self._pieces(text))

    def _pieces(self, text: str) -> Iterator[str]:
        copied = at = 0
        while at <= len(text) - _PREFIX:
            spellings = self._index.get(text[at : at + _PREFIX])
            length = _longest(spellings, text, at) if spellings else 0
            if not length:
                at += 1
                continue
            yield text[copied:at]
            yield REDACTED
            copied = at = at + length
        yield text[copied:]

    def _knows(self, value: str) -> bool:
        return value in self._passing or value in self._lasting

    def _forgotten(self, value: str) -> None:
        if self._knows(value):
            return
        for spelling in _spellings(value):
            found = self._index[spelling[:_PREFIX]]
            found[spelling] -= 1
            if not found[spelling]:
                del found[spelling]
            if not found:
                del self._index[spelling[:_PREFIX]]


def _spellings(value: str) -> set[str]:
    """How a value may look once a URL, a form, JSON or ``repr`` has quoted it."""
    quoted = (
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
    )
    return {spelling for spelling in (value, *quoted) if len(spelling) >= _PREFIX}


def _longest(spellings: Counter[str], text: str, at: int) -> int:
    """Characters to hide at ``at``; a secret that the end of the text cuts off counts from 8 characters on."""
    whole = max((len(spelling) for spelling in spellings if text.startswith(spelling, at)), default=0)
    if whole:
        return whole
    rest = text[at:].rstrip(".…")
    if len(rest) >= _CUT and any(spelling.startswith(rest) for spelling in spellings):
        return len(text) - at
    return 0


_secrets: Final = Secrets()


def register_secret(value: str, *, lasting: bool = False) -> None:
    """Hide this exact value from every line from now on; ``lasting`` for what does not rotate."""
    _secrets.add(value, lasting=lasting)


def forget(value: str) -> None:
    """A token that was rotated away; cheap, and no harm for a value that was never registered."""
    _secrets.forget(value)


_SECRET_NAME: Final = (
    r"(?:token|secret|passw(?:or)?d|passphrase|assertion|verifier|api[_-]?key|tokenproxy-key)"  # noqa: S105 - names
)
_START: Final = r"(?:(?<![\w-])|(?<=%[0-9a-f]{2}))"
_CODE_NAME: Final = r"(?:code|device_code|user_code|state|nonce|sig|signature)"
_VALUE: Final = r"""(?:\\"(?:(?!\\").)*(?:\\"|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)|'(?:[^'\\]|\\.)*(?:'|\Z)|(?:\[redacted\]|[^\s&"'<>,;)}\]])+)"""
_QUOTED: Final = r"""\\?["']\s*[:=,]\s*"""
"""After a quoted name: JSON, ``repr`` of a dict, ``repr`` of a list of pairs."""
_BYTES: Final = r"""(?:b(?=["']))?"""

_SHAPES: Final = re.compile(
    "|".join(
        (
            # RFC 6750 section 2.1, RFC 7617; not the challenge `Bearer realm="x", error="invalid_token"`
            r"(?P<scheme>\b(?:bearer|basic|dpop)(?:\s+|%20|\+))(?!token\b|auth|realm=|error|scope=)[^\s\"',;<>]+",
            rf"(?P<field>\b(?:authorization|cookie)2?(?:{_QUOTED}|\s*[:=]\s*)){_BYTES}[^\r\n]+",
            rf"(?P<name>{_START}[\w-]*{_SECRET_NAME}(?:{_QUOTED}|\s*=\s*|:|%3d)){_BYTES}{_VALUE}",
            # a field of a head; words of a sentence (`client_secret: must be ...`) stay
            rf"(?P<line>(?<![\w-])[\w-]*{_SECRET_NAME}:\s+)(?=\S*[\d_+/=-])\S{{6,}}",
            rf"""(?P<code>{_START}{_CODE_NAME}(?:=|%3d|\\?["']\s*:\s*)){_VALUE}""",
            r"(?P<user>://)[^/\s\"'?#]+(?=@)",  # RFC 3986 section 3.2.1
            r"(?P<jwt>(?<![\w-]))eyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*){0,3}",  # RFC 7519, RFC 7516
            r"(?P<pem>-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?=-----END|\Z)",
        )
    ),
    re.IGNORECASE,
)
_HINT: Final = re.compile(r"[=:]|%3d|bearer|basic|dpop|eyj|[\"'],|-----BEGIN", re.IGNORECASE)
"""Whatever ``_SHAPES`` finds has one of these; most strings have none."""
_SECRET_KEY: Final = re.compile(
    rf"[\w-]*{_SECRET_NAME}|(?:proxy-)?authorization|(?:set-)?cookie", re.IGNORECASE
)


def redact(text: str) -> str:
    """The text without registered secrets and without what looks like a credential."""
    text = _secrets.redact(text)
    if _HINT.search(text) is None:
        return text
    return _SHAPES.sub(lambda found: f"{found[found.lastgroup or 0]}{REDACTED}", text)


# --- lines -----------------------------------------------------------------------------------------------------------

_LONGEST_READ: Final = 64 * 1024
_LONGEST: Final = 8 * 1024
_DEEPEST: Final = 4
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "event",
    "fields",
}
_FIRST: Final = ("ts", "level", "event")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts`` (ISO 8601, UTC, ms), ``level``, ``event``, then the fields."""

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _iso(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "event": _event_of(record),
        }
        line |= {name: value for name, value in _fields(record).items() if name not in _FIRST}
        if self._tracebacks and (lines := _traceback(record)):
            line["traceback"] = lines
        return json.dumps(line, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """``15:04:11  token renewed  account=crm generation=4``: local time, the level only where it is not info."""

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = _fields(record)
        words = [] if record.levelno == logging.INFO else [record.levelname.lower()]
        if _event_of(record) == LIBRARY:
            words.append(f"{fields.pop('logger')}: {printable(str(fields.pop('message')))}")
        else:
            words.append(_event_of(record).replace("_", " "))
        words.append(
            " ".join(f"{name}={_word(value)}" for name, value in fields.items() if value is not None)
        )
        lines = [f"{clock}  {'  '.join(word for word in words if word)}"]
        if self._tracebacks:
            lines += [f"    {printable(line)}" for line in _traceback(record).splitlines()]
        return "\n".join(lines)


def _event_of(record: logging.LogRecord) -> str:
    name = getattr(record, "event", None)
    return name if isinstance(name, str) and name in EVENTS else LIBRARY


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What a record says beside its first three fields, without secrets and ready for JSON."""
    given = getattr(record, "fields", None)
    fields = (
        {name: _clean(name, value) for name, value in given.items()} if isinstance(given, Mapping) else {}
    )
    for name, value in record.__dict__.items():
        if name not in _OWN:
            fields[redact(name)] = _clean(name, value)
    if _event_of(record) == LIBRARY:
        fields = {"logger": record.name, "message": _text(_message(record)), **fields}
    if (error := _exception(record)) is not None:
        fields["error"] = _text(error)
    return fields


def _message(record: logging.LogRecord) -> str:
    """Arguments that do not fit their message must not end in logging's own error print, which shows them bare."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} (its arguments do not fit)"


def _clean(name: str, value: object, depth: int = 0) -> object:
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, str | bytes) and value and _SECRET_KEY.fullmatch(name):
        return REDACTED
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {redact(str(key)): _clean(str(key), each, depth + 1) for key, each in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_clean("", each, depth + 1) for each in value]
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 6)
    return _text(value)


def cleaned(fields: Mapping[str, object]) -> dict[str, Any]:
    """Fields without secrets, ready for JSON."""
    return {name: _clean(name, value) for name, value in fields.items()}


def _text(value: object) -> str:
    match value:
        case Enum():
            text = str(value.value)
        case datetime():
            text = _iso(value)
        case timedelta():
            text = f"{value.total_seconds():g} s"
        case BaseException():
            text = describe(value)
        case bytes():
            text = value.decode(errors="backslashreplace")
        case _:
            text = str(value)
    text = redact(text[:_LONGEST_READ])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... (cut)"


def _iso(moment: datetime) -> str:
    if moment.tzinfo is None:  # all our times are UTC
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe(error: BaseException) -> str:
    """An exception and what caused it on one line, without secrets: ``StoreError: disk full (OSError: ...)``."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    cause = error.__cause__
    if cause is not None and cause is not error:
        said += f" ({type(cause).__name__}: {' '.join(str(cause).split())})"
    return redact(said)


def _exception(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _traceback(record: logging.LogRecord) -> str:
    """Where an exception came from: files and lines, never the values of locals."""
    error = _exception(record)
    if error is None:
        return ""
    return redact("".join(traceback.TracebackException.from_exception(error, capture_locals=False).format()))


def printable(text: str) -> str:
    """Control characters could forge a line or drive the terminal that shows it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _word(value: object) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value, default=str))
    return (
        json.dumps(text, ensure_ascii=False)
        if isinstance(value, str) and re.search(r'[\s="]|^$', text)
        else text
    )


_AS_JSON: Final = JsonFormatter()


# --- setting up ------------------------------------------------------------------------------------------------------

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_AT_LEAST: Final[Mapping[str, int]] = {
    "aiosqlite": logging.WARNING,  # at debug it writes every statement with its values
    "asyncio": logging.INFO,
}


class Recent:
    """
    The last lines as JSON, as they were written and without secrets, for who looks on through the admin socket.

    Bounded in lines and in letters; what nobody asks for costs a line one append.
    """

    def __init__(self, *, lines: int = 1000, letters: int = 512 * 1024) -> None:
        self._most, self._letters = lines, letters
        self._lines: deque[str] = deque()
        self._size = 0
        self._count = 0
        """Lines ever added."""
        self._lock = threading.Lock()  # the store's thread logs too
        self._waiting: list[Callable[[], None]] = []

    def add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            self._count += 1
            while len(self._lines) > self._most or (self._size > self._letters and len(self._lines) > 1):
                self._size -= len(self._lines.popleft())
            waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell()

    def behind(self, number: int) -> tuple[list[str], int, int]:
        """
        The lines after so many, how many there were ever, and how many of those asked for are gone.

        A number that there never was is from another process: then it is all of them.
        """
        with self._lock:
            first = self._count - len(self._lines)
            start = number if 0 <= number <= self._count else first
            missed = max(0, first - start)
            return list(self._lines)[max(0, start - first) :], self._count, missed if number > 0 else 0

    def tell(self, tell: Callable[[], None]) -> None:
        """Call it when the next line comes, from whatever thread that is; it must not log."""
        with self._lock:
            self._waiting.append(tell)

    def forget(self, tell: Callable[[], None]) -> None:
        """Nobody waits for it any more."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(tell)


_recent: Recent | None = None


def keep_recent() -> Recent:
    """Keep the last lines of this process from now on; the same when it is called again."""
    global _recent  # noqa: PLW0603 - logging is global, and so is what it keeps
    _recent = _recent or Recent()
    return _recent


class _Output(logging.StreamHandler[TextIO]):
    """Our only handler; a full disk or a closed pipe behind it must neither fail a request nor print a record bare."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if _recent is not None:
            as_json = isinstance(self.formatter, JsonFormatter)
            _recent.add(text if as_json else _AS_JSON.format(record))
        return text

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def setup(level: str = "info", layout: str = "auto", *, stream: TextIO | None = None) -> logging.Handler:
    """
    Send everything that anybody logs through one handler; calling it again replaces what it set up before.

    ``level`` is a key of ``LEVELS``, ``layout`` is "json", "text", or "auto" (text where ``stream`` is a terminal);
    ``stream`` is standard error where it is None.
    """
    out = sys.stderr if stream is None else stream
    as_text = layout == "text" or (layout == "auto" and out.isatty())
    tracebacks = level == "debug"
    handler = _Output(out)
    handler.setFormatter(
        TextFormatter(tracebacks=tracebacks) if as_text else JsonFormatter(tracebacks=tracebacks)
    )
    root = logging.getLogger()
    for other in list(root.handlers):
        if (
            isinstance(other, _Output) or type(other) is logging.StreamHandler
        ):  # the latter would write unredacted
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name, least in _AT_LEAST.items():
        logging.getLogger(name).setLevel(max(least, LEVELS[level]))
    return handler


def capture_uncaught() -> None:
    """Write through the log what Python would print to standard error bare: uncaught exceptions and warnings."""
    logger = logging.getLogger("tokenproxy")

    def uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        if isinstance(error, Exception):
            event(logger, "unexpected_error", error=error)

    def in_thread(given: threading.ExceptHookArgs) -> None:
        if isinstance(given.exc_value, Exception):
            event(
                logger, "unexpected_error", error=given.exc_value, thread=getattr(given.thread, "name", None)
            )

    def unraisable(given: Any) -> None:
        if isinstance(given.exc_value, Exception):
            event(logger, "unexpected_error", error=given.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    logging.captureWarnings(capture=True)
