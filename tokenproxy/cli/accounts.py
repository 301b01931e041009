"""``import``, ``status``, ``refresh``, ``logout``, ``rebind``: what a person does about an account."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli.command import Call, UnusableError, account_argument, command, operate
from tokenproxy.cli.present import Printer, moment, table, until, when
from tokenproxy.core.provider import LOGIN_GRANTS

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.offline import OperatorFace

Status = Mapping[str, Any]

STATES: Final[Mapping[str, tuple[str, str]]] = {
    "new": ("bad", "not logged in"),
    "ok": ("good", "ok"),
    "degraded": ("warn", "degraded"),
    "login_required": ("bad", "login required"),
    "misconfigured": ("bad", "misconfigured"),
    "in_doubt": ("warn", "in doubt"),
}
"""An account's state as a mark and in words."""
NEEDS_LOGIN: Final = frozenset({"new", "login_required"})
LOGIN_REQUIRED: Final = 3

ROWS: Final = 50
"""Logins that are listed one by one; of more, those that are not well."""

_LARGEST: Final = 1024 * 1024
_LONGEST_LINE: Final = 4095
"""What a terminal gives of one line (N_TTY_BUF_SIZE less its end); the rest of a longer one is lost silently."""
_EVERY: Final = 2.0


def local_now() -> datetime:
    return datetime.now(UTC).astimezone()


# -- import ----------------------------------------------------------------------------------------------------------


@command("import", json=True)
@account_argument()
def import_(call: Call, *, account: str) -> None:
    """
    Hand in ACCOUNT's tokens on standard input.

    \b
      tokenproxy import books < answer.json
      pass show books/refresh | tokenproxy import books

    Either the provider's token answer as JSON, as it came, or a bare refresh token. ACCOUNT is a table
    [accounts.NAME] of the config, or NAME/SUB for one of its people.
    """  # noqa: D301 - \b is click's
    answer = _answer(call, account)

    async def work(_: Config, face: OperatorFace) -> tuple[dict[str, Any], bool]:
        return await face.accounts.import_answer(account, answer), face.running

    status, running = operate(call, work)
    if call.json:
        call.out.json(status)
        return
    call.out.done(f"{account}: tokens imported")
    _facts(call.out, status)
    if status["renewable"] is False:
        lost = "no refresh token came along: when this access token ends, somebody must import again"
        call.out.done(lost, mark="warn")
    if not running:
        call.out.say(call.step("Next:  tokenproxy serve"))
    elif not status["live"]:
        call.out.say(call.step(f"Next:  tokenproxy refresh {account}   (or let the first request do it)"))


def _answer(call: Call, account: str) -> bytes:
    source = sys.stdin.buffer
    if sys.stdin.isatty():
        with _no_echo():
            call.out.error(
                f"Waiting for {account}'s token answer (JSON) or refresh token on standard input: paste it, Enter, Ctrl-D.\n"
                "What you paste is not shown. Ctrl-C stops."
            )
            given = source.read(_LARGEST + 1)
        if any(len(line) >= _LONGEST_LINE for line in given.splitlines()):
            raise UnusableError(
                "a terminal cuts lines at 4,095 characters, so that what came is not whole",
                next_step=f"put it into a file, then: tokenproxy import {account} < FILE",
            )
    else:
        given = source.read(_LARGEST + 1)
    step = f"tokenproxy import {account} < answer.json"
    if not given.strip():
        raise UnusableError("nothing came on standard input", next_step=step)
    if len(given) > _LARGEST:
        raise UnusableError(
            "more than 1 MiB came on standard input; no token answer is so large", next_step=step
        )
    return given


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """A token must not stay on the screen."""
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


# -- refresh, logout, rebind -------------------------------------------------------------------------------------------


@command("refresh", json=True)
@account_argument()
def refresh(call: Call, *, account: str) -> None:
    """Renew ACCOUNT's tokens now."""

    async def work(_: Config, face: OperatorFace) -> tuple[Status, Status]:
        before = await face.accounts.status(account)
        return before, await face.accounts.refresh(account)

    before, after = operate(call, work, create=False)
    if call.json:
        call.out.json(after)
        return
    call.out.done(f"{account}: renewed, generation {after['generation']}")
    _facts(call.out, after, before=before)


_TOLD: Final[Mapping[bool | None, str]] = {
    True: "The provider was told and took it.",
    False: "The provider did not take it, or could not be reached; revoke the grant there if it must end at once.",
    None: "The provider was not told; revoke the grant there if it must end at once.",
}
"""``revoked`` of a logout, for people."""


