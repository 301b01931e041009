"""``explain`` knows every code there is, and nothing else; settings are those of the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.cli.program import ROOT
from tokenproxy import doctor, log
from tokenproxy.admin import api, problems
from tokenproxy.cli import explaining
from tokenproxy.config.models import NAMED
from tokenproxy.config.page import described
from tokenproxy.config.reference import every_setting
from tokenproxy.core.account import Reason, State
from tokenproxy.core.explanations import KINDS, explanations
from tokenproxy.core.problems import BODY_NOT_REPLAYABLE, PROBLEMS
from tokenproxy.oauth.landings import ENDINGS

TABLE = explanations()


def of(kind: str) -> set[str]:
    return {each.code for each in TABLE.values() if kind in each.kinds}


def admin_codes() -> set[str]:
    """Those of errors, and those that the admin side's modules write out (``refuse(409, "code", ...)``)."""
    folder = ROOT / "tokenproxy/admin"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    written = re.findall(r"refuse\(\s*\d+,\s*\"(\w+)\"", text) + re.findall(
        r"return\s+\(?\s*\"([a-z]+_[a-z_]+)\",", text
    )
    return {answer.code for answer in problems.ANSWERS.values()} | {code for code, _ in api._HTTP_ERRORS.values()} | {
        "bad_request", *written}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("answer", {*PROBLEMS, BODY_NOT_REPLAYABLE}),
        ("admin", admin_codes()),
        ("state", {state.value for state in State}),
        ("reason", {reason.value for reason in Reason if reason.value}),
        ("event", set(log.EVENTS)),
        ("finding", set(doctor.CODES)),
        ("ending", set(ENDINGS)),
        ("exit", {"0", "1", "2", "3", "4", "5", "6", "130"}),
    ],
)
def test_every_code_is_explained_and_no_other(kind: str, codes: set[str]) -> None:
    """A code that a person reads at night and that nothing explains is half an error message."""
    lacks, has = sorted(codes - of(kind)), sorted(of(kind) - codes)
    assert (lacks, has) == ([], []), f"core/explanations.toml lacks {lacks} as {kind}, and has {has} too much"


def test_every_explanation_is_whole_and_every_kind_has_a_name() -> None:
    for each in TABLE.values():
        assert set(each.kinds) <= set(KINDS)
        assert each.kinds, each.code
        for text in (each.cause, each.itself, each.person):
            assert len(text) > 3, each.code
            assert "\n" not in text


def test_the_error_page_leads_to_it_and_commands_in_it_exist() -> None:
    from tokenproxy.cli.root import program

    text = "\n".join(f"{each.itself} {each.person}" for each in TABLE.values())
    named = set(re.findall(r"tokenproxy ([a-z]+)", text))

    assert "tokenproxy explain" in (ROOT / "docs/errors.md").read_text()
    assert named <= set(program.every_command())


def test_a_code_is_told_in_three_parts(here: Here) -> None:
    ended = here("explain", "login_required")

    assert ended.code == 0
    assert ended.out.startswith("login_required   answer to callers, ")
    for lead in ("\n  why        ", "\n  by itself  ", "\n  you        tokenproxy login ACCOUNT"):
        assert lead in ended.out
    assert json.loads(here("explain", "LOGIN-REQUIRED", "--json").out)["code"] == "login_required"
    assert "An account needs a login." in here("explain", "3").out


def test_it_needs_no_config_and_lists_what_can_be_asked(tmp_path: Path, here: Here) -> None:
    ended = here("explain")
    told = json.loads(here("explain", "--json").out)

    assert not list(tmp_path.iterdir())
    assert ended.code == 0
    assert all(code in ended.out for code in TABLE)
    assert {each["code"] for each in told["codes"]} == set(TABLE)


def test_a_setting_is_told_by_its_key_or_the_end_of_it(here: Here) -> None:
    whole = here("explain", "config", "store.url")
    named = here("explain", "config", "routes.books.upstream")
    short = here("explain", "config", "spool")

    assert whole.out.startswith('store.url   text, default: "sqlite:tokenproxy.db"\n')
    assert named.out.startswith("routes.NAME.upstream   text, default: required\n")
    assert short.out.startswith("store.spool ")
    assert len(json.loads(here("explain", "config", "store", "--json").out)["settings"]) > 5


def test_tables_with_names_of_the_operator_s_choice_are_those_of_the_code() -> None:
    assert set(NAMED) == explaining._NAMED


def test_settings_are_those_of_the_code() -> None:
    """The page is compared with the models elsewhere; this is what reading it gives."""
    assert set(described()) == {setting.path for setting in every_setting()}
    assert all(each.meaning for each in described().values())


@pytest.mark.parametrize(
    ("words", "says", "step"),
    [
        (("logn_required",), "Did you mean 'login_required'?", "tokenproxy explain"),
        (("config", "store.ur"), "Did you mean 'store.url'?", "tokenproxy explain config"),
        (("3", "4"), "one code at a time", "tokenproxy explain 3"),
    ],
)
def test_what_nobody_knows_is_a_sentence_and_a_next_step(
    words: tuple[str, ...], says: str, step: str, here: Here
) -> None:
    ended = here("explain", *words)

    assert ended.code == 2
    assert says in ended.err
    assert f"Next:  {step}\n" in ended.err


def test_the_wheel_carries_the_settings_page() -> None:
    """An installed program has no docs/ beside it."""
    text = (ROOT / "pyproject.toml").read_text()

    assert '"docs/config.md" = "tokenproxy/config/settings.md"' in text
    assert "COPY docs/config.md" in (ROOT / "Dockerfile").read_text()
