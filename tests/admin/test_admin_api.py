"""The API over its three listeners: who may ask what, and how errors look."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.admin.program import TOKEN, Program
from tokenproxy.admin import answers
from tokenproxy.admin.health import Health
from tokenproxy.admin.problems import ANSWERS
from tokenproxy.admin.server import Running
from tokenproxy.errors import (
    ConfigError,
    LoginRequiredError,
    Problem,
    ProviderUnavailableError,
    StoreError,
    TokenproxyError,
)

JSON = {"Content-Type": "application/json"}


async def over_socket(path: Path, method: str, target: str, **more: Any) -> tuple[int, Any, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.request(method, f"http://localhost{target}", **more) as answer,
    ):
        return answer.status, answer.headers, json.loads(await answer.text())


async def over_tcp(
    running: Running, target: str, *, method: str = "GET", data: str = "", **headers: str
) -> tuple[int, Any, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"http://{running.address}{target}", headers=named, data=data or None
        ) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def raw(running: Running, request: bytes) -> bytes:
    host, port = running.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_an_operator_reads_and_changes_accounts(socket_path: Path, program: Program) -> None:
    """What docs/admin-api.md promises, call by call, with a login under a table as well."""
    program.put("books/anna@example.com", generation=1)

    status, _, listed = await over_socket(socket_path, "GET", "/api/accounts")
    assert status == 200
    assert [row["account"] for row in listed["accounts"]] == ["books", "books/anna@example.com"]
    for name in ("books", "books/anna@example.com", "books/anna%40example.com"):
        status, _, row = await over_socket(socket_path, "POST", f"/api/accounts/{name}/refresh", headers=JSON)
        assert status == 200
        assert row["account"] == name.replace("%40", "@")
    status, _, row = await over_socket(socket_path, "DELETE", "/api/accounts/books", headers=JSON)
    assert (status, row["state"]) == (200, "new")
    _, _, rotated = await over_socket(socket_path, "POST", "/api/key/rotate", headers=JSON)
    assert rotated == {"resealed": 2, "key_id": "1f3a"}


async def test_a_sub_may_be_called_like_a_verb(socket_path: Path, program: Program) -> None:
    """``books/refresh`` is a good name of a login; written with ``%2F`` nothing takes it for the call, nor a call for it."""
    program.put("books/refresh", generation=7)

    _, _, row = await over_socket(socket_path, "GET", "/api/accounts/books%2Frefresh")
    assert row["generation"] == 7
    for path in ("books%2Frefresh", "books/refresh"):
        await over_socket(socket_path, "POST", f"/api/accounts/{path}/refresh", headers=JSON)
    assert program.rows["books/refresh"]["generation"] == 9
    for verb in ("refresh", "tokens", "rebind", "state"):
        status, headers, _ = await over_socket(
            socket_path, "DELETE", f"/api/accounts/books/{verb}", headers=JSON
        )
        assert (status, "DELETE" in headers["Allow"]) == (405, False)


async def test_a_json_import_is_an_object(socket_path: Path, program: Program) -> None:
    """``0`` and ``"text"`` are JSON, and would otherwise be stored as bare refresh tokens."""
    for body in (b"0", b'"text"', b"[]", b"not JSON", b"[" * 5000, b""):
        status, _, found = await over_socket(
            socket_path, "POST", "/api/accounts/books/tokens", data=body, headers=JSON
        )
        assert (status, found["code"]) == (422, "bad_import")

    assert program.imported == []


async def test_an_import_is_taken_byte_for_byte(socket_path: Path, program: Program) -> None:
    """A token answer as JSON or a bare refresh token as text; nobody but ``oauth`` may interpret it."""
    answer = b'{"access_token": "a",\r\n "refresh_token": "\xc3\xa9"}'
    for kind, body in (("application/json; charset=utf-8", answer), ("text/plain", b" bare-token\n")):
        status, _, _ = await over_socket(
            socket_path, "POST", "/api/accounts/books/tokens", data=body, headers={"Content-Type": kind}
        )
        assert status == 200

    assert program.imported == [answer, b" bare-token\n"]


async def test_an_import_is_bounded(socket_path: Path, program: Program) -> None:
    """A wrong file on standard input must not fill the memory of the proxy."""
    status, _, body = await over_socket(
        socket_path,
        "POST",
        "/api/accounts/books/tokens",
        data=io.BytesIO(b"x" * (1024 * 1024 + 1)),
        headers=JSON,
    )

    assert (status, body["code"]) == (413, "body_too_large")
    assert program.imported == []


@pytest.mark.parametrize(
    ("error", "status", "members"),
    [
        (
            LoginRequiredError(
                "books: revoked.", account="books", reason="refused", next_step="tokenproxy login books"
            ),
            409,
            {
                "code": "login_required",
                "account": "books",
                "exit_code": 3,
                "next_step": "tokenproxy login books",
            },
        ),
        (
            ProviderUnavailableError("books: down.", account="books", retry_after=7.2),
            502,
            {"code": "provider_unavailable", "retry_after": 7.2, "exit_code": 4},
        ),
        (
            StoreError("The disk is full."),
            503,
            {"code": "store_failed", "detail": "The disk is full.", "exit_code": 5},
        ),
        (TokenproxyError("That is no token answer."), 422, {"code": "refused", "exit_code": 1}),
    ],
)
async def test_errors_say_what_to_do(
    socket_path: Path, program: Program, error: TokenproxyError, status: int, members: dict[str, Any]
) -> None:
    """Programs key on ``code`` and ``exit_code``, people read ``detail`` and ``next_step``."""
    program.fails = error

    found, headers, body = await over_socket(socket_path, "POST", "/api/accounts/books/refresh", headers=JSON)

    assert found == status
    assert headers["Content-Type"] == "application/problem+json"
    assert body.items() >= members.items()
    assert headers.get("Retry-After") == ("8" if "retry_after" in members else None)


async def test_a_bad_config_is_told_line_by_line(socket_path: Path, program: Program) -> None:
    """The person who reloads sees every mistake at once, each with its place."""
    program.fails = ConfigError(
        "config.toml", [Problem("routes.crm.upstream", "missing", 4), Problem("x", "unknown")]
    )

    status, _, body = await over_socket(socket_path, "POST", "/api/reload", headers=JSON)

    assert status == 422
    assert body["problems"] == [
        {"path": "routes.crm.upstream", "message": "missing", "line": 4},
        {"path": "x", "message": "unknown", "line": None},
    ]


async def test_a_mistake_of_ours_tells_the_caller_nothing(socket_path: Path, program: Program) -> None:
    """What an unforeseen exception says may hold a secret: it goes to the log, redacted, and nowhere else."""
    program.fails = RuntimeError("refresh_token=planted")

    status, _, body = await over_socket(socket_path, "POST", "/api/accounts/books/refresh", headers=JSON)

    assert (status, body["code"]) == (500, "unexpected_error")
    assert "planted" not in json.dumps(body)


async def test_a_change_must_say_that_it_is_json(socket_path: Path, program: Program) -> None:
    """A form of a web page can send neither JSON nor DELETE without asking first; this holds for every change."""
    for method, path in (
        ("POST", "/api/accounts/books/refresh"),
        ("POST", "/api/accounts/books/rebind"),
        ("DELETE", "/api/accounts/books"),
        ("POST", "/api/reload"),
        ("POST", "/api/key/rotate"),
    ):
        status, _, body = await over_socket(socket_path, method, path, headers={"Content-Type": "text/plain"})
        assert (status, body["code"]) == (415, "content_type_refused")

    assert program.rows["books"]["generation"] == 3


async def test_unknown_places_and_methods_are_problems_too(socket_path: Path) -> None:
    """A program that reads JSON gets JSON, whatever it asked for."""
    status, _, body = await over_socket(socket_path, "GET", "/api/nothing")
    assert (status, body["code"]) == (404, "not_found")
    status, _, body = await over_socket(socket_path, "GET", "/api/accounts/nobody")
    assert (status, body["code"]) == (404, "unknown_account")
    status, headers, body = await over_socket(socket_path, "PUT", "/api/reload")
    assert (status, body["code"], headers["Allow"]) == (405, "method_not_allowed", "POST")


async def test_copies_of_the_store_are_for_this_machine_alone(socket_path: Path) -> None:
    """They name files; over TCP the calls are not there (``CHANGES``)."""
    at = {"path": "/backups/today.db"}
    status, _, body = await over_socket(
        socket_path, "POST", "/api/store/backup", headers=JSON, data=json.dumps(at)
    )
    assert (status, body) == (200, {"path": "/backups/today.db", "accounts": 1})
    status, _, body = await over_socket(
        socket_path, "POST", "/api/store/backup", headers=JSON, data=b'{"path": "today.db"}'
    )
    assert status == 400
    status, _, body = await over_socket(socket_path, "POST", "/api/store/verify", headers=JSON)
    assert (status, body["ok"]) == (200, True)


CHANGES = (
    ("POST", "/api/accounts/books/refresh"),
    ("POST", "/api/accounts/books/tokens"),
    ("POST", "/api/accounts/books/rebind"),
    ("DELETE", "/api/accounts/books/anna"),
    ("POST", "/api/reload"),
    ("POST", "/api/key/rotate"),
)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Cookie": f"token={TOKEN}"},
    ],
    ids=["nothing", "wrong", "another scheme", "no scheme", "too long", "empty", "a cookie"],
)
async def test_nothing_is_changed_over_tcp_without_the_token(
    tcp: Running, program: Program, shown: dict[str, str]
) -> None:
    """Reading is open to loopback; whoever wants to change something has read the 0600 file."""
    for method, path in CHANGES:
        status, headers, text = await over_tcp(
            tcp, path, method=method, Content_Type="application/json", **shown
        )
        assert (status, json.loads(text)["code"]) == (401, "admin_token_required")
        assert "tokenproxy.db.admin-token" in json.loads(text)["next_step"]
        assert headers["WWW-Authenticate"].startswith("Bearer ")
        assert TOKEN not in text

    assert program.rows["books"] == {**program.rows["books"], "generation": 3, "state": "ok"}
    assert program.imported == []
    assert (await over_tcp(tcp, "/api/accounts/books"))[0] == 200


async def test_the_token_lets_a_program_change_what_commands_can(tcp: Running, program: Program) -> None:
    """The scheme's name has no case (RFC 9110 section 11.1)."""
    program.put("books/anna")
    for method, path in CHANGES:
        named = {"Content_Type": "application/json", "Authorization": f"bearer  {TOKEN}"}
        status, _, text = await over_tcp(tcp, path, method=method, data="{}", **named)
        assert status == 200, text

    assert program.rows["books"]["generation"] == 4


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content_Type": "text/plain"}, 415, "content_type_refused"),
        ({"Content_Type": "application/json", "Host": "evil.example"}, 403, "host_refused"),
        ({"Content_Type": "application/json", "Origin": "https://evil.example"}, 403, "origin_refused"),
        ({"Content_Type": "application/json", "Sec_Fetch_Site": "same-site"}, 403, "origin_refused"),
    ],
)
async def test_the_token_alone_is_not_enough(
    tcp: Running, program: Program, headers: dict[str, str], status: int, code: str
) -> None:
    """A page that somehow knows the token is still another site's page."""
    found, _, text = await over_tcp(
        tcp, "/api/accounts/books/refresh", method="POST", Authorization=f"Bearer {TOKEN}", **headers
    )

    assert (found, json.loads(text)["code"]) == (status, code)
    assert program.rows["books"]["generation"] == 3


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9100", "127.0.0.1.evil.example", "localhost@evil", "10.0.0.1"]
)
async def test_a_rebound_name_reaches_nothing(tcp: Running, host: str) -> None:
    """DNS rebinding: a page whose name now resolves to us sends that name as Host."""
    for path in ("/", "/api/accounts", "/metrics", "/api/reload"):
        status, _, text = await over_tcp(tcp, path, Host=host)
        assert status == 403
        assert "host_refused" in text
        assert "books" not in text


