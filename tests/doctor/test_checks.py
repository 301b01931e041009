"""The list of checks: bounded, independent of one another, closed in their codes."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.doctor.cases import case_of
from tokenproxy import doctor
from tokenproxy.doctor import Case, Check, Finding
from tokenproxy.doctor.finding import good

FOLDER = Path(doctor.__file__).parent


def test_every_code_is_in_the_closed_list_and_used() -> None:
    """``explain`` knows each of them; one that nobody gives would be explained in vain."""
    used = {
        node.value
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.stem != "finding"
    }

    # The config that cannot be read is the command's own finding.
    assert set(doctor.CODES) - used == {"config_invalid"}
    said = {
        node.args[0].value
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"warn", "bad", "AskFailedError"}
        and isinstance(node.args[0], ast.Constant)
    }
    assert said <= set(doctor.CODES)


async def test_a_check_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """Neither one that waits in a thread, as for a dead disk, nor one that waits for a network."""
    never = threading.Event()

    def hangs(_: Case) -> Sequence[Finding]:
        never.wait(20)
        return []

    async def waits(_: Case) -> Sequence[Finding]:
        await asyncio.Event().wait()
        return []

    checks = [Check("disk", hangs), Check("far", waits), Check("near", lambda _: [good("near", "is fine")])]
    found = await doctor.examine(case_of(tmp_path, patience=-0.9), checks=checks)
    never.set()

    assert [(each.name, each.code) for each in found] == [
        ("disk", "check_timeout"),
        ("far", "check_timeout"),
        ("near", ""),
    ]


@pytest.mark.parametrize("error", [OSError(5, "planted-secret"), KeyError("planted-secret")])
async def test_a_check_that_breaks_is_a_finding(error: Exception, tmp_path: Path) -> None:
    def breaks(_: Case) -> Sequence[Finding]:
        raise error

    (found,) = await doctor.examine(case_of(tmp_path), checks=[Check("odd", breaks)])

    assert (found.level, found.code) == ("warn", "check_failed")
    assert "planted" not in f"{found}"


async def test_offline_leaves_out_what_asks_others(tmp_path: Path) -> None:
    found = await doctor.examine(case_of(tmp_path, offline=True))

    assert not [each for each in found if each.name.startswith(("provider", "upstream", "clock"))]
    assert {"version", "config", "store", "listener"} <= {each.name for each in found}
