"""
Who the callers of one configuration are, and how a connection or a request shows it.

What a connection proves (a certificate, the process at its other end) is looked at once; what a header proves is
remembered by its hash. So a caller that is known costs one look into a dictionary, and one that is not holds up nobody
else. A reload makes a new register: of what an earlier one believed, only hashed passwords of logins that are the same
count after it, so that nobody has to wait behind others for what was right a moment ago.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING, Any, Final

from tokenproxy.core.callers import (
    BASIC,
    CERTIFICATE,
    JWT,
    KEY,
    PEER,
    Bucket,
    Caller,
    Login,
    Subject,
    ways_in_use,
)
from tokenproxy.core.interfaces import BadTokenError, CrowdedError, NoKeysError, TokenReader, Told
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.proxy.lane import Lane, LaneError, Turns
from tokenproxy.proxy.peers import certificate_names, process_of
from tokenproxy.proxy.plain import Message
from tokenproxy.proxy.problem import ProblemError

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide

BELIEVED: Final = 4096
"""Credentials that took time to look into and are remembered; beyond them the oldest is forgotten."""
DOUBTED: Final = 1024
DOUBTED_FOR: Final = 10.0
"""Seconds for which a password that was wrong is wrong without being hashed again."""
HASHING: Final = min(2, max(1, (os.cpu_count() or 1) - 1))
"""Passwords hashed at once; each takes tens of milliseconds of a core, of which one is for requests, and up to 64 MiB."""
HASHING_EACH: Final = 4
"""
How many of one user name may wait for it or be at it, and of all names that are nobody's together: a flood of wrong ones
holds up the caller alone whose name it has.
"""
TOKEN_FOR: Final = 300.0
"""Seconds for which a token is believed without being read again, if it does not end before."""
LONGEST_PASSWORD: Final = 1024

CHALLENGES: Final[Mapping[str, bytes]] = {
    KEY: b"Tokenproxy-Key",
    BASIC: b'Basic realm="tokenproxy", charset="UTF-8"',
    JWT: b'Bearer realm="tokenproxy"',
    CERTIFICATE: b"Tokenproxy-Certificate",
    PEER: b"Tokenproxy-Peer",
}
"""RFC 9110 section 11.6.1: a 401 names a way. For what is proved below HTTP there is no scheme, so these say it."""
_STEPS: Final[Mapping[str, str]] = {
    KEY: "send a key in the header Tokenproxy-Key",
    BASIC: "send its user name and password (Authorization: Basic)",
    JWT: "send a token (Authorization: Bearer)",
    CERTIFICATE: "connect with its client certificate",
    PEER: "connect by the Unix socket as its own user",
}
_NO_HASH: Final = PasswordHash(15, 8, 1, b"0" * 16, b"0" * 32)
"""What an unknown user's password is held against, so that the time does not tell which names there are."""


class Member:
    """A caller of the config, with what it has used of its limits."""

    __slots__ = ("bucket", "caller", "counts", "name", "turns")

    def __init__(self, caller: Caller, *, counts: dict[str, int], earlier: Member | None) -> None:
        self.caller = caller
        self.name = caller.name
        self.counts = counts
        """How its requests fared: ``metrics.CALLER_RESULTS``."""
        self.turns: Turns = earlier.turns if earlier is not None else Turns(caller.in_flight)
        self.turns.limit = caller.in_flight
        self.bucket: Bucket | None = earlier.bucket if earlier is not None else None
        if not caller.per_second:
            self.bucket = None
        elif self.bucket is None:
            self.bucket = Bucket(caller.per_second, caller.burst)
        else:
            self.bucket.configure(caller.per_second, caller.burst)

    def check(self, lane: Lane, account: str) -> None:
        """Raise ``not_allowed`` where this route or account is not for this caller; ``account`` "": no token goes."""
        caller = self.caller
        if caller.routes is not None and lane.route.name not in caller.routes:
            what, key = f"the route {lane.route.name}", "routes"
        elif account and not caller.may_use(account):
            what, key = "this account", "accounts"
        else:
            return
        self.counts["not_allowed"] += 1
        problem = LaneError(
            "not_allowed",
            f"The caller {self.name} may not use {what}.",
            next_step=f"Add it to {key} of [callers.{self.name}] if it may be used.",
            lane=lane,
        )
        problem.caller = self.name
        raise problem

    async def enter(self, now: float, queue: float) -> None:
        """Within its limits; raises ``overloaded``. Whoever is in must ``leave``."""
        wait = self.bucket.take(now) if self.bucket is not None else 0.0
        if wait:
            self.counts["overloaded"] += 1
            raise ProblemError(
                "overloaded",
                f"The caller {self.name} sends more requests than its per_second lets through.",
                next_step=f"Send fewer, or raise per_second or burst of [callers.{self.name}].",
                retry_after=wait,
            )
        if not self.turns.enter():
            try:
                await self.turns.wait(queue, of=f"in_flight of [callers.{self.name}]")
            except ProblemError:
                self.counts["overloaded"] += 1
                raise
        self.counts["let_in"] += 1

    def leave(self) -> None:
        self.turns.leave()


