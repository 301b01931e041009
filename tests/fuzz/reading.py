"""What h11 makes of bytes: the second opinion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h11

MOST = 1 << 20
Fields = list[tuple[bytes, bytes]]


@dataclass
class Message:
    start: tuple[Any, ...]
    """Method and target, or the status."""
    version: bytes
    fields: Fields
    """Names in lower case."""
    head: bytes = b""
    """As it must have been written, where it was written by us."""
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    whole: bool = False
    interim: list[Message] = field(default_factory=list)
    """1xx answers before this one."""

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]

    def take(self, event: Any) -> None:
        if isinstance(event, h11.Data):
            self.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self.trailers = _fields(event.headers)
            self.whole = True


def message(event: Any) -> Message:
    fields = _fields(event.headers)
    if isinstance(event, h11.Request):
        line = b"%b %b HTTP/1.1\r\n" % (event.method, event.target)
        head = line + b"".join(b"%b: %b\r\n" % pair for pair in event.headers.raw_items()) + b"\r\n"
        return Message((event.method, event.target), event.http_version, fields, head)
    return Message((event.status_code,), event.http_version, fields)


def requests(data: bytes) -> list[Message]:
    """
    All requests in a caller's bytes; the last one may not be whole.

    Each is read anew: h11 knows no keep-alive of HTTP/1.0, nor empty lines between requests (RFC 9112 section 2.2).
    """
    found: list[Message] = []
    while data:
        while data.startswith(b"\r\n"):
            data = data[2:]
        data = _request(data, found)
    return found


def _request(data: bytes, found: list[Message]) -> bytes:
    """One more of them; what follows it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST)
    connection.receive_data(data)
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return b""
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return b""
        if isinstance(event, h11.Request):
            found.append(message(event))
            continue
        found[-1].take(event)
        if found[-1].whole:
            options = b",".join(found[-1].values(b"connection")).lower()
            kept = b"close" not in options and (found[-1].version != b"1.0" or b"keep-alive" in options)
            return connection.trailing_data[0] if kept else b""


def answered(connection: h11.Connection, to: Message, body: bytes = b"", **fields: bytes) -> bytes:
    """Answer a request, and go on to the next; the bytes, empty where the connection cannot go on."""
    head = [
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value) for name, value in fields.items()),
    ]
    data = connection.send(h11.Response(status_code=200, headers=head)) or b""
    if to.start[0] != b"HEAD":
        data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
        return b""
    connection.start_next_cycle()
    return data


def answer(data: bytes, method: bytes, *, closed: bool) -> tuple[Message | None, bytes]:
    """The first answer to a request in these bytes, and what follows it; None where h11 finds none."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    interim: list[Message] = []
    found: Message | None = None
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA and closed:
                closed = False
                connection.receive_data(b"")
                continue
        except h11.RemoteProtocolError:
            return found, b""
        if isinstance(event, h11.InformationalResponse):
            interim.append(message(event))
        elif isinstance(event, h11.Response):
            found = message(event)
            found.interim = interim
        elif found is None or not isinstance(event, h11.Data | h11.EndOfMessage):
            return found, b""
        else:
            found.take(event)
            if found.whole:
                return found, connection.trailing_data[0]


def _fields(headers: Any) -> Fields:
    return [(bytes(name).lower(), bytes(value)) for name, value in headers]
