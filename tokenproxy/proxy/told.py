"""What a route tells its upstream about the caller: found on the connection, only where a route asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenproxy.core.forwarded import Forwarded

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide


def forwarded_lines(forwarded: Forwarded, caller: CallerSide, message: Any) -> bytes:
    """``message``: the request as it came; its target's authority stands in the place of Host (RFC 9112 section 3.2.2)."""
    peer = caller.transport.get_extra_info("peername")
    target = message.path
    if target[:1] == "/" or target == "*":
        host = next((value for name, value in message.raw_headers if name.lower() == b"host"), b"").decode()
    else:
        host = target.partition("://")[2].partition("/")[0].partition("?")[0]
    return forwarded.lines(
        message.raw_headers,
        peer=str(peer[0]) if isinstance(peer, tuple) else "",
        secure=caller.transport.get_extra_info("ssl_object") is not None,
        host=host,
    )
