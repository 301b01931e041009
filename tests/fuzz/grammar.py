"""Byte streams of callers and upstreams: mostly proper HTTP/1.1, with whatever makes two parsers disagree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

CORPUS = Path(__file__).parent.parent / "proxy" / "corpus"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes of one connection, in the pieces in which they are written; ``method``: what an answer is for."""

    pieces: tuple[bytes, ...]
    method: bytes = b""
    """Empty: the bytes are a caller's; else an upstream's, and its first request has this method."""
    closes: bool = True
    """The upstream closes behind its bytes."""

    def dump(self) -> str:
        return json.dumps(
            {
                "pieces": [piece.decode("latin-1") for piece in self.pieces],
                "method": self.method.decode(),
                "closes": self.closes,
            },
            indent=1,
        )

    @classmethod
    def load(cls, text: str) -> Case:
        held = json.loads(text)
        return cls(
            tuple(piece.encode("latin-1") for piece in held["pieces"]),
            held["method"].encode(),
            held["closes"],
        )


def corpus() -> dict[str, Case]:
    return {path.stem: Case.load(path.read_text()) for path in sorted(CORPUS.glob("*.json"))}


METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"DELETE")
TARGETS = (
    b"/books/x",
    b"/books/",
    b"/books/a%2Fb//c;d=1?",
    b"/books/?q=%zz&a=b+c",
    b"http://localhost/books/y",
    b"/books/x HTTP/1.1\r\nHost: localhost\r\n\r\nGET /books/z",
    b"*",
    b"/books/x#y",
    b"/books/\xff",
    b"/books/ x",
    b"/crm/x",
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.10")
HOSTS = (b"Host: localhost", b"Host:localhost:80 ", b"host:\tlocalhost", b"Host: other", b"Host : localhost")
PLAIN = (
    b"X-A: 1",
    b"x-a: 2",
    b"X-Empty:",
    b"X-Bytes: \xff\xfe",
    b"X-Tab:\ta\tb\t",
    b"Cookie: a=b",
    b"Cookie: c=d",
    b"Accept-Encoding: gzip, br",
    b"Authorization: Bearer theirs",
)
TRICKS = (
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: X-A, close",
    b"Connection: content-length",
    b"Connection: transfer-encoding, host",
    b"Keep-Alive: timeout=1",
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"TE: trailers",
    b"TE: gzip, trailers;q=1",
    b"Trailer: X-Sum",
    b"Trailer: Content-Length, Set-Cookie",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"X-Folded: a\r\n b",
    b"X-Nul: a\x00b",
    b"X-Cr: a\rb",
    b"X-Lf: a\nb",
    b"X-Control: a\x01b",
    b" X-Led: a",
    b"X-Blank : a",
    b"X Y: a",
    b": nothing",
    b"nothing",
    b"",
    b"Content_Length: 3",
    b"Transfer_Encoding: chunked",
    b"Content-Length\x00: 3",
    b"Via: 1.1 other",
    b"Max-Forwards: 1",
    b"Max-Forwards: 0",
)
LENGTHS = (
    b"Content-Length: %d",
    b"content-length:%d",
    b"Content-Length: 0%d",
    b"Content-Length: +%d",
    b"Content-Length: -%d",
    b"Content-Length: 0x%d",
    b"Content-Length: %d, %d",
    b"Content-Length: %d ",
    b"Content-Length: 1_%d",
    b"Content-Length: %d\r\n 0",
    b"Content-Length : %d",
    b"Content-Length: \x0b%d",
    b"Content-Length: 1844674407370955161%d",
)
ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:CHUNKED",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:",
    b'Transfer-Encoding: "chunked"',
    b" Transfer-Encoding: chunked",
    b"X: a\nTransfer-Encoding: chunked",
    b"X: a\rTransfer-Encoding: chunked",
)
SIZES = (
    b"%x",
    b"%X",
    b"0%x",
    b"000000000%x",
    b"+%x",
    b"0x%x",
    b" %x",
    b"%x ",
    b"%x\t",
    b"-%x",
    b"%x\x00",
    b"1%x",
)
EXTENSIONS = (b"", b";a", b";a=b", b';a="b;c"', b" ;a", b";", b";a\rb", b";a\nb", b";\x00", b';a="\r\n"')
ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n\r\n", b"", b"\n\r")
TRAILERS = (
    b"X-Sum: 9",
    b"X-Sum:",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Host: evil",
    b"Set-Cookie: a=b",
    b"Authorization: Bearer x",
    b"Bad Trailer: x",
    b"X-Nul: \x00",
    b" folded",
    b"no colon",
)
HIDDEN = b"GET /books/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODIES = (b"", b"abc", b"a" * 40, HIDDEN, b"0\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n" + HIDDEN)
STATUSES = (
    b"200 OK",
    b"200",
    b"200 ",
    b"204 No Content",
    b"304 Not Modified",
    b"404 \xff",
    b"100 Continue",
    b"101 Switching Protocols",
    b"102 Processing",
    b"103 Early Hints",
    b"099 Odd",
    b"999 Odd",
    b"2000 Odd",
    b"20 Odd",
    b"500 a\tb",
)
ANSWER_FIELDS = (
    b"Set-Cookie: a=b",
    b"Set-Cookie: c=d",
    b"Server: x",
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT",
    b"ETag: \xff",
    b"Tokenproxy-Error: no_route",
    b"Content-Type: text/plain",
)
SPLICES = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"\r\n\r\n", b"\xff", b"chunked",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", HIDDEN,
)  # fmt: skip

rarely = st.integers(0, 9).map(lambda die: die == 0)


def chosen(draw: DrawFn, choices: tuple[bytes, ...], *, odd: bool = True) -> bytes:
    """Mostly the first, which is the proper one."""
    return draw(st.sampled_from(choices)) if odd and draw(rarely) else choices[0]


