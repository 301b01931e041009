"""Allow lists: what they mean, and that no spelling of a path gets past one."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenproxy.core.allow import Allow, Entry, RefusedError
from tokenproxy.core.globs import fits, meaning


def lets(method: str, target: str, *entries: str) -> bool:
    try:
        Allow(tuple(map(Entry.of, entries))).check(method, target)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("entry", "method", "target"),
    [
        ("GET /v2/**", "GET", "/v2"),
        ("GET /v2/**", "GET", "/v2/"),
        ("GET /v2/**", "GET", "/v2/a/b?x=%2F..//;\\"),
        ("GET /v2/**", "HEAD", "/v2/a"),
        ("GET|POST /users", "POST", "/users"),
        ("* /users/*", "DELETE", "/users/7"),
        ("* /**", "PATCH", "/"),
        ("GET /users/*/name", "GET", "/users/a%20b/name"),
        ("GET /r*s/x.json", "GET", "/reports/x.json"),
        ("GET /caf%c3%a9/*", "GET", "/caf%C3%A9/%c3%a9"),
        ("GET /**/files", "GET", "/a/b/files"),
        ("GET /a/$b,(c)!", "GET", "/a/$b,(c)!"),
    ],
)
def test_what_an_entry_means(entry: str, method: str, target: str) -> None:
    assert lets(method, target, entry)


@pytest.mark.parametrize(
    ("entry", "method", "target"),
    [
        ("GET /v2/**", "POST", "/v2/a"),
        ("GET /v2/**", "OPTIONS", "/v2/a"),
        ("HEAD /v2/**", "GET", "/v2/a"),
        ("GET /v2/**", "get", "/v2/a"),
        ("GET /v2/**", "GET", "/v20"),
        ("GET /v2/**", "GET", "/V2/a"),
        ("GET /v2/**", "GET", "/"),
        ("* /users/*", "DELETE", "/users/"),
        ("* /users/*", "DELETE", "/users"),
        ("* /users/*", "DELETE", "/users/7/x"),
        ("GET /users", "GET", "/users/"),
        ("GET /users", "GET", "/usersx"),
    ],
)
def test_what_it_does_not_mean(entry: str, method: str, target: str) -> None:
    assert not lets(method, target, entry)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/..%2fadmin", "/v2/%2e%2e/admin", "/v2/%2E/x", "/v2/a%5cb", "/v2/a;x=1", "/v2/..;/admin", "/v2/%3bx",
        "/v2//admin", "//v2/x", "/v2/x//", "/%76%32/x", "/v2/%252e%252e/admin", "/v2/x%00", "/v2/x%0a", "/v2/x%7f",
        "/v2/%c0%ae%c0%ae/admin", "/v2/%c0%af", "/v2/%e0%80%af", "/v2/%ff", "/v2/%ef%bc%8f", "/v2/%ef%bc%8e%ef%bc%8e/x",
        "/v2/%e2%80%a5/x", "/v2/%e2%84%80", "/v2/x%3fy", "/v2/x%23y", "/v2/%25", "/v2/a/../b", "/v2/.", "/v2/%c3%a9/../b",
    ],
)  # fmt: skip
def test_what_upstreams_read_differently_is_refused_whatever_the_list_says(path: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Allow((Entry.of("* /**"),)).check("GET", path)
    assert not refused.value.malformed


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a\\b",
        "/v2/a#b",
        "/v2/%u002f",
        "/v2/%",
        "/v2/%2",
        "/v2/\udcc3\udca9",
        "/v2/a b",
        "/v2/<",
        "v2",
        "",
    ],
)
def test_what_is_no_path_is_malformed(path: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Allow((Entry.of("* /**"),)).check("GET", path)
    assert refused.value.malformed


def test_a_header_cannot_ask_for_something_else() -> None:
    listed = Allow((Entry.of("POST /users"),))

    listed.check("POST", "/users", [b"content-type"])
    with pytest.raises(RefusedError):
        listed.check("POST", "/users", [b"content-type", b"x-http-method-override"])


# -- any path at all -----------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "/", "//", "v2", "admin", "users", "a", ".", "..", ";", ";x", "\\", "%2f", "%2F", "%5c", "%2e", "%2E%2e", "%3b", "%25",
        "%252f", "%252e", "%76", "%32", "v%32", "%00", "%", "%2", "#", "%23", "%3f", "?", "%c0%af", "%c0%ae", "%ef%bc%8f",
        "%c3%a9", "é", "*", "+", "%20", ":", "@", "~", "%7e",
    ]
)  # fmt: skip
PATHS = st.lists(PIECES, max_size=9).map(lambda pieces: "/" + "".join(pieces))
ANYTHING = st.text(st.characters(max_codepoint=0x2FF), max_size=20).map("/".__add__)
LISTS = (("GET /v2/**",), ("GET /v2/users/*", "GET /a"), ("GET /*/users",), ("GET /v2/**/a",))


def readings(target: str) -> set[str]:
    """Every way in which a lenient upstream may read a target: decoded any number of times, in any order with the rest."""
    seen: set[str] = set()
    waiting = [target.partition("?")[0]]
    while waiting:
        path = waiting.pop()
        if path in seen or len(seen) > 200:
            continue
        seen.add(path)
        waiting += [
            unquote(path, "latin-1"),
            unquote(path, "utf-8", "replace"),
            _overlong(path),
            path.replace("\\", "/"),
            path.partition("#")[0],
            path.partition("?")[0],
            path.partition("\x00")[0],
            re.sub("/{2,}", "/", path),
            re.sub(";[^/]*", "", path),
            _resolved(path),
        ]
    return seen


def _overlong(path: str) -> str:
    raw = (
        unquote_to_bytes(path)
        .replace(b"\xc0\xaf", b"/")
        .replace(b"\xc0\xae", b".")
        .replace(b"\xef\xbc\x8f", b"/")
    )
    return raw.decode("latin-1")


def _resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept[1:] = kept[1:-1]
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept) or "/"


@given(st.one_of(PATHS, ANYTHING), st.sampled_from(LISTS))
@example("/v2/..%2fadmin", LISTS[0])
@example("/v2/%252e%252e/admin", LISTS[0])
@example("/v2/users/..;/x", LISTS[1])
@example("/%76%32/users", LISTS[2])
def test_whatever_is_let_through_is_on_the_list_for_every_upstream(
    target: str, entries: tuple[str, ...]
) -> None:
    if not lets("GET", target, *entries):
        return

    patterns = [entry.partition(" ")[2] for entry in entries]
    for path in readings(target):
        assert any(fits(pattern, path) for pattern in patterns), (target, path)


def test_the_readings_of_a_lenient_upstream_find_the_way_out() -> None:
    """Were the refusals not there, the property above would fail."""
    assert "/admin" in readings("/v2/..%2fadmin")
    assert "/admin" in readings("/v2/%252e%252e/admin")
    assert "/v2/x" in readings("/v2/users/..;/x")


@given(
    pattern=st.lists(st.sampled_from(["**", "*", "a", "ab", "a*", "*.b", "a*b", "*a*", "$", ""]), max_size=5),
    path=st.lists(st.sampled_from(["", "a", "b", "ab", "a.b", "aab", "$", "*", "\n"]), max_size=6),
)
def test_a_prepared_pattern_means_what_the_pattern_means(pattern: list[str], path: list[str]) -> None:
    written, asked = "/" + "/".join(pattern), "/" + "/".join(path)

    assert bool(meaning(written)(asked)) is fits(written, asked)


def test_a_pattern_with_many_stars_takes_no_longer_for_a_path_that_it_does_not_mean() -> None:
    """A regular expression would try them in more ways than there is time for; 30 s is this suite's patience."""
    assert not lets("GET", "/" + "a/" * 2000 + "x", "GET /**/a/**/a/**/a/**/a/**/a/**/y")
    assert not lets("GET", "/" + "a" * 2000 + "x", "GET /*a*a*a*a*a*a*a*y")
