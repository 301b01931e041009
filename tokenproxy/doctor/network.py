"""Providers and upstreams: whether they can be reached, vouched for, and agree with us about the time."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from tokenproxy import parts
from tokenproxy.core.grants import traits_of
from tokenproxy.core.login import Attempt, authorization_address, callback_address
from tokenproxy.core.outgoing import Way
from tokenproxy.core.provider import AUTHORIZATION_CODE, IMPLICIT, Account, CallbackPath, ClientAuth
from tokenproxy.doctor.asking import Answered, AskFailedError, Place, ask, place_and_target
from tokenproxy.doctor.finding import Case, Finding, bad, good, warn
from tokenproxy.doctor.listeners import SOON, callback_addresses
from tokenproxy.oauth.endpoint import NotSentError

T = TypeVar("T")
R = TypeVar("R")

MOST_ASKED: Final = 100
"""Places of a kind; a config with more says enough by these."""
AT_ONCE: Final = 32
_LATE: Final = timedelta(seconds=5)
_TOO_LATE: Final = timedelta(seconds=60)
"""The life of an assertion of ours (``core.provider.AssertionForm``)."""
_SIGNS: Final = frozenset({ClientAuth.PRIVATE_KEY_JWT, ClientAuth.CLIENT_SECRET_JWT})
_ABOUT_REDIRECT: Final = re.compile(
    r"redirect[\s_-]?(?:ur[il]|to)|callback[\s_-]?(?:ur[il]|address)", re.IGNORECASE
)
_AT_EASE: Final = frozenset({"login_required", "interaction_required", "consent_required", "access_denied"})
"""Errors of an authorization request that say no more than that nobody is logged in (OpenID Connect Core 3.1.2.6)."""


# -- providers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    place: Place
    answered: Answered


async def providers(case: Case) -> Sequence[Finding]:
    """One finding for each token endpoint's host, one for the clock."""
    accounts, found = await _resolved(case)
    places: dict[Place, tuple[str, list[Account]]] = {}
    for account in accounts:
        url = account.provider.token_url
        if url and "{" not in url:
            place, target = place_and_target(url, account.provider.way)
            places.setdefault(place, (target, []))[1].append(account)
    answers = await _each(
        list(places.items())[:MOST_ASKED], lambda each: _provider(case, each[0], each[1][0])
    )
    signs = False
    asked: list[_Asked] = []
    for (_, (_, of)), (findings, answer) in zip(places.items(), answers, strict=False):
        found += findings
        if answer is not None:
            asked.append(answer)
            signs = signs or any(_signs(each) for each in of)
    return [*found, *_not_asked("providers", len(places)), *_clock(asked, signs=signs)]


async def _resolved(case: Case) -> tuple[list[Account], list[Finding]]:
    """Accounts that have a token endpoint, with the addresses that their issuers tell."""
    endpoint = parts.endpoint(case.config, case.environ)

    async def one(account: Account) -> Account | Finding:
        try:
            async with asyncio.timeout(case.patience):
                return await endpoint.resolved(account)
        except (NotSentError, TimeoutError) as error:
            host = urlsplit(account.provider.issuer).netloc
            return bad(
                "issuer_unusable",
                f"provider {host}",
                str(error) or f"its metadata did not come within {case.patience:g} s",
                f"see providers.{account.provider.name}.issuer, or name authorize_url and token_url there",
            )

    wanted = [each for each in case.config.accounts.values() if traits_of(each).endpoint]
    try:
        answers = await _each(wanted, one)
    finally:
        await endpoint.close()
    failed = list(dict.fromkeys(each for each in answers if isinstance(each, Finding)))
    return [each for each in answers if isinstance(each, Account)], failed


async def _provider(case: Case, place: Place, target: str) -> tuple[list[Finding], _Asked | None]:
    name = f"provider {place.authority}"
    try:
        answered = await ask(place, target.partition("?")[0], patience=case.patience)
    except AskFailedError as failed:
        return [bad(failed.code, name, failed.sentence, failed.remedy)], None
    tls = "TLS ok, " if place.scheme == "https" else ""
    took = f"token endpoint answers in {max(1, round(answered.seconds * 1000))} ms"
    if answered.status >= 500:
        found = warn(
            "answer_odd",
            name,
            f"{tls}the token endpoint answers {answered.status}",
            "nothing: renewals are tried again; see the provider's status page if it lasts",
        )
    else:
        found = good(name, f"{tls}{took}")
    return [found, *_ends(case, name, answered)], _Asked(place, answered)


def _ends(case: Case, name: str, answered: Answered) -> Iterable[Finding]:
    ends = answered.certificate_ends
    if ends is not None and ends - case.now() < SOON:
        yield warn(
            "certificate_ends",
            name,
            f"its certificate ends on {ends:%Y-%m-%d}",
            "its operator must renew it",
        )


def _signs(account: Account) -> bool:
    """Whether what we send carries our time, which the provider judges by its own."""
    provider = account.provider
    return account.grant == "jwt_bearer" or provider.client_auth in _SIGNS or provider.dpop


def _clock(asked: Sequence[_Asked], *, signs: bool) -> Iterable[Finding]:
    """``Date`` has whole seconds (RFC 9110 section 5.6.7); the nearest counts: a provider's own clock may be wrong."""
    skews = [
        (abs(_skew(each.answered, each.answered.date)), each.place)
        for each in asked
        if each.answered.date is not None
    ]
    if not skews:
        return
    skew, place = min(skews, key=lambda each: each[0])
    said = f"{skew.total_seconds():.1f} s from {place.authority}"
    remedy = "let the machine's clock follow NTP: timedatectl set-ntp true"
    if skew > _TOO_LATE and signs:
        yield bad(
            "clock_skew", "clock", f"{said}: what we sign is refused as expired or not yet good", remedy
        )
    elif skew > _LATE:
        yield warn("clock_skew", "clock", f"{said}: tokens may be used after their end", remedy)
    else:
        yield good("clock", said)


