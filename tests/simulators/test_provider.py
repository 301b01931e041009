"""The providers keep to their guides, so that a story that passes against them says something."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import aiohttp
import pytest
import trustme
from yarl import URL

from tests.simulators import (
    ABSENT,
    SAME,
    Answer,
    AskaraProvider,
    DeskeraProvider,
    FakeClock,
    PerscomProvider,
    PlainProvider,
    Provider,
)

CALLBACK = "http://127.0.0.1:9100/callback/books"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Client:
    """A client written from the guides alone, one method for each of them."""

    def __init__(self, provider: Provider, http: aiohttp.ClientSession) -> None:
        self.provider = provider
        self.http = http

    async def refresh(self, token: str, *, scope: str = "view:user update:user") -> tuple[int, Any]:
        parameters = {"grant_type": "refresh_token", "refresh_token": token}
        return await self._send(parameters | ({"scope": scope} if self.provider.name == "perscom" else {}))

    async def exchange(self, code: str) -> tuple[int, Any]:
        parameters = {"grant_type": "authorization_code", "code": code}
        extra = {"scope": "write"} if self.provider.name == "deskera" else {"redirect_uri": CALLBACK}
        return await self._send(parameters | extra)

    async def _send(self, parameters: dict[str, str]) -> tuple[int, Any]:
        provider = self.provider
        client = {"client_id": provider.client_id, "client_secret": provider.client_secret}
        if provider.name == "deskera":
            pair = f"{provider.client_id}:{provider.client_secret}".encode()
            return await self.post(
                "?" + urlencode(parameters),
                headers={"Authorization": "Basic " + base64.b64encode(pair).decode()},
            )
        if provider.name == "askara":
            return await self.post(json=parameters | client)
        return await self.post(data=parameters | client)

    async def post(self, query: str = "", **request: Any) -> tuple[int, Any]:
        url = URL(self.provider.url + self.provider.token_path + query, encoded=True)
        if query:  # aiohttp would describe the body that isn't there
            request["skip_auto_headers"] = ["Content-Type"]
        async with self.http.post(url, allow_redirects=False, **request) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else text


ALL = [DeskeraProvider, PerscomProvider, AskaraProvider, PlainProvider]


@pytest.mark.parametrize("kind", ALL)
async def test_refresh_as_the_guide_says_rotates(
    kind: Callable[[], Provider], http: aiohttp.ClientSession
) -> None:
    """The good path of each guide, written down a second time in ``Client``: no complaint, and the old pair is spent."""
    async with kind() as provider:
        first = provider.new_grant()
        status, second = await Client(provider, http).refresh(first["refresh_token"])

        assert status == 200
        assert provider.complaints == []
        assert second == provider.latest(first)
        assert second["refresh_token"] != first["refresh_token"]
        assert provider.live(second["access_token"])
        assert provider.live(first["access_token"]) is (not isinstance(provider, PerscomProvider))
        assert (provider.refreshes, provider.token_calls, provider.max_concurrent_token_calls) == (1, 1, 1)
        assert provider.requests[0].parameters["refresh_token"] == first["refresh_token"]


@pytest.mark.parametrize("kind", ALL)
async def test_a_spent_refresh_token_kills_the_grant(
    kind: Callable[[], Provider], http: aiohttp.ClientSession
) -> None:
    """The worst that a careless client can do must be fatal here, or no story would notice it."""
    async with kind() as provider:
        client = Client(provider, http)
        first = provider.new_grant()
        _, second = await client.refresh(first["refresh_token"])

        status, refusal = await client.refresh(first["refresh_token"])
        assert (status, refusal["error"]) == (400, "invalid_grant")
        assert provider.reuses == 1
        assert provider.grants[0].dead
        assert not provider.live(second["access_token"])
        assert (await client.refresh(second["refresh_token"]))[0] == 400


@pytest.mark.parametrize("kind", ALL)
async def test_login_as_the_guide_says(kind: Callable[[], Provider], http: aiohttp.ClientSession) -> None:
    """Authorization page, code, exchange; the code works once, and a second use revokes what the first one brought."""
    async with kind() as provider:
        asked = {"response_type": "code", "client_id": provider.client_id, "state": "s t/1"}
        if isinstance(provider, DeskeraProvider):
            provider.redirect_uri = CALLBACK
        else:
            asked["redirect_uri"] = CALLBACK
        if not isinstance(provider, PlainProvider):
            asked["scope"] = str(provider.default_scope)
        query = urlencode(asked).replace("+", "%20")
        page = URL(f"{provider.url}{provider.authorize_path}?{query}", encoded=True)
        async with http.get(page, allow_redirects=False) as response:
            assert response.status == 302, provider.complaints
            back = urlsplit(response.headers["Location"])
        given = parse_qs(back.query)
        assert back.geturl().startswith(CALLBACK)
        assert given["state"] == ["s t/1"]

        client = Client(provider, http)
        status, answer = await client.exchange(given["code"][0])
        assert status == 200
        assert provider.live(answer["access_token"])
        assert (await client.exchange(given["code"][0]))[0] == 400
        assert not provider.live(answer["access_token"])
        assert provider.complaints == []


def _deskera(change: Callable[[dict[str, str]], object] = lambda _: None, tail: str = "") -> Any:
    def build(provider: Provider, token: str) -> dict[str, Any]:
        parameters = {"grant_type": "refresh_token", "refresh_token": token}
        change(parameters)
        return {"query": "?" + urlencode(parameters) + tail, "headers": {"Authorization": provider.basic}}

    return build


def _body(how: str, change: Callable[[dict[str, str]], object] = lambda _: None, **rest: Any) -> Any:
    def build(provider: Provider, token: str) -> dict[str, Any]:
        parameters = {
            "grant_type": "refresh_token",
            "refresh_token": token,
            "client_id": provider.client_id,
            "client_secret": provider.client_secret,
        }
        if isinstance(provider, PerscomProvider):
            parameters["scope"] = "view:user update:user"
        change(parameters)
        return {how: parameters} | rest

    return build


def _raw_plus(provider: Provider, token: str) -> dict[str, Any]:
    query = f"?grant_type=refresh_token&refresh_token={token}"
    return {"query": query, "headers": {"Authorization": provider.basic}}


def _encoded_basic(provider: Provider, token: str) -> dict[str, Any]:
    pair = f"{quote_plus(provider.client_id)}:{quote_plus(provider.client_secret)}".encode()
    query = "?" + urlencode({"grant_type": "refresh_token", "refresh_token": token})
    return {"query": query, "headers": {"Authorization": "Basic " + base64.b64encode(pair).decode()}}


WRONG = {
    "deskera body": (DeskeraProvider, lambda p, t: _deskera()(p, t) | {"data": b"{}"}, "a body"),
    "deskera type": (
        DeskeraProvider,
        lambda p, t: (
            _deskera()(p, t)
            | {"headers": {"Authorization": p.basic, "Content-Type": "application/octet-stream"}}
        ),
        "Content-Type",
    ),
    "deskera form": (DeskeraProvider, _body("data"), "a body"),
    "deskera scope": (DeskeraProvider, _deskera(lambda p: p.update(scope="write")), "unknown: scope"),
    "deskera client": (DeskeraProvider, _deskera(lambda p: p.update(client_id="x")), "unknown: client_id"),
    "deskera doubled": (DeskeraProvider, _deskera(tail="&grant_type=refresh_token"), "doubled: grant_type"),
    "deskera raw +": (DeskeraProvider, _raw_plus, "percent-encoded exactly once"),
    "deskera twice": (
        DeskeraProvider,
        _deskera(lambda p: p.update(refresh_token=p["refresh_token"].replace("+", "%2B"))),
        "percent-encoded exactly once",
    ),
    "deskera no basic": (
        DeskeraProvider,
        lambda p, t: _deskera()(p, t) | {"headers": {}},
        "not one Authorization",
    ),
    "deskera basic": (DeskeraProvider, _encoded_basic, "form-encoded credentials"),
    "perscom json": (PerscomProvider, _body("json"), "Content-Type"),
    "perscom no scope": (PerscomProvider, _body("data", lambda p: p.pop("scope")), "missing: scope"),
    "perscom scope": (
        PerscomProvider,
        _body("data", lambda p: p.update(scope="view:user")),
        "another scope",
    ),
    "perscom basic": (
        PerscomProvider,
        _body("data", headers={"Authorization": "Basic eDp5"}),
        "an Authorization",
    ),
    "perscom query": (PerscomProvider, _body("data", query="?grant_type=refresh_token"), "a query"),
    "askara form": (AskaraProvider, _body("data"), "Content-Type"),
    "askara scope": (
        AskaraProvider,
        _body("json", lambda p: p.update(scope="profile organization")),
        "unknown: scope",
    ),
    "askara empty": (
        AskaraProvider,
        _body("json", lambda p: p.update(client_secret="")),
        "empty: client_sec",
    ),
    "askara doubled": (
        AskaraProvider,
        lambda p, t: {"data": b'{"a":"1","a":"2"}', "headers": {"Content-Type": "application/json"}},
        "doubled: a",
    ),
    "askara number": (
        AskaraProvider,
        lambda p, t: {"data": b'{"a":1}', "headers": {"Content-Type": "application/json"}},
        "object of strings",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_deviations_from_the_guide_are_refused_and_written_down(
    case: str, http: aiohttp.ClientSession
) -> None:
    """Each of these is something that a plausible client sends; none may pass unseen, or spend the token."""
    kind, build, complaint = WRONG[case]
    async with kind() as provider:
        token = provider.new_grant()["refresh_token"]
        request = build(provider, token)
        status, _ = await Client(provider, http).post(**request)

        assert 400 <= status < 500
        assert len(provider.complaints) == 1
        assert complaint in provider.complaints[0]
        assert provider.leaks(provider.complaints[0]) == []
        assert provider.refreshes == 0
        assert provider.grants[0].refresh_token == token


async def test_a_wrong_secret_is_no_complaint(http: aiohttp.ClientSession) -> None:
    """Stories about a misconfigured client send the right form with the wrong words."""
    async with AskaraProvider() as provider:
        token = provider.new_grant()["refresh_token"]
        request = _body("json", lambda p: p.update(client_secret="wrong"))(provider, token)
        assert await Client(provider, http).post(**request) == (401, {"error": "invalid_client"})
        assert provider.complaints == []


async def test_grace_gives_the_same_pair_again_and_then_kills(http: aiohttp.ClientSession) -> None:
    """Lost answers are recovered inside the window; outside of it the same call is an attack."""
    clock = FakeClock()
    async with PlainProvider(clock=clock) as provider:
        provider.grace = 30
        client = Client(provider, http)
        first = provider.new_grant()
        _, second = await client.refresh(first["refresh_token"])
        await clock.advance(29)
        assert await client.refresh(first["refresh_token"]) == (200, second)
        await clock.advance(2)
        assert (await client.refresh(first["refresh_token"]))[0] == 400
        assert (provider.replays, provider.reuses, provider.refreshes) == (1, 1, 1)
        assert provider.grants[0].dead


async def test_only_the_newest_spent_token_has_grace(http: aiohttp.ClientSession) -> None:
    """Auth0's rule: an older one ends the family even inside the window."""
    async with PlainProvider() as provider:
        provider.grace = 3600
        client = Client(provider, http)
        first = provider.new_grant()
        _, second = await client.refresh(first["refresh_token"])
        await client.refresh(second["refresh_token"])
        assert (await client.refresh(first["refresh_token"]))[0] == 400
        assert provider.reuses == 1


