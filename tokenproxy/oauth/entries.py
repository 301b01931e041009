"""The logins in memory: how much room they have, which of them rest, and which go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from tokenproxy import log
from tokenproxy.core.interfaces import Clock
from tokenproxy.core.tokens import TokenSet
from tokenproxy.oauth.entry import Entry, size_of
from tokenproxy.oauth.resting import Resting, may_rest

AWAKE: Final = 1024
"""Logins up to which none need rest."""
_EVICT_DOWN_TO: Final = 0.9
"""Of the room, so that it need not be done for every new entry."""


class Entries:
    """
    By account; a login that is not here is read from the store when somebody asks for it.

    An ``Entry`` is awake; beyond ``AWAKE`` of them, those that have nothing to do are packed and rest. Whoever holds an
    ``Entry`` over an ``await`` must make it ``wanted``, or look here again whether it still is what it was.
    """

    def __init__(self, *, room: int, clock: Clock, awake: int = AWAKE) -> None:
        """``room`` in bytes."""
        self._room = room
        self._most = awake
        self._monotonic = clock.monotonic
        self._awake: OrderedDict[str, Entry] = OrderedDict()
        """Those that came, or were looked at, most recently last."""
        self._awake_size = 0
        self.resting = Resting()

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        return self._awake_size + self.resting.size

    def get(self, account: str) -> Entry | None:
        """One that is awake."""
        return self._awake.get(account)

    def look(self, account: str) -> Entry | None:
        """What is known of it, to be read and not changed: a login at rest goes on resting."""
        packed = self.resting.get(account)
        return self._awake.get(account) if packed is None else packed.entry(account)

    def wake(self, account: str) -> Entry | None:
        """The entry of a login in memory; one that rested is still under the config that it began to rest under."""
        packed = self.resting.pop(account)
        if packed is None:
            return self._awake.get(account)
        entry = packed.entry(account)
        self._add(entry)
        return entry

    def __contains__(self, account: str) -> bool:
        return account in self._awake or account in self.resting

    def __iter__(self) -> Iterator[Entry]:
        """Those that are awake."""
        return iter(self._awake.values())

    def __len__(self) -> int:
        return len(self._awake) + len(self.resting)

    def put(self, entry: Entry) -> None:
        """In the place of what is there under this name; what is least recently used makes room."""
        self.drop(entry.name)
        _hide(entry.tokens)
        self._add(entry)

    def drop(self, account: str) -> None:
        entry, packed = self._awake.pop(account, None), self.resting.pop(account)
        if entry is not None:
            self._awake_size -= entry.size
            _unhide(entry.tokens)
        if packed is not None:
            _unhide(packed.unpacked())

    def renewed(self, entry: Entry, spent: TokenSet) -> None:
        """The entry's tokens have taken the place of ``spent``, be it still here or not."""
        if self._awake.get(entry.name) is entry:
            self._awake_size += size_of(entry.tokens) - size_of(spent)
            self._evict(entry)
        else:  # read under another config before the new pair was stored
            self.drop(entry.name)
        _unhide(spent)
        _hide(entry.tokens)

    def _add(self, entry: Entry) -> None:
        self._awake[entry.name] = entry
        self._awake_size += entry.size
        self.lay_down(entry)
        self._evict(entry)

    def lay_down(self, newest: Entry | None = None) -> None:
        """Look at two for each that comes: so those that may not rest yet hold nobody up, and nothing is ever sorted."""
        now = self._monotonic()
        for _ in range(2):
            if len(self._awake) <= self._most:
                return
            entry = next(iter(self._awake.values()))
            if entry is newest or not may_rest(entry, now):
                self._awake.move_to_end(entry.name)
                continue
            del self._awake[entry.name]
            self._awake_size -= entry.size
            self.resting.put(entry)

    def _evict(self, newest: Entry) -> None:
        """``newest`` stays, however small the room: whoever reads it now must find the others who wait for it."""
        while self.size > self._room and len(self.resting):
            for name in self.resting.least_used():
                self.drop(name)
        if self.size <= self._room:
            return
        for entry in sorted(self, key=lambda entry: entry.used_at):
            if self.size <= self._room * _EVICT_DOWN_TO:
                return
            if entry is not newest and not entry.wanted:
                self.drop(entry.name)


def _hide(tokens: TokenSet) -> None:
    """The log's last line of defence: these values appear in no line, whoever writes it."""
    for secret in (tokens.access_token, tokens.refresh_token):
        if secret:
            log.register_secret(secret)


def _unhide(tokens: TokenSet) -> None:
    for secret in (tokens.access_token, tokens.refresh_token):
        if secret:
            log.forget(secret)