class Proof:
    """Who somebody is, how that was shown, and until when it is believed."""

    __slots__ = ("member", "register", "until", "way")

    def __init__(self, register: Register, way: str, member: Member | None, until: float = inf) -> None:
        self.register = register
        self.way = way
        self.member = member
        """None: who has one of ``server.caller_auth.keys``, a caller without a name or limits."""
        self.until = until


class Shown:
    """What a request shows: keys, and credentials in the field that is meant for them."""

    __slots__ = ("credentials", "keys", "proxied")

    def __init__(self, keys: tuple[bytes, ...], credentials: tuple[bytes, ...], *, proxied: bool) -> None:
        self.keys = keys
        self.credentials = credentials
        self.proxied = proxied
        """The caller takes us for a forward proxy, so that its ``Authorization`` is for the upstream."""


class UnprovenError(Exception):
    """Finding out takes time: await ``proven``, and admit the request again with what it gives."""

    def __init__(self, proven: Callable[[], Any]) -> None:
        super().__init__("What the request shows must be looked into.")
        self.proven = proven


class Register:
    """All callers of one configuration."""

    def __init__(
        self,
        callers: Iterable[Caller],
        *,
        keys: Iterable[str] = (),
        tokens: TokenReader | None = None,
        monotonic: Callable[[], float],
        counts: Callable[[str], dict[str, int]],
        earlier: Register | None = None,
    ) -> None:
        """``keys``: of callers without a name. ``earlier``: whose members' limits are taken over."""
        known = list(callers)
        before = earlier.members if earlier is not None else {}
        self.members: dict[str, Member] = {
            caller.name: Member(caller, counts=counts(caller.name), earlier=before.get(caller.name))
            for caller in known
        }
        self.ways = ways_in_use(known) | ({KEY} if (unnamed := tuple(keys)) else set())
        self._monotonic = monotonic
        self._tokens = tokens
        self._keys = [(_digest(key.encode()), Proof(self, KEY, None)) for key in unnamed]
        self._shown_keys: dict[bytes, Proof] = {}
        """Those that somebody has shown, by their digest: one among a thousand costs no more than one of two."""
        self._logins: dict[bytes, tuple[Login, Proof]] = {}
        self._certificates: dict[tuple[str, str], Proof] = {}
        self._users: dict[int, Proof] = {}
        self._groups: dict[int, Proof] = {}
        self._subjects: list[tuple[Member, Subject]] = []
        for _, member in sorted(
            self.members.items()
        ):  # what a config means depends on no order of its tables
            self._enter(member)
        self._by_connection = bool(self.ways & {CERTIFICATE, PEER})
        self._hashes = any(login.hashes for login, _ in self._logins.values())
        self.believed: dict[bytes, Proof] = {}
        self._doubted: dict[bytes, float] = {}
        self._looked_into: dict[bytes, asyncio.Task[Proof]] = {}
        self.hashing: asyncio.Semaphore = asyncio.Semaphore(HASHING) if earlier is None else earlier.hashing
        self.queued: Counter[str | None] = Counter() if earlier is None else earlier.queued
        """By user name; None: those that are nobody's."""
        if earlier is not None:
            self._take_over(earlier.believed)

    def who(
        self, side: CallerSide | None, ways: Collection[str] | None, shown: Shown, proof: Proof | None
    ) -> Proof:
        """
        Whose request it is. ``ways``: those that count here, None for all; ``proof``: what ``UnprovenError`` led to.

        The connection comes first, then a key, then a credential. Raises ``caller_unauthorized`` and ``UnprovenError``.
        """
        if self._by_connection and side is not None:
            for each in self._of_connection(side):
                if ways is None or each.way in ways:
                    return each
        if shown.keys and (ways is None or KEY in ways):
            found = self._of_key(shown.keys[0] if len(shown.keys) == 1 else b"")
            if found is None:
                raise self._refusal(side, ways, shown, "a key that is nobody's")
            return found
        if not shown.credentials:
            raise self._refusal(side, ways, shown, "no credential")
        if len(shown.credentials) > 1:
            raise self._refusal(side, ways, shown, "more than one credential")
        return self._of_credential(side, ways, shown, proof)

    # inside

    def _enter(self, member: Member) -> None:
        caller = member.caller
        self._keys += [(_digest(key.encode()), Proof(self, KEY, member)) for key in caller.keys]
        if caller.login is not None:
            self._logins[caller.login.username.encode()] = (caller.login, Proof(self, BASIC, member))
        if caller.certificate is not None:
            proof = Proof(self, CERTIFICATE, member)
            self._certificates |= dict.fromkeys(caller.certificate.names, proof)
        if caller.peer is not None:
            proof = Proof(self, PEER, member)
            self._users |= dict.fromkeys(caller.peer.users, proof)
            self._groups |= dict.fromkeys(caller.peer.groups, proof)
        if caller.subject is not None:
            self._subjects.append((member, caller.subject))

    def _take_over(self, believed: Mapping[bytes, Proof]) -> None:
        """Passwords that were hashed for a login which is still the same, with all its hashes."""
        for digest, proof in believed.items():
            login = proof.member.caller.login if proof.way == BASIC and proof.member is not None else None
            if login is None:
                continue
            same, mine = self._logins.get(login.username.encode(), (None, None))
            if mine is not None and same == login:
                self.believed[digest] = mine

    def _of_connection(self, side: CallerSide) -> tuple[Proof, ...]:
        seen = side.proofs
        if seen is None or seen[0] is not self:
            seen = side.proofs = (self, tuple(self._proofs_of(side)))
        return seen[1]

    def _proofs_of(self, side: CallerSide) -> Iterable[Proof]:
        if self._certificates:
            named = certificate_names(side.transport)
            found = next((self._certificates[each] for each in named if each in self._certificates), None)
            if found is not None:
                yield found
        process = process_of(side.transport) if self._users or self._groups else None
        if process is not None:
            found = self._users.get(process.user)
            if found is None:
                found = next((self._groups[each] for each in process.groups if each in self._groups), None)
            if found is not None:
                yield found

    def _of_key(self, given: bytes) -> Proof | None:
        digest = _digest(given)
        found = self._shown_keys.get(digest)
        if found is not None:
            return found
        for known, proof in self._keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = self._shown_keys[digest] = proof
        return found

    def _of_credential(
        self, side: CallerSide | None, ways: Collection[str] | None, shown: Shown, proof: Proof | None
    ) -> Proof:
        if proof is not None and proof.register is self:
            return proof
        scheme, _, rest = shown.credentials[0].partition(b" ")
        scheme = scheme.lower()
        if scheme == b"basic" and self._takes(ways, BASIC, *((KEY,) if shown.proxied else ())):
            return self._of_pair(side, ways, shown, _pair(rest.strip()))
        if scheme == b"bearer" and self._takes(ways, JWT):
            return self._of_token(side, ways, shown, rest.strip())
        raise self._refusal(side, ways, shown, "a credential of a kind that does not count here")

    def _of_token(
        self, side: CallerSide | None, ways: Collection[str] | None, shown: Shown, token: bytes
    ) -> Proof:
        digest = _credential_digest(b"bearer", token, proxied=shown.proxied)
        found = self.believed.get(digest)
        if found is not None:
            if found.until > self._monotonic():
                return found
            del self.believed[digest]
        raise UnprovenError(lambda: self._joined(digest, self._read(side, ways, shown, token)))

    def _takes(self, ways: Collection[str] | None, *wanted: str) -> bool:
        return any(way in self.ways and (ways is None or way in ways) for way in wanted)

    def _of_pair(
        self,
        side: CallerSide | None,
        ways: Collection[str] | None,
        shown: Shown,
        pair: tuple[bytes, bytes] | None,
    ) -> Proof:
        """
        Of a user name and a password; to a forward proxy the password may be a key, whatever the name.

        A plain password is held against the config's each time, which costs no more than to remember it.
        """
        if pair is None:
            raise self._refusal(side, ways, shown, "a Basic credential that is no name and password")
        name, password = pair
        login, proof = self._logins.get(name, (None, None))
        if shown.proxied and login is None and (ways is None or KEY in ways):
            found = self._of_key(password)
            if found is not None:
                return found
        if not self._takes(ways, BASIC):
            raise self._refusal(side, ways, shown, "a key that is nobody's")
        right = _same(password, login.passwords if login is not None else ("",))
        if right and proof is not None:
            return proof
        who = proof.member.name if proof is not None and proof.member is not None else ""
        detail = f"a wrong password of the caller {who}" if who else "a user name that is nobody's"
        if self._hashes and (login is None or login.hashes) and len(password) <= LONGEST_PASSWORD:
            digest = _credential_digest(b"basic", name + b":" + password, proxied=shown.proxied)
            found = self.believed.get(digest)
            if found is not None:
                return found
            if self._doubted.get(digest, 0.0) > self._monotonic():
                raise self._refusal(side, ways, shown, detail)
            refusal = self._refusal
            raise UnprovenError(
                lambda: self._joined(
                    digest,
                    self._hashed(login, proof, password, digest, lambda: refusal(side, ways, shown, detail)),
                )
            )
        raise self._refusal(side, ways, shown, detail)

    async def _joined(self, digest: bytes, work: Any) -> Proof:
        """One look into a credential for all who show it at the same time; it goes on when they leave."""
        task = self._looked_into.get(digest)
        if task is None:
            task = self._looked_into[digest] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda done: self._looked(digest, done))
        else:
            work.close()
        return await asyncio.shield(task)

    def _looked(self, digest: bytes, done: asyncio.Task[Proof]) -> None:
        self._looked_into.pop(digest, None)
        if not done.cancelled() and done.exception() is None:
            self._believe(digest, done.result())

    async def _hashed(
        self,
        login: Login | None,
        proof: Proof | None,
        password: bytes,
        digest: bytes,
        refusal: Callable[[], ProblemError],
    ) -> Proof:
        name = login.username if login is not None else None
        if self.queued[name] >= HASHING_EACH:
            raise ProblemError(
                "overloaded",
                "Too many passwords of this user name are waiting to be checked.",
                next_step="Send the request again later; a caller that is known is not held up by this.",
                retry_after=1,
            )
        hashes = login.hashes if login is not None else (_NO_HASH,)
        self.queued[name] += 1
        try:
            async with self.hashing:
                right = await asyncio.to_thread(_matches, hashes, password)
        finally:
            self.queued[name] -= 1
            if not self.queued[name]:
                del self.queued[name]
        if right and proof is not None:
            return proof
        _make_room(self._doubted, DOUBTED)
        self._doubted[digest] = self._monotonic() + DOUBTED_FOR
        raise refusal()

    async def _read(
        self, side: CallerSide | None, ways: Collection[str] | None, shown: Shown, token: bytes
    ) -> Proof:
        if self._tokens is None:
            raise self._refusal(side, ways, shown, "a token, and nobody here reads tokens")
        try:
            told = await self._tokens.read(token)
        except BadTokenError as bad:
            problem = self._refusal(side, ways, shown, f"a token that is refused: {bad}")
            problem.challenges = problem.challenges.replace(  # RFC 6750 section 3.1
                CHALLENGES[JWT], CHALLENGES[JWT] + b', error="invalid_token"'
            )
            raise problem from None
        except CrowdedError as crowded:
            raise ProblemError(
                "overloaded",
                f"Who the caller is cannot be told now: {crowded}.",
                next_step="Send the request again later; tokens whose key is known are not held up by this.",
                retry_after=crowded.retry_after,
            ) from None
        except NoKeysError as missing:
            raise ProblemError(
                "provider_unavailable",
                f"Who the caller is cannot be told now: {missing}.",
                next_step="Nothing: it is tried again.",
                retry_after=missing.retry_after,
            ) from None
        member = self._meant(told)
        if member is None:
            raise self._refusal(side, ways, shown, "a token whose subject is nobody here")
        return Proof(self, JWT, member, self._monotonic() + min(told.seconds_left, TOKEN_FOR))

    def _meant(self, told: Told) -> Member | None:
        """Whom a token describes most closely; of several that it describes as closely, the first by name."""
        found, closest = None, (False, -1, -1)
        for member, subject in self._subjects:
            close = subject.closeness(told.claims) if subject.issuer == told.issuer else None
            if close is not None and close > closest:
                found, closest = member, close
        return found

    def _believe(self, digest: bytes, proof: Proof) -> None:
        _make_room(self.believed, BELIEVED)
        self.believed[digest] = proof

    def _refusal(
        self, side: CallerSide | None, ways: Collection[str] | None, shown: Shown, detail: str
    ) -> ProblemError:
        """Which part was wrong is for the log alone."""
        if side is not None:
            side.door.tell(detail, code="caller_unauthorized")
        here = [way for way in CHALLENGES if way in self.ways and (ways is None or way in ways)]
        given = "is not valid here" if shown.keys or shown.credentials else "is missing"
        if shown.proxied:
            problem = _proxy_refusal(here, given)
        else:
            steps = " or ".join(_STEPS[way] for way in here)
            problem = ProblemError(
                "caller_unauthorized",
                f"What shows who the caller is {given}.",
                next_step=f"The caller must {steps}." if steps else "See [callers.*] of the config.",
            )
            schemes = [CHALLENGES[way] for way in here] or [CHALLENGES[KEY]]
            problem.challenges = b"".join(b"WWW-Authenticate: %b\r\n" % scheme for scheme in schemes)
        return problem


