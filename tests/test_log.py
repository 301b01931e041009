"""Lines that machines and people read, and a search for planted secrets in all of them."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenproxy import log
from tokenproxy.log import REDACTED, Secrets, event, redact

ROOT = Path(__file__).parents[1]
PLANTED = "Zq8-planted_secret~9X"


PIECES = (
    "token", "refresh_token", "code", "Authorization", "Cookie", "Bearer", "basic ", "://", "@", "eyJhbGciOi.x.y",
    "=", ":", ": ", "%3D", '"', "'", "\\", '\\"', "b'", ",", "&", "?", "]", "}", " ", "\n", "abc-123", REDACTED,
    "-----BEGIN PRIVATE KEY-----", "-----END",
)  # fmt: skip


class Lines:
    """What went out, and a check that no planted value is in it."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    def text(self) -> str:
        return self.out.getvalue()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def last(self) -> dict[str, Any]:
        return self.json()[-1]


Setup = Callable[..., Lines]


@pytest.fixture
def setup() -> Iterator[Setup]:
    """The real ``setup`` on a stream of ours; puts the global state of logging back."""
    root = logging.getLogger()
    before = root.level
    counts = log._counts
    levels = {name: logging.getLogger(name).level for name in ("aiosqlite", "asyncio")}

    def begin(level: str = "info", layout: str = "json") -> Lines:
        for handler in list(root.handlers):
            if (
                type(handler).__module__ == "_pytest.logging"
            ):  # raises where ours stays calm; put back by pytest
                root.removeHandler(handler)
        lines = Lines()
        log.setup(level, layout, stream=lines.out)
        return lines

    yield begin
    log.count_into(counts)
    root.handlers = [each for each in root.handlers if not isinstance(each, log._Output)]
    root.setLevel(before)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def secret() -> Iterator[str]:
    """Known to the log by its exact value only: no pattern would find it."""
    value = "correct horse/battery+staple"
    log.register_secret(value)
    yield value
    log.forget(value)


ours = logging.getLogger("tokenproxy.test")


def test_an_event_is_one_json_object(setup: Setup) -> None:
    """Fixed fields first and in order, so that a person can read a column of raw lines too."""
    lines = setup()

    event(
        ours,
        "token_renewed",
        account="crm/anna",
        generation=4,
        until=datetime(2026, 11, 22, 15, 4, tzinfo=UTC),
    )

    said = lines.last()
    assert list(said) == ["ts", "level", "event", "account", "generation", "until"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said["ts"])
    assert (said["level"], said["event"], said["generation"]) == ("info", "token_renewed", 4)
    assert said["until"] == "2026-11-22T15:04:00.000Z"


def test_an_event_is_a_readable_line(setup: Setup) -> None:
    """Time, words, fields; the level only where it is not the usual one."""
    lines = setup("info", "text")

    event(ours, "token_renewed", account="crm", generation=4, identity=None)
    event(ours, "renewal_failed", account="crm", reason="provider_down", detail="no answer in 10 s")

    first, second = lines.text().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  token renewed  account=crm generation=4", first)
    assert second[10:] == (
        'warning  renewal failed  account=crm reason=provider_down detail="no answer in 10 s"'
    )


