"""Readiness under a store that fails, hangs or comes back."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tokenproxy.admin import health as module
from tokenproxy.admin.health import Health
from tokenproxy.errors import StoreError


class Disk:
    """A check whose answer the test decides."""

    def __init__(self) -> None:
        self.asked = 0
        self.says: str | None = None
        self.hangs: asyncio.Event | None = None

    async def check(self) -> str | None:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        return self.says


class Watch:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def health(watch: Watch, disk: Disk) -> Health:
    health = Health(monotonic=watch)
    health.started = True
    health.checks["store"] = disk.check
    return health


async def test_nothing_is_ready_before_it_has_started(disk: Disk) -> None:
    """The store is not even asked: migrations may be under way."""
    health = Health()
    health.checks["store"] = disk.check

    assert await health.reasons() == {"starting": "still starting"}
    assert (health.ready, disk.asked) == (False, 0)


async def test_many_probes_cost_one_look_at_the_disk(health: Health, disk: Disk, watch: Watch) -> None:
    """A load balancer with many probes must not become the store's heaviest user; news arrive after a second."""
    assert await asyncio.gather(*(health.reasons() for _ in range(50))) == [{}] * 50
    disk.says = "read-only"
    watch.now += 0.9
    assert await health.reasons() == {}
    assert disk.asked == 1

    watch.now += 0.2

    assert await health.reasons() == {"store": "read-only"}
    assert (health.ready, disk.asked) == (False, 2)


async def test_a_hung_disk_cannot_hang_probes(
    health: Health, disk: Disk, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One check hangs, every probe gets its answer, no second check is begun; when the disk wakes up, so do we."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    disk.hangs = asyncio.Event()

    for seconds in (0, 5, 60):
        watch.now = 100.0 + seconds
        reasons = await asyncio.wait_for(health.reasons(), timeout=5)
        assert reasons == {"store": f"no answer for {seconds} s"}
    assert disk.asked == 1

    disk.hangs.set()
    assert await asyncio.wait_for(health.reasons(), timeout=5) in ({}, {"store": "no answer for 60 s"})
    watch.now += 2
    assert await health.reasons() == {}
    assert health.ready


async def test_what_a_check_raises_is_a_reason(health: Health, watch: Watch) -> None:
    """Our own errors are told as they are; others by their class alone, since their text may hold a secret."""

    async def sealed() -> str | None:
        raise StoreError("No key of ours opens the store.")

    async def broken() -> str | None:
        raise ValueError("planted-secret")

    health.checks |= {"store": sealed, "spool": broken}

    assert await health.reasons() == {
        "store": "No key of ours opens the store.",
        "spool": "the check failed unexpectedly (ValueError)",
    }


async def test_a_failure_that_nobody_waited_for_is_no_noise(
    health: Health, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio reports forgotten exceptions as errors when they are collected."""

    async def broken() -> str | None:
        await disk.check()
        raise StoreError("gone")

    disk.hangs = asyncio.Event()
    health.checks["store"] = broken
    probe = asyncio.ensure_future(health.reasons())
    while not disk.asked:
        await asyncio.sleep(0)
    probe.cancel()
    disk.hangs.set()
    await asyncio.wait({probe})
    health.checks["store"] = disk.check
    assert await health.reasons() == {}
    gc.collect()

    assert caplog.records == []


async def test_a_reload_replaces_a_check_at_once(health: Health) -> None:
    """The answer of the old store must not be believed of the new one."""
    assert await health.reasons() == {}

    async def failing() -> str | None:
        return "not there"

    health.checks["store"] = failing
    assert await health.reasons() == {"store": "not there"}


async def test_a_probe_that_leaves_does_not_spoil_the_check(health: Health, disk: Disk) -> None:
    """Probes give up after a second; the one behind them shares their check."""
    disk.hangs = asyncio.Event()
    leaving = asyncio.ensure_future(health.reasons())
    staying = asyncio.ensure_future(health.reasons())
    while not disk.asked:
        await asyncio.sleep(0)
    leaving.cancel()
    disk.hangs.set()

    assert await staying == {}
    assert disk.asked == 1
