"""A person before the dashboard, in a real browser: signs in, sees what happens as it happens, renews, logs in and out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.simulators import Api, PlainProvider, free_port, write_config
from tests.simulators.browser import PATIENCE, Browser, BrowserError, Chromium, Tab, needs_chromium
from tests.simulators.device import DeviceProvider
from tests.stories.serving import Serve, calling, imported, serving, status_of

pytestmark = needs_chromium
JSON_LOG = '[log]\nformat = "json"\nlevel = "debug"\n'
NASTY = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    chromium = Chromium()
    yield chromium
    chromium.close()


@dataclass
class Person:
    serve: Serve
    provider: Any
    browser: Browser
    tab: Tab
    token: str

    async def click(self, selector: str, *, tab: Tab | None = None) -> None:
        await (tab or self.tab).value(f"document.querySelector({json.dumps(selector)}).click()")

    async def go(self, path: str) -> None:
        await self.tab.go(f"{self.serve.admin}{path}")
        await self.tab.until(
            f"location.pathname + location.search === {json.dumps(path)} && document.readyState === 'complete'"
            " && document.querySelector('#as-of')"
        )

    async def until(self, condition: str) -> None:
        """As ``Tab.until``, on a page whose scripts are off: nothing on it waits."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(BrowserError, AssertionError):  # another page comes meanwhile
                    if await self.tab.value(condition):
                        return

    async def until_said(self, text: str) -> None:
        await self.tab.until(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    async def sign_in(self) -> None:
        await self.tab.go(f"{self.serve.admin}/")
        await self.tab.until("location.pathname === '/sign-in' && document.querySelector('#token')")
        await self.tab.value(f"document.querySelector('#token').value = {json.dumps(self.token)}")
        await self.click("button.main")
        await self.tab.until("location.pathname === '/' && document.querySelector('#as-of')")


@asynccontextmanager
async def before_the_dashboard(
    tmp_path: Path, chromium: Chromium, provider: Any, *, extra: str = "", **more: Any
) -> AsyncIterator[Person]:
    async with provider, Api(provider) as api:
        admin_listen = f"127.0.0.1:{free_port()}"
        config = write_config(
            tmp_path, provider, api, admin_listen=admin_listen, extra=JSON_LOG + extra, **more
        )
        if isinstance(provider, DeviceProvider):
            text = config.read_text().replace(
                "token_url =", f'device_url = "{provider.url}{provider.device_path}"\ntoken_url ='
            )
            config.write_text(text)
        async with serving(config) as serve, chromium.browsing() as browser:
            token = config.with_name("tokenproxy.db.admin-token").read_text().strip()
            person = Person(serve, provider, browser, await browser.tab(width=1100, height=800), token)
            yield person
            assert await serve.stop() == 0
        assert not provider.leaks(serve.written)
        assert token not in serve.written


async def test_a_day_at_the_dashboard(tmp_path: Path, chromium: Chromium) -> None:
    """Signed in once; a renewal elsewhere shows by itself, the buttons do what they say, and the browser has no complaint."""
    async with (
        before_the_dashboard(tmp_path, chromium, PlainProvider()) as person,
        calling() as caller,
    ):
        serve, provider, tab = person.serve, person.provider, person.tab
        await imported(serve.config, "books", provider.new_grant())
        await person.sign_in()
        await person.until_said("ok")
        await tab.until("document.querySelector('#live').textContent === 'live'")
        assert not provider.leaks(await tab.text())

        # what happens elsewhere shows without a hand on this page
        await person.go("/requests")
        await tab.until("document.querySelector('#live').textContent === 'live'")
        async with caller.get(f"{serve.url}/books/things?secret=never-shown") as answer:
            assert answer.status == 200
        await person.until_said("GET /books/things")
        assert "never-shown" not in str(await tab.value("document.documentElement.outerHTML"))

        await person.go("/accounts/books")
        await tab.until("document.querySelector('#live').textContent === 'live'")
        await tab.value("document.querySelector('#log-out').open = true; window.same = true")
        provider.revoke_all_access()
        async with caller.get(f"{serve.url}/books/things") as answer:
            assert answer.status == 200
        await person.until_said("after an upstream refused the token")
        assert await tab.value("document.querySelector('#log-out').open && window.same"), (
            "what was unfolded stays so, and the page was not loaded anew"
        )

        await person.click("button[value=renew]")
        await person.until_said("Renewed: generation 3")
        await person.until_said("because somebody asked for it")

        await person.click("#log-out summary")
        await person.click("button[value=log-out]")
        await person.until_said("Logged out: the tokens are dropped")
        assert (await status_of(serve.config, "books"))["state"] == "new"
        page = str(await tab.value("document.documentElement.outerHTML"))
        assert not provider.leaks(page)
        assert person.token not in page

        await person.click("form[action='/sign-out'] button")
        await tab.until("location.pathname === '/sign-in'")
        await tab.go(f"{serve.admin}/accounts/books")
        await tab.until("location.pathname === '/sign-in' && document.readyState === 'complete'")
        assert tab.complaints == []
        assert all(
            asked["url"].startswith(serve.admin) for asked in tab.requests if asked["url"] != "about:blank"
        )
        assert not [asked for asked in tab.requests if person.token in asked["url"]]


async def test_somebody_logs_in_by_another_tab(tmp_path: Path, chromium: Chromium) -> None:
    """The provider's page opens in another tab, and the first one shows how it ended."""
    async with before_the_dashboard(tmp_path, chromium, PlainProvider()) as person:
        tab = person.tab
        await person.sign_in()
        await person.click("#rows .do a")
        await tab.until("location.pathname === '/log-in' && document.querySelector('#account')")
        await person.click("form.stack button")
        await tab.until("location.pathname.startsWith('/logins/') && document.querySelector('#login a.main')")
        await tab.until("document.querySelector('#live').textContent === 'live'")
        start = str(await tab.value("document.querySelector('#login a.main').href"))
        other = await person.browser.tab()
        await other.go(start)
        await other.until("document.title === 'Logged in - tokenproxy'")
        await tab.ask("Page.bringToFront")

        await person.until_said("Logged in.")
        await person.click("#login a.main")
        await tab.until("location.pathname === '/accounts/books'")
        await person.until_said("Login succeeded")
        assert (await status_of(person.serve.config, "books"))["state"] == "ok"
        assert tab.complaints == []
        assert not person.provider.leaks(str(await tab.value("document.documentElement.outerHTML")))


async def test_somebody_logs_in_by_a_device(tmp_path: Path, chromium: Chromium) -> None:
    """The code, the address and a QR code; the page shows the end by itself."""
    provider = DeviceProvider()
    provider.interval = 1
    async with before_the_dashboard(tmp_path, chromium, provider) as person:
        tab = person.tab
        await person.sign_in()
        await person.go("/log-in?account=books")
        await tab.value("document.querySelector('[value=device]').checked = true")
        await person.click("form.stack button")
        await tab.until("document.querySelector('.code')")
        code = next(iter(provider.codes.values())).user_code
        assert await tab.value("document.querySelector('.code').textContent") == code
        assert await tab.value("!!document.querySelector('.qr-box svg path')")
        provider.say("yes")

        await person.until_said("Logged in")
        assert (await status_of(person.serve.config, "books"))["state"] == "ok"
        assert tab.complaints == []


async def test_what_a_hostile_provider_says_stays_text(tmp_path: Path, chromium: Chromium) -> None:
    """An identity in a token, an error description and a scope: shown as they are, and executed nowhere."""
    provider = PlainProvider()
    async with before_the_dashboard(
        tmp_path, chromium, provider, provider_extra='answer.identity = "who"'
    ) as person:
        tab, serve = person.tab, person.serve
        provider.extra = {"who": NASTY, "scope": NASTY}
        await imported(serve.config, "books", provider.new_grant())
        provider.error = {"error": "temporarily_unavailable", "error_description": NASTY}
        await person.sign_in()
        await person.go("/accounts/books")
        await person.click("button[value=renew]")
        await tab.until("document.querySelector('.notice.bad')")
        await person.until_said("<img src=x")
        await person.go("/")
        await person.until_said("<img src=x")
        assert await tab.value("document.images.length") == 0
        assert "hacked" not in await tab.title()
        assert tab.complaints == []


async def test_everything_works_without_scripts(tmp_path: Path, chromium: Chromium) -> None:
    """Signing in, renewing, logging out; and a page says that a reload brings news."""
    async with before_the_dashboard(tmp_path, chromium, PlainProvider()) as person:
        tab = person.tab
        await imported(person.serve.config, "books", person.provider.new_grant())
        await tab.ask("Emulation.setScriptExecutionDisabled", value=True)
        await tab.go(f"{person.serve.admin}/sign-in?next=/accounts/books")
        await person.until("!!document.querySelector('#token')")
        await tab.value(f"document.querySelector('#token').value = {json.dumps(person.token)}")
        await person.click("button.main")
        await person.until("document.body.innerText.includes('reload for news')")
        await person.click("button[value=renew]")
        await person.until("document.body.innerText.includes('Renewed: generation 2')")
        await person.click("#log-out summary")
        await person.click("button[value=log-out]")
        await person.until("document.body.innerText.includes('Logged out: the tokens')")
        assert tab.complaints == []


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    tmp_path: Path, chromium: Chromium
) -> None:
    """Tab by tab, each stop with an outline that is seen; the first leads past the navigation."""
    async with before_the_dashboard(tmp_path, chromium, PlainProvider()) as person:
        tab = person.tab
        await imported(person.serve.config, "books", person.provider.new_grant())
        await person.sign_in()
        await person.go("/accounts/books")
        stops = []
        for _ in range(12):
            for kind in ("keyDown", "keyUp"):
                await tab.ask(
                    "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
                )
            stops.append(
                await tab.value(
                    "(() => { const at = document.activeElement, style = getComputedStyle(at);"
                    " return [at.textContent.trim(), style.outlineStyle, parseFloat(style.outlineWidth)]; })()"
                )
            )
        words = [each[0] for each in stops]
        assert words[0] == "To the content"
        for wanted in (
            "tokenproxy",
            "Accounts",
            "Requests",
            "Health",
            "ready",
            "Sign out",
            "Renew now",
            "Log out",
        ):
            assert wanted in words, words
        assert all(style == "solid" and width >= 2 for _, style, width in stops), stops


