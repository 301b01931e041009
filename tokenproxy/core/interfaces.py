"""What one shell may ask of another; ``app`` hands the real ones in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from tokenproxy.core.account import Standing, State
from tokenproxy.core.tokens import Sendable, TokenSet


class Clock(Protocol):
    def now(self) -> datetime:
        """UTC; never jumps while the process runs, even when somebody sets the system's clock."""

    def monotonic(self) -> float:
        """Seconds; the same timeline as ``now``, for cheap comparisons."""

    async def sleep(self, seconds: float) -> None: ...


class KeepAnswer(Enum):
    """Why a 401 is passed on although nobody renewed."""

    LIVE = "live"
    """The provider's validate call says that the token lives: the 401 is about something else."""
    HELD = "held"
    """A new token was refused here a moment ago; another renewal would not help."""


class TokenSource(Protocol):
    """Gives out live token sets; ``oauth.source.Source`` is the one."""

    def ready(self, account: str) -> Sendable | None:
        """Of a fresh token set from memory, at once; None: ask ``current``."""

    async def current(self, account: str) -> Sendable:
        """A token set that lives; reads the store or renews first where it must. Raises ``AccountError``."""

    async def renew(self, account: str, rejected: Sendable, *, route: str) -> Sendable | KeepAnswer:
        """
        A token set newer than ``rejected``, which an upstream just called dead.

        One renewal for all who ask; goes on when they leave. Raises ``AccountError``.
        """

    def refused_again(self, account: str, refused: Sendable, *, route: str) -> None:
        """``refused``, got from ``renew``, was called dead as well: hold this account's renewals on this route."""

    def worked(self, account: str, tokens: Sendable) -> None:
        """An upstream took this token set; call it once per generation (cheap, never blocks)."""


class Prover(Protocol):
    """Shows that we hold the key that tokens are bound to (RFC 9449); ``oauth.signer.Prover`` is the one."""

    def proof(self, key: str, *, method: str, url: str, access_token: str, nonce: str) -> str:
        """
        The value of a ``DPoP`` field for one request; ``key`` is ``TokenSet.dpop_key``, ``nonce`` "" where none is known.

        Does not wait. Raises ``ValueError`` with a phrase, without anything of the key, for one that signs nothing.
        """


class BadTokenError(ValueError):
    """A caller's token that is not taken; its text is a phrase without anything of the token."""


class NoKeysError(Exception):
    """Nobody can say whether a caller's token is good, since its issuer's keys cannot be had; its text is a phrase."""

    def __init__(self, phrase: str, *, retry_after: float) -> None:
        super().__init__(phrase)
        self.retry_after = retry_after


class CrowdedError(NoKeysError):
    """Too many tokens are waiting for these keys already."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller's token says, which its issuer has signed."""

    issuer: str
    """The table ``[issuers.NAME]``."""
    claims: Mapping[str, object] = field(repr=False)
    seconds_left: float
    """Until it ends."""


class TokenReader(Protocol):
    """Reads callers' tokens; ``oauth.issuers.Issuers`` is the one."""

    async def read(self, token: bytes) -> Told:
        """Check it in every respect (RFC 8725). Raises ``BadTokenError``, ``NoKeysError``, ``CrowdedError``."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of one account, opened."""

    account: str
    bound_to: str
    """``core.provider.Account.bound_to`` of the registration that obtained the tokens."""
    generation: int
    """Of the newest token set; stays when the account is forgotten, so that no number comes twice."""
    tokens: TokenSet | None = field(repr=False)
    """None: forgotten."""
    standing: Standing
    in_flight_since: datetime | None = None
    """UTC; set while a renewal is under way, and left set by one whose answer nobody got."""
    renewed_at: datetime | None = None
    """UTC, when the newest generation was stored."""
    previous: str | None = field(default=None, repr=False)
    """The refresh token that was spent for this generation; None once ``settled``."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the store knows of one account without opening anything."""

    account: str
    bound_to: str
    generation: int
    standing: Standing
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    in_flight_since: datetime | None
    renewed_at: datetime | None
    has_tokens: bool


