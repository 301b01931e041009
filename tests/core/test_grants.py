"""The exact wire form of token requests, against what each guide prints."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from tokenproxy.config import presets
from tokenproxy.core.account import Event, Reason
from tokenproxy.core.grants import (
    GRANTS,
    TRAITS,
    Ask,
    Flow,
    OriginRequest,
    TokenRequest,
    renewal,
    token_request,
)
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
from tokenproxy.core.replies import Answer, Failure, Granted, Reply
from tokenproxy.core.tokens import TokenSet
from tokenproxy.core.validation import liveness, validate_request

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
    """Deskera's guide: POST, everything in the query, no body, no type; the Basic value is the guide's own."""
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
    """PERSCOM.io's guide: a form with grant, token, client and the scope that was asked for; no Authorization."""
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
    """Askara's guide: the same names in a JSON object, and no scope."""
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
    """Deskpro's guide: GET /token?secret=..&access_code=.., the answer's token in ``token``: all of it data."""
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
        (ClientAuth.MTLS, False, "", {"a", "client_id"}),
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


@pytest.mark.parametrize("method", [ClientAuth.PRIVATE_KEY_JWT, ClientAuth.CLIENT_SECRET_JWT])
def test_what_is_not_signed_is_not_sent_unauthenticated(method: ClientAuth) -> None:
    """A public client's request by mistake could be answered."""
    with pytest.raises(ValueError, match="needs a signed assertion"):
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


INSTAGRAM = replace(
    PLAIN,
    refresh_url="https://p.example/refresh_access_token",
    refresh_with="access_token",
    refresh_method="GET",
    refresh_params={"grant_type": "ig_refresh_token"},
    refresh_rename={"client_id": "", "client_secret": ""},
)


def test_an_access_token_that_renews_itself() -> None:
    """Instagram: no refresh tokens, a GET with the living token; the provider's other requests stay as they are."""
    request = refresh(account(INSTAGRAM), TokenSet("LIVING"))
    assert (request.method, request.body) == ("GET", None)
    assert request.url == (
        "https://p.example/refresh_access_token?grant_type=ig_refresh_token&access_token=LIVING"
    )
    assert sent(INSTAGRAM, grant_type="x").method == "POST"


def test_a_dead_access_token_renews_nothing() -> None:
    """Asking would be refused anyway: only a person helps."""
    held = TokenSet("DEAD", issued_at=NOW - timedelta(days=60), expires_at=NOW)
    answer = ended(GRANTS["refresh_token"](Ask(account=account(INSTAGRAM), held=held, now=NOW)))
    assert isinstance(answer, Failure)
    assert (answer.event, answer.reason) == (Event.REFUSED, Reason.NO_REFRESH_TOKEN)


def test_a_refresh_under_names_of_its_own() -> None:
    """Facebook's long-lived tokens, Agiloft's secret: ``refresh_rename`` goes before ``rename``."""
    provider = replace(
        PLAIN,
        rename={"client_id": "app", "client_secret": "s"},
        refresh_rename={"client_id": "key", "refresh_token": "fb_exchange_token"},
    )
    assert dict(parse_qsl((refresh(account(provider)).body or b"").decode())) == {
        "grant_type": "refresh_token",
        "fb_exchange_token": "REFRESH_TOKEN",
        "key": "CLIENT_ID",
        "s": "CLIENT_SECRET",
    }
    assert b"app=id" in (sent(provider, a="1").body or b"")


def test_a_refresh_authenticated_in_another_way() -> None:
    """Keap: the secret in the body of an exchange, in the header of a refresh, and in one place each time."""
    provider = replace(PLAIN, client_auth=ClientAuth.POST, refresh_auth=ClientAuth.BASIC)

    assert "CLIENT_SECRET" not in (refresh(account(provider)).body or b"").decode()
    assert "Authorization" in refresh(account(provider)).headers
    assert "Authorization" not in sent(provider, a="1").headers


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


# -- accounts that need no person --------------------------------------------------------------------------------------

HELD = TokenSet("HELD", scope_asked="SCOPES")