@pytest.mark.parametrize(
    "host", ["localhost:9100", "[::1]:1", "127.0.0.5", "TOKENS.example", "inside.example:80", "a.localhost"]
)
async def test_our_names_are_taken(tcp: Running, host: str) -> None:
    """Loopback's names, public_url's host and configured ones, whatever the port: people forward ports."""
    assert (await over_tcp(tcp, "/api/accounts", Host=host))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example"},
    ],
)
async def test_other_pages_in_the_browser_reach_nothing(tcp: Running, headers: dict[str, str]) -> None:
    """Another port of localhost is same-site and still another program's page."""
    status, answered, text = await over_tcp(tcp, "/api/accounts", **headers)

    assert status == 403
    assert "origin_refused" in text
    assert not any(name.lower().startswith("access-control") for name in answered)


async def test_our_own_page_may_ask(tcp: Running) -> None:
    """What a browser sends from our page, directly and through a proxy that changed Host."""
    for origin in (f"http://{tcp.address}", "https://tokens.example:8443"):
        status, _, _ = await over_tcp(tcp, "/api/accounts", Origin=origin, Sec_Fetch_Site="same-origin")
        assert status == 200
    assert (await over_tcp(tcp, "/", Sec_Fetch_Site="none"))[0] == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET http://evil.example/api/accounts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/accounts HTTP/1.0\r\n\r\n",
        b"GET /api/accounts HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_host_is_never_guessed(tcp: Running, request_head: bytes) -> None:
    """RFC 9112 section 3.2: an absolute form overrules Host, none or two mean a request that nobody should answer."""
    answer = await raw(tcp, request_head)

    assert answer.split(b" ", 2)[1] == b"400"
    assert b"books" not in answer


