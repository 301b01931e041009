"""
What a page asks its reader to do, in order: files to write, commands to type.

Comments that a reader does not see say how a test plays the reader::

    <!-- scene: provider deskera -->    what there is, from here on: a folder of its own, and what scenes.py has under the name
    <!-- file: config.toml -->          the next block is written there (``add to:``: behind what is there already)
    <!-- typed: secret-1 -->            what the next block's commands find on their standard input
    <!-- exit: 3 -->                    how the next block ends; else 0
    <!-- before: COMMAND -->            what a reader has done already, and the page need not say
    <!-- stays: TEXT -->                the next block is a program that goes on, and is there when it has printed this
    <!-- not run: REASON -->            the next block is only looked at
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED: Final = frozenset({"sh", "console"})
"""Languages of blocks that hold commands."""
_PIECE: Final = re.compile(
    r"^ *<!-- (?P<word>[a-z ]+): (?P<rest>.*?) -->$|^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_WORDS: Final = frozenset({"scene", "file", "add to", "typed", "exit", "before", "stays", "not run"})


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    scene: str = ""
    file: str = ""
    added: bool = False
    typed: str = ""
    exit: int = 0
    before: str = ""
    stays: str = ""
    not_run: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}, line {self.line}"

    @property
    def steps(self) -> Iterator[tuple[str, str | None]]:
        """Commands, each with what the page says that it prints, or None where it does not say."""
        if self.language != "console":
            yield self.text, None
            return
        for step in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, printed = step.partition("\n")
            while command.endswith("\\"):
                more, _, printed = printed.partition("\n")
                command = f"{command}\n{more.removeprefix('> ')}"
            yield command, printed


def name_of(page: Path, root: Path = ROOT) -> str:
    return str(page.relative_to(root))


def blocks(page: Path, root: Path = ROOT) -> list[Block]:
    """Every block of a page, with what the comments before it say."""
    text, found, scene, said = page.read_text(), [], "", dict[str, str]()
    for piece in _PIECE.finditer(text):
        line = text.count("\n", 0, piece.start()) + 1
        word = piece["word"]
        if word == "scene":
            scene = piece["rest"]
        elif word in _WORDS:
            said[word] = piece["rest"]
        elif word is None:
            found.append(
                Block(
                    page=name_of(page, root),
                    line=line,
                    language=piece["language"],
                    text=dedent(piece["text"]),
                    scene=scene,
                    file=said.get("file", said.get("add to", "")),
                    added="add to" in said,
                    typed=said.get("typed", ""),
                    exit=int(said.get("exit", "0")),
                    before=said.get("before", ""),
                    stays=said.get("stays", ""),
                    not_run=said.get("not run", ""),
                )
            )
            said = {}
    return found
