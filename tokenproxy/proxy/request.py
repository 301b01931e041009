"""What a request must be before a token is touched, and the head that goes upstream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

from tokenproxy.core.allow import OVERRIDES
from tokenproxy.core.callers import BASIC, JWT
from tokenproxy.core.routes import DOT_SEGMENT, Route, RouteTable, host_key, place_of, valid_sub, within
from tokenproxy.proxy import plain
from tokenproxy.proxy.address import HOST_FIELD, HTTP, LOOPBACK, host_refused, no_such_host, split_absolute
from tokenproxy.proxy.card import canonical
from tokenproxy.proxy.chunks import announcement, wants_trailers
from tokenproxy.proxy.draft import Draft, Preflight, cors, form
from tokenproxy.proxy.draft import plain as plain_draft
from tokenproxy.proxy.lane import Lane, LaneError
from tokenproxy.proxy.parsers import CHUNKED
from tokenproxy.proxy.plain import KNOWN, LONGEST, LONGEST_LENGTH, Field, Lines, Message, PlainRequest
from tokenproxy.proxy.problem import ProblemError, bad_request
from tokenproxy.proxy.register import Member, Proof, Register, Shown, proxy_credentials
from tokenproxy.proxy.tunnel import WEBSOCKET, Connect, Handshake, offered

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide

(
    PLAIN,
    HOP,
    HOST,
    CONNECTION,
    LENGTH,
    ENCODING,
    EXPECT,
    ORIGIN,
    SITE,
    KEY,
    ROUTED,
    TE,
    TRAILER,
    FORWARDS,
    PASSED,
    CREDENTIAL,
) = range(16)

KINDS: Final[Mapping[bytes, int]] = {
    b"host": HOST,
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"expect": EXPECT,
    b"origin": ORIGIN,
    b"sec-fetch-site": SITE,
    b"tokenproxy-key": KEY,
    b"te": TE,
    b"trailer": TRAILER,
    b"max-forwards": FORWARDS,
    b"via": PASSED,
    # RFC 9110 section 7.6.1
    b"keep-alive": HOP,
    b"upgrade": HOP,
    b"http2-settings": HOP,
}
PLAIN_BITS: Final = {
    PLAIN: 0,
    ROUTED: 0,
    ORIGIN: 0,
    SITE: 0,
    KEY: 0,
    CREDENTIAL: 0,
    HOST: plain.HOST,
    CONNECTION: plain.CONNECTION,
    LENGTH: plain.LENGTH,
}
"""Kinds of fields that a head of the common form may have (``plain.py``)."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2; TRACE is refused, and extension methods say nothing about themselves."""
FOREIGN_METHODS: Final = frozenset(
    (
        "ANNOUNCE",
        "DESCRIBE",
        "FLUSH",
        "GET_PARAMETER",
        "PAUSE",
        "PLAY",
        "RECORD",
        "REDIRECT",
        "SETUP",
        "SET_PARAMETER",
        "SOURCE",
        "TEARDOWN",
    )
)
"""The parser lets these in only under another protocol's name, which it does not tell."""
SPENT: Final = frozenset({BASIC, JWT})
"""Ways whose proof is the request's ``Authorization``, which then goes no further whatever ``pass`` says."""
VIA: Final = b"Via: 1.1 tokenproxy\r\n"
MOST_ROUNDS: Final = 5
"""How often a request may have been here, or at others of our kind, before it goes round in a circle."""
TAKES_TRAILERS: Final = b"TE: trailers\r\nConnection: TE\r\n"
"""RFC 9110 section 10.1.4: it holds for one hop, and Connection must say so."""

_NO_MORE_FIELDS: Final[Mapping[bytes, frozenset[bytes]]] = {
    spelling: frozenset() for spelling in (b"keep-alive", b"Keep-Alive", b"close", b"Close")
}


