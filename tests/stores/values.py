"""Values that store tests put in and look for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import Claim, Store
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
LEASE = timedelta(seconds=30)
BOUND = "https://login.example:443 cl_1"
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))

OK = Standing(State.OK, Reason.NONE, NOW)
LOST = Standing(State.IN_DOUBT, Reason.ANSWER_LOST, NOW, 1, "no answer in 15 s", NOW + timedelta(seconds=5))
GONE = Standing(State.NEW, Reason.NOT_LOGGED_IN, NOW)


def tokens(generation: int = 1, *, name: str = "") -> TokenSet:
    """Every field set, every secret recognisable."""
    return TokenSet(
        access_token=f"planted-access-{name}{generation}",
        refresh_token=f"planted-refresh-{name}{generation}",
        token_type="bearer",
        scope="read write",
        scope_asked="read write ünïcode",
        issued_at=NOW,
        expires_at=NOW + timedelta(hours=1, microseconds=1),
        refresh_expires_at=NOW + timedelta(days=30),
        identity="anna@example.com",
        captured={"instance_url": "https://eu1.example.com"},
        dpop_key=f"planted-key-{name}{generation}",
        generation=generation,
    )


async def adopt(store: Store, account: str = "crm/anna", generation: int = 1, *, size: int = 0) -> bool:
    put = tokens(generation, name="x" * size)
    return await store.adopt(account, put, bound_to=BOUND, standing=OK, now=NOW)


async def claim(store: Store, account: str = "crm/anna", generation: int = 1, *, at: datetime = NOW) -> Claim:
    """A claim that the test counts on."""
    taken = await store.claim(account, generation=generation, now=at, lease=LEASE)
    assert taken is not None
    return taken


async def commit(store: Store, claimed: Claim) -> bool:
    put = tokens(claimed.generation + 1)
    spent = f"planted-refresh-{claimed.generation}"
    return await store.commit(claimed, put, previous=spent, standing=OK, now=NOW)
