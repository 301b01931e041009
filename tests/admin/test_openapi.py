"""The API's description: it has what the listeners have, and every door that it names is shut to whom it should be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.admin.program import TOKEN, Program
from tests.admin.program import Desk as LoginDesk
from tokenproxy import __version__
from tokenproxy.admin import openapi
from tokenproxy.admin.api import Desk, metrics_app, socket_app, tcp_app
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.problems import ANSWERS
from tokenproxy.admin.server import Running

FILLED = {"account": "books", "login": "l1", "path": "a/b", "key": "k"}
DESCRIBED = re.compile(r"/(?:api/|callback|login/|healthz|readyz|startupz|metrics)")
"""The rest are pages for people, which programs have no business with."""
METHODS = ("get", "put", "post", "delete")


def calls(*, socket: bool = False) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in openapi.document(socket=socket)["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def routes_of(app: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD" and DESCRIBED.match(route.resource.canonical)
    }


def filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: FILLED[found[1]], path)


async def ask(running: Running, method: str, path: str, **more: Any) -> tuple[int, Any, str]:
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.request(
            method, URL(f"http://{running.address}{path}", encoded=True), allow_redirects=False, **more
        ) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


CALLS = [(method, filled(path)) for method, path, _ in calls()]
PROBES = {"/healthz", "/readyz", "/startupz"}
GUARDED = [(method, path) for method, path in CALLS if path not in PROBES]


def test_each_path_and_method_is_described_and_is_there(desk: Desk, pages: LoginPages) -> None:
    tcp = tcp_app(desk, Guard.of("https://tokens.example"), pages)

    assert {(method, path) for method, path, _ in calls()} == routes_of(tcp)
    assert {(method, path) for method, path, _ in calls(socket=True)} == routes_of(socket_app(desk))
    assert routes_of(metrics_app(desk)) <= {(method, path) for method, path, _ in calls()}


async def test_each_door_describes_itself(tcp: Running, socket_path: Path) -> None:
    """Without the token: it says nothing about this installation."""
    status, headers, text = await ask(tcp, "GET", "/api/openapi.json")
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket_path))) as session,
        session.get("http://localhost/api/openapi.json") as answer,
    ):
        here = await answer.json()

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(text) == openapi.document(socket=False)
    assert json.loads(text)["info"]["version"] == __version__
    assert here == openapi.document(socket=True)
    assert not any(call["security"] or "401" in call["responses"] for _, _, call in calls(socket=True))


def test_every_reference_leads_somewhere_and_every_call_has_a_name_of_its_own() -> None:
    for socket in (True, False):
        whole = openapi.document(socket=socket)
        for reference in set(re.findall(r'"#/([^"]+)"', json.dumps(whole))):
            found: Any = whole
            for part in reference.split("/"):
                found = found[part]
        names = [call["operationId"] for _, _, call in calls(socket=socket)]
        assert len(names) == len(set(names))
        linked = set(re.findall(r'"links".*?"operationId": "(\w+)"', json.dumps(whole)))
        assert linked <= set(names)


def test_every_code_is_in_the_description_and_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs/admin-api.md").read_text()
    described = json.dumps(openapi.document(socket=False)["components"]["responses"])
    for answer in ANSWERS.values():
        assert re.search(rf"\b{answer.code}\b", described) or answer.code == "not_running", answer.code
    for code in re.findall(r"\b([a-z]+(?:_[a-z]+)+)\b", described):
        assert f"`{code}`" in page, code


def test_the_page_names_each_call() -> None:
    page = (Path(__file__).parents[2] / "docs/admin-api.md").read_text()
    names = {"account": "NAME", "login": "ID", "path": "PATH"}
    for method, path, _ in [*calls(), *calls(socket=True)]:
        if path.startswith("/callback"):
            continue
        shown = re.sub(r"\{(\w+)\}", lambda found: names[found[1]], path)
        assert re.search(rf"`(?:{method} )?{re.escape(shown)}[`? ]", page), f"{method} {shown}"


# -- who may not ---------------------------------------------------------------------------------------------------------


async def test_what_needs_the_token_says_so(tcp: Running, program: Program) -> None:
    for method, path, call in calls():
        for shown in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            headers = {"Content-Type": "application/json", **shown}
            status, answered, text = await ask(tcp, method, filled(path), data=b"{}", headers=headers)
            assert (status == 401) == bool(call["security"]), f"{method} {path}"
            if status == 401:
                assert json.loads(text)["code"] == "admin_token_required"
                assert answered["WWW-Authenticate"].startswith("Bearer ")
    assert program.rows["books"]["generation"] == 3


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:9100", "10.0.0.1", "localhost@evil"]
)
async def test_a_rebound_name_reaches_no_call(tcp: Running, host: str) -> None:
    """DNS rebinding, with everything else right: the page of evil.example is "same origin" with itself."""
    for method, path in GUARDED:
        headers = {
            "Host": host,
            "Origin": f"http://{host}",
            "Sec-Fetch-Site": "same-origin",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {TOKEN}",
        }
        status, _, text = await ask(tcp, method, path, data=b"{}", headers=headers)
        assert (status, json.loads(text)["code"]) == (403, "host_refused"), f"{method} {path}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=["image", "fetch", "frame", "old-browser", "sandbox"],
)
async def test_a_page_of_another_site_reaches_no_call(tcp: Running, headers: dict[str, str]) -> None:
    """With the token as well: whatever made a browser send it."""
    for method, path in GUARDED:
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            given = {**headers, "Content-Type": kind, "Authorization": f"Bearer {TOKEN}"}
            status, answered, text = await ask(tcp, method, path, data=b"{}", headers=given)
            assert (status, json.loads(text)["code"]) == (403, "origin_refused"), f"{method} {path} {kind}"
            assert not any(name.lower().startswith("access-control-") for name in answered)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
async def test_what_a_form_can_send_changes_nothing(
    tcp: Running, program: Program, logins: LoginDesk, kind: str
) -> None:
    """A form of an old browser carries neither Origin nor Sec-Fetch-Site; JSON in ``text/plain`` is a form's, too."""
    for method, path, call in calls():
        kinds = call.get("requestBody", {}).get("content", {})
        if not call["security"] or not kinds or kind in kinds:
            continue
        headers = {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"}
        status, _, text = await ask(tcp, method, filled(path), data=b'{"account": "books"}', headers=headers)
        assert (status, json.loads(text)["code"]) == (415, "content_type_refused"), f"{method} {path}"
    assert program.rows["books"]["generation"] == 3
    assert logins.begun == []


async def test_no_preflight_is_answered(tcp: Running) -> None:
    """Nothing of another site may ask for more than a form could send."""
    for _, path in GUARDED:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        status, answered, _ = await ask(tcp, "OPTIONS", path, headers=headers)
        assert status == 403
        assert not any(name.lower().startswith("access-control-") for name in answered)


async def test_nothing_can_be_framed(tcp: Running) -> None:
    """Clickjacking, for browsers that know frame-ancestors and for those that know only what was before."""
    for method, path in [("GET", "/"), *CALLS]:
        _, answered, _ = await ask(tcp, method, path, data=b"{}" if method != "GET" else None)
        assert "frame-ancestors 'none'" in answered["Content-Security-Policy"], f"{method} {path}"
        assert answered["X-Frame-Options"] == "DENY"
        assert answered["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_a_call_that_is_not_there_says_which_are(tcp: Running) -> None:
    """RFC 9110 section 15.5.6: 405 comes with what the address does take."""
    there: dict[str, set[str]] = {}
    for method, path in CALLS:
        there.setdefault(path, set()).add(method)
    for path, methods in there.items():
        for method in ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
            if method in methods:
                continue
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            status, answered, text = await ask(tcp, method, path, data=b"{}", headers=headers)
            assert (status, json.loads(text)["code"]) == (405, "method_not_allowed"), f"{method} {path}"
            assert set(answered["Allow"].split(",")) - {"HEAD"} == methods
