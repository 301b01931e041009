"""
Logins at rest: all that is known of them, packed into the bytes of one row each, and ready to be given out.

A login as an ``Entry`` is fifteen objects, which take more memory than its tokens do. Of 100,000 nearly all have
nothing to do but wait for their next request or their next renewal, so that only what each request and each look of the
scheduler needs stays unpacked.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.grants import traits_of
from tokenproxy.core.interfaces import Record
from tokenproxy.core.provider import ACCESS_TOKEN, Account
from tokenproxy.core.tokens import NOTHING, TokenSet
from tokenproxy.oauth.entry import Entry

WORTH: Final = 60.0
"""Seconds: a login with less to wait is about to be renewed."""
_STEP: Final = 16.0
"""Seconds: deadlines are rounded down to these, so that one number serves many logins; up to then nothing is missed."""
_SHARED: Final = 4096
"""Values kept to be shared; beyond that they are merely in memory more than once."""
_AROUND: Final = 420
"""Bytes of memory that a login at rest costs beside its row: name, places in tables, ``Packed``, two numbers."""
_LOOKED_AT: Final = 128
"""How many of the oldest are compared when some must go."""
_ROUND: Final = 16
"""Looks of the scheduler until all were seen to."""
_AT_ONCE: Final = 1000
"""So many at least are seen to at each look."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


class _Kind(NamedTuple):
    """What many logins have in common, in memory once."""

    bound_to: str
    token_type: str
    scope: str | None
    scope_asked: str | None
    generation: int
    bare: bool
    """Nothing was captured, and no key binds the tokens."""
    sendable: bool
    """And the access token is visible ASCII."""
    used_for: float
    """Seconds after its last use in which a login is renewed in the background."""


class Packed:
    """One login at rest; as it is, ``core.tokens.Sendable`` for a request."""

    __slots__ = (
        "account",
        "begins",
        "due_at",
        "expires",
        "fresh_until",
        "kind",
        "refresh_expires",
        "row",
        "settled",
        "used_at",
    )

    def __init__(self, account: Account, kind: _Kind, fields: bytes, access_token: bytes) -> None:
        self.account = account
        self.kind = kind
        self.row = fields + access_token
        """One block: two for each login leave gaps that are a sixth of the memory."""
        self.begins = len(fields)
        """Where in it the access token does."""
        self.fresh_until = -math.inf
        self.due_at = -math.inf
        """-inf also for one that a reload has not reached yet."""
        self.used_at = -math.inf
        self.expires = math.inf
        """Seconds since the epoch, rounded down like all deadlines here."""
        self.refresh_expires = math.inf
        self.settled = True

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        return len(self.row) + _AROUND

    @property
    def access_token(self) -> str:
        return self.row[self.begins :].decode("utf-8", "surrogatepass")

    @property
    def sendable(self) -> bytes:
        return self.row[self.begins :] if self.kind.sendable else b""

    @property
    def generation(self) -> int:
        return self.kind.generation

    @property
    def captured(self) -> Mapping[str, str]:
        return NOTHING if self.kind.bare else self.unpacked().captured

    @property
    def dpop_key(self) -> str | None:
        return None if self.kind.bare else self.unpacked().dpop_key

    def in_use(self, now: float) -> bool:
        """As ``Entry.in_use``."""
        return now - self.used_at <= self.kind.used_for

    def unpacked(self) -> TokenSet:
        refresh, issued, expires, refresh_expires, identity, captured, key, *_ = marshal.loads(self.row)  # noqa: S302 - made by ``_fields`` below, in this process
        kind = self.kind
        return TokenSet(
            access_token=self.access_token,
            refresh_token=refresh,
            token_type=kind.token_type,
            scope=kind.scope,
            scope_asked=kind.scope_asked,
            issued_at=_moment(issued),
            expires_at=_moment(expires),
            refresh_expires_at=_moment(refresh_expires),
            identity=identity,
            generation=kind.generation,
            captured=captured or NOTHING,
            dpop_key=key,
        )

    def entry(self, name: str) -> Entry:
        """Awake, and as it was when it was packed."""
        tokens = self.unpacked()
        *_, since, renewed_at, fresh_until, due_at = marshal.loads(self.row)  # noqa: S302
        record = Record(
            account=name,
            bound_to=self.kind.bound_to,
            generation=tokens.generation,
            tokens=tokens,
            standing=Standing(State.OK, Reason.NONE, _moment(since)),
            renewed_at=_moment(renewed_at),
        )
        entry = Entry(self.account, record, tokens)
        entry.fresh_until, entry.used_at = fresh_until, self.used_at
        entry.due_at = due_at if self.due_at > -math.inf else -math.inf
        entry.settled = self.settled
        return entry


def may_rest(entry: Entry, now: float) -> bool:
    """Whether there is nothing to do about the login, and all there is to know of it fits into a row."""
    standing = entry.standing
    at_ease = standing.state is State.OK and standing == Standing(State.OK, Reason.NONE, standing.since)
    pending = entry.wanted or entry.in_doubt or entry.dead or entry.outdated
    if not at_ease or pending or not traits_of(entry.account).person:
        return False
    if now < entry.live_until or any(now < hold.until + 2 * hold.seconds for hold in entry.holds.values()):
        return False
    return entry.due_at - now > WORTH or not entry.in_use(now)


