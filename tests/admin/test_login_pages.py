"""Where a browser begins a login and comes back to: whom it lets in, what it hands on, and what it never shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.admin.program import Desk
from tests.admin.test_admin_api import raw
from tests.test_audit import until, writing
from tokenproxy import audit
from tokenproxy.admin import answers
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import Running
from tokenproxy.core.interfaces import Landing
from tokenproxy.errors import ProviderUnavailableError

PUBLIC = "https://tokens.example:8443"
NAVIGATION = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FORM = "application/x-www-form-urlencoded"
COOKIE = "__Host-tokenproxy"
SECRETS = ("c0de-of-the-login", "st4te-of-the-login")
QUERY = "code=c0de-of-the-login&state=st4te-of-the-login"


async def ask(
    running: Running, target: str, *, method: str = "GET", follow: bool = False, **more: Any
) -> tuple[int, Any, str]:
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.request(
            method, URL(f"http://{running.address}{target}", encoded=True), allow_redirects=follow, **more
        ) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


def holds_nothing(html: str) -> None:
    assert not [secret for secret in SECRETS if secret in html]


async def test_a_browser_begins_with_a_cookie_of_its_own(tcp: Running, logins: Desk) -> None:
    """The login belongs to this browser from now on: no other one can end it."""
    status, headers, _ = await ask(tcp, "/login/l1")

    assert (status, headers["Location"]) == (303, "https://login.example/authorize?state=s")
    cookie = headers["Set-Cookie"]
    value = re.match(rf"{COOKIE}=([\w-]{{43}});", cookie)
    assert value is not None
    assert logins.opened == [value[1]]
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly",
        "Max-Age=3600",
        "Path=/",
        "SameSite=Lax",
        "Secure",
    }
    await ask(tcp, "/login/l1", headers={"Cookie": f"{COOKIE}={value[1]}"})
    await ask(tcp, "/login/l1", headers={"Cookie": f"{COOKIE}=chosen-by-somebody"})
    assert logins.opened[1] == value[1], "two logins at once in one browser"
    assert re.fullmatch(r"[\w-]{43}", logins.opened[2])


async def test_a_planted_cookie_binds_nothing(tcp: Running, logins: Desk) -> None:
    """Session fixation: cookies have no ports, so that another program of this machine can set one that it knows."""
    planted = "A" * 43
    _, headers, _ = await ask(tcp, "/login/l1", headers={"Cookie": f"{COOKIE}={planted}"})

    assert planted not in headers["Set-Cookie"]
    assert logins.opened != [planted]


async def test_a_login_that_is_over_says_so_on_a_page(tcp: Running, logins: Desk) -> None:
    status, headers, html = await ask(tcp, "/login/nobody")
    assert (status, headers.get("Location"), headers.get("Set-Cookie")) == (404, None, None)
    assert "There is no such login." in html
    assert "tokenproxy login books" in html

    logins.fails = ProviderUnavailableError("the provider of <books> is down", account="books")
    status, _, html = await ask(tcp, "/login/l1")
    assert status == 502
    assert "&lt;books&gt; is down" in html


@pytest.mark.parametrize(
    ("path", "account", "key"),
    [
        ("/callback/books", "books", ""),
        ("/callback", "", ""),
        ("/callback/books/k3y-of-this-login", "books", "k3y-of-this-login"),
    ],
)
async def test_a_landing_is_handed_on_as_it_came(
    tcp: Running, logins: Desk, path: str, account: str, key: str
) -> None:
    """Undecoded, under the public address, whatever Host a tunnel made of it: expressions look at all of it."""
    query = "code=c0de%2F%2B+x&state=a%26b&empty=&code=2"
    status, _, html = await ask(
        tcp,
        f"{path}?{query}",
        headers={**NAVIGATION, "Host": "localhost:7777", "Cookie": f"{COOKIE}={'b' * 43}"},
    )

    assert status == 200
    assert "Logged in" in html
    assert "You can close this window." in html
    assert logins.landed == [
        {"address": f"{PUBLIC}{path}?{query}", "account": account, "key": key, "browser": "b" * 43}
    ]


async def test_a_page_shows_nothing_that_came_along(tcp: Running, logins: Desk) -> None:
    """And hostile words of a provider become no markup; the address bar is cleaned by a script of ours."""
    logins.lands = Landing("access_denied", "The provider said no", "<img src=x onerror=alert(1)>", 400)
    status, headers, html = await ask(tcp, f"/callback/books?{QUERY}", headers=NAVIGATION)

    assert status == 400
    assert "<title>The provider said no - tokenproxy</title>" in html
    assert "&lt;img" in html
    assert "<img" not in html
    assert 'data-clean="books"' in html
    assert "Location" not in headers
    holds_nothing(html + str(headers))


@pytest.mark.parametrize(
    ("path", "clean"),
    [("/callback", "callback"), ("/callback/b%20s", "b%20s"), ("/callback/books/k3y", "../books")],
)
async def test_the_clean_address_is_relative(tcp: Running, path: str, clean: str) -> None:
    """A proxy before us may have put a prefix before it; and a key in the path is a state."""
    _, _, html = await ask(tcp, path)

    assert f'data-clean="{clean}"' in html


async def test_every_page_is_hardened(tcp: Running, logins: Desk) -> None:
    """RFC 9700 section 4.2.4: no referrer, nothing of others; each page runs its one script and nothing else."""
    for code in ("success", "fragment", "failed"):
        logins.lands = Landing(code, "T", "D")
        _, headers, html = await ask(tcp, f"/callback/books?{QUERY}")
        policy = headers["Content-Security-Policy"]
        script = html.partition("<script>")[2].partition("</script>")[0]
        style = html.partition("<style>")[2].partition("</style>")[0]
        assert html.count("<script") == html.count("<style") == 1
        assert f"script-src {hashed(script)};" in policy
        assert f"style-src {hashed(style)};" in policy
        assert policy.startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in policy
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
        assert "http" not in html.replace("http-equiv", "")
        holds_nothing(html)


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def test_a_browser_goes_on_to_where_the_program_wanted_it(tcp: Running, logins: Desk) -> None:
    """Whether it may is the desk's to say; its address carries nothing of the landing's."""
    logins.lands = Landing("success", "Logged in", "", return_to="https://app.example/done")
    status, headers, text = await ask(tcp, f"/callback/books?{QUERY}", headers=NAVIGATION)

    assert (status, headers["Location"]) == (303, "https://app.example/done")
    assert headers["Referrer-Policy"] == "no-referrer"
    holds_nothing(text + str(headers))


@pytest.mark.parametrize("path", ["/login/l1", "/callback", "/callback/books", "/callback/books/key"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
async def test_a_link_or_redirect_from_another_site_is_let_in(tcp: Running, path: str, site: str) -> None:
    """That is what a login is."""
    status, _, _ = await ask(tcp, path, headers={**NAVIGATION, "Sec-Fetch-Site": site})

    assert status in (200, 303)


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/callback/books", "GET", {"Sec-Fetch-Mode": "no-cors"}),
        ("/callback/books", "GET", {"Sec-Fetch-Mode": "cors", "Origin": "https://evil.example"}),
        ("/callback/books", "GET", {"Sec-Fetch-Dest": "iframe"}),
        ("/callback/books", "GET", {"Sec-Fetch-Dest": "embed"}),
        ("/callback/books", "POST", {"Content-Type": FORM}),
        ("/callback/books", "POST", {"Content-Type": "application/json"}),
        ("/callback/posting", "POST", {"Content-Type": "application/json"}),
        ("/callback/posting", "POST", {"Content-Type": "text/plain"}),
        ("/callback", "POST", {"Content-Type": FORM}),
        ("/login/l1", "POST", {"Content-Type": FORM}),
        ("/api/accounts", "GET", {}),
        ("/callbacks", "GET", {}),
        ("/metrics", "GET", {}),
    ],
)
async def test_nothing_else_from_another_site_is(
    tcp: Running, logins: Desk, path: str, method: str, headers: dict[str, str]
) -> None:
    """No picture, frame, script or form of a page somewhere reaches the desk."""
    status, _, text = await ask(tcp, path, method=method, headers=NAVIGATION | headers)

    assert (status, json.loads(text)["code"]) == (403, "origin_refused")
    assert (logins.landed, logins.opened) == ([], [])


async def test_callbacks_keep_the_check_of_host(tcp: Running, logins: Desk) -> None:
    status, _, _ = await ask(tcp, f"/callback/books?{QUERY}", headers={**NAVIGATION, "Host": "evil.example"})

    assert status == 403
    assert logins.landed == []


async def test_who_only_looks_at_a_link_uses_nothing_up(tcp: Running, logins: Desk) -> None:
    """A preview asks with HEAD."""
    for path in ("/callback/books", "/login/l1"):
        assert (await ask(tcp, path, method="HEAD"))[0] == 405

    assert (logins.landed, logins.opened) == ([], [])


async def test_nobody_is_logged_in_unseen(tcp: Running, logins: Desk, tmp_path: Path) -> None:
    """A full disk with ``required``: nothing is exchanged, by any way to land, and the login can still be ended."""
    fragment = {"address": f"{PUBLIC}/callback/books#{QUERY}"}
    ours = {"Origin": f"http://{tcp.address}", "Sec-Fetch-Site": "same-origin"}
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    with writing(tmp_path / "audit.jsonl", required=True) as found:
        audit.record("started")
        await asyncio.to_thread(until, lambda: found.failing)
        for path in ("/login/l1", f"/callback?{QUERY}", f"/callback/books/k3y?{QUERY}"):
            status, headers, html = await ask(tcp, path, headers=NAVIGATION)
            assert (status, "Set-Cookie" in headers) == (503, False)
            assert "<title>Nobody is logged in while the audit log fails - tokenproxy</title>" in html
            holds_nothing(html)
        posted = {**NAVIGATION, "Content-Type": FORM, "Origin": "https://login.example"}
        status, _, _ = await ask(
            tcp, "/callback/posting", method="POST", data=QUERY, headers=posted, follow=True
        )
        assert status == 503
        status, _, text = await ask(tcp, "/callback/books", method="POST", json=fragment, headers=ours)
        assert (status, json.loads(text)["code"]) == (503, "audit_unavailable")
        assert (logins.landed, logins.opened) == ([], [])

        (tmp_path / "audit.jsonl").unlink()
        found.reopen()
        await asyncio.to_thread(until, lambda: not audit.unavailable())
        assert (await ask(tcp, "/login/l1", headers=NAVIGATION))[0] == 303
        assert (await ask(tcp, f"/callback/books?{QUERY}", headers=NAVIGATION))[0] == 200
        assert (len(logins.landed), len(logins.opened)) == (1, 1)


# -- form_post ---------------------------------------------------------------------------------------------------------


async def test_a_posted_answer_comes_in_by_a_page_of_ours(tcp: Running, logins: Desk) -> None:
    """A browser sends no Lax cookie with another site's post, and does with the redirect after it."""
    status, headers, text = await ask(
        tcp,
        "/callback/posting/k3y?tenant=7",
        method="POST",
        data=QUERY,
        headers={**NAVIGATION, "Content-Type": FORM, "Origin": "https://login.example"},
    )
    assert status == 303
    assert logins.landed == []
    holds_nothing(text + str(headers))
    assert re.fullmatch(r"k3y\?landing=[\w-]{43}", headers["Location"])

    again = f"/callback/posting/{headers['Location']}"
    status, _, html = await ask(tcp, again, headers={**NAVIGATION, "Cookie": f"{COOKIE}={'b' * 43}"})
    assert (status, logins.landed) == (
        200,
        [
            {
                "address": f"{PUBLIC}/callback/posting/k3y?tenant=7&{QUERY}",
                "account": "posting",
                "key": "k3y",
                "browser": "b" * 43,
            }
        ],
    )
    holds_nothing(html)
    await ask(tcp, again)
    assert "c0de" not in logins.landed[1]["address"], "a reload must not send it twice"


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/callback/posting", b"code=" + b"x" * 17000, 413),
        ("/callback/posting", "code=é".encode(), 400),
        ("/callback/books", QUERY.encode(), 415),
    ],
)
async def test_a_post_that_cannot_be_taken_gets_a_page(
    tcp: Running, logins: Desk, path: str, data: bytes, status: int
) -> None:
    found, headers, html = await ask(tcp, path, method="POST", data=data, headers={"Content-Type": FORM})

    assert found == status
    assert headers["Content-Type"].startswith("text/html")
    assert "Begin the login again" in html
    assert logins.landed == []


