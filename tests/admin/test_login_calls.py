"""``/api/logins``: how a program begins a login, waits for it and answers its question."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.admin.program import TOKEN, Desk
from tests.admin.test_admin_api import JSON, over_socket, over_tcp
from tokenproxy.admin import logins as calls
from tokenproxy.admin.server import Running
from tokenproxy.errors import ProviderUnavailableError


async def test_a_program_begins_a_login(socket_path: Path, logins: Desk) -> None:
    """What docs/admin-api.md promises."""
    status, headers, begun = await over_socket(
        socket_path, "POST", "/api/logins", json={"account": "books/anna", "return_to": None}
    )

    assert (status, headers["Location"], begun["id"]) == (201, "/api/logins/l1", "l1")
    assert logins.begun == [
        {"account": "books/anna", "device": False, "key": None, "return_to": None, "replace": False}
    ]


async def test_everything_that_can_be_asked_for_arrives(socket_path: Path, logins: Desk) -> None:
    asked = {
        "account": "books",
        "return_to": "https://app.example/",
        "device": True,
        "key": "k" * 16,
        "replace": True,
    }
    await over_socket(socket_path, "POST", "/api/logins", json=asked)

    assert logins.begun == [asked]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "not JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 30000, "not JSON"),
        ("{}", "whom to log in"),
        ('{"account": ""}', "whom to log in"),
        ('{"account": 7}', "Account must be text"),
        ('{"account": "a", "device": "yes"}', "Device must be true or false"),
        ('{"account": "a", "replace": 1}', "Replace must be true or false"),
        ('{"account": "a", "return_too": "x"}', "'return_too'; there are: account, return_to"),
    ],
)
async def test_a_call_that_makes_no_sense_is_told_what_is_wrong(
    socket_path: Path, logins: Desk, body: str, says: str
) -> None:
    """A misspelt member that is ignored would be a login that does something else."""
    status, _, told = await over_socket(socket_path, "POST", "/api/logins", data=body, headers=JSON)

    assert (status, told["code"]) == (400, "bad_request")
    assert says in told["detail"]
    assert logins.begun == []


async def test_a_poll_answers_as_soon_as_something_changes(socket_path: Path, logins: Desk) -> None:
    polling = asyncio.create_task(over_socket(socket_path, "GET", "/api/logins/l1?wait=30"))
    await logins.polled.wait()
    assert not polling.done()
    logins.becomes(state="success", result={"account": "books"})

    status, _, found = await asyncio.wait_for(polling, 10)
    assert (status, found["state"]) == (200, "success")


@pytest.mark.parametrize(
    "now", [{"state": "failed"}, {"state": "expired"}, {"question": "replace the login of anna?"}]
)
async def test_a_poll_does_not_wait_for_what_is_there(
    socket_path: Path, logins: Desk, now: dict[str, Any]
) -> None:
    """Nor where somebody must say yes first: nothing else would happen until then."""
    logins.becomes(**now)
    logins.changed.clear()

    _, _, found = await asyncio.wait_for(over_socket(socket_path, "GET", "/api/logins/l1?wait=60"), 10)
    assert found.items() >= now.items()
    assert logins.polls == 1


async def test_a_poll_ends_with_its_wait(
    socket_path: Path, logins: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 s are the most, so that no proxy on the way cuts a poll off."""
    monkeypatch.setattr(calls, "LONGEST_WAIT", 0.05)

    for wait in ("0.01", "999999", "1e9"):
        _, _, found = await over_socket(socket_path, "GET", f"/api/logins/l1?wait={wait}")
        assert found["state"] == "pending"
    for wait in ("-1", "nan", "inf", "", "x"):
        status, _, told = await over_socket(socket_path, "GET", f"/api/logins/l1?wait={wait}")
        assert (status, told["detail"]) == (400, "Wait must be a number of seconds.")