class Resting:
    """By account, the longest at rest first."""

    def __init__(self) -> None:
        self._logins: dict[str, Packed] = {}
        self._shared: dict[Any, Any] = {}
        self._round: list[str] = []
        """Whom the scheduler still has to see to before it begins anew."""
        self.size = 0
        """Roughly, in bytes."""

    def __contains__(self, account: str) -> bool:
        return account in self._logins

    def __iter__(self) -> Iterator[Packed]:
        return iter(self._logins.values())

    def __len__(self) -> int:
        return len(self._logins)

    def get(self, account: str) -> Packed | None:
        return self._logins.get(account)

    def ready(self, account: str, now: float) -> Packed | None:
        """As ``Source.ready``."""
        login = self._logins.get(account)
        if login is None or now >= login.fresh_until:
            return None
        login.used_at = now
        return login

    def put(self, entry: Entry) -> None:
        """Pack what ``may_rest``."""
        tokens, account = entry.tokens, entry.account
        lifetime = tokens.lifetime
        always = lifetime is None or account.provider.refresh_with == ACCESS_TOKEN
        bare = not tokens.captured and tokens.dpop_key is None
        visible = tokens.access_token.isascii() and tokens.access_token.isprintable()
        kind = _Kind(
            bound_to=entry.bound_to,
            token_type=tokens.token_type,
            scope=tokens.scope,
            scope_asked=tokens.scope_asked,
            generation=tokens.generation,
            bare=bare,
            sendable=bare and visible,
            used_for=math.inf if lifetime is None or always else float(math.ceil(lifetime.total_seconds())),
        )
        login = Packed(
            account,
            self._share(kind),
            _fields(entry),
            tokens.access_token.encode("utf-8", "surrogatepass"),
        )
        login.fresh_until, login.due_at = self._rounded(entry.fresh_until), self._rounded(entry.due_at)
        login.used_at, login.settled = entry.used_at, entry.settled
        login.expires = self._rounded(_seconds(tokens.expires_at))
        login.refresh_expires = self._rounded(_seconds(tokens.refresh_expires_at))
        self._logins[entry.name] = login
        self.size += login.size

    def pop(self, account: str) -> Packed | None:
        login = self._logins.pop(account, None)
        if login is not None:
            self.size -= login.size
        return login

    def least_used(self) -> list[str]:
        """Of those that rest longest, the half that is used least; the others are not among the longest any more."""
        oldest = sorted(islice(self._logins.items(), _LOOKED_AT), key=lambda item: item[1].used_at)
        half = (len(oldest) + 1) // 2
        for name, login in oldest[half:]:
            del self._logins[name]
            self._logins[name] = login
        return [name for name, _ in oldest[:half]]

    def due(self, now: float) -> Iterator[tuple[str, Packed]]:
        """Those in use that something is to be done about: a part of all at each call, each of them within 16."""
        if not self._round:
            self._round = list(self._logins)
        count = max(_AT_ONCE, len(self._logins) // _ROUND + 1)
        while self._round and count:
            count -= 1
            name = self._round.pop()
            login = self._logins.get(name)
            if login is not None and now >= login.due_at and login.in_use(now):
                yield name, login

    def follow(
        self, before: Mapping[str, Account], now: Mapping[str, Account], *, as_before: bool
    ) -> list[str]:
        """
        A reload: whatever the config changed is judged anew when its login wakes; whom to drop.

        ``as_before``: what is not in the tables stayed as it was.
        """
        bounds = {name: account.bound_to for name, account in now.items()}
        same = {name for name, account in now.items() if as_before and account == before.get(name)}
        gone = []
        for name, login in self._logins.items():
            table = login.account.name
            if bounds.get(table) != login.kind.bound_to:
                gone.append(name)
            elif table in same and login.account is before[table]:
                login.account = now[table]
            else:
                login.fresh_until = login.due_at = -math.inf
        return gone

    def _rounded(self, deadline: float) -> float:
        return self._share(deadline // _STEP * _STEP) if math.isfinite(deadline) else deadline

    def _share(self, value: Any) -> Any:
        if len(self._shared) >= _SHARED:
            self._shared.clear()
        return self._shared.setdefault(value, value)


def _fields(entry: Entry) -> bytes:
    """As plain values, which ``marshal`` packs and unpacks within a microsecond; JSON takes five times as long."""
    tokens = entry.tokens
    row = (
        tokens.refresh_token,
        _ticks(tokens.issued_at),
        _ticks(tokens.expires_at),
        _ticks(tokens.refresh_expires_at),
        tokens.identity,
        dict(tokens.captured) or None,
        tokens.dpop_key,
        _ticks(entry.standing.since),
        _ticks(entry.renewed_at),
        entry.fresh_until,
        entry.due_at,
    )
    return marshal.dumps(row)


def _ticks(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _TICK


def _moment(ticks: int | None) -> datetime | None:
    return None if ticks is None else _EPOCH + ticks * _TICK


def _seconds(at: datetime | None) -> float:
    return math.inf if at is None else at.timestamp()
