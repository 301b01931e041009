"""
Reads the tokens that callers prove themselves with, and has their issuers' keys at hand.

Keys are fetched in the background: when an issuer is first heard of, then while its tokens come. A token that names a
key which is not there makes for one fetch, at most every ten seconds, and it alone waits for it: an issuer that has
gone over to another key is followed at once, and one that makes up names has us ask for nothing. Only so many tokens
wait at once; those whose key is here wait for nothing, whatever others send.
"""

from __future__ import annotations

import asyncio
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from tokenproxy import log
from tokenproxy.core.discovery import NoMetadataError, WrongMetadataError
from tokenproxy.core.interfaces import BadTokenError, Clock, CrowdedError, NoKeysError, TokenOrigins, Told
from tokenproxy.core.issuers import (
    LARGEST_KEYS,
    Issuer,
    Opened,
    fitting,
    keys_url,
    metadata_url,
    opened,
    read_keys,
    same_origin,
    seconds_left,
)
from tokenproxy.core.outgoing import Way
from tokenproxy.core.replies import Reply
from tokenproxy.core.steps import TokenRequest
from tokenproxy.core.token_request import USER_AGENT
from tokenproxy.oauth.calls import AnswerLostError, NotSentError

_log = logging.getLogger("tokenproxy.oauth")

FRESH: Final = 300.0
"""Seconds after which keys are fetched anew, in the background."""
APART: Final = 10.0
"""Seconds between two fetches of one issuer's keys at least."""
KEPT: Final = 24 * 3600.0
"""Seconds for which keys count that cannot be fetched anew: an issuer that is down keeps nobody out for a day."""
PATIENCE: Final = 5.0
"""Seconds for metadata and keys together."""
WAITING: Final = 256
"""Tokens that wait for one issuer's keys at once: while it hangs each of them does, also when its request is gone."""
WAITING_EACH: Final = 128
"""Of these, such as name the same key (or none): a flood with one name leaves room for the name of a new key."""
_LEAST_BITS: Final = 2048
"""RFC 7518 section 3.3."""


class Send(Protocol):
    async def __call__(
        self,
        request: TokenRequest,
        way: Way,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as ``Endpoint.send``
    ) -> Reply: ...


class KeysFailedError(Exception):
    """Keys that cannot be fetched; its text is a phrase without addresses or secrets."""


@dataclass(slots=True)
class _Known:
    """An issuer with its keys."""

    issuer: Issuer
    described: tuple[Mapping[str, Any], ...] = ()
    keys: list[Any] = field(default_factory=list)
    """As ``described``, ready to check signatures with."""
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    fetching: asyncio.Task[None] | None = None
    waiting: Counter[str | None] = field(default_factory=Counter)
    """Tokens that wait for a fetch, by the key that they name."""


