"""
Pictures of the dashboard for a person to look at: ``python -m tests.screenshots FOLDER``.

Every page, in three states (all well, a login needed, the provider down), light and dark, on a desk and on a phone, from
the real program with simulated providers. ``--only accounts`` takes the pages of that name alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import struct
import tempfile
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, cast

import aiohttp

from tests.simulators import Api, free_port
from tests.simulators.browser import Browser, Chromium, Tab
from tests.simulators.device import DeviceProvider
from tokenproxy import app as apps
from tokenproxy import config as configs
from tokenproxy import log
from tokenproxy.admin.dashboard.history import MINUTES
from tokenproxy.errors import TokenproxyError

STATES: Final = ("well", "login", "down")
WIDTHS: Final = {"desk": 1180, "phone": 390}
ACCOUNTS: Final = {
    "books": ("ana@example.com", 42),
    "crm": ("", 90),
    "erp": ("office@example.com", 17),
    "mail": ("robot@example.com", 230),
    "roster": ("ben@example.com", 4),
    "warehouse": ("", 61),
}
"""Account -> who is logged in to it, and about how many requests a minute it has."""
PEOPLE: Final = ("crm/anna", "crm/ben", "crm/chidi")


class Firm(DeviceProvider):
    """One for people, by browser or by device."""

    name = "acme"


@dataclass
class Stage:
    """The running program, and what is around it."""

    app: apps.App
    firm: Firm
    admin: str
    token: str
    url: str

    async def request(self, path: str, method: str = "GET", **headers: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}{path}", headers=headers) as answer,
        ):
            await answer.read()


def config_of(folder: Path, firm: Firm, api: Api) -> Path:
    (folder / "secret").write_text(firm.client_secret)
    (folder / "secret").chmod(0o600)
    port = free_port()
    tables = [
        f"""\
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:{port}"
[log]
level = "error"
format = "json"
[providers.acme]
title = "Acme"
authorize_url = "{firm.url}/authorize"
token_url = "{firm.url}{firm.token_path}"
device_url = "{firm.url}{firm.device_path}"
client_auth = "post"
scopes = ["read", "write", "offline_access"]
answer.identity = "email"
"""
    ]
    for name in ACCOUNTS:
        account = "crm/{header:x-user}" if name == "crm" else name
        tables.append(
            f'[accounts.{name}]\nprovider = "acme"\nclient_id = "{firm.client_id}"\nclient_secret = "file:secret"\n'
            f'[routes.{name}]\nupstream = "{api.url}"\naccount = "{account}"\n'
            + ("trust_account_header = true\n" if name == "crm" else "")
        )
    path = folder / "config.toml"
    path.write_text("\n".join(tables))
    return path


def remember(stage: Stage, state: str) -> None:
    """An hour that was, by the same way on which the program remembers one."""
    dice = random.Random(7)
    history, metrics = stage.app.history, stage.app.metrics
    assert history is not None
    for minute in range(MINUTES):
        for name, (_, often) in ACCOUNTS.items():
            requests = metrics.route(name).requests
            swing = 1 + 0.5 * math.sin(minute / 9 + len(name)) + dice.uniform(-0.25, 0.25)
            count = int(often * max(0.05, swing))
            failing = {"login": ("erp",), "down": ("books", "erp")}.get(state, ())
            faults = int(count * 0.9) if name in failing and minute > 47 else int(dice.random() < 0.02)
            requests[2, "ok"] += count - faults
            requests[5, "proxy_error"] += faults
        history.minutes.sample()


async def renewals(stage: Stage) -> None:
    """Some hours of them, as they would have come by themselves; the clock goes on between."""
    app, dice = stage.app, random.Random(3)
    assert app.history is not None
    for turn in range(6):
        for name in (*[each for each in ACCOUNTS if each != "crm"], *PEOPLE):
            stage.firm.extra = {}
            stage.firm.delay = dice.uniform(0.08, 0.25)
            stage.firm.expires_in = dice.choice((3600, 3600, 5400))
            await app.accounts.refresh(name)
            app.clock._zero += timedelta(minutes=dice.randrange(1, 6))
        app.clock._zero += timedelta(minutes=20 if turn < 5 else 7)
        if turn == 3:
            await app.reload()
    for happening in app.history.timeline._routine:
        cast("dict[str, object]", happening.fields)["trigger"] = "due"
    stage.firm.delay = 0.0


async def live(stage: Stage, state: str) -> None:
    """Some requests, and what the state is about."""
    for name in ("books", "mail", "roster", "erp", "warehouse"):
        await stage.request(f"/{name}/v1/items?token=never-shown")
    for path in ("/mail/v1/messages/8841", "/books/v2/contacts", "/books/v2/invoices/2026-0117/lines"):
        await stage.request(path, method="POST" if "messages" in path else "GET")
    await stage.request("/status/404/v1")
    await stage.request("/nowhere")
    for name in PEOPLE:
        await stage.request("/crm/v3/leads", **{"X-User": name.partition("/")[2]})
    await stage.request("/crm/v3/leads", **{"X-User": "nobody"})
    firm, accounts = stage.firm, stage.app.accounts
    if state == "login":
        for grant in firm.grants[1:2]:
            firm.revoke_grant(grant)
        for name in ("erp",):
            with suppress(TokenproxyError):
                await accounts.refresh(name)
        await accounts.logout("warehouse")
    if state == "down":
        firm.outage, firm.retry_after = 503, 40
        for name in ("books", "erp", "mail"):
            with suppress(TokenproxyError):
                await accounts.refresh(name)
    for name in ("erp", "warehouse", "books"):
        await stage.request(f"/{name}/v1/orders")


@asynccontextmanager
async def staged(folder: Path, state: str) -> AsyncIterator[Stage]:
    async with Firm() as firm, Api(firm) as api:
        firm.token_size = 200
        config = configs.load(config_of(folder, firm, api), {})
        app = await apps.start(config, environ={})
        admin = f"http://{app.addresses['admin']}"
        token = (folder / "tokenproxy.db.admin-token").read_text().strip()
        stage = Stage(app, firm, admin, token, f"http://{app.addresses['proxy']}")
        try:
            for name, (identity, _) in ACCOUNTS.items():
                if name == "crm":
                    continue
                firm.extra = {"email": identity} if identity else {}
                await app.accounts.import_answer(name, json.dumps(firm.new_grant()).encode())
            for name in PEOPLE:
                firm.extra = {"email": f"{name.partition('/')[2]}@example.com"}
                await app.accounts.import_answer(name, json.dumps(firm.new_grant()).encode())
            remember(stage, state)
            await renewals(stage)
            await live(stage, state)
            yield stage
        finally:
            await app.close()


async def sign_in(stage: Stage, tab: Tab) -> None:
    await tab.go(f"{stage.admin}/sign-in")
    await tab.until("document.querySelector('#token')")
    await tab.value(f"document.querySelector('#token').value = {json.dumps(stage.token)}")
    await tab.value("document.querySelector('.main').click()")
    await tab.until("location.pathname === '/' && document.querySelector('#as-of')")


async def log_in(stage: Stage, tab: Tab, account: str, way: str) -> None:
    await tab.go(f"{stage.admin}/log-in?account={account}")
    await tab.until("document.querySelector('#account')")
    await tab.value(f"document.querySelector('[value={way}]').checked = true")
    await tab.value("document.querySelector('form.stack').submit()")
    await tab.until("location.pathname.startsWith('/logins/') && document.querySelector('.waiting')")


def pages(state: str) -> Mapping[str, str]:
    which = {"well": "books", "login": "erp", "down": "books"}[state]
    return {
        "accounts": "/",
        "account": f"/accounts/{which}",
        "requests": "/requests",
        "health": "/health",
        "log-in": "/log-in?account=crm/anna",
    }


async def picture(tab: Tab, path: Path, *, most: int = 2600) -> None:
    size = (await tab.ask("Page.getLayoutMetrics"))["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
    shot = await tab.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    path.write_bytes(packed(b64decode(shot["data"])))


def packed(png: bytes) -> bytes:
    """The same picture, pressed as hard as zlib can: a browser is in a hurry."""
    at, head, data = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"IHDR":
            head = png[at : at + 12 + length]
        if kind == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    body = zlib.compress(zlib.decompress(data), 9)
    chunks = [(b"IDAT", body), (b"IEND", b"")]
    tail = b"".join(
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
        for kind, text in chunks
    )
    return png[:8] + head + tail


async def take_for_readme(stage: Stage, browser: Browser, folder: Path) -> list[str]:
    """The two that the README shows."""
    complaints = []
    for name, address, dark in (("accounts", "/", False), ("account", "/accounts/erp", True)):
        tab = await browser.tab(dark=dark, width=1060, height=800)
        await tab.ask("Emulation.setScrollbarsHidden", hidden=True)
        await sign_in(stage, tab) if name == "accounts" else None
        await tab.go(f"{stage.admin}{address}")
        await tab.until("document.readyState === 'complete' && document.querySelector('#as-of time')")
        await picture(tab, folder / f"dashboard-{name}.png", most=800)
        complaints += tab.complaints
    return complaints


async def take(stage: Stage, browser: Browser, folder: Path, state: str, only: str) -> list[str]:
    complaints = []
    for width, pixels in WIDTHS.items():
        for dark in (False, True):
            tab = await browser.tab(dark=dark, width=pixels, height=800)
            await tab.ask("Emulation.setScrollbarsHidden", hidden=True)
            name = f"{state}-{width}-{'dark' if dark else 'light'}"
            await tab.go(f"{stage.admin}/sign-in")
            await tab.until("document.querySelector('#token, #as-of')")
            if await tab.value("!!document.querySelector('#token')"):
                if only in {"", "sign-in"}:
                    await picture(tab, folder / f"sign-in-{name}.png")
                await sign_in(stage, tab)
            for page, address in pages(state).items():
                if only in {"", page}:
                    await tab.go(f"{stage.admin}{address}")
                    await tab.until(
                        "document.readyState === 'complete' && document.querySelector('#as-of time')"
                    )
                    if page == "health":
                        await tab.value(
                            "window.before = true; document.querySelector('[value=examine-here]').click()"
                        )
                        await tab.until(
                            "!window.before && document.querySelector('.checks') && document.readyState === 'complete'"
                        )
                    await picture(tab, folder / f"{page}-{name}.png")
            for way in ("browser", "device"):
                if only in {"", way} and not (state == "down" and way == "device"):
                    await log_in(stage, tab, "crm/anna", way)
                    await picture(tab, folder / f"{way}-{name}.png")
            complaints += [f"{name}: {each}" for each in tab.complaints]
    return complaints


async def main(folder: Path, states: tuple[str, ...], only: str, *, readme: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log.setup("error")
    chromium = Chromium()
    try:
        for state in states:
            with tempfile.TemporaryDirectory(prefix="tp-") as home:
                async with staged(Path(home), state) as stage, chromium.browsing() as browser:
                    taken = (
                        take_for_readme(stage, browser, folder)
                        if readme
                        else take(stage, browser, folder, state, only)
                    )
                    for complaint in await taken:
                        print(complaint)
    finally:
        chromium.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--state", choices=STATES, action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--readme", action="store_true", help="the two pictures of docs/images")
    given = parser.parse_args()
    chosen = ("login",) if given.readme else tuple(given.state or STATES)
    asyncio.run(main(given.folder, chosen, given.only, readme=given.readme))
