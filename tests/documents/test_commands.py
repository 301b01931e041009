"""
Every command of README.md and of the pages in docs/ is typed here, in the order of its page.

What is not typed is said before its block, with the reason, and is one of the few kinds below; it is read by bash, and
the commands and options of tokenproxy in it must be there.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.documents.pages import (
    NOT_RUN,
    PAGES,
    ROOT,
    TYPED,
    Block,
    blocks,
    commands,
    left_out,
    name_of,
    started,
)
from tests.documents.reader import Reader
from tests.documents.scenes import SCENES
from tokenproxy.cli.root import COMMANDS, program

pytestmark = pytest.mark.timeout(180)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def acts(page: Path) -> list[tuple[str, list[Block]]]:
    """Scene -> its blocks, in order; commands without a scene belong to nobody."""
    wanted = [each for each in blocks(page) if each.file or (each.language in TYPED and not left_out(each))]
    return [(scene, list(each)) for scene, each in itertools.groupby(wanted, key=lambda block: block.scene)]


ACTS = [
    pytest.param(scene, each, id=f"{name_of(page)}: {scene or 'books'}")
    for page in PAGES
    for scene, each in acts(page)
    if any(block.language in TYPED for block in each)
]


@needs_curl
@pytest.mark.parametrize(("scene", "page_blocks"), ACTS)
async def test_what_a_page_says_works(scene: str, page_blocks: list[Block], tmp_path: Path) -> None:
    """By a reader who types all of it; no secret is printed on the way."""
    name, _, rest = (scene or "books").partition(" ")
    reader = Reader(tmp_path / "reader")
    reader.prepare()
    async with SCENES[name](reader, page_blocks, rest):
        try:
            for block in page_blocks:
                await reader.do(block)
        finally:
            await reader.leave()
    assert not [secret for secret in reader.secrets if secret in reader.printed]


@pytest.mark.parametrize(
    "block", [pytest.param(each, id=each.where) for page in PAGES for each in blocks(page) if left_out(each)]
)
def test_what_is_not_run_has_a_reason_and_can_be_read(block: Block) -> None:
    assert any(started(words) in NOT_RUN for words in commands(block.text)), block.where
    read = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (read.returncode, read.stderr) == (0, ""), block.where


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_of_tokenproxy_are_there(page: Path) -> None:
    """In every block and in running text alike."""
    text = page.read_text()
    typed = [each.text for each in blocks(page) if each.language in TYPED]
    spoken = re.findall(r"`(tokenproxy [^`\n]+)`", text)
    for words in itertools.chain.from_iterable(commands(each) for each in [*typed, *spoken]):
        check(words, page)


def test_benchmarks_and_their_options_are_there() -> None:
    """They take minutes to hours, so that they are looked up."""
    page = ROOT / "benchmarks/README.md"
    found = [words for each in blocks(page) if each.language in TYPED for words in commands(each.text)]
    started = [words[2:] for words in found if words[:2] == ["python", "-m"]]

    assert len(started) >= 10
    for module, *rest in started:
        path = ROOT / module.replace(".", "/")
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        for option in (word for word in rest if word.startswith("--")):
            assert f'"{option}"' in source, f"{module} {option}"


def check(words: list[str], page: Path) -> None:
    at = next((i for i, word in enumerate(words) if re.fullmatch(r"(\S*/)?tokenproxy", word)), None)
    if at is None or at + 1 == len(words):
        return
    rest = words[at + 1 :]
    command: click.Command | None = program
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if not re.fullmatch(r"[a-z]+", rest[0]):
            return  # COMMAND, ..., a key of a table
        found = command.get_command(click.Context(command), rest[0])
        if found is None and command is program and not _looks_typed(rest):
            return
        assert found is not None, f"{page.name}: tokenproxy {' '.join(rest)}"
        command, rest = found, rest[1:]
    if not isinstance(command, click.Command) or "--" in rest:
        rest = rest[: rest.index("--")] if "--" in rest else rest
    known = (
        {name for each in command.params for name in (*each.opts, *each.secondary_opts)} if command else set()
    )
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in {*known, "--help", "--version"}, (
                f"{page.name}: {' '.join(words)}"
            )


def _looks_typed(rest: list[str]) -> bool:
    """``docker build -t tokenproxy .`` names an image."""
    return rest[0] in COMMANDS