@st.composite
def chunks(draw: DrawFn, odd: bool) -> bytes:
    pieces = []
    for body in draw(st.lists(st.sampled_from(BODIES[1:]), max_size=3)):
        size = chosen(draw, SIZES, odd=odd) % len(body)
        extension = chosen(draw, EXTENSIONS, odd=odd)
        end, behind = chosen(draw, ENDS, odd=odd), chosen(draw, ENDS, odd=odd)
        pieces.append(size + extension + end + body + behind)
    last = chosen(draw, (b"0", b"000", b"", b"0;a=b", b"00x", b" 0"), odd=odd)
    pieces.append(last + chosen(draw, ENDS, odd=odd))
    trailers = draw(st.lists(st.sampled_from(TRAILERS), max_size=2)) if draw(st.booleans()) else []
    pieces += [trailer + chosen(draw, ENDS, odd=odd) for trailer in trailers]
    return b"".join(pieces) + chosen(draw, ENDS, odd=odd)


@st.composite
def framed(draw: DrawFn, odd: bool) -> tuple[list[bytes], bytes]:
    """Fields that frame a body, and the body; where ``odd``, they may contradict each other."""
    kind = draw(
        st.sampled_from(
            ("none", "length", "chunks", "both", "twice") if odd else ("none", "length", "chunks")
        )
    )
    if kind == "none":
        return [], draw(st.sampled_from(BODIES)) if odd and draw(rarely) else b""
    body = draw(st.sampled_from(BODIES))
    form = chosen(draw, LENGTHS, odd=odd)
    length = form % ((len(body),) * form.count(b"%d"))
    if kind == "length":
        return [length], body
    encoding = chosen(draw, ENCODINGS, odd=odd)
    if kind == "chunks":
        return [encoding], draw(chunks(odd))
    fields = [encoding, length] if kind == "both" else [encoding, draw(st.sampled_from(ENCODINGS))]
    return draw(st.permutations(fields)), draw(st.sampled_from((body, draw(chunks(odd)))))


@st.composite
def message(draw: DrawFn, start: bytes, fields: list[bytes], odd: bool) -> bytes:
    framing, body = draw(framed(odd))
    fields = fields + framing
    if odd:
        fields += draw(st.lists(st.sampled_from(TRICKS), max_size=2))
        fields = draw(st.permutations(fields))
    lines = [start, *fields, b""]
    return b"".join(line + chosen(draw, ENDS, odd=odd) for line in lines) + body


@st.composite
def request(draw: DrawFn) -> bytes:
    odd = draw(st.booleans())
    method = draw(st.sampled_from(METHODS))
    target = draw(st.sampled_from(TARGETS if odd else TARGETS[:5]))
    version = chosen(draw, VERSIONS, odd=odd)
    fields = [chosen(draw, HOSTS, odd=odd), *draw(st.lists(st.sampled_from(PLAIN), max_size=3))]
    if not odd:
        fields += draw(
            st.lists(
                st.sampled_from((b"TE: trailers", b"Trailer: X-Sum", b"Expect: 100-continue")),
                max_size=2,
                unique=True,
            )
        )
    return draw(message(method + b" " + target + b" " + version, fields, odd))


@st.composite
def spoiled(draw: DrawFn, data: bytes) -> bytes:
    """The bytes with a few of them lost, doubled or mixed up."""
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2)))):
        at = draw(st.integers(0, len(data)))
        upto = min(len(data), at + draw(st.integers(0, 8)))
        data = draw(
            st.sampled_from(
                (
                    data[:at] + data[upto:],
                    data[:upto] + data[at:],
                    data[:at] + draw(st.sampled_from(SPLICES)) + data[at:],
                    data[:at] + draw(st.sampled_from(SPLICES)) + data[upto:],
                )
            )
        )
    return data


@st.composite
def cut(draw: DrawFn, data: bytes) -> tuple[bytes, ...]:
    if draw(st.sampled_from((False, False, False, False, False, False, False, True))):
        return tuple(data[at : at + 1] for at in range(len(data)))
    marks = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return tuple(
        piece
        for start, end in zip([0, *marks], [*marks, len(data)], strict=True)
        if (piece := data[start:end])
    )


@st.composite
def callers(draw: DrawFn) -> Case:
    """A few requests in a row."""
    data = b"".join(draw(st.lists(request(), min_size=1, max_size=3)))
    return Case(draw(cut(draw(spoiled(data)))))


@st.composite
def answer(draw: DrawFn) -> bytes:
    odd = draw(st.booleans())
    version = chosen(draw, VERSIONS, odd=odd)
    status = draw(st.sampled_from(STATUSES if odd else STATUSES[:6]))
    fields = draw(st.lists(st.sampled_from((*PLAIN, *ANSWER_FIELDS)), max_size=3))
    if not odd and draw(rarely):
        fields = [*fields, b"Trailer: X-Sum"]
    return draw(message(version + b" " + status, fields, odd))


@st.composite
def upstreams(draw: DrawFn) -> Case:
    """Interim answers, a final one, and perhaps more than was asked for."""
    interim = draw(st.lists(st.sampled_from(STATUSES[6:10]), max_size=2)) if draw(st.booleans()) else []
    data = b"".join(b"HTTP/1.1 " + status + b"\r\nX-Early: 1\r\n\r\n" for status in interim)
    data += b"".join(draw(st.lists(answer(), min_size=1, max_size=2)) if draw(rarely) else [draw(answer())])
    method = draw(st.sampled_from((b"GET", b"GET", b"HEAD", b"POST")))
    return Case(draw(cut(draw(spoiled(data)))), method, draw(st.booleans()))


cases: SearchStrategy[Case] = st.one_of(callers(), upstreams())