@dataclass(frozen=True, slots=True)
class Idle:
    """A login whose tokens are as old as the question asked."""

    account: str
    renewed_at: datetime
    """UTC, when its newest tokens were stored."""
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to renew one account, written down before anything is sent."""

    account: str
    generation: int
    """The one that is to be replaced."""
    fence: int
    """Grows with every claim; a holder that lost its lease is told apart by it."""
    found_in_flight: datetime | None = None
    """UTC; the mark of an earlier renewal whose answer nobody got."""


@dataclass(frozen=True, slots=True)
class Unstored:
    """A token set that a provider issued and the store has not taken yet."""

    claim: Claim
    bound_to: str
    tokens: TokenSet = field(repr=False)
    previous: str | None = field(repr=False)
    """The refresh token that was spent for it; None: none was."""
    standing: Standing


@dataclass(frozen=True, slots=True)
class Replica:
    """A process that shares a store with others."""

    name: str
    """For people: host and process."""
    version: str
    started_at: datetime
    seen_at: datetime
    """UTC, its last sign of life."""


MOST_STATE: Final = 256
"""Values that one name may have at once."""


@dataclass(frozen=True, slots=True)
class StateValue:
    """What an application keeps under a path of a login, for its requests to name (``core.placeholders``)."""

    value: str = field(repr=False)
    expires_at: datetime | None = None
    """UTC, from when on it does not resolve; None: never."""
    backend: bool = False
    """It is used by naming it and never given back."""


class Store(Protocol):
    """
    Where token sets live. Every method is one durable step: when it returns, the disk has it.

    Raises ``StoreError`` (with ``kind``-like wording in its text) when the disk cannot; then nothing has changed.
    One contract suite, ``tests/stores/contract.py``, holds every store to this page.
    """

    async def load(self, account: str) -> Record | None: ...

    async def summary(self, account: str) -> Summary | None: ...

    async def summaries(self, *, table: str = "", after: str = "", limit: int = -1) -> Sequence[Summary]:
        """
        Accounts by name: of one config table or of all, those behind a name, at most ``limit`` (-1: all).

        With 100,000 of them: in pages.
        """

    async def in_states(self, table: str, states: Collection[State], *, limit: int) -> Sequence[Summary]:
        """Accounts of a config table that are in one of these states, at most ``limit``; quick, as ``tally``."""

    async def tally(self) -> Mapping[str, Mapping[State, int]]:
        """How many accounts of each config table are in which state; quick, however many there are."""

    async def idle(
        self, table: str, *, before: datetime | None, now: datetime, limit: int, after: Idle | None = None
    ) -> Sequence[Idle]:
        """
        Logins of a config table that hold tokens stored before ``before``, the oldest first; at most ``limit``.

        ``before=None``: whose access token has half of its life behind it, whenever that was. Left out are those
        that need a person and those whose back-off is not over ``now``. ``after`` is the last one of the page before.
        """

    async def in_doubt(self) -> Sequence[str]:
        """Accounts whose in-flight mark is set, newest mark first."""

    async def abandoned(self, *, now: datetime, limit: int) -> Sequence[str]:
        """Of those the ones that nobody is at: no lease of a living process, no back-off that goes on over ``now``; ``limit`` -1: all."""

    def watch(self, on_change: Callable[[str, int], None]) -> None:
        """
        Call it when another process may have changed a row: its account and generation, in this loop, at once or late.

        Not for standing still: what is told twice, or was our own doing, must do no harm. A store that nobody else can
        have open never calls it.
        """

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        """
        Take the lease and set the in-flight mark, in one statement.

        None: the stored generation is another, or somebody else holds a lease that has not run out. Where several
        processes share a store, its clock decides that and not ``now``, and who is not heard of any more holds none.
        """

    async def prolong(self, claim: Claim, *, now: datetime, lease: timedelta) -> bool:
        """The lease begins anew, for another request under the same claim. False: it was lost."""

    async def commit(
        self, claim: Claim, tokens: TokenSet, *, previous: str | None, standing: Standing, now: datetime
    ) -> bool:
        """
        Store the claim's successor (``tokens.generation == claim.generation + 1``), clear mark and lease.

        ``previous`` is the refresh token that was spent; it is kept, sealed, until ``settled``. False: the lease was
        lost and somebody else has committed or claimed since.
        """

    async def give_up(self, claim: Claim, *, standing: Standing, keep_mark: bool) -> bool:
        """No new tokens: record why, end the lease; ``keep_mark`` where the answer was lost. False: lease lost."""

    async def adopt(
        self, account: str, tokens: TokenSet, *, bound_to: str, standing: Standing, now: datetime
    ) -> bool:
        """
        Put a login's or an import's token set in the place of generation ``tokens.generation - 1``, ending any lease.

        False: the stored generation is another; load and try again. Generation 1 makes the row.
        """

    async def stand(self, account: str, standing: Standing) -> None:
        """Record a standing outside of a renewal (``registration_changed``, a reload)."""

    async def prepare(self, account: str, *, bound_to: str, standing: Standing) -> None:
        """
        Make a row without tokens (generation 0), which a first token set can be claimed for; else take it over.

        A row that was forgotten keeps its generation and any lease on it ends; one with tokens stays as it is.
        """

    async def rebind(self, account: str, *, bound_to: str, standing: Standing) -> None: ...

    async def settled(self, account: str, *, generation: int) -> None:
        """The new pair has worked: drop the previous refresh token."""

    async def forget(self, account: str, *, standing: Standing) -> bool:
        """Drop every secret of the account and its state, keep its name and generation. False: there was none."""

    async def state(self, account: str) -> Mapping[str, StateValue]:
        """What applications put there, by path, the expired too; cheap to ask for again and again."""

    async def put_state(self, account: str, path: str, value: StateValue | None) -> bool:
        """
        Put it in the place of what is there; None: drop it. The account needs no row: one that captures has no tokens.

        False: ``MOST_STATE`` other values are there, or there was nothing to drop.
        """

    async def use_keys(self, keys: Sequence[bytes]) -> None:
        """Seal under the first of these (32 bytes each) from now on; all open. ``SealError`` if they open nothing here."""

    async def reseal(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Seal every row anew under the first key; how many were. ``progress(done, all)``."""

    async def check(self) -> None:
        """Raise ``StoreError`` unless the store can be read and written now."""

    async def replicas(self) -> Sequence[Replica]:
        """Who shares the store now, ourselves included; none where nobody else can have it open."""

    async def holder(self, account: str) -> str:
        """``Replica.name`` of whoever may renew the account now; "" where nobody does, or there are no replicas."""

    async def close(self) -> None: ...


