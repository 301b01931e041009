"""The pages in a real browser: what a hash, a header and three lines of script really do there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from html import escape

import pytest
from aiohttp import web

from tests.admin.program import Desk
from tests.simulators import Server, free_port
from tests.simulators.browser import Browser, Chromium, Tab, needs_chromium
from tokenproxy.admin.api import pages_app
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import serve_tcp
from tokenproxy.core.interfaces import Landing

pytestmark = needs_chromium

CODE = "c0de-0f-the-login"
STATE = "st4te-0f-the-login"


class Elsewhere(Server):
    """A provider's site as far as a browser sees it; a page, or a redirect to ``sends_to``."""

    sends_to = ""
    html = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.html:
            return web.Response(text=self.html, content_type="text/html")
        return web.Response(status=302, headers={"Location": self.sends_to})

    @property
    def site(self) -> str:
        """A name that is another site than 127.0.0.1."""
        return f"http://localhost:{self.port}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    chromium = Chromium()
    yield chromium
    chromium.close()


@pytest.fixture
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    async with chromium.browsing() as browser:
        yield browser


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    async with Elsewhere() as elsewhere:
        yield elsewhere


@pytest.fixture
async def ours(logins: Desk) -> AsyncIterator[str]:
    """Our pages, as they are reached on a desk; their address."""
    url = f"http://127.0.0.1:{free_port()}"
    pages = LoginPages(logins, url, posts=lambda account: account == "posting")
    running = await serve_tcp(
        pages_app(Guard.of(url), pages), url.removeprefix("http://"), key="admin.listen"
    )
    yield url
    await running.close()


async def holds_nothing(tab: Tab) -> None:
    """Neither what is read, nor the address bar, nor the way back, nor a referrer."""
    told = [await tab.address(), await tab.title(), await tab.text(), *await tab.history()]
    told += [asked["headers"].get("Referer", "") for asked in tab.requests]
    assert not [text for text in told if CODE in text or STATE in text]
    assert tab.complaints == []


async def test_a_fragment_is_handed_over_and_the_address_bar_cleaned(
    browser: Browser, elsewhere: Elsewhere, ours: str, logins: Desk
) -> None:
    """Deskpro's first flow: the answer is after the ``#``, which only the browser sees."""
    logins.in_fragment = True
    elsewhere.sends_to = f"{ours}/callback/books/k3y?x=1#code={CODE}&state={STATE}"
    tab = await browser.tab()
    await tab.go(f"{elsewhere.site}/authorize")
    await tab.until("document.title == 'Logged in - tokenproxy'")
    (before, after) = logins.landed
    assert before["address"] == f"{ours}/callback/books/k3y?x=1"
    assert after == {
        "address": f"{ours}/callback/books/k3y?x=1#code={CODE}&state={STATE}",
        "account": "books",
        "key": "k3y",
        "browser": None,
    }
    assert await tab.address() == f"{ours}/callback/books"
    await holds_nothing(tab)
    posted = tab.requests[-1]
    assert (posted["method"], posted["url"]) == ("POST", f"{ours}/callback/books/k3y")
    assert json.loads(posted["body"]) == {"address": after["address"]}


async def test_a_monstrous_fragment_stays_in_the_browser(browser: Browser, ours: str, logins: Desk) -> None:
    """1 MB: one clear page, and no more than the page itself was asked for."""
    logins.in_fragment = True
    tab = await browser.tab()
    await tab.go(f"{ours}/callback/books#code={CODE}{'x' * 1_000_000}")
    await tab.until("document.title == 'This address is too long - tokenproxy'")

    assert "begin the login again" in await tab.text()
    assert await tab.address() == f"{ours}/callback/books"
    assert [asked["method"] for asked in tab.requests] == ["GET"]
    assert len(logins.landed) == 1
    await holds_nothing(tab)


async def test_an_answer_in_the_query_leaves_the_address_bar_too(
    browser: Browser, elsewhere: Elsewhere, ours: str, logins: Desk
) -> None:
    """The browser that began comes back with its cookie, from another site, and ends on a page without a code."""
    logins.sends_to = f"{elsewhere.site}/authorize"
    elsewhere.sends_to = f"{ours}/callback/books?code={CODE}&state={STATE}"
    logins.lands = Landing("iss_wrong", "The answer is another provider's", "Begin the login again.", 400)
    tab = await browser.tab()
    await tab.go(f"{ours}/login/l1")
    await tab.until(f"location.href == '{ours}/callback/books'")

    assert await tab.text() == "The answer is another provider's\n\nBegin the login again.\n\ntokenproxy"
    assert [landed["browser"] for landed in logins.landed] == logins.opened
    assert len(logins.opened[0]) == 43
    await holds_nothing_but_status(tab, 400)


