"""Who asked, as the upstream is told."""

from __future__ import annotations

import ipaddress

import pytest

from tokenproxy.core.forwarded import Forwarded

LOCAL = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
SAID = [
    (b"X-Forwarded-For", b"203.0.113.7"),
    (b"x-forwarded-proto", b"https"),
    (b"X-Real-IP", b"203.0.113.7"),
    (b"Forwarded", b"for=203.0.113.7"),
]


def told(
    peer: str, *, x: bool = True, rfc: bool = False, unix: bool = False, host: str = "proxy:8080"
) -> list[str]:
    how = Forwarded(x_forwarded=x, rfc7239=rfc, trusted=LOCAL, trusts_unix=unix)
    return how.lines(SAID, peer=peer, secure=False, host=host).decode().splitlines()


def test_what_strangers_say_is_replaced() -> None:
    assert told("192.0.2.1") == [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: proxy:8080",
    ]


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3"])
def test_what_trusted_proxies_say_is_added_to(peer: str) -> None:
    assert told(peer) == [
        "X-Real-IP: 203.0.113.7",
        "X-Forwarded-For: 203.0.113.7, 10.1.2.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: proxy:8080",
    ]


def test_the_standard_s_way() -> None:
    assert told("192.0.2.1", x=False, rfc=True) == ['Forwarded: for=192.0.2.1;host="proxy:8080";proto=http']
    assert told("2001:db8::1%eth0", x=False, rfc=True, host="proxy") == [
        'Forwarded: for="[2001:db8::1]";host=proxy;proto=http'
    ]
    assert (
        told("fd00::1", x=False, rfc=True)[-1]
        == 'Forwarded: for=203.0.113.7, for="[fd00::1]";host="proxy:8080";proto=http'
    )


def test_a_unix_socket() -> None:
    assert told("")[0] == "X-Forwarded-For: unknown"
    assert told("", unix=True)[1] == "X-Forwarded-For: 203.0.113.7, unknown"
