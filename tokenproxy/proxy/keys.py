"""How a caller shows one of the keys of ``server.caller_auth``."""

from __future__ import annotations

from base64 import b64decode

from tokenproxy.proxy.plain import Message
from tokenproxy.proxy.problem import ProblemError


def proxy_passwords(message: Message) -> tuple[bytes, ...]:
    """
    The password of each ``Proxy-Authorization: Basic``, whatever the user's name (RFC 7617 section 2).

    It is what ``http_proxy=http://x:KEY@127.0.0.1:8080`` makes of a key.
    """
    found: list[bytes] = []
    for name, value in message.raw_headers:
        if name.lower() != b"proxy-authorization":
            continue
        scheme, _, encoded = value.partition(b" ")
        try:
            pair = b64decode(encoded.strip(), validate=True) if scheme.lower() == b"basic" else b""
        except ValueError:
            pair = b""
        found.append(pair.partition(b":")[2])
    return tuple(found)


def unauthorized(*, proxied: bool) -> ProblemError:
    if not proxied:
        return ProblemError(
            "caller_unauthorized",
            "The request carries no valid Tokenproxy-Key.",
            next_step="Send one of the keys of [server.caller_auth] in the header Tokenproxy-Key.",
        )
    problem = ProblemError(
        "caller_unauthorized",
        "The request carries no valid key, neither as Tokenproxy-Key nor as the password of the proxy.",
        next_step="Put one of the keys of [server.caller_auth] into the proxy's address: http://x:KEY@HOST:PORT.",
    )
    problem.proxied = True
    return problem
