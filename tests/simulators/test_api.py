"""The API takes one live token in the right form, and stays small under large bodies."""

from __future__ import annotations

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.simulators import Api, DeskeraProvider, PerscomProvider, pattern, pattern_sha256

MIB = 1024 * 1024


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
async def provider() -> AsyncIterator[DeskeraProvider]:
    async with DeskeraProvider() as running:
        yield running


@pytest.fixture
async def api(provider: DeskeraProvider) -> AsyncIterator[Api]:
    async with Api(provider) as running:
        yield running


@pytest.fixture
def live(provider: DeskeraProvider) -> dict[str, str]:
    return {"x-access-token": provider.new_grant()["access_token"]}


async def test_only_a_live_token_in_the_right_place_is_let_in(
    http: aiohttp.ClientSession, provider: DeskeraProvider, api: Api, live: dict[str, str]
) -> None:
    """A second credential, even a look-alike, is refused: a proxy that lets the caller's through must be seen."""
    token = live["x-access-token"]

    async def status(*headers: tuple[str, str]) -> int:
        async with http.get(api.url + "/a%2Fb?x=%20", headers=list(headers)) as response:
            return response.status

    assert await status(("X-Access-Token", token)) == 200
    assert await status() == 401
    assert await status(("x-access-token", token), ("x-access-token", token)) == 401
    assert await status(("x-access-token", token), ("X_Access_Token", "mine")) == 401
    assert await status(("Authorization", f"Bearer {token}")) == 401
    provider.revoke_access(token)
    assert await status(("x-access-token", token)) == 401
    assert api.statuses == [200, 401, 401, 401, 401, 401]
    assert {request.target for request in api.requests} == {"/a%2Fb?x=%20"}


async def test_bearer_for_the_others(http: aiohttp.ClientSession) -> None:
    """PERSCOM's form, with the challenge that RFC 6750 section 3 asks for."""
    async with PerscomProvider() as perscom, Api(perscom) as api:
        token = perscom.new_grant()["access_token"]
        async with http.get(api.url, headers={"Authorization": f"Bearer {token}"}) as response:
            assert (await response.json())["token"] == 1
        async with http.get(api.url, headers={"Authorization": token}) as response:
            assert response.status == 401
            assert "invalid_token" in response.headers["WWW-Authenticate"]


async def test_bodies_are_hashed_as_they_came(
    http: aiohttp.ClientSession, api: Api, live: dict[str, str]
) -> None:
    """ "Identical bodies upstream" rests on this: no decoding on the way, chunked or not."""
    body = b"\x1f\x8b not gzip at all"
    headers = live | {"Content-Encoding": "gzip"}
    async with http.post(api.url + "/x", data=body, headers=headers) as response:
        assert (await response.json())["sha256"] == hashlib.sha256(body).hexdigest()
    assert (api.requests[0].length, api.requests[0].sha256) == (len(body), hashlib.sha256(body).hexdigest())


async def test_a_crowd_waits_at_the_gate(
    http: aiohttp.ClientSession, provider: DeskeraProvider, api: Api, live: dict[str, str]
) -> None:
    """The token is looked at after the gate, so that a token can die under requests in flight."""
    api.gate = asyncio.Event()

    async def get() -> int:
        async with http.get(api.url, headers=live) as response:
            return response.status

    crowd = [asyncio.create_task(get()) for _ in range(50)]
    await api.crowd(50)
    provider.revoke_all_access()
    api.gate.set()
    assert await asyncio.gather(*crowd) == [401] * 50
    assert api.max_concurrent == 50


async def test_a_stream_goes_step_by_step(
    http: aiohttp.ClientSession, api: Api, live: dict[str, str]
) -> None:
    """ "The first byte arrives before the last is produced" needs an upstream that holds its last byte back."""
    api.step = asyncio.Semaphore(1)
    async with http.get(api.url + "/stream?n=2&size=5", headers=live) as response:
        assert await response.content.readexactly(5) == bytes(range(5))
        assert api.chunks_sent == 1
        api.step.release()
        assert await response.content.read() == bytes(range(5))


async def test_memory_stays_flat(http: aiohttp.ClientSession, api: Api, live: dict[str, str]) -> None:
    """A simulator that keeps bodies would hide, or cause, what the flat-memory stories look for."""
    size = 128 * MIB

    async def upload() -> AsyncIterator[bytes]:
        for piece in pattern(size):
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with http.post(api.url + "/sink", data=upload(), headers=live) as response:
        assert await response.json() == {"length": size, "sha256": pattern_sha256(size)}
    digest = hashlib.sha256()
    async with http.get(f"{api.url}/big?size={size}", headers=live) as response:
        async for piece in response.content.iter_any():
            digest.update(piece)
    assert digest.hexdigest() == pattern_sha256(size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


@pytest.mark.parametrize(("expect_100", "status", "continues"), [(True, 200, 1), (False, 417, 0)])
async def test_expect_is_answered(
    expect_100: bool, status: int, continues: int, http: aiohttp.ClientSession, api: Api, live: dict[str, str]
) -> None:
    """RFC 9110 section 10.1.1, both ways."""
    api.expect_100 = expect_100
    async with http.post(api.url, data=b"x" * 1000, headers=live, expect100=True) as response:
        assert response.status == status
    assert api.continues == continues


async def test_faults_on_command(http: aiohttp.ClientSession, api: Api, live: dict[str, str]) -> None:
    """401 with a live token, a redirect, a body that ends too early."""
    async with http.get(api.url + "/forbidden-401", headers=live) as response:
        assert response.status == 401
    async with http.get(api.url + "/redirect", headers=live, allow_redirects=False) as response:
        assert response.status == 302
    async with http.get(api.url + "/cut?size=1000&after=10", headers=live) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    api.always_401 = True
    async with http.get(api.url, headers=live) as response:
        assert response.status == 401


async def test_hanging_requests_end_with_the_simulator(
    http: aiohttp.ClientSession, provider: DeskeraProvider, live: dict[str, str]
) -> None:
    """No story may have to clean up after ``/hang``."""
    async with Api(provider) as api:
        call = asyncio.create_task(http.get(api.url + "/hang", headers=live).__aenter__())
        await api.arrived()
    with pytest.raises(aiohttp.ClientError):
        await call
