"""Where requests of the X-Proxy form may go; most of it is what must not get through."""

from __future__ import annotations

from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tokenproxy.core.routes import Target, Upstream
from tokenproxy.core.targets import UnfitURLError, allowed, matches, may_connect, wanted


def target(
    host: str = "example.com", path: str = "/api/**", *, scheme: str = "https", port: int = 443, **more: Any
) -> Target:
    upstream = Upstream(scheme=scheme, host=host, port=port, authority=host)
    return Target(upstream=upstream, path=path, **more)


def lets(url: str, *targets: Target, method: str = "GET") -> bool:
    try:
        allowed(targets or (target(),), wanted(url), method, of=lambda each: each)
    except UnfitURLError:
        return False
    return True


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/api/v1?x=1",
        "https://EXAMPLE.com:443/api/",
        "HTTPS://example.com/api",
        "https://example.com/api/v1?next=https://evil.example/@",
        "https://example.com/api/[user[oauth2/token]]/x?secret=__secret__",
        "https://example.com/api/%20",
    ],
)
def test_what_the_entry_means(url: str) -> None:
    """Case of scheme and host, and a port that is said or not, make no difference (RFC 3986 section 6.2)."""
    assert lets(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/api/",
        "https://example.com:8443/api/",
        "https://example.com:0/api/",
        "https://example.com:65979/api/",  # 443 + 65536
        "https://example.com:/api/",
        "https://example.com:443:443/api/",
        "https://example.com.:443/api/",
        "https://example.com./api/",
        "https://sub.example.com/api/",
        "https://example.com.evil.example/api/",
        "https://evil.example/api/",
        "https://evil.example?https://example.com/api/",
        "https://evil.example#@example.com/api/",
        "https://example.com@evil.example/api/",
        "https://evil.example@example.com/api/",
        "https://evil.example\\@example.com/api/",
        "https://example.com\\.evil.example/api/",
        "https://example.com%2f@evil.example/api/",
        "https://example%2ecom/api/",
        "https://ex%61mple.com/api/",
        "https:example.com/api/",
        "https:/example.com/api/",
        "https:///example.com/api/",
        "//example.com/api/",
        "ftp://example.com/api/",
        "https://ex\u0430mple.com/api/",
        "https://example.com/api/\r\nX-Admin: 1",
        "https://example.com /api/",
        "https://example.com/api/ x",
        "https://example.com\t/api/",
        "https://example.com/api/#x",
        "https://__host__/api/",
        "https://[user[host]]/api/",
        "https://example.com:__port__/api/",
        "https://example.com__x__/api/",
        "__scheme__://example.com/api/",
        "[[url]]",
        "https://2130706433/api/",
        "https://0x7f000001/api/",
        "https://0177.0.0.1/api/",
        "https://127.1/api/",
        "https://[::1]/api/",
        "https://[::ffff:127.0.0.1]/api/",
        "https://[example.com]/api/",
        "",
        "https://",
        "https://example.com/api/" + "a" * 20_000,
    ],
)
def test_addresses_that_lead_elsewhere(url: str) -> None:
    """Each is what one parser or another has taken for a way to ``example.com`` or past it."""
    with pytest.raises(UnfitURLError) as unfit:
        allowed((target(),), wanted(url), "GET", of=lambda each: each)
    assert not url or url not in str(unfit.value)