@command("logout", json=True)
@account_argument()
def logout(call: Call, *, account: str) -> None:
    """
    Forget ACCOUNT's tokens, and tell the provider where it can be told.

    They are gone from here whatever the provider answers.
    """

    async def work(_: Config, face: OperatorFace) -> tuple[Status, Status]:
        before = await face.accounts.status(account)
        return before, await face.accounts.logout(account)

    before, after = operate(call, work, create=False)
    if call.json:
        call.out.json(after)
        return
    if before["state"] == "new":
        call.out.done(f"{account}: nobody was logged in; nothing has changed", mark="warn")
        return
    call.out.done(f"{account}: logged out, its tokens are gone from the store")
    if after["state"] != "new" and after["grant"] in LOGIN_GRANTS:  # it captures: there were no tokens
        call.out.say("  So is what was caught and kept for its requests.")
    elif after["state"] != "new":
        call.out.say(
            f"  It obtains its tokens by itself (grant {after['grant']}): the next use gets another."
        )
    call.out.say(f"  {_TOLD[after['revoked']]}")


@command("rebind", json=True)
@account_argument()
def rebind(call: Call, *, account: str) -> None:
    """
    Say that ACCOUNT's tokens belong to the config's client now.

    Needed after token_url or client_id changed: until then nothing is sent to the new place. Only do it where they are the same provider and client under another
    name: the stored refresh token will be sent to the new address.
    """

    async def work(config: Config, face: OperatorFace) -> tuple[Status, str]:
        status = await face.accounts.rebind(account)
        return status, config.accounts[account.partition("/")[0]].bound_to

    status, bound_to = operate(call, work, create=False)
    if call.json:
        call.out.json(status)
        return
    origin, _, client = bound_to.partition(" ")
    call.out.done(f"{account}: its tokens now belong to client {client} at {origin}")
    _facts(call.out, status)


def _facts(out: Printer, status: Status, *, before: Status | None = None) -> None:
    """What a person wants to know after a change, one line each."""
    now = local_now()
    rows = [("token until", _token_until(status, now) + (_was(before, now) if before else ""))]
    if status["identity"]:
        rows.append(("identity", str(status["identity"])))
    if status["scope"]:
        rows.append(("scopes", str(status["scope"])))
    ends = moment(status["refresh_expires_at"], now)
    if ends is not None:
        rows.append(("refresh until", until(ends, now)))
    out.say(table(rows, indent="  "))


def _was(before: Status, now: datetime) -> str:
    ended = moment(before["expires_at"], now)
    return f", was {until(ended, now)}" if ended is not None else ""


def _token_until(status: Status, now: datetime) -> str:
    ends = moment(status["expires_at"], now)
    if status["state"] == "new":
        return "-"
    if not status["live"]:
        return "renewed when it is next used" if status["state"] == "ok" else "none that may be sent"
    if ends is None:
        return "unknown; a 401 will tell"
    return f"{until(ends, now)} at most: nothing renews it" if _is_the_last(status) else until(ends, now)


def _is_the_last(status: Status) -> bool:
    """Whether its token is used up while it lasts and its upstreams take it."""
    return bool(status["state"] == "login_required")


# -- status ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is to show."""

    running: bool
    """Whether ``serve`` runs."""
    accounts: Sequence[Status]
    total: int
    states: Mapping[str, int]
    """State -> how many; of all of them, shown or not."""
    reasons: Mapping[str, str]
    """Why ``serve`` is not ready."""

    @property
    def code(self) -> int:
        return LOGIN_REQUIRED if any(self.states.get(state) for state in NEEDS_LOGIN) else 0


