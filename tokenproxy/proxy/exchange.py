"""One request: checked, routed, sent with a token, sent once more with a newer one if it must be, answered."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

from tokenproxy import log
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.placeholders import Values
from tokenproxy.core.problems import BODY_NOT_REPLAYABLE
from tokenproxy.core.retries import Budget, Retry, pause
from tokenproxy.core.signals import Verdict
from tokenproxy.core.tokens import Sendable
from tokenproxy.core.traceparent import parent_of
from tokenproxy.errors import AccountError, StoreError
from tokenproxy.proxy.address import path_of
from tokenproxy.proxy.answer import (
    ending,
    interim,
    is_event_stream,
    read_answer,
    switched,
    unsaid,
    without_token,
)
from tokenproxy.proxy.body import Body
from tokenproxy.proxy.card import Card
from tokenproxy.proxy.chunks import LAST_CHUNK, chunk, last_chunk
from tokenproxy.proxy.draft import (
    Draft,
    Preflight,
    answer_fields,
    framing,
    replaced_body,
    unresolved_problem,
)
from tokenproxy.proxy.echo import Sieved, check_legible, without_echo
from tokenproxy.proxy.lane import LaneError
from tokenproxy.proxy.plain import Answer, Message, Payload
from tokenproxy.proxy.pool import Pool
from tokenproxy.proxy.problem import LostError, ProblemError, render, upstream_invalid
from tokenproxy.proxy.proof import nonce_of, wants_nonce
from tokenproxy.proxy.record import Refusal, RequestLog
from tokenproxy.proxy.register import UnprovenError
from tokenproxy.proxy.request import VIA, Request, SettledError
from tokenproxy.proxy.revise import Revision
from tokenproxy.proxy.side import Side
from tokenproxy.proxy.told import forwarded_lines
from tokenproxy.proxy.tunnel import ESTABLISHED, Connect, Fresh, Handshake, Tunnel, tunnels_full
from tokenproxy.proxy.upstream import UpstreamSide

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide

_log: Final = logging.getLogger("tokenproxy.proxy")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LOOK: Final = 64 * 1024
"""Bytes of an answer that are held back to see whether it is about the token; such answers are short."""
LOOK_FOR: Final = 1.0
"""Seconds for it; an answer that takes longer is a stream, and passed on as it comes."""
AT_ONCE: Final = 32 * 1024
"""Bytes of a body that are looked through on the loop; a MiB of hostile JSON takes half a second, in which others go on."""
CONTINUE_AFTER: Final = 1.0
"""
Seconds after which a caller that waits for 100 gets ours: an upstream that ignores Expect must not stop the request.

