"""Logging in from a page: what is begun, what is shown meanwhile, how it ends, and what a hostile provider gets shown."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.admin.dashboard.visitor import Visitor
from tests.admin.program import BOOKS, Desk
from tokenproxy.core.provider import Account, Registration
from tokenproxy.errors import BadLoginError

DEVICE = {
    "id": "l1",
    "account": "books",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://login.example/device",
    "verification_uri_complete": "https://login.example/device?user_code=WDJB-MJHT",
    "interval": 5,
}


@pytest.fixture
def tables() -> dict[str, Account]:
    both = replace(
        BOOKS,
        authorize_url="https://login.example/a",
        device_url="https://login.example/d",
        title="Books & Co",
    )
    known = Registration(client_id="c")
    return {
        "books": Account(name="books", provider=both, registration=known),
        "till": Account(name="till", provider=both, registration=known, grant="device_code"),
        "robot": Account(name="robot", provider=both, registration=known, grant="client_credentials"),
        "web": Account(name="web", provider=replace(both, device_url=""), registration=known),
    }


class Begins(Desk):
    """A desk whose next login is this one."""

    answer: dict[str, Any]

    async def begin(self, account: str, **asked: Any) -> dict[str, Any]:
        self.begun.append({"account": account, **asked})
        if self.fails is not None:
            raise self.fails
        return self.answer


@pytest.fixture
def logins() -> Begins:
    desk = Begins()
    desk.answer = {
        "id": "l1",
        "account": "books",
        "authorize_url": "https://login.example/authorize?state=st4te",
        "callback_url": "https://tokens.example:8443/callback/books",
        "start_url": "https://tokens.example:8443/login/l1",
    }
    return desk


async def begun(visitor: Visitor, **fields: str) -> str:
    answer = await visitor.send("/log-in", account="books", **fields)
    assert answer.status == 303
    return answer.headers["Location"]


async def test_a_form_offers_what_the_provider_has(visitor: Visitor) -> None:
    page = await visitor.open("/log-in?account=books/anna")
    assert 'value="books/anna"' in page.text
    assert "https://tokens.example:8443/callback/books/anna" in page.text
    assert 'value="browser" checked' in page.text
    assert 'value="device"' in page.text

    till = await visitor.open("/log-in?account=till")
    assert 'value="device" checked' in till.text
    assert 'value="browser"' not in till.text
    web = await visitor.open("/log-in?account=web")
    assert 'value="device"' not in web.text
    anybody = await visitor.open("/log-in")
    assert '<option value="books">' in anybody.text
    assert '"robot"' not in anybody.text, "it sees to itself"


async def test_a_browser_is_led_to_the_provider(visitor: Visitor, logins: Begins) -> None:
    """The login's id, which is worth something, is in no address of ours; the link goes by the page that binds it to this browser."""
    where = await begun(visitor, way="browser")
    assert logins.begun == [{"account": "books", "device": False}]
    assert where.startswith("/logins/")
    assert "l1" not in where

    page = await visitor.open(where, Host="tokens.example:8443")
    assert (
        'href="https://tokens.example:8443/login/l1" target="_blank" rel="noopener noreferrer"' in page.text
    )
    assert "The login page of login.example opens in another tab" in page.seen.text
    assert 'http-equiv="refresh" content="5"' in page.text


async def test_by_another_address_than_the_public_one_it_is_pasted(visitor: Visitor, logins: Begins) -> None:
    """A port that was forwarded: the browser will not find back, so the provider's own address is given and the form is open."""
    where = await begun(visitor, way="browser")
    page = await visitor.open(where)
    assert 'href="https://login.example/authorize?state=st4te"' in page.text
    assert '<details id="paste" open>' in page.text

    await visitor.send(where, do="paste", address=" https://tokens.example:8443/callback/books?code=c ")
    assert logins.landed == [{"address": "https://tokens.example:8443/callback/books?code=c", "pasted": True}]
    logins.fails = BadLoginError("that is no landing address", account="books", next_step="paste all of it")
    await visitor.send(where, do="paste", address="x")
    logins.fails = None
    assert "That is no landing address. paste all of it" in (await visitor.open(where)).seen.text