class Request:
    """A request that has passed every check."""

    __slots__ = (
        "account",
        "announces",
        "caller",
        "chunked",
        "cors",
        "draft",
        "expects",
        "head",
        "idempotent",
        "keep",
        "lane",
        "length",
        "method",
        "modern",
        "takes",
        "tokenless",
        "withheld",
    )

    def __init__(self, lane: Lane, account: str, method: str, head: bytes) -> None:
        self.lane = lane
        self.account = account
        self.method = method
        self.head = head
        """For the upstream, without the token's line and the blank line."""
        self.caller: Member | None = None
        """Whose request it is; None where nobody asks, or where the caller has a key without a name."""
        self.idempotent = method in IDEMPOTENT
        self.chunked = False
        """The caller sends the body in chunks; what the upstream gets may be another."""
        self.announces = b""
        """The line that says which trailers will follow the chunks."""
        self.withheld: frozenset[bytes] | None = None
        """None: no trailers are announced; else the names, canonical, that are not passed on."""
        self.takes = b""
        """Lines that say that the caller takes trailers."""
        self.length: int | None = None
        self.expects = False
        """The caller waits for ``100 Continue`` before it sends the body."""
        self.keep = False
        """The caller's connection may take another request."""
        self.draft: Draft | Preflight | Handshake | Connect | None = None
        """What the head is to be made of, where it was not made at the gate."""
        self.tokenless = False
        """Our token is not sent along."""
        self.cors = b""
        """Lines that let the page that asked read the answer."""
        self.modern = False
        """HTTP/1.1: the caller understands chunks and 1xx."""