async def test_polls_leave_room_for_probes(
    socket_path: Path, logins: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd of programs that wait must not make the process look dead."""
    monkeypatch.setattr(calls, "MOST_WAITING", 1)
    polling = asyncio.create_task(over_socket(socket_path, "GET", "/api/logins/l1?wait=60"))
    await logins.polled.wait()

    _, _, second = await asyncio.wait_for(over_socket(socket_path, "GET", "/api/logins/l1?wait=60"), 10)
    assert second["state"] == "pending"
    assert not polling.done()
    logins.becomes(state="success")
    assert (await asyncio.wait_for(polling, 10))[2]["state"] == "success"


async def test_a_client_that_leaves_ends_its_poll(
    socket_path: Path, logins: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand browsers that were closed must not leave a thousand polls behind."""
    monkeypatch.setattr(calls, "LOOK", 0.01)
    _, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(b"GET /api/logins/l1?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await logins.polled.wait()
    answering = [task for task in asyncio.all_tasks() if "RequestHandler.start" in repr(task.get_coro())]
    assert len(answering) == 1
    writer.close()

    await asyncio.wait_for(asyncio.wait(answering), 10)


async def test_a_question_is_answered_and_a_login_given_up(socket_path: Path, logins: Desk) -> None:
    logins.becomes(question="replace?")
    _, _, found = await over_socket(socket_path, "POST", "/api/logins/l1/confirm", headers=JSON)
    assert (found["state"], found["question"]) == ("success", "")
    status, _, found = await over_socket(socket_path, "DELETE", "/api/logins/l1", headers=JSON)
    assert (status, found["error"]) == (200, "cancelled")


async def test_an_address_from_a_browser_elsewhere_is_pasted(socket_path: Path, logins: Desk) -> None:
    address = "http://127.0.0.1:9100/callback/books?code=c&state=s"
    status, _, _ = await over_socket(socket_path, "POST", "/api/logins/l1/paste", json={"address": address})
    assert (status, logins.landed) == (200, [{"address": address, "pasted": True}])

    for wrong in ("", "x" * 16385):
        status, _, told = await over_socket(
            socket_path, "POST", "/api/logins/l1/paste", json={"address": wrong}
        )
        assert (status, told["detail"]) == (400, "A landing address has 1 to 16384 characters.")


async def test_an_unknown_login_is_a_problem_with_a_next_step(socket_path: Path) -> None:
    for method, path in (
        ("GET", "/api/logins/nobody"),
        ("GET", "/api/logins/nobody?wait=30"),
        ("DELETE", "/api/logins/nobody"),
    ):
        status, _, told = await over_socket(socket_path, method, path, headers=JSON)
        assert (status, told["code"], told["next_step"]) == (404, "unknown_login", "tokenproxy login books")


async def test_a_provider_that_is_down_is_told(socket_path: Path, logins: Desk) -> None:
    """PAR and devices ask it before there is an address."""
    logins.fails = ProviderUnavailableError("books: down.", account="books", retry_after=7.2)

    status, headers, told = await over_socket(
        socket_path, "POST", "/api/logins", json={"account": "books", "device": True}
    )
    assert (status, told["code"], headers["Retry-After"]) == (502, "provider_unavailable", "8")


async def test_over_tcp_logins_need_the_token_to_be_read_too(tcp: Running, logins: Desk) -> None:
    """Who knows a login's id could watch whom it becomes."""
    for method, path in (
        ("POST", "/api/logins"),
        ("GET", "/api/logins/l1"),
        ("DELETE", "/api/logins/l1"),
        ("POST", "/api/logins/l1/confirm"),
        ("POST", "/api/logins/l1/paste"),
    ):
        status, _, text = await over_tcp(tcp, path, method=method, Content_Type="application/json")
        assert (status, json.loads(text)["code"]) == (401, "admin_token_required")
    assert logins.now["state"] == "pending"

    status, _, text = await over_tcp(tcp, "/api/logins/l1", Authorization=f"Bearer {TOKEN}")
    assert (status, json.loads(text)["id"]) == (200, "l1")
