"""What an application writes in the place of a secret, and what goes out for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import perf_counter
from urllib.parse import parse_qs, quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenproxy.core.interfaces import StateValue
from tokenproxy.core.placeholders import (
    SETTING_NAME,
    UnresolvedError,
    Values,
    blanked,
    found_in,
    found_in_target,
    in_body,
    in_header,
    in_target,
    valid_path,
)
from tokenproxy.core.provider import Setting

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"
TOKENS = json.dumps({"access_token": "planted-1", "tenant": {"id": 7, "tags": ["a", "b"]}, "none": None})


def values(
    settings: dict[str, str] | None = None,
    user: dict[str, StateValue] | None = None,
    shared: dict[str, StateValue] | None = None,
) -> Values:
    known = {
        "client_id": "cl_1",
        "client_secret": "s&cr=t",
        "tokens": TOKENS,
        **(settings or {}),
    }
    return Values(
        settings={name: Setting(value=value, backend=True) for name, value in known.items()},
        user={"oauth2/mytoken": StateValue("29d2ef"), **(user or {})},
        shared={"oauth/global/access_token": StateValue("g/1+2"), **(shared or {})},
        now=NOW,
    )


# --- as the guide and Deskpro's own applications write them -----------------------------------------------------------


def test_the_exchange_of_the_guide() -> None:
    """Guide 002: the access code is in state, the secret a setting that no browser sees."""
    target = b"/token?secret=__client_secret__&access_code=[user[oauth2/mytoken]]"

    assert in_target(target, values()) == b"/token?secret=s%26cr%3Dt&access_code=29d2ef"


def test_the_request_of_the_guide() -> None:
    """Guide 002: a token that an application put into state reaches the API."""
    known = values(user={"oauth2/token": StateValue("tok", NOW + timedelta(seconds=1), backend=True)})

    assert in_header(b"Bearer [user[oauth2/token]]", known) == b"Bearer tok"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (b"Basic __client_id+':'+client_secret.base64__", b"Basic Y2xfMTpzJmNyPXQ="),
        (b'Basic __client_id+":"+client_secret.base64encode__', b"Basic Y2xfMTpzJmNyPXQ="),
        (b"Basic __client_id.base64encode__Og==__client_id.base64encode__", b"Basic Y2xfMQ==Og==Y2xfMQ=="),
        (b"Bearer [[oauth/global/access_token]]", b"Bearer g/1+2"),
        (b'__tokens.json("[access_token]")__', b"planted-1"),
        (b"__tokens.json('[tenant.id]')__", b"7"),
        (b'__tokens.json("[tenant.tags.1]")__', b"b"),
        (b'__tokens.json("[tenant.id]").base64__', b"Nw=="),
        (b"__[user[oauth2/mytoken]]+':'+client_id.base64__", b"MjlkMmVmOmNsXzE="),
        (b"[user[oauth2/mytoken]].base64", b"MjlkMmVm"),
        (b"__client_id____client_id__", b"cl_1cl_1"),
        (b"__client_id+'__x__'+client_id__", b"cl_1__x__cl_1"),
    ],
)
def test_expressions(written: bytes, sent: bytes) -> None:
    """The first is what xero's and others' applications send to a token endpoint."""
    assert in_header(written, values()) == sent


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"Bearer abc",
        b"____",
        b"__ client_id __",
        b"_client_id_",
        b"[user]",
        b"[[]]",
        b"[[a b]]",
        b"[user[]]",
        b"[1][2]",
        b"[[a]",
        b"__client_id",
        b"[user[../]x]",
    ],
)
def test_what_is_no_placeholder_stays(written: bytes) -> None:
    """Text with brackets and underscores is text."""
    assert not found_in(written)
    assert not found_in_target(written)
    assert in_header(written, values()) == written


# --- where they stand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        b"/t?c=%5Buser%5Boauth2%2Fmytoken%5D%5D",
        b"/t?c=%5buser%5boauth2/mytoken%5d%5d",
        b"/t?c=[user[oauth2/mytoken]]",
    ],
)
def test_a_target_may_come_percent_encoded(target: bytes) -> None:
    """What a browser or an HTTP library makes of brackets in an address is not the application's choice."""
    assert in_target(target, values()) == b"/t?c=29d2ef"