class SettledError(Exception):
    """No mistake: a request that ends here, since this proxy is its final recipient; the answer is 204."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__("We are the final recipient.")
        self.keep = keep


class Gate:
    """The rules of one configuration: whose requests are let in, and which lane they take."""

    __slots__ = ("_hosts", "_lanes", "_named", "_ours", "_places", "_routed", "_table", "lines", "register")

    def __init__(
        self,
        table: RouteTable,
        *,
        lanes: Mapping[str, Lane],
        hosts: Iterable[str],
        register: Register | None = None,
    ) -> None:
        """``register``: who may come in; None: whoever can connect."""
        self._table = table
        self._lanes = lanes
        self._ours = frozenset(host.lower() for host in hosts)
        self._named = frozenset(host for host in table.by_host if host)
        self.register = register
        self._routed = frozenset(name for lane in lanes.values() for name in lane.dropped)
        if any(lane.allow is not None for lane in lanes.values()):
            self._routed |= OVERRIDES
        self.lines = Lines(self._kind_of, bits=PLAIN_BITS)
        self._places = {
            (lane.route.host, lane.route.upstream.port): lane for lane in lanes.values() if lane.route.connect
        }
        """Where a CONNECT may go."""
        self._hosts: dict[bytes, str] = {}
        """Raw Host values that were let in -> lower case without the port."""

    def admit(  # noqa: C901, PLR0912, PLR0915 - one pass over the fields, once per request
        self,
        message: Message,
        payload: Any,
        scheme: bytes = HTTP,
        side: CallerSide | None = None,
        proof: Proof | None = None,
    ) -> Request:
        """
        Check a parsed head and build the one for the upstream, before any token is touched.

        ``scheme`` is how the caller came in, ``side`` its connection, ``proof`` what was found out about it since
        ``UnprovenError``. Raises ``ProblemError``, and ``SettledError`` for OPTIONS that asks no one but us.
        """
        version = message.version
        if version != HttpVersion11 and version != HttpVersion10:  # noqa: PLR1714 - cheaper than building a tuple
            raise bad_request("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        fields: list[Field] = []
        host: bytes | None = None
        origin: bytes | None = None
        sites: tuple[bytes, ...] = ()
        keys: tuple[bytes, ...] = ()
        credentials: tuple[bytes, ...] = ()
        nominated: frozenset[bytes] = frozenset()
        encodings: tuple[bytes, ...] = ()
        length: int | None = None
        expect: bytes | None = None
        trailing: tuple[bytes, ...] = ()
        takes = b""
        rounds = 0
        ends_here = routed = False
        for field in self._fields(message):
            kind = field[0]
            if kind == PLAIN:
                fields.append(field)
                continue
            value = field[2]
            if kind == HOST:
                if host is not None:
                    raise bad_request("The request has more than one Host.")
                host = value
            elif kind == ROUTED:
                routed = True
                fields.append(field)
            elif kind == LENGTH:
                if length is not None or not value.isdigit() or len(value) > LONGEST_LENGTH:
                    raise bad_request("The Content-Length of the request is not one number.")
                length = int(value)
                fields.append(field)
            elif kind == ENCODING:
                encodings += (value,)
            elif kind == CONNECTION:
                more = _NO_MORE_FIELDS.get(value)
                nominated |= _nominated(value) if more is None else more
            elif kind == ORIGIN:
                if origin is not None:
                    raise bad_request("The request has more than one Origin.")
                origin = value
                fields.append(field)
            elif kind == SITE:
                sites += (value,)
                fields.append(field)
            elif kind == KEY:
                keys += (value,)
            elif kind == CREDENTIAL:
                credentials += (value,)
                routed = True
                fields.append(field)
            elif kind == EXPECT:
                if expect is not None or value.lower() != b"100-continue":
                    raise bad_request("The request expects something that only 100-continue may be.")
                expect = value
            elif kind == TE:
                if wants_trailers(value) and version == HttpVersion11:
                    takes = TAKES_TRAILERS
            elif kind == TRAILER:
                trailing += (value,)
            elif kind == FORWARDS and message.method == "OPTIONS":
                ends_here |= _one_less(field, fields)
            elif kind == PASSED:
                rounds += value.count(b"tokenproxy")
                fields.append(field)
            elif kind == FORWARDS:  # other methods may ignore it (RFC 9110 section 7.6.2)
                fields.append(field)
        if encodings and (
            len(encodings) > 1
            or encodings[0].lower() != b"chunked"
            or length is not None
            or version != HttpVersion11
        ):
            raise bad_request("The request does not have exactly one framing.")  # RFC 9112 section 6.3
        method = message.method
        if method == "CONNECT" or method == "TRACE":  # noqa: PLR1714 - cheaper than building a set
            if method == "TRACE":  # its answer would show the token (RFC 9110 section 9.3.8)
                raise bad_request("TRACE is not for this proxy.")
            bodied = bool(encodings or length)
            return self._connect(message, host, keys, side, proof, bodied=bodied)
        if method in FOREIGN_METHODS:
            raise bad_request("The method belongs to RTSP or ICE.")
        target = message.path
        star = method == "OPTIONS" and target == "*"
        proxied = target[:1] != "/" and not star
        if star:
            target = "/"
        elif proxied:
            if (
                host is not None and HOST_FIELD.fullmatch(host) is None
            ):  # though it counts for nothing (RFC 9112 section 3.2)
                raise bad_request("The Host of the request is not a host.")
            scheme, host, target = split_absolute(target)
            star = method == "OPTIONS" and message.path.count("/") == 2 and "?" not in message.path
        if host is None:
            raise bad_request("The request has no Host.")
        own = self._hosts.get(host) or self._check_host(host, proxied=proxied)
        path = target.partition("?")[0]
        if "#" in target:
            raise bad_request("The target of the request has a fragment.")
        if ("." in path or "%" in path or "\\" in path) and DOT_SEGMENT.search(path):
            raise bad_request("The path of the request has a dot segment, plain or encoded.")
        route = self._table.match(own, path)
        if proxied and route is not None and not route.host and not self._is_ours(own):
            route = None  # the caller means that host, and no route without a name leads there
        if method == "OPTIONS" and origin is not None and route is not None:
            lane = self._lanes[route.name]
            if _may_ask(lane, origin, message):  # a browser shows no credential when it asks whether it may
                by_field = self.register is not None and bool(self.register.ways & SPENT)
                return _preflight(lane, origin, message, credentials=by_field)
        member: Member | None = None
        if self.register is not None:
            shown = Shown(keys, proxy_credentials(message) if proxied else credentials, proxied=proxied)
            proof = self.who(self.register, route, side, shown, proof)
            member = proof.member if proof is not None else None
            if proof is not None and proof.way in SPENT and not proxied:
                fields = [field for field in fields if field[0] != CREDENTIAL]
        if star and (route is None or not _is_whole_server(route)) and (not proxied or self._is_ours(own)):
            raise SettledError(keep=_may_stay(message))  # it asks about the server as a whole
        if route is None:
            raise ProblemError(
                "no_route",
                "No route's host and prefix match this request.",
                next_step="Compare the path with the prefix of each [routes.NAME] in the config.",
            )
        lane = self._lanes[route.name]
        if origin is not None or sites:
            check_origin(lane, scheme + host, origin, sites)
        if ends_here:
            raise SettledError(keep=_may_stay(message))
        if rounds >= MOST_ROUNDS:
            raise _loop(lane)
        account = lane.account if lane.by_header is None else account_of(lane, message, member)
        if member is not None:
            member.check(lane, "" if lane.route.tokenless else account)
        rest = target[lane.prefix_length - 1 :]
        rest = "*" if star else rest if rest[:1] == "/" else "/" + rest
        chunked = bool(encodings)
        expects = expect is not None and version == HttpVersion11 and payload is not EMPTY_PAYLOAD
        if lane.allow is not None and not lane.drafted:
            lane.check_allowed(lane.allow, method, rest, _pairs(fields) if routed else ())
        protocol = b""
        if message.upgrade and version == HttpVersion11 and payload is EMPTY_PAYLOAD and method != "HEAD":
            protocol = _other_protocol(lane, method, message)
            takes = b"" if protocol else takes  # some servers look for the one word in Connection
        announces, withheld = b"", None
        if trailing and chunked:
            withheld = lane.dropped | {canonical(name) for name in nominated}
            announces = announcement(trailing, withheld)
        if lane.drafted:
            bodied = payload is not EMPTY_PAYLOAD
            request = _drafted(lane, account, method, rest, fields, nominated, origin, bodied=bodied)
        else:
            if routed or nominated:
                fields = _without(fields, lane.dropped, nominated)
            head = b"".join(
                (
                    f"{method} {lane.base}{rest} HTTP/1.1\r\n".encode("utf-8", "surrogateescape"),
                    lane.host_line,
                    *[field[3] for field in fields],
                    CHUNKED + announces if chunked else b"",
                    b"Expect: 100-continue\r\n" if expects else b"",
                    takes,
                    VIA,
                )
            )
            request = Request(lane, account, method, head)
        request.modern = version == HttpVersion11
        request.chunked = chunked
        request.announces, request.withheld, request.takes = announces, withheld, takes
        request.caller = member
        request.length = length
        request.expects = expects
        request.keep = _may_stay(message)
        if protocol:
            draft = request.draft if isinstance(request.draft, Draft) else None
            request.draft = handshake = Handshake(protocol, draft)
            request.head += handshake.lines
        return request

    def _connect(
        self,
        message: Message,
        host: bytes | None,
        keys: tuple[bytes, ...],
        side: CallerSide | None,
        proof: Proof | None,
        *,
        bodied: bool,
    ) -> Request:
        """A tunnel to the place that the target names (RFC 9110 section 9.3.6); no token goes through one."""
        if bodied:
            raise bad_request("A CONNECT request has no body.")
        lacks = (
            host is None and message.version != HttpVersion10
        )  # as which Python's own client asks, without a Host
        if lacks or (host is not None and HOST_FIELD.fullmatch(host) is None):
            raise bad_request("The request has no Host.")
        place = place_of(message.path)
        if place is None:
            raise bad_request("The target of a CONNECT request is not HOST:PORT.")
        lane = self._places.get((host_key(place[0]), place[1]))
        if self.register is not None:
            shown = Shown(keys, proxy_credentials(message), proxied=True)
            route = lane.route if lane is not None else None
            proof = self.who(self.register, route, side, shown, proof)
        if lane is None:
            raise ProblemError(
                "not_allowed",
                "No route lets a CONNECT tunnel through to this place; no token could be attached in one.",
                next_step="Ask by http:// through this proxy, or by a route's path, to have a token attached; for a "
                "tunnel without one, set connect = true on the route of this host.",
            )
        request = Request(lane, "", "CONNECT", b"")
        request.draft = Connect()
        if proof is not None and proof.member is not None:
            request.caller = proof.member
            proof.member.check(lane, "")
        return request

    def _fields(self, message: Message) -> list[Field]:
        """What the fields are to this gate; a reload may have put it in the place of another one meanwhile."""
        if isinstance(message, PlainRequest) and message.lines is self.lines:
            return message.fields
        return self.lines.of(message.raw_headers)

    def _kind_of(self, name: bytes) -> int:
        """The kind of a field's name."""
        kind = KINDS.get(name.lower())
        if kind is not None:
            return kind
        if self.register is not None and name.lower() == b"authorization":
            return CREDENTIAL
        one = canonical(name)
        if one in KINDS or one.startswith(b"proxy-"):
            return HOP  # ``Content_Length``: nobody needs it, and some upstream may believe it
        return ROUTED if one in self._routed else PLAIN

    def known_host(self, raw: bytes) -> str:
        """The host that a request names, in its one spelling; raises ``host_refused`` for one that nobody has named."""
        return self._hosts.get(raw) or self._check_host(raw, proxied=False)

    def _check_host(self, raw: bytes, *, proxied: bool) -> str:
        """Against DNS rebinding: a page's name that points at us is not a name of ours."""
        found = HOST_FIELD.fullmatch(raw)
        if found is None:
            raise bad_request("The Host of the request is not a host.")
        name = host_key(found[1].decode())
        if not (self._is_ours(name) or name in self._named or self._table.below(name)):
            raise no_such_host() if proxied else host_refused()
        if len(raw) <= LONGEST:
            if len(self._hosts) >= KNOWN:
                self._hosts.clear()
            self._hosts[raw] = name
        return name

    def _is_ours(self, name: str) -> bool:
        """Whether a host means this proxy, and not what a route leads to."""
        return name in self._ours or within(name, self._ours) or LOOPBACK.fullmatch(name) is not None

    def who(
        self,
        register: Register,
        route: Route | None,
        side: CallerSide | None,
        shown: Shown,
        proof: Proof | None,
    ) -> Proof | None:
        """Who the caller is; None where nobody need say. The route's word on it wins over the listener's."""
        ways = route.auth if route is not None and route.auth is not None else None
        if ways is None and side is not None:
            ways = side.door.auth
        if ways is not None and not ways:
            return None
        return register.who(side, ways, shown, proof)


