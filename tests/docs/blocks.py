"""The code blocks of a page, and how each of them is run.

A page is one program: its blocks run in order, in an empty folder, against a sandbox. Python
blocks share their names and may `await`; shell blocks are run by bash. Two comments steer it:

    <!-- not run: REASON -->      the next block is left out
    <!-- first: CODE -->          Python code that a reader does not need to see
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

LANGUAGES: dict[str, Literal["python", "shell"]] = {
    "python": "python",
    "py": "python",
    "sh": "shell",
    "bash": "shell",
    "console": "shell",
}

PATTERN = re.compile(
    r"<!-- (?P<kind>not run|first):\s(?P<note>.*?) ?-->"
    r"|^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One piece of code to run.

    Attributes:
        line: Its first line in the page.
        language: What runs it.
        text: The code.
    """

    line: int
    language: Literal["python", "shell"]
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that are to be run, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    left_out = False
    for match in PATTERN.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        if match["kind"] == "not run":
            assert match["note"].strip(), f"{page}:{line}: say why the block is not run"
            left_out = True
        elif match["kind"] == "first":
            found.append(Block(line, "python", inspect.cleandoc(match["note"])))
        elif language := LANGUAGES.get(match["language"]):
            if not left_out:
                found.append(Block(line, language, inspect.cleandoc(match["text"])))
            left_out = False
        else:
            left_out = False
    return found


async def run_python(block: Block, page: Path, names: dict[str, object]) -> None:
    """Run a Python block with the names of the blocks before it."""
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
