"""Who comes in, what a browser is given for the token, and what it is worth."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from tests.admin.dashboard.visitor import Visitor
from tests.admin.program import TOKEN, Program
from tests.admin.test_admin_tls import showing, trusting
from tests.simulators import FakeClock
from tokenproxy import audit
from tokenproxy.admin.api import Desk, tcp_app
from tokenproxy.admin.dashboard.gate import peer_of
from tokenproxy.admin.dashboard.pages import Dashboard
from tokenproxy.admin.dashboard.sessions import LIFE, MOST, TRIES
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import Running, serve_tcp
from tokenproxy.admin.token import AdminToken
from tokenproxy.audit import AuditLog
from tokenproxy.core.settings import Audit

PAGES = ("/", "/accounts/books", "/requests", "/health", "/log-in", "/log-in?account=books", "/logins/xyz")
NAVIGATION = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


def attributes(line: str) -> set[str]:
    return {part.strip() for part in line.split(";")[1:]}


@pytest.mark.parametrize("page", PAGES)
async def test_without_the_token_there_is_nothing_to_see(stranger: Visitor, page: str) -> None:
    """On loopback too: whoever else is on this machine, or opens a page in somebody's browser, reaches the port."""
    answer = await stranger.open(page)

    assert answer.status == 303
    assert answer.headers["Location"].startswith("/sign-in")
    assert "books" not in answer.text
    assert "Set-Cookie" not in answer.headers


async def test_events_and_forms_need_a_session_as_well(stranger: Visitor, program: Program) -> None:
    assert (await stranger.open("/events")).status == 401
    for target, what in (("/accounts/books", "renew"), ("/accounts/books", "log-out"), ("/log-in", "")):
        answer = await stranger.ask("POST", target, {"do": what, "form_key": "x", "account": "books"})
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/sign-in")
    assert program.rows["books"]["generation"] == 3


async def test_the_token_once_then_a_cookie(stranger: Visitor) -> None:
    page = await stranger.open("/sign-in")
    assert "The token is in the file tokenproxy.db.admin-token" in page.seen.text

    answer = await stranger.sign_in(next="/accounts/books")

    assert (answer.status, answer.headers["Location"]) == (303, "/accounts/books")
    line = stranger.set_cookies[-1]
    assert re.match(r"tokenproxy-admin=[\w-]{43};", line)
    assert attributes(line) == {f"Max-Age={LIFE:.0f}", "Path=/", "HttpOnly", "SameSite=Strict"}
    assert (await stranger.open("/accounts/books")).status == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "tokens.example:8443"}, {"Origin": "https://tokens.example:8443"}]
)
async def test_behind_tls_the_cookie_stays_there(stranger: Visitor, headers: dict[str, str]) -> None:
    """``__Host-``: no neighbour below the same domain can set it, and it never goes out in the open."""
    await stranger.ask("POST", "/sign-in", {"token": TOKEN}, **headers)

    line = stranger.set_cookies[-1]
    assert line.startswith("__Host-tokenproxy-admin=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= attributes(line)
    assert "Domain" not in line


async def test_over_the_listener_s_own_tls_too(desk: Desk, pages: LoginPages, sight: Sight) -> None:
    guard = Guard.of("https://tokens.example:8443", ["inside.example"])
    app = tcp_app(desk, guard, pages, Dashboard(sight))
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen", context=showing())
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(
            f"https://{running.address}/sign-in",
            data={"token": TOKEN},
            headers={"Host": "inside.example"},
            ssl=trusting(),
            allow_redirects=False,
        ) as answer,
    ):
        assert answer.status == 303
        assert answer.headers["Set-Cookie"].startswith("__Host-tokenproxy-admin=")
    await running.close()


async def test_over_a_network_the_token_does_not_go_in_the_open(
    desk: Desk, pages: LoginPages, sight: Sight, stranger: Visitor
) -> None:
    """``inside.example`` is a name of ours that nothing with TLS stands before; an explicit word lets it be."""
    page = await stranger.open("/sign-in", Host="inside.example")
    assert "without TLS" in page.seen.text
    assert 'name="token"' not in page.text
    answer = await stranger.ask("POST", "/sign-in", {"token": TOKEN}, Host="inside.example")
    assert (answer.status, stranger.cookies) == (403, {})

    guard = Guard.of("https://tokens.example:8443", ["inside.example"])
    app = tcp_app(desk, guard, pages, Dashboard(dataclasses.replace(sight, insecure_http=True)))
    trusting = await serve_tcp(app, "127.0.0.1:0", key="admin.listen")
    answer = await Visitor(trusting).ask("POST", "/sign-in", {"token": TOKEN}, Host="inside.example")
    assert answer.status == 303
    await trusting.close()