async def test_a_post_that_never_ends_is_given_up(tcp: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BODY_DEADLINE", 0.05)
    head = (
        f"POST /callback/posting HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n"
        "Connection: close\r\n\r\ncode="
    )

    answer = await raw(tcp, head.encode())

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"The answer took too long to come" in answer


async def test_posted_answers_that_nobody_fetches_do_not_pile_up(tcp: Running, pages: LoginPages) -> None:
    """Any page may post here as often as it likes."""
    async with aiohttp.ClientSession() as session:
        for _ in range(300):
            await session.post(
                f"http://{tcp.address}/callback/posting",
                data="code=x",
                headers={"Content-Type": FORM},
                allow_redirects=False,
            )

    assert len(pages._held) == 256


# -- the fragment --------------------------------------------------------------------------------------------------------


async def test_the_fragment_page_s_post_is_handed_on(tcp: Running, logins: Desk) -> None:
    """Of the address that the page saw only what follows the path counts: a tunnel may have another name."""
    logins.lands = Landing("failed", "No", "Try again.", 400)
    status, headers, text = await ask(
        tcp,
        "/callback/books/k3y",
        method="POST",
        json={"address": "http://localhost:7777/pre/callback/books/k3y?a=1#code=29d2ef?&x"},
        headers={
            "Origin": f"http://{tcp.address}",
            "Sec-Fetch-Site": "same-origin",
            "Cookie": f"{COOKIE}={'b' * 43}",
        },
    )

    assert status == 400
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(text) == {
        "code": "failed",
        "title": "No",
        "detail": "Try again.",
        "status": 400,
        "return_to": "",
    }
    assert logins.landed == [
        {
            "address": f"{PUBLIC}/callback/books/k3y?a=1#code=29d2ef?&x",
            "account": "books",
            "key": "k3y",
            "browser": "b" * 43,
        }
    ]


async def test_a_page_that_found_no_fragment_is_not_asked_again(tcp: Running, logins: Desk) -> None:
    """A provider may answer with ``?error=...`` where its codes come after the ``#``."""
    logins.in_fragment = True
    logins.lands = Landing("provider_refused", "The provider said no", "Begin again.", 400)
    address = f"http://{tcp.address}/callback/books?error=access_denied"

    status, _, text = await ask(
        tcp,
        "/callback/books",
        method="POST",
        json={"address": address},
        headers={"Origin": f"http://{tcp.address}", "Sec-Fetch-Site": "same-origin"},
    )

    assert (status, json.loads(text)["code"]) == (400, "provider_refused")
    assert logins.landed[0]["address"] == f"{PUBLIC}/callback/books?error=access_denied#"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps({"address": "http://x/#" + "x" * 16384}), 413),
        (json.dumps({"address": "x" * 512 * 1024}), 413),
        ("not json", 400),
        (json.dumps({"address": 7}), 400),
    ],
)
async def test_a_hand_over_that_makes_no_sense_has_words_for_the_page(
    tcp: Running, logins: Desk, body: str, status: int
) -> None:
    """16 KiB at most: nothing reads a longer one."""
    found, _, text = await ask(
        tcp, "/callback/books", method="POST", data=body, headers={"Content-Type": "application/json"}
    )

    assert found == status
    assert json.loads(text).keys() >= {"title", "detail", "code"}
    assert logins.landed == []