def test_auto_is_text_on_a_terminal_only(setup: Setup) -> None:
    """A pipe to a collector gets JSON without anybody asking for it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    setup()
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        log.setup("info", "auto", stream=out)
        event(ours, "stopped")

    assert "stopped" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert json.loads(pipe.getvalue())["event"] == "stopped"


def test_setup_replaces_itself(setup: Setup) -> None:
    """A reload that changes the level must not write every line twice."""
    first, second = setup(), setup("error")

    event(ours, "token_renewed")
    event(ours, "store_failed")

    assert first.text() == ""
    assert [line["event"] for line in second.json()] == ["store_failed"]


def test_quiet_events_are_counted_still(setup: Setup) -> None:
    """An alert on the count must not depend on the log level."""
    setup("error")
    counts: dict[str, int] = {}
    log.count_into(counts)

    event(ours, "renewal_in_doubt")
    event(ours, "renewal_in_doubt")

    assert counts == {"renewal_in_doubt": 2}
    with pytest.raises(KeyError):
        event(ours, "token_rnewed")


class Colour(Enum):
    RED = "red"


def test_any_value_can_be_a_field(setup: Setup) -> None:
    """Nothing that somebody logs may raise, break the JSON or fill the disk."""
    lines = setup()
    loop: list[object] = []
    loop.append(loop)

    event(
        ours, "unexpected_error", name="x", message="y", level="z", nan=float("nan"), colour=Colour.RED, loop=loop,
        raw=b"\xff", lasted=timedelta(seconds=1.5), lone="\ud800", long="x" * 10**6, some={1, 2}, of=object,
    )  # fmt: skip

    said = lines.last()
    assert (said["name"], said["message"], said["level"]) == ("x", "y", "error")
    assert (said["nan"], said["colour"], said["raw"], said["lasted"]) == ("nan", "red", "\\xff", "1.5 s")
    assert len(said["long"]) < 10_000


def test_no_text_can_forge_a_line(setup: Setup) -> None:
    """A provider's error text is not ours: new lines and escape codes must not leave it."""
    evil = 'x\n{"event":"stopped"}\r\x1b[2J\u2028\x85'
    for layout in ("json", "text"):
        lines = setup("info", layout)
        event(ours, "renewal_failed", detail=evil)
        logging.getLogger("lib").warning("said %s", evil)
        assert len(lines.text().splitlines()) == 2
        assert "\x1b" not in lines.text()


def test_an_exception_is_one_line(setup: Setup) -> None:
    """Class, text and cause; a traceback is for those who asked for level debug."""

    def fail() -> None:
        local = PLANTED
        raise RuntimeError(f"cannot write\nthis {len(local)}") from OSError(28, "No space left")

    for level, traced in (("info", False), ("debug", True)):
        lines = setup(level)
        try:
            fail()
        except RuntimeError as error:
            event(ours, "store_failed", error=error)
        assert (
            lines.last()["error"] == "RuntimeError: cannot write this 21 (OSError: [Errno 28] No space left)"
        )
        assert ("traceback" in lines.last()) is traced
        assert PLANTED not in lines.text()


# --- secrets


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PLANTED}",
        f"authorization: Basic {base64.b64encode(PLANTED.encode()).decode()}",
        f"bearer%20{PLANTED}",
        f"DPoP {PLANTED} was refused",
        f"[(b'x-access-token', b'{PLANTED}')]",
        f"('Authorization', 'Token {PLANTED}')",
        f"Cookie: a={PLANTED}; b={PLANTED}",
        f"POST /token?grant_type=refresh_token&refresh_token={PLANTED}&x=1",
        f"/callback?code={PLANTED}&state={PLANTED}",
        f"/login?next=%2Fcallback%3Fcode%3D{PLANTED}",
        f"client_secret={PLANTED}",
        f"dict(client_secret='{PLANTED}')",
        f'{{"access_token": "{PLANTED} with blanks \\" and quotes {PLANTED}"}}',
        f'{{"error": "{{\\"refreshToken\\": \\"{PLANTED}\\"}}"}}',
        f"{{'id_token': '{PLANTED}', 'x': 1}}",
        f'{{"access_token":"{PLANTED}',
        f"X-Api-Key: {PLANTED}",
        f"Tokenproxy-Key: {PLANTED}",
        f"password: {PLANTED}",
        f"postgresql://user:{PLANTED}@db.example/x",
        f"https://{PLANTED}@api.example/",
        f"got eyJhbGciOiJIUzI1NiJ9.{PLANTED.replace('~', '-')}.c2ln.",
        f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END RSA PRIVATE KEY-----",
        f"client_assertion={PLANTED}&code_verifier={PLANTED}",
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str) -> None:
    """Shapes that libraries and providers put into their messages."""
    hidden = redact(text)

    assert REDACTED in hidden
    assert redact(hidden) == hidden  # an exception's text passes twice
    assert PLANTED not in hidden
    assert PLANTED.replace("~", "-") not in hidden
    assert base64.b64encode(PLANTED.encode()).decode() not in hidden