def _drafted(  # noqa: PLR0917 - what the gate has found out so far
    lane: Lane,
    account: str,
    method: str,
    target: str,
    found: list[Field],
    nominated: frozenset[bytes],
    origin: bytes | None,
    *,
    bodied: bool,
) -> Request:
    fields = _pairs(found)
    if not lane.targets:
        draft, own = plain_draft(lane, target, fields, nominated)
        request = Request(lane, account, method, b"")
        request.tokenless = own or lane.route.tokenless
    else:
        lines = (
            cors(origin) if origin is not None and origin.decode("latin-1").lower() in lane.origins else b""
        )
        try:
            lane, method, draft, own = form(lane, method, fields, nominated, bodied=bodied)
        except ProblemError as problem:
            problem.cors = lines
            raise
        request = Request(lane, account, method, b"")
        request.tokenless = own or lane.target is None or not lane.target.token
        request.cors = lines
    request.draft = draft
    return request


def _other_protocol(lane: Lane, method: str, message: Message) -> bytes:
    """
    The one that the upstream is asked for, as far as the route lets it; any other ``Upgrade`` is dropped, as HTTP lets
    everybody do. Not WebSocket's: without it such a request makes no sense to anybody, and the caller should learn why.
    """
    protocol, websocket = offered(message, lane.route.upgrade)
    if protocol and (protocol.lower() != WEBSOCKET or method == "GET"):
        return protocol
    if websocket:
        step = f'Set upgrade = ["websocket"] on [routes.{lane.route.name}] if it may be asked for one.'
        if lane.targets:
            step = "Ask by a route that has an upstream; one with targets lets none through."
        raise ProblemError("not_allowed", "This route lets no WebSocket through.", next_step=step)
    return b""


