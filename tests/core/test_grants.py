"""The exact wire form of token requests, against what each guide prints."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from tokenproxy.config import presets
from tokenproxy.core.grants import GRANTS, Ask, TokenRequest, token_request, validate_request
from tokenproxy.core.provider import (
    Account,
    AnswerFields,
    ClientAuth,
    Inject,
    Provider,
    Registration,
    TokenBody,
    Validate,
)
from tokenproxy.core.replies import Answer, Granted, Reply
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRESETS = {name: preset.provider for name, preset in presets().items()}
PLAIN = Provider(name="plain", token_url="https://p.example/token", client_auth=ClientAuth.POST)


def account(
    provider: Provider, client_id: str = "CLIENT_ID", client_secret: str = "CLIENT_SECRET"
) -> Account:
    return Account(
        name="books",
        provider=provider,
        registration=Registration(client_id=client_id, client_secret=client_secret),
    )


def refresh(of: Account, held: TokenSet | None = None) -> TokenRequest:
    held = held or TokenSet("ACCESS_TOKEN", "REFRESH_TOKEN", scope="narrower", scope_asked="SCOPES")
    request = next(GRANTS["refresh_token"](Ask(account=of, held=held, now=NOW)))
    assert isinstance(request, TokenRequest)
    return request


def sent(
    provider: Provider, client_id: str = "id", client_secret: str = "secret", **params: str
) -> TokenRequest:
    return token_request(account(provider, client_id, client_secret), params, url=provider.token_url)


# -- the four guides ---------------------------------------------------------------------------------------------------


def test_deskera_as_its_guide_has_it() -> None:
    """seeds/000: POST, everything in the query, no body, no type; the Basic value is the guide's own."""
    request = refresh(account(PRESETS["deskera"], "cl_pub_1234", "cl_priv_7723"))
    assert request.method == "POST"
    assert request.url == (
        "https://api-staging.deskera.xyz/v2/oauth/token?grant_type=refresh_token&refresh_token=REFRESH_TOKEN"
    )
    assert request.headers["Authorization"] == "Basic Y2xfcHViXzEyMzQ6Y2xfcHJpdl83NzIz"
    assert request.body is None
    assert "Content-Type" not in request.headers


def test_deskeras_exchange_has_the_same_form() -> None:
    """The guide's first token request, parameter by parameter."""
    provider = PRESETS["deskera"]
    params = {"grant_type": "authorization_code", "scope": "write", "code": "9wSQbM"}
    request = token_request(account(provider), params, url=provider.token_url)
    assert request.url == (
        "https://api-staging.deskera.xyz/v2/oauth/token?grant_type=authorization_code&scope=write&code=9wSQbM"
    )


def test_deskeras_validate_call() -> None:
    """A GET with the bare token in ``x-access-token``."""
    request = validate_request(account(PRESETS["deskera"]), TokenSet("a.b.c"))
    assert (request.method, request.url) == (
        "GET",
        "https://api-staging.deskera.xyz/v1/iam/token/app/validate",
    )
    assert request.headers["x-access-token"] == "a.b.c"
    assert "Authorization" not in request.headers
    assert request.body is None


def test_perscom_as_its_guide_has_it() -> None:
    """seeds/001: a form with grant, token, client and the scope that was asked for; no Authorization."""
    request = refresh(account(replace(PRESETS["perscom"], token_url="https://DASHBOARD_URL/oauth/token")))
    assert (request.method, request.url) == ("POST", "https://DASHBOARD_URL/oauth/token")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in request.headers
    assert dict(parse_qsl((request.body or b"").decode(), strict_parsing=True)) == {
        "grant_type": "refresh_token",
        "refresh_token": "REFRESH_TOKEN",
        "client_id": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
        "scope": "SCOPES",
    }


def test_askara_as_its_guide_has_it() -> None:
    """seeds/003: the same names in a JSON object, and no scope."""
    request = refresh(account(PRESETS["askara"]))
    assert (request.method, request.url) == ("POST", "https://api.askara.ai/oauth2/token")
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers
    assert json.loads(request.body or b"") == {
        "grant_type": "refresh_token",
        "refresh_token": "REFRESH_TOKEN",
        "client_id": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
    }


