"""X-Forwarded-* and Forwarded on the wire."""

from __future__ import annotations

import ipaddress

from tests.proxy.actors import ok, stage
from tokenproxy.core.forwarded import Forwarded

BOTH = Forwarded(x_forwarded=True, rfc7239=True)
FAKED = (
    b"X-Forwarded-For: 8.8.8.8",
    b"x_forwarded_for: 8.8.8.8",
    b"X-Real-Ip: 8.8.8.8",
    b"Forwarded: for=8.8.8.8",
)


async def test_callers_cannot_pretend_to_be_others() -> None:
    """Nor have the fields taken out again by naming them in Connection."""
    async with stage(ok(b"hello"), route={"forwarded": BOTH}) as s:
        await (await s.caller()).get(b"/books/x", *FAKED, b"Connection: X-Forwarded-For, Forwarded")

        (seen,) = s.upstream.seen
        assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert seen.values(b"x-forwarded-proto") == [b"http"]
        assert seen.values(b"x-forwarded-host") == [b"localhost"]
        assert seen.values(b"forwarded") == [b"for=127.0.0.1;host=localhost;proto=http"]
        assert seen.values(b"x-real-ip") == seen.values(b"x_forwarded_for") == []
        assert seen.token == b"token-1"


async def test_options_about_the_whole_server_tell_the_host_as_well() -> None:
    """``OPTIONS *`` has neither a path nor an authority (RFC 9110 section 9.3.7)."""
    async with stage(ok(), route={"forwarded": BOTH, "prefix": "/"}) as s:
        await (await s.caller()).get(b"*", method=b"OPTIONS")

        (seen,) = s.upstream.seen
        assert seen.target == b"*"
        assert seen.values(b"x-forwarded-host") == [b"localhost"]
        assert seen.values(b"forwarded") == [b"for=127.0.0.1;host=localhost;proto=http"]


async def test_a_proxy_in_front_of_us_is_believed() -> None:
    trusting = Forwarded(x_forwarded=True, rfc7239=False, trusted=(ipaddress.ip_network("127.0.0.0/8"),))
    async with stage(ok(b"hello"), route={"forwarded": trusting}) as s:
        await (await s.caller()).get(b"http://localhost/books/x", b"X-Forwarded-For: 203.0.113.7")

        assert s.upstream.seen[0].values(b"x-forwarded-for") == [b"203.0.113.7, 127.0.0.1"]


async def test_placeholders_make_no_difference() -> None:
    async with stage(ok(b"hello"), route={"forwarded": BOTH, "placeholders": True}) as s:
        await (await s.caller()).get(b"/books/x", *FAKED)

        assert s.upstream.seen[0].values(b"x-forwarded-for") == [b"127.0.0.1"]


async def test_by_default_nothing_is_added_and_nothing_taken_out() -> None:
    async with stage(ok(b"hello")) as s:
        await (await s.caller()).get(b"/books/x", *FAKED)

        assert set(FAKED) <= set(s.upstream.seen[0].fields)
        assert s.upstream.seen[0].values(b"x-forwarded-host") == []
