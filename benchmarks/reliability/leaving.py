"""R9 and R14: callers that leave and answers that come late."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from benchmarks.reliability.result import Result
from tests.oauth.house import ROUTE, House
from tests.simulators import Api, AskaraProvider, write_config
from tests.stories.serving import calling, imported, serving, status_of
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError

TOKEN_CALL: Final = 15.0
"""Seconds that a token call may take."""


async def only_waiter_leaves(folder: Path, *, times: int) -> Result:
    """R9, through the real ``serve``; the provider is strict."""
    faults = []
    async with AskaraProvider() as provider, Api(provider) as api, calling() as caller:
        folder.mkdir(parents=True, exist_ok=True)
        config = write_config(folder, provider, api, extra='[log]\nformat = "json"\n')
        async with serving(config) as serve:
            await imported(config, "books", provider.new_grant())
            for _ in range(times):
                provider.revoke_all_access()
                provider.gate, calls = asyncio.Event(), provider.token_calls
                asking = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
                await provider.token_call_arrived()
                asking.cancel()
                await asyncio.wait({asking})
                provider.gate.set()
                provider.gate = None
                async with caller.get(f"{serve.url}/books/x") as answer:
                    if answer.status != 200:
                        faults.append(f"the next request got {answer.status}")
                if provider.token_calls != calls + 1:
                    faults.append(f"{provider.token_calls - calls} token calls for one renewal")
            generation = (await status_of(config, "books"))["generation"]
        if generation != times + 1 or provider.reuses:
            faults.append(f"generation {generation} after {times} renewals, {provider.reuses} reuses")
    figures = {"renewals": times, "stored": generation - 1, "token calls": provider.token_calls}
    return Result("R9", "the only waiter leaves after the token call was sent", figures, faults)


async def late_answer(folder: Path, seconds: float, *, replayed: bool) -> Result:
    """R14: how a renewal ends whose provider takes so long, in true seconds; its grace is 30."""
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    async with (
        AskaraProvider() as provider,
        House(provider, path=folder / "t.db", timeout=TOKEN_CALL) as house,
    ):
        first = await house.login()
        provider.grace, provider.delay, provider.hold = 30.0, seconds, "after"
        provider.revoke_access(first.access_token)
        began = time.monotonic()
        asking = asyncio.ensure_future(house.source.renew("books", first, route=ROUTE))
        await provider.token_call_arrived()
        provider.delay = 0.0
        try:
            found = await asking
        except AccountError as error:
            faults.append(f"no token: {error.reason}")
        else:
            if not isinstance(found, TokenSet) or await house.kept() != found:
                faults.append("the new pair is not what the store has")
        took = time.monotonic() - began
        if provider.token_calls != 1 + replayed or provider.replays != replayed or provider.reuses:
            faults.append(
                f"{provider.token_calls} calls, {provider.replays} replays, {provider.reuses} reuses"
            )
    figures = {"token calls": provider.token_calls, "replays": provider.replays, "took, s": round(took, 1)}
    return Result("R14", f"the provider answers after {seconds} s", figures, faults)


async def late_answers(folder: Path) -> list[Result]:
    found = await asyncio.gather(
        late_answer(folder / "in time", TOKEN_CALL - 0.1, replayed=False),
        late_answer(folder / "late", TOKEN_CALL + 0.1, replayed=True),
    )
    return list(found)