def test_deskpros_example_can_be_said() -> None:
    """seeds/002: GET /token?secret=..&access_code=.., the answer's token in ``token``: all of it data."""
    provider = Provider(
        name="deskpro-example",
        token_url="https://example.com/token",
        token_method="GET",
        client_auth=ClientAuth.QUERY,
        rename={"grant_type": "", "client_id": "", "client_secret": "secret", "code": "access_code"},
        answer=AnswerFields(access_token=("token",)),
    )
    request = sent(provider, "key", "__secret__", grant_type="authorization_code", code="29d2ef")
    assert request.method == "GET"
    assert request.url == "https://example.com/token?access_code=29d2ef&secret=__secret__"
    assert request.body is None
    assert "Content-Type" not in request.headers


# -- where parameters travel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", TokenBody)
def test_kilobytes_of_odd_signs_arrive_as_they_were(body: TokenBody) -> None:
    """Percent-encoded exactly once: ``+``, ``/`` and ``=`` of plain base64 are in Deskera's tokens."""
    token = "a+/=%2B&?# ~" * 1000
    held = TokenSet("a", token)
    request = refresh(account(replace(PLAIN, token_body=body)), held)
    carried = request.url.partition("?")[2] if body is TokenBody.QUERY else (request.body or b"").decode()
    found = json.loads(carried) if body is TokenBody.JSON else dict(parse_qsl(carried, strict_parsing=True))
    assert found["refresh_token"] == token
    assert "+" not in carried or body is TokenBody.JSON


def test_a_query_that_the_url_has_stays() -> None:
    """RFC 6749 section 3.2; Dropbox Sign's refresh URL is the token URL with ``?refresh``."""
    provider = replace(
        PLAIN,
        token_body=TokenBody.QUERY,
        refresh_url="https://p.example/token?refresh",
        client_auth=ClientAuth.NONE,
    )
    assert refresh(account(provider)).url == (
        "https://p.example/token?refresh&grant_type=refresh_token&refresh_token=REFRESH_TOKEN&client_id=CLIENT_ID"
    )
    form = replace(provider, token_body=TokenBody.FORM)
    assert refresh(account(form)).url == "https://p.example/token?refresh"


def test_no_parameter_is_sent_empty() -> None:
    """RFC 6749 section 3.2; Pipedrive and drchrono refuse them."""
    for method in (ClientAuth.POST, ClientAuth.QUERY):
        provider = replace(PLAIN, client_auth=method, token_params={"audience": ""})
        request = sent(provider, client_secret="", grant_type="refresh_token", scope="")
        whole = request.url + (request.body or b"").decode()
        assert "=&" not in whole
        assert not whole.endswith("=")
        assert "client_secret" not in whole


def test_renamed_and_left_out() -> None:
    """TikTok says ``client_key``, Figma wants no ``grant_type``; an empty name leaves a parameter out."""
    provider = replace(PLAIN, rename={"client_id": "client_key", "grant_type": ""})
    body = dict(parse_qsl((refresh(account(provider)).body or b"").decode()))
    assert body == {
        "client_key": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
        "refresh_token": "REFRESH_TOKEN",
    }


def test_fixed_parameters_and_headers() -> None:
    """Some are for every token request, some for a refresh; a provider's own header wins over ours."""
    provider = replace(
        PLAIN,
        token_params={"resource": "x"},
        refresh_params={"type": "refresh"},
        token_headers={"X-Api-Key": "k", "Accept": "*/*"},
    )
    request = refresh(account(provider))
    assert b"resource=x" in (request.body or b"")
    assert b"type=refresh" in (request.body or b"")
    assert (request.headers["X-Api-Key"], request.headers["Accept"]) == ("k", "*/*")
    assert b"type=refresh" not in (sent(provider, grant_type="x").body or b"")


@pytest.mark.parametrize(
    ("resend", "asked", "wanted"),
    [(True, "SCOPES", "SCOPES"), (True, None, None), (False, "SCOPES", None)],
)
def test_the_scope_that_was_asked_for(resend: bool, asked: str | None, wanted: str | None) -> None:
    """Only where the profile says so, and never what was granted or what the config says by now."""
    provider = replace(PLAIN, refresh_scope=resend, scopes=("changed", "since"))
    request = refresh(account(provider), TokenSet("a", "r", scope="granted", scope_asked=asked))
    assert dict(parse_qsl((request.body or b"").decode())).get("scope") == wanted


