"""State of logins over the admin API, with the real keeper behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.admin.program import TOKEN, Program
from tests.admin.test_admin_api import JSON, over_socket, over_tcp
from tokenproxy.admin.client import AdminClient
from tokenproxy.admin.server import Running
from tokenproxy.core.interfaces import MOST_STATE, StateValue

STATE = "/api/accounts/books/state"


async def put(path: Path, at: str, **said: Any) -> tuple[int, Any]:
    status, _, body = await over_socket(path, "PUT", at, data=json.dumps(said).encode(), headers=JSON)
    return status, body


async def get(path: Path, at: str) -> tuple[int, Any]:
    status, _, body = await over_socket(path, "GET", at)
    return status, body


async def test_an_application_keeps_what_it_was_given(socket_path: Path) -> None:
    """Put, read, list, drop; account and login apart."""
    status, kept = await put(
        socket_path, f"{STATE}/oauth2/note", value="hello", expires_at="2126-03-01T13:00:00+01:00"
    )
    assert (status, kept) == (
        200,
        {"path": "oauth2/note", "backend": False, "expires_at": "2126-03-01T12:00:00.000Z"},
    )
    assert await get(socket_path, f"{STATE}/oauth2/note") == (200, {**kept, "value": "hello"})
    assert (await put(socket_path, "/api/accounts/books/anna/state/a", value=""))[0] == 200

    assert (await get(socket_path, STATE))[1] == {"state": [{**kept, "value": "hello"}]}
    assert [
        each["path"] for each in (await get(socket_path, "/api/accounts/books/anna/state"))[1]["state"]
    ] == ["a"]

    assert (await over_socket(socket_path, "DELETE", f"{STATE}/oauth2/note", headers=JSON))[0] == 200
    for method in ("GET", "DELETE"):
        status, _, gone = await over_socket(socket_path, method, f"{STATE}/oauth2/note", headers=JSON)
        assert (status, gone["code"]) == (404, "no_state")


async def test_a_backend_value_is_never_given_back(socket_path: Path) -> None:
    """By no call, whatever is put over it."""
    answers = [await put(socket_path, f"{STATE}/t", value="planted", backend=True)]
    answers += [await get(socket_path, f"{STATE}/t"), await get(socket_path, STATE)]
    answers += [await put(socket_path, f"{STATE}/t", backend=False)]  # no value: not a way to turn the flag
    answers += [await get(socket_path, f"{STATE}/t")]
    _, _, dropped = await over_socket(socket_path, "DELETE", f"{STATE}/t", headers=JSON)

    assert [status for status, _ in answers] == [200, 200, 200, 422, 200]
    assert answers[1][1] == {"path": "t", "backend": True, "expires_at": None}
    assert "planted" not in json.dumps([answers, dropped])


async def test_what_has_expired_is_not_there(socket_path: Path) -> None:
    """It resolves in no request, so that it must not seem to be there."""
    await put(socket_path, f"{STATE}/t", value="x", expires_at="2000-01-01T00:00:00Z")

    assert (await get(socket_path, f"{STATE}/t"))[0] == 404
    assert (await get(socket_path, STATE))[1] == {"state": []}


async def test_a_full_name_makes_room_by_itself(socket_path: Path, program: Program) -> None:
    """Expired values count only until somebody needs their place."""
    for number in range(MOST_STATE):
        await program.states.put("books", f"n/{number}", StateValue("x"))

    status, refused = await put(socket_path, f"{STATE}/more", value="x")
    assert (status, refused["code"]) == (422, "bad_state")
    assert "256 values" in refused["detail"]
    await put(socket_path, f"{STATE}/n/7", value="x", expires_at="2000-01-01T00:00:00Z")
    assert (await put(socket_path, f"{STATE}/more", value="x"))[0] == 200


@pytest.mark.parametrize(
    ("at", "said", "status", "code"),
    [
        (f"{STATE}/a//b", {"value": "planted"}, 422, "bad_state"),
        (f"{STATE}/a%20b", {"value": "planted"}, 422, "bad_state"),
        (f"{STATE}/%5D%5D", {"value": "planted"}, 422, "bad_state"),
        (f"{STATE}/{'a' * 129}", {"value": "planted"}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted" * 10_000}, 422, "bad_state"),
        (f"{STATE}/a", {"value": {"planted": 1}}, 422, "bad_state"),
        (f"{STATE}/a", {"value": None}, 422, "bad_state"),
        (f"{STATE}/a", {}, 422, "bad_state"),
        (f"{STATE}/a", ["planted"], 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "expires": 1}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "backend": "yes"}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "expires_at": "2026-03-01T12:00:00"}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "expires_at": "planted"}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "expires_at": 1}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted", "expires_at": "0001-01-01T00:00:00+23:59"}, 422, "bad_state"),
        (f"{STATE}/a", {"value": "planted\ud800"}, 422, "bad_state"),
        ("/api/accounts/nobody/state/a", {"value": "planted"}, 404, "unknown_account"),
        ("/api/accounts/books/a%20b/state/a", {"value": "planted"}, 404, "unknown_account"),
        (f"{STATE}/a", {"value": "x" * 500_000}, 413, "body_too_large"),
    ],
)
async def test_what_may_not_be_kept(socket_path: Path, at: str, said: Any, status: int, code: str) -> None:
    """One sentence that quotes nothing of it."""
    got, _, refused = await over_socket(socket_path, "PUT", at, data=json.dumps(said).encode(), headers=JSON)

    assert (got, refused["code"]) == (status, code)
    assert "planted" not in refused["detail"]
    assert (await get(socket_path, STATE))[1] == {"state": []}


async def test_a_body_that_is_no_json(socket_path: Path) -> None:
    """The cause would quote it."""
    for body in (b"", b"planted", b"[" * 50_000):
        status, _, refused = await over_socket(socket_path, "PUT", f"{STATE}/a", data=body, headers=JSON)
        assert (status, refused["detail"]) == (422, "The body is not JSON.")


async def test_a_login_may_be_called_state(socket_path: Path, program: Program) -> None:
    """Percent-encoded it has state of its own, and the command finds it as it is."""
    program.put("books/state", generation=7)
    assert (await put(socket_path, "/api/accounts/books%2Fstate/state/state/x", value="1"))[0] == 200
    assert (await put(socket_path, f"{STATE}/state/x", value="2"))[0] == 200

    assert (await get(socket_path, "/api/accounts/books%2Fstate/state/state/x"))[1]["value"] == "1"
    assert (await get(socket_path, f"{STATE}/state/x"))[1]["value"] == "2"
    assert (await AdminClient(socket_path).status("books/state"))["generation"] == 7


async def test_state_needs_the_token_over_tcp_even_to_be_read(tcp: Running) -> None:
    """A value that is no backend value may be a secret all the same."""
    calls = [("GET", STATE), ("PUT", f"{STATE}/a"), ("GET", f"{STATE}/a"), ("DELETE", f"{STATE}/a")]
    for method, path in calls:
        status, _, _ = await over_tcp(tcp, path, method=method, Content_Type="application/json")
        assert status == 401
    status, _, _ = await over_tcp(tcp, STATE, Authorization=f"Bearer {TOKEN}")
    assert status == 200