def _may_ask(lane: Lane, origin: bytes, message: Message) -> bool:
    listed = bool(lane.targets) and origin.decode("latin-1").lower() in lane.origins
    return listed and any(name.lower() == b"access-control-request-method" for name, _ in message.raw_headers)


def _preflight(lane: Lane, origin: bytes, message: Message, *, credentials: bool) -> Request:
    request = Request(lane, "", "OPTIONS", b"")
    asks = {name.lower() for name, _ in message.raw_headers}
    private = b"access-control-request-private-network" in asks
    request.draft = Preflight(lane, origin, private=private, credentials=credentials)
    request.modern = message.version == HttpVersion11
    request.keep = not (message.should_close or message.upgrade)
    return request


def _may_stay(message: Message) -> bool:
    """A refused upgrade leaves in doubt which protocol the next bytes are (RFC 9931): close."""
    return not (message.should_close or message.upgrade)


def _one_less(field: Field, fields: list[Field]) -> bool:
    """Pass Max-Forwards of OPTIONS on, one less; whether the request goes no further (RFC 9110 section 7.6.2)."""
    kind, name, value, _, bit = field
    if any(other[0] == kind for other in fields) or not value.isdigit() or len(value) > LONGEST_LENGTH:
        raise bad_request("The Max-Forwards of the request is not one number.")
    less = b"%d" % (int(value) - 1)
    fields.append((kind, name, less, b"%b: %b\r\n" % (name, less), bit))
    return not int(value)


