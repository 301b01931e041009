"""What is taken from an issuer's document, and what of it must not be followed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tokenproxy.core.discovery import (
    Metadata,
    NoMetadataError,
    WrongMetadataError,
    completed,
    metadata_requests,
    read_metadata,
)
from tokenproxy.core.provider import Account, Callback, ClientAuth, Provider, Registration, Revoke, Validate
from tokenproxy.core.replies import LARGEST_ANSWER, Reply
from tokenproxy.core.settings import TLSFiles

ISSUER = "https://as.example/tenant"
PLAIN = Provider(name="plain", token_url="", issuer=ISSUER)
DOCUMENT = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://as.example/authorize",
    "token_endpoint": "https://as.example/token",
    "device_authorization_endpoint": "https://as.example/device",
    "pushed_authorization_request_endpoint": "https://as.example/par",
    "revocation_endpoint": "https://as.example/revoke",
    "introspection_endpoint": "https://as.example/introspect",
    "jwks_uri": "http://ignored.example",
    "mtls_endpoint_aliases": {
        "token_endpoint": "https://mtls.as.example/token",
        "revocation_endpoint": "https://mtls.as.example/revoke",
        "authorization_endpoint": "https://mtls.as.example/never",
    },
}


def reply(status: int = 200, **changes: Any) -> Reply:
    return Reply(status, {}, json.dumps({**DOCUMENT, **changes}).encode())


def filled(metadata: Metadata | None = None, **changes: Any) -> Provider:
    provider = replace(PLAIN, **changes)
    account = Account(name="books", provider=provider, registration=Registration(client_id="id"))
    return completed(account, metadata or read_metadata(reply(), ISSUER)).provider


@pytest.mark.parametrize(
    ("issuer", "inserted", "appended"),
    [
        (
            "https://as.example",
            "https://as.example/.well-known/oauth-authorization-server",
            "https://as.example/.well-known/openid-configuration",
        ),
        (
            "https://as.example/tenant/",
            "https://as.example/.well-known/oauth-authorization-server/tenant",
            "https://as.example/tenant/.well-known/openid-configuration",
        ),
        (
            "http://127.0.0.1:8080/a/b",
            "http://127.0.0.1:8080/.well-known/oauth-authorization-server/a/b",
            "http://127.0.0.1:8080/a/b/.well-known/openid-configuration",
        ),
    ],
)
def test_where_the_document_lies(issuer: str, inserted: str, appended: str) -> None:
    """RFC 8414 section 3.1 puts its name before the path, OpenID Connect behind it."""
    requests = metadata_requests(issuer)
    assert [(request.method, request.url) for request in requests] == [("GET", inserted), ("GET", appended)]
    assert all("Authorization" not in request.headers for request in requests)


def test_what_the_profile_leaves_open_is_filled() -> None:
    """Nothing is pushed unless the server demands it, nothing validated unless the profile asks for it."""
    provider = filled()
    assert provider.authorize_url == "https://as.example/authorize"
    assert provider.token_url == "https://as.example/token"
    assert provider.device_url == "https://as.example/device"
    assert provider.revoke == Revoke(url="https://as.example/revoke")
    assert (provider.par_url, provider.validate, provider.refresh_url) == ("", None, "")
    assert provider.client_auth is PLAIN.client_auth


def test_what_the_profile_says_stays() -> None:
    revoke, own = Revoke(url="https://own.example/r"), "https://own.example/x"
    validate = Validate(url="https://own.example/v", introspect=True)
    provider = filled(
        token_url=own, authorize_url=own, device_url=own, par_url=own, revoke=revoke, validate=validate
    )
    assert {provider.token_url, provider.authorize_url, provider.device_url, provider.par_url} == {own}
    assert (provider.revoke, provider.validate) == (revoke, validate)


def test_what_a_server_demands() -> None:
    """RFC 9126 section 5 and RFC 9207 section 3; anything but ``true`` is no demand."""
    must = read_metadata(
        reply(
            require_pushed_authorization_requests=True, authorization_response_iss_parameter_supported=True
        ),
        ISSUER,
    )
    assert (filled(must).par_url, filled(must).callback.iss) == ("https://as.example/par", True)
    may = read_metadata(reply(require_pushed_authorization_requests="yes"), ISSUER)
    assert (filled(may).par_url, filled(may).callback.iss) == ("", False)
    assert filled(may, callback=Callback(iss=True)).callback.iss


def test_introspection_where_the_profile_asks_for_it() -> None:
    ask = Validate(url="", introspect=True)
    assert filled(validate=ask).validate == Validate(url="https://as.example/introspect", introspect=True)
    none = read_metadata(reply(introspection_endpoint=None), ISSUER)
    assert filled(none, validate=ask).validate is None


@pytest.mark.parametrize(
    "changes", [{"client_auth": ClientAuth.MTLS}, {"tls": TLSFiles(cert_file="c.pem", key_file="k.pem")}]
)
def test_a_client_with_a_certificate_goes_where_it_is_looked_at(changes: dict[str, Any]) -> None:
    """RFC 8705 section 5; the browser, which has none, does not."""
    provider = filled(**changes)
    assert provider.token_url == "https://mtls.as.example/token"
    assert provider.revoke == Revoke(url="https://mtls.as.example/revoke")
    assert provider.device_url == "https://as.example/device"
    assert provider.authorize_url == "https://as.example/authorize"


@pytest.mark.parametrize(
    "other", ["https://as.example/tenant/", "https://AS.example/tenant", "https://as.example", "", None, 1]
)
def test_another_issuers_document(other: object) -> None:
    """RFC 8414 section 3.3: character by character."""
    with pytest.raises(WrongMetadataError, match="another issuer"):
        read_metadata(reply(issuer=other), ISSUER)


@pytest.mark.parametrize(
    "address",
    [
        "http://as.example/token",
        "http://127.0.0.1/token",
        "ftp://as.example/token",
        "//as.example/token",
        "/token",
        "https://",
        "https://user@as.example/token",
        "https://as.example/token#x",
        "https://as.example/to ken",
        "https://as.example/to\r\nken",
        "https://as.example:99999/token",
        "https://as.example/" + "x" * 2048,
        ["https://as.example/token"],
        1,
    ],
)
@pytest.mark.parametrize("where", ["document", "aliases"])
def test_an_endpoint_that_is_not_followed(address: object, where: str) -> None:
    """The whole document is worth nothing then."""
    changes: dict[str, Any] = {"token_endpoint": address}
    if where == "aliases":
        changes = {"mtls_endpoint_aliases": changes}
    with pytest.raises(WrongMetadataError, match="token_endpoint"):
        read_metadata(reply(**changes), ISSUER)


@pytest.mark.parametrize(
    ("issuer", "address", "taken"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:2/t", True),
        ("http://127.0.0.1:1", "http://localhost:2/t", True),
        ("http://127.0.0.1:1", "https://as.example/t", True),
        ("http://127.0.0.1:1", "http://as.example/t", False),
        ("http://lab.example", "http://lab.example/t", True),
        ("http://lab.example", "http://other.example/t", False),
        ("http://lab.example", "http://127.0.0.1/t", False),
    ],
)
def test_in_the_clear_only_beside_an_issuer_in_the_clear(issuer: str, address: str, taken: bool) -> None:
    body = json.dumps({"issuer": issuer, "token_endpoint": address}).encode()
    if taken:
        assert read_metadata(Reply(200, {}, body), issuer).endpoints == {"token_endpoint": address}
    else:
        with pytest.raises(WrongMetadataError):
            read_metadata(Reply(200, {}, body), issuer)


@pytest.mark.parametrize(
    "found",
    [
        Reply(404, {}, b"{}"),
        Reply(302, {"location": "https://evil.example"}, b""),
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b"[]"),
        Reply(200, {}, b"\xff"),
        Reply(200, {}, b'{"issuer": "' + b"x" * LARGEST_ANSWER + b'"}'),
    ],
)
def test_no_document(found: Reply) -> None:
    with pytest.raises(NoMetadataError):
        read_metadata(found, ISSUER)


def test_nobody_names_a_token_endpoint() -> None:
    with pytest.raises(WrongMetadataError, match="token_url"):
        filled(Metadata())
