"""
Fetches issuers' metadata when a flow needs it, never at the start: a provider that is down keeps nobody from running.

A document is believed for an hour; where a fetch fails, the last good one stays in use.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tokenproxy import log
from tokenproxy.core.discovery import (
    Metadata,
    NoMetadataError,
    WrongMetadataError,
    completed,
    metadata_requests,
    read_metadata,
)
from tokenproxy.core.outgoing import Way
from tokenproxy.core.provider import Account, Provider
from tokenproxy.core.replies import Reply
from tokenproxy.core.steps import TokenRequest
from tokenproxy.oauth.calls import AnswerLostError, MisdirectedError, NotSentError

Send = Callable[[TokenRequest, Way], Awaitable[Reply]]

KEPT: Final = 3600.0
"""Seconds for which a document is believed."""
TRIED_AGAIN: Final = 60.0
"""Seconds after a failed fetch in which the last good document is used without asking."""
PATIENCE: Final = 10.0
"""Seconds for both addresses together."""

_log = logging.getLogger("tokenproxy.oauth")


@dataclass(slots=True)
class _Known:
    """What is known of one issuer."""

    metadata: Metadata | None = None
    fetch_at: float = -math.inf
    """On the monotonic clock; before it nothing is fetched."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One fetch at a time, however many accounts wait for it."""


class Discovery:
    """Completes accounts whose provider names an issuer; bounded by the number of providers in the config."""

    def __init__(self, send: Send, *, monotonic: Callable[[], float], patience: float = PATIENCE) -> None:
        self._send = send
        self._monotonic = monotonic
        self._patience = patience
        self._issuers: dict[tuple[str, Way], _Known] = {}

    async def resolved(self, account: Account) -> Account:
        """The account with a complete provider. Raises ``NotSentError`` where nothing complete is known of it."""
        provider = account.provider
        if not provider.issuer:
            return account
        known = self._issuers.setdefault((provider.issuer, provider.way), _Known())
        async with known.lock:
            if self._monotonic() >= known.fetch_at:
                await self._fetch(known, account.name, provider)
        if known.metadata is None:  # a profile that is whole does without
            if provider.token_url:
                return account
            raise NotSentError("the issuer's metadata could not be read a moment ago")
        try:
            return completed(account, known.metadata)
        except WrongMetadataError as wrong:
            raise _misdirected(wrong) from None

    async def _fetch(self, known: _Known, account: str, provider: Provider) -> None:
        """Raises ``NotSentError`` where the fetch fails and the profile cannot do without."""
        try:
            known.metadata = await self._document(provider)
        except NotSentError as error:
            if known.metadata is None and not provider.token_url:
                raise
            known.fetch_at = self._monotonic() + TRIED_AGAIN
            log.event(_log, "discovery_failed", account=account, provider=provider.name, detail=str(error))
            return
        known.fetch_at = self._monotonic() + KEPT

    async def _document(self, provider: Provider) -> Metadata:
        """From the first address that has it; what is wrong at one is told only where the other has none."""
        wrong: ValueError | None = None
        try:
            async with asyncio.timeout(self._patience):
                for request in metadata_requests(provider.issuer):
                    try:
                        return read_metadata(await self._send(request, provider.way), provider.issuer)
                    except WrongMetadataError as error:
                        wrong = error
                    except NoMetadataError as error:
                        wrong = wrong or error
        except (NotSentError, AnswerLostError, TimeoutError) as error:
            text = str(error) or "the provider did not answer in time"
            raise NotSentError(f"the issuer's metadata cannot be read: {text}") from None
        if isinstance(wrong, WrongMetadataError):
            raise _misdirected(wrong)
        raise NotSentError(f"the issuer's metadata cannot be read: {wrong}")


def _misdirected(wrong: WrongMetadataError) -> MisdirectedError:
    return MisdirectedError(f"the issuer cannot be used: {wrong}")
