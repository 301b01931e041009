"""No secret of a login in any log, page or answer, at debug level too."""

from __future__ import annotations

import asyncio
import io
import logging
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urlsplit

from tests.oauth.reception import Reception
from tests.simulators import AskaraProvider, DeviceProvider, FakeClock
from tokenproxy.core.provider import PKCE


async def test_logins_leave_no_secret_in_the_log(written: io.StringIO) -> None:
    """Good ones, refused ones that quote the request, lost answers, hostile landings, questions, pages."""
    said: list[str] = []
    async with AskaraProvider() as provider, Reception(provider, pkce=PKCE.S256) as house:
        provider.optional_parameters = frozenset({"code_challenge", "code_challenge_method", "code_verifier"})  # type: ignore[misc]
        asyncio.get_running_loop().set_debug(True)
        await house.log_in()
        for trouble in ("quote", "lose", "deny", "forge", "question"):
            login = await house.begun()
            address = await house.returned(login)
            state, code = (dict(parse_qsl(urlsplit(address).query))[name] for name in ("state", "code"))
            verifier = house.planted[-3]
            if trouble == "quote":
                quoted = f"no: {code} {verifier} {state} {provider.client_secret} {code[:20]}"
                provider.error = {"error": "invalid_grant", "error_description": quoted}
            if trouble == "lose":
                provider.lose_answers = 1
            if trouble == "deny":
                address += f"&error=denied%20{state}&error_description={verifier}"
            if trouble == "forge":
                address = address.replace(state, "x" + state)
            page = await house.land(address)
            said += [repr(page), repr(await house.desk.status(login["id"])).replace(login["id"], "ID")]
            provider.error = None
            if trouble == "question":
                assert page.code == "question"
                await house.desk.cancel(login["id"])
        said += [repr(login) for login in house.desk._attempts]
    said.append(written.getvalue())

    for text in said:
        assert provider.leaks(text) == []
        assert [place for place, secret in enumerate(house.planted) if secret in text] == []
    assert said[-1].count('"event":"login_failed"') == 4
    assert '"event":"login_succeeded"' in said[-1]


async def test_what_a_login_is_worth_is_hidden_whoever_writes_it(written: io.StringIO) -> None:
    """State, verifier and code as long as they count for anything, and the tokens; a library may quote what it likes."""
    async with AskaraProvider() as provider, Reception(provider) as house:
        login = await house.begun()
        brought = dict(parse_qsl(urlsplit(await house.returned(login)).query))
        await house.land(await house.returned(login))
        held = await house.kept()
        secrets = [brought["state"], house.planted[1], held.access_token, held.refresh_token or ""]
        logging.getLogger("elsewhere").warning("it said %s", " ".join(secrets))

    assert all(secrets)
    assert "it said" in written.getvalue()
    assert [secret for secret in secrets if secret in written.getvalue()] == []


async def test_what_is_worth_nothing_any_more_is_not_hidden_for_ever(written: io.StringIO) -> None:
    """Else each login would make the log slower, and the memory fuller."""
    clock = FakeClock()
    async with (
        AskaraProvider(clock=clock) as provider,
        Reception(provider, clock=clock, secret=lambda: token_urlsafe(32)) as house,
    ):
        login = await house.begun()
        state = dict(parse_qsl(urlsplit(login["authorize_url"]).query))["state"]
        logging.getLogger("elsewhere").warning("early %s", state)
        assert state not in written.getvalue()
        await clock.advance(21 * 60)
        await house.begun()
        logging.getLogger("elsewhere").warning("late %s", state)

    assert f"late {state}" in written.getvalue()


async def test_a_code_and_a_device_s_code_are_hidden_as_well(written: io.StringIO) -> None:
    clock = FakeClock()
    async with (
        DeviceProvider(clock=clock) as provider,
        Reception(provider, clock=clock, device_url=f"{provider.url}{provider.device_path}") as house,
    ):
        login = await house.begun()
        address = await house.returned(login)
        code = dict(parse_qsl(urlsplit(address).query))["code"]
        await house.land(address)
        await house.begun(device=True)
        secrets = [code, *provider.codes, *(each.user_code for each in provider.codes.values())]
        logging.getLogger("elsewhere").warning("it said %s", " ".join(secrets))

    assert len(secrets) == 3
    assert "it said" in written.getvalue()
    assert [secret for secret in secrets if secret in written.getvalue()] == []


async def test_a_login_by_device_leaves_no_secret_in_the_log(written: io.StringIO) -> None:
    clock = FakeClock()
    async with (
        DeviceProvider(clock=clock) as provider,
        Reception(provider, clock=clock, device_url=f"{provider.url}{provider.device_path}") as house,
    ):
        login = await house.begun(device=True)
        await clock.until_sleeping(2)
        provider.say("yes")
        await clock.advance(5)
        assert (await house.desk.status(login["id"], wait=10))["state"] == "success"
        written.write(repr(list(house.desk._attempts)))

    assert provider.leaks(written.getvalue()) == []
