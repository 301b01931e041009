"""
Logins over HTTP: the calls by which a program begins one and waits for it, and the pages that a browser lands on.

The pages are the one place of the admin side where a browser may come from another site; what it brings is worth no
more than its ``state``, and is never shown again.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from tokenproxy import audit
from tokenproxy.admin import landing as pages
from tokenproxy.admin.answers import JSON, Unusable, body_of, json_answer, members_of, typed
from tokenproxy.admin.landing import LONGEST_ADDRESS
from tokenproxy.admin.problems import answer_to
from tokenproxy.core.interfaces import Landing, Logins
from tokenproxy.errors import TokenproxyError

LONGEST_BODY: Final = 4 * LONGEST_ADDRESS
"""Bytes of a call; JSON may spell one letter of an address in several."""
LONGEST_WAIT: Final = 60.0
"""Seconds of one long poll."""
MOST_WAITING: Final = 128
"""Long polls at once; more are answered at once, so that a listener has connections left for probes."""
LOOK: Final = 1.0
"""Seconds after which a long poll sees that its client has left."""

FORM: Final = "application/x-www-form-urlencoded"
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_COOKIE_SECONDS: Final = 3600
_HELD: Final = 256
"""Posted answers between the post and the page; more push out the oldest."""
_GIVEN: Final = 4096
"""Cookies that are known as ours; more than there can be logins."""


# -- for programs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginCalls:
    """``/api/logins``."""

    logins: Logins
    _waiting: set[asyncio.Task[Any] | None] = field(default_factory=set, repr=False)
    """Long polls under way."""

    def routes(self) -> list[web.RouteDef]:
        """All of them need the admin token over TCP, reading included: a login's id is worth something."""
        return [
            web.post("/api/logins", typed(self.begin)),
            web.get("/api/logins/{login}", self.status, allow_head=False),
            web.delete("/api/logins/{login}", typed(self.cancel)),
            web.post("/api/logins/{login}/confirm", typed(self.confirm)),
            web.post("/api/logins/{login}/paste", typed(self.paste)),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        asked = await members_of(
            request,
            longest=LONGEST_BODY,
            account=str,
            return_to=(str, None),
            device=bool,
            key=(str, None),
            replace=bool,
        )
        if not asked.get("account"):
            raise Unusable('say whom to log in: {"account": "NAME"}')
        begun = await self.logins.begin(
            asked["account"],
            device=asked.get("device", False),
            key=asked.get("key"),
            return_to=asked.get("return_to"),
            replace=asked.get("replace", False),
        )
        answer = json_answer(begun, status=201)
        answer.headers["Location"] = f"/api/logins/{quote(begun['id'], safe='')}"
        return answer

    async def status(self, request: web.Request) -> web.Response:
        login, left = request.match_info["login"], _wait(request)
        if len(self._waiting) >= MOST_WAITING:
            left = 0.0
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            found = await self.logins.status(login)
            while left > 0 and _goes_on(found) and not _has_left(request):
                found = await self.logins.status(login, wait=min(left, LOOK))
                left -= LOOK
        finally:
            self._waiting.discard(task)
        return json_answer(found)

    async def confirm(self, request: web.Request) -> web.Response:
        return json_answer(await self.logins.confirm(request.match_info["login"]))

    async def cancel(self, request: web.Request) -> web.Response:
        return json_answer(await self.logins.cancel(request.match_info["login"]))

    async def paste(self, request: web.Request) -> web.Response:
        asked = await members_of(request, longest=LONGEST_BODY, address=str)
        address = asked.get("address", "")
        if not 0 < len(address) <= LONGEST_ADDRESS:
            raise Unusable(f"a landing address has 1 to {LONGEST_ADDRESS} characters")
        return json_answer(await self.logins.paste(request.match_info["login"], address))


def _wait(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    if not re.fullmatch(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text, re.ASCII):
        raise Unusable("wait must be a number of seconds")
    return min(float(text), LONGEST_WAIT)


def _goes_on(found: Mapping[str, Any]) -> bool:
    """Whether nobody needs to hear of it yet."""
    return found["state"] == "pending" and not found["question"]


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


# -- for browsers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginPages:
    """``/login/ID``, where a browser begins, and ``/callback...``, where it comes back to."""

    logins: Logins
    public_url: str
    """Without a slash at its end."""
    posts: Callable[[str], bool]
    """Whether the provider of the config's table of this name posts its answers ("": of any that shares ``/callback``)."""
    _held: OrderedDict[str, str] = field(default_factory=OrderedDict, repr=False)
    """Landing addresses that were posted, by the key of the page that will read them."""
    _given: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    """Cookies that we gave; one that another program planted in the browser binds nothing (session fixation)."""

    def routes(self) -> list[web.RouteDef]:
        """No HEAD: whoever only looks at a link must not use up its code."""
        paths = ("/callback", "/callback/{account}", "/callback/{account}/{key}")
        return [
            web.get("/login/{login}", self.open, allow_head=False),
            *(web.get(path, self.land, allow_head=False) for path in paths),
            *(web.post(path, self.post) for path in paths),
        ]

    def lets_in(self, request: web.Request) -> bool:
        """
        Whether a request may come from a page of another site.

        A link or a redirect in a whole window may, and a form of a provider that posts its answers (form_post).
        """
        if not _is_page(request.path):
            return False
        if request.method == "GET":
            return (
                request.headers.getall("Sec-Fetch-Mode", ()) == ["navigate"]
                and request.headers.get("Sec-Fetch-Dest", "document") == "document"
            )
        account = request.path.removeprefix("/callback").strip("/").partition("/")[0]
        return request.method == "POST" and request.content_type == FORM and self.posts(account)

    async def open(self, request: web.Request) -> web.StreamResponse:
        if audit.unavailable():
            return self._page(request, _UNSEEN)
        browser = self._browser(request)
        if browser is None or browser not in self._given:
            browser = secrets.token_urlsafe(32)
        try:
            address = await self.logins.open(request.match_info["login"], browser=browser)
        except TokenproxyError as error:
            detail = _sentence(error.message) + (f" Next: {error.next_step}" if error.next_step else "")
            sorry = Landing("failed", "This login cannot go on", detail, answer_to(error).status)
            return self._page(request, sorry)
        self._given[browser] = None
        if len(self._given) > _GIVEN:
            self._given.popitem(last=False)
        answer = web.Response(status=303, headers={"Location": address})
        answer.set_cookie(
            self._cookie,
            browser,
            max_age=_COOKIE_SECONDS,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=self.public_url.startswith("https:"),
        )
        return answer

    async def land(self, request: web.Request) -> web.StreamResponse:
        key = request.raw_path.partition("?landing=")[2]
        address = self._held.pop(key, None) or self._address(request)
        found = await self._landed(request, address)
        if found.code == "fragment":
            html = pages.hand_over(clean=_clean(request))
            return _html(html, status=200, policy=pages.HAND_OVER_POLICY)
        return self._page(request, found)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """A form of the provider's, or our own page that hands a fragment over."""
        if request.content_type == JSON:
            return await self._handed_over(request)
        try:
            return await self._posted(request)
        except web.HTTPException as error:
            title = _CANNOT.get(error.status, _CANNOT[400])
            return self._page(request, Landing("failed", title, _AGAIN, error.status))

    async def _posted(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != FORM or not self.posts(request.match_info.get("account", "")):
            raise web.HTTPUnsupportedMediaType
        form = await body_of(request, longest=LONGEST_ADDRESS)
        if not form.isascii():
            raise web.HTTPBadRequest
        key = secrets.token_urlsafe(32)
        path, _, query = request.raw_path.partition("?")
        both = "&".join(part for part in (query, form.decode("ascii").strip()) if part)
        self._held[key] = f"{self.public_url}{path}?{both}"
        if len(self._held) > _HELD:
            self._held.popitem(last=False)
        # As a GET of ours the request carries the Lax cookie again, and a reload of the page posts nothing twice.
        return web.Response(status=303, headers={"Location": f"{path.rpartition('/')[2]}?landing={key}"})

    async def _handed_over(self, request: web.Request) -> web.StreamResponse:
        """Our own page's: the answer is what it will show."""
        try:
            asked = await members_of(request, longest=LONGEST_BODY, address=str)
        except web.HTTPException as error:
            title = _CANNOT.get(error.status, _CANNOT[400])
            return _told(Landing("failed", title, _AGAIN, error.status))
        address = asked.get("address", "")
        if len(address) > LONGEST_ADDRESS:
            return _told(Landing("failed", _CANNOT[413], _AGAIN, 413))
        # Only what follows the path is taken from the page: a tunnel may show us to it under another name.
        path = request.raw_path.partition("?")[0]
        return _told(await self._landed(request, f"{self.public_url}{path}{_tail(address)}"))

    async def _landed(self, request: web.Request, address: str) -> Landing:
        if (
            audit.unavailable()
        ):  # before anything is taken or exchanged: nobody could tell afterwards who logged in
            return _UNSEEN
        info = request.match_info
        return await self.logins.land(
            address,
            account=info.get("account", ""),
            key=info.get("key", ""),
            browser=self._browser(request),
        )

    def _address(self, request: web.Request) -> str:
        return f"{self.public_url}{request.raw_path}"

    @property
    def _cookie(self) -> str:
        """The prefix keeps neighbours below the same domain from setting it (RFC 6265bis section 4.1.3.2)."""
        return "__Host-tokenproxy" if self.public_url.startswith("https:") else "tokenproxy"

    def _browser(self, request: web.Request) -> str | None:
        found = request.cookies.get(self._cookie, "")
        return found if _COOKIE.fullmatch(found) else None

    def _page(self, request: web.Request, found: Landing) -> web.Response:
        if found.return_to:
            return web.Response(status=303, headers={"Location": found.return_to})
        html = pages.result(found.code, found.title, found.detail, clean=_clean(request))
        return _html(html, status=found.status, policy=pages.RESULT_POLICY)


_AGAIN: Final = "Nothing was taken. Begin the login again where you began it; you can close this window."
_CANNOT: Final = {
    400: "This is no answer of a provider",
    408: "The answer took too long to come",
    413: "This answer is too long",
    415: "This address takes no such answer",
}
"""Titles of pages for what comes in a body."""
_UNSEEN: Final = Landing(
    "audit_unavailable",
    "Nobody is logged in while the audit log fails",
    "Nothing was taken; tokenproxy's log says what is wrong. Open the login's address again when that is mended.",
    503,
)


def _is_page(path: str) -> bool:
    return path == "/callback" or path.startswith(("/callback/", "/login/"))


def _clean(request: web.Request) -> str:
    """The page's address without query and key, relative to it, so that a prefix of a proxy before us stays."""
    account = request.match_info.get("account")
    if account is None:
        return request.path.rpartition("/")[2]
    name = quote(account, safe="")
    return f"../{name}" if "key" in request.match_info else name


def _tail(address: str) -> str:
    """
    What follows the path of an address.

    It ends in a ``#`` where nothing was after one: the page has looked, and is not to be asked again.
    """
    found = re.search(r"[?#]", address)
    tail = address[found.start() :] if found else ""
    return tail if "#" in tail else f"{tail}#"


def _told(found: Landing) -> web.Response:
    return json_answer(asdict(found), status=found.status)


def _html(html: str, *, status: int, policy: str) -> web.Response:
    headers = {"Content-Security-Policy": policy}
    return web.Response(text=html, content_type="text/html", status=status, headers=headers)


def _sentence(text: str) -> str:
    """As a page says it, which begins with it."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "!", "?")) else ".")