async def test_a_wrong_callback_is_logged_without_its_address(
    tcp: Running, logins: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by us and not by aiohttp, at any level, and not where the request is rubbish either."""
    caplog.set_level("DEBUG")
    logins.lands = Landing("state_wrong", "No", "Try again.", 400)
    await ask(tcp, f"/callback/books?{QUERY}")
    await ask(tcp, f"/callback/books?{QUERY}", headers={"Host": "evil.example"})
    await ask(tcp, f"/callback/nothing/like/this?{QUERY}")
    await raw(tcp, f"GET /callback/books?{QUERY} HTTP/1.1\r\nHost: a b\r\nbad header\r\n\r\n".encode())
    await raw(tcp, f"GET /callback/books?{QUERY}&x={'x' * 200_000} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    holds_nothing(caplog.text)


async def test_a_long_query_gets_a_page_too(tcp: Running, logins: Desk) -> None:
    """aiohttp would answer a line of 8 KiB by quoting it; codes of some providers are longer than that."""
    await ask(tcp, f"/callback/books?code={'x' * 16000}")
    assert len(logins.landed) == 1

    status, _, text = await ask(tcp, f"/callback/books?{QUERY}&x={'x' * 200_000}")
    assert status == 400
    assert "too long" in text
    holds_nothing(text)


async def test_landings_that_come_at_once_begin_one_by_one(
    tcp: Running, logins: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of wrong answers would hold up what is proxied, which takes its turns in between on the same loop."""
    turns, begun, lands = 0, [], logins.land

    async def land(*given: Any, **more: Any) -> Landing:
        begun.append(turns)
        return await lands(*given, **more)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(logins, "land", land)
    host, port = tcp.address.rsplit(":", 1)
    lines = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    counting = asyncio.ensure_future(count())
    for _, writer in lines:
        writer.write(b"GET /callback?code=a&state=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert {(await reader.read())[9:12] for reader, _ in lines} == {b"200"}
    counting.cancel()
    for _, writer in lines:
        writer.close()

    assert len(set(begun)) == len(begun) == 20
