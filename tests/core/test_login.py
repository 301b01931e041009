"""The address that a browser is sent to, against what each guide prints, and what may come back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.core.flows import answer, ended
from tokenproxy.config import presets
from tokenproxy.core.account import Event, Reason, Standing, State
from tokenproxy.core.login import (
    Arrival,
    Attempt,
    Caught,
    Unwelcome,
    Why,
    arrival,
    authorization_address,
    callback_address,
    exchange,
    implicit,
    mode_of,
    pushed_address,
    question_about,
    read_landing,
    state_in,
)
from tokenproxy.core.provider import (
    PKCE,
    Account,
    AnswerFields,
    Callback,
    CallbackMode,
    CallbackPath,
    ClientAuth,
    Provider,
    Registration,
)
from tokenproxy.core.replies import Failure, Granted
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PUBLIC = "http://127.0.0.1:9100"
PRESETS = {name: preset.provider for name, preset in presets().items()}
PLAIN = Provider(
    name="plain",
    authorize_url="https://p.example/authorize",
    token_url="https://p.example/token",
    client_auth=ClientAuth.POST,
)
DESKPRO = Provider(
    name="deskpro",
    authorize_url="https://example.com/authorize",
    token_url="https://example.com/token",
    token_method="GET",
    client_auth=ClientAuth.QUERY,
    pkce=PKCE.NONE,
    rename={"client_secret": "secret", "code": "access_code", "client_id": "", "grant_type": "", "redirect_uri": ""},
    authorize_rename={"client_id": "client_key", "response_type": "", "redirect_uri": "redirect_uri"},
    callback=Callback(
        mode=CallbackMode.FRAGMENT, path=CallbackPath.RANDOM, token="/#code=(?<token>[0-9a-f]{20})$/"
    ),
    answer=AnswerFields(access_token=("token",)),
)  # fmt: skip
"""Deskpro's guide, its first flow."""


def attempt(
    provider: Provider = PLAIN,
    *,
    grant: str = "authorization_code",
    client_id: str = "CLIENT_ID",
    **more: Any,
) -> Attempt:
    account = Account(
        name="books",
        provider=provider,
        registration=Registration(client_id=client_id, client_secret="CLIENT_SECRET"),
        grant=grant,
        **more,
    )
    address = callback_address(PUBLIC, account, key="RANDOM_KEY")
    return Attempt(account=account, redirect_uri=address, state="STATE", verifier="V" * 43, nonce="NONCE")


def query_of(address: str) -> dict[str, str]:
    return dict(parse_qsl(address.partition("?")[2], strict_parsing=True))


# -- the four guides -----------------------------------------------------------------------------------------------------


def test_deskeras_address_as_its_guide_has_it() -> None:
    """Deskera's guide: the root path, no redirect_uri, and nothing else."""
    sent = replace(attempt(PRESETS["deskera"], client_id="cl_pub_1234"), state="65921")

    assert authorization_address(sent) == (
        "https://oauth-staging.deskera.xyz/?client_id=cl_pub_1234&scope=write&state=65921&response_type=code"
    )


def test_perscoms_address_as_its_guide_has_it() -> None:
    """PERSCOM.io's guide; its second sample adds a nonce."""
    perscom = replace(PRESETS["perscom"], authorize_url="https://acme.perscom.io/oauth/authorize")
    expected = {
        "response_type": "code",
        "client_id": "CLIENT_ID",
        "redirect_uri": f"{PUBLIC}/callback/books",
        "scope": "view:user update:user",
        "state": "STATE",
    }

    asked = attempt(perscom, scopes=("view:user", "update:user"))
    assert query_of(authorization_address(asked)) == expected
    asked = attempt(
        replace(perscom, authorize_params={"nonce": "{nonce}"}), scopes=("view:user", "update:user")
    )
    assert query_of(authorization_address(asked)) == expected | {"nonce": "NONCE"}


def test_askaras_address_as_its_guide_has_it() -> None:
    """Askara's guide: a space is %20."""
    address = authorization_address(attempt(PRESETS["askara"]))

    assert address.startswith("https://app.askara.loc/authorize?")
    assert "scope=profile%20organization" in address
    assert query_of(address).keys() == {"response_type", "client_id", "redirect_uri", "scope", "state"}