async def test_spent_only_when_the_new_token_is_used(http: aiohttp.ClientSession) -> None:
    """Doorkeeper's rule, under which persisting before use can lose nothing."""
    async with PlainProvider() as provider:
        provider.spend_on_first_use = True
        provider.grace_answer = "new"
        client = Client(provider, http)
        first = provider.new_grant()
        await client.refresh(first["refresh_token"])
        status, third = await client.refresh(first["refresh_token"])
        assert status == 200
        provider.used(third["access_token"])
        assert (await client.refresh(first["refresh_token"]))[0] == 400


@pytest.mark.parametrize(
    ("field", "wanted"), [(ABSENT, {}), (SAME, {"refresh_token"}), ("", {"refresh_token"})]
)
async def test_without_rotation_the_token_stays_good(
    field: Any, wanted: set[str], http: aiohttp.ClientSession
) -> None:
    """Google's way and its variants."""
    async with PlainProvider() as provider:
        provider.rotate, provider.unrotated, provider.expires_in = False, field, ABSENT
        client = Client(provider, http)
        first = provider.new_grant()
        for _ in range(2):
            status, answer = await client.refresh(first["refresh_token"])
            assert status == 200
            assert answer.keys() - {"access_token", "token_type"} == set(wanted)


async def test_a_lost_answer_is_committed(http: aiohttp.ClientSession) -> None:
    """The two generals' case: the token is spent and nobody was told."""
    async with DeskeraProvider() as provider:
        provider.lose_answers = 1
        first = provider.new_grant()
        with pytest.raises(aiohttp.ClientError):
            await Client(provider, http).refresh(first["refresh_token"])
        assert provider.refreshes == 1
        assert provider.latest()["refresh_token"] != first["refresh_token"]