curl waits as long before it sends the body anyway.
"""


class Exchange:
    __slots__ = (
        "answered",
        "attempts",
        "body",
        "caller",
        "card",
        "code",
        "continued",
        "handshake",
        "held",
        "message",
        "overhead",
        "payload",
        "payload_down",
        "plane",
        "request",
        "result",
        "started",
        "status",
        "upload",
        "upstream",
        "upstream_seconds",
    )

    card: Card | None
    """What the request was sent with last."""

    def __init__(self, caller: CallerSide, message: Message, payload: Any) -> None:
        self.caller = caller
        self.plane = caller.plane
        self.message = message
        self.payload = payload
        self.payload_down: Payload | Sieved | None = None
        """The answer's body, once it is passed on."""
        self.request: Request | None = None
        self.body: Body | None = None
        self.upstream: UpstreamSide | None = None
        self.held = b""
        """What was read of the answer's body to find out about the token."""
        self.handshake: Handshake | None = None
        """The other protocol that the upstream is asked for."""
        self.upload: asyncio.Task[None] | None = None
        self.started = 0.0
        self.upstream_seconds = 0.0
        self.overhead: float | None = None
        """Seconds until the answer's head went out, the upstream's time excluded."""
        self.attempts = 0
        self.answered = False
        """A byte of the final answer has gone to the caller; nothing else can be said any more."""
        self.continued = False
        """The caller has got its 100."""
        self.status = 0
        self.code = ""
        self.result = "client_gone"

    async def run(self) -> bool:  # noqa: C901, PLR0912 - the request's whole way, and each way that it may end
        """Answer the request; whether the caller's connection may take another."""
        plane = self.plane
        self.started = plane.monotonic()
        try:
            try:
                request = plane.gate.admit(self.message, self.payload, self.caller.door.scheme, self.caller)
            except UnprovenError:
                request = await self._proven()
        except (ProblemError, SettledError) as end:
            return self._ended_at_the_gate(end)
        self.request = request
        lane = request.lane
        lane.metrics.in_flight += 1
        member = None
        turns = 0
        try:
            if request.caller is not None:
                await self.caller.in_task()
                await request.caller.enter(self.started, plane.settings.limits.queue)
                member = request.caller
            if not lane.turns.enter():
                await self.caller.in_task()
                await lane.turns.wait(plane.settings.limits.queue)
            turns = 1
            if not plane.turns.enter():
                await self.caller.in_task()
                await plane.turns.wait(plane.settings.limits.queue)
            turns = 2
            if self.payload is not EMPTY_PAYLOAD:
                self._open_body(request)
            if request.draft is not None:
                await self.caller.in_task()
                return await self._drafted(request, request.draft)
            if lane.forwarded is not None:
                request.head += forwarded_lines(lane.forwarded, self.caller, self.message)
            return await self._exchanged(request)
        except ProblemError as problem:
            return await self._refused(problem)
        except AccountError as error:
            return await self._refused(ProblemError.of(error))
        except ConnectionError:  # the caller is gone
            return False
        finally:
            if turns == 2:
                plane.turns.leave()
            if turns:
                lane.turns.leave()
            if member is not None:
                member.leave()
            self._settle(request)

    async def _proven(self) -> Request:
        """Find out who the caller is, where that takes time, and admit its request; once more after a reload."""
        await self.caller.in_task()
        proof = None
        while True:  # asked anew in the task: meanwhile others may have shown the same
            try:
                return self.plane.gate.admit(
                    self.message, self.payload, self.caller.door.scheme, self.caller, proof
                )
            except UnprovenError as unproven:
                proof = await unproven.proven()

    async def _exchanged(self, request: Request) -> bool:
        source = self.plane.source
        tokens = source.ready(request.account)
        if tokens is None:
            await self.caller.in_task()
            tokens = await source.current(request.account)
        answer = await self._send(request, tokens)
        if answer.code in request.lane.suspects and await self._dead(request, answer):
            answer = await self._renewed(request, tokens, answer)
        elif answer.code < 500:
            self._worked(request)
        return await self._pass_on(request, answer)

    @property
    def trace_id(self) -> str:
        """What ties this request to others of its kind elsewhere; looked up only where it is told."""
        parent = parent_of(self.message.raw_headers)
        return parent.trace_id if parent is not None else ""

    # requests whose head was not made at the gate

    async def _drafted(self, request: Request, draft: Draft | Preflight | Handshake | Connect) -> bool:
        if isinstance(draft, Preflight):
            return self._let_ask(request, draft)
        if not isinstance(draft, Draft):
            return await self._tunnelled(request, draft)
        target = request.lane.target
        try:
            async with asyncio.timeout(None if target is None else target.timeout):
                await self._write(request, draft)
                if not request.tokenless:
                    return await self._exchanged(request)
                return await self._pass_on(request, await self._send(request, None))
        except TimeoutError:
            raise ProblemError(
                "upstream_timeout",
                "The answer took longer than this entry of targets allows.",
                next_step="Try again; raise its timeout if it is slow by nature.",
            ) from None

    async def _write(self, request: Request, draft: Draft) -> None:
        """Make the head, and the body where it is looked through; what is sent again later is this, as it is now."""
        body, lane = self.body, request.lane
        values = None
        length, chunked = request.length, request.chunked
        if lane.route.placeholders:
            kind = draft.body_kind if body is not None else ""
            if body is not None and kind:
                whole = await self._gathered(request, body)
                values = await self._values(request)
                body.become(await self._replaced(whole, kind, values))
                request.expects = False
                length, chunked = body.length, False
            elif draft.names_values:
                values = await self._values(request)
        target, fields = draft.written(lane, values)
        if lane.allow is not None:  # only now, its placeholders replaced, it is what the upstream will see
            lane.check_allowed(lane.allow, request.method, target, fields)
        request.head = b"".join(
            (
                f"{request.method} {lane.base}{target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape"),
                lane.host_line,
                *[b"%b: %b\r\n" % field for field in fields],
                framing(request.method, length=length, chunked=chunked),
                request.announces if chunked else b"",
                b"Expect: 100-continue\r\n" if request.expects else b"",
                request.takes,
                VIA,
                b"" if lane.forwarded is None else forwarded_lines(lane.forwarded, self.caller, self.message),
                self.handshake.lines if self.handshake is not None else b"",
            )
        )

    async def _gathered(self, request: Request, body: Body) -> bytes:
        if request.expects and not body.complete:
            self._continue()
        return await body.gather(
            request.lane.route.replay.memory,
            self.caller,
            deadlines=self.plane.settings.deadlines,
            monotonic=self.plane.monotonic,
        )

    async def _replaced(self, whole: bytes, kind: str, values: Values) -> bytes:
        if len(whole) <= AT_ONCE:
            return replaced_body(whole, kind, values)
        found: bytes = await self.plane.vault.in_thread(replaced_body, whole, kind, values)
        return found

    async def _values(self, request: Request) -> Values:
        if self.plane.values is None:
            raise unresolved_problem("Nobody here knows what placeholders stand for.")
        try:
            return await self.plane.values.values(request.account)
        except StoreError as error:
            raise ProblemError("store_unavailable", error.message, next_step=error.next_step) from None

    # requests for a tunnel

    async def _tunnelled(self, request: Request, draft: Handshake | Connect) -> bool:
        """It takes a turn among tunnels from now on, and one among requests only until it stands."""
        caller, turns = self.caller, self.plane.tunnel_turns
        if not turns.enter():
            raise tunnels_full()
        try:
            if isinstance(draft, Connect):
                return await self._connected(request)
            self.handshake, request.draft = draft, draft.draft
            if draft.draft is not None:
                return await self._drafted(request, draft.draft)
            if request.lane.forwarded is not None:
                request.head += forwarded_lines(request.lane.forwarded, caller, self.message)
            return await self._exchanged(request)
        finally:
            if caller.tunnel is None:
                turns.leave()

    def _switch(self, request: Request, answer: Answer) -> bool:
        """The upstream speaks the other protocol from now on."""
        upstream = self.upstream
        if upstream is None or self.handshake is None or answer.code != 101:
            raise upstream_invalid("The upstream's answer is gone.")
        revision = request.lane.revision
        if revision is not None:
            answer = revision.revised(self._kept(request, answer) if revision.redacts else answer)
        head = switched(answer, self.handshake.protocol) + (revision.lines if revision else b"") + b"\r\n"
        upstream.pool.sides.discard(upstream)
        self._become_tunnel(request, upstream, head, answer.code, early=upstream.early)
        self.upstream = None
        return False

    async def _connected(self, request: Request) -> bool:
        """Connect to the route's upstream and nowhere else, without TLS: what goes through is the caller's."""
        plane = self.plane
        side = await request.lane.pool.open_tunnel(lambda: Fresh(self.caller.loop))
        head = ESTABLISHED + plane.date_line() + b"\r\n"
        self._become_tunnel(request, side, head, 200, early=side.early)
        return False

    def _become_tunnel(self, request: Request, side: Side, head: bytes, status: int, *, early: bytes) -> None:
        caller = self.caller
        self.status, self.answered, self.result = status, True, "ok"
        self.overhead = self.plane.monotonic() - self.started - self.upstream_seconds
        tunnel = caller.tunnel = Tunnel(self.plane, request.lane, caller, side)
        tunnel.begin(head, early_up=caller.early_bytes(), early_down=early)

    def _let_ask(self, request: Request, preflight: Preflight) -> bool:
        keep = request.keep and self.payload is EMPTY_PAYLOAD and not self.plane.draining
        self.answered, self.status, self.result = True, 204, "ok"
        end = b"\r\n" if keep else b"Connection: close\r\n\r\n"
        self.caller.transport.write(preflight.head + self.plane.date_line() + end)
        return keep

    def _settled(self, *, keep: bool) -> bool:
        """Answer for ourselves (RFC 9110 section 7.6.2)."""
        keep = keep and self.payload.is_eof() and not self.plane.draining
        self.answered, self.status, self.result = True, 204, "ok"
        if not keep:
            end = b"Connection: close\r\n\r\n"
        elif self.message.version == HttpVersion11:
            end = b"\r\n"
        else:
            end = b"Connection: keep-alive\r\n\r\n"
        self.caller.transport.write(b"HTTP/1.1 204 No Content\r\n" + self.plane.date_line() + end)
        self._record("", "", self.message.method)
        return keep

    # sending

    def _send(self, request: Request, tokens: Sendable | None) -> Coroutine[Any, Any, Answer]:
        """Send the request with this token, or with none of ours, and wait for the final answer's head."""
        if request.lane.retry is not None:
            return self._persistently(request, tokens, request.lane.retry)
        return self._sent(request, tokens)

    async def _persistently(self, request: Request, tokens: Sendable | None, retry: Retry) -> Answer:
        """
        Send, and send again after failures that pass, within the upstream's budget and the time for a first byte; never
        once a byte of an answer has gone to the caller, nor where the body is not there any more.
        """
        await self.caller.in_task()
        plane, counts, budget = self.plane, request.lane.metrics.upstream_retries, request.lane.pool.budget
        begun = plane.monotonic()
        until = begun + plane.settings.deadlines.first_byte
        budget.request(begun)
        tries = 1
        while True:
            answer, failure = await self._tried(request, tokens, None if tries == 1 else until)
            fault = str(answer.code) if answer is not None else failure.fault if failure is not None else ""
            again = retry.means(request.method, fault)
            if tries > 1:
                counts["failed" if again or answer is None else "ok"] += 1
            if (
                not again
                or tries == retry.attempts
                or not await self._may_repeat(answer, budget, tries, until)
            ):
                break
            tries += 1
        if answer is not None:
            return answer
        raise failure or upstream_invalid("The upstream gave no answer.")

    async def _tried(
        self, request: Request, tokens: Sendable | None, until: float | None
    ) -> tuple[Answer | None, ProblemError | None]:
        """An answer, or why there is none; a further try has only what is left of the time."""
        left = None if until is None else max(until - self.plane.monotonic(), 0.0)
        try:
            async with asyncio.timeout(left) as time:
                return await self._sent(request, tokens), None
        except ProblemError as failure:
            return None, failure
        except TimeoutError:
            if not time.expired():
                raise
            return None, ProblemError(
                "upstream_timeout",
                "The upstream did not begin its answer in time, not when it was asked again either.",
                next_step="Try again; raise [deadlines] if it is slow by nature.",
            )

    async def _may_repeat(self, answer: Answer | None, budget: Budget, tries: int, until: float) -> bool:
        """Wait as long as it takes, and let go of the answer; False where the request cannot be sent once more."""
        plane = self.plane
        wait = pause(
            tries,
            retry_after=_field(answer, b"retry-after"),
            chance=random.random(),  # noqa: S311 - spreads load; nothing secret depends on it
        )
        if wait is None or plane.monotonic() + wait >= until:
            return False
        await self._stop_upload()
        if self.body is not None and not self.body.replayable:
            return False
        if not budget.take(plane.monotonic()):
            if self.request is not None:
                self.request.lane.metrics.upstream_retries["over_budget"] += 1
            return False
        if answer is not None:
            self._let_go(answer)
        self.upstream = None
        await asyncio.sleep(wait)
        return True

    def _sent(self, request: Request, tokens: Sendable | None) -> Coroutine[Any, Any, Answer]:
        lane = request.lane
        if tokens is None:
            self.card = None
            return self._deliver(request, lane.own_pool, request.head + b"\r\n")
        card = self.card = lane.card(request.account, tokens)
        if card.plain:
            return self._deliver(request, lane.pool, request.head + card.line)
        return self._send_as_told(request, card)

    async def _send_as_told(self, request: Request, card: Card) -> Answer:
        """Where the token set leads, with the token in the query or with a proof of its key."""
        pool = request.lane.pool_of(card)
        method, target, rest = card.addressed(request.head)
        head = b"%b %b HTTP/1.1\r\n%b" % (method, target, rest)
        if card.key is not None:
            return await self._send_proven(request, card, pool, head, target)
        answer = await self._deliver(request, pool, head + card.line)
        return self._kept(request, without_token(answer, card.query)) if card.query else answer

    async def _send_proven(
        self, request: Request, card: Card, pool: Pool, head: bytes, target: bytes
    ) -> Answer:
        """
        With a proof of the token's key; once more with the nonce that the upstream asks for.

        Which is no renewal, and repeats nothing: such an upstream has not looked at the request (RFC 9449 section 9).
        """
        upstream = pool.upstream
        path = target.partition(b"?")[0].decode("latin-1")[len(upstream.form) :]
        url = f"{upstream.scheme}://{upstream.authority}{path}"
        asked = False
        while True:
            line = self._proof(request, card, url, pool.nonce)
            answer = await self._deliver(request, pool, head + line + card.line)
            pool.nonce = nonce_of(answer) or pool.nonce
            if asked or not wants_nonce(answer) or not nonce_of(answer):
                return answer
            asked = True
            await self.caller.in_task()
            await self._stop_upload()
            if self.body is not None and not self.body.replayable:
                self.code = BODY_NOT_REPLAYABLE
                return answer
            self._let_go(answer)

    def _proof(self, request: Request, card: Card, url: str, nonce: str) -> bytes:
        try:
            proof = self.plane.prover.proof(
                card.key or "",
                method=request.method,
                url=url,
                access_token=card.tokens.access_token,
                nonce=nonce,
            )
        except ValueError as unusable:
            raise ProblemError(
                "misconfigured",
                f"The account's tokens are bound to a key of which no proof can be made: {unusable}.",
                next_step=f"tokenproxy login {request.account}",
                account=request.account,
            ) from None
        return b"DPoP: %b\r\n" % proof.encode()

    def _let_go(self, answer: Answer) -> None:
        """The upstream's answer is not passed on: another attempt follows."""
        if self.upstream is not None:
            uploaded = self.body is None or self.body.sent
            self.upstream.release(answer, uploaded=uploaded, now=self.plane.monotonic())
            self.upstream = None
        self.held = b""

    async def _deliver(self, request: Request, pool: Pool, head: bytes) -> Answer:
        """
        Send it and wait for the final answer's head: one coroutine, as every request goes through it.

        A kept connection may turn out to be dead. The request goes out once more only where nothing can have been
        executed twice: not a byte of an answer came, and the method says that twice is as good as once (RFC 9110
        section 9.2.2) or nothing was written.
        """
        upstream = pool.take()
        kept = upstream is not None
        while True:
            if upstream is None:
                await self.caller.in_task()
                upstream = await pool.connect()
            sent = self._begin(request, upstream, head)
            try:
                while True:
                    while not upstream.queue:
                        await upstream.heard(self.caller.next_step)
                    answer = upstream.queue.popleft()
                    if answer.code >= 200 or (answer.code == 101 and self.handshake is not None):
                        break
                    await self._interim(request, answer)
            except LostError as lost:
                repeatable = request.idempotent and (self.body is None or self.body.replayable)
                if not (kept and (repeatable or lost.unsent)):
                    raise
            else:
                self.upstream_seconds += self.plane.monotonic() - sent
                upstream.deadline = inf
                return answer
            kept, upstream = False, None
            await self._stop_upload()

    def _begin(self, request: Request, upstream: UpstreamSide, head: bytes) -> float:
        """Send the head, and the body as far as it is here; when that was."""
        self.upstream = upstream
        self.attempts += 1
        plane = self.plane
        sent = plane.monotonic()
        headless = request.method == "HEAD"
        deadline = sent + plane.settings.deadlines.first_byte
        body = self.body
        if body is None:
            upstream.begin(head, headless=headless, deadline=deadline)
        elif (whole := body.at_hand()) is not None:
            body.sent = True
            upstream.begin(head + whole, headless=headless, deadline=deadline)
        else:
            body.sent = False
            upstream.begin(head, headless=headless, deadline=inf)
            self.upload = asyncio.create_task(self._upload(request, body, upstream))
        return sent

    async def _upload(self, request: Request, body: Body, upstream: UpstreamSide) -> None:
        nudge = None
        if request.expects and not self.continued:
            nudge = self.caller.loop.call_later(CONTINUE_AFTER, self._continue)
        try:
            await body.send(
                upstream,
                self.caller,
                deadlines=self.plane.settings.deadlines,
                monotonic=self.plane.monotonic,
            )
        except Exception as error:  # noqa: BLE001 - a task's top: the exchange must not wait for ever
            log.event(_log, "unexpected_error", error=error, where="the upload of a body")
            upstream.fail(upstream_invalid("The upload of the body ended by a mistake in tokenproxy."))
        finally:
            if nudge is not None:
                nudge.cancel()

    def _continue(self) -> None:
        if not self.continued and not self.answered and self.caller.connected:
            self.continued = True
            self.caller.transport.write(CONTINUE)

    async def _interim(self, request: Request, answer: Answer) -> None:
        if answer.code < 100 or answer.code == 101:
            raise upstream_invalid("The upstream switched protocols or sent a status that does not exist.")
        if answer.code == 100:
            if request.expects:
                self._continue()
        elif request.modern:  # RFC 9110 section 15.2: HTTP/1.0 callers get none
            self.caller.transport.write(interim(self._kept(request, answer)))
        if self.caller.writing_paused:  # an upstream must not fill our memory with interim answers either
            await self.caller.drain(self.plane.monotonic() + self.plane.settings.deadlines.body_idle)

    async def _stop_upload(self) -> None:
        """The body is read by one at a time: before another attempt the first one must have stopped."""
        if self.upload is not None:
            self.upload.cancel()
            await asyncio.wait((self.upload,))
            self.upload = None

    # the token

    async def _dead(self, request: Request, answer: Answer) -> bool:
        """Whether the answer means that the token is dead; its body is read only where nothing else can tell."""
        await self.caller.in_task()
        signals = request.lane.signals
        verdict = signals.at_head(answer.code, answer.raw_headers)
        if verdict is Verdict.UNTOLD:
            verdict = signals.with_body(answer.code, answer.raw_headers, await self._look(answer))
        return verdict is Verdict.DEAD

    async def _look(self, answer: Answer) -> bytes | None:
        """The answer's body, which ``held`` keeps for the caller; None where it is too long, too slow or broken."""
        payload = self.upstream.payload if self.upstream is not None else None
        if payload is None or _length(answer) > LOOK:
            return None
        try:
            async with asyncio.timeout(LOOK_FOR):
                while not payload.at_eof():
                    if len(self.held) > LOOK:
                        return None
                    self.held += await payload.readany()
        except (TimeoutError, ProblemError):  # a broken body breaks once more when it is passed on
            return None
        return self.held

    async def _renewed(self, request: Request, tokens: Sendable, answer: Answer) -> Answer:
        """The upstream called the token dead: find out, renew, and send again once with a newer one."""
        plane, lane = self.plane, request.lane
        body = self.body
        await self._stop_upload()  # what it would read now may not fit into the copy
        newer = await plane.source.renew(request.account, tokens, route=lane.route.name)
        if isinstance(newer, KeepAnswer):
            return answer
        if body is not None and not body.replayable:
            self.code = BODY_NOT_REPLAYABLE
            lane.metrics.retries["not_replayable"] += 1
            return answer
        self._let_go(answer)
        answer = await self._send(request, newer)
        if answer.code in lane.suspects and await self._dead(request, answer):
            plane.source.refused_again(request.account, newer, route=lane.route.name)
            lane.metrics.retries["still_401"] += 1
        else:
            lane.metrics.retries["ok"] += 1
            if answer.code < 500:
                self._worked(request)
        return answer

    def _worked(self, request: Request) -> None:
        """Tell the source once per token set; a 5xx says nothing about the token."""
        card = self.card
        if card is not None and not card.worked:
            card.worked = True
            self.plane.source.worked(request.account, card.tokens)

    # answering

    async def _pass_on(self, request: Request, answer: Answer) -> bool:  # noqa: C901 - the answer's whole way
        upstream, caller, plane = self.upstream, self.caller, self.plane
        payload = upstream.payload if upstream is not None else None
        if upstream is None or payload is None:
            return self._switch(request, answer)
        if isinstance(request.draft, Draft) and request.draft.said:
            answer = unsaid(answer, request.draft.said)
        revision = request.lane.revision
        body_down: Payload | Sieved = payload
        if revision is not None:
            answer, body_down = self._revised(request, revision, answer, payload)
        head = read_answer(answer, headless=request.method == "HEAD", date=plane.date_line)
        if head.leads:
            kept = self._kept(request, answer, leading=True)
            head = read_answer(kept, headless=request.method == "HEAD", date=plane.date_line)
        uploaded = self.body is None or self.body.sent
        keep = request.keep and uploaded and not plane.draining
        last_lines, chunked, keep = ending(
            head, modern=request.modern, keep=keep, marked=self.code == BODY_NOT_REPLAYABLE
        )
        self.status = answer.code
        self.answered = True
        now = plane.monotonic()
        self.overhead = now - self.started - self.upstream_seconds
        fields = head.fields
        if request.draft is not None:
            bodyless = request.method == "HEAD" and self.message.method != "HEAD"
            fields = answer_fields(fields, cors_lines=request.cors, bodyless=bodyless)
        if revision is not None:
            fields += revision.lines
        start = head.status_line + fields + last_lines
        self.payload_down = body_down
        if body_down.is_eof():
            body = self.held + body_down.read_nowait()
            upstream.release(answer, uploaded=uploaded, now=now)
            if chunked:
                last = LAST_CHUNK if head.withheld is None else last_chunk(body_down, head.withheld)
                body = chunk(body) + last if body else last
            caller.transport.write(start + body)
        else:
            await self._stream(
                start, body_down, upstream, chunked=chunked, idle=self._idle_of(answer, upstream)
            )
            if chunked:
                caller.transport.write(last_chunk(body_down, head.withheld))
            uploaded = self.body is None or self.body.sent
            upstream.release(answer, uploaded=uploaded, now=plane.monotonic())
        self.upstream = None
        self.result = "ok" if answer.code < 500 else "upstream_error"
        if caller.writing_paused:
            await caller.drain(plane.monotonic() + plane.settings.deadlines.body_idle)
        return keep

    def _kept(self, request: Request, answer: Answer, *, leading: bool = False) -> Answer:
        """The answer without what its head repeats of our token; ``leading``: in fields that lead on alone."""
        kept = without_echo(answer, request.lane.echoes(self.card), leading=leading)
        if kept is not answer:
            request.lane.tell_echo(self.plane.monotonic(), place="head")
        return kept

    def _revised(
        self, request: Request, revision: Revision, answer: Answer, payload: Payload
    ) -> tuple[Answer, Payload | Sieved]:
        """Head and body as the route wants them, without our token if it says so; an answer is told of once."""
        if not revision.redacts:
            return revision.revised(answer), payload
        bodyless = request.method == "HEAD" or answer.code in {204, 304}
        check_legible(answer, bodyless=bodyless, route=request.lane.route.name)
        kept = self._kept(request, answer)
        lane, monotonic = request.lane, self.plane.monotonic

        def found() -> None:
            if kept is answer:
                lane.tell_echo(monotonic(), place="body")

        held, self.held = self.held, b""
        return revision.revised(kept), Sieved(payload, held, lane.echoes(self.card), found)

    def _idle_of(self, answer: Answer, upstream: UpstreamSide) -> float:
        """Seconds between two pieces; in an event stream nothing may happen for long, and the kernel looks after it."""
        deadlines = self.plane.settings.deadlines
        if not is_event_stream(answer):
            return deadlines.upstream_idle
        upstream.watch()
        self.caller.watch()
        return deadlines.events or inf

    async def _stream(
        self, start: bytes, payload: Payload | Sieved, upstream: UpstreamSide, *, chunked: bool, idle: float
    ) -> None:
        """Pass the body on as it comes; a body that breaks off breaks off here too (``payload`` raises)."""
        caller, plane = self.caller, self.plane
        deadlines = plane.settings.deadlines
        held = self.held
        caller.transport.write(start + (chunk(held) if chunked else held) if held else start)
        while True:
            upstream.deadline = plane.monotonic() + idle
            piece = await payload.readany()
            upstream.deadline = inf
            if not piece:
                break
            caller.transport.write(chunk(piece) if chunked else piece)
            if caller.writing_paused:
                await caller.drain(plane.monotonic() + deadlines.body_idle)

    # refusing

    def _ended_at_the_gate(self, problem: ProblemError | SettledError) -> bool:
        if isinstance(problem, SettledError):
            return self._settled(keep=problem.keep)
        route = ""
        if isinstance(problem, LaneError):
            lane = problem.lane
            route = lane.route.name
            lane.metrics.count(problem.kind.status, problem.kind.result)
            lane.tell(problem, self.plane.monotonic())
        else:
            refused = self.plane.metrics.refused
            refused[problem.code] = refused.get(problem.code, 0) + 1
        self._refuse(problem)
        self._record(route, "", self.message.method, caller=problem.caller)
        return False

    def _refuse(self, problem: ProblemError) -> bool:
        """Answer with a problem, or, in the middle of an answer, break off: never a clean end of half an answer."""
        request = self.request
        if self.answered:
            self.result = "client_gone" if not self.caller.connected else problem.kind.result
            if self.caller.connected and request is not None:
                request.lane.tell(problem, self.plane.monotonic())
            self.caller.reset()
            return False
        route = request.lane.route.name if request is not None else ""
        if request is not None:
            request.lane.tell(problem, self.plane.monotonic())
        self.answered = True
        self.status = problem.status
        self.code = problem.code
        self.result = problem.kind.result
        if self.plane.on_refused is not None and self.result == "refused":
            named = problem.lane.route.name if isinstance(problem, LaneError) else route
            self.plane.on_refused(Refusal(self.code, named, self.caller.peer(), problem.caller))
        keep = (
            request is not None
            and request.keep
            and (self.payload is EMPTY_PAYLOAD or self.payload.is_eof())
            and (self.upload is None or self.upload.done())
            and not self.plane.draining
        )
        cors = problem.cors or (request.cors if request is not None else b"")
        head, body = render(
            problem, date=self.plane.date_line(), route=route, keep=keep, cors=cors, trace_id=self.trace_id
        )
        self.caller.transport.write(head if self.message.method == "HEAD" else head + body)
        return keep

    async def _refused(self, problem: ProblemError) -> bool:
        keep = self._refuse(problem)
        if keep and self.caller.writing_paused:
            try:
                await self.caller.drain(self.plane.monotonic() + self.plane.settings.deadlines.body_idle)
            except ConnectionError:
                return False
        return keep

    # afterwards

    def _settle(self, request: Request) -> None:
        if self.upload is not None:
            self.upload.cancel()
        if self.upstream is not None:
            self.upstream.abort()
        metrics = request.lane.metrics
        metrics.in_flight -= 1
        if self.payload_down is not None:
            metrics.bytes_down += self.payload_down.total_bytes
        if self.body is not None:
            metrics.bytes_up += self.body.size
            self.body.close()
        metrics.count(self.status or 499, self.result)
        if self.attempts:
            metrics.upstream.observe(self.upstream_seconds)
        if self.overhead is None:
            self.overhead = self.plane.monotonic() - self.started - self.upstream_seconds
        metrics.overhead.observe(self.overhead)
        if self.plane.recorded:
            caller = request.caller.name if request.caller is not None else ""
            self._record(request.lane.route.name, request.account, request.method, caller=caller)

    def _record(self, route: str, account: str, method: str, *, caller: str = "") -> None:
        plane = self.plane
        if not plane.recorded:
            return
        seconds, path = plane.monotonic() - self.started, path_of(self.message.path)
        if plane.recent is not None:
            plane.recent.append(
                (
                    self.started, route, account, caller, method, path, self.status, self.code,
                    seconds, self.upstream_seconds, self.attempts,
                )
            )  # fmt: skip
        if plane.on_request is None:
            return
        plane.on_request(
            RequestLog(
                route=route,
                account=account,
                caller=caller,
                method=method,
                path=path,
                status=self.status,
                code=self.code,
                seconds=seconds,
                upstream_seconds=self.upstream_seconds,
                attempts=self.attempts,
                trace_id=self.trace_id,
            )
        )

    def _open_body(self, request: Request) -> None:
        self.body = Body(
            self.payload,
            chunked=request.chunked,
            length=request.length,
            withheld=request.withheld,
            replay=request.lane.route.replay,
            vault=self.plane.vault,
        )


def _length(answer: Answer) -> int:
    """What ``Content-Length`` promises; 0 where nobody says. The parser has seen to it that it is a number."""
    return next((int(value) for name, value in answer.raw_headers if name.lower() == b"content-length"), 0)


def _field(answer: Answer | None, wanted: bytes) -> bytes | None:
    if answer is None:
        return None
    return next((value.strip() for name, value in answer.raw_headers if name.lower() == wanted), None)