def _skew(answered: Answered, date: datetime) -> timedelta:
    """Between our clock half-way through the exchange and the middle of the second that ``Date`` names."""
    ours = answered.asked_at + timedelta(seconds=answered.seconds / 2)
    theirs = date + timedelta(seconds=0.5)
    apart = ours - theirs
    half = timedelta(seconds=0.5)
    if abs(apart) <= half:
        return timedelta()
    return apart - half if apart > half else apart + half


# -- what the login page says of our callback address ------------------------------------------------------------------


async def login_pages(case: Case) -> Sequence[Finding]:
    """
    The authorization request of a login that nobody makes, and what the provider says to it before anybody logs in.

    RFC 6749 section 4.1.2.1: where the redirect address is not registered, the browser is not sent to it.
    """
    addresses = callback_addresses(case.config)
    accounts, _ = await _resolved(case)
    wanted = [
        each
        for each in accounts
        if each.name in addresses
        and each.grant in {AUTHORIZATION_CODE, IMPLICIT}
        and each.provider.authorize_url
        and "{" not in each.provider.authorize_url
        and each.provider.redirect_uri
        and not each.provider.par_url
        and each.provider.callback.path is not CallbackPath.RANDOM
    ]
    answers = await _each(wanted[:MOST_ASKED], lambda each: _login_page(case, each))
    return [each for each in answers if each is not None]


async def _login_page(case: Case, account: Account) -> Finding | None:
    redirect_uri = callback_address(case.config.admin.public_url, account)
    attempt = Attempt(
        account=account,
        redirect_uri=redirect_uri,
        state=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(16),
    )
    place, target = place_and_target(authorization_address(attempt), account.provider.way)
    try:
        answered = await ask(place, target, patience=case.patience)
    except AskFailedError as failed:
        if place.host == urlsplit(account.provider.token_url).hostname:
            return None  # told as the provider's
        return bad(failed.code, f"login page {place.authority}", failed.sentence, failed.remedy)
    return judge_login_page(account.name, redirect_uri, answered)


def judge_login_page(account: str, redirect_uri: str, answered: Answered) -> Finding | None:
    """What can be told without a person; None where nothing can."""
    name = f"redirect {account}"
    register = f"register {redirect_uri} at the provider, exactly so"
    location = answered.location
    if location.startswith(redirect_uri):
        error = parse_qs(urlsplit(location).query).get("error", [""])[0]
        if error and error not in _AT_EASE:
            return warn(
                "authorize_refused",
                name,
                f"the provider takes the callback address, and answers {_word(error)} to the request",
                f"see client_id and scopes of [accounts.{account}]",
            )
        return good(name, "the provider takes the callback address")
    told = unquote(location) if 300 <= answered.status < 400 else answered.body
    refused = answered.status >= 400 or re.search(r"[?&#/_]error", location) is not None
    if refused and _ABOUT_REDIRECT.search(told):
        return bad("redirect_unregistered", name, f"the provider does not take {redirect_uri}", register)
    if 400 <= answered.status < 500:
        return warn(
            "authorize_refused",
            name,
            f"the provider's login page answers {answered.status} before anybody has logged in",
            f"see client_id of [accounts.{account}], and {register}",
        )
    return None


def _word(error: str) -> str:
    """Of a stranger's answer: what RFC 6749 section 4.1.2.1 lets an error be made of, and no more."""
    return error if re.fullmatch(r"[a-z_]{1,60}", error) else "an error"


# -- upstreams ---------------------------------------------------------------------------------------------------------


async def upstreams(case: Case) -> Sequence[Finding]:
    places: dict[Place, tuple[str, str, str]] = {}
    for route in case.config.routes:
        upstream = route.upstream
        if upstream.template or not upstream.host:
            continue  # where it is, a login will tell
        way = Way(tls=upstream.tls, proxy=upstream.proxy)
        place = Place(upstream.scheme, upstream.host, upstream.port, way)
        places.setdefault(place, (upstream.path or "/", route.host_header, route.name))
    chosen = list(places.items())[:MOST_ASKED]
    answers = await _each(chosen, lambda each: _upstream(case, each[0], *each[1]))
    return [*(each for some in answers for each in some), *_not_asked("upstreams", len(places))]


async def _upstream(case: Case, place: Place, target: str, host: str, route: str) -> list[Finding]:
    name = f"upstream {place.authority}"
    try:
        answered = await ask(place, target, patience=case.patience, host=host)
    except AskFailedError as failed:
        return [bad(failed.code, name, f"(route {route}) {failed.sentence}", failed.remedy)]
    status = answered.status
    if status in {401, 403}:
        found = good(name, f"reachable, {status} without a token as expected")
    elif status >= 500:
        found = warn(
            "answer_odd",
            name,
            f"reachable, and answers {status}",
            f"see upstream of [routes.{route}], and the status page of whoever runs it",
        )
    else:
        found = good(name, f"reachable, {status} without a token")
    return [found, *_ends(case, name, answered)]


# -- many at once ------------------------------------------------------------------------------------------------------


async def _each(things: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """For all of them at once, and not too many at once."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> R:
        async with turn:
            return await work(thing)

    return list(await asyncio.gather(*(one(each) for each in things)))


def _not_asked(name: str, count: int) -> Iterable[Finding]:
    if count > MOST_ASKED:
        yield warn("not_asked", name, f"{count - MOST_ASKED} more were not asked", "tokenproxy status")