@pytest.mark.parametrize(("hold", "committed"), [("before", 0), ("after", 1), ("middle", 1)])
async def test_the_gate_holds_where_it_should(hold: Any, committed: int, http: aiohttp.ClientSession) -> None:
    """Stories about kills and hang-ups need to know on which side of the commit they are."""
    async with AskaraProvider() as provider:
        provider.hold, provider.gate = hold, asyncio.Event()
        first = provider.new_grant()
        call = asyncio.create_task(Client(provider, http).refresh(first["refresh_token"]))
        await provider.token_call_arrived()
        if committed:
            await provider.refreshed()
        assert provider.refreshes == committed
        assert not call.done()
        provider.gate.set()
        assert (await call)[0] == 200


async def test_outages_errors_and_odd_answers_spend_nothing(http: aiohttp.ClientSession) -> None:
    """Nothing that looks like a fault may rotate, or stories about faults would prove the wrong thing."""
    async with PerscomProvider() as provider:
        client = Client(provider, http)
        token = provider.new_grant()["refresh_token"]

        provider.outage, provider.retry_after = 503, 7
        assert (await client.refresh(token))[0] == 503
        provider.outage = None
        provider.error = {"error": "invalid_client"}
        assert await client.refresh(token) == (401, {"error": "invalid_client"})
        provider.error = None
        provider.answer_override = (200, {"Content-Type": "text/html"}, "<p>" + "x" * 10_000_000)
        assert len((await client.refresh(token))[1]) > 10_000_000
        provider.answer_override = (302, {"Location": "http://127.0.0.1:1/"}, "")
        assert (await client.refresh(token))[0] == 302
        assert (provider.refreshes, provider.complaints, provider.token_calls) == (0, [], 4)

        provider.answer_override = None
        assert (await client.refresh(token))[0] == 200