def test_deskpros_address_as_its_guide_has_it() -> None:
    """Deskpro's guide: client_key and the random callback address, and no state."""
    assert authorization_address(attempt(DESKPRO)) == (
        "https://example.com/authorize?client_key=CLIENT_ID"
        "&redirect_uri=http%3A%2F%2F127.0.0.1%3A9100%2Fcallback%2Fbooks%2FRANDOM_KEY"
    )


def test_deskpros_strict_address_as_its_guide_has_it() -> None:
    """Deskpro's guide: one registered address for all, and the app's key as state."""
    strict = replace(
        DESKPRO,
        authorize_rename={"response_type": ""},
        rename={},
        callback=Callback(path=CallbackPath.SHARED),
    )

    assert query_of(authorization_address(attempt(strict))) == {
        "state": "STATE",
        "redirect_uri": f"{PUBLIC}/callback",
        "client_id": "CLIENT_ID",
    }


def test_deskpros_exchange_as_its_guide_has_it() -> None:
    """Deskpro's guide: GET /token?secret=...&access_code=..., and the token in the field token."""
    brought = Caught("29d2ef", {})

    (sent,), got = ended(exchange(attempt(DESKPRO), brought, now=NOW), answer('{"token": "the-token"}'))

    assert (sent.method, sent.body) == ("GET", None)
    assert sent.url == "https://example.com/token?access_code=29d2ef&secret=CLIENT_SECRET"
    assert got.tokens.access_token == "the-token"


def test_deskeras_exchange_repeats_the_scope_and_sends_no_redirect_uri() -> None:
    flow = exchange(attempt(PRESETS["deskera"]), Caught("9wSQbM", {}), now=NOW)

    (sent,), got = ended(flow, answer('{"access_token": "a", "expires_in": 0}'))

    assert sent.url.endswith("/v2/oauth/token?grant_type=authorization_code&code=9wSQbM&scope=write")
    assert (got.tokens.expires_at, got.tokens.scope_asked) == (None, "write")


# -- the address in general ------------------------------------------------------------------------------------------------


def test_a_challenge_of_rfc_7636() -> None:
    """Its appendix B."""
    sent = replace(attempt(), verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")

    asked = query_of(authorization_address(sent))

    assert asked["code_challenge"] == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert asked["code_challenge_method"] == "S256"
    plain = query_of(
        authorization_address(
            replace(sent, account=replace(sent.account, provider=replace(PLAIN, pkce=PKCE.PLAIN)))
        )
    )
    assert (plain["code_challenge"], plain["code_challenge_method"]) == (sent.verifier, "plain")


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        ("https://p.example/authorize?tenant=a%20b", "https://p.example/authorize?tenant=a%20b&client_id="),
        ("https://p.example/#/oauth/authorize", "https://p.example/#/oauth/authorize?client_id="),
        ("https://p.example/?x=1#/oauth?y=2", "https://p.example/?x=1#/oauth?y=2&client_id="),
        ("https://p.example/authorize?", "https://p.example/authorize?client_id="),
    ],
)
def test_parameters_join_what_the_address_has(url: str, begins: str) -> None:
    """A query stays (RFC 6749 section 3.1); fragment routers get theirs after the fragment (Apollo, Shopline)."""
    assert authorization_address(attempt(replace(PLAIN, authorize_url=url))).startswith(begins)


def test_a_parameter_that_the_address_has_is_not_sent_twice() -> None:
    address = authorization_address(
        attempt(replace(PLAIN, authorize_url="https://p.example/authorize?response_type=code%20id_token"))
    )

    assert address.count("response_type") == 1


def test_names_may_be_the_provider_s_and_parameters_left_out() -> None:
    """TikTok says client_key, Shopline customField, monday wants no response_type."""
    renamed = replace(
        PLAIN, rename={"client_id": "client_key", "state": "customField", "response_type": ""}, pkce=PKCE.NONE
    )

    assert query_of(authorization_address(attempt(renamed))) == {
        "client_key": "CLIENT_ID",
        "customField": "STATE",
        "redirect_uri": f"{PUBLIC}/callback/books",
    }