def machine(grant: str, **changes: object) -> Account:
    return replace(account(PLAIN), grant=grant, scopes=("a", "b"), **changes)  # type: ignore[arg-type]


def ended(flow: Flow[Answer], body: str | None = None) -> Answer:
    """What a flow comes to whose only step is answered with ``body``; None: it has no step."""
    try:
        next(flow)
        assert body is not None
        flow.send(Reply(200, {}, body.encode()))
    except StopIteration as finished:
        answer: Answer = finished.value
        return answer
    raise AssertionError("one step more than expected")


@pytest.mark.parametrize(
    ("grant", "changes", "sent_"),
    [
        (
            "client_credentials",
            {"params": {"audience": "https://api.example"}},
            {"grant_type": "client_credentials", "audience": "https://api.example"},
        ),
        (
            "password",
            {"params": {"username": "a+b", "password": "p w&="}},
            {"grant_type": "password", "username": "a+b", "password": "p w&="},
        ),
    ],
)
def test_what_a_machine_sends(grant: str, changes: dict[str, object], sent_: dict[str, str]) -> None:
    """RFC 6749 sections 4.3.2 and 4.4.2, the client in the body as the profile says."""
    request = next(renewal(Ask(account=machine(grant, **changes), held=None, now=NOW)))

    assert isinstance(request, TokenRequest)
    assert dict(parse_qsl((request.body or b"").decode())) == {
        **sent_,
        "scope": "a b",
        "client_id": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
    }
    assert "p w" not in repr(request)


