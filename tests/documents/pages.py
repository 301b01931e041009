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

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED: Final = frozenset({"sh", "console"})
"""Languages of blocks that hold commands."""
NOT_RUN: Final = {
    "sudo": "changes the system",
    "docker": "needs a container engine",
    "kubectl": "needs a cluster",
    "pip": "downloads packages",
    "uv": "downloads packages",
    "nginx": "another program's",
    "caddy": "another program's",
    "envoy": "another program's",
}
"""Programs that make a block one that no test types."""
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


def left_out(block: Block) -> bool:
    """By a word before it, or by what it starts."""
    if block.language not in TYPED:
        return False
    return bool(block.not_run) or any(started(words) in NOT_RUN for words in commands(block.text))


def started(words: list[str]) -> str:
    """The program of a command, behind what it sets in the environment."""
    program = next((word for word in words if "=" not in word), "")
    return program.rpartition("/")[2]


def commands(text: str) -> list[list[str]]:
    """The words of each command, as far as a shell's grammar can be read by a few rules."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\$ ", "", text, flags=re.MULTILINE)).splitlines()
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that ends on another line
            words = line.split()
        for end, each in itertools.groupby(words, key=lambda word: word in {"&&", "||", "|", ";"}):
            if not end:
                found.append(list(each))
    return found