# -- client authentication ---------------------------------------------------------------------------------------------


def basic(request: TokenRequest) -> str:
    return b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()


def test_basic_is_form_encoded_first() -> None:
    """RFC 6749 section 2.3.1: a colon in the id would otherwise end it, a blank becomes a plus."""
    provider = replace(PLAIN, client_auth=ClientAuth.BASIC)
    assert basic(sent(provider, "my app:1", "s%c+r é:t")) == "my+app%3A1:s%25c%2Br+%C3%A9%3At"
    raw = replace(PLAIN, client_auth=ClientAuth.BASIC_RAW)
    assert basic(sent(raw, "my app", "s%c+r:t")) == "my app:s%c+r:t"


@pytest.mark.parametrize(
    ("method", "header", "query", "body"),
    [
        (ClientAuth.BASIC, True, "", {"a"}),
        (ClientAuth.BASIC_RAW, True, "", {"a"}),
        (ClientAuth.POST, False, "", {"a", "client_id", "client_secret"}),
        (ClientAuth.QUERY, False, "client_id=id&client_secret=secret", {"a"}),
        (ClientAuth.NONE, False, "", {"a", "client_id"}),
    ],
)
def test_exactly_one_client_authentication(
    method: ClientAuth, header: bool, query: str, body: set[str]
) -> None:
    """RFC 6749 section 2.3: two at once are an error at some servers."""
    request = sent(replace(PLAIN, client_auth=method), a="1")
    assert ("Authorization" in request.headers) is header
    assert request.url.partition("?")[2] == query
    assert dict(parse_qsl((request.body or b"").decode())).keys() == body


@pytest.mark.parametrize(
    "method", [ClientAuth.MTLS, ClientAuth.PRIVATE_KEY_JWT, ClientAuth.CLIENT_SECRET_JWT]
)
def test_what_is_not_in_this_version_is_not_sent_unauthenticated(method: ClientAuth) -> None:
    """The config refuses them first; this is the second line."""
    with pytest.raises(ValueError, match="not in this version"):
        sent(replace(PLAIN, client_auth=method))


# -- flows -------------------------------------------------------------------------------------------------------------


def test_a_refresh_by_hand() -> None:
    """One request, one answer, no network: the flow is a generator."""
    flow = GRANTS["refresh_token"](
        Ask(account=account(PLAIN), held=TokenSet("a", "r", scope_asked="s"), now=NOW)
    )
    next(flow)
    with pytest.raises(StopIteration) as stopped:
        flow.send(Reply(200, {}, b'{"access_token":"a2","expires_in":60}'))
    answer: Answer = stopped.value.value
    assert isinstance(answer, Granted)
    assert answer.tokens.expires_at == NOW + timedelta(seconds=60)
    assert answer.tokens.scope_asked == "s"


@pytest.mark.parametrize("held", [None, TokenSet("a")])
def test_nothing_to_refresh_with(held: TokenSet | None) -> None:
    """Asking a provider with an empty token could cost a rate limit, or worse."""
    flow = GRANTS["refresh_token"](Ask(account=account(PLAIN), held=held, now=NOW))
    with pytest.raises(ValueError, match="refresh token"):
        next(flow)


def test_a_validate_call_puts_the_token_where_the_api_wants_it() -> None:
    """With its scheme word, or without."""
    provider = replace(
        PLAIN,
        validate=Validate(url="https://p.example/v", method="POST"),
        inject=Inject(header="X-T", value="Token {access_token}"),
    )
    request = validate_request(account(provider), TokenSet("abc"))
    assert (request.method, request.headers["X-T"]) == ("POST", "Token abc")
    with pytest.raises(ValueError, match="no validate call"):
        validate_request(account(PLAIN), TokenSet("abc"))


def test_nothing_secret_in_a_requests_repr() -> None:
    """Deskera's URL holds the refresh token, and reprs end up in tracebacks."""
    shown = repr(refresh(account(PRESETS["deskera"])))
    assert "TOKEN" not in shown
    assert "Basic" not in shown
