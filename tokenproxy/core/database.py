"""The address of a database, as people may see it."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit


def place_of(url: str) -> str:
    """
    Hosts and name, without user, password and options.

    Raises ``ValueError`` with a phrase: also where nobody can tell where the password ends, since ``/`` or ``#`` in it
    would make a part of it the host or the name.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    credentials, _, hosts = parts.netloc.rpartition("@")
    if "@" in credentials + parts.path or parts.fragment:
        raise ValueError(_UNREADABLE)
    hosts = hosts or options.get("host", "")
    if not hosts:
        raise ValueError("must name a host: postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    return f"postgresql://{hosts}{':' if hosts[:1] == '/' else ''}{parts.path}"


_UNREADABLE = "cannot be read: in its credentials, write / # ? and @ as %2F %23 %3F and %40"