def test_expressions_in_a_target() -> None:
    """Quotes, signs and braces as ``encodeURIComponent`` and an address bar write them."""
    known = values()

    assert in_target(b"/t?c=__tokens.json(%22[tenant.id]%22)__", known) == b"/t?c=7"
    assert in_target(b"/t?c=__tokens.json(%22%5Btenant.id%5D%22)__", known) == b"/t?c=7"
    assert in_target(quote("/t?c=__client_id+':'+client_id.base64__", safe="/?=").encode(), known) == (
        b"/t?c=Y2xfMTpjbF8x"
    )
    assert in_target(b"/t?c=__client_secret.urlencode__", known) == b"/t?c=s%26cr%3Dt"
    assert in_target(b"/t?c=__client_secret.urlencode.base64__", known) == b"/t?c=cyUyNmNyJTNEdA%3D%3D"


def test_text_in_quotes_is_text() -> None:
    """Whatever its spelling: a quote within it would be its end."""
    known = values()

    assert in_target(b"/?c=__client_id%2B'%20:%41'__", known) == b"/?c=cl_1%20%3AA"
    for quote_ in (b"%27", b"%22"):
        assert in_target(b"/?c=__'x" + quote_ + b"y'__", known) == b"/?c=__'x" + quote_ + b"y'__"


def test_a_long_name_is_a_name() -> None:
    """What the config takes, a request can name."""
    name = "a_" * 31 + "b"
    assert SETTING_NAME.fullmatch(name)
    assert not SETTING_NAME.fullmatch("a" * 65)
    for each in (name, "a" * 64):
        assert in_header(f"__{each}__".encode(), values(settings={each: "x"})) == b"x"


@pytest.mark.parametrize("value", ["..", ".", "%2e%2E", ".%2e"])
def test_a_value_leads_nowhere_else(value: str) -> None:
    """``/users/[user[id]]`` with ``..`` for an id is another resource."""
    known = values(user={"id": StateValue(value)})
    if "%" in value:  # percent-encoded again, which no upstream takes for dots
        assert in_target(b"/users/[user[id]]/x", known) == f"/users/{quote(value, safe='')}/x".encode()
        return
    with pytest.raises(UnresolvedError, match="dot segment"):
        in_target(b"/users/[user[id]]/x", known)
    with pytest.raises(UnresolvedError, match="dot segment"):
        in_target(b"/users/.[user[id]]" if value == "." else b"/users/[user[id]]", known)
    assert in_target(b"/users?id=[user[id]]", known) == f"/users?id={value}".encode()


def test_a_value_cannot_add_parameters_or_segments() -> None:
    """It is data of the one place that it stands in."""
    known = values(user={"id": StateValue("a/b?c=d&e#f %")})

    assert in_target(b"/u/[user[id]]?q=[user[id]]", known) == (
        b"/u/a%2Fb%3Fc%3Dd%26e%23f%20%25?q=a%2Fb%3Fc%3Dd%26e%23f%20%25"
    )


@pytest.mark.parametrize("value", ["a\r\nX-Admin: yes", "a\nb", "a\0", "\x7f", "ü"])
def test_a_value_cannot_end_a_header(value: str) -> None:
    """Whoever can put state must not write headers of another's request."""
    known = values(user={"id": StateValue(value)})

    with pytest.raises(UnresolvedError, match="no header may hold") as refused:
        in_header(b"Bearer [user[id]]", known)
    assert value not in str(refused.value)


def test_json_strings_are_replaced_and_arrays_are_not() -> None:
    """``[[1]]`` outside of a string is a list in a list."""
    known = values(settings={"note": 'say "hi"\n\\'})
    body = (
        b'{"m": [[1]], "__client_id__": "x __note__ y", "t": "__tokens.json(\\"[access_token]\\")__",'
        b' "s": "[[oauth\\/global\\/access_token]] \\" __client_id__"}'
    )

    sent = in_body(body, "Application/JSON; charset=utf-8", known)

    assert json.loads(sent) == {
        "m": [[1]],
        "cl_1": 'x say "hi"\n\\ y',
        "t": "planted-1",
        "s": 'g/1+2 " cl_1',
    }


