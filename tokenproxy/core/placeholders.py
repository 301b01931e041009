"""
Placeholders: what an application writes in a request in the place of a secret that it does not have.

The grammar is that of Deskpro's applications, guide 002 and those that are public::

    placeholder = "__" sum method* "__"  |  state method*
    sum         = term ("+" term)*
    term        = NAME  |  "'" TEXT "'"  |  '"' TEXT '"'  |  state
    state       = "[user[" PATH "]]"  |  "[[" PATH "]]"
    method      = ".base64"  |  ".json(" QUOTE "[" FIELDS "]" QUOTE ")"  |  ".urlencode"

Methods apply to the whole sum, from left to right: ``__client_id+':'+client_secret.base64__`` is what Basic
authentication wants. ``.base64encode`` is another spelling of ``.base64``. FIELDS is ``tenant_id`` or ``data.0.id``.

Values are put in as data of the place where they stand: percent-encoded in a target or a form, escaped in a string of
JSON or in XML. One pass: what a value says is never looked at again. What does not resolve raises ``UnresolvedError``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes
from xml.sax.saxutils import escape

from tokenproxy.core.interfaces import StateValue
from tokenproxy.core.provider import Setting
from tokenproxy.core.routes import DOT_SEGMENT

LONGEST_PATH: Final = 128
"""Characters of a path of state."""
LONGEST_VALUE: Final = 64 * 1024
"""Bytes of a piece of state."""

SETTING_NAME: Final = re.compile(r"(?=.{1,64}$)[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
"""Without two underscores in a row or one at an end, so that ``__a____b__`` reads in one way only."""
_PATH: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_MOST: Final = 256
_LARGEST: Final = 1024 * 1024
_MOST_TERMS: Final = 8
_MOST_METHODS: Final = 4


class UnresolvedError(Exception):
    """A placeholder that stands for nothing; the text is one sentence with its kind and path, and never a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What the placeholders of one request may stand for."""

    settings: Mapping[str, Setting]
    """``__name__``: of the account."""
    user: Mapping[str, StateValue]
    """``[user[path]]``: of the login that the route selects."""
    shared: Mapping[str, StateValue]
    """``[[path]]``: under the account's own name."""
    now: datetime


class ValueSource(Protocol):
    """Where a request's values come from; ``oauth.state.LoginState`` is the one."""

    async def values(self, account: str) -> Values:
        """Of a login, as they are now; from memory where it is in use. Raises ``StoreError``."""


def valid_path(path: str) -> bool:
    """Whether state may be kept under it: ``oauth2/token``."""
    return len(path) <= LONGEST_PATH and _PATH.fullmatch(path) is not None


# --- the grammar, in each of the spellings that a place gives it -------------------------------------------------------


def _pattern(character: Callable[[str], str], text: str) -> re.Pattern[bytes]:
    """
    Of a whole placeholder; ``character`` gives the spellings of one that is special somewhere, ``text`` those of TEXT.

    All repetitions are bounded or end at what cannot be part of them, so that no input takes more than linear time.
    """
    left, right, slash, plus, dot = (character(each) for each in "[]/+.")
    single, double, paren, close = (character(each) for each in "'\"()")
    name = r"[A-Za-z][A-Za-z0-9]{0,63}(?:_[A-Za-z0-9]{1,64}){0,31}"
    path = rf"[A-Za-z0-9._-]{{1,128}}(?:{slash}[A-Za-z0-9._-]{{1,128}}){{0,63}}"
    state = rf"{left}(?:user)?{left}{path}{right}{right}"
    quoted = rf"{single}{text}{{0,64}}{single}|{double}{text}{{0,64}}{double}"
    fields = rf"{left}[A-Za-z0-9_-]{{1,64}}(?:{dot}[A-Za-z0-9_-]{{1,64}}){{0,15}}{right}"
    picked = rf"json{paren}(?:{single}{fields}{single}|{double}{fields}{double}){close}"
    methods = rf"(?:{dot}(?:base64(?:encode)?|urlencode|{picked})){{0,{_MOST_METHODS}}}"
    term = rf"(?:{name}|{quoted}|{state})"
    more = rf"(?:{plus}{term}){{0,{_MOST_TERMS - 1}}}"
    return re.compile(rf"__{term}{more}{methods}__|{state}{methods}".encode())


def _percent(character: str) -> str:
    code = f"{ord(character):02X}"
    both = "".join(f"[{digit}{digit.lower()}]" if digit.isalpha() else digit for digit in code)
    return rf"(?:{re.escape(character)}|%{both})"


def _in_json(character: str) -> str:
    return {'"': r"\\\"", "/": r"\\?/"}.get(character, re.escape(character))