async def test_no_session_can_be_fixed_beforehand(tcp: Running) -> None:
    """The id is new at every sign-in, the one from before is over, and one that somebody made up is worth nothing."""
    attacker, victim = Visitor(tcp), Visitor(tcp)
    made_up = "A" * 43
    victim.cookies["tokenproxy-admin"] = made_up
    await victim.sign_in()
    first = victim.cookies["tokenproxy-admin"]
    assert first != made_up
    attacker.cookies["tokenproxy-admin"] = made_up
    assert (await attacker.open("/")).status == 303

    await victim.sign_in()
    assert victim.cookies["tokenproxy-admin"] != first
    attacker.cookies["tokenproxy-admin"] = first
    assert (await attacker.open("/")).status == 303


async def test_a_session_ends(visitor: Visitor, clock: FakeClock) -> None:
    await clock.advance(LIFE - 1)
    assert (await visitor.open("/")).status == 200
    await clock.advance(1)
    assert (await visitor.open("/")).status == 303


async def test_signing_out_ends_it_on_the_server(visitor: Visitor) -> None:
    cookie = dict(visitor.cookies)
    answer = await visitor.send("/sign-out")
    assert (answer.status, answer.headers["Location"], visitor.cookies) == (303, "/sign-in", {})

    visitor.cookies = cookie
    assert (await visitor.open("/")).status == 303


async def test_another_token_ends_all_sessions(desk: Desk, pages: LoginPages, sight: Sight) -> None:
    """Somebody changes the token because it got about."""
    tokens = [TOKEN]
    changing = dataclasses.replace(
        sight, token=lambda: AdminToken(tokens[0], place="admin.token of the config")
    )
    app = tcp_app(desk, Guard.of("http://127.0.0.1:9100"), pages, Dashboard(changing))
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen")
    visitor = Visitor(running)
    await visitor.sign_in()
    assert (await visitor.open("/")).status == 200

    tokens[0] = "another-token-of-the-admin"
    assert (await visitor.open("/")).status == 303
    assert (await visitor.sign_in()).status == 403
    assert (await visitor.sign_in("another-token-of-the-admin")).status == 303
    await running.close()


async def test_so_many_sessions_and_no_more(tcp: Running) -> None:
    first = Visitor(tcp)
    await first.sign_in()
    for _ in range(MOST):
        await Visitor(tcp).sign_in()

    assert (await first.open("/")).status == 303


async def test_guessing_is_slow(stranger: Visitor, clock: FakeClock) -> None:
    """Further wrong tokens get 429 and do not make the wait longer."""
    for _ in range(TRIES):
        answer = await stranger.sign_in("guess")
        assert (answer.status, "This is not the admin token." in answer.text) == (403, True)
    for _ in range(3):
        answer = await stranger.sign_in("guess")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "6")
        assert "try again in 6 s" in answer.seen.text

    await clock.advance(6)
    assert (await stranger.sign_in("guess")).status == 403
    assert (await stranger.sign_in("guess")).status == 429


async def test_nobody_can_keep_out_who_is_right(stranger: Visitor, visitor: Visitor) -> None:
    """Others at the same address (behind a front all have one) were wrong: the right token counts all the same."""
    for _ in range(TRIES + 1):
        answer = await stranger.sign_in("guess")
    assert answer.status == 429

    assert (await visitor.sign_in()).status == 303
    assert (await stranger.sign_in("guess")).status == 403  # whoever was right begins anew