async def holds_nothing_but_status(tab: Tab, status: int) -> None:
    """Chromium itself notes a failed page in its console, by its address without a query."""
    tab.complaints[:] = [each for each in tab.complaints if f"status of {status}" not in each]
    await holds_nothing(tab)


async def test_a_posted_answer_comes_back_with_the_cookie(
    browser: Browser, elsewhere: Elsewhere, ours: str, logins: Desk
) -> None:
    """Form post response mode from another site: the cookie is Lax, and the login's browser is still known."""
    logins.sends_to = f"{elsewhere.site}/authorize"
    elsewhere.html = (
        f'<form method="post" action="{escape(ours)}/callback/posting"><input name="code" value="{CODE}">'
        f'<input name="state" value="{STATE}"></form><script>document.forms[0].submit()</script>'
    )
    tab = await browser.tab()
    await tab.go(f"{ours}/login/l1")
    await tab.until("document.title == 'Logged in - tokenproxy'")

    (landed,) = logins.landed
    assert landed["address"] == f"{ours}/callback/posting?code={CODE}&state={STATE}"
    assert [landed["browser"]] == logins.opened
    assert await tab.address() == f"{ours}/callback/posting"
    assert (await tab.text()).startswith("Logged in\n\nYou can close this window.")
    await holds_nothing(tab)


async def test_a_browser_is_sent_on_to_the_program_that_waits(
    browser: Browser, elsewhere: Elsewhere, ours: str, logins: Desk
) -> None:
    """From the fragment page as from any other, and without a referrer."""
    logins.in_fragment = True
    elsewhere.html = "<title>The program</title>"
    logins.lands = Landing("success", "Logged in", "", return_to=f"{elsewhere.site}/done")
    tab = await browser.tab()
    await tab.go(f"{ours}/callback/books#code={CODE}&state={STATE}")
    await tab.until("document.title == 'The program'")

    assert await tab.address() == f"{elsewhere.site}/done"
    (onward,) = [asked for asked in tab.requests if asked["url"] == f"{elsewhere.site}/done"]
    assert not onward["headers"].get("Referer")
    assert not [text for text in await tab.history() if CODE in text or STATE in text]


async def test_no_other_site_frames_a_page_or_posts_to_one(
    browser: Browser, elsewhere: Elsewhere, ours: str, logins: Desk
) -> None:
    """Pictures, frames and scripts of a page somewhere reach nothing, and neither does its form."""
    address = f"{ours}/callback/books?code={CODE}"
    elsewhere.html = (
        f'<title>Evil</title><iframe src="{address}"></iframe><img src="{address}"><script src="{address}"></script>'
        f'<iframe name="into"></iframe><form method="post" target="into" action="{ours}/callback/posting">'
        f'<input name="code" value="x"></form><script>document.forms[0].submit(); fetch("{address}", '
        '{mode: "no-cors"}).catch(() => 0).then(() => { document.title = "Tried" })</script>'
    )
    tab = await browser.tab()
    await tab.go(elsewhere.site)
    await tab.until("document.title == 'Tried' && document.readyState == 'complete'")

    assert [asked for asked in tab.requests if asked["url"].startswith(ours)]
    assert logins.landed == []


async def test_a_page_says_so_where_nobody_takes_it(browser: Browser, ours: str, logins: Desk) -> None:
    """tokenproxy was stopped between the page and its post: the answer stays in the address bar, for a reload."""
    logins.in_fragment = True
    tab = await browser.tab()
    await tab.ask(
        "Fetch.enable", patterns=[{"urlPattern": "*", "requestStage": "Request", "resourceType": "Fetch"}]
    )
    await tab.go(f"{ours}/callback/books#code={CODE}")
    refused = await tab.event("Fetch.requestPaused")
    await tab.ask("Fetch.failRequest", requestId=refused["requestId"], errorReason="ConnectionRefused")
    await tab.until("document.title == 'tokenproxy did not answer - tokenproxy'")

    assert "reload this page" in await tab.text()
    assert CODE in await tab.address()
    assert CODE not in await tab.title() + await tab.text()
