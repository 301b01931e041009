"""What a value of the TOML may be: each type with its check, its sentence and the name that the reference page gives it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from tokenproxy.config import units
from tokenproxy.config.secrets import KEY_MUST_BEGIN, MUST_BEGIN, WORDS
from tokenproxy.config.words import did_you_mean, either, shown
from tokenproxy.core import retries
from tokenproxy.core.allow import Entry
from tokenproxy.core.callers import WAYS
from tokenproxy.core.forwarded import UNIX
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.core.placeholders import SETTING_NAME

TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A field name or a method (RFC 9110 section 5.6.2)."""
_PROTOCOL: Final = re.compile(rf"{TOKEN.pattern}(?:/{TOKEN.pattern})?")
"""What ``Upgrade`` names (RFC 9110 section 7.8)."""
FIELD_VALUE: Final = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
"""A field value without what needs no quoting but confuses somebody: control characters and bytes beyond ASCII."""
HOST_HEADER: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _clean(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if _CONTROL.search(value):
        raise ValueError("must not hold control characters or line breaks")
    return value


def _clean_or_empty(value: str) -> str:
    return _clean(value) if value else value


def one_of(what: str, known: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"{shown(value)} is not {what}.{did_you_mean(value, known)}")
        return value

    return check


def whole(least: int, most: int = 2**31) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, got {shown(value)}")  # noqa: TRY004 - pydantic wants ValueError
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"at most {most}"
            raise ValueError(f"must be {limit}, got {shown(value)}")
        return value

    return check


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1_000_000:
        raise ValueError(f"must be a number above 0, got {shown(value)}")
    return float(value)


def share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, got {shown(value)}")
    return float(value)


def size_from(least: int, name: str) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value < least:
            raise ValueError(f"must be at least {name}")
        return value

    return check


def seconds_from(least: float, name: str) -> Callable[[float], float]:
    def check(value: float) -> float:
        if value < least:
            raise ValueError(f"must be at least {name}")
        return value

    return check


def _secret(words: tuple[str, ...], sentence: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text in quotes; it {sentence}")  # noqa: TRY004 - pydantic wants ValueError
        if not value.startswith(words):
            raise ValueError(sentence)
        if _CONTROL.search(value):
            raise ValueError("must not hold control characters or line breaks")
        return value

    return check


def _header_name(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a header's name")
    return value


def _header_value(value: str) -> str:
    if not FIELD_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII without spaces around it, as a header's value is")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _header_name_or_empty(value: str) -> str:
    return _header_name(value) if value else value


def _header_value_or_empty(value: str) -> str:
    return _header_value(value) if value else value


def _host_pattern(value: str) -> str:
    filled = re.sub(r"\{[A-Za-z][A-Za-z0-9_]*\}", "x", value)
    if not re.fullmatch(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?", filled):
        raise ValueError(f'must be a host such as "api.example.com" or "*.example.com", got {shown(value)}')
    return value.lower()


def _rate_or_none(value: Any) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return rate(value)


def _texts(value: Any) -> Any:
    """Paths of a table: one, or several tried in order."""
    return {name: _as_list(each) for name, each in value.items()} if isinstance(value, dict) else value


def _named(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"{shown(name)} is no name; it has letters, digits and _")
    return value


def signal_json(value: Any) -> Any:
    """Values as people write them: ``190``, ``false`` and ``"invalid_auth"``."""
    if not isinstance(value, dict):
        return value
    return {name: _json_text(each) for name, each in value.items()}


def _json_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        _header_name(name)
        _header_value(text)
    return value


def _field_values(value: dict[str, str]) -> dict[str, str]:
    """Text, or a secret's word, which is opened later."""
    for name, text in value.items():
        _header_name(name)
        if not text.startswith(WORDS):
            _header_value(text)
    return value


def _method(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{3,20}", value) or value in {"CONNECT", "TRACE"}:
        raise ValueError(f'must be a method such as "GET" or "POST", got {shown(value)}')
    return value


def _protocol(value: str) -> str:
    if not _PROTOCOL.fullmatch(value):
        raise ValueError(f'must be a protocol such as "websocket", got {shown(value)}')
    if value.lower().startswith(("h2", "h3", "http", "tls")):
        raise ValueError(
            f"{shown(value)} carries further requests, which would go past every rule of the route"
        )
    return value.lower()


def _allow_entry(value: str) -> str:
    Entry.of(value)
    return value


def as_proxy(value: Any) -> Any:
    """An address alone is a proxy that asks for no credentials."""
    return {"url": value} if isinstance(value, str) else value


def fault(value: str) -> str:
    if not retries.FAULT.fullmatch(value):
        raise ValueError(
            f'must be "connect", "reset", "429" or a status of 500 and above such as "503", got {shown(value)}'
        )
    return value


def repeatable(value: str) -> str:
    if value not in retries.REPEATABLE:
        raise ValueError(
            f"must be one of {either(retries.REPEATABLE)}: what another method does may be done twice"
        )
    return value


def network(value: str) -> str:
    if value != UNIX:
        try:
            ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(
                f'must be a network such as "10.0.0.0/8", an address or "unix:", got {shown(value)}'
            ) from None
    return value


def _scope(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError('must be one scope without spaces; write several as ["first", "second"]')
    return value


def no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold NUL characters")
    return value


def listens(value: Any) -> Any:
    """One entry or several; text alone is an address."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return value
    for item in entries:
        if not isinstance(item, str | dict):
            raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
                f'must hold addresses in quotes, or tables such as {{ address = "127.0.0.1:8080" }}, got {shown(item)}'
            )
    return [{"address": each} if isinstance(each, str) else each for each in entries]


def _mode(value: Any) -> int:
    """``"0660"`` as for chmod, or ``0o660`` as TOML has it."""
    octal = isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value)
    mode = int(value, 8) if octal else value
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0o600 <= mode <= 0o777:
        raise ValueError(f'must be a mode such as "0660" that lets us in ourselves, got {shown(value)}')
    return mode


def settings_by_name(value: Any) -> Any:
    """Text alone is a value."""
    if not isinstance(value, dict):
        return value
    return {name: {"value": each} if isinstance(each, str) else each for name, each in value.items()}


def setting_names(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not SETTING_NAME.fullmatch(name):
            raise ValueError(
                f"{shown(name)} is no name of a setting: it has at most 64 letters, digits and single underscores between them"
            )
    return value


def _ways(value: Any) -> Any:
    """``"none"`` is nobody need, one way in quotes is a list of one."""
    return [] if value in ("none", ["none"]) else _as_list(value)


def _ways_known(value: list[str]) -> list[str]:
    for each in value:
        if each not in WAYS:
            raise ValueError(
                f'{shown(each)} is no way to prove who one is; "none" or a list of {either(WAYS)} is'
            )
    return value


def _member_ids(value: Any) -> Any:
    """Names, and numbers as TOML has them or in quotes; one alone is a list of one."""
    items = value if isinstance(value, list) else [value]
    for each in items:
        if isinstance(each, bool) or not isinstance(each, int | str) or (isinstance(each, int) and each < 0):
            raise ValueError(f"must be names or numbers, got {shown(each)}")
    return [str(each) for each in items]


def _password_hash(value: str) -> str:
    """Text as ``key password`` prints it, or a secret's word, which is opened later."""
    if not value.startswith(WORDS):
        PasswordHash.of(value)
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """What the reference page calls a type."""

    name: str


Text = Annotated[str, AfterValidator(_clean), Kind("text")]
TextOrEmpty = Annotated[str, AfterValidator(_clean_or_empty), Kind("text")]
Texts = Annotated[list[Text], Kind("list of text")]
TextOrTexts = Annotated[list[Text], BeforeValidator(_as_list), Kind("text or list")]
Words = Annotated[dict[str, TextOrEmpty], Kind("table of text")]
Headers = Annotated[dict[str, str], AfterValidator(_headers), Kind("table of text")]
FieldValues = Annotated[dict[str, str], AfterValidator(_field_values), Kind("table of text")]
HeaderName = Annotated[str, AfterValidator(_header_name), Kind("text")]
HeaderNameOrEmpty = Annotated[str, AfterValidator(_header_name_or_empty), Kind("text")]
HeaderValueOrEmpty = Annotated[str, AfterValidator(_header_value_or_empty), Kind("text")]
HostPatterns = Annotated[list[Annotated[str, AfterValidator(_host_pattern)]], Kind("list of text")]
NamedPaths = Annotated[
    dict[str, list[Text]], BeforeValidator(_texts), AfterValidator(_named), Kind("table of text or lists")
]
NamedTexts = Annotated[dict[str, Text], AfterValidator(_named), Kind("table of text")]
Rate = Annotated[float, PlainValidator(_rate_or_none), Kind("number")]
HeaderNames = Annotated[list[HeaderName], Kind("list of text")]
Method = Annotated[str, AfterValidator(_method), Kind("text")]
Scopes = Annotated[list[Annotated[str, AfterValidator(_scope)]], Kind("list of text")]
Flag = Annotated[bool, Kind("true or false")]
Bytes = Annotated[int, PlainValidator(units.size), Kind("size")]
Seconds = Annotated[float, PlainValidator(units.seconds), Kind("duration")]
SomeSeconds = Annotated[float, PlainValidator(units.seconds), AfterValidator(_above_zero), Kind("duration")]
Count = Annotated[int, PlainValidator(whole(0)), Kind("whole number")]
SomeCount = Annotated[int, PlainValidator(whole(1)), Kind("whole number")]
Status = Annotated[int, PlainValidator(whole(100, 599))]
Statuses = Annotated[list[Status], Kind("list of numbers")]
ErrorStatus = Annotated[int, PlainValidator(whole(400, 599))]
ErrorStatuses = Annotated[list[ErrorStatus], Field(min_length=1), Kind("list of numbers")]
Secret = Annotated[str, PlainValidator(_secret(WORDS, MUST_BEGIN)), Kind("secret")]
Secrets = Annotated[list[Secret], BeforeValidator(_as_list), Kind("secret or list")]
KeySource = Annotated[str, PlainValidator(_secret(WORDS[:-1], KEY_MUST_BEGIN))]
KeySources = Annotated[
    list[KeySource], BeforeValidator(_as_list), Field(min_length=1), Kind("secret or list")
]
Protocols = Annotated[list[Annotated[str, AfterValidator(_protocol)]], Kind("list of text")]
AllowList = Annotated[
    list[Annotated[str, AfterValidator(_allow_entry)]], Field(min_length=1), Kind("list of text")
]
WaysList = Annotated[list[str], BeforeValidator(_ways), AfterValidator(_ways_known), Kind("text or list")]
MemberIds = Annotated[list[Text], BeforeValidator(_member_ids), Kind("text, number or list")]
PasswordHashes = Annotated[
    list[Annotated[str, AfterValidator(_password_hash)]], BeforeValidator(_as_list), Kind("text or list")
]
Mode = Annotated[int, PlainValidator(_mode)]
