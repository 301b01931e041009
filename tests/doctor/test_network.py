"""Providers and upstreams on real sockets: TLS, certificates, clocks, what a login page says."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import MappingProxyType

import pytest
import trustme
from aiohttp import web

from tests.doctor.cases import case_of
from tests.simulators import OutgoingSimulator, PlainProvider, Server, free_port
from tokenproxy.doctor import Case, network
from tokenproxy.doctor.asking import Answered


class Odd(Server):
    """Answers everything alike."""

    status = 200
    text = "hello"
    headers: Mapping[str, str] = MappingProxyType({})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=self.status, headers=self.headers, text=self.text)


def config_of(
    provider: str, upstream: str, *, account: str = "", more: str = "", route: str = "", public: str = ""
) -> str:
    return f"""\
[admin]
public_url = "{public or "http://127.0.0.1:9100"}"
[accounts.crm]
provider = "house"
client_id = "client-1"
client_secret = "env:CRM_SECRET"
{account}
[providers.house]
authorize_url = "{provider}/authorize"
token_url = "{provider}/token"
client_auth = "post"
{more}
[routes.crm]
upstream = "{upstream}"
account = "crm"
{route}
"""


def serving(ca: trustme.CA, *names: str, ends: timedelta = timedelta(days=90)) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, not_after=datetime.now(UTC) + ends).configure_cert(context)
    return context


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


async def test_what_is_well_says_so_and_sends_no_credential(tmp_path: Path, ca: trustme.CA) -> None:
    async with Odd(ssl=serving(ca, "127.0.0.1")) as provider, Odd() as api:
        api.status = 401
        tls = 'tls = { ca_file = "ca.pem" }'
        case = case_of(tmp_path, config_of(provider.url, api.url, more=tls))
        found = [*await network.providers(case), *await network.upstreams(case)]

    assert [each.level for each in found] == ["good"] * 3
    assert found[0].name == f"provider {provider.authority}"
    assert found[0].sentence.startswith("TLS ok, token endpoint answers in ")
    assert found[1].sentence == f"0.0 s from {provider.authority}"
    assert found[2].sentence == "reachable, 401 without a token as expected"


async def test_certificates_that_nobody_vouches_for_or_that_end(tmp_path: Path, ca: trustme.CA) -> None:
    tls = 'tls = { ca_file = "ca.pem" }'
    async with (
        Odd(ssl=serving(ca, "127.0.0.1")) as stranger,
        Odd(ssl=serving(ca, "elsewhere.example")) as other,
        Odd(ssl=serving(ca, "127.0.0.1", ends=timedelta(days=3))) as soon,
        Odd(ssl=serving(ca, "127.0.0.1", ends=timedelta(seconds=-1))) as over,
    ):

        async def upstream(server: Server, route: str) -> list[tuple[str, str]]:
            case = case_of(tmp_path, config_of(server.url, server.url, route=route))
            return [(each.code, each.sentence) for each in await network.upstreams(case)]

        assert [code for code, _ in await upstream(stranger, "")] == ["tls_untrusted"]
        ((code, sentence),) = await upstream(other, tls)
        assert (code, "another name" in sentence) == ("tls_untrusted", True)
        assert [code for code, _ in await upstream(soon, tls)] == ["", "certificate_ends"]
        assert [code for code, _ in await upstream(over, tls)] == ["certificate_ends"]


async def test_nobody_there_and_nothing_that_speaks_http(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    async with Odd() as api:
        api.status = 503
        case = case_of(tmp_path, config_of(gone, api.url))
        (provider,) = await network.providers(case)
        (upstream,) = await network.upstreams(case)
        tls = case_of(tmp_path, config_of(gone, api.url.replace("http:", "https:")))
        (plain,) = await network.upstreams(tls)

    assert (provider.code, provider.level) == ("unreachable", "bad")
    assert (upstream.code, upstream.level) == ("answer_odd", "warn")
    assert plain.code == "tls_untrusted"


async def test_through_an_outgoing_proxy(tmp_path: Path, ca: trustme.CA) -> None:
    """As serve itself would go: by CONNECT to https, in absolute form to http; and what the proxy says of it."""
    async with Odd(ssl=serving(ca, "127.0.0.1")) as secure, Odd() as plain:
        for server, line in ((secure, b"CONNECT "), (plain, b"GET http://")):
            async with OutgoingSimulator(server.port) as proxy:
                way = f'tls = {{ ca_file = "ca.pem" }}\nproxy = "http://127.0.0.1:{proxy.port}"'
                case = case_of(tmp_path, config_of(server.url, server.url, route=way))
                well = await network.upstreams(case)
                assert proxy.lines[0].startswith(line)
            ill = await network.upstreams(case)

            assert [each.level for each in well] == ["good"]
            assert [each.code for each in ill] == ["unreachable"]
            assert "outgoing proxy" in ill[0].sentence


@pytest.mark.parametrize(
    ("apart", "more", "level"),
    [(0, "", "good"), (20, "", "warn"), (-300, "", "warn"), (300, "dpop = true", "bad")],
)
async def test_the_clock_is_held_against_the_provider_s(
    apart: int, more: str, level: str, tmp_path: Path
) -> None:
    """What carries a time of ours is judged by theirs; for the others it is a warning."""
    async with Odd() as provider:
        now = datetime.now(UTC) + timedelta(seconds=apart)
        provider.headers = {"Date": format_datetime(now, usegmt=True)}
        found = await network.providers(case_of(tmp_path, config_of(provider.url, provider.url, more=more)))

    (clock,) = [each for each in found if each.name == "clock"]
    assert clock.level == level


async def test_a_callback_address_that_is_not_registered_is_seen_without_a_person(tmp_path: Path) -> None:
    async with PlainProvider() as provider:

        async def look(public: str) -> list[tuple[str, str]]:
            text = config_of(provider.url, provider.url, account='scopes = ["read"]', public=public)
            case = case_of(
                tmp_path, text.replace(f"{provider.url}/token", f"{provider.url}{provider.token_path}")
            )
            return [(each.level, each.code) for each in await network.login_pages(case)]

        provider.redirect_uri = "http://127.0.0.1:9100/callback/crm"
        assert await look("http://127.0.0.1:9100") == [("good", "")]
        ((level, code),) = await look("http://127.0.0.1:9101")
        assert level in {"warn", "bad"}
        assert code in {"redirect_unregistered", "authorize_refused"}
        provider.deny = "invalid_scope"
        assert await look("http://127.0.0.1:9100") == [("warn", "authorize_refused")]
        provider.deny = "login_required"
        assert await look("http://127.0.0.1:9100") == [("good", "")]


@pytest.mark.parametrize(
    ("status", "location", "body", "code"),
    [
        (400, "", "<h1>Error: redirect_uri_mismatch</h1>", "redirect_unregistered"),
        (302, "https://login.example/error?error_description=Invalid%20redirect_uri", "", "redirect_unregistered"),
        (401, "", "unknown client", "authorize_refused"),
        (302, "https://login.example/signin?return=redirect_uri%3Dx", "", None),
        (200, "", "<form>password redirect_uri</form>", None),
        (500, "", "oops", None),
        (302, "http://127.0.0.1:9100/callback/crm?error=%3Cscript%3E", "", "authorize_refused"),
    ],
)  # fmt: skip
def test_what_login_pages_say(status: int, location: str, body: str, code: str | None) -> None:
    """A login form that merely carries the address on says nothing; a stranger's words are not repeated."""
    now = datetime.now(UTC)
    answered = Answered(status, 0.1, now, None, location, body, None)
    found = network.judge_login_page("crm", "http://127.0.0.1:9100/callback/crm", answered)

    assert (found.code if found is not None else None) == code
    assert "script" not in f"{found}"


async def test_an_issuer_that_tells_nothing_is_a_problem(tmp_path: Path) -> None:
    async with Odd() as provider:
        provider.status = 404
        text = config_of(provider.url, provider.url).replace(
            f'authorize_url = "{provider.url}/authorize"\ntoken_url = "{provider.url}/token"',
            f'issuer = "{provider.url}"',
        )
        (found,) = await network.providers(case_of(tmp_path, text))

    assert (found.level, found.code) == ("bad", "issuer_unusable")


async def test_a_place_that_says_nothing_is_left_in_time(tmp_path: Path) -> None:
    """Bounded for each place, so that a slow one hides no other."""
    import asyncio

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        case: Case = case_of(tmp_path, config_of(url, url), patience=0.2)
        (found,) = await network.upstreams(case)

    assert found.code == "unreachable"
    assert "did not answer within 0.2 s" in found.sentence