def test_an_implicit_login_asks_for_the_token_itself() -> None:
    asked = query_of(authorization_address(attempt(grant="implicit")))

    assert asked["response_type"] == "token"
    assert "code_challenge" not in asked


def test_a_pushed_request_goes_ahead_of_the_browser() -> None:
    """RFC 9126: all parameters with our client authentication; then client_id and request_uri, and nothing else."""
    provider = replace(PLAIN, par_url="https://p.example/par")

    (sent,), address = ended(
        pushed_address(attempt(provider), now=NOW),
        answer('{"request_uri": "urn:x:1", "expires_in": 60}', status=201),
    )

    pushed = dict(parse_qsl((sent.body or b"").decode()))
    assert sent.url == "https://p.example/par"
    assert pushed["client_secret"] == "CLIENT_SECRET"
    assert {"state", "code_challenge", "redirect_uri", "response_type"} <= pushed.keys()
    assert address == "https://p.example/authorize?client_id=CLIENT_ID&request_uri=urn%3Ax%3A1"


def test_what_follows_a_pushed_request_has_the_provider_s_name_for_the_client() -> None:
    provider = replace(PLAIN, par_url="https://p.example/par", rename={"client_id": "client_key"})

    _, address = ended(
        pushed_address(attempt(provider), now=NOW), answer('{"request_uri": "urn:x:1"}', status=201)
    )

    assert address == "https://p.example/authorize?client_key=CLIENT_ID&request_uri=urn%3Ax%3A1"


def test_a_pushed_request_that_is_refused_sends_nobody_anywhere() -> None:
    provider = replace(PLAIN, par_url="https://p.example/par")

    _, refused = ended(
        pushed_address(attempt(provider), now=NOW), answer('{"error": "invalid_request"}', status=400)
    )

    assert isinstance(refused, Failure)
    assert refused.event is Event.REGISTRATION_REFUSED


# -- what comes back -----------------------------------------------------------------------------------------------------------


def landed(address: str, sent: Attempt | None = None) -> Caught | Unwelcome:
    sent = sent or attempt()
    return read_landing(sent, arrival(address, mode_of(sent.account)))


def why(address: str, sent: Attempt | None = None) -> Why:
    found = landed(address, sent)
    assert isinstance(found, Unwelcome)
    return found.why


def test_a_code_comes_in_the_query() -> None:
    found = landed(f"{PUBLIC}/callback/books?code=a%2Bb%2F%3D&state=STATE&unknown=1")

    assert isinstance(found, Caught)
    assert found.value == "a+b/="


def test_iss_is_looked_at_before_error_and_error_before_the_code() -> None:
    """In this order: state, iss, error, code."""
    provider = replace(PLAIN, issuer="https://p.example", callback=Callback(iss=True))
    sent = attempt(provider)

    assert why("/?code=c&error=access_denied", sent) is Why.ISS_MISSING
    assert why("/?code=c&error=access_denied&iss=https://p.example/", sent) is Why.ISS_WRONG
    assert why("/?code=c&error=access_denied&iss=https://p.example", sent) is Why.REFUSED
    assert isinstance(landed("/?code=c&iss=https%3A%2F%2Fp.example", sent), Caught)


def test_an_iss_that_nobody_asked_for_is_compared_all_the_same() -> None:
    """RFC 9207 section 2.4."""
    known = attempt(replace(PLAIN, issuer="https://p.example"))

    assert why("/?code=c&iss=https://evil.example", known) is Why.ISS_WRONG
    assert isinstance(landed("/?code=c", known), Caught)


def test_an_iss_that_must_be_there_is_worth_nothing_where_nobody_knows_the_issuer() -> None:
    """Only a profile that neither asks for one nor names an issuer lets any pass."""
    assert (
        why("/?code=c&iss=https://p.example", attempt(replace(PLAIN, callback=Callback(iss=True))))
        is Why.ISS_WRONG
    )
    assert isinstance(landed("/?code=c&iss=https://p.example", attempt(PLAIN)), Caught)


