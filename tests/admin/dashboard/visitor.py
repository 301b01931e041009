"""A person with a browser that runs no scripts: it keeps cookies, fills forms in and follows where they lead."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import aiohttp
from yarl import URL

from tests.admin.program import TOKEN
from tokenproxy.admin.server import Running

FORM = "application/x-www-form-urlencoded"


class Seen(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        """Attributes that a content security policy would have to forbid."""
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if (
                name.startswith("on")
                or name == "style"
                or (value or "").strip().lower().startswith("javascript:")
            ):
                self.inline.append(f"{tag} {name}")
            if name == "src" or (tag == "link" and name == "href"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@dataclass
class Page:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def seen(self) -> Seen:
        return Seen(self.text)

    @property
    def form_key(self) -> str:
        found = re.search(r'name="form_key" value="([^"]*)"', self.text)
        assert found is not None, self.text
        return html.unescape(found[1])


@dataclass
class Visitor:
    running: Running
    cookies: dict[str, str] = field(default_factory=dict)
    set_cookies: list[str] = field(default_factory=list)
    origin: str = ""

    async def ask(self, method: str, target: str, data: Any = None, **headers: str) -> Page:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            named["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.origin:
            named["Origin"] = self.origin
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                method,
                URL(f"http://{self.running.address}{target}", encoded=True),
                data=data,
                headers=named,
                allow_redirects=False,
            ) as answer,
        ):
            for line in answer.headers.getall("Set-Cookie", ()):
                self.set_cookies.append(line)
                name, _, value = line.partition(";")[0].partition("=")
                if value.strip('"'):
                    self.cookies[name] = value
                else:
                    self.cookies.pop(name, None)
            return Page(answer.status, answer.headers, await answer.text())

    async def open(self, target: str, **headers: str) -> Page:
        return await self.ask("GET", target, **headers)

    async def send(self, target: str, *, key: str | None = None, **fields: str) -> Page:
        """A form of the page at ``/log-in``, whose session's key it has, unless ``key`` says another."""
        given = (await self.open("/log-in")).form_key if key is None else key
        return await self.ask("POST", target, {"form_key": given, **fields})

    async def sign_in(self, token: str = TOKEN, **fields: str) -> Page:
        return await self.ask("POST", "/sign-in", {"token": token, **fields})