@pytest.mark.parametrize(
    ("remote", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2:0:0:1", "2001:db8::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_whose_tries_count_together(remote: str, peer: str) -> None:
    """However an IPv6 address is written."""
    request = make_mocked_request("POST", "/sign-in").clone(remote=remote)
    assert peer_of(request) == peer


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("/accounts/crm/anna", "/accounts/crm/anna"),
        ("/requests?route=crm&status=5", "/requests?route=crm&status=5"),
        ("/?q=<script>", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/accounts//evil.example", "/"),
        ("/callback/books?code=x", "/"),
        ("/sign-in", "/"),
        ("javascript:alert(1)", "/"),
        ("/accounts/x\r\nSet-Cookie: a=b", "/"),
    ],
)
async def test_a_sign_in_leads_to_our_pages_alone(stranger: Visitor, asked: str, leads: str) -> None:
    assert (await stranger.sign_in(next=asked)).headers["Location"] == leads


@pytest.mark.parametrize("key", ["", "x", "\u00e4"])
async def test_a_form_without_its_session_s_key_does_nothing(
    visitor: Visitor, tcp: Running, program: Program, key: str
) -> None:
    """Nor with another session's."""
    other = Visitor(tcp)
    await other.sign_in()
    for wrong in (key, (await other.open("/log-in")).form_key):
        answer = await visitor.send("/accounts/books", key=wrong, do="renew")
        assert answer.status == 403
        assert "Nothing was done." in answer.seen.text
    assert program.rows["books"]["generation"] == 3


async def test_nothing_is_changed_while_a_needed_audit_log_fails(visitor: Visitor, program: Program) -> None:
    """As by the API: what cannot be written down does not happen."""
    key = (await visitor.open("/log-in")).form_key
    writing = AuditLog(Audit(file="/dev/full", required=True), monotonic=time.monotonic)
    audit.use(writing)
    try:
        audit.record("started")
        async with asyncio.timeout(10):
            while not audit.unavailable():
                await asyncio.sleep(0.005)
        answer = await visitor.send("/accounts/books", key=key, do="renew")
        assert answer.status == 503
        assert "Nothing is changed while the audit log fails" in answer.seen.text
        assert (await visitor.open("/accounts/books")).status == 200
    finally:
        audit.use(None)
        await asyncio.to_thread(writing.close)
    assert program.rows["books"]["generation"] == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
        {"Host": "evil.example"},
    ],
)
async def test_a_form_of_another_site_does_nothing(
    visitor: Visitor, program: Program, headers: dict[str, str]
) -> None:
    """Even with the cookie and the key, which it could not have."""
    key = (await visitor.open("/log-in")).form_key
    for target in ("/accounts/books", "/sign-in", "/sign-out"):
        answer = await visitor.ask("POST", target, {"form_key": key, "do": "renew"}, **headers)
        assert answer.status == 403
    assert program.rows["books"]["generation"] == 3
    assert (await visitor.open("/")).status == 200


@pytest.mark.parametrize("page", ["/", "/accounts/books", "/requests?route=erp", "/health"])
async def test_a_link_on_another_site_leads_on(visitor: Visitor, page: str) -> None:
    """An alert in a chat links to an account. What it opens shows nothing; a strict cookie does not come along."""
    answer = await visitor.open(page, **NAVIGATION)

    assert answer.status == 200
    assert f'content="0; url={page}"' in answer.text
    assert "books" not in answer.seen.text
    assert "form" not in answer.seen.tags


@pytest.mark.parametrize(
    ("page", "changed"),
    [
        ("/", {"Sec_Fetch_Dest": "iframe"}),
        ("/", {"Sec_Fetch_Dest": "object"}),
        ("/", {"Sec_Fetch_Mode": "no-cors"}),
        ("/events", {}),
        ("/sign-in", {}),
        ("/api/accounts", {}),
        ("/assets/page.js", {}),
    ],
)
async def test_another_site_shows_us_nowhere(visitor: Visitor, page: str, changed: dict[str, Any]) -> None:
    """Not in a frame, as a picture or a script, and no call of the API."""
    assert (await visitor.open(page, **NAVIGATION | changed)).status == 403


async def test_every_page_is_fenced_in(visitor: Visitor, stranger: Visitor) -> None:
    """Nothing from elsewhere, nothing inline, no frame, no cache; a Referer goes to ourselves alone."""
    for who, page in [(visitor, page) for page in PAGES] + [(stranger, "/sign-in")]:
        answer = await who.open(page)
        policy = dict(
            part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy == {
            "default-src": "'none'", "style-src": "'self'", "script-src": "'self'", "img-src": "'self'",
            "connect-src": "'self'", "form-action": "'self'", "base-uri": "'none'", "frame-ancestors": "'none'",
        }  # fmt: skip
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        seen = answer.seen
        assert seen.inline == []
        assert "style" not in seen.tags
        assert seen.loaded
        assert all(target.startswith("/assets/") for target in seen.loaded)
        assert TOKEN not in answer.text


async def test_assets_are_for_everybody_and_kept(stranger: Visitor) -> None:
    page = await stranger.open("/sign-in")
    for target in page.seen.loaded:
        answer = await stranger.open(target.replace("&amp;", "&"))
        assert answer.status == 200
        assert answer.headers["Cache-Control"].startswith("private, max-age=")
        assert answer.headers["Content-Type"].startswith(("text/css", "text/javascript", "image/svg+xml"))
    for nothing in ("/assets/layout.html", "/assets/..%2fpages.py", "/assets/pages.py", "/assets/%2e%2e"):
        assert (await stranger.open(nothing)).status == 404
