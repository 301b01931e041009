"""``tokenproxy login --device``: a code is read here and typed in elsewhere, at the provider's own pace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.cli.program import Ended, serving, terminal, waiting
from tests.simulators import ABSENT, Api, DeviceProvider, write_config


class Office:
    def __init__(self, provider: DeviceProvider, config: Path, here: Here) -> None:
        self.provider = provider
        self.config = config
        self._here = here

    async def logged_in(self, *words: str) -> Ended:
        return await asyncio.to_thread(self._here, "login", "books", *words, "--config", str(self.config))


@pytest.fixture
async def office(tmp_path: Path, here: Here) -> AsyncIterator[Office]:
    async with DeviceProvider() as provider, Api(provider) as api:
        device_url = f'device_url = "{provider.url}{provider.device_path}"'
        config = write_config(tmp_path, provider, api, provider_extra=device_url)
        provider.interval = 0.1
        yield Office(provider, config, here)
        assert not provider.complaints


async def test_a_code_is_read_here_and_typed_in_elsewhere(office: Office) -> None:
    """No browser, no callback address: the admin listener may take any port, and none is opened."""
    command = ("login", "books", "--device", "--config", str(office.config))
    async with waiting(*command) as login:
        told = await login.until("Waiting")
        (code,) = office.provider.codes.values()
        office.provider.say("yes")
        ended = await login.ended()

    assert re.search(
        rf"^Your one-time code:   {code.user_code}        \(ends in 15 min\)$", told, re.MULTILINE
    )
    assert f"Open                  {office.provider.url}/activate\n" in told
    assert "█" not in told, "a QR code is for a terminal"
    assert ended.code == 0
    assert ended.out.startswith("✓ logged in to books\n")
    printed = ended.out + ended.err.replace(code.user_code, "")
    assert not office.provider.leaks(printed)


async def test_the_provider_sets_the_pace(office: Office) -> None:
    """Five seconds where it names no interval, and five more for good when it says slow_down; here both at once."""
    office.provider.slow_downs = 1
    command = ("login", "books", "--device", "--config", str(office.config))
    async with serving(office.config), waiting(*command) as slow:
        await office.provider.polled(1)
        office.provider.say("yes")
        office.provider.interval = ABSENT
        with terminal("login", "books/unsaid", "--device", "--config", str(office.config)) as screen:
            shown = await asyncio.to_thread(screen.until, "Waiting")
            office.provider.say("yes")
            assert len(set(shown) & set("▀▄█")) > 1, "a QR code, since this is a terminal"
            unsaid = await asyncio.to_thread(screen.ended)
        assert ((await slow.ended()).code, unsaid.code) == (0, 0)

    first, *later = office.provider.polls
    assert len(later) == 2
    assert all(at - first >= 5 for at in later)


async def test_who_says_no_and_who_says_nothing(office: Office) -> None:
    """Exit code 3 both times: nobody is logged in, and the provider is not to blame."""
    denied = asyncio.create_task(office.logged_in("--device"))
    await office.provider.polled(1)
    office.provider.say("no")
    no = await denied
    office.provider.device_life = 1
    nothing = await office.logged_in("--device")

    assert (no.code, nothing.code) == (3, 3)
    assert "the login of books failed (access denied)" in no.err
    assert "the login of books failed (expired)" in nothing.err
    assert nothing.err.endswith(f"Next:  tokenproxy login books --config {office.config}\n")


async def test_a_provider_without_devices_is_2(office: Office) -> None:
    office.config.write_text(re.sub(r"device_url = .*\n", "", office.config.read_text()))
    ended = await office.logged_in("--device")

    assert ended.code == 2
    assert "has no login by device" in ended.err