class Spool(Protocol):
    """
    Where what the store does not take waits for it, out of a crash's reach; one token set for each account.

    Every method is one durable step of at most a few seconds. Raises ``StoreError``.
    """

    async def put(self, kept: Unstored) -> None:
        """In the place of what waits for this account."""

    async def drop(self, account: str) -> None:
        """The store has taken it, or something else took its place; nothing to do where nothing waits."""

    async def waiting(self) -> Sequence[Unstored]:
        """Raises ``SealError`` where one does not open: without it a spent refresh token would be sent."""

    def use_keys(self, keys: Sequence[bytes]) -> None:
        """As ``Store.use_keys``."""

    async def reseal(self) -> int:
        """Seal all that waits anew under the first key; how many were."""


class TokenOrigins(Protocol):
    """
    Where tokens that somebody else made are found: what the config's ``file:``, ``cmd:``, ``env:``, ... name.

    Both block, and are called from threads.
    """

    def read(self, origin: str) -> str:
        """What lies there now, 1 MiB at most; raises ``ValueError`` with a phrase without secrets."""

    def stamp(self, origin: str) -> object:
        """Something that is another when it has been written anew; None where that cannot be seen."""


class Accounts(Protocol):
    """What operators ask for: the admin socket, the admin API and the offline commands share it."""

    async def statuses(self) -> list[dict[str, Any]]:
        """Every configured account and every stored login, by name; shapes as ``status``."""

    async def page(self, *, after: str = "", limit: int) -> list[dict[str, Any]]:
        """Of ``statuses`` those behind a name, at most ``limit``; fewer: there are no more."""

    async def overview(self, *, rows: int) -> dict[str, Any]:
        """
        Quick, however many logins there are.

        Keys: total, states (state -> how many), accounts: all of them where they are no more than ``rows``, else so
        many of those that are not well, first those that need a person.
        """

    async def status(self, account: str) -> dict[str, Any]:
        """
        One account, without secrets.

        Keys: account, provider, grant, state, reason, detail (a sentence), next_step (a command or ""), generation,
        expires_at, refresh_expires_at, renewed_at, since, retry_at (ISO 8601 or None), identity, scope,
        in_flight (bool), live (bool: a token that may be sent is there), renewable (bool, None while it is only on
        disk: it can be renewed without a person), and here alone scope_missing (scopes that were asked for and not
        granted). Raises ``AccountError`` for an unknown name.
        """

    async def import_answer(self, account: str, answer: bytes) -> dict[str, Any]:
        """A token answer as JSON, or a bare refresh token; gives the new status."""

    async def refresh(self, account: str) -> dict[str, Any]:
        """Renew now, whatever the expiry; gives the new status."""

    async def logout(self, account: str) -> dict[str, Any]:
        """
        Forget the tokens and tell the provider; gives the new status.

        With ``revoked``: True, the provider took it; False, it did not, or could not be reached; None, it was not told.
        """

    async def rebind(self, account: str) -> dict[str, Any]: ...