@command("status", json=True)
@account_argument(required=False)
@click.option("--all", "everything", is_flag=True, help=f"Every login, where they are more than {ROWS}.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
def status(call: Call, *, account: str | None, everything: bool, watch: bool) -> int:
    """
    What is logged in, until when, and what to do.

    More than 50 logins are counted by state, and those that are not well are listed. Exit code 3 if an account needs a login, so that a script may ask.
    """
    while True:
        found = _read(call, account, everything=everything)
        if watch and sys.stdout.isatty() and not call.json:
            click.clear()
        _show(call, account, found)
        if not watch:
            return found.code
        time.sleep(_EVERY)


def _read(call: Call, account: str | None, *, everything: bool) -> Found:
    """Opened anew each time: a store that we held open would keep ``serve`` from starting."""

    async def work(_: Config, face: OperatorFace) -> Found:
        if account is not None:
            one = await face.accounts.status(account)
            overview: dict[str, Any] = {"total": 1, "states": {one["state"]: 1}, "accounts": [one]}
        else:
            overview = await face.accounts.overview(rows=ROWS)
            if everything and overview["total"] > len(overview["accounts"]):
                overview["accounts"] = await face.accounts.statuses()
        reasons = (await face.info()).get("reasons", {}) if face.running else {}
        return Found(running=face.running, reasons=reasons, **overview)

    return operate(call, work, create=False)


def _show(call: Call, account: str | None, found: Found) -> None:
    out = call.out
    if call.json:
        out.json(dict(found.accounts[0]) if account is not None else asdict(found))
        return
    if not found.running:
        out.note("serve is not running; this is what the store holds.")
    now = local_now()
    if found.total > len(found.accounts):
        out.result(counts_table(found, out))
        out.say("")
    if found.accounts or not found.total:
        out.result(status_table(found.accounts, now, out))
    for each in found.accounts:
        for line in advice(each, now, running=found.running):
            out.result(call.step(line))
    unwell = sum(count for state, count in found.states.items() if state != "ok")
    if found.total > len(found.accounts):
        more = f"{unwell - len(found.accounts):,} more are not well. " if unwell > len(found.accounts) else ""
        out.say(f"{more}Every login:  {call.step('tokenproxy status')} --all")
    for name, reason in found.reasons.items():
        out.result(f"{out.mark('bad')} serve is not ready ({name}): {reason}")


def counts_table(found: Found, out: Printer) -> str:
    """How many logins are in which state, the worst first."""
    order = ["bad", "warn", "good"]
    rows = []
    for state, count in found.states.items():
        mark, words = STATES.get(state, ("warn", state))
        rows.append((order.index(mark), words, mark, f"{count:,}"))
    wide = len(f"{found.total:,}")
    lines = [[f"{found.total:>{wide},}", "logins"]]
    lines += [[f"{count:>{wide}}", f"{out.mark(mark)} {words}"] for _, words, mark, count in sorted(rows)]
    return table(lines)


def status_table(found: Sequence[Status], now: datetime, out: Printer) -> str:
    """One line for each account; IDENTITY only where a provider told one."""
    head = ["ACCOUNT", "IDENTITY", "STATE", "TOKEN UNTIL", "LAST REFRESH", "GENERATION"]
    rows = [head, *(_row(each, now, out) for each in found)]
    if not any(each["identity"] for each in found):
        rows = [[row[0], *row[2:]] for row in rows]
    return table(rows)


def _obtains(status: Status) -> bool:
    """Whether the next use brings a token; an account that captures is well, and never has one."""
    return status["state"] == "ok" and (status["generation"] > 0 or status["grant"] not in LOGIN_GRANTS)


def _row(status: Status, now: datetime, out: Printer) -> list[str]:
    mark, words = STATES.get(status["state"], ("warn", str(status["state"])))
    ends = moment(status["expires_at"], now)
    known = until(ends, now) if ends is not None else "unknown"
    if ends is not None and _is_the_last(status):
        known += " at most"
    return [
        status["account"],
        status["identity"] or "-",
        f"{out.mark(mark)} {words}",
        known if status["live"] else "on next use" if _obtains(status) else "-",
        _last(status, now),
        "-" if status["state"] == "new" else str(status["generation"]),
    ]


def _last(status: Status, now: datetime) -> str:
    """When it last went well; where it does not, since when and why."""
    if status["state"] == "new":
        return "-"
    since, renewed = moment(status["since"], now), moment(status["renewed_at"], now)
    if status["state"] != "ok" and since is not None:
        return f"{when(since, now)}  {status['reason'].replace('_', ' ')}"
    return until(renewed, now) if renewed is not None else "-"


def advice(status: Status, now: datetime, *, running: bool = True) -> Iterator[str]:
    """What happened, what happens by itself and when, and the one command for a person."""
    name = status["account"]
    if status.get("unstored"):
        yield f"{name}: its newest tokens are not in the store yet; that is tried again by itself"
    if status["state"] == "ok":
        return
    if status["next_step"]:
        yield f"To fix {name}:  {status['next_step']}"
        yield f"  {status['detail']}"
        return
    if not running:
        yield f"{name}: {status['detail']}; tried again once serve runs"
        return
    again = moment(status["retry_at"], now)
    yield f"{name}: {status['detail']}; tried again by itself" + (f" at {again:%H:%M:%S}" if again else "")