@pytest.mark.parametrize(
    "text",
    [
        'Bearer realm="api", error="invalid_token"',
        "a bearer token is missing",
        "accounts.books.client_secret: must begin with env: or file:",
        "token renewed, the refresh token stays",
        "status_code=401 exit_code=3",
        "https://api.example:8443/v1/x?page=2",
        "spooled_tokens=3",
        "accounts.books.token_url=https://login.example/token",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """A log that hides everything helps nobody."""
    assert redact(text) == text


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("layout", ["json", "text"])
def test_planted_secrets_are_nowhere(setup: Setup, secret: str, level: str, layout: str) -> None:
    """Messages, arguments, fields, keys, exceptions, causes, stacks, libraries: everything goes through one door."""
    lines = setup(level, layout)
    library = logging.getLogger("aiohttp.server.deeply.nested")

    class Odd:
        def __repr__(self) -> str:
            return f"<Odd {secret}>"

    def fail() -> None:
        raise RuntimeError(f"sent {secret}") from ValueError(f"refresh_token={PLANTED}")

    ours.warning("sent %s", secret)
    ours.warning("sent %(what)s", {"what": Odd()})
    ours.warning("sent %d", secret)
    ours.warning(Odd())
    ours.warning(
        "x", extra={"access_token": "short", "nested": {"client_secret": PLANTED, "deep": [{"a": secret}]}}
    )
    ours.warning("x", extra={secret: 1})
    event(
        ours,
        "renewal_failed",
        detail=secret,
        body=f"refresh_token={PLANTED}".encode(),
        what=Odd(),
        url=quote(secret),
    )
    try:
        fail()
    except RuntimeError as error:
        event(ours, "unexpected_error", error=error, again=error)
        library.exception("Error handling request from %s", f"/cb?code={PLANTED}", stack_info=True)
    loop = asyncio.new_event_loop()
    loop.call_exception_handler(
        {"message": f"unhandled {secret}", "exception": RuntimeError(secret), "task": Odd()}
    )
    loop.close()

    said = lines.text()
    assert len(said.splitlines()) >= 10
    for planted in (secret, quote(secret), PLANTED, "short"):
        assert planted not in said


def test_a_failing_line_is_not_printed_bare(
    setup: Setup, capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    """logging's own error print shows message and arguments as they are; a closed pipe must not cause one."""
    lines = setup()
    lines.out.close()

    ours.warning("sent %s", secret)

    assert capsys.readouterr().err == ""


def test_other_handlers_do_not_write_bare_lines(setup: Setup, secret: str) -> None:
    """A library that called ``basicConfig`` before us would write the same record a second time, unredacted."""
    bare = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(bare))
    setup()

    ours.warning("sent %s", secret)

    assert bare.getvalue() == ""


def test_aiosqlite_is_quiet_at_debug_too(setup: Setup) -> None:
    """It writes every statement with its values."""
    lines = setup("debug")

    logging.getLogger("aiosqlite").debug("executing INSERT %s", PLANTED)

    assert lines.text() == ""


def test_what_python_prints_bare_goes_through_the_log() -> None:
    """An exception at the top of the program or of a thread is printed by Python itself unless we take it over."""
    code = f"""
import threading, warnings
from tokenproxy import log
log.setup(); log.capture_uncaught()
log.register_secret("{PLANTED}")
def boom(): raise RuntimeError("at {PLANTED}")
class Broken:
    def __del__(self): boom()
thread = threading.Thread(target=boom); thread.start(); thread.join()
Broken()
warnings.warn("about {PLANTED}")
boom()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=30
    )

    assert done.returncode == 1
    assert PLANTED not in done.stderr + done.stdout
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in said] == [
        "unexpected_error",
        "unexpected_error",
        "library_message",
        "unexpected_error",
    ]


class TestSecrets:
    def test_rotation_leaves_nothing_behind(self) -> None:
        """A process lives for months and sees millions of tokens."""
        secrets = Secrets(limit=8)
        for generation in range(1000):
            secrets.add(f"token-generation-{generation}")
            if generation:
                secrets.forget(f"token-generation-{generation - 1}")

        assert len(secrets) == 1
        assert secrets.redact("token-generation-999") == REDACTED
        assert secrets.redact("token-generation-998") == "token-generation-998"
        secrets.forget("token-generation-999")
        assert secrets._index == {}

    def test_who_forgets_to_forget_is_bounded(self) -> None:
        """The oldest leave first; what lasts stays, and what was seen again is young."""
        secrets = Secrets(limit=8)
        secrets.add("client-secret", lasting=True)
        secrets.add("token-first")
        for each in range(7):
            secrets.add(f"token-{each:04}")
        secrets.add("token-first")
        secrets.add("token-last1")

        assert len(secrets) == 9
        assert secrets.redact("client-secret token-first token-last1") == " ".join([REDACTED] * 3)
        assert secrets.redact("token-0000") == "token-0000"

    def test_a_token_of_two_generations_is_forgotten_with_the_last(self) -> None:
        """Many providers never rotate the refresh token: forgetting the old generation must not show the new one's."""
        secrets = Secrets()
        secrets.add("refresh-token")
        secrets.add("refresh-token")
        secrets.add("static-token", lasting=True)
        secrets.add("static-token")

        secrets.forget("refresh-token")
        secrets.forget("static-token")
        assert secrets.redact("refresh-token static-token") == f"{REDACTED} {REDACTED}"

        secrets.forget("refresh-token")
        secrets.forget("static-token")
        assert secrets._index == {}

    def test_two_secrets_may_look_alike(self) -> None:
        """One that begins like another is hidden whole; forgetting one keeps the other."""
        secrets = Secrets()
        secrets.add("abcdef-1")
        secrets.add("abcdef-1-and-more")
        assert secrets.redact("<abcdef-1-and-more>") == f"<{REDACTED}>"

        secrets.forget("abcdef-1-and-more")
        assert secrets.redact("<abcdef-1-and-more>") == f"<{REDACTED}-and-more>"

    def test_a_secret_that_was_cut_off_is_hidden_too(self) -> None:
        """Error texts are cut to a length, perhaps in the middle of what they repeat."""
        secrets = Secrets()
        secrets.add("sZ8d92jKqpL0aaWz")

        for text in ("they said sZ8d92jKq", "they said sZ8d92jKq...", "they said sZ8d92jKq…"):
            assert secrets.redact(text) == f"they said {REDACTED}"
        assert secrets.redact("sZ8d92jKq is not it") == "sZ8d92jKq is not it"

    def test_short_values_are_left_alone(self) -> None:
        """Hiding every "a" hides the log."""
        secrets = Secrets()
        secrets.add("a")
        secrets.add("")

        assert secrets.redact("a b c d e f") == "a b c d e f"

    @given(
        secret=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), min_size=6, max_size=40),
        around=st.tuples(st.text(max_size=20), st.text(max_size=20)),
    )
    def test_every_spelling_is_found(self, secret: str, around: tuple[str, str]) -> None:
        """Whatever the value and its surroundings, in the spellings of URLs, forms, JSON and ``repr``."""
        secrets = Secrets()
        secrets.add(secret)
        spellings = (
            secret,
            quote(secret, safe=""),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            repr(secret)[1:-1],
        )

        for spelling in spellings:
            hidden = secrets.redact(f"{around[0]}{spelling}{around[1]}")
            assert REDACTED in hidden
            if spelling not in f"{around[0]}{REDACTED}{around[1]}":
                assert spelling not in hidden


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_redaction_never_fails(text: str) -> None:
    """It runs on whatever anybody logs, and an exception there would lose the line that tells of the trouble."""
    assert isinstance(redact(text), str)


