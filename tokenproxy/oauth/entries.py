"""The logins in memory: how much room they have, and which go first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tokenproxy import log
from tokenproxy.core.tokens import TokenSet
from tokenproxy.oauth.entry import Entry, size_of

_EVICT_DOWN_TO: Final = 0.9
"""Of the room, so that it need not be done for every new entry."""


class Entries:
    """By account; a login that is not here is read from the store when somebody asks for it."""

    def __init__(self, *, room: int) -> None:
        """``room`` in bytes."""
        self._room = room
        self._entries: dict[str, Entry] = {}
        self.size = 0
        """Roughly, in bytes."""

    def get(self, account: str) -> Entry | None:
        return self._entries.get(account)

    def __contains__(self, account: str) -> bool:
        return account in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        """In the place of what is there under this name; what is least recently used makes room."""
        self.drop(entry.name)
        self._entries[entry.name] = entry
        self.size += entry.size
        _hide(entry.tokens)
        self._evict(entry)

    def drop(self, account: str) -> None:
        entry = self._entries.pop(account, None)
        if entry is not None:
            self.size -= entry.size
            _unhide(entry.tokens)

    def renewed(self, entry: Entry, spent: TokenSet) -> None:
        """The entry's tokens have taken the place of ``spent``, be it still here or not."""
        held = self._entries.get(entry.name)
        if held is entry:
            self.size += size_of(entry.tokens) - size_of(spent)
            self._evict(entry)
        elif held is not None:  # read under another config before the new pair was stored
            self.drop(entry.name)
        _unhide(spent)
        _hide(entry.tokens)

    def _evict(self, newest: Entry) -> None:
        """``newest`` stays, however small the room: whoever reads it now must find the others who wait for it."""
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