def test_forms_are_percent_encoded() -> None:
    """As ``URLSearchParams`` and as a template string write them; what ``.urlencode`` has encoded is not encoded again."""
    body = (
        b"a=__client_secret__&b=%5B%5Boauth%2Fglobal%2Faccess_token%5D%5D&c=__client_secret.urlencode__"
        b"&d=__client_id%2B%27%3A%27%2Bclient_secret.base64__"
    )

    sent = in_body(body, FORM, values())

    assert parse_qs(sent.decode()) == {
        "a": ["s&cr=t"],
        "b": ["g/1+2"],
        "c": ["s&cr=t"],
        "d": ["Y2xfMTpzJmNyPXQ="],
    }


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("text/plain; charset=utf-8", b"k=<a&'\xc3\xbc>"),
        ("application/graphql", b"k=<a&'\xc3\xbc>"),
        ("text/xml", b"k=&lt;a&amp;&apos;\xc3\xbc&gt;"),
        ("application/soap+xml", b"k=&lt;a&amp;&apos;\xc3\xbc&gt;"),
        ("application/octet-stream", b"k=__x__"),
        ("image/png", b"k=__x__"),
        ("multipart/mixed; boundary=b", b"k=__x__"),
        ("", b"k=__x__"),
    ],
)
def test_other_bodies(kind: str, sent: bytes) -> None:
    """Text as it is, binary data untouched."""
    assert in_body(b"k=__x__", kind, values(settings={"x": "<a&'ü>"})) == sent