_TEXT: Final = r"[ !#-&(-\[\]-~]"
"""Printable ASCII without quotes and backslash."""
_TOKENS: Final = re.compile(
    r"\[user\[(?P<user>[^\]]+)\]\]|\[\[(?P<shared>[^\]]+)\]\]|['\"](?P<text>[^'\"]*)['\"]|"
    r"\.(?:(?P<base64>base64)(?:encode)?|(?P<urlencode>urlencode)|json\(['\"]\[(?P<fields>[^\]]+)\]['\"]\))|"
    r"(?P<setting>[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)|\+|__"
)
"""Of a placeholder that a pattern has found and that is written plainly by now."""


class _Place(NamedTuple):
    """Where a placeholder stands: how it is spelt there, and how a value is."""

    pattern: re.Pattern[bytes]
    plain: Callable[[bytes], str]
    spell: Callable[[str], bytes]
    percent: bool = False
    """A value that ``.urlencode`` has encoded is as it must be."""


def _spell_percent(value: str) -> bytes:
    return quote(value, safe="").encode()


def _spell_json(value: str) -> bytes:
    return json.dumps(value, ensure_ascii=False)[1:-1].encode()


def _spell_xml(value: str) -> bytes:
    return escape(value, {'"': "&quot;", "'": "&apos;"}).encode()


_PLAIN: Final = _Place(_pattern(re.escape, _TEXT), bytes.decode, str.encode)
_XML: Final = _PLAIN._replace(spell=_spell_xml)
_PERCENT: Final = _Place(
    _pattern(_percent, r"(?:[!#-$(-\[\]-~]|%(?!2[27])[0-9A-Fa-f]{2})"),
    lambda found: unquote_to_bytes(found).decode("utf-8", "replace"),
    _spell_percent,
    percent=True,
)
_JSON: Final = _Place(
    _pattern(_in_json, _TEXT),
    lambda found: found.replace(b'\\"', b'"').replace(b"\\/", b"/").decode(),
    _spell_json,
)

_JSON_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""The last one may lack its end: else each quote within it would be looked at as another beginning."""
_BOUNDARY: Final = re.compile(r"""(?i);\s*boundary=(?:"([^"\\\x80-\U0010ffff]{1,70})"|([!#-:<-~]{1,70}))""")
_PART_TYPE: Final = re.compile(rb"(?i)\ncontent-type:[ \t]*([!#-+\--9<-~]+)")
_HEADER_SAFE: Final = re.compile(rb"[\t !-~]*")


# --- replacing ----------------------------------------------------------------------------------------------------------


def found_in(data: bytes) -> bool:
    """Whether there is anything to replace in a field's value."""
    return _PLAIN.pattern.search(data) is not None


def found_in_target(target: bytes) -> bool:
    return _PERCENT.pattern.search(target) is not None


def in_target(target: bytes, values: Values, said: dict[bytes, bytes] | None = None) -> bytes:
    """
    Path and query of a request; a value cannot end its segment, nor lead out of the folder it stands in.

    ``said`` is given what was put in, with the placeholder that it stands for.
    """
    replaced = _replaced(target, _PERCENT, values, _Budget(), said)
    if replaced != target and DOT_SEGMENT.search(replaced.partition(b"?")[0].decode("latin-1")):
        raise UnresolvedError("A placeholder in the path stands for a dot segment.")
    return replaced


def blanked(target: bytes, filler: bytes) -> bytes:
    """The target with ``filler`` in the place of each placeholder: for who must judge it without the values."""
    return _PERCENT.pattern.sub(lambda _: filler, target)


def in_header(value: bytes, values: Values) -> bytes:
    """A field's value; what a value holds cannot end the line."""
    replaced = _replaced(value, _PLAIN, values, _Budget())
    if replaced != value and not _HEADER_SAFE.fullmatch(replaced):
        raise UnresolvedError("A placeholder in a header stands for characters that no header may hold.")
    return replaced


def in_body(body: bytes, content_type: str, values: Values) -> bytes:
    """
    A request's body; ``content_type`` as the field has it.

    In JSON, only within strings. What is no text is left alone, and so is what nobody says the type of.
    """
    kind = content_type.partition(";")[0].strip().lower()
    budget = _Budget()
    boundary = _BOUNDARY.search(content_type) if kind == "multipart/form-data" else None
    if boundary is not None:
        return _in_multipart(body, b"\r\n--" + (boundary[1] or boundary[2]).encode(), values, budget)
    return _in_text(body, kind, values, budget)


