"""Our own answers: RFC 9457 problem documents that say what happened and what to do, and never quote input."""

from __future__ import annotations

import json
from http import HTTPStatus
from math import ceil

from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.problems import PROBLEMS, ProblemKind
from tokenproxy.errors import AccountError


class ProblemError(Exception):
    """Why a request ends without an upstream's answer; ``detail`` is one sentence without input and secrets."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        next_step: str = "",
        retry_after: float | None = None,
        account: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.next_step = next_step
        self.retry_after = retry_after
        """Seconds; None where nobody knows."""
        self.account = account
        self.reason = reason
        self.fault = ""
        """``connect`` or ``reset`` (``core.retries``) where the same request may go well the next time."""
        self.cors = b""
        """Lines that let the page that asked read the answer."""
        self.caller = ""
        """Who sent the request, where that is known."""
        self.challenges = b""
        """Lines that every 401 and 407 must have (RFC 9110 sections 11.6.1 and 11.7.1)."""
        self.proxied = False
        """The caller takes us for a forward proxy: what would be a 401 is a 407."""

    @property
    def status(self) -> int:
        return 407 if self.proxied else self.kind.status

    @property
    def kind(self) -> ProblemKind:
        return PROBLEMS[self.code]

    @classmethod
    def of(cls, error: AccountError) -> ProblemError:
        # An account that a reload took away under a request is the operator's business as well.
        return cls(
            error.code if error.code in PROBLEMS else "misconfigured",
            error.message,
            next_step=error.next_step,
            retry_after=error.retry_after,
            account=error.account,
            reason=error.reason,
        )


class LostError(ProblemError):
    """The upstream closed the connection before a byte of its answer; a repeat may be safe."""

    unsent = False
    """Nothing of the request was written, so that a repeat is safe whatever the method."""


def bad_request(detail: str) -> ProblemError:
    return ProblemError(
        "bad_request", detail, next_step="Correct the request; it would be refused again as it is."
    )


def upstream_invalid(detail: str) -> ProblemError:
    return ProblemError(
        "upstream_invalid", detail, next_step="Ask the operator of the upstream; this may pass by itself."
    )


def outgoing_unreachable(proxy: OutgoingProxy, what: str, next_step: str) -> ProblemError:
    return ProblemError(
        "upstream_unreachable", f"The outgoing proxy {proxy.authority} {what}.", next_step=next_step
    )


def outgoing_refused(proxy: OutgoingProxy, status: int, target: str) -> ProblemError:
    """What a proxy's answer in the place of the upstream's means; status 0: it was none that makes sense."""
    if status == 407:
        return outgoing_unreachable(
            proxy,
            f"does not take our credentials for the way to {target} (407)",
            "Correct username and password in proxy of the route.",
        )
    if status in {401, 403}:
        return outgoing_unreachable(
            proxy,
            f"does not let us through to {target} ({status})",
            "Ask its operator to allow this host and port, or take another proxy for the route.",
        )
    if status >= 500:
        return outgoing_unreachable(
            proxy,
            f"could not reach {target} ({status})",
            "Check the upstream's name, and that it can be reached from there.",
        )
    said = f"({status})" if status >= 300 else "in a way that makes no sense"
    return outgoing_unreachable(
        proxy,
        f"answered CONNECT {target} {said}",
        "Check that proxy of the route is the address of an HTTP proxy.",
    )


def render(
    problem: ProblemError,
    *,
    date: bytes,
    route: str = "",
    keep: bool = False,
    cors: bytes = b"",
    trace_id: str = "",
) -> tuple[bytes, bytes]:
    """
    Head and body of the answer, ready for the wire; ``keep`` leaves the caller's connection open, ``cors`` are lines
    that let a page read it.
    """
    status = problem.status
    members: dict[str, str | int] = {
        "type": f"urn:tokenproxy:{problem.code}",
        "title": problem.kind.title,
        "status": status,
        "code": problem.code,
        "detail": problem.detail,
    }
    optional = {
        "route": route,
        "account": problem.account,
        "reason": problem.reason,
        "next_step": problem.next_step,
        "trace_id": trace_id,
    }
    members |= {name: value for name, value in optional.items() if value}
    wait = b""
    if problem.retry_after is not None:
        seconds = max(1, ceil(problem.retry_after))
        members["retry_after"] = seconds
        wait = b"Retry-After: %d\r\n" % seconds
    body = json.dumps(members).encode() + b"\n"
    head = b"".join(
        (
            b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode()),
            b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n" % len(body),
            b"Cache-Control: no-store\r\nTokenproxy-Error: %s\r\n" % problem.code.encode(),
            problem.challenges,
            wait,
            cors,
            date,
            b"\r\n" if keep else b"Connection: close\r\n\r\n",
        )
    )
    return head, body