PIECES = (
    *(
        "https:",
        "http:",
        "//",
        "/",
        "\\",
        "@",
        "#",
        "?",
        ":",
        ".",
        "..",
        "%2e",
        "%2f",
        "%00",
        "[",
        "]",
        "::1",
    ),
    *(
        "443",
        "80",
        "example.com",
        "EXAMPLE.com",
        "evil.example",
        "127.0.0.1",
        "0x7f000001",
        "__a__",
        "[[a]]",
        "x",
    ),
    *(" ", "\t", "\r\n", chr(0x3002), chr(0xFF0F)),  # the last two become . and / by NFKC
)


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_what_is_taken_others_read_alike(pieces: list[str]) -> None:
    """The hole in a whitelist is a parser that reads an address in another way."""
    url = "https://" + "".join(pieces)
    try:
        found = wanted(url)
    except UnfitURLError:
        return

    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.username) == (found.scheme, found.host, None)
    assert (parts.port or {"https": 443, "http": 80}[parts.scheme]) == found.port
    other = URL(url, encoded=True)
    assert (other.scheme, (other.host or "").lower(), other.port) == (found.scheme, found.host, found.port)
    rest = url[len("https://") + len(parts.netloc) :]
    assert found.target in {rest, f"/{rest}"}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/API/",
        "/apix",
        "/admin",
        "/api/../admin",
        "/api/..",
        "/api/./x",
        "/api/%2e%2e/admin",
        "/api/.%2E/admin",
        "/api/..%2fadmin",
        "/api/..%5cadmin",
        "/api/..;/admin",
        "//api/x",
        "/%61pi/x",
        "/api%2fx",
        "/__x__/x",
        "/[user[api/x]]",
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    """What is compared is what is forwarded."""
    assert not lets(f"https://example.com{path}")


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/b/b/c", False),
        ("/a/*/c", "/a/b%2Fb/c", False),
        ("/a/*", "/a/b%2Fc", False),
        ("/a/**", "/a/b%2Fc", True),
        ("/a/**", "/a", True),
        ("/a/**", "/ab", False),
        ("/**/c", "/a/b/c", True),
        ("/**/c", "/c", True),
        ("/**/c", "/a/b/d", False),
        ("/a/v*.json", "/a/v1.json", True),
        ("/a/v*.json", "/a/v1.xml", False),
        ("/a**b", "/axxb", True),
        ("/a**b", "/ax/xb", False),
        ("/**", "/", True),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a?", "/ab", False),
        ("/a.c", "/abc", False),
    ],
)
def test_patterns(pattern: str, path: str, *, matched: bool) -> None:
    """``*`` within a segment, ``**`` over segments; everything else is itself."""
    assert matches(pattern, path) is matched


def test_a_placeholder_is_one_segment_that_only_a_star_lets_in() -> None:
    """Its text has slashes, its value may be anything."""
    one = target(path="/u/*/x")

    assert lets("https://example.com/u/[user[a/b/c]]/x", one)
    assert lets("https://example.com/u/%5Buser%5Ba%2Fb%5D%5D/x", one)
    assert not lets("https://example.com/u/[user[a/b/c]]", target(path="/u/*/*/*"))
    assert not lets("https://example.com/__u__/7/x", one)


def test_methods_are_the_entry_s() -> None:
    """And another entry for the same address may have others."""
    entries = (target(), target(path="/api/x", methods=frozenset({"POST"})))

    assert lets("https://example.com/api/x", *entries, method="POST")
    assert not lets("https://example.com/api/y", *entries, method="POST")
    assert not lets("https://example.com/api/x", *entries, method="get")


@pytest.mark.parametrize(
    ("url", "method", "sentence"),
    [
        ("https://evil.example/api/", "GET", "No entry of targets has this scheme, host and port."),
        ("https://example.com/x", "GET", "The entries of targets for this host do not have this path."),
        (
            "https://example.com/api/",
            "PUT",
            "The entry of targets for this address does not have this method.",
        ),
    ],
)
def test_a_refusal_says_which_part_did_not_match(url: str, method: str, sentence: str) -> None:
    """Whoever writes the whitelist must not have to guess."""
    with pytest.raises(UnfitURLError) as unfit:
        allowed((target(),), wanted(url), method, of=lambda each: each)
    assert str(unfit.value) == sentence


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """A name that somebody else may change must not lead into our own network."""
    assert not may_connect(target(), address)
    assert may_connect(target(private=True), address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"],
)
def test_addresses_that_are_public(address: str) -> None:
    """Also through a NAT64 gateway, where there is no IPv4."""
    assert may_connect(target(), address)


def test_an_address_that_the_entry_names_is_meant() -> None:
    """And only that one."""
    assert may_connect(target("127.0.0.1"), "127.0.0.1")
    assert not may_connect(target("127.0.0.1"), "127.0.0.2")
    assert not may_connect(target("127.0.0.1"), "::1")
    assert may_connect(target("::1"), "::1")
    assert may_connect(target("10.0.0.7"), "10.0.0.7")
    assert may_connect(target("localhost"), "127.0.0.1")
    assert may_connect(target("localhost"), "::1")
    assert not may_connect(target("localhost"), "10.0.0.7")
    assert not may_connect(target("localhost.example"), "127.0.0.1")


def test_hostile_patterns_take_no_time() -> None:
    """Stars upon stars, and a path that nearly matches."""
    began = perf_counter()
    assert not matches("/" + "*a" * 30 + "b", "/" + "a" * 8_000)
    assert not matches("/**/x" * 20 + "/y", "/x" * 4_000)
    assert perf_counter() - began < 10