def _is_whole_server(route: Route) -> bool:
    """Whether ``OPTIONS *`` can go on as it is (RFC 9110 section 9.3.7): not where a path or query would be added."""
    upstream = route.upstream
    plain = not (upstream.path or upstream.template or route.inject.query or route.dpop)
    return plain and route.prefix == "/" and not (route.placeholders or route.tokenless or route.targets)


def _loop(lane: Lane) -> ProblemError:
    name = lane.route.name
    return ProblemError(
        "loop_detected",
        f"The upstream of the route {name} leads back to this proxy.",
        next_step=f"Correct upstream of [routes.{name}]: it must be the API's own address.",
    )


def check_origin(lane: Lane, own: bytes, origin: bytes | None, sites: tuple[bytes, ...]) -> None:
    """Against web pages of others that use a person's proxy; the order is that of Go's CrossOriginProtection."""
    if origin is not None and origin.decode("latin-1").lower() in lane.origins:
        return
    foreign = any(site.lower() not in {b"none", b"same-origin"} for site in sites)
    if origin is not None and origin.lower() != own.lower():
        foreign = True
    if foreign:
        raise ProblemError(
            "origin_refused",
            "A web page of another origin sent this request.",
            next_step=f"Add the origin to origins of [routes.{lane.route.name}] if it may use the token.",
        )


def account_of(lane: Lane, message: Message, member: Member | None) -> str:
    """The account that a header names (``crm/{header:x-user}``), or the one that is the caller's there."""
    table, header = lane.by_header or ("", "")
    wanted = header.encode()
    given = [value for name, value in message.raw_headers if name.lower() == wanted]
    if lane.route.mapped and (member is None or member.caller.accounts is None):
        raise LaneError(
            "not_allowed",
            "Nobody says which accounts of this route are the caller's.",
            next_step=f"Set accounts on the caller's [callers.NAME], or trust_account_header on [routes.{lane.route.name}].",
            lane=lane,
        )
    if not given and member is not None and (only := member.caller.only_login(table)):
        return only
    sub = given[0].decode("latin-1") if len(given) == 1 else ""
    if not valid_sub(sub):
        raise ProblemError(
            "login_required",
            f"The request names no account: one header {header} must hold the name of a login.",
            next_step=f"Send {header}: NAME, where {table}/NAME is logged in.",
        )
    return f"{table}/{sub}"


def _nominated(value: bytes) -> frozenset[bytes]:
    """Lower-case names that a Connection field lists (RFC 9110 section 7.6.1)."""
    return frozenset(name.strip(b" \t").lower() for name in value.split(b",")) - {
        b"",
        b"close",
        b"keep-alive",
    }


def _pairs(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for _, name, value, _, _ in fields]


def _without(fields: list[Field], dropped: frozenset[bytes], nominated: frozenset[bytes]) -> list[Field]:
    """The fields that go on; a Connection field may name what frames the message, and that stays all the same."""
    nominated -= {b"content-length"}
    return [
        field for field in fields if canonical(field[1]) not in dropped and field[1].lower() not in nominated
    ]