def test_a_provider_that_says_no_says_why_on_one_line() -> None:
    found = landed("/?error=access_denied&error_description=not%20today%0A%1b%5B31m")

    assert isinstance(found, Unwelcome)
    assert (found.why, found.said) == (Why.REFUSED, "access_denied: not today  [31m")


def test_an_answer_that_says_a_thing_twice_is_not_believed() -> None:
    assert why("/?code=a&code=b") is Why.DOUBLED
    assert isinstance(landed("/?code=a&code=a"), Caught)
    assert state_in(arrival("/?state=a&state=b", CallbackMode.QUERY), Callback()) == ""


@pytest.mark.parametrize("query", ["", "?code=", "?code=%00", "?code=a%0D%0Ab", "?code=%ff"])
def test_what_is_no_code_is_none(query: str) -> None:
    assert why(f"/{query}") is Why.NO_CODE


def test_a_fragment_counts_only_where_the_profile_says_so() -> None:
    assert why("/#code=c") is Why.NO_CODE
    in_fragment = attempt(replace(PLAIN, callback=Callback(mode=CallbackMode.FRAGMENT)))
    for address in ("/#code=c&state=s", "/?state=s#?code=c", "/#/?code=c"):
        assert isinstance(landed(address, in_fragment), Caught)


def test_an_expression_sees_the_whole_address_decoded_once() -> None:
    """Deskpro's guide: public address, path, query and fragment together."""
    seen = arrival(f"{PUBLIC}/callback/books/KEY?a=%2525&b=x%26y#code=%41", CallbackMode.FRAGMENT)

    assert seen.text == f"{PUBLIC}/callback/books/KEY?a=%25&b=x&y#code=A"
    assert why("/#code=\udc80", attempt(DESKPRO)) is Why.NO_MATCH


def test_deskpros_expressions_as_its_guide_has_them() -> None:
    first = landed(f"{PUBLIC}/callback/books/KEY#code=0123456789abcdef0123", attempt(DESKPRO))
    assert isinstance(first, Caught)
    assert first.value == "0123456789abcdef0123"
    assert why(f"{PUBLIC}/callback/books/KEY#code=29d2ef", attempt(DESKPRO)) is Why.NO_MATCH

    callback = Callback(token=r"/\?code=(?<token>.+?)&/", key="/&state=(?<key>.+)/", path=CallbackPath.SHARED)
    strict = attempt(replace(DESKPRO, callback=callback))
    address = f"{PUBLIC}/callback?code=29d2ef&state=STATE"
    second = landed(address, strict)
    assert isinstance(second, Caught)
    assert second.value == "29d2ef"
    assert state_in(arrival(address, CallbackMode.QUERY), callback) == "STATE"


def test_values_from_the_callback_go_with_the_tokens() -> None:
    """realmId at QuickBooks; it becomes part of an upstream's address, so it must be a word."""
    quickbooks = attempt(replace(PLAIN, callback=Callback(captured={"realm": "realmId"})))

    found = landed("/?code=c&realmId=12345", quickbooks)
    assert isinstance(found, Caught)
    _, got = ended(exchange(quickbooks, found, now=NOW), answer('{"access_token": "a"}'))
    assert got.tokens.captured == {"realm": "12345"}

    assert why("/?code=c&realmId=1&realmId=2", quickbooks) is Why.DOUBLED
    for bad in ("/?code=c", "/?code=c&realmId=..%2Fadmin", "/?code=c&realmId=https%3A%2F%2Fevil.example"):
        assert why(bad, quickbooks) is Why.CAPTURE


def test_a_code_goes_to_the_data_centre_that_its_callback_named() -> None:
    """Zoho; and to no other host, whatever a forged callback says."""
    provider = replace(
        PLAIN,
        token_url="{accounts_server}/oauth/v2/token",
        callback=Callback(captured={"accounts_server": "accounts-server"}),
        captured_hosts=("*.zoho.eu",),
    )
    found = landed("/?code=c&accounts-server=https%3A%2F%2Faccounts.zoho.eu", attempt(provider))
    assert isinstance(found, Caught)
    (sent,), _ = ended(exchange(attempt(provider), found, now=NOW), answer('{"access_token": "a"}'))
    assert sent.url == "https://accounts.zoho.eu/oauth/v2/token"
    assert why("/?code=c&accounts-server=https%3A%2F%2Fevil.example", attempt(provider)) is Why.CAPTURE

    lost = exchange(attempt(provider), Caught("c", {}), now=NOW)
    with pytest.raises(StopIteration) as refused:
        next(lost)
    assert refused.value.value.event is Event.REGISTRATION_REFUSED


