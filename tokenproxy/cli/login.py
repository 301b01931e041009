"""``login``: a person says yes at the provider, here, in a browser elsewhere, or on another device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli.accounts import local_now
from tokenproxy.cli.command import Call, account_argument, command, operate, shown_store
from tokenproxy.cli.present import moment, span, table, until

if TYPE_CHECKING:
    from tokenproxy.config import Config
    from tokenproxy.core.provider import Provider
    from tokenproxy.offline import OperatorFace

_ROTATION: Final[Mapping[str, str]] = {
    "always": ", rotating",
    "sometimes": ", now and then another",
    "never": ", the same for good",
}


@command("login", json=True)
@account_argument()
@click.option("--device", is_flag=True, help="Log in on another device, with a code that is shown here.")
@click.option("--no-browser", is_flag=True, help="Open no browser here; print the provider's address.")
@click.option("--replace", is_flag=True, help="Replace another identity's login without asking.")
def login(call: Call, *, account: str, device: bool, no_browser: bool, replace: bool) -> None:
    """
    Log ACCOUNT in at its provider.

    \b
      tokenproxy login books            a browser opens here
      tokenproxy login books/anna       the same for one of several people
      tokenproxy login books --device   no browser here: a code for another device

    Over SSH the address is printed: open it in any browser, and paste the address that the browser ends on, here. Ctrl-C gives the login up. Works while serve
    runs, and without it.
    """  # noqa: D301 - \b is click's

    async def work(config: Config, face: OperatorFace) -> tuple[dict[str, Any], list[tuple[str, str]], bool]:
        from tokenproxy.cli.attempt import LoginAttempt

        attempt = LoginAttempt(call, account, config, face)
        ended = await attempt.run(device=device, browser=not no_browser, replace=replace)
        return ended, await _facts(config, account, ended), face.running

    ended, facts, running = operate(call, work)
    if call.json:
        call.out.json(ended["result"])
        return
    identity = (ended["result"] or {}).get("identity")
    call.out.done(f"logged in as {identity}" if identity else f"logged in to {account}")
    call.out.say(table(facts, indent="  "))
    if not running:
        call.out.say(call.step("Next:  tokenproxy serve"))


async def _facts(config: Config, account: str, ended: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know of a login, one line each."""
    from tokenproxy import parts

    spec = config.accounts[account.partition("/")[0]]
    kept = shown_store(config.store)
    key = await parts.key_id(config, os.environ)
    where = ("stored in", f"{kept} (encrypted{f', key id {key}' if key else ''})")
    if spec.capture:
        return [("caught", f"for requests, which name it [user[{spec.capture}]]"), where]
    status, now = ended["result"] or {}, local_now()
    ends, over = moment(status.get("expires_at"), now), moment(status.get("refresh_expires_at"), now)
    renewable = bool(status.get("renewable"))
    valid = f"valid {span(ends - now)}" if ends is not None else "valid until a 401 tells"
    after = "refreshed by itself" if renewable else "then somebody must log in again"
    refresh = _refresh_token(spec.provider) if renewable else "none came along"
    if renewable and over is not None:
        refresh += f", until {until(over, now)}"
    rows = [("access token", f"{valid}, {after}"), ("refresh token", refresh), where]
    scope = status.get("scope") or spec.scope  # none in the answer: as was asked for (RFC 6749 section 5.1)
    return [("scopes", str(scope)), *rows] if scope else rows


def _refresh_token(provider: Provider) -> str:
    if provider.refresh_with == "access_token":
        return "not needed: the access token is exchanged for the next"
    text = f"yes{_ROTATION.get(provider.rotation, '')}"
    if provider.grace is not None and provider.grace > timedelta(0):
        text += f", provider keeps the old one {span(provider.grace)}"
    return text
