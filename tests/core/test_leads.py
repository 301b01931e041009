"""Addresses of an upstream become the caller's, and those of others stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenproxy.core.leads import Leads
from tokenproxy.core.routes import Upstream


def leads(path: str = "/v2", **more: str) -> Leads:
    upstream = Upstream(scheme="https", host="api.example", port=443, authority="api.example", path=path)
    return Leads(upstream=upstream, prefix="/books/", **more)


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("https://api.example/v2/users/7?x=1#y", "/books/users/7?x=1#y"),
        ("HTTPS://API.example:443/v2/users", "/books/users"),
        ("http://api.example/v2/users", "/books/users"),
        ("//api.example/v2/", "/books/"),
        ("https://api.example/v2", "/books/"),
        ("https://api.example/v2?x", "/books/?x"),
        ("/v2/users", "/books/users"),
        ("/v2/a%2Fb//c", "/books/a%2Fb//c"),
        ("/login", "https://api.example/login"),
        ("/v20/x", "https://api.example/v20/x"),
        ("/v2/../admin", "https://api.example/v2/../admin"),
    ],
)
def test_what_points_into_the_upstream(said: str, becomes: str) -> None:
    assert leads().location(said) == becomes


@pytest.mark.parametrize(
    "said",
    [
        "https://other.example/v2/users",
        "https://api.example.evil.example/v2/x",
        "https://api.example:8443/v2/x",
        "https://api.example@evil.example/v2/x",
        "https://api.example/login",
        "https://api.example/v2/%2e%2e/admin",
        "//other.example/v2/x",
        "/\\other.example",
        "next",
        "?page=2",
        "../x",
        "",
        "mailto:a@api.example",
    ],
)
def test_what_stays_as_it_is(said: str) -> None:
    assert leads().location(said) == said


def test_an_upstream_without_a_path_of_its_own() -> None:
    assert leads("").location("https://api.example/x") == "/books/x"
    assert leads("").location("https://api.example") == "/books/"
    assert leads("").location("/x") == "/books/x"


@pytest.mark.parametrize(
    ("path", "said", "becomes"),
    [
        ("", "https://api.example//evil.example/x", "https://api.example//evil.example/x"),
        ("", "//api.example//evil.example/x", "//api.example//evil.example/x"),
        ("", "https://api.example/\\evil.example", "https://api.example/\\evil.example"),
        ("", "https://api.example/\t/evil.example", "https://api.example/\t/evil.example"),
        ("/v2", "/v2//evil.example", "https://api.example/v2//evil.example"),
        ("/v2", "https://api.example/v2/a//b", "/a//b"),
    ],
)
def test_on_a_route_for_all_paths_an_empty_segment_becomes_no_host(
    path: str, said: str, becomes: str
) -> None:
    """``//evil.example`` is an address of another host (RFC 3986 section 4.2)."""
    assert replace(leads(path), prefix="/").location(said) == becomes


def test_a_name_that_we_gave_the_upstream_is_its_name() -> None:
    assert leads(host="shop.internal").location("https://shop.internal/v2/x") == "/books/x"


def test_refresh_and_link() -> None:
    assert leads().refresh("5; url=https://api.example/v2/x") == "5; url=/books/x"
    assert leads().refresh('0;URL="/v2/x"') == '0;URL="/books/x"'
    assert leads().refresh("5") == "5"
    both = '<https://api.example/v2/x?page=2>; rel="next", <https://other.example/>; rel="help"'
    assert leads().link(both) == '</books/x?page=2>; rel="next", <https://other.example/>; rel="help"'


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("sid=1; Path=/v2/users; HttpOnly", "sid=1; Path=/books/users; HttpOnly"),
        ("sid=1; path=/; Secure", "sid=1; path=/books/; Secure"),
        ("sid=1; Domain=.example; Path=/v2", "sid=1; Path=/books/"),
        ("sid=1; domain=api.example", "sid=1"),
        ("sid=1; Domain=other.example; Path=/other", "sid=1; Domain=other.example; Path=/other"),
        ("path=/v2; Domain=le", "path=/v2; Domain=le"),
        ("sid=a=b", "sid=a=b"),
    ],
)
def test_cookies(said: str, becomes: str) -> None:
    assert leads().cookie(said) == becomes