async def test_a_device_is_told_the_code(visitor: Visitor, logins: Begins) -> None:
    logins.answer = DEVICE
    where = await begun(visitor, way="device")
    assert logins.begun == [{"account": "books", "device": True}]

    page = await visitor.open(where)
    assert "WDJB-MJHT" in page.seen.text
    assert 'href="https://login.example/device?user_code=WDJB-MJHT"' in page.text
    assert '<svg viewBox="0 0' in page.text
    assert 'class="qr"' in page.text
    assert page.seen.inline == []


async def test_without_segno_the_address_is_text(
    visitor: Visitor, logins: Begins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    logins.answer = DEVICE
    page = await visitor.open(await begun(visitor, way="device"))
    assert "pip install 'tokenproxy[qr]'" in page.seen.text
    assert "https://login.example/device" in page.seen.text


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "JaVaScRiPt:alert(1)"]
)
async def test_a_hostile_address_is_no_link(visitor: Visitor, logins: Begins, address: str) -> None:
    """What a provider calls its verification address is shown, and cannot be clicked unless it is one."""
    logins.answer = DEVICE | {
        "verification_uri": address,
        "verification_uri_complete": address,
        "user_code": "<b>1</b>",
    }
    page = await visitor.open(await begun(visitor, way="device"))
    assert page.status == 200
    assert page.seen.inline == []
    assert address in page.seen.text
    assert "<b>1</b>" not in page.text


async def test_a_question_is_asked(visitor: Visitor, logins: Begins) -> None:
    where = await begun(visitor, way="browser")
    logins.becomes(question="Replace the login of <anna> by ben's?")
    page = await visitor.open(where)
    assert "Replace the login of <anna> by ben's?" in page.seen.text
    assert "http-equiv" not in page.text

    await visitor.send(where, do="confirm")
    assert logins.now["state"] == "success"
    assert "Logged in" in (await visitor.open(where)).seen.text


async def test_it_can_be_given_up(visitor: Visitor, logins: Begins) -> None:
    where = await begun(visitor, way="browser")
    await visitor.send(where, do="cancel")
    logins.becomes(detail="it was given up")
    page = await visitor.open(where)
    assert "Nobody was logged in. It was given up." in page.seen.text
    assert 'href="/log-in?account=books"' in page.text
    assert (await visitor.send(where, do="what")).status == 400


async def test_a_success_says_as_whom_and_until_when(visitor: Visitor, logins: Begins) -> None:
    where = await begun(visitor, way="browser")
    logins.becomes(
        state="success",
        result={
            "account": "books", "state": "ok", "identity": "<i>ana</i>", "renewable": False,
            "expires_at": "2026-11-22T13:00:00Z",
        },
    )  # fmt: skip
    said = (await visitor.open(where)).seen.text
    assert "Logged in as <i>ana</i>" in said
    assert "2026-11-22 13:00:00 UTC" in said
    assert "no refresh token came along" in said


async def test_what_cannot_begin_says_why(visitor: Visitor, logins: Begins) -> None:
    logins.fails = BadLoginError(
        "provider <x> has no login by device", account="books", next_step="tokenproxy login books"
    )
    answer = await visitor.send("/log-in", account="books", way="device")
    assert answer.headers["Location"] == "/log-in?account=books"
    said = (await visitor.open("/log-in?account=books")).seen.text
    assert "Provider <x> has no login by device. tokenproxy login books" in said


async def test_a_login_that_nobody_knows_is_a_page(visitor: Visitor) -> None:
    page = await visitor.open("/logins/nothing")
    assert page.status == 404
    assert "There is no such login" in page.seen.text