async def test_a_spoilt_answer_is_committed(http: aiohttp.ClientSession) -> None:
    """The callable form: the provider rotated, and what it says is rubbish."""

    def spoil(answer: Answer) -> tuple[int, dict[str, str], str]:
        return 200, {}, json.dumps(answer | {"access_token": "a\r\nX-Injected: 1"})

    async with PerscomProvider() as provider:
        provider.answer_override = spoil
        _, answer = await Client(provider, http).refresh(provider.new_grant()["refresh_token"])
        assert answer["access_token"].endswith("X-Injected: 1")
        assert provider.refreshes == 1


async def test_refused_connections_come_back_on_the_same_port(http: aiohttp.ClientSession) -> None:
    """An outage on the wire: refused, open connections gone, and then as before at the same address."""
    async with AskaraProvider() as provider:
        client = Client(provider, http)
        _, answer = await client.refresh(provider.new_grant()["refresh_token"])
        for _ in range(3):
            provider.refuse_connections = True
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.refresh(answer["refresh_token"])
            provider.refuse_connections = False
            status, answer = await client.refresh(answer["refresh_token"])
            assert status == 200
        assert provider.refreshes == 4


async def test_validate_tells_whether_a_token_lives(http: aiohttp.ClientSession) -> None:
    """Deskera's third call: the bare token in ``x-access-token``, 200 for live."""
    async with DeskeraProvider() as provider:
        token = provider.new_grant()["access_token"]
        url = provider.url + "/v1/iam/token/app/validate"

        async def validate(**headers: str) -> int:
            async with http.get(url, headers=headers) as response:
                return response.status

        assert await validate(**{"x-access-token": token}) == 200
        provider.revoke_access(token)
        assert await validate(**{"x-access-token": token}) == 401
        assert provider.complaints == []
        assert await validate(authorization=f"Bearer {token}") == 400
        assert len(provider.complaints) == 1
        assert provider.validate_calls == 3


