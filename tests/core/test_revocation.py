"""How each provider wants to be told that a login is over; and a pushed authorization request."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tokenproxy.core.account import Event
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration, Revoke
from tokenproxy.core.pushed import pushed
from tokenproxy.core.replies import Failure, Reply
from tokenproxy.core.revocation import revocation
from tokenproxy.core.steps import Flow, TokenRequest
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HELD = TokenSet("ACCESS+", "REFRESH/")
URL = "https://p.example/revoke"
PLAIN = Provider(
    name="plain",
    token_url="https://p.example/token",
    token_method="GET",
    token_params={"resource": "x"},
    token_headers={"X-Api-Key": "k"},
    client_auth=ClientAuth.POST,
    rename={"client_id": "app"},
)


def account(**changes: Any) -> Account:
    registration = Registration(client_id="id", client_secret="secret")
    return Account(name="books", provider=replace(PLAIN, **changes), registration=registration)


def first(flow: Flow[Any]) -> TokenRequest:
    request = next(flow)
    assert isinstance(request, TokenRequest)
    return request


def told(revoke: Revoke, held: TokenSet = HELD) -> TokenRequest:
    return first(revocation(account(revoke=revoke), held, now=NOW))


def form(request: TokenRequest) -> dict[str, str]:
    return dict(parse_qsl((request.body or b"").decode(), strict_parsing=True))


def ended(flow: Flow[Any], reply: Reply) -> Any:
    with pytest.raises(StopIteration) as finished:
        flow.send(reply)
    return finished.value.value


def test_as_rfc_7009_has_it() -> None:
    """A POST of a form with the refresh token, what it is, and the client; nothing of the token requests' own."""
    request = told(Revoke(url=URL))
    assert (request.method, request.url) == ("POST", URL)
    assert form(request) == {
        "token": "REFRESH/",
        "token_type_hint": "refresh_token",
        "app": "id",
        "client_secret": "secret",
    }
    assert "X-Api-Key" not in request.headers
    assert "REFRESH" not in repr(request)


def test_names_of_token_requests_are_not_those_of_revocations() -> None:
    """But for the client's own, which a provider spells in one way everywhere."""
    renamed = account(
        revoke=Revoke(url=URL), rename={"client_id": "app", "token": "x", "token_type_hint": ""}
    )

    assert form(first(revocation(renamed, HELD, now=NOW))).keys() == {
        "token",
        "token_type_hint",
        "app",
        "client_secret",
    }


def test_the_access_token_where_there_is_no_other() -> None:
    assert form(told(Revoke(url=URL), TokenSet("ACCESS+")))["token_type_hint"] == "access_token"
    assert form(told(Revoke(url=URL, token="access_token")))["token"] == "ACCESS+"


def test_hubspot() -> None:
    """DELETE with the token in the path, encoded once, and nothing else."""
    request = told(Revoke(url=f"{URL}/{{token}}", method="DELETE", body="none", auth="none"))
    assert (request.method, request.url, request.body) == ("DELETE", f"{URL}/REFRESH%2F", None)
    assert "Authorization" not in request.headers


def test_github() -> None:
    """JSON and Basic, the client in the path, a version header."""
    request = told(
        Revoke(
            url="https://p.example/applications/{client_id}/token",
            method="DELETE",
            body="json",
            token="access_token",
            parameter="access_token",
            auth="basic",
            headers={"X-Version": "1"},
        )
    )
    assert (request.method, request.url) == ("DELETE", "https://p.example/applications/id/token")
    assert json.loads(request.body or b"") == {"access_token": "ACCESS+"}
    assert b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"id:secret"
    assert request.headers["X-Version"] == "1"


def test_dropbox() -> None:
    """The token itself in the header."""
    request = told(Revoke(url=URL, token="access_token", body="none", auth="bearer"))
    assert (request.headers["Authorization"], request.body, request.url) == ("Bearer ACCESS+", None, URL)


def test_google() -> None:
    """The token alone in a form."""
    assert form(told(Revoke(url=URL, auth="none"))) == {"token": "REFRESH/"}
    asked = told(Revoke(url=URL, auth="none", method="GET"))
    assert (asked.url, asked.body) == (f"{URL}?token=REFRESH%2F", None)


@pytest.mark.parametrize(
    ("status", "body", "taken"),
    [
        (200, b"", True),
        (204, b"", True),
        (200, b'{"ok": true, "revoked": true}', True),
        (200, b"<html>", True),
        (200, b'{"ok": false, "error": "invalid_auth"}', False),
        (200, b'{"ok": false}', False),
        (302, b"", False),
        (400, b'{"error": "unsupported_token_type"}', False),
        (503, b"", False),
    ],
)
def test_whether_the_provider_took_it(status: int, body: bytes, taken: bool) -> None:
    """RFC 7009 section 2.2: an unknown token is 200 too; 503 means that it lives."""
    flow = revocation(account(revoke=Revoke(url=URL)), HELD, now=NOW)
    first(flow)
    assert ended(flow, Reply(status, {}, body)) is taken


@pytest.mark.parametrize(("revoke", "held"), [(None, HELD), (Revoke(url=URL), TokenSet(""))])
def test_nothing_to_tell(revoke: Revoke | None, held: TokenSet) -> None:
    with pytest.raises(StopIteration) as finished:
        next(revocation(account(revoke=revoke), held, now=NOW))
    assert finished.value.value is None


def test_a_pushed_request() -> None:
    """RFC 9126 section 2.1: the authorization request's parameters and our client authentication, as a form."""
    flow = pushed(account(par_url="https://p.example/par"), {"state": "S", "scope": "a b"}, now=NOW)
    request = first(flow)
    assert (request.method, request.url) == ("POST", "https://p.example/par")
    assert form(request) == {"state": "S", "scope": "a b", "app": "id", "client_secret": "secret"}
    assert ended(flow, Reply(201, {}, b'{"request_uri": "urn:x:1", "expires_in": 60}')) == "urn:x:1"


@pytest.mark.parametrize(
    ("status", "body", "event"),
    [
        (400, b'{"error": "invalid_request"}', Event.REGISTRATION_REFUSED),
        (401, b'{"error": "invalid_client"}', Event.REGISTRATION_REFUSED),
        (201, b'{"request_uri": ""}', Event.PROVIDER_DOWN),
        (201, b'{"request_uri": 1}', Event.PROVIDER_DOWN),
        (503, b"", Event.PROVIDER_DOWN),
        (302, b"", Event.REGISTRATION_REFUSED),
    ],
)
def test_a_pushed_request_that_is_refused(status: int, body: bytes, event: Event) -> None:
    flow = pushed(account(par_url="https://p.example/par"), {"state": "S"}, now=NOW)
    first(flow)
    answer = ended(flow, Reply(status, {}, body))
    assert isinstance(answer, Failure)
    assert answer.event is event


def test_nowhere_to_push() -> None:
    with pytest.raises(ValueError, match="pushed"):
        next(pushed(account(), {}, now=NOW))
