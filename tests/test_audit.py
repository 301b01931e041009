"""The audit log as a file: every line whole, none with a secret, and a disk that takes none or an attacker who writes much."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenproxy import audit, log
from tokenproxy.audit import ACTOR, EVENTS, MOST, Actor, AuditLog, Refusals
from tokenproxy.core.settings import Audit
from tokenproxy.errors import TokenproxyError

ROOT = Path(__file__).parent.parent
_log = logging.getLogger("tokenproxy")


@contextmanager
def writing(file: Path | str, **more: Any) -> Iterator[AuditLog]:
    counts = {"written": 0, "lost": 0}
    found = AuditLog(Audit(file=str(file), **more), monotonic=lambda: 0.0, counts=counts)
    audit.use(found)
    try:
        yield found
    finally:
        audit.use(None)
        found.close()


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_of_the_log_is_a_line_with_who_asked(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    before = ACTOR.set(Actor("socket:uid=7", "pid=9", "r1"))
    with writing(file):
        log.event(_log, "token_imported", account="books/anna", generation=3)
        log.event(_log, "request", route="books")  # not of this log
        log.event(_log, "login_failed", account="books", reason="expired", detail=None)
    ACTOR.reset(before)

    imported, failed = lines_of(file)
    assert list(imported) == [
        "time", "event", "account", "actor", "peer", "caller", "result", "reason", "request_id", "pid", "generation",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", imported.pop("time"))
    assert imported == {
        "event": "token_imported", "account": "books/anna", "actor": "socket:uid=7", "peer": "pid=9", "caller": "",
        "result": "ok", "reason": "", "request_id": "r1", "pid": os.getpid(), "generation": 3,
    }  # fmt: skip
    assert (failed["result"], failed["reason"]) == ("failed", "expired")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_quiet_log_hides_nothing_from_it(tmp_path: Path) -> None:
    """Whoever sets ``log.level = "error"`` did not mean this one."""
    file = tmp_path / "audit.jsonl"
    level = _log.level
    _log.setLevel("ERROR")
    try:
        with writing(file):
            log.event(_log, "key_rotated", resealed=1, key_id="1f3a")
    finally:
        _log.setLevel(level)

    assert [line["event"] for line in lines_of(file)] == ["key_rotated"]


def test_planted_secrets_are_in_no_line(tmp_path: Path) -> None:
    """Exact values that are registered, and what looks like one that nobody registered."""
    file = tmp_path / "audit.jsonl"
    secret = "pl4nted-s3cret-of-this-test"
    log.register_secret(secret)
    try:
        with writing(file):
            log.event(_log, "login_failed", account="books", detail=f"the provider said {secret}")
            log.event(_log, "login_failed", account="books", detail="Authorization: Bearer abcdef123456")
            log.event(_log, "config_reload_failed", client_secret="not-registered-anywhere")
            log.event(
                _log, "renewal_failed", account=secret, reason="https://h/cb?code=c0de12345&state=st4te"
            )
            audit.record("admin_call", call=f"PUT {secret}", reason={"refresh_token": "r3fresh-99"})
    finally:
        log.forget(secret)

    text = file.read_text()
    for each in (secret, "abcdef123456", "not-registered-anywhere", "c0de12345", "st4te", "r3fresh-99"):
        assert each not in text
    assert len(lines_of(file)) == 5


def test_no_text_can_forge_a_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with writing(file):
        log.event(_log, "login_failed", account='a"}\n{"event":"token_imported', reason="x\r\ny\u2028z")
        log.event(_log, "login_failed", event="stopped", pid=1, time="0", account="books")

    assert [line["event"] for line in lines_of(file)] == ["login_failed"]
    assert len(file.read_bytes().splitlines()) == 1


def test_logrotate_moves_it_away_and_asks_for_another(tmp_path: Path) -> None:
    file, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    with writing(file) as found:
        log.event(_log, "started")
        until(lambda: file.read_text().count("\n") == 1)
        file.rename(old)
        log.event(_log, "stopping")
        until(lambda: old.read_text().count("\n") == 2)
        found.reopen()
        until(file.exists)
        log.event(_log, "stopped")

    assert [line["event"] for line in lines_of(old)] == ["started", "stopping"]
    assert [line["event"] for line in lines_of(file)] == ["stopped"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def until(true: Any) -> None:
    """The thread's work has no other way to be waited for."""
    pause = threading.Event()
    for _ in range(1000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


def test_what_cannot_be_written_is_one_sentence_at_the_start(tmp_path: Path) -> None:
    open_to_others = tmp_path / "open.jsonl"
    open_to_others.touch()
    open_to_others.chmod(0o666)
    for file, words in (
        (tmp_path / "none" / "a", "cannot be opened: No such file"),
        (tmp_path, "cannot be opened: Is a directory"),
        (open_to_others, "can be changed by others"),
    ):
        with pytest.raises(TokenproxyError, match=words) as caught:
            AuditLog(Audit(file=str(file)), monotonic=lambda: 0.0)
        assert caught.value.next_step


def test_a_full_disk_is_told_and_waits_and_loses_only_what_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``/dev/full`` is one that takes nothing; then there is room again under the same name."""
    monkeypatch.setattr(audit, "WAITING", 5)
    monkeypatch.setattr(audit, "AGAIN", 0.02)
    file = tmp_path / "audit.jsonl"
    file.symlink_to("/dev/full")
    with writing(file, required=True) as found:
        for number in range(8):
            log.event(_log, "token_imported", account=f"a{number}")
        until(lambda: found.failing)
        assert audit.unavailable() == "No space left on device"
        file.unlink()
        found.reopen()
        until(lambda: not audit.unavailable())

    told = [record.message for record in caplog.records]
    assert told.count("audit_failed") == 1
    lines = lines_of(file)
    assert [line["account"] for line in lines[:5]] == ["a0", "a1", "a2", "a3", "a4"]
    assert [(line["event"], line["lost"]) for line in lines[5:]] == [("audit_gap", 3)]


def test_who_does_not_require_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AGAIN", 0.02)
    monkeypatch.setattr(audit, "PATIENCE", 0.5)
    with writing("/dev/full") as found:
        log.event(_log, "started")
        until(lambda: found.failing)
        assert audit.unavailable() == ""


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills in the middle of one: what is there of it is a line of its own."""
    monkeypatch.setattr(audit, "AGAIN", 0.02)
    file = tmp_path / "audit.jsonl"
    room = [30, 0]
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if room:
            taken = room.pop(0)
            if not taken:
                raise OSError(28, "No space left on device")
            return real(descriptor, bytes(data)[:taken])
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with writing(file):
        log.event(_log, "started")
        log.event(_log, "stopped")
        until(lambda: file.exists() and '"stopped"' in file.read_text())

    first, *rest = file.read_text().splitlines()
    assert len(first) == 30
    assert [json.loads(line)["event"] for line in rest] == ["started", "stopped"]


def test_every_line_is_on_the_disk_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with writing(tmp_path / "a", fsync=True):
        log.event(_log, "started")
    assert len(synced) == 1
    with writing(tmp_path / "b"):
        log.event(_log, "started")
    assert len(synced) == 1


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals_of_one_kind_are_two_lines_a_minute() -> None:
    refusals, one = Refusals(), {"reason": "host_refused", "peer": "10.0.0.1"}

    assert [refusals.first(one, now) for now in (0, 1, 2)] == [True, False, False]
    assert refusals.first({**one, "peer": "10.0.0.2"}, 3)
    assert refusals.over(59) == []
    assert refusals.over(61) == [{**one, "times": 2}]
    assert refusals.first(one, 62), "a new minute"


def test_an_attacker_with_many_addresses_is_one_kind() -> None:
    refusals = Refusals()
    told = [
        refusals.first({"reason": "host_refused", "peer": f"10.0.{n // 250}.{n % 250}"}, 0)
        for n in range(9000)
    ]

    assert sum(told) == MOST
    ended = refusals.over(61)
    assert ended == [{"reason": "host_refused", "peer": "many", "times": 9000 - MOST}]


def test_a_flood_of_refusals_is_a_few_lines(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with writing(file):
        for number in range(20_000):
            peer = f"10.{number % 200}.0.1"
            audit.record("caller_refused", code="caller_unauthorized", peer=peer, actor="caller")
        for _ in range(1000):
            log.event(_log, "sign_in_refused")

    lines = lines_of(file)
    assert len(lines) <= 2 * MOST + 2
    for event, all_of_them in (("caller_refused", 20_000), ("sign_in_refused", 1000)):
        found = [line for line in lines if line["event"] == event]
        assert sum(line.get("times", 1) for line in found) == all_of_them
        assert {line["result"] for line in found} == {"refused"}


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_documentation_lists_every_event() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+|-) \| (.*) \|$", (ROOT / "docs/audit.md").read_text(), re.MULTILINE
    )

    assert {name: (result.replace("-", ""), says) for name, result, says in rows if name in EVENTS} == {
        name: (kind.result, kind.sentence) for name, kind in EVENTS.items()
    }


def test_every_event_is_one_of_the_log_or_written_by_name() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tokenproxy").rglob("*.py"))
    own = set(re.findall(r'(?:audit|self)\.record\(\s*"(\w+)"|_line\("(\w+)"', sources))
    named = {name for pair in own for name in pair if name}

    assert EVENTS.keys() - log.EVENTS.keys() <= named
    assert named <= EVENTS.keys()