def test_fields_of_a_form_with_files() -> None:
    """``FormData`` is what a browser sends; a file in it is nobody's text."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="code"\r\n\r\n[user[oauth2/mytoken]]\r\n'
        b'--b\r\nContent-Disposition: form-data; name="j"\r\nContent-Type: application/json\r\n\r\n'
        b'{"a": "__client_id__", "b": [[1]]}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n__client_id__\r\n'
        b'--b\r\nContent-Disposition: form-data; name="e"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
        b"__client_id__=\r\n\r\n--b--\r\n"
    )

    for boundary in ("boundary=b", 'boundary="b"'):
        sent = in_body(body, f"multipart/form-data; {boundary}", values())
        assert sent == body.replace(b"[user[oauth2/mytoken]]", b"29d2ef").replace(
            b'"__client_id__"', b'"cl_1"'
        )
    known = values(user={"oauth2/mytoken": StateValue("x\r\n--b\r\nmore")})
    with pytest.raises(UnresolvedError, match="end its field"):
        in_body(body, "multipart/form-data; boundary=b", known)


# --- failing closed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"__nobody__", "no setting nobody in the account"),
        (b"[user[a/b]]", "no state a/b of the login"),
        (b"[[a/b]]", "no state a/b of the account"),
        (b"[user[oauth/global/access_token]]", "no state oauth/global/access_token of the login"),
        (b"[user[old]]", "state old of the login that this request uses has expired"),
        (b"__client_id+nobody.base64__", "no setting nobody"),
        (b'__client_id.json("[a]")__', "takes the field a from is not JSON"),
        (b'__tokens.json("[refresh]")__', "the field refresh from does not have it"),
        (b'__tokens.json("[tenant.tags.2]")__', "the field tenant.tags.2 from does not have it"),
        (b'__tokens.json("[none]")__', "neither text nor a number"),
        (b'__tokens.json("[tenant]")__', "neither text nor a number"),
        (b"[user[half]]", "no text"),
    ],
)
def test_what_does_not_resolve_is_told_without_a_value(written: bytes, sentence: str) -> None:
    """Sent as it stands, it would tell an upstream nothing and the person nothing either."""
    known = values(user={"old": StateValue("planted-2", NOW), "half": StateValue("planted-\ud800")})

    def in_each_place() -> Iterator[Callable[[], bytes]]:
        yield lambda: in_header(written, known)
        yield lambda: in_target(b"/?x=" + written, known)
        yield lambda: in_body(json.dumps(written.decode()).encode(), "application/json", known)
        yield lambda: in_body(written, FORM, known)

    for replace in in_each_place():
        with pytest.raises(UnresolvedError, match=sentence) as refused:
            replace()
        assert "planted" not in str(refused.value)
        assert "planted" not in repr(refused.value.__cause__)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", FORM])
def test_few_bytes_do_not_become_many(kind: str) -> None:
    """A small body that names a large value again and again must not fill the memory."""
    known = values(settings={"big": "x" * 50_000})

    with pytest.raises(UnresolvedError, match="more than 256 placeholders"):
        in_body(b'"__client_id__"' * 257, kind, known)
    with pytest.raises(UnresolvedError, match="more than 1 MiB"):
        in_body(b'"__big__"' * 30, kind, known)


HOSTILE = st.sampled_from(
    [
        "__client_id__",
        "[user[oauth2/mytoken]]",
        "[[oauth/global/access_token]]",
        "%5B%5Ba%5D%5D",
        "__",
        "[[",
        "'",
        '"',
    ]
)


@given(value=st.lists(HOSTILE, max_size=5).map("".join))
def test_a_value_is_never_looked_at_again(value: str) -> None:
    """Who can put state must not read settings by writing their names into it."""
    known = values(user={"x": StateValue(value)})

    assert in_header(b"a [user[x]] b", known) == f"a {value} b".encode()
    assert unquote(in_target(b"/?[user[x]][user[x]]", known).decode()) == f"/?{value}{value}"
    assert json.loads(in_body(b'"[user[x]]"', "application/json", known)) == value
    assert in_body(b"__[user[x]]+client_id__", "text/plain", known) == f"{value}cl_1".encode()


@given(value=st.text(max_size=60))
def test_any_value_is_data_of_its_place(value: str) -> None:
    """Whatever it holds, what is around it reads as it was written."""
    known = values(user={"x": StateValue(value)})
    try:
        value.encode()
    except UnicodeEncodeError:
        return

    document = in_body(b'{"a": "[ [user[x]] ]", "b": [[1]]}', "application/json", known)
    assert json.loads(document) == {"a": f"[ {value} ]", "b": [[1]]}
    form = in_body(b"a=1&x=[user[x]]&b=2", FORM, known).decode()
    assert parse_qs(form, keep_blank_values=True) == {"a": ["1"], "x": [value], "b": ["2"]}
    target = in_target(b"/p?a=1&x=[user[x]]&b=2", known).decode()
    assert parse_qs(target[3:], keep_blank_values=True) == {"a": ["1"], "x": [value], "b": ["2"]}
    xml = in_body(b"<a b='[user[x]]'>[user[x]]</a>", "text/xml", known).decode()
    assert xml.count("<") == 2
    assert xml.count("'") == 2


@pytest.mark.parametrize(
    "piece",
    [
        "__a",
        "[",
        "[[a/",
        "__a+'",
        "__",
        "__a_",
        "__a+",
        "__[[a]].json('[a",
        '"',
        '\\"',
        '"\\',
        "[user[",
        "%5B",
    ],
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    """What nearly matches everywhere must not stall the loop: with a square in it, this would take minutes."""
    body = b'"' + piece.encode() * (300_000 // len(piece)) + b"\\"
    began = perf_counter()
    for kind in ("text/plain", FORM, "application/json"):
        try:
            in_body(body, kind, values(settings={"a": "x"}))
        except UnresolvedError:
            continue
    assert perf_counter() - began < 10


def test_a_target_is_judged_without_the_values() -> None:
    """A whitelist must not depend on what a placeholder stands for."""
    assert blanked(b"/a/[user[x/y]]/__b__?c=%5B%5Bd%5D%5D", b"*") == b"/a/*/*?c=*"


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ("oauth2/token", True),
        ("a", True),
        ("a.b_c-1/2", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("a b", False),
        ("ü", False),
        ("a[", False),
        ("a\n", False),
    ],
)
def test_paths_of_state(path: str, *, valid: bool) -> None:
    """One grammar for the API, the config and requests, so that what can be put can be named."""
    assert valid_path(path) is valid
    assert found_in(b"[user[%b]]" % path.encode()) is valid