@pytest.mark.parametrize("dark", [False, True])
async def test_a_phone_shows_all_of_it(tmp_path: Path, chromium: Chromium, dark: bool) -> None:
    """Nothing is wider than the screen, in either scheme."""
    async with before_the_dashboard(tmp_path, chromium, PlainProvider()) as person:
        await imported(person.serve.config, "books", person.provider.new_grant())
        person.tab = await person.browser.tab(dark=dark, width=360, height=700)
        await person.sign_in()
        for path in ("/", "/accounts/books", "/requests", "/health", "/log-in?account=books"):
            await person.go(path)
            width = await person.tab.value("document.documentElement.scrollWidth")
            assert width <= 360, path
        await person.go("/health")
        await person.click("[value=examine-here]")
        await person.until_said("asking nobody else")
        assert await person.tab.value("document.documentElement.scrollWidth") <= 360
        paper = await person.tab.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(15, 19, 25)") is dark


async def test_what_nobody_opens_is_not_loaded(tmp_path: Path) -> None:
    """Neither jinja2 nor what it brings is in the memory of a ``serve`` until somebody opens a page; and then signs in."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            maps = Path(f"/proc/{serve.process.pid}/maps")
            async with caller.get(f"{serve.admin}/", allow_redirects=False) as answer:
                assert answer.status == 303
            assert "markupsafe" not in maps.read_text()
            async with caller.get(f"{serve.admin}/sign-in") as answer:
                assert answer.status == 200
            assert "markupsafe" in maps.read_text()
            assert await serve.stop() == 0


async def test_without_it_there_is_nothing(tmp_path: Path) -> None:
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        config.write_text(config.read_text().replace("[admin]", "[admin]\ndashboard = false"))
        async with serving(config) as serve, calling() as caller:
            for path in ("/", "/sign-in", "/requests", "/assets/page.css"):
                async with caller.get(f"{serve.admin}{path}") as answer:
                    assert answer.status == 404
            assert await serve.stop() == 0


async def test_no_page_shows_a_secret(tmp_path: Path) -> None:
    """Whatever has gone wrong before: a lost answer, an outage, a provider that quotes what it was sent."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            grant = provider.new_grant()
            await imported(config, "books", grant)
            token = config.with_name("tokenproxy.db.admin-token").read_text().strip()
            async with caller.post(
                f"{serve.admin}/sign-in", data={"token": token}, allow_redirects=False
            ) as answer:
                cookie = answer.cookies["tokenproxy-admin"].value
            signed_in = {"Cookie": f"tokenproxy-admin={cookie}"}
            shown = []
            for disturb in ("nothing", "quoted", "lost", "outage"):
                provider.revoke_all_access()
                latest = provider.latest()
                provider.error = (
                    {"error": "server_error", "error_description": f"got {latest['refresh_token']}"}
                    if disturb == "quoted"
                    else None
                )
                provider.lose_answers = 2 if disturb == "lost" else 0
                provider.outage = 500 if disturb == "outage" else None
                async with caller.get(
                    f"{serve.url}/books/x?token=callers-own-secret",
                    headers={"Authorization": "callers-own-secret"},
                ) as answer:
                    await answer.read()
                for page in (
                    "/",
                    "/accounts/books",
                    "/requests",
                    "/health",
                    "/log-in?account=books",
                    "/?q=books",
                ):
                    async with caller.get(f"{serve.admin}{page}", headers=signed_in) as answer:
                        assert answer.status == 200
                        shown += [await answer.text(), str(answer.headers)]
            assert await serve.stop() == 0
        everything = "\n".join(shown)
        assert "Renewal failed" in everything
        assert provider.leaks(everything) == []
        for secret in (token, cookie, "callers-own-secret"):
            assert secret not in everything + serve.written


