"""
Forward-auth: another proxy keeps the data path, and asks here which token goes into a request.

It is believed about the caller and the request (``X-Forwarded-*``), since nobody else can connect. What the route says
of callers holds as if the request had come here: hosts, keys, origins, ``allow``. After the upstream has refused a token, the
other proxy asks again with the ticket that came with it (``core.forward_auth``), and is given a newer one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

from tokenproxy.core.callers import BASIC, JWT
from tokenproxy.core.forward_auth import History, Verdict, generation_of, ticket
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.routes import DOT_SEGMENT, Route, RouteTable, host_key, within
from tokenproxy.core.tokens import Sendable
from tokenproxy.errors import AccountError
from tokenproxy.proxy.address import HOST_FIELD
from tokenproxy.proxy.caller import CallerSide
from tokenproxy.proxy.card import Card
from tokenproxy.proxy.lane import Lane, LaneError
from tokenproxy.proxy.plain import Message, Payload
from tokenproxy.proxy.problem import ProblemError, bad_request, render
from tokenproxy.proxy.record import Refusal, RequestLog
from tokenproxy.proxy.register import Member, Proof, Shown, UnprovenError
from tokenproxy.proxy.request import FOREIGN_METHODS, account_of, check_origin

if TYPE_CHECKING:
    from tokenproxy.proxy.plane import Plane

GENERATION: Final = b"tokenproxy-generation"
_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,31}")
_READ: Final = frozenset(
    (
        b"x-forwarded-method",
        b"x-forwarded-uri",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"tokenproxy-key",
        b"authorization",
        GENERATION,
        b"origin",
        b"sec-fetch-site",
        b"content-length",
        b"transfer-encoding",
    )
)
_FIRST: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\nTokenproxy-Answer: "
_REPORTED: Final = b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nTokenproxy-Answer: "


@dataclass(slots=True)
class Question:
    """What another proxy wants to know, with all checks passed."""

    lane: Lane
    account: str
    method: str
    path: str
    refused: bytes
    """The ticket of the token that the upstream refused; empty: none."""
    report: bool
    """It wants no token, and only tells."""
    taken: bytes
    """A line for Envoy, which takes fields out that it is told the names of."""
    member: Member | None


class Asking:
    """The rules of one configuration: which routes' tokens another proxy may have, and for which requests."""

    def __init__(self, plane: Plane, lanes: dict[str, Lane], routes: frozenset[str]) -> None:
        self._plane = plane
        self._lanes = {name: lanes[name] for name in routes if name in lanes}
        self._table = RouteTable.of(lane.route for lane in self._lanes.values())
        self.history = History()
        for name in self._lanes:
            plane.metrics.asked.setdefault((name, Verdict.TOKEN.value), 0)

    def read(self, message: Message, side: CallerSide, proof: Proof | None = None) -> Question:
        """``proof``: what ``UnprovenError`` led to. Raises ``ProblemError`` and ``UnprovenError``."""
        if message.version not in {HttpVersion10, HttpVersion11}:
            raise bad_request("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        given = _given(message)
        if given[b"transfer-encoding"]:
            raise bad_request("A question of another proxy has no body.")
        word, name, rest = _split(message.path)
        if word == "ext-authz":  # only here the request's own line is that of the caller's request
            method, uri, host = message.method, rest, _one(_values(message, b"host"))
        else:
            method = _method(given[b"x-forwarded-method"])
            uri = _one(given[b"x-forwarded-uri"]).decode("latin-1")
            host = _one(given[b"x-forwarded-host"])
        if method in FOREIGN_METHODS or method in {"CONNECT", "TRACE"}:
            raise bad_request("No token is given for this method.")
        told = self._plane.gate.known_host(host) if host and word != "refused" else ""
        lane, path = self._lane(name, host, uri), _path(uri)
        if name and told:
            _check_own_host(lane, told)
        member = self._who(lane, given, side, proof)
        if word != "refused":  # which gives nothing, and a ticket proves that something was given
            _check_page(lane, given, host)
            _check_target(lane, message, method, path, whole=word == "ext-authz")
        account = lane.account if lane.by_header is None else account_of(lane, message, member)
        if member is not None:
            member.check(lane, account)
        return Question(
            lane,
            account,
            method,
            path,
            _one(given[GENERATION]),
            report=word == "refused",
            taken=_to_remove(lane) if word == "ext-authz" else b"",
            member=member,
        )

    def _who(
        self,
        lane: Lane,
        given: Mapping[bytes, tuple[bytes, ...]],
        side: CallerSide,
        proof: Proof | None,
    ) -> Member | None:
        """Whose request it is: the other proxy's where it proves itself, else the caller's, by what is passed on."""
        gate = self._plane.gate
        if gate.register is None:
            return None
        credentials = given[b"authorization"] if gate.register.ways & {BASIC, JWT} else ()
        shown = Shown(given[b"tokenproxy-key"], credentials, proxied=False)
        found = gate.who(gate.register, lane.route, side, shown, proof)
        return found.member if found is not None else None

    def _lane(self, name: str, host: bytes, uri: str) -> Lane:
        if name:
            lane = self._lanes.get(name)
            if lane is None:
                raise _no_route("No route of [forward_auth] has this name.")
            return lane
        found = HOST_FIELD.fullmatch(host)
        if found is None:
            raise bad_request("X-Forwarded-Host is not one host.")
        route: Route | None = self._table.match(host_key(found[1].decode()), _path(uri))
        if route is None:
            raise _no_route("No route of [forward_auth] has this host and prefix.")
        return self._lanes[route.name]


class Ask:
    """One question, answered with a token or with why there is none."""

    __slots__ = ("caller", "message", "payload", "plane", "request")

    def __init__(self, caller: CallerSide, message: Message, payload: Payload) -> None:
        self.caller = caller
        self.plane = caller.plane
        self.message = message
        self.payload = payload
        self.request: Question | None = None

    async def run(self) -> bool:
        """Answer; whether the connection may take another question."""
        await self.caller.in_task()
        plane = self.plane
        started = plane.monotonic()
        status, code, word = 200, "", ""
        why: ProblemError | None = None
        entered: Member | None = None
        try:
            asking = plane.asking
            if asking is None:
                raise _no_route("No route is listed in [forward_auth] any more.")
            question = self.request = await self._read(asking)
            if question.member is not None:
                await question.member.enter(started, plane.settings.limits.queue)
                entered = question.member
            tokens, verdict = await self._found(asking, question)
            card = question.lane.card(question.account, tokens)
            self._note(asking, question, card, verdict)
            word = verdict.value
            head = _answer(question, card, verdict)
            status = 204 if question.report else 200
        except (ProblemError, AccountError) as error:
            why = error if isinstance(error, ProblemError) else ProblemError.of(error)
            head, status, code = self._refusal(why), why.status, why.code
        finally:
            if entered is not None:
                entered.leave()
        keep = self._may_stay()
        first, _, rest = head.partition(b"\r\n\r\n")
        end = b"\r\n" + plane.date_line() + (b"" if keep else b"Connection: close\r\n") + b"\r\n"
        self.caller.transport.write(first + end + rest)
        self._count(word or code, status, code, started, why)
        if self.caller.writing_paused:
            try:
                await self.caller.drain(plane.monotonic() + plane.settings.deadlines.body_idle)
            except ConnectionError:
                return False
        return keep

    # inside

    async def _read(self, asking: Asking) -> Question:
        """Where it takes time to find out who asks, that is waited for."""
        proof: Proof | None = None
        while True:
            try:
                return asking.read(self.message, self.caller, proof)
            except UnprovenError as unproven:
                proof = await unproven.proven()

    async def _found(self, asking: Asking, question: Question) -> tuple[Sendable, Verdict]:
        source = self.plane.source
        if not question.refused and (ready := source.ready(question.account)) is not None:
            return ready, Verdict.TOKEN
        turns = self.plane.turns  # who may have to wait, as a request would
        if not turns.enter():
            await turns.wait(self.plane.settings.limits.queue)
        try:
            tokens = source.ready(question.account) or await source.current(question.account)
            generation = generation_of(question.refused)
            if generation is None or generation > tokens.generation:
                return tokens, Verdict.TOKEN
            if generation < tokens.generation:
                return tokens, Verdict.NEWER
            return await self._after(asking, question, tokens)
        finally:
            turns.leave()

    async def _after(self, asking: Asking, question: Question, tokens: Sendable) -> tuple[Sendable, Verdict]:
        """The token in use is said to have been refused."""
        source, account, route = self.plane.source, question.account, question.lane.route.name
        if not hmac.compare_digest(question.refused, ticket(tokens, account, route)):
            return tokens, Verdict.TOKEN
        if asking.history.refused(route, account, tokens.generation, self.plane.monotonic()):
            source.refused_again(account, tokens, route=route)
        newer = await source.renew(account, tokens, route=route)
        if not isinstance(newer, KeepAnswer):
            return newer, Verdict.NEWER
        now = source.ready(account) or await source.current(account)
        return now, Verdict.LIVE if newer is KeepAnswer.LIVE else Verdict.HELD

    def _note(self, asking: Asking, question: Question, card: Card, verdict: Verdict) -> None:
        """Remember what was given, and tell the source once that it has worked."""
        route, tokens = question.lane.route.name, card.tokens
        after = verdict is Verdict.NEWER and bool(question.refused)
        worked = asking.history.gave(
            route, question.account, tokens.generation, self.plane.monotonic(), after_refusal=after
        )
        if (worked and verdict is Verdict.TOKEN and not question.refused) and not card.worked:
            card.worked = True
            self.plane.source.worked(question.account, tokens)

    def _refusal(self, problem: ProblemError) -> bytes:
        lane = self._lane_of(problem)
        if lane is not None:
            lane.tell(problem, self.plane.monotonic())
        route = lane.route.name if lane is not None else ""
        if self.plane.on_refused is not None and problem.kind.result == "refused":
            self.plane.on_refused(Refusal(problem.code, route, self.caller.peer(), self._caller_of(problem)))
        head, body = render(problem, date=b"", route=route, keep=True)
        # nginx keeps nothing of a refusal's body, and its configuration can hand a header on.
        said = b"\r\nTokenproxy-Problem: " + body.strip() + b"\r\n\r\n"
        head = head.removesuffix(b"\r\n\r\n") + said
        return head if self.message.method == "HEAD" else head + body

    def _lane_of(self, problem: ProblemError | None) -> Lane | None:
        if isinstance(problem, LaneError):
            return problem.lane
        return self.request.lane if self.request is not None else None

    def _caller_of(self, problem: ProblemError | None) -> str:
        """Who is known also where its question was not let through to the end."""
        question = self.request
        if question is not None and question.member is not None:
            return question.member.name
        return problem.caller if problem is not None else ""

    def _may_stay(self) -> bool:
        whole = self.payload is EMPTY_PAYLOAD or self.payload.is_eof()
        return whole and not (self.message.should_close or self.message.upgrade or self.plane.draining)

    def _count(
        self, answer: str, status: int, code: str, started: float, problem: ProblemError | None
    ) -> None:
        question, lane = self.request, self._lane_of(problem)
        route = lane.route.name if lane is not None else ""
        asked = self.plane.metrics.asked
        asked[route, answer] = asked.get((route, answer), 0) + 1
        if self.plane.on_request is not None:
            self.plane.on_request(
                RequestLog(
                    route=route,
                    account=question.account if question is not None else "",
                    caller=self._caller_of(problem),
                    method=question.method if question is not None else self.message.method,
                    path=question.path if question is not None else "",
                    status=status,
                    code=code,
                    seconds=self.plane.monotonic() - started,
                    upstream_seconds=0.0,
                    attempts=0,
                    trace_id="",
                )
            )


class AskingSide(CallerSide):
    """A connection of another proxy."""

    __slots__ = ()
    exchange = Ask


def _split(target: str) -> tuple[str, str, str]:
    """The kind of question, the route that it names, and, of Envoy's, the target of the caller's request."""
    path = target.partition("?")[0]
    word, _, name = path[1:].partition("/")
    if word == "ext-authz":
        name, slash, rest = target[len("/ext-authz/") :].partition("/")
        if name and slash:
            return word, name, slash + rest
    elif word in {"auth", "refused"} and path[:1] == "/" and "/" not in name:
        return word, name, ""
    raise _no_route("Other proxies ask here for /auth, /auth/ROUTE, /refused/ROUTE or /ext-authz/ROUTE/...")


def _given(message: Message) -> Mapping[bytes, tuple[bytes, ...]]:
    given: dict[bytes, tuple[bytes, ...]] = dict.fromkeys(_READ, ())
    for name, value in message.raw_headers:
        lower = name.lower()
        if lower in _READ:
            given[lower] += (value,)
    return given


def _values(message: Message, wanted: bytes) -> tuple[bytes, ...]:
    return tuple(value for name, value in message.raw_headers if name.lower() == wanted)


def _one(values: tuple[bytes, ...]) -> bytes:
    """Whoever adds a line to what the other proxy says is not to be the one who is believed."""
    if len(values) > 1:
        raise bad_request("A field about the caller's request is there more than once.")
    return values[0] if values else b""


def _method(values: tuple[bytes, ...]) -> str:
    method = _one(values)
    if method and not _METHOD.fullmatch(method):
        raise bad_request("X-Forwarded-Method is not a method.")
    return method.decode()


def _path(uri: str) -> str:
    """Of the caller's request, as it came; empty where nobody says."""
    path = uri.partition("?")[0]
    if uri and uri[:1] != "/":
        raise bad_request("The caller's target is not a path.")
    if "#" in uri:
        raise bad_request("The caller's target has a fragment.")
    if DOT_SEGMENT.search(path):
        raise bad_request("The caller's path has a dot segment, plain or encoded.")
    return path


def _below(lane: Lane, path: str) -> str:
    """What follows the route's prefix, which is what ``allow`` is about."""
    prefix = lane.route.prefix
    if path.startswith(prefix):
        return path[len(prefix) - 1 :]
    if path and path + "/" == prefix:
        return "/"
    raise ProblemError(
        "not_allowed",
        "The caller's path is not below the prefix of the route that it is to be judged by.",
        next_step=f"Have the other proxy say X-Forwarded-Uri as callers send it, and give [routes.{lane.route.name}] "
        "the prefix that they use.",
    )


def _check_own_host(lane: Lane, told: str) -> None:
    """A route that is named in the question is not found by its host: so its host is looked at here."""
    own = lane.route.host
    if not own or told == own or within(told, (own,)):
        return
    raise LaneError(
        "host_refused",
        "The host of the caller's request is not the host of the route that the other proxy names.",
        next_step=f"Have callers use host of [routes.{lane.route.name}], or name in the question a route without one.",
        lane=lane,
    )


def _check_page(lane: Lane, given: Mapping[bytes, tuple[bytes, ...]], host: bytes) -> None:
    """Whether the page that the caller's request comes from may use the route."""
    origins, sites = given[b"origin"], given[b"sec-fetch-site"]
    if origins or sites:
        scheme = _one(given[b"x-forwarded-proto"]).lower() or b"http"
        own = scheme + b"://" + host if host else b""
        check_origin(lane, own, _one(origins) if origins else None, sites)


def _check_target(lane: Lane, message: Message, method: str, path: str, *, whole: bool) -> None:
    """What the route says of methods and paths; ``whole``: the path must be below its prefix in any case."""
    if lane.allow is not None:
        if not method:
            raise bad_request("X-Forwarded-Method does not say the method of the caller's request.")
        fields = [field for field in message.raw_headers if field[0].lower() not in _READ]
        lane.check_allowed(lane.allow, method, _below(lane, path), fields)
    elif whole:
        _below(lane, path)


def _to_remove(lane: Lane) -> bytes:
    """
    What goes no further: a credential in another place than our token's, whatever ``pass`` says, since it may be what the
    caller proved itself with; and what was meant for us.
    """
    inject = lane.route.inject
    ours = {inject.header.lower().encode(), *(name.lower().encode() for name in inject.headers)}
    names = sorted({*lane.dropped, b"authorization", b"tokenproxy-key"} - ours)
    return b"X-Envoy-Auth-Headers-To-Remove: " + b",".join(names) + b"\r\n"


def _answer(question: Question, card: Card, verdict: Verdict) -> bytes:
    if question.report:
        return _REPORTED + verdict.value.encode() + b"\r\n\r\n"
    named = ticket(card.tokens, question.account, question.lane.route.name)
    return b"".join(
        (
            _FIRST,
            verdict.value.encode(),
            b"\r\nTokenproxy-Generation: ",
            named,
            b"\r\n",
            question.taken,
            card.line,
        )
    )


def _no_route(detail: str) -> ProblemError:
    return ProblemError(
        "no_route",
        detail,
        next_step="Compare the address that the other proxy asks with routes of [forward_auth].",
    )
