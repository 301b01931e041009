"""Whether the store opens, holds what it says, and keeps what it confirms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tokenproxy import stores
from tokenproxy.doctor import logins
from tokenproxy.doctor.finding import Case, Finding, House, bad, good, warn
from tokenproxy.errors import StoreError, TokenproxyError


async def opens(case: Case) -> Sequence[Finding]:
    """The store and its logins, through the running ``serve``, else here; it is opened once, for nobody else can meanwhile."""
    settings = case.config.store
    if case.running is None and not settings.database and not stores.store_exists(settings.url):
        yet = good("store", f"there is no {settings.path.name} yet; the first start makes it")
        return [yet, *logins.nobody_yet(case)]
    if case.running is None and settings.database and case.offline:
        return [good("store", f"{settings.name}, which was not asked")]
    try:
        async with case.visit() as house:
            found = await logins.judged(case, house)
            return [*await _verified(case, house), *found]
    except TokenproxyError as error:
        return [bad("store_unusable", "store", error.message, error.next_step or "tokenproxy store verify")]


async def _verified(case: Case, house: House) -> list[Finding]:
    """Every row is opened."""
    try:
        async with asyncio.timeout(case.patience * 0.8):
            told = await house.verify()
    except TimeoutError:
        said = "is too large to be looked through in a moment"
        return [warn("check_timeout", "store", said, "tokenproxy store verify")]
    if told["ok"]:
        count = told["with_tokens"]
        return [good("store", f"{count:,} login{'' if count == 1 else 's'}, all of it opens")]
    found = [
        bad(
            "store_damaged",
            "store",
            f"the tokens of {name} do not open with the store's keys",
            f"put the missing key back, or: tokenproxy login {name}",
        )
        for name in told["unreadable"][:10]
    ]
    if told["damage"]:
        damaged = f"the file is damaged: {told['damage']}"
        found.append(bad("store_damaged", "store", damaged, "restore it from a backup"))
    return found


async def database(case: Case) -> Sequence[Finding]:
    settings = case.config.store
    if not settings.database:
        return []
    try:
        facts = await stores.look_at_server(settings.url, settings.shared)
    except StoreError as error:
        return [bad("store_unusable", "database", error.message, error.next_step)]
    found = [
        bad(
            "store_unsafe",
            "database",
            f"{settings.name} may lose what it confirmed ({each} = off): a renewed token that is lost is a login that is lost",
            f"set {each} = on there (for this role: ALTER ROLE ... SET)",
        )
        for each in facts.lossy
    ]
    found += [
        warn("store_doubtful", "database", each, "docs/scaling.md says what that may cost")
        for each in facts.doubts
    ]
    if not found:
        copies = (
            f"{facts.standbys} standby{'' if facts.standbys == 1 else 's'}, {facts.synchronous} synchronous"
            if facts.standbys
            else "no standby"
        )
        found.append(good("database", f"{settings.name}: PostgreSQL {facts.version}, durable, {copies}"))
    return found