class States(Protocol):
    """
    State of logins as operators and applications handle it; every call raises ``UnknownAccountError``.

    A value as a dict: path, backend, expires_at (ISO 8601 or None) and, unless it is a backend value, value. What has
    expired is not there.
    """

    async def listing(self, account: str) -> list[dict[str, Any]]:
        """By path."""

    async def get(self, account: str, path: str) -> dict[str, Any]:
        """Raises ``NoStateError``, and ``BadStateError`` for what is no path."""

    async def put(self, account: str, path: str, value: StateValue) -> dict[str, Any]:
        """In the place of what is there; gives it without the value. Raises ``BadStateError``."""

    async def drop(self, account: str, path: str) -> dict[str, Any]:
        """Raises ``NoStateError``, and ``BadStateError`` for what is no path."""


@dataclass(frozen=True, slots=True)
class Landing:
    """What a browser that came back from a provider is shown."""

    code: str
    """``success``, ``question``, ``fragment`` (hand over what is after the ``#``), or an error's code."""
    title: str
    detail: str
    """One sentence, and what to do; without code, state or token."""
    status: int = 200
    return_to: str = ""
    """Where the browser goes on to, allow-listed; empty: it stays."""


class Logins(Protocol):
    """
    Login attempts; ``oauth.logins.LoginDesk`` is the one, and the admin client asks for the same over the socket.

    A login as a dict (``status``): id, account, state ("pending" / "success" / "failed" / "expired"), error (a code
    or ""), detail (a sentence), next_step, question (a sentence or "": confirm before the tokens are taken),
    expires_at (ISO 8601), and ``result``: what ``Accounts.status`` says once the state is "success", else None.
    """

    async def begin(
        self,
        account: str,
        *,
        device: bool = False,
        key: str | None = None,
        return_to: str | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        """
        Begin one: id, account, expires_at, and for a browser authorize_url, callback_url, start_url (our own address,
        which binds the login to the browser that opens it); for a device user_code, verification_uri,
        verification_uri_complete (or ""), interval (seconds).

        ``key``: the caller's own random ``state`` (Deskpro's strict flow), 16 to 128 unreserved characters.
        ``replace``: do not ask before another identity's login is replaced. Raises ``AccountError``.
        """

    async def status(self, login: str, *, wait: float = 0.0) -> dict[str, Any]:
        """As it is now, or as soon as it changes, within ``wait`` seconds. Raises ``UnknownLoginError``."""

    async def confirm(self, login: str) -> dict[str, Any]:
        """Yes to the login's question; gives its status."""

    async def cancel(self, login: str) -> dict[str, Any]:
        """Give it up; what it caught is dropped, and revoked where the provider can."""

    async def open(self, login: str, *, browser: str) -> str:
        """The authorization address for the browser that opens ``start_url``; ``browser`` is the cookie it is given."""

    async def land(
        self, address: str, *, account: str = "", key: str = "", browser: str | None = None
    ) -> Landing:
        """
        A browser came back: ``address`` is the whole landing address, from ``public_url`` to the fragment, undecoded.

        A ``#`` with nothing after it says that the browser looked and there is no fragment.

        ``account`` and ``key`` are what its path names, ``browser`` its cookie. Never raises for what a stranger sent.
        """

    async def paste(self, login: str, address: str) -> dict[str, Any]:
        """The landing address as a person copied it from a browser elsewhere; gives the login's status."""

    def callback_address(self, account: str) -> str:
        """The address to register at the provider; ``.../callback/NAME/*`` for the random kind."""