def test_an_implicit_token_is_read_like_a_token_answer() -> None:
    """RFC 6749 section 4.2.2; a refresh token must not come this way."""
    sent = attempt(grant="implicit")
    found = landed("/#access_token=abc&token_type=bearer&expires_in=600&scope=a&refresh_token=r", sent)
    assert isinstance(found, Caught)

    got = implicit(sent, found, now=NOW)

    assert isinstance(got, Granted)
    assert (got.tokens.access_token, got.tokens.refresh_token) == ("abc", None)
    assert got.tokens.expires_at == NOW + timedelta(seconds=600)
    assert why("/#code=abc", sent) is Why.NO_CODE


# -- the exchange ----------------------------------------------------------------------------------------------------------


def test_an_exchange_names_the_same_redirect_uri_and_the_verifier() -> None:
    (sent,), _ = ended(exchange(attempt(), Caught("c", {}), now=NOW), answer('{"access_token": "a"}'))

    assert dict(parse_qsl((sent.body or b"").decode())) == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": f"{PUBLIC}/callback/books",
        "code_verifier": "V" * 43,
        "client_id": "CLIENT_ID",
        "client_secret": "CLIENT_SECRET",
    }


def test_an_exchange_carries_what_the_profile_adds() -> None:
    provider = replace(PLAIN, exchange_params={"type": "web_server"})

    (sent,), _ = ended(exchange(attempt(provider), Caught("c", {}), now=NOW), answer("{}"))

    assert b"type=web_server" in (sent.body or b"")


def test_an_id_token_of_another_login_is_refused() -> None:
    """OpenID Connect Core 3.1.3.7: the nonce that was sent is in it."""
    asking = attempt(replace(PLAIN, authorize_params={"nonce": "{nonce}"}))
    mine, other = (
        "eyJ9.eyJub25jZSI6Ik5PTkNFIn0.",
        "eyJ9.eyJub25jZSI6Ik9USEVSIn0.",
    )  # {"nonce":"NONCE"}, "OTHER"

    for token, good in ((mine, True), (other, False)):
        reply = answer(f'{{"access_token": "a", "id_token": "{token}"}}')
        _, got = ended(exchange(asking, Caught("c", {}), now=NOW), reply)
        assert isinstance(got, Granted) is good
        brought = Caught(
            "a", {"access_token": "a", "id_token": token}
        )  # section 3.2.2.11: in a fragment as well
        assert isinstance(implicit(asking, brought, now=NOW), Granted) is good


# -- whose it is ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "new", "state", "asks"),
    [
        ("anna", "anna", State.OK, False),
        ("anna", "bob", State.OK, True),
        ("anna", "bob", State.LOGIN_REQUIRED, True),  # a dead login's name still means a person
        ("anna", None, State.OK, True),
        (None, "bob", State.OK, True),
        (None, None, State.DEGRADED, True),
        (None, None, State.IN_DOUBT, True),
        (None, "bob", State.LOGIN_REQUIRED, False),
        ("anna", None, State.LOGIN_REQUIRED, False),
    ],
)
def test_a_login_of_another_or_of_nobody_knows_whom_is_a_question(
    held: str | None, new: str | None, state: State, asks: bool
) -> None:
    standing = Standing(state, Reason.NONE)

    question = question_about("books", TokenSet("a", identity=held), standing, TokenSet("b", identity=new))

    assert bool(question) is asks
    assert question_about("books", None, standing, TokenSet("b", identity=new)) == ""


def test_nothing_of_an_attempt_shows_in_its_repr() -> None:
    sent = attempt()
    shown = repr(sent) + repr(Caught("CODE", {"code": "CODE"})) + repr(Arrival("CODE", {}, frozenset()))

    assert not any(secret in shown for secret in ("STATE", "VVV", "NONCE", "CODE", "CLIENT_SECRET"))
