"""Who may use the proxy: named callers, how each proves itself, and what it may do then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from tokenproxy.core.passwords import PasswordHash

KEY: Final = "key"
BASIC: Final = "basic"
CERTIFICATE: Final = "certificate"
PEER: Final = "peer"
JWT: Final = "jwt"
WAYS: Final = (KEY, BASIC, CERTIFICATE, PEER, JWT)
"""How a caller may prove who it is; what ``auth`` of a listener or route lists."""

_BELOW: Final = "/*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user name with its passwords (RFC 7617)."""

    username: str
    passwords: tuple[str, ...] = field(default=(), repr=False)
    """Any of them counts, so that one can be replaced by another without a moment in between."""
    hashes: tuple[PasswordHash, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Names of client certificates; one that has any of them is the caller's."""

    cn: frozenset[str] = frozenset()
    """The common name, where the subject has just one."""
    dns: frozenset[str] = frozenset()
    """Lower case; no stars."""
    uri: frozenset[str] = frozenset()
    email: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Kind and name, as ``ssl`` calls the kinds."""
        kinds = {"CN": self.cn, "DNS": self.dns, "URI": self.uri, "email": self.email}
        return frozenset((kind, name) for kind, names in kinds.items() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Processes of this machine, by the user or group that they run as."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose tokens of an issuer are the caller's."""

    issuer: str
    """A table ``[issuers.NAME]``."""
    subjects: frozenset[str] = frozenset()
    """What ``sub`` is; one that ends in a star is what it begins with. Empty: ``claims`` alone tell."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Each is this text, or a list that holds it."""

    def closeness(self, claims: Mapping[str, object]) -> tuple[bool, int, int] | None:
        """
        How closely this describes whose token it is, None where it does not; of several the greatest is meant.

        A whole ``sub`` is closer than the longest beginning, a beginning closer than ``claims`` alone or a bare star, and then
        more claims are closer than fewer.
        """
        if not all(_says(claims.get(name), text) for name, text in self.claims.items()):
            return None
        named = self._named(claims.get("sub")) if self.subjects else (False, 0)
        return (*named, len(self.claims)) if named is not None else None

    def _named(self, sub: object) -> tuple[bool, int] | None:
        if not isinstance(sub, str):
            return None
        if sub in self.subjects:
            return True, len(sub)
        begun = [each for each in self.subjects if each[-1:] == "*" and sub.startswith(each[:-1])]
        return (False, max(map(len, begun)) - 1) if begun else None


def _says(value: object, text: str) -> bool:
    return value == text or (isinstance(value, list) and text in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A table ``[callers.NAME]``."""

    name: str
    keys: tuple[str, ...] = field(default=(), repr=False)
    login: Login | None = None
    certificate: Certificate | None = None
    peer: Peer | None = None
    subject: Subject | None = None
    routes: frozenset[str] | None = None
    """None: all of them."""
    accounts: tuple[str, ...] | None = None
    """``NAME``, ``NAME/SUB`` or ``NAME/*`` for every login below; None: whatever its routes lead to."""
    per_second: float = 0.0
    """Requests; 0: no limit."""
    burst: int = 0
    """Requests at once after a pause; 0: those of one second."""
    in_flight: int = 0
    """0: no limit of its own."""

    @property
    def ways(self) -> frozenset[str]:
        """How it can prove itself."""
        given = {
            KEY: self.keys,
            BASIC: self.login,
            CERTIFICATE: self.certificate,
            PEER: self.peer,
            JWT: self.subject,
        }
        return frozenset(way for way, proof in given.items() if proof)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of this must show up in no text."""
        return (*self.keys, *(self.login.passwords if self.login is not None else ()))

    def may_use(self, account: str) -> bool:
        """Whether a token of this account, as a request names it, may be attached to its requests."""
        if self.accounts is None or account in self.accounts:
            return True
        table, slash, _ = account.partition("/")
        return bool(slash) and table + _BELOW in self.accounts

    def only_login(self, table: str) -> str:
        """The one login below a table that is the caller's, so that it need not name it; else ""."""
        found = [each for each in self.accounts or () if each.startswith(f"{table}/")]
        return found[0] if len(found) == 1 and not found[0].endswith(_BELOW) else ""


class Bucket:
    """A token bucket: so many requests a second, and ``burst`` of them at once."""

    __slots__ = ("_at", "_level", "burst", "per_second")

    def __init__(self, per_second: float, burst: int) -> None:
        self.configure(per_second, burst)
        self._level = float(self.burst)
        self._at = 0.0

    def configure(self, per_second: float, burst: int) -> None:
        """Other limits; what has been used stays used."""
        self.per_second = per_second
        self.burst = burst or max(1, ceil(per_second))

    def take(self, now: float) -> float:
        """Take one: 0; or how many seconds it takes until there is one. Who was looked into first may come with an earlier ``now``."""
        now = max(now, self._at)
        level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if level < 1.0:
            self._level = level
            return (1.0 - level) / self.per_second
        self._level = level - 1.0
        return 0.0


def ways_in_use(callers: Collection[Caller]) -> frozenset[str]:
    return frozenset(way for caller in callers for way in caller.ways)
