"""
Reading a token endpoint's answer, lenient where providers are odd and strict where a header would carry the result.

The classes of failure and what they ask of us are RFC 6749 section 5.2's, widened by what providers really send.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import takewhile
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, quote_plus

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.provider import AnswerFields, Provider
from tokenproxy.core.templates import allowed_host, is_loopback
from tokenproxy.core.tokens import TokenSet

T = TypeVar("T")

LARGEST_ANSWER: Final = 1024 * 1024
"""Bytes; golang/oauth2 reads no more either."""
_ZERO: Final = datetime.fromtimestamp(0, UTC)
CENTURY: Final = timedelta(days=36525)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from a provider; the body cut just past ``LARGEST_ANSWER``."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    tokens: TokenSet


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that brought no usable access token."""

    event: Event
    """``REFUSED``, ``REGISTRATION_REFUSED`` or ``PROVIDER_DOWN``."""
    reason: Reason
    text: str = field(repr=False)
    """What the provider said, cut; secrets that we sent are taken out by the caller, who knows them."""
    retry_after: float | None = None
    """Seconds."""
    rotated: str | None = field(default=None, repr=False)
    """A new refresh token that came without a usable access token: the old one is spent, so this one is kept."""


Answer = Granted | Failure

# The words of RFC 6749 section 5.2, RFC 8707 and of providers with words of their own.
_CLASSES: Final[Mapping[str, tuple[Event, Reason]]] = {
    **dict.fromkeys(
        ("invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked", "invalid_code"),
        (Event.REFUSED, Reason.REFUSED),
    ),
    **dict.fromkeys(
        ("invalid_client", "unauthorized_client", "incorrect_client_credentials"),
        (Event.REGISTRATION_REFUSED, Reason.CLIENT_REFUSED),
    ),
    **dict.fromkeys(
        ("invalid_request", "unsupported_grant_type", "invalid_scope", "invalid_target"),
        (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    ),
    **dict.fromkeys(
        ("slow_down", "rate_limit_exceeded", "too_many_requests"), (Event.PROVIDER_DOWN, Reason.RATE_LIMITED)
    ),
    **dict.fromkeys(("temporarily_unavailable", "server_error"), (Event.PROVIDER_DOWN, Reason.PROVIDER_DOWN)),
}

# What a status means where the answer names no error that we know.
_STATUSES: Final[Mapping[int, tuple[Event, Reason]]] = {
    401: (Event.REGISTRATION_REFUSED, Reason.CLIENT_REFUSED),
    404: (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    405: (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    410: (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    415: (Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED),
    429: (Event.PROVIDER_DOWN, Reason.RATE_LIMITED),
}

_NO_TOKENS: Final = frozenset({"null", "true", "false"})
"""``null`` is what jq prints for a field that is not there."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~-]{1,256}")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9-]+\.)+(?:[A-Za-z][A-Za-z0-9-]*|[0-9]{1,3})\.?")
"""A name with dots that ends in letters, or an IPv4 address; what stands for a host must be listed like one."""
_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*)/?",
    re.IGNORECASE,
)
_UNUSABLE_TYPES: Final = frozenset({"mac", "dpop", "pop", "n_a"})
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_REFRESH_TOKEN: Final = re.compile(r"[\x20-\x7e]+")
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")


def read_answer(
    reply: Reply,
    *,
    provider: Provider,
    asked_at: datetime,
    scope_asked: str | None,
    dpop_key: str | None = None,
) -> Answer:
    """
    What a token endpoint's answer means; ``asked_at`` is UTC from before the request was sent.

    ``dpop_key`` is what the request was proven with and the tokens are bound to.
    """
    refused = refusal(reply, provider=provider)
    if refused is not None:
        return refused
    data = decode(reply, provider.answer) or {}
    return _read_tokens(
        reply,
        data,
        provider.answer,
        provider=provider,
        asked_at=asked_at,
        scope_asked=scope_asked,
        dpop_key=dpop_key,
    )


def refusal(reply: Reply, *, provider: Provider) -> Failure | None:
    """What is wrong with an answer of the token endpoint's kind; None where it brings what was asked for."""
    if 300 <= reply.status < 400:  # never followed: the next place is not the one that we trust
        return Failure(
            Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED, "a redirect, which is never followed"
        )
    data = decode(reply, provider.answer)
    return _unreadable(reply) if data is None else _said_no(reply, data, provider)


def decode(reply: Reply, fields: AnswerFields) -> dict[str, Any] | None:
    """
    The answer's fields: as JSON, whatever the content type says, else as a form; None for anything else.

    A form is believed only where it holds a field that we look for: an HTML page parses as a form, too.
    """
    if len(reply.body) > LARGEST_ANSWER:
        return None
    text = reply.body.decode("utf-8-sig", errors="replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    if found is not None or text.startswith("<"):
        return None
    form = dict(parse_qsl(text))
    known = {"error", *fields.access_token, *fields.refresh_token}
    return form if known & form.keys() else None


def _unreadable(reply: Reply) -> Failure:
    size = "more than 1 MiB" if len(reply.body) > LARGEST_ANSWER else f"{len(reply.body)} bytes"
    text = f"status {reply.status} with {size} that are no token answer"
    event, reason = _STATUSES.get(reply.status, (Event.PROVIDER_DOWN, Reason.BAD_ANSWER))
    if reply.status >= 500:
        reason = Reason.PROVIDER_DOWN
    return Failure(event, reason, text, retry_after(reply))


def _said_no(reply: Reply, data: Mapping[str, Any], provider: Provider) -> Failure | None:
    """An error with any status: unorthodox servers say it with 200 (golang/oauth2)."""
    code, description = error_of(data)
    if not code and 200 <= reply.status < 300:
        return None
    text = (
        f"{code}: {description}" if code and description else code or description or f"status {reply.status}"
    )
    event, reason = _classify(reply.status, code, description, provider)
    return Failure(event, reason, text[:300], retry_after(reply))


def _classify(status: int, code: str, description: str, provider: Provider) -> tuple[Event, Reason]:
    errors = provider.errors
    for words, verdict in (
        (errors.too_early, (Event.PROVIDER_DOWN, Reason.TOO_EARLY)),
        (errors.rate_limited, (Event.PROVIDER_DOWN, Reason.RATE_LIMITED)),
        (errors.refused, (Event.REFUSED, Reason.REFUSED)),
        (errors.misconfigured, (Event.REGISTRATION_REFUSED, Reason.CLIENT_REFUSED)),
    ):
        if _matches(words, code, description):
            return verdict
    if status == 429:
        return _STATUSES[429]
    known = _CLASSES.get(code.lower())
    if known is not None:
        return known
    if status >= 500 or status in {408, 409}:  # 409: Box, to the loser of two refreshes at once
        return Event.PROVIDER_DOWN, Reason.PROVIDER_DOWN
    return _STATUSES.get(status, (Event.PROVIDER_DOWN, Reason.BAD_ANSWER))


def _matches(words: Iterable[str], code: str, description: str) -> bool:
    """``code`` or ``code:part of the description``, both without regard to case."""
    for word in words:
        wanted, _, part = word.lower().partition(":")
        if wanted == code.lower() and part in description.lower():
            return True
    return False


def error_of(data: Mapping[str, Any]) -> tuple[str, str]:
    """
    The error's code and description; ("", "") where the answer names none.

    ``error`` is an object at PERSCOM, Fitbit lists ``errors[0].errorType``, Laravel says ``message``.
    """
    error = data.get("error")
    description = data.get("error_description") or data.get("message") or ""
    if isinstance(error, dict):
        description = error.get("message") or description
        error = error.get("code") or error.get("type") or "error"
    errors = data.get("errors")
    if not error and isinstance(errors, list) and errors and isinstance(errors[0], dict):
        error = errors[0].get("errorType") or errors[0].get("code")
        description = errors[0].get("message") or description
    code = "" if error in (None, "", False) else str(error)
    return _line(code, 80), _line(description, 200) if isinstance(description, str) else ""


def _read_tokens(
    reply: Reply,
    data: Mapping[str, Any],
    fields: AnswerFields,
    *,
    provider: Provider,
    asked_at: datetime,
    scope_asked: str | None,
    dpop_key: str | None,
) -> Answer:
    refresh = _first_of(keepable, data, fields.refresh_token)
    access = _first_of(usable, data, fields.access_token)
    if access is None:
        what = (
            "an access token that no header can carry"
            if first(data, fields.access_token) is not None
            else "no access token"
        )
        return Failure(
            Event.PROVIDER_DOWN, Reason.BAD_ANSWER, f"status {reply.status} with {what}", rotated=refresh
        )
    token_type = first(data, fields.token_type)
    unfit = _unfit(token_type, provider)
    captured: Mapping[str, str] = {}
    if not unfit:
        try:
            captured = captured_from(data, provider)
        except ValueError as wrong:
            unfit = str(wrong)
    if unfit:
        return Failure(Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED, unfit, rotated=refresh)
    return Granted(
        TokenSet(
            access_token=access,
            refresh_token=refresh,
            token_type=_line(token_type, 40) if isinstance(token_type, str) and token_type else "Bearer",
            scope=_scope(first(data, fields.scope)),
            scope_asked=scope_asked,
            issued_at=asked_at,
            expires_at=expiry(data, fields, access, asked_at=asked_at, default=provider.lifetime),
            refresh_expires_at=_refresh_expiry(data, fields, refresh, asked_at=asked_at),
            identity=identity_of(data, fields, access),
            captured=captured,
            dpop_key=dpop_key,
        )
    )


def _unfit(token_type: Any, provider: Provider) -> str:
    """Why a token of this type is not used (RFC 6749 section 7.1); "" where it is."""
    named = _line(token_type, 20) if isinstance(token_type, str) and token_type else ""
    if (
        provider.dpop and named.lower() != "dpop"
    ):  # RFC 9449 section 5: whoever steals a Bearer token may use it
        return f"a token of type {named or 'nothing'} where one that is bound to our key was wanted (DPoP)"
    if not provider.dpop and named.lower() in _UNUSABLE_TYPES:
        return f"a token of type {named}, which is not used without its proof"
    return ""


def identity_of(data: Mapping[str, Any], fields: AnswerFields, access_token: str) -> str | None:
    """
    Whom the tokens speak for: an id token's ``sub``, else a JWT access token's, else where the profile says.

    None of it is verified: it came from the token endpoint over TLS (OpenID Connect Core section 3.1.3.7), and it
    tells logins apart, nothing more.
    """
    id_token = _first_of(usable, data, fields.id_token)
    for found in (
        jwt_claims(id_token).get("sub") if id_token else None,
        jwt_claims(access_token).get("sub"),
        first(data, fields.identity),
    ):
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return _line(str(found), 256)
    return None


def captured_from(data: Mapping[str, Any], provider: Provider) -> Mapping[str, str]:
    """
    The template variables in a token answer; one that is not there is left out.

    Raises ``ValueError`` with a sentence for a value that would send tokens elsewhere.
    """
    found = {}
    for name, paths in provider.captured.items():
        value = first(data, paths)
        if isinstance(value, str | int) and not isinstance(value, bool):
            found[name] = captured_value(name, str(value), provider.captured_hosts)
    return found


def captured_value(name: str, value: str, hosts: Iterable[str]) -> str:
    """
    A value that an answer or a callback brought, fit to stand in an upstream's address; a slash at its end is cut off.

    An address must be https, and it or a bare host must be one of ``hosts`` (``*.salesforce.com`` for every name below):
    who can choose it would be sent the tokens. Raises ``ValueError`` with a sentence.
    """
    value = value.strip()
    if "://" not in value:
        if not _PLAIN.fullmatch(value) or not value.strip("."):  # dots alone would climb in a path
            raise ValueError(f"{name} in the answer is no plain word")
        if _HOST.fullmatch(value) and not allowed_host(value, hosts):
            raise ValueError(
                f"{name} in the answer is {_line(value, 100)}, which captured_hosts does not list"
            )
        return value
    address = _ADDRESS.fullmatch(value)
    if address is None or {".", ".."} & set(address["path"].split("/")):
        raise ValueError(f"{name} in the answer is no plain https address")
    scheme, host, port = address["scheme"].lower(), address["host"].lower(), address["port"]
    plain = scheme == "http" or port not in {None, "443"}
    if plain and not is_loopback(host):
        raise ValueError(f"{name} in the answer is no plain https address")
    if not allowed_host(host, hosts):
        raise ValueError(f"{name} in the answer is at {_line(host, 100)}, which captured_hosts does not list")
    return value.rstrip("/")


def first(data: Mapping[str, Any], paths: Iterable[str]) -> Any:
    """The first of the dotted paths that holds something other than null or ""."""
    return next(_values(data, paths), None)


def _first_of(read: Callable[[Any], T | None], data: Mapping[str, Any], paths: Iterable[str]) -> T | None:
    """The first of the dotted paths that ``read`` makes something of; nonsense in one means "try the next"."""
    return next((found for value in _values(data, paths) if (found := read(value)) is not None), None)


def _values(data: Mapping[str, Any], paths: Iterable[str]) -> Iterator[Any]:
    for path in paths:
        found: Any = data
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found not in (None, ""):
            yield found


def usable(value: Any) -> str | None:
    """
    A token as a header may carry it, or None.

    Visible ASCII without blanks; anything else would split a header or change on its way (RFC 6750 section 2.1,
    RFC 9110 section 5.5). No size is too large (RFC 6749 section 5.1).
    """
    return _matching(_TOKEN, value)


def keepable(value: Any) -> str | None:
    """
    A refresh token, or None; blanks inside are fine (RFC 6749 appendix A.17).

    No header carries it, and one that we would not take would be lost while the one before it is spent.
    """
    return _matching(_REFRESH_TOKEN, value)


def _matching(grammar: re.Pattern[str], value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    value = value.strip(" \t\r\n")
    return value if grammar.fullmatch(value) else None


def expiry(
    data: Mapping[str, Any],
    fields: AnswerFields,
    access_token: str,
    *,
    asked_at: datetime,
    default: timedelta | None,
) -> datetime | None:
    """
    When an access token ends: absolute field, relative field, the JWT itself, the profile's default, else unknown.

    Zero, null and nonsense mean "try the next one", never "expired": Deskera and Mailchimp send 0.
    """
    until, seconds = partial(_until, asked_at=asked_at), partial(_seconds, asked_at=asked_at)
    for lifetime in (
        _first_of(until, data, fields.expires_at),
        _first_of(seconds, data, fields.expires_in),
        _first_of(seconds, data, ("expires",)) or _first_of(until, data, ("expires",)),
        jwt_lifetime(access_token, asked_at),
        default,
    ):
        if lifetime is not None:
            return asked_at + lifetime
    return None


def _refresh_expiry(
    data: Mapping[str, Any], fields: AnswerFields, refresh: str | None, *, asked_at: datetime
) -> datetime | None:
    lifetime = _first_of(partial(_seconds, asked_at=asked_at), data, fields.refresh_expires_in)
    if lifetime is None and refresh:
        lifetime = jwt_lifetime(refresh, asked_at)
    return asked_at + lifetime if lifetime is not None else None


def _seconds(value: Any, asked_at: datetime) -> timedelta | None:
    """A relative lifetime; a value too large for one is an absolute time that somebody put into the wrong field."""
    number = _number(value)
    if number is None:
        return None
    return _until(value, asked_at) if number > 1e9 else _sane(number)


def _until(value: Any, asked_at: datetime) -> timedelta | None:
    """What is left until an absolute time: seconds or, over 10^11, milliseconds since the epoch, or ISO 8601."""
    at = _epoch(value)
    return _sane(at - asked_at.timestamp()) if at is not None else None


def _epoch(value: Any) -> float | None:
    """Seconds since the epoch."""
    number = _number(value)
    if number is not None:
        return number / 1000 if number > 1e11 else number
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (at - _ZERO).total_seconds()


def _ended(data: Mapping[str, Any], fields: AnswerFields, now: datetime) -> datetime | None:
    """When a token that lay somewhere for a while was over by its absolute expiry; before 2001 is no expiry at all."""
    at = _first_of(_epoch, data, (*fields.expires_at, "expires"))
    if at is None or not 1e9 < at <= now.timestamp():
        return None
    return datetime.fromtimestamp(at, UTC)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _sane(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if 0 < seconds <= CENTURY.total_seconds() else None


def jwt_claims(token: str) -> Mapping[str, Any]:
    """A JWT's claims, decoded and never verified or trusted; {} for anything else."""
    found = _JWT.fullmatch(token)
    if found is None:
        return {}
    payload = found[1]
    try:
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def jwt_lifetime(token: str, asked_at: datetime) -> timedelta | None:
    """``exp - iat``, which no wrong clock can spoil; plain ``exp`` where there is no ``iat``."""
    claims = jwt_claims(token)
    ends, begins = _number(claims.get("exp")), _number(claims.get("iat"))
    if ends is None:
        return None
    return _sane(ends - (begins if begins is not None else asked_at.timestamp()))


RECOGNISED: Final = 8
"""So many characters of a secret are one."""
_LETTERS: Final = 2
_REST: Final = re.compile(r"[\w.~+/=%\\-]*")
"""Of a word: what is spelt in another way than we know (base64, JSON, ``%2b``) shares but its beginning."""


def without(text: str, secrets: Iterable[str]) -> str:
    """
    The text with every secret taken out, in each spelling, and with each word that goes on like one: its end may be
    missing.

    Some providers quote the request in their errors, and we cut the quote.
    """
    for secret in secrets:
        if len(secret) < RECOGNISED:  # whole or not at all, and single letters would garble every sentence
            text = text.replace(secret, "…") if len(secret) > _LETTERS else text
            continue
        for spelling in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = _without(text, spelling)
    return text


def _without(text: str, secret: str) -> str:
    start = secret[:RECOGNISED]
    at = text.find(start)
    while at >= 0:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(text[at:], secret, strict=False))
        rest = _REST.match(text, at + sum(1 for _ in same))
        text = f"{text[:at]}…{text[rest.end() if rest else at :]}"
        at = text.find(start, at)
    return text


def retry_after(reply: Reply) -> float | None:
    """``Retry-After`` in seconds, from either of its forms (RFC 9110 section 10.2.3); at most a day."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), 86400.0)
    if not value:
        return None
    try:
        at = parsedate_to_datetime(value)
        base = parsedate_to_datetime(reply.headers["date"])
    except (ValueError, KeyError, TypeError):
        return None
    if (at.tzinfo is None) != (base.tzinfo is None):
        return None
    return min(max((at - base).total_seconds(), 0.0), 86400.0)


def read_token(text: str, *, provider: Provider, now: datetime) -> TokenSet | None:
    """
    A token that somebody else obtained, bare or as a token answer; None where the text is neither.

    How old it is nobody knows, so a JWT's own ``exp`` counts and never ``exp - iat``.
    """
    given = text.encode()
    if decode(Reply(200, {}, given), provider.answer) is not None:
        tokens = read_import(given, provider=provider, now=now, scope=None)
        return replace(tokens, refresh_token=None) if tokens is not None and tokens.access_token else None
    bare = usable(text)
    if bare is None or bare[0] in "{[<\"'" or bare in _NO_TOKENS:
        return None
    return replace(TokenSet(access_token=bare, issued_at=now), expires_at=_jwt_end(bare))


def _jwt_end(token: str) -> datetime | None:
    """A JWT's ``exp``, UTC."""
    ends = _number(jwt_claims(token).get("exp"))
    return datetime.fromtimestamp(ends, UTC) if ends is not None and 0 < ends < 1e11 else None


def _scope(value: Any) -> str | None:
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    return _line(value, 4000) or None if isinstance(value, str) else None


def _line(value: str, longest: int) -> str:
    """One line of printable text, cut."""
    text = "".join(letter if letter.isprintable() else " " for letter in value[: longest + 1])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def read_import(given: bytes, *, provider: Provider, now: datetime, scope: str | None) -> TokenSet | None:
    """
    What an operator hands in: a token answer as JSON or form, or a bare refresh token; None where it is neither.

    How old the answer is nobody knows, so a JWT's own ``exp`` counts where it ends earlier than ``expires_in`` says,
    and an absolute expiry in the past is one.
    """
    reply = Reply(200, {}, given)
    data = decode(reply, provider.answer)
    if data is None:
        bare = usable(given.decode("utf-8-sig", errors="replace"))
        if bare is None or bare[0] in "{[<\"'" or bare in _NO_TOKENS:
            return None
        return TokenSet(access_token="", refresh_token=bare, scope_asked=scope, issued_at=now, expires_at=now)
    answer = read_answer(reply, provider=provider, asked_at=now, scope_asked=scope)
    if isinstance(answer, Failure):
        if answer.rotated is None:
            return None
        return TokenSet(
            access_token="", refresh_token=answer.rotated, scope_asked=scope, issued_at=now, expires_at=now
        )
    tokens = replace(answer.tokens, scope_asked=scope or answer.tokens.scope)
    known = (
        tokens.expires_at,
        _jwt_end(tokens.access_token),
        _ended(data, provider.answer, now),
    )
    return replace(tokens, expires_at=min((at for at in known if at is not None), default=None))