def _proxy_refusal(ways: list[str], given: str) -> ProblemError:
    """A 407 (RFC 9110 section 15.5.8); a key goes as the proxy's password, with any user name."""
    steps = {
        KEY: "put a key into the proxy's address (http://x:KEY@HOST:PORT)",
        BASIC: "put its user name and password into the proxy's address (http://USER:PASSWORD@HOST:PORT)",
        JWT: "send a token (Proxy-Authorization: Bearer)",
    }
    told = [steps.get(way) or _STEPS[way] for way in ways]
    problem = ProblemError(
        "caller_unauthorized",
        f"What shows who the caller is {given}, neither as Tokenproxy-Key nor as Proxy-Authorization.",
        next_step=f"The caller must {' or '.join(told)}." if told else "See [callers.*] of the config.",
    )
    pair = b'Basic realm="tokenproxy"'
    schemes = {pair if way in {KEY, BASIC} else CHALLENGES[way]: None for way in ways} or {pair: None}
    problem.challenges = b"".join(b"Proxy-Authenticate: %b\r\n" % scheme for scheme in schemes)
    problem.proxied = True
    return problem


def proxy_credentials(message: Message) -> tuple[bytes, ...]:
    """What ``http_proxy=http://USER:PASSWORD@...`` and its like make each client send (RFC 9110 section 11.7.2)."""
    return tuple(
        value.strip() for name, value in message.raw_headers if name.lower() == b"proxy-authorization"
    )


def _pair(encoded: bytes) -> tuple[bytes, bytes] | None:
    """User name and password (RFC 7617 section 2)."""
    try:
        name, colon, password = b64decode(encoded, validate=True).partition(b":")
    except ValueError:
        return None
    return (name, password) if colon else None


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()


def _credential_digest(scheme: bytes, said: bytes, *, proxied: bool) -> bytes:
    """
    Of what a credential says, so that one has a single place however it is spelled.

    What was shown to a proxy and what was shown to a server begin with different bytes: neither can pass for the other.
    """
    return _digest((b"\1" if proxied else b"\0") + scheme + b"\0" + said)


def _make_room(remembered: dict[bytes, Any], most: int) -> None:
    """Forget the oldest: to empty it would let one caller make all others be looked into again."""
    while len(remembered) >= most:
        del remembered[next(iter(remembered))]


def _same(password: bytes, passwords: Iterable[str]) -> bool:
    """Digests are of one length, so that the time tells nothing of a password, not even how long it is."""
    given = _digest(password)
    right = False
    for each in passwords:
        right |= hmac.compare_digest(_digest(each.encode()), given)
    return right


def _matches(hashes: Iterable[PasswordHash], password: bytes) -> bool:
    return any(each.matches(password) for each in hashes)