async def test_the_audit_log_says_what_was_done_at_the_dashboard(tmp_path: Path) -> None:
    """Who came in, what they asked for, and that it was them: also where the work is done by another task."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG + '[audit]\nfile = "audit.log"\n')
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            token = config.with_name("tokenproxy.db.admin-token").read_text().strip()
            for shown in ("guessed-by-somebody", token):
                async with caller.post(
                    f"{serve.admin}/sign-in", data={"token": shown}, allow_redirects=False
                ) as answer:
                    cookies = answer.cookies
            signed_in = {"Cookie": f"tokenproxy-admin={cookies['tokenproxy-admin'].value}"}
            async with caller.get(f"{serve.admin}/accounts/books", headers=signed_in) as answer:
                form_key = (await answer.text()).partition('name="form_key" value="')[2].partition('"')[0]
            for target, what in (
                ("/accounts/books", "renew"),
                ("/accounts/books", "log-out"),
                ("/sign-out", ""),
            ):
                async with caller.post(
                    f"{serve.admin}{target}",
                    data={"form_key": form_key, "do": what},
                    headers=signed_in,
                    allow_redirects=False,
                ) as answer:
                    assert answer.status == 303
            assert await serve.stop() == 0
        lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
        told = [(line["event"], line["actor"]) for line in lines if line["event"] != "admin_call"]
        assert told[told.index(("sign_in_refused", "nobody")) :][:5] == [
            ("sign_in_refused", "nobody"),
            ("signed_in", "dashboard"),
            ("token_renewed", "dashboard"),
            ("account_forgotten", "dashboard"),
            ("signed_out", "dashboard"),
        ]
        assert token not in (tmp_path / "audit.log").read_text()


async def test_doctor_looks_from_a_page(tmp_path: Path, chromium: Chromium) -> None:
    """A click, and each finding with its remedy; what needs the network is left out where it is to ask nobody."""
    async with before_the_dashboard(tmp_path, chromium, PlainProvider()) as person:
        await person.sign_in()
        await person.go("/health")
        await person.click("button[value=examine-here]")
        await person.until_said("asking nobody else")
        said = await person.tab.text()
        assert "nobody has logged in to account books yet" in said.lower()
        assert "provider 127.0.0.1" not in said
        await person.click("button[value=examine]")
        await person.until_said("Look again")
        await person.tab.until("!document.body.innerText.includes('asking nobody else')")
        assert "provider 127.0.0.1" in await person.tab.text()
        assert person.tab.complaints == []