async def test_every_answer_is_hardened(tcp: Running) -> None:
    """No cache keeps it, no frame shows it, no page guesses its type, nobody learns our versions; errors included."""
    for path, headers in (("/", {}), ("/metrics", {}), ("/api/nothing", {}), ("/", {"Host": "evil.example"})):
        _, answered, _ = await over_tcp(tcp, path, **headers)
        assert answered["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in answered["Content-Security-Policy"]
        assert answered["X-Frame-Options"] == "DENY"
        assert answered["X-Content-Type-Options"] == "nosniff"
        assert answered["Server"] == "tokenproxy"


async def test_the_metrics_listener_knows_health_and_metrics_only(scrape: Running) -> None:
    """It is often open to the cluster: any Host, but nothing about accounts beyond what metrics say."""
    assert (await over_tcp(scrape, "/metrics", Host="10.1.2.3:9101"))[0] == 200
    assert (await over_tcp(scrape, "/healthz", Host="pod.cluster.local"))[2] == "ok\n"
    for path in ("/", "/api/accounts", "/api/status"):
        assert (await over_tcp(scrape, path))[0] == 404


async def test_readiness_tells_why(scrape: Running, health: Health) -> None:
    """503 with the reason in plain text for people and as JSON for programs; alive stays alive."""

    async def full() -> str | None:
        raise StoreError("The disk is full.")

    health.checks["store"] = full
    health.draining = True

    status, _, text = await over_tcp(scrape, "/readyz")
    assert (status, text) == (503, "draining: shutting down\nstore: The disk is full.\n")
    status, _, text = await over_tcp(scrape, "/readyz", Accept="application/json")
    assert json.loads(text) == {
        "status": "unavailable",
        "reasons": {"draining": "shutting down", "store": "The disk is full."},
    }
    assert (await over_tcp(scrape, "/healthz"))[0] == 200
    assert "tokenproxy_ready 0.0" in (await over_tcp(scrape, "/metrics"))[2]


async def test_probes_of_the_admin_listener_need_no_name(tcp: Running) -> None:
    """A kubelet asks under the pod's address."""
    for path in ("/healthz", "/readyz", "/startupz"):
        assert (await over_tcp(tcp, path, Host="10.244.0.7:9100"))[0] == 200


async def test_status_carries_readiness(socket_path: Path, health: Health) -> None:
    """``tokenproxy status`` shows in one call what the program is and whether it works."""
    health.draining = True

    _, _, body = await over_socket(socket_path, "GET", "/api/status")

    assert body["pid"] == 4711
    assert (body["ready"], body["reasons"]) == (False, {"draining": "shutting down"})


async def test_a_body_that_never_ends_is_given_up(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp itself waits for the rest of a body for ever."""
    monkeypatch.setattr(answers, "BODY_DEADLINE", 0.05)
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(
        b"POST /api/accounts/books/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 100\r\n\r\nhalf"
    )

    head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_caller_who_leaves_in_the_middle_imports_nothing(
    socket_path: Path, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a token answer is none; and a caller's leaving is no mistake of ours to log."""
    _, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(
        b"POST /api/accounts/books/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 100\r\n\r\nhalf"
    )
    await writer.drain()
    writer.close()

    status, _, _ = await over_socket(socket_path, "GET", "/api/accounts")
    assert status == 200
    assert program.imported == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_documentation_lists_every_code() -> None:
    """Programs are written against that page."""
    documented = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text(encoding="utf-8")

    for answer in ANSWERS.values():
        (row,) = re.findall(rf"^\| ([45][\d, ]+) \|.*`{answer.code}`", documented, re.MULTILINE)
        assert str(answer.status) in row


async def test_many_accounts_are_told_as_they_are_read(socket_path: Path, program: Program) -> None:
    """100,000 in one piece would hold up everybody's requests; whoever reads it gets one whole document."""
    for number in range(1200):
        program.put(f"crm/{number:04}")
    status, headers, row = await over_socket(socket_path, "GET", "/api/accounts")
    assert (status, headers["Transfer-Encoding"]) == (200, "chunked")
    assert row["accounts"] == await program.statuses()
    assert headers["Content-Security-Policy"]

    program.rows.clear()
    _, _, row = await over_socket(socket_path, "GET", "/api/accounts")
    assert row == {"accounts": []}
