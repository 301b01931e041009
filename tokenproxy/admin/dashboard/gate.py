"""
Who may see and do something on the dashboard.

A page needs a session, a form its session's key as well. Host, Origin and Sec-Fetch-Site were looked at before
(``admin.guard``): with a cookie that is SameSite=Strict that is three fences, each of which would do. The form of a sign-in has
no key: who could send it from elsewhere would have to know the admin token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from tokenproxy.admin.answers import body_of
from tokenproxy.admin.dashboard.sessions import LIFE, Session, Sessions, Tries
from tokenproxy.admin.guard import host_name
from tokenproxy.core.templates import is_loopback

FORM: Final = "application/x-www-form-urlencoded"
LONGEST_FORM: Final = 20 * 1024
"""Bytes; a landing address that is pasted may have 16 KiB."""
PLAIN: Final = "tokenproxy-admin"
SECURE: Final = f"__Host-{PLAIN}"
"""Browsers take it from https alone, and from no neighbour below the same domain (RFC 6265bis section 4.1.3.2)."""

_OUR_PAGES: Final = re.compile(
    r"(?:/|/(?:accounts|logins)/[A-Za-z0-9._@%/-]{1,300}|/(?:requests|health|log-in))"
    r"(?:\?[A-Za-z0-9._@%/+=&~-]{0,300})?"
)


@dataclass(frozen=True, slots=True)
class Gate:
    sessions: Sessions
    tries: Tries
    public_url: str
    insecure_http: bool
    """The operator's word that a sign-in may cross a network without TLS."""

    def session(self, request: web.Request) -> Session | None:
        for name in (SECURE, PLAIN):
            found = self.sessions.find(request.cookies.get(name))
            if found is not None:
                return found
        return None

    def admit(self, request: web.Request, answer: web.Response, session: Session) -> None:
        """Give the browser its cookie."""
        secure = self._by_tls(request)
        answer.set_cookie(
            SECURE if secure else PLAIN,
            session.id,
            max_age=int(LIFE),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=secure,
        )

    def dismiss(self, answer: web.Response) -> None:
        for name, secure in ((SECURE, True), (PLAIN, False)):
            answer.del_cookie(name, path="/", httponly=True, samesite="Strict", secure=secure)

    def may_sign_in(self, request: web.Request) -> bool:
        """Whether nobody can listen: this machine, or TLS before us, or the operator's word that it is all right."""
        return self.insecure_http or self._by_tls(request) or is_loopback(host_name(request.host))

    def _by_tls(self, request: web.Request) -> bool:
        """By our own, or by a front's, which is reached under ``public_url`` or says so by Origin."""
        if request.secure:
            return True
        public = urlsplit(self.public_url)
        if public.scheme != "https":
            return False
        ours = f"https://{public.netloc}".lower()
        return (
            request.headers.get("Origin", "").lower() == ours or request.host.lower() == public.netloc.lower()
        )


def peer_of(request: web.Request) -> str:
    """Whose tries are counted together: an address, of IPv6 the /64 network, which is what one person has."""
    said = request.remote or ""
    try:
        address = ip_address(said)
    except ValueError:
        return said
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), 64), strict=False))


async def form_of(request: web.Request) -> Mapping[str, str]:
    """The fields of a form, the last of each name. Raises ``web.HTTPException``."""
    if request.content_type != FORM:
        raise web.HTTPUnsupportedMediaType
    body = await body_of(request, longest=LONGEST_FORM)
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=32))
    except ValueError:
        raise web.HTTPBadRequest from None


def our_page(path: str) -> str:
    """Where a sign-in or a link from elsewhere goes on to: one of our pages, perhaps with a query, else the first."""
    return path if _OUR_PAGES.fullmatch(path) and "//" not in path.partition("?")[0] else "/"


def from_elsewhere(request: web.Request) -> bool:
    """
    Whether somebody followed a link of another site to here, in a whole window.

    The browser then keeps a strict cookie to itself, and a page of ours sends it on, which is a request of our own.
    """
    return (
        request.method == "GET"
        and request.headers.getall("Sec-Fetch-Site", ()) in (["cross-site"], ["same-site"])
        and request.headers.getall("Sec-Fetch-Mode", ()) == ["navigate"]
        and request.headers.getall("Sec-Fetch-Dest", ()) == ["document"]
    )