def test_hostile_text_costs_no_time() -> None:
    """Patterns that take quadratic time would let a provider stop the loop with one error message."""
    for piece in (
        "a-",
        "token",
        'code="',
        '"token"',
        "eyJaaaaaa.",
        "-----BEGIN PRIVATE KEY-----",
        "://",
        "Bearer ",
        "\\",
    ):
        code = f"from tokenproxy.log import redact; redact({piece!r} * (65536 // {len(piece)}))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=5)


def test_the_documentation_lists_every_event() -> None:
    """People write alerts and searches from that page."""
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| (.+?) \|$", re.MULTILINE)
    documented = {
        name: (level, says)
        for name, level, says in row.findall((ROOT / "docs/logs.md").read_text(encoding="utf-8"))
    }

    assert documented == {
        name: (logging.getLevelName(kind.level).lower(), kind.sentence) for name, kind in log.EVENTS.items()
    }


def test_every_event_in_the_code_is_on_the_list() -> None:
    """A typing mistake in a rare branch would otherwise be a KeyError on the worst day."""
    named = [
        (path.name, node.args[1].value)
        for path in (ROOT / "tokenproxy").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") == "event" or getattr(node.func, "attr", "") == "event")
        and len(node.args) == 2
        and isinstance(node.args[1], ast.Constant)
    ]

    assert named
    assert [each for each in named if each[1] not in log.EVENTS] == []