def test_a_token_exchange_reads_before_it_asks() -> None:
    """RFC 8693 section 2.1; the subject token is what lies there now, without its line end."""
    params = {"subject_token_type": "urn:x", "audience": "api"}
    account_ = machine("token_exchange", presented={"subject_token": "file:workload"}, params=params)
    flow = renewal(Ask(account=account_, held=HELD, now=NOW))

    assert next(flow) == OriginRequest("file:workload")
    request = flow.send(Reply(200, {}, b"WORKLOAD\n"))
    assert isinstance(request, TokenRequest)
    given = dict(parse_qsl((request.body or b"").decode()))
    assert given["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert (given["subject_token"], given["audience"]) == ("WORKLOAD", "api")
    refused = Reply(400, {}, b'{"error": "invalid_request", "error_description": "WORKLOAD has expired"}')
    with pytest.raises(StopIteration) as finished:
        flow.send(refused)
    assert finished.value.value.text == "invalid_request: … has expired"


def test_a_token_that_no_header_can_carry_is_not_usable() -> None:
    """RFC 8693 section 2.2.1: ``N_A`` means that it is no access token."""
    flow = renewal(Ask(account=machine("client_credentials"), held=None, now=NOW))
    answer = ended(flow, '{"access_token": "x", "token_type": "N_A", "issued_token_type": "urn:y"}')

    assert isinstance(answer, Failure)
    assert answer.event is Event.REGISTRATION_REFUSED


def jwt(exp: float) -> str:
    claims = urlsafe_b64encode(json.dumps({"exp": exp, "iat": exp - 3600}).encode()).decode().rstrip("=")
    return f"e30.{claims}.sig"


@pytest.mark.parametrize(
    ("text", "token", "ends"),
    [
        ("bare\n", "bare", None),
        ('{"access_token": "json", "expires_in": 60}', "json", NOW + timedelta(seconds=60)),
        (jwt((NOW + timedelta(minutes=5)).timestamp()), None, NOW + timedelta(minutes=5)),
        ("two words", "", None),
        ("null", "", None),
        ("", "", None),
        ('{"error": "not logged in"}', "", None),
        ('{"refresh_token": "alone"}', "", None),
        ('"quoted"', "", None),
        (jwt((NOW - timedelta(seconds=1)).timestamp()), "", None),
    ],
)
def test_what_a_file_or_command_gives(text: str, token: str | None, ends: datetime | None) -> None:
    """Bare or as an answer; what has expired or is no token is a failure for now, since its maker may be late."""
    for grant in ("file", "command"):
        flow = renewal(Ask(account=machine(grant, token_from="file:x"), held=HELD, now=NOW))
        answer = ended(flow, text)
        if token == "":
            assert isinstance(answer, Failure)
            assert (answer.event, answer.reason) == (Event.PROVIDER_DOWN, Reason.SOURCE_FAILED)
            continue
        assert isinstance(answer, Granted)
        assert answer.tokens.access_token == (token or text)
        assert answer.tokens.expires_at == ends


@pytest.mark.parametrize(
    ("grant", "event"),
    [("static", Event.REGISTRATION_REFUSED), ("file", Event.PROVIDER_DOWN), ("command", Event.PROVIDER_DOWN)],
)
def test_the_token_that_was_refused_is_no_new_one(grant: str, event: Event) -> None:
    """Sending it again would earn the next 401; another one is welcome."""
    for refused in (True, False):
        for token in ("HELD", "OTHER"):
            account_ = machine(grant, token=token, token_from="file:x")
            flow = renewal(Ask(account=account_, held=HELD, now=NOW, refused=refused))
            answer = ended(flow, None if grant == "static" else token)
            if refused and token == "HELD":
                assert isinstance(answer, Failure)
                assert (answer.event, answer.reason) == (event, Reason.TOKEN_REFUSED)
            else:
                assert isinstance(answer, Granted)


def test_every_grant_of_the_config_can_be_performed() -> None:
    """What an account may name has a flow; a login's tokens are kept by the refresh."""
    assert {name for name, traits in TRAITS.items() if not traits.person} <= GRANTS.keys()


ZOHO = replace(
    PLAIN,
    refresh_url="{accounts_server}/oauth/v2/token",
    captured={"accounts_server": ("accounts_server",)},
    captured_hosts=("*.zoho.eu", "*.zoho.com"),
)


def test_a_refresh_goes_where_the_login_came_from() -> None:
    """Zoho's data centres: the callback says which of them keeps the grant."""
    held = TokenSet("old", refresh_token="r", captured={"accounts_server": "https://accounts.zoho.eu"})
    assert refresh(account(ZOHO), held).url == "https://accounts.zoho.eu/oauth/v2/token"


@pytest.mark.parametrize(
    ("captured", "trouble"),
    [
        ({}, "an address of the profile holds {accounts_server}, which no answer has brought"),
        (
            {"accounts_server": "https://evil.example"},
            "a captured value leads to a host that captured_hosts does not list",
        ),
    ],
)
def test_a_refresh_token_goes_nowhere_else(captured: dict[str, str], trouble: str) -> None:
    """What was stored under an older config is looked at under today's."""
    flow = renewal(
        Ask(account=account(ZOHO), held=TokenSet("old", refresh_token="r", captured=captured), now=NOW)
    )
    with pytest.raises(StopIteration) as ended:
        next(flow)
    assert ended.value.value == Failure(Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED, trouble)


def test_a_validate_call_at_a_place_that_the_login_named() -> None:
    """With what the profile puts beside the token; one that cannot be made says nothing about the token."""
    provider = replace(
        PLAIN,
        validate=Validate(url="{accounts_server}/me"),
        inject=Inject(query="access_token", headers={"Client-Id": "{client_id}"}),
        captured_hosts=("*.zoho.eu",),
    )
    held = TokenSet("a b", captured={"accounts_server": "https://accounts.zoho.eu"})
    request = validate_request(account(provider), held)
    assert request.url == "https://accounts.zoho.eu/me?access_token=a%20b"
    assert request.headers["Client-Id"] == account(provider).registration.client_id
    assert "Authorization" not in request.headers
    with pytest.raises(StopIteration) as ended:
        next(liveness(account(provider), TokenSet("a"), now=NOW))
    assert ended.value.value is None


def test_a_bound_token_is_validated_under_its_own_scheme() -> None:
    """RFC 9449 section 7.1."""
    provider = replace(PLAIN, dpop=True, validate=Validate(url="https://api.example/me"))
    assert (
        validate_request(account(provider), TokenSet("t", dpop_key="{}")).headers["Authorization"] == "DPoP t"
    )