def looked_through(content_type: str) -> bool:
    """Whether a body of this type is text in which placeholders are replaced."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _BOUNDARY.search(content_type) is not None
    return _is_json(kind) or _place_of(kind) is not None


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _in_multipart(body: bytes, mark: bytes, values: Values, budget: _Budget) -> bytes:
    """The fields of a form, but not its files (RFC 7578)."""
    first, *parts = (b"\r\n" + body).split(mark)
    return mark.join([first, *(_in_part(part, mark, values, budget) for part in parts)])[2:]


def _in_part(part: bytes, mark: bytes, values: Values, budget: _Budget) -> bytes:
    head, blank, content = part.partition(b"\r\n\r\n")
    if b"filename" in head.lower() or b"content-transfer-encoding" in head.lower():
        return part
    kind = _PART_TYPE.search(head)
    replaced = _in_text(content, kind[1].decode().lower() if kind else "text/plain", values, budget)
    if mark in replaced:
        raise UnresolvedError("A placeholder in a form stands for text that would end its field.")
    return head + blank + replaced


def _in_text(body: bytes, kind: str, values: Values, budget: _Budget) -> bytes:
    """``kind`` in lower case, without parameters."""
    if _is_json(kind):
        if _JSON.pattern.search(body) is None:
            return body  # most name nothing, and need not be taken apart
        return _JSON_STRING.sub(lambda found: _replaced(found[0], _JSON, values, budget), body)
    place = _place_of(kind)
    return body if place is None else _replaced(body, place, values, budget)


def _place_of(kind: str) -> _Place | None:
    if kind == "application/x-www-form-urlencoded":
        return _PERCENT
    if kind in {"application/xml", "text/xml"} or kind.endswith("+xml"):
        return _XML
    if kind.startswith("text/") or kind in {"application/graphql", "application/javascript"}:
        return _PLAIN
    return None


class _Budget:
    """What one target, field or body may come to: a few bytes may name 64 KiB, thousands of times."""

    __slots__ = ("left", "size")

    def __init__(self) -> None:
        self.left = _MOST
        self.size = 0

    def take(self, value: bytes) -> bytes:
        self.left -= 1
        self.size += len(value)
        if self.left < 0:
            raise UnresolvedError(f"There are more than {_MOST} placeholders in one place.")
        if self.size > _LARGEST:
            raise UnresolvedError("The placeholders in one place stand for more than 1 MiB.")
        return value


def _replaced(
    data: bytes, place: _Place, values: Values, budget: _Budget, said: dict[bytes, bytes] | None = None
) -> bytes:
    def put(found: re.Match[bytes]) -> bytes:
        try:
            value, encoded = _value_of(place.plain(found[0]), values)
            spelt = budget.take(value.encode() if encoded and place.percent else place.spell(value))
        except UnicodeEncodeError:  # half a surrogate pair, which JSON lets through
            raise UnresolvedError("A placeholder stands for what is no text.") from None
        if said is not None:
            said[spelt] = found[0]
        return spelt

    return place.pattern.sub(put, data)


# --- resolving ----------------------------------------------------------------------------------------------------------


def _value_of(placeholder: str, values: Values) -> tuple[str, bool]:
    """What it stands for, and whether that is percent-encoded already."""
    tokens = list(_TOKENS.finditer(placeholder))
    value = "".join(_term(token, values) for token in tokens)
    encoded = False
    for token in tokens:
        match token.lastgroup:
            case "base64":
                value, encoded = base64.b64encode(value.encode()).decode(), False
            case "urlencode":
                value, encoded = quote(value, safe=""), True
            case "fields":
                value, encoded = _field(value, token["fields"]), False
    return value, encoded


def _term(token: re.Match[str], values: Values) -> str:
    """Its part of the sum; methods and signs have none."""
    match token.lastgroup:
        case "setting":
            return _setting(token["setting"], values)
        case "user":
            return _state(token["user"], values.user, values, "login")
        case "shared":
            return _state(token["shared"], values.shared, values, "account")
        case "text":
            return token["text"]
    return ""


def _setting(name: str, values: Values) -> str:
    found = values.settings.get(name)
    if found is None:
        raise UnresolvedError(f"There is no setting {name} in the account that this route uses.")
    return found.value


def _state(path: str, state: Mapping[str, StateValue], values: Values, whose: str) -> str:
    found = state.get(path)
    if found is None:
        raise UnresolvedError(f"There is no state {path} of the {whose} that this request uses.")
    if found.expires_at is not None and found.expires_at <= values.now:
        raise UnresolvedError(f"The state {path} of the {whose} that this request uses has expired.")
    return found.value


def _field(text: str, fields: str) -> str:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        # ``from None``: the cause holds the text.
        raise UnresolvedError(f"What a placeholder takes the field {fields} from is not JSON.") from None
    for field in fields.split("."):
        if isinstance(value, dict) and field in value:
            value = value[field]
        elif isinstance(value, list) and field.isdecimal() and int(field) < len(value):
            value = value[int(field)]
        else:
            raise UnresolvedError(f"What a placeholder takes the field {fields} from does not have it.")
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise UnresolvedError(f"The field {fields} that a placeholder takes is neither text nor a number.")