class Issuers:
    """``core.interfaces.TokenReader``."""

    def __init__(self, send: Send, *, clock: Clock, origins: TokenOrigins | None = None) -> None:
        """``origins``: where the tokens lie that keys are asked for with."""
        self._send = send
        self._clock = clock
        self._origins = origins
        self._known: dict[str, _Known] = {}
        """By ``iss``."""

    def configure(self, issuers: Iterable[Issuer]) -> None:
        """From now on these; keys of those that stay as they are stay too, those of new ones are fetched."""
        before, self._known = self._known, {}
        for issuer in issuers:
            known = before.pop(issuer.issuer, None)
            if known is None or known.issuer != issuer:
                if known is not None:
                    _stop(known)
                known = _Known(issuer)
            self._known[issuer.issuer] = known
            if not known.keys:
                self._fetch_beside(known)
        for gone in before.values():
            _stop(gone)

    async def close(self) -> None:
        tasks = [task for known in self._known.values() if (task := _stop(known)) is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def read(self, token: bytes) -> Told:
        told = opened(token)
        known = self._known.get(told.issuer)
        if known is None:
            raise BadTokenError("its issuer is not in the config")
        if told.algorithm not in known.issuer.algorithms:  # "none" and secrets among them
            raise BadTokenError("its algorithm does not count")
        self._left(
            known, told
        )  # before the signature: one that could not count costs no work, and no fetch of keys
        for key in await self._keys(known, told):
            if _signed(token, key, told.algorithm):
                return Told(known.issuer.name, told.claims, self._left(known, told))
        raise BadTokenError("its signature is wrong")

    # inside

    def _left(self, known: _Known, told: Opened) -> float:
        return seconds_left(told.claims, known.issuer, self._clock.now().timestamp())

    async def _keys(self, known: _Known, told: Opened) -> list[Any]:
        """Those that may have signed it; waits for a fetch only where there is none."""
        now = self._clock.monotonic()
        if now - known.fetched_at > KEPT:
            known.described, known.keys = (), []
        found = self._fitting(known, told)
        if found:
            if now - known.fetched_at > FRESH:
                self._fetch_beside(known)
            return found
        if not self._fetch_beside(known) and known.keys:
            raise BadTokenError("it is signed with a key that its issuer does not have")
        if known.fetching is not None:
            await self._fetched(known, known.fetching, told.key_id)
        if not known.keys:
            wait = max(1.0, known.tried_at + APART - self._clock.monotonic())
            raise NoKeysError(f"the keys of the issuer {known.issuer.name} cannot be had", retry_after=wait)
        found = self._fitting(known, told)
        if not found:
            raise BadTokenError("it is signed with a key that its issuer does not have")
        return found

    @staticmethod
    async def _fetched(known: _Known, fetching: asyncio.Task[None], key_id: str | None) -> None:
        waiting = known.waiting
        if waiting[key_id] >= WAITING_EACH or waiting.total() >= WAITING:
            raise CrowdedError(
                f"too many wait for the keys of the issuer {known.issuer.name}", retry_after=1.0
            )
        waiting[key_id] += 1
        try:
            await asyncio.wait([fetching], timeout=PATIENCE + 1)
        finally:
            waiting[key_id] -= 1
            if not waiting[key_id]:
                del waiting[key_id]

    @staticmethod
    def _fitting(known: _Known, told: Opened) -> list[Any]:
        return [known.keys[number] for number in fitting(known.described, told.algorithm, told.key_id)]

    def _fetch_beside(self, known: _Known) -> bool:
        """Whether keys are being fetched now; a fetch that was just tried is not repeated."""
        if known.fetching is not None:
            return True
        if self._clock.monotonic() - known.tried_at < APART:
            return False
        known.tried_at = self._clock.monotonic()
        known.fetching = asyncio.get_running_loop().create_task(self._fetch(known))
        return True

    async def _fetch(self, known: _Known) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                body = await self._body(known.issuer)
            pairs = _readable(read_keys(body))
        except (KeysFailedError, NoMetadataError, WrongMetadataError, NotSentError, AnswerLostError) as error:
            self._failed(known, str(error))
        except TimeoutError:
            self._failed(known, "it did not answer in time")
        except Exception as error:  # noqa: BLE001 - a task's top: whoever waits must learn that there are no keys
            log.event(_log, "unexpected_error", error=error, where="the keys of an issuer")
        else:
            known.described = tuple(each for each, _ in pairs)
            known.keys = [key for _, key in pairs]
            known.fetched_at = self._clock.monotonic()
        finally:
            known.fetching = None

    def _failed(self, known: _Known, detail: str) -> None:
        log.event(_log, "issuer_keys_failed", issuer=known.issuer.name, detail=detail, keys=len(known.keys))

    async def _body(self, issuer: Issuer) -> bytes:
        if issuer.jwks_file:
            return await asyncio.to_thread(_read_file, Path(issuer.jwks_file))
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        token = await self._token(issuer)
        first = issuer.jwks_url or metadata_url(issuer.issuer)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        reply = await self._got(first, headers, issuer)
        if issuer.jwks_url:
            return reply.body
        address = keys_url(reply, issuer.issuer)
        if token and not same_origin(address, first):
            del headers["Authorization"]  # the token is for the host that the config names
        return (await self._got(address, headers, issuer)).body

    async def _got(self, url: str, headers: Mapping[str, str], issuer: Issuer) -> Reply:
        reply = await self._send(TokenRequest("GET", url, dict(headers), None), issuer.way, timeout=PATIENCE)
        if reply.status != 200:
            raise KeysFailedError(f"it answers with status {reply.status}")
        return reply

    async def _token(self, issuer: Issuer) -> str:
        if not issuer.token or self._origins is None:
            return ""
        try:
            token = (await asyncio.to_thread(self._origins.read, issuer.token)).strip()
        except ValueError as error:
            raise KeysFailedError(f"the token for it {error}") from None
        log.register_secret(token)
        return token


def _stop(known: _Known) -> asyncio.Task[None] | None:
    if known.fetching is not None:
        known.fetching.cancel()
    return known.fetching


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_KEYS + 1)
    except OSError as error:
        raise KeysFailedError(f"jwks_file cannot be read: {error.strerror}") from None


def _readable(described: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Any]]:
    """Each with the key that it describes."""
    pairs = [(each, key) for each in described if (key := _key(each)) is not None]
    if not pairs:
        raise KeysFailedError("its JWKS holds no key that can be read")
    return pairs


def _key(described: Mapping[str, Any]) -> Any:
    """None for one that cannot be read, or is too weak: the others of its set count all the same."""
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = import_key(dict(described))
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    weak = key.key_type == "RSA" and key.public_key.key_size < _LEAST_BITS  # type: ignore[union-attr]
    return None if weak else key


def _signed(token: bytes, key: Any, algorithm: str) -> bool:
    from joserfc import jws
    from joserfc.errors import JoseError

    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = 8 * 1024
    try:
        with warnings.catch_warnings():  # EdDSA's new name
            warnings.simplefilter("ignore")
            jws.deserialize_compact(token, key, algorithms=[algorithm], registry=registry)
    except (JoseError, ValueError, TypeError):
        return False
    return True
