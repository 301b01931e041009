"""Which route a request takes."""

from __future__ import annotations

import pytest

from tokenproxy.core.routes import Route, RouteTable, Upstream, account_header, host_key, valid_sub

UPSTREAM = Upstream(scheme="https", host="api.example", port=443, authority="api.example")


def table(*routes: tuple[str, str]) -> RouteTable:
    return RouteTable.of(
        Route(name=f"{host}{prefix}", prefix=prefix, host=host, upstream=UPSTREAM, account="a")
        for host, prefix in routes
    )


def match(routes: RouteTable, path: str, host: str = "") -> str | None:
    found = routes.match(host, path)
    return found.name if found else None


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/books/", "/books/"),
        ("/books/v1", "/books/"),
        ("/books", "/books/"),
        ("/books//", "/books/"),
        ("/book", None),
        ("/bookshelf", None),
        ("/booksx/", None),
        ("/Books/", None),
        ("/%62ooks/", None),
        ("/", None),
        ("", None),
        ("*", None),
        ("books/", None),
    ],
)
def test_a_prefix_ends_on_a_segment_border(path: str, wanted: str | None) -> None:
    """``/bookshelf`` must not leave with the token of ``/books/``; nothing is decoded or folded to find a route."""
    assert match(table(("", "/books/")), path) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/a/b/c", "/a/b/"),
        ("/a/b", "/a/b/"),
        ("/a/bc", "/a/"),
        ("/a", "/a/"),
        ("/x", "/"),
        ("/", "/"),
    ],
)
def test_the_longest_prefix_wins_in_any_order(path: str, wanted: str) -> None:
    """The order in the file says nothing."""
    prefixes = [("", "/"), ("", "/a/b/"), ("", "/a/")]
    assert match(table(*prefixes), path) == match(table(*reversed(prefixes)), path) == wanted


def test_a_route_with_the_host_beats_one_without() -> None:
    """However long the other's prefix is; and what the host's routes do not take goes to the others."""
    routes = table(("roster.local", "/"), ("", "/books/deep/"), ("crm.local", "/x/"))
    assert match(routes, "/books/deep/1", "roster.local") == "roster.local/"
    assert match(routes, "/books/deep/1", "crm.local") == "/books/deep/"
    assert match(routes, "/x/", "roster.locale") is None
    assert match(routes, "/x/") is None


def test_a_host_beats_a_star_and_a_long_star_a_short_one() -> None:
    """As for nginx, a star is any number of labels; the name itself is not below itself."""
    routes = table(
        ("*.example.com", "/"), ("*.eu.example.com", "/"), ("a.eu.example.com", "/v1/"), ("", "/v2/")
    )
    assert match(routes, "/v1/x", "a.eu.example.com") == "a.eu.example.com/v1/"
    assert match(routes, "/v2/x", "a.eu.example.com") == "*.eu.example.com/"
    assert match(routes, "/", "b.a.eu.example.com") == "*.eu.example.com/"
    assert match(routes, "/", "us.example.com") == "*.example.com/"
    assert match(routes, "/", "example.com") is None
    assert match(routes, "/", "an-example.com") is None
    assert match(routes, "/v2/x", "other.example") == "/v2/"


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("API.Example.com.", "api.example.com"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("[::FFFF]", "[::ffff]"),
        ("[1:2]", "[1:2]"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_host_has_one_spelling(written: str, key: str) -> None:
    """Case, a closing dot and zeros change nothing (RFC 3986 section 3.2.2, RFC 5952)."""
    assert host_key(written) == key


def test_accounts_by_header() -> None:
    """``crm/{header:x-user}`` names a table and a field."""
    assert account_header("crm/{header: X-User }") == ("crm", "x-user")
    assert account_header("crm/anna") is None
    assert account_header("crm") is None


@pytest.mark.parametrize("value", ["anna", "anna@example.com", "A_1-b.c", "x" * 128])
def test_names_of_logins(value: str) -> None:
    """As names are: ``[A-Za-z0-9._@-]{1,128}``."""
    assert valid_sub(value)


@pytest.mark.parametrize("value", ["", "x" * 129, "a/b", "a b", "anna\n", "ä", "a\0", "{header:x}"])
def test_what_is_no_name_of_a_login(value: str) -> None:
    """A trailing line feed is the classic hole in such a check."""
    assert not valid_sub(value)


def test_an_ipv6_upstream_has_brackets_in_its_origin() -> None:
    """Else ``::1:443`` could be two things."""
    assert Upstream(scheme="http", host="::1", port=80, authority="[::1]").origin == "http://[::1]:80"