async def test_leaks_are_found_whole_in_pieces_and_encoded() -> None:
    """The search behind "no secret in any log" must find what a careless log line would hold."""
    async with DeskeraProvider() as provider:
        answer = provider.new_grant()
        token = answer["refresh_token"]
        assert len(token) > 2000
        assert not token.isalnum()
        for leak in (
            token,
            token[500:531],
            urlencode({"refresh_token": token}),
            provider.basic,
            provider.client_secret,
        ):
            assert provider.leaks(f"before {leak} after")
        assert provider.leaks(f"{token[:40]} and so on") == []  # the JWT's header, the same in all of them


async def test_leaks_of_opaque_tokens_are_found_by_their_beginning() -> None:
    """What a log line that cuts long values would hold."""
    async with PlainProvider() as provider:
        answer = provider.new_grant()
        assert provider.leaks(answer["access_token"][:31])
        assert provider.leaks(answer["refresh_token"][:31])


async def test_over_tls() -> None:
    """Upstreams and providers are https in life; the simulators must be so too where a story asks for it."""
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        AskaraProvider(ssl=serving) as provider,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
    ):
        status, answer = await Client(provider, http).refresh(provider.new_grant()["refresh_token"])
        assert status == 200
        provider.lose_answers = 1
        with pytest.raises(aiohttp.ClientError):
            await Client(provider, http).refresh(answer["refresh_token"])


async def test_refusing_and_listening_again_at_once(http: aiohttp.ClientSession) -> None:
    """The knob may be turned faster than the loop turns; the last word holds."""
    async with AskaraProvider() as provider:
        client = Client(provider, http)
        token = provider.new_grant()["refresh_token"]
        for refuse in (True, False, True):
            provider.refuse_connections = refuse
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.refresh(token)
        for refuse in (False, True, False):
            provider.refuse_connections = refuse
        assert (await client.refresh(token))[0] == 200


async def test_a_client_that_comes_by_itself_keeps_to_its_form(http: aiohttp.ClientSession) -> None:
    """RFC 6749 section 4.4: no refresh token, and neither a missing, a foreign nor an unknown parameter."""
    async with PlainProvider() as provider:
        client = {"client_id": provider.client_id, "client_secret": provider.client_secret}
        good = client | {"grant_type": "client_credentials", "scope": "read"}
        caller = Client(provider, http)
        status, answer = await caller.post(data=good)
        assert (status, "refresh_token" in answer, provider.live(answer["access_token"])) == (
            200,
            False,
            True,
        )

        assert (await caller.post(data=good | {"scope": "all"}))[1]["error"] == "invalid_scope"
        assert provider.complaints == []
        for wrong in (
            {**good, "username": "a"},
            {**good, "grant_type": "password"},
            client | {"scope": "read"},
        ):
            assert (await caller.post(data=wrong))[0] == 400
        assert len(provider.complaints) == 3
        assert (await caller.post(data=good | {"client_secret": "x"}))[1]["error"] == "invalid_client"
        assert provider.obtained == 1

    async with DeskeraProvider() as provider:  # its guide has no such grant
        status, _ = await Client(provider, http)._send({"grant_type": "client_credentials"})
        assert (status, len(provider.complaints)) == (400, 1)
